"""The processes of a lab, as its PID 1 sees them: those it started and the orphans it must reap."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Any

from attrs import define, field

from calico_node.linux.namespaces import run_in_netns, run_in_thread


@define(eq=False)
class Child:
    """A process started here; ``exited`` carries its exit status (negative: the signal that ended it)."""

    pid: int
    exited: asyncio.Future[int]

    @property
    def running(self) -> bool:
        return not self.exited.done()

    def signal(self, number: int) -> None:
        if self.running:
            os.kill(self.pid, number)

    async def stop(self, grace: float = 5.0) -> int:
        """SIGTERM, and SIGKILL after ``grace`` seconds; the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(asyncio.shield(self.exited), grace)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.exited


@define
class Children:
    """Starts processes and reaps everything that dies in the PID namespace.

    Statuses are collected by ``waitpid(-1)``; one that arrives before its process is registered is kept for it.
    """

    _known: dict[int, Child] = field(factory=dict, init=False)
    _early: dict[int, int] = field(factory=dict, init=False)
    _starting: int = field(default=0, init=False)

    def install(self) -> None:
        """Reap on SIGCHLD from now on; the event loop must be running."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    async def start(
        self,
        arguments: Sequence[str],
        *,
        environ: Mapping[str, str],
        netns: str = "",
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.DEVNULL,
        stderr: int | IO[Any] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start ``arguments`` in a session of its own, in the network namespace ``netns`` (a path; "" for ours).

        Raises ``OSError`` when it cannot be started.
        """

        def popen() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                list(arguments),
                env=dict(environ),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )

        self._starting += 1
        try:
            process = await (run_in_netns(netns, popen) if netns else run_in_thread(popen))
            child = Child(process.pid, asyncio.get_running_loop().create_future())
            # The status is ours to collect; Popen must not wait for it.
            process.returncode = 0
            if child.pid in self._early:
                child.exited.set_result(self._early.pop(child.pid))
            else:
                self._known[child.pid] = child
            return child
        finally:
            self._starting -= 1
            if not self._starting:
                self._early.clear()

    async def output(
        self, arguments: Sequence[str], *, environ: Mapping[str, str], netns: str = "", stdin: bytes = b""
    ) -> tuple[int, bytes, bytes]:
        """Run to the end: exit status, standard output and standard error.  ``stdin`` must fit a pipe (64 KiB)."""
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = pipes
        try:
            os.write(in_write, stdin)
            os.close(in_write)
            child = await self.start(
                arguments, environ=environ, netns=netns, stdin=in_read, stdout=out_write, stderr=err_write
            )
        finally:
            for fd in (in_read, out_write, err_write):
                os.close(fd)
        output, errors = await asyncio.gather(_read_all(out_read), _read_all(err_read))
        return await child.exited, output, errors

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            child = self._known.pop(pid, None)
            if child is not None:
                if not child.exited.done():
                    child.exited.set_result(code)
            elif self._starting:
                self._early[pid] = code


async def _read_all(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    try:
        return await reader.read()
    finally:
        transport.close()
