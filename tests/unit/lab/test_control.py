"""The control protocol: progress, results, errors, descriptors, and clients that go away."""

import asyncio
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from calico_node.errors import CalicoError, LabError
from calico_node.lab.control import Answer, ControlServer, Progress, call


async def count(request: Mapping[str, Any], progress: Progress) -> Any:
    for number in range(request["to"]):
        progress("counting", number + 1, request["to"])
        await asyncio.sleep(0)
    return {"sum": request["to"]}


async def refuse(request: Mapping[str, Any], progress: Progress) -> Any:
    raise CalicoError("Pod(a/b): no")


async def stumble(request: Mapping[str, Any], progress: Progress) -> Any:
    raise KeyError("x")


async def give(request: Mapping[str, Any], progress: Progress) -> Any:
    read, write = os.pipe()
    os.write(write, b"hello")
    os.close(write)
    return Answer({"ok": True}, [read])


def with_server(path: Path, work: Any, **handlers: Any) -> Any:
    async def body() -> Any:
        server = asyncio.create_task(ControlServer(path, handlers).serve())
        try:
            return await asyncio.to_thread(work)
        finally:
            server.cancel()

    return asyncio.run(body())


def test_progress_comes_before_the_result(tmp_path: Path) -> None:
    path = tmp_path / "s"
    seen: list[tuple[str, int, int]] = []
    result, fds = with_server(
        path, lambda: call(path, {"op": "count", "to": 3}, lambda *report: seen.append(report)), count=count
    )
    assert (result, fds) == ({"sum": 3}, [])
    assert seen == [("counting", 1, 3), ("counting", 2, 3), ("counting", 3, 3)]


@pytest.mark.parametrize(
    ("op", "words"), [("refuse", r"^Pod\(a/b\): no$"), ("stumble", "KeyError"), ("dance", "unknown operation")]
)
def test_errors_reach_the_client_in_words(tmp_path: Path, op: str, words: str) -> None:
    path = tmp_path / "s"
    with pytest.raises(LabError, match=words):
        with_server(path, lambda: call(path, {"op": op}), refuse=refuse, stumble=stumble)


def test_descriptors_travel(tmp_path: Path) -> None:
    path = tmp_path / "s"
    result, fds = with_server(path, lambda: call(path, {"op": "give"}), give=give)
    assert result == {"ok": True}
    assert os.read(fds[0], 10) == b"hello"
    os.close(fds[0])


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no lab is up"):
        call(tmp_path / "none", {"op": "x"})


def test_work_ends_when_its_client_does(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def body() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def forever(request: Mapping[str, Any], progress: Progress) -> Any:
            began.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        server = asyncio.create_task(ControlServer(path, {"forever": forever}).serve())
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(path))
            sock.sendall(b'{"op": "forever"}\n')
            await asyncio.wait_for(began.wait(), 5)
        await asyncio.wait_for(ended.wait(), 5)
        server.cancel()

    asyncio.run(body())


def test_nonsense_does_not_end_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def work() -> Any:
        for data in (b"nonsense\n", b"", b"[1]\n", b"{}\n"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(str(path))
                sock.sendall(data)
        return call(path, {"op": "count", "to": 1})

    assert with_server(path, work, count=count)[0] == {"sum": 1}
