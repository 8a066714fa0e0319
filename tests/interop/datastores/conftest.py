"""A real etcd on loopback, that tests may stop and start."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def etcdctl(endpoint: str, *arguments: str | bytes) -> str:
    """What the real client says; it fails the test when it fails."""
    command = [b"etcdctl", b"--endpoints", endpoint.encode()]
    command += [item if isinstance(item, bytes) else item.encode() for item in arguments]
    result = subprocess.run(command, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"}, timeout=20)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode(errors="replace")


class Etcd:
    """One member; ``endpoint`` is ``address:port``, the data stay over a restart.

    ``options`` are etcd's own; ``scheme`` and ``health`` (whether to wait until it serves clients without a
    certificate) are for servers with TLS.
    """

    def __init__(
        self, program: str, folder: Path, options: Sequence[str] = (), *, scheme: str = "http", health: bool = True
    ) -> None:
        self.endpoint = f"127.0.0.1:{free_port()}"
        self._health = health
        client, peer = f"{scheme}://{self.endpoint}", f"http://127.0.0.1:{free_port()}"
        self._folder = folder
        self._peer = peer
        # etcd 3.4 takes a name and a port, and makes a socket called so in its working directory.
        self.socket = folder / "sock:0"
        self._log = folder / "log"
        self._command = [
            program, "--name", "test", "--data-dir", str(folder / "data"),
            "--listen-client-urls", f"{client},unix://{self.socket.name}", "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"test={peer}",
            *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)  # what a killed etcd leaves keeps the next one from listening
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._folder)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            if not self._health and b"serving client requests" in self._log.read_bytes():
                return
            try:
                with urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=1) as answer:
                    if b"true" in answer.read():
                        return
            except OSError:
                time.sleep(0.05)
        pytest.fail(f"etcd did not start: {self._log.read_text()[-2000:]}")

    def wipe(self) -> None:
        """Its data are lost; the next start makes a fresh one."""
        shutil.rmtree(self._folder / "data")

    def restore(self, snapshot: Path) -> None:
        """Its data are what ``etcdctl snapshot save`` wrote; the cluster keeps its id."""
        self.wipe()
        etcdctl(
            self.endpoint, "snapshot", "restore", str(snapshot), "--name", "test", "--data-dir",
            str(self._folder / "data"), "--initial-advertise-peer-urls", self._peer, "--initial-cluster",
            f"test={self._peer}",
        )  # fmt: skip

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@pytest.fixture(scope="module")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    program = shutil.which("etcd")
    if program is None:
        pytest.fail("etcd is not installed: apt-get install etcd-server")
    server = Etcd(program, tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def etcd(etcd_server: Etcd) -> str:
    """The address of a fresh etcd."""
    return etcd_server.endpoint
