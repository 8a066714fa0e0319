"""The Unix socket the executables connect to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import structlog

from calico_node.errors import CalicoError, CNIError
from calico_node.plugins.cni.protocol import INTERNAL, Call, error_json

log = structlog.get_logger(__name__)

MAX_REQUEST = 4 * 1024 * 1024
READ_TIMEOUT = 10.0
"""Seconds a connected client has to state its request."""
_BACKLOG = 512
_ACCEPT_RETRY = 0.2
"""Seconds until accepting that failed is tried again."""
_PEER = struct.Struct("=3i")


class Server:
    """Accepts calls at ``path`` from uid 0 of this user namespace and answers them with ``perform``."""

    def __init__(self, path: Path, perform: Callable[[Call], Awaitable[bytes]]) -> None:
        self._path = path
        self._perform = perform

    async def serve(self, started: Callable[[], None]) -> None:
        """Work until cancelled; calls under way are cancelled with it.  Raises ``OSError`` when it cannot listen."""
        with self._listening() as listener:
            started()
            async with asyncio.TaskGroup() as calls:
                while True:
                    try:
                        connection = await _accept(listener)
                    except OSError as error:
                        # No descriptor is free, say: calls under way go on and give theirs back.
                        log.warning("a CNI call cannot be taken yet", error=str(error))
                        await asyncio.sleep(_ACCEPT_RETRY)
                        continue
                    calls.create_task(self._serve_one(connection))

    @contextlib.contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Bound under another name and then moved, so that the socket never stands there without its mode.
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.setblocking(False)
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            listener.bind(str(temporary))
            temporary.chmod(0o600)
            listener.listen(_BACKLOG)
            temporary.rename(self._path)
            try:
                yield listener
            finally:
                with contextlib.suppress(OSError):
                    self._path.unlink()

    async def _serve_one(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        loop = asyncio.get_running_loop()
        try:
            with connection:
                connection.setblocking(False)
                _, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
                if uid != 0:
                    log.warning("CNI call refused: the caller is not root", uid=uid)
                    return
                async with asyncio.timeout(READ_TIMEOUT):
                    request = await _receive(connection, descriptors)
                status, output = await self._answer(request, descriptors[0] if descriptors else None)
                await loop.sock_sendall(connection, f"{status} {len(output)}\n".encode() + output)
        except (OSError, TimeoutError) as error:
            log.warning("CNI client went away", error=str(error) or type(error).__name__)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    async def _answer(self, request: bytes, netns_fd: int | None) -> tuple[int, bytes]:
        version = "1.0.0"
        try:
            role, environment, config = parse_request(request)
            version = _version_of(config)
            return 0, await self._perform(Call.parse(role, environment, config, netns_fd))
        except CalicoError as error:
            log.warning("CNI call failed", error=str(error))
            return 1, error_json(version, error)
        except Exception as error:
            log.exception("CNI call failed")
            return 1, error_json(version, CNIError(INTERNAL, f"internal error: {error!r}"))


async def _accept(listener: socket.socket) -> socket.socket:
    """The next connection.  Raises ``OSError``.

    ``loop.sock_accept`` that is cancelled while a connection is coming in takes it and hands it to nobody; the client
    waits until somebody drops the error that this ends in.
    """
    while True:
        try:
            return listener.accept()[0]
        except BlockingIOError:
            await _readable(listener)


async def _receive(connection: socket.socket, descriptors: list[int]) -> bytes:
    """All the client sends; what descriptors came with it is appended to ``descriptors``."""
    data = bytearray()
    while True:
        try:
            part, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4 * 4))
        except BlockingIOError:
            await _readable(connection)
            continue
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors += struct.unpack(f"={len(payload) // 4}i", payload[: len(payload) // 4 * 4])
        if not part:
            return bytes(data)
        data += part
        if len(data) > MAX_REQUEST:
            raise OSError("the request is too large")


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection.fileno(), wake)
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())


def parse_request(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Role, environment and configuration of a client's request.  Raises ``CNIError``."""
    head, newline, body = request.partition(b"\n")
    words = head.split(b" ")
    if not newline or len(words) != 4 or words[0] != b"CNI1" or not (words[2].isdigit() and words[3].isdigit()):
        raise CNIError(INTERNAL, "the client speaks another protocol: it and the agent are of different releases")
    length = int(words[2])
    if len(body) != length + int(words[3]):
        raise CNIError(INTERNAL, "the client's request is cut short")
    environment: dict[str, str] = {}
    for pair in body[:length].split(b"\0"):
        name, _, value = pair.decode(errors="surrogateescape").partition("=")
        if name:
            environment[name] = value
    return words[1].decode(errors="replace"), environment, body[length:]


def _version_of(config: bytes) -> str:
    """The version to answer errors in, as far as it can be told."""
    try:
        data = json.loads(config)
        return next(str(value) for key, value in data.items() if key.lower() == "cniversion" and value)
    except (ValueError, AttributeError, StopIteration, RecursionError):
        return "1.0.0"
