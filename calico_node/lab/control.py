"""The supervisor's control protocol: JSON lines over a Unix socket.

A client sends one request, ``{"op": NAME, …}``; the supervisor answers with any number of
``{"progress": {"stage": TEXT, "done": N, "total": N}}`` and then one ``{"result": …}`` or ``{"error": TEXT}``.  An
answer to ``enter`` carries descriptors of the lab's namespaces beside its result (SCM_RIGHTS).
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
from attrs import define, field

from calico_node.errors import CalicoError, LabError

log = structlog.get_logger("lab")

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""

_MAX_DESCRIPTORS = 8


@define
class Answer:
    """A handler's result; ``descriptors`` travel with it and are closed afterwards."""

    result: Any
    descriptors: list[int] = field(factory=list)


Handler = Callable[[Mapping[str, Any], Progress], Awaitable[Any]]


class ControlServer:
    """Listens on ``path`` and calls the handler named by each request's ``op``."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(64)
        self._listener.setblocking(False)

    async def serve(self) -> None:
        """Serve until cancelled.  Clients can connect since this object was made."""
        loop = asyncio.get_running_loop()
        with self._listener as listener:
            while True:
                connection, _ = await loop.sock_accept(listener)
                task = asyncio.create_task(self._serve_one(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _serve_one(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with connection:
            try:
                await self._answer(connection)
            except (OSError, ValueError) as error:
                log.debug("a control connection ended early", error=str(error))

    async def _answer(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        request = json.loads(await _read_line(connection))
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        def progress(stage: str, done: int, total: int) -> None:
            queue.put_nowait({"progress": {"stage": stage, "done": done, "total": total}})

        handler = self._handlers.get(request.get("op", ""))
        if handler is None:
            await _send(loop, connection, {"error": f"unknown operation {request.get('op')!r}"})
            return
        work = asyncio.ensure_future(handler(request, progress))
        gone = asyncio.ensure_future(_until_closed(connection))
        getter = asyncio.ensure_future(queue.get())
        try:
            while not work.done() or not queue.empty():
                await asyncio.wait({work, getter, gone}, return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    await _send(loop, connection, getter.result())
                    getter = asyncio.ensure_future(queue.get())
                elif gone.done():
                    # The client was interrupted: what it asked for is not wanted any more.
                    work.cancel()
                    await asyncio.wait({work})
                    return
            await self._finish(loop, connection, work)
        finally:
            gone.cancel()
            getter.cancel()

    @staticmethod
    async def _finish(loop: asyncio.AbstractEventLoop, connection: socket.socket, work: asyncio.Future[Any]) -> None:
        try:
            result = work.result()
        except asyncio.CancelledError:
            await _send(loop, connection, {"error": "the lab is going down"})
        except CalicoError as error:
            await _send(loop, connection, {"error": str(error)})
        except Exception as error:
            log.exception("a request failed")
            await _send(loop, connection, {"error": f"{type(error).__name__}: {error} (see lab.log)"})
        else:
            if isinstance(result, Answer):
                line = json.dumps({"result": result.result}).encode() + b"\n"
                try:
                    connection.setblocking(True)
                    socket.send_fds(connection, [line], result.descriptors)
                finally:
                    for fd in result.descriptors:
                        os.close(fd)
            else:
                await _send(loop, connection, {"result": result})


async def _send(loop: asyncio.AbstractEventLoop, connection: socket.socket, message: dict[str, Any]) -> None:
    await loop.sock_sendall(connection, json.dumps(message).encode() + b"\n")


async def _read_line(connection: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts = []
    while True:
        data = await loop.sock_recv(connection, 1 << 20)
        if not data:
            raise ValueError("closed before a request was complete")
        parts.append(data)
        if data.endswith(b"\n"):
            return b"".join(parts)


async def _until_closed(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    try:
        while await loop.sock_recv(connection, 4096):
            pass
    except OSError:
        pass


def call(
    path: Path, request: Mapping[str, Any], progress: Progress | None = None, timeout: float | None = None
) -> tuple[Any, list[int]]:
    """Send ``request`` and wait, at most ``timeout`` seconds for each word; the result, and the descriptors that came
    with it.

    Raises ``LabError`` with the supervisor's own text, or when no lab answers.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(str(path))
        except OSError:
            raise LabError(f"no lab is up at {path.parent} (lab up starts one; --name chooses one)") from None
        sock.sendall(json.dumps(dict(request)).encode() + b"\n")
        buffer = b""
        descriptors: list[int] = []
        while True:
            try:
                data, received = _receive(sock)
            except TimeoutError:
                raise LabError(f"the lab did not answer within {timeout:g} s") from None
            except OSError:
                data, received = b"", []
            descriptors += received
            if not data:
                raise LabError("the lab went down before it answered")
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "progress" in message:
                    if progress is not None:
                        report = message["progress"]
                        progress(report["stage"], report["done"], report["total"])
                elif "error" in message:
                    raise LabError(message["error"])
                else:
                    return message["result"], descriptors


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    descriptors = array.array("i")
    data, ancillary, _, _ = sock.recvmsg(1 << 20, socket.CMSG_SPACE(_MAX_DESCRIPTORS * descriptors.itemsize))
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    return data, list(descriptors)
