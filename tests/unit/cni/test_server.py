"""The agent's CNI socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
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
    accept = server._accept
    refusals = [OSError(errno.EMFILE, "Too many open files")] * 3

    async def refuse_first(listener: socket.socket) -> socket.socket:
        if refusals:
            raise refusals.pop()
        return await accept(listener)

    monkeypatch.setattr(server, "_accept", refuse_first)
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


async def test_a_client_that_comes_as_the_agent_ends_is_not_kept_waiting(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, fault: faults.append(fault))
    path = tmp_path / "cni.sock"
    started = asyncio.Event()
    serving = asyncio.ensure_future(server.Server(path, perform).serve(started.set))
    await started.wait()
    await asyncio.sleep(0.01)
    ended, end = os.pipe()
    # Both are seen in one turn of the loop, the end first.
    loop.add_reader(ended, serving.cancel)
    os.write(end, b"x")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        await asyncio.gather(serving, return_exceptions=True)
        client.settimeout(5)
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
    loop.remove_reader(ended)
    os.close(ended)
    os.close(end)
    assert faults == []
