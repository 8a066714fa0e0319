"""The processes of a lab, as its PID 1 sees them: those it started and the orphans it must reap."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import IO, Any

import structlog
from attrs import define, field

from calico_node.linux.namespaces import run_in_netns, run_in_thread

log = structlog.get_logger("lab")

_RESTART_DELAY, _LONGEST_DELAY, _GOOD_RUN = 0.5, 10.0, 30.0
"""Seconds: what ends by itself is started again after the first, doubled up to the second; a run this long starts
that anew."""


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
        cwd: str | None = None,
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
                cwd=cwd,
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


@define(eq=False)
class Restarting:
    """A process that is started again whenever it ends by itself; ``starts`` counts how often it was started."""

    name: str
    _launch: Callable[[], Awaitable[Child]]
    child: Child | None = field(default=None, init=False)
    starts: int = field(default=0, init=False)
    last_exit: int | None = field(default=None, init=False)
    _unwanted: asyncio.Event = field(factory=asyncio.Event, init=False)
    _keeping: asyncio.Task[None] | None = field(default=None, init=False)

    @property
    def wanted(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._keeping is not None and not self._unwanted.is_set()

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.running

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self.child.pid if self.child is not None and self.child.running else None

    async def start(self) -> None:
        """Raises ``OSError`` when the process cannot be started."""
        self._unwanted.clear()
        self.child = await self._launch()
        self.starts += 1
        self._keeping = asyncio.create_task(self._keep(self.child))

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process and leave it ended.  SIGTERM becomes SIGKILL after some seconds."""
        self._unwanted.set()
        if self.child is not None:
            if number == signal.SIGTERM:
                await self.child.stop()
            else:
                self.child.signal(number)
                await self.child.exited
        if self._keeping is not None:
            await self._keeping
            self._keeping = None

    async def _keep(self, child: Child) -> None:
        delay = _RESTART_DELAY
        while True:
            started = asyncio.get_running_loop().time()
            self.last_exit = await child.exited
            if self._unwanted.is_set():
                return
            if asyncio.get_running_loop().time() - started > _GOOD_RUN:
                delay = _RESTART_DELAY
            log.warning("a process ended", process=self.name, status=self.last_exit, restart_in=delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._unwanted.wait(), delay)
            delay = min(delay * 2, _LONGEST_DELAY)
            if self._unwanted.is_set():
                return
            try:
                self.child = child = await self._launch()
            except OSError as error:
                log.warning("a process cannot be started", process=self.name, error=str(error))
                continue  # the one that ended has ended still
            self.starts += 1
            if self._unwanted.is_set():
                await child.stop()


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
