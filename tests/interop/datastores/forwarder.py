"""A TCP forwarder in front of a server, that a test lets hang, cut or come back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType


class Forwarder:
    """Listens on ``listen`` for ``host:port`` or the path of a Unix socket; an async context manager.

    ``hang()`` keeps every connection open, accepts new ones and carries nothing, as a partition does that no RST
    tells of; ``flow()`` ends that, with what was held back.  ``cut()`` resets all connections.
    """

    def __init__(self, target: str, listen: str = "127.0.0.1") -> None:
        self._listen = listen
        self._target = target
        self.address = ""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Forwarder:
        self._server = await asyncio.start_server(self._accepted, self._listen, 0)
        self.address = f"{self._listen}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()

    def hang(self) -> None:
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carriers: list[asyncio.Task[None]] = []
        self._writers.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            await self._flowing.wait()
            if self._target.startswith("/"):
                answers, there = await asyncio.open_unix_connection(self._target)
            else:
                host, _, port = self._target.rpartition(":")
                answers, there = await asyncio.open_connection(host, int(port))
            self._writers.add(there)
            carriers = [
                asyncio.create_task(self._carry(reader, there)),
                asyncio.create_task(self._carry(answers, writer)),
            ]
            await asyncio.wait(carriers, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        finally:
            for carrier in carriers:
                carrier.cancel()
            for end in filter(None, (writer, there)):
                end.transport.abort()
                self._writers.discard(end)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while content := await source.read(1 << 16):
                await self._flowing.wait()
                sink.write(content)
                await sink.drain()
