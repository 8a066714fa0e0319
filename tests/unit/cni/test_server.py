"""The agent's CNI socket."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from typing import Any

import pytest

from calico_node.plugins.cni import server
from calico_node.plugins.cni.protocol import Call

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def perform(call: Call) -> bytes:
    return b"OK\n"


async def test_calls_are_taken_again_once_there_are_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_ACCEPT_RETRY", 0.001)
    loop = asyncio.get_running_loop()
    accept = loop.sock_accept
    refusals = [OSError(errno.EMFILE, "Too many open files")] * 3

    async def refuse_first(listener: socket.socket) -> Any:
        if refusals:
            raise refusals.pop()
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", refuse_first)
    path = tmp_path / "run" / "cni.sock"
    started = asyncio.Event()
    serving = asyncio.ensure_future(server.Server(path, perform).serve(started.set))
    async with asyncio.timeout(5):
        await started.wait()
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write_eof()
        await reader.read()  # answered, and closed
        writer.close()
    assert not refusals
    assert not serving.done()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert not path.exists()
