"""How the supervisor talks to its two helpers, the responder and the prober: JSON lines over a socket pair.

A request is ``{"id": N, "op": NAME, …}``; when it is done the helper answers ``{"id": N, "result": …}`` or
``{"id": N, "error": TEXT}``, in any order, and may send ``{"id": N, "done": N, "total": N}`` before.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from calico_node.errors import LabError
from calico_node.lab.children import Child, Children

_LIMIT = 64 * 1024 * 1024

Tell = Callable[[int, int], None]
Handler = Callable[[Mapping[str, Any], Tell], Awaitable[Any]]


class Worker:
    """The supervisor's side of one helper process."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._waiting: dict[int, tuple[asyncio.Future[Any], Tell | None]] = {}
        self._number = 0
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.child: Child | None = None

    async def start(self, children: Children, environ: Mapping[str, str], log: int) -> None:
        """Start the process; ``log`` is the descriptor its standard error goes to."""
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [sys.executable, "-m", self._module, str(theirs.fileno())]
            self.child = await children.start(
                arguments, environ=environ, stderr=log, stdout=log, pass_fds=[theirs.fileno()]
            )
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_LIMIT)
        self._reading = asyncio.create_task(self._read(reader))

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.running

    async def ask(self, op: str, tell: Tell | None = None, **arguments: Any) -> Any:
        """Send a request and wait for its result.  Raises ``LabError``."""
        if self._writer is None or self._writer.is_closing():
            raise LabError(f"{self._module} is not running")
        self._number += 1
        number = self._number
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (future, tell)
        try:
            self._writer.write(json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n")
            await self._writer.drain()
            return await future
        except OSError:
            raise LabError(f"{self._module} ended") from None
        finally:
            del self._waiting[number]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                future, tell = self._waiting.get(message["id"], (None, None))
                if future is None or future.done():
                    continue
                if "total" in message:
                    if tell is not None:
                        tell(message["done"], message["total"])
                elif "error" in message:
                    future.set_exception(LabError(message["error"]))
                else:
                    future.set_result(message["result"])
        except OSError:
            pass
        if self._writer is not None:
            self._writer.close()
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(LabError(f"{self._module} ended"))


def raise_file_limit() -> None:
    """Allow as many open files as the hard limit does: one process holds the sockets of every pod."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(handlers: Mapping[str, Handler]) -> None:
    """The helper's side: answer requests on the descriptor named by the first argument until it closes."""
    raise_file_limit()
    sock = socket.socket(fileno=int(sys.argv[1]))
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_LIMIT)
    tasks: set[asyncio.Task[None]] = set()

    def send(message: Mapping[str, Any]) -> None:
        writer.write(json.dumps(dict(message)).encode() + b"\n")

    async def answer(request: Mapping[str, Any]) -> None:
        number = request["id"]
        try:
            result = await handlers[request["op"]](
                request, lambda done, total: send({"id": number, "done": done, "total": total})
            )
        except Exception as error:
            send({"id": number, "error": f"{type(error).__name__}: {error}"})
        else:
            send({"id": number, "result": result})

    while line := await reader.readline():
        task = asyncio.create_task(answer(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
