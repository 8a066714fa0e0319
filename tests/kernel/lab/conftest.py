"""Labs for the tests: each in a runtime folder of its own, taken down whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "calico_node.lab"]
EXAMPLES = Path(__file__).parents[3] / "examples"


class LabCommand:
    """Runs ``calico-node lab`` with ``runtime`` as the runtime folder."""

    def __init__(self, runtime: str) -> None:
        self.runtime = Path(runtime)
        self.environ = {**os.environ, "XDG_RUNTIME_DIR": runtime}

    def run(self, *arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def ok(self, *arguments: str, timeout: float = 90) -> str:
        done = self.run(*arguments, timeout=timeout)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def probe(self, probes: list[dict[str, Any]], name: str = "lab") -> list[dict[str, Any]]:
        file = self.runtime / "probes.json"
        file.write_text(json.dumps(probes))
        answers: list[dict[str, Any]] = json.loads(self.ok("probe", "--name", name, "--probes", str(file), "--json"))
        return answers

    def allowed(self, source: str, target: str, port: int, protocol: str = "TCP", name: str = "lab") -> bool:
        answer = self.probe([{"from": source, "to": target, "port": port, "protocol": protocol}], name)[0]
        return bool(answer["allowed"])

    def folder(self, name: str = "lab") -> Path:
        return self.runtime / "calico-node" / "lab" / name

    def processes(self) -> list[str]:
        """Command lines of everything that runs for labs in this runtime folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    environ = (entry / "environ").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                ours = str(self.runtime) in command or str(self.runtime) in environ
                if ours and "calico" in command:
                    found.append(command)
        return found

    def wait_gone(self, timeout: float = 10) -> None:
        """Nothing of any lab is left: no process, no file."""
        deadline = time.monotonic() + timeout
        while (self.processes() or (self.runtime / "calico-node").exists()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.processes() == []
        assert list(self.runtime.rglob("*.sock")) == []
        assert not (self.runtime / "calico-node").exists()

    def end(self) -> None:
        for folder in (self.runtime / "calico-node" / "lab").glob("*"):
            try:
                os.kill(int((folder / "keeper.pid").read_text()), signal.SIGTERM)
            except (OSError, ValueError):
                continue


@pytest.fixture(scope="module")
def shared() -> Iterator[LabCommand]:
    """A runtime folder for the tests of a module that share one lab."""
    with tempfile.TemporaryDirectory(prefix="cn", ignore_cleanup_errors=True) as runtime:
        command = LabCommand(runtime)
        yield command
        command.end()


@pytest.fixture
def lab() -> Iterator[LabCommand]:
    """A runtime folder of the test's own."""
    with tempfile.TemporaryDirectory(prefix="cn", ignore_cleanup_errors=True) as runtime:
        command = LabCommand(runtime)
        yield command
        command.end()
