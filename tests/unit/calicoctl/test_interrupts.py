"""Ctrl-C: the command ends by the signal, says nothing, and leaves no files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CALICOCTL = Path(sys.executable).with_name("calicoctl")


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(CALICOCTL), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CALICO_DATASTORE_PATH": f"{folder}/datastore.db", "TMPDIR": str(folder), **environment},
    )


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    return process.returncode, errors


def blocked_in(process: subprocess.Popen[str], call: str) -> None:
    """Wait until the process sleeps in a system call whose kernel function has ``call`` in its name."""
    deadline = time.monotonic() + 20
    while call not in Path(f"/proc/{process.pid}/wchan").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_command_ends_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "apply", "-f", "-")
    blocked_in(process, "pipe_read")
    assert interrupted(process) == (-signal.SIGINT, "")


def test_diagnostics_leave_no_folder(tmp_path: Path) -> None:
    """While it waits for a command of the host's, its collection is half there."""
    programs = tmp_path / "programs"
    programs.mkdir()
    slow = programs / "ss"
    slow.write_text("#!/bin/sh\nexec sleep 100\n")
    slow.chmod(0o755)
    process = start(tmp_path, "node", "diags", PATH=f"{programs}:{os.environ['PATH']}")
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("calico*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    status, errors = interrupted(process)
    assert (status, errors.strip()) == (130, "")
    assert list(tmp_path.glob("calico*")) == []
