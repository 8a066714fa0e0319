"""Somebody removes the write-ahead log, or its index, of a store that processes have open."""

# Small test files block nobody.
# ruff: noqa: ASYNC240

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from calico_node.datastores.embedded import EmbeddedEngine, copies
from calico_node.datastores.kv import Put
from calico_node.errors import DatastoreError
from tests.unit.datastores.test_embedded_copies import soon, stored

pytestmark = pytest.mark.anyio

REMOVED = [("-wal",), ("-shm",), ("-wal", "-shm")]
NODE = """
import asyncio, sys
from pathlib import Path
from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.errors import DatastoreError

async def main():
    engine = await EmbeddedEngine.open(Path(sys.argv[1]))
    print("open", flush=True)
    while (line := (await asyncio.to_thread(sys.stdin.readline)).strip()) != "close":
        try:
            await engine.put(line, b"node")
            print(len((await engine.range("/")).kvs), flush=True)
        except DatastoreError as error:
            print(error, flush=True)
    await engine.close()

asyncio.run(main())
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    return tmp_path / "datastore.db"


@pytest.fixture
async def node(path: Path) -> AsyncIterator[Process]:
    """Another process with the store open, which puts the key that it is told and says how many there are."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", NODE, str(path), stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    yield process
    if process.returncode is None:
        await tell(process, "close")
        await process.wait()


async def tell(process: Process, line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n".encode())
    return (await process.stdout.readline()).decode().strip()


async def put(process: Process, key: str) -> int:
    """Put ``key`` once the node goes on."""
    async with asyncio.timeout(10):
        while not (answer := await tell(process, key)).isdecimal():
            assert "or its log, has been moved away" in answer
            await asyncio.sleep(0.1)
    return int(answer)


def remove(path: Path, ends: tuple[str, ...]) -> None:
    for end in ends:
        path.with_name(path.name + end).unlink()


@pytest.mark.parametrize("ends", REMOVED)
async def test_nothing_is_lost_and_all_go_on_together(node: Process, path: Path, ends: tuple[str, ...]) -> None:
    engine = await EmbeddedEngine.open(path)
    await engine.txn([], [Put(f"/{number:02}", b"x" * 5000) for number in range(50)])
    assert await tell(node, "/node") == "51"
    remove(path, ends)
    assert await soon(lambda: engine.put("/engine", b"1"))
    assert await put(node, "/later") == 53
    await engine.close()
    newcomer = await EmbeddedEngine.open(path)
    await newcomer.put("/newcomer", b"1")
    assert await put(node, "/last") == 55
    assert len(await stored(newcomer)) == 55
    await newcomer.close()
    await tell(node, "close")
    await node.wait()
    with sqlite3.connect(path) as check:
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert check.execute("SELECT count(*) FROM live").fetchone() == (55,)
    check.close()


@pytest.mark.parametrize("ends", REMOVED[:2])
async def test_a_newcomer_waits_until_the_log_is_saved(
    node: Process, path: Path, tmp_path: Path, ends: tuple[str, ...]
) -> None:
    """It would find an older store, or none, and begin a log of its own."""
    assert await tell(node, "/a") == "1"
    node.send_signal(signal.SIGSTOP)  # it would look within a second
    remove(path, ends)
    message = f"removed while process {node.pid} has it open; it puts that right within seconds"
    with pytest.raises(DatastoreError, match=message):
        await EmbeddedEngine.open(path)
    with pytest.raises(DatastoreError, match=message):
        copies.backup(path, tmp_path / "copy")
    node.send_signal(signal.SIGCONT)

    async def newcomer() -> dict[str, bytes]:
        engine = await EmbeddedEngine.open(path)
        try:
            return await stored(engine)
        finally:
            await engine.close()

    assert await soon(newcomer) == {"/a": b"node"}


async def test_a_damaged_store_without_its_log_is_restored(node: Process, path: Path, tmp_path: Path) -> None:
    assert await tell(node, "/a") == "1"
    copies.backup(path, tmp_path / "copy")
    remove(path, ("-wal", "-shm"))
    path.write_bytes(b"rubbish" * 10_000)
    copies.restore(path, tmp_path / "copy", replace=True)
    assert await put(node, "/b") == 2
    engine = await EmbeddedEngine.open(path)
    assert set(await stored(engine)) == {"/a", "/b"}
    await engine.close()


async def test_a_store_whose_log_was_cut_is_restored(node: Process, path: Path, tmp_path: Path) -> None:
    assert await tell(node, "/a") == "1"
    copies.backup(path, tmp_path / "copy")
    os.truncate(path.with_name("datastore.db-wal"), 5000)
    restored = copies.restore(path, tmp_path / "copy", replace=True)
    assert restored.kept is not None
    assert await put(node, "/b") == 2


async def test_a_store_that_nobody_has_open_needs_no_log(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    await engine.put("/a", b"1")
    await engine.close()
    assert not path.with_name("datastore.db-wal").exists()
    engine = await EmbeddedEngine.open(path)
    assert await stored(engine) == {"/a": b"1"}
    await engine.close()
