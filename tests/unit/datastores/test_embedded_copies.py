"""Backup and restore of the embedded store, with engines that have it open."""

# Moving small test files about blocks nobody.
# ruff: noqa: ASYNC240

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from calico_node.datastores.embedded import EmbeddedEngine, copies
from calico_node.datastores.embedded.clock import Clock
from calico_node.datastores.kv import Compare, CompareTarget, Put
from calico_node.errors import Compacted, DatastoreError
from tests.unit.datastores.engine_suite import events_until
from tests.unit.datastores.test_embedded_processes import kill_after, start

pytestmark = pytest.mark.anyio

ALL = ("", "-wal", "-shm", "-lock")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "datastore.db"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy"


@pytest.fixture
async def engine(path: Path) -> AsyncIterator[EmbeddedEngine]:
    engine = await EmbeddedEngine.open(path)
    yield engine
    await engine.close()


def lose(path: Path) -> None:
    for end in ALL:
        path.with_name(path.name + end).unlink()


async def soon(ask: Callable[[], Awaitable[object]]) -> object:
    """What ``ask`` gives once the datastore is back."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await ask()
            except DatastoreError:
                await asyncio.sleep(0.05)


async def stored(engine: EmbeddedEngine) -> dict[str, bytes]:
    return {kv.key: kv.value for kv in (await engine.range("/")).kvs}


async def test_a_backup_holds_what_was_there(engine: EmbeddedEngine, path: Path, copy: Path) -> None:
    await engine.put("/a", b"1")
    revision = await engine.put("/b", b"2")
    contents = copies.backup(path, copy)
    assert (contents.keys, contents.revision) == (2, revision)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(os.listdir(copy.parent)) == ["copy", "store"]
    await engine.put("/a", b"3")
    before = copy.read_bytes()
    with pytest.raises(DatastoreError, match=r"exists already; --force"):
        copies.backup(path, copy)
    assert copy.read_bytes() == before
    assert copies.backup(path, copy, replace=True).revision == revision + 1


async def test_a_backup_during_writes_is_of_one_moment(path: Path, copy: Path) -> None:
    """Each transaction puts a key and counts it: the copy has as many keys as its count says."""
    writers = [await start(path, "write", number) for number in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        await writer.stdout.readline()
    for _ in range(5):
        await asyncio.to_thread(copies.backup, path, copy, replace=True)
        await asyncio.sleep(0.05)
        with sqlite3.connect(copy) as db:
            keys = [bytes(row[0]).decode() for row in db.execute("SELECT key FROM live")]
            counts = dict(db.execute("SELECT l.key, h.value FROM live l JOIN history h USING (id)"))
        db.close()
        for number in range(2):
            count = int(counts[f"/last/{number}".encode()])
            assert len([key for key in keys if key.startswith(f"/w/{number}/")]) == count + 1
    for writer in writers:
        assert await kill_after(writer, 0) >= 0


@pytest.mark.parametrize("name", ["store", "store/datastore.db", "store/datastore.db-wal", "store/datastore.db-lock"])
async def test_a_backup_never_writes_over_the_store(
    engine: EmbeddedEngine, path: Path, tmp_path: Path, name: str
) -> None:
    await engine.put("/a", b"1")
    with pytest.raises(DatastoreError, match=r"is a folder|belongs to the datastore itself"):
        copies.backup(path, tmp_path / name, replace=True)
    assert await stored(engine) == {"/a": b"1"}


async def test_there_is_nothing_to_back_up(path: Path, copy: Path) -> None:
    with pytest.raises(DatastoreError, match=r"datastore\.db: there is no datastore here"):
        copies.backup(path, copy)
    assert not path.parent.exists()
    assert not copy.exists()
    path.parent.mkdir()
    await (await EmbeddedEngine.open(path)).close()
    with pytest.raises(DatastoreError, match="missing/copy: No such file"):
        copies.backup(path, copy.with_name("missing") / "copy")


async def test_a_lost_store_comes_back_under_running_engines(engine: EmbeddedEngine, path: Path, copy: Path) -> None:
    others = [await EmbeddedEngine.open(path) for _ in range(2)]
    await engine.put("/a", b"1")
    await engine.put("/b", b"1")
    copies.backup(path, copy)
    last = await engine.put("/b", b"2")
    seen: list[str] = []
    watching = asyncio.create_task(_until_compacted(others[0], last + 1, seen))
    await asyncio.sleep(0.05)
    lose(path)
    await asyncio.sleep(2.5)
    with pytest.raises(DatastoreError, match=r"put it back, or a backup with 'calicoctl datastore restore FILE'"):
        await EmbeddedEngine.open(path)  # nor does anybody else begin anew
    restored = copies.restore(path, copy)
    assert restored.kept is None
    assert await soon(lambda: stored(engine)) == {"/a": b"1", "/b": b"1"}
    await watching
    assert seen == []
    for other in others:
        assert await soon(lambda other=other: stored(other)) == {"/a": b"1", "/b": b"1"}  # type: ignore[misc]
    start_revision = restored.revision + 1
    async with aclosing(others[1].watch("/", start_revision=start_revision)) as watch:
        assert await engine.put("/c", b"1") == start_revision
        assert [event.kv.key for event in await events_until(watch, start_revision)] == ["/c"]
    newcomer = await EmbeddedEngine.open(path)
    assert set(await stored(newcomer)) == {"/a", "/b", "/c"}
    for other in (*others, newcomer):
        await other.close()


async def test_a_lost_folder_is_told_and_comes_back(path: Path, copy: Path) -> None:
    engine, closed = await EmbeddedEngine.open(path), await EmbeddedEngine.open(path)
    await engine.put("/a", b"1")
    copies.backup(path, copy)
    shutil.rmtree(path.parent)
    with pytest.raises(DatastoreError, match=r"datastore\.db"):
        await engine.put("/a", b"2")
    await closed.close()
    copies.restore(path, copy)
    assert await soon(lambda: stored(engine)) == {"/a": b"1"}
    await engine.put("/a", b"3")
    await engine.close()


async def _until_compacted(engine: EmbeddedEngine, revision: int, seen: list[str]) -> None:
    """Watch as the syncer does: again and again, until the watch has to list anew."""
    while True:
        try:
            async for batch in engine.watch("/", start_revision=revision):
                seen += [event.kv.key for event in batch.events]
        except Compacted:
            return
        except DatastoreError:
            await asyncio.sleep(0.05)


async def test_a_store_in_use_is_replaced_in_one_commit(engine: EmbeddedEngine, path: Path, copy: Path) -> None:
    first = await engine.put("/a", b"1")
    copies.backup(path, copy)
    last = await engine.put("/a", b"2")
    await engine.put("/late", b"1")
    identity = engine.identity
    with pytest.raises(DatastoreError, match="there is a datastore already"):
        copies.restore(path, copy)
    assert (await stored(engine))["/a"] == b"2"
    watching = asyncio.create_task(_until_compacted(engine, last + 2, []))
    await asyncio.sleep(0.05)
    restored = copies.restore(path, copy, replace=True)
    assert restored.contents.revision == first
    await asyncio.wait_for(watching, 5)
    # No call fails meanwhile: the file is the same.
    kv, revision = await engine.get("/a")
    assert kv is not None
    assert (kv.value, kv.mod_revision) == (b"1", first)
    assert revision == restored.revision > last + 1
    assert engine.identity != identity
    for old in (first, last, revision - 1):
        with pytest.raises(Compacted):
            await engine.get("/a", revision=old)
    lost = Compare("/a", CompareTarget.MOD_REVISION, last)
    assert not (await engine.txn([lost], [Put("/a", b"3")])).succeeded
    assert (await engine.txn([Compare("/a", CompareTarget.MOD_REVISION, first)], [Put("/a", b"3")])).succeeded
    # What was replaced is whole, and can be put back.
    assert restored.kept is not None
    assert stat.S_IMODE(restored.kept.stat().st_mode) == 0o600
    again = copies.restore(path, restored.kept, replace=True)
    assert await stored(engine) == {"/a": b"2", "/late": b"1"}
    assert again.revision > revision
    await engine.compact(await engine.put("/a", b"4"))
    while await engine._read(lambda store: store.maintenance_due()):
        await engine._write(lambda store: store.maintain())
    assert await stored(engine) == {"/a": b"4", "/late": b"1"}


@pytest.mark.parametrize("damaged", [False, True])
async def test_what_is_restored_belongs_to_whom_the_store_belongs(path: Path, copy: Path, damaged: bool) -> None:
    engine = await EmbeddedEngine.open(path)
    await engine.put("/a", b"1")
    await engine.close()
    copies.backup(path, copy)
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    for end in ("", "-lock", "-notify"):
        os.chown(path.with_name(path.name + end), owner, -1)
    os.chown(path.parent, owner, -1)
    if damaged:
        path.write_bytes(b"rubbish" * 1000)
    else:
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        os.chown(path.parent, owner, -1)
    copies.restore(path, copy, replace=True)
    for end in ("", "-lock", "-notify"):
        assert path.with_name(path.name + end).stat().st_uid == owner


async def test_writers_go_on_through_a_restore(engine: EmbeddedEngine, path: Path, copy: Path) -> None:
    """Each of their transactions is in the old store or the new one; none fails, none is lost afterwards."""
    await engine.put("/before", b"1")
    copies.backup(path, copy)
    writers = [await start(path, "write", number) for number in range(2)]
    for _ in range(3):
        await _until_written(engine)
        restored = await asyncio.to_thread(copies.restore, path, copy, replace=True)
        await _until_written(engine)
    last = [await kill_after(writer, 0) for writer in writers]
    found = await stored(engine)
    assert found.pop("/before") == b"1"
    for writer, acknowledged in enumerate(last):
        written = sorted(int(key.rpartition("/")[2]) for key in found if key.startswith(f"/w/{writer}/"))
        assert written == list(range(written[0], int(found[f"/last/{writer}"]) + 1))
        assert written[-1] >= acknowledged
    assert restored.kept is not None
    assert copies.examine(restored.kept).keys > 10


async def _until_written(engine: EmbeddedEngine) -> None:
    """Ten more transactions of each writer."""
    before = await stored(engine)
    async with asyncio.timeout(20):
        while True:
            await asyncio.sleep(0.05)
            now = await stored(engine)
            if all(int(now.get(name, b"0")) > int(before.get(name, b"0")) + 10 for name in ("/last/0", "/last/1")):
                return


async def test_a_copy_may_stand_where_nothing_was(path: Path, copy: Path) -> None:
    original = await EmbeddedEngine.open(path)
    await original.put("/a", b"1")
    copies.backup(path, copy)
    await original.close()
    for elsewhere in (path.with_name("new") / "datastore.db", path.with_name("by hand")):
        if elsewhere.name == "by hand":
            elsewhere.write_bytes(copy.read_bytes())
        else:
            assert copies.restore(elsewhere, copy).kept is None
            assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o600
        first, second = await EmbeddedEngine.open(elsewhere), await EmbeddedEngine.open(elsewhere)
        assert await stored(first) == {"/a": b"1"}
        async with aclosing(second.watch("/", start_revision=(await second.get("/a"))[1] + 1)) as watch:
            revision = await first.put("/b", b"1")
            assert len(await events_until(watch, revision)) == 1
        assert elsewhere.with_name(elsewhere.name + "-wal").exists()
        await first.close()
        await second.close()


async def test_keys_of_leases_end_with_a_lease_that_is_over(path: Path, copy: Path) -> None:
    """Leases go on for their holders in the same boot; elsewhere no holder has survived."""
    engine = await EmbeddedEngine.open(path)
    long, short = await engine.grant(600), await engine.grant(2)
    await engine.put("/long", b"1", lease=long)
    await engine.put("/short", b"1", lease=short)
    copies.backup(path, copy)
    copies.restore(path, copy, replace=True)
    await engine.keep_alive(long)
    before = (await engine.get("/long"))[1]
    async with aclosing(engine.watch("/", start_revision=before + 1)) as watch:
        assert [event.kv.key for event in await events_until(watch, before + 1)] == ["/short"]
    assert set(await stored(engine)) == {"/long"}
    await engine.close()
    rebooted = await EmbeddedEngine.open(path, clock=Clock("later"))
    await rebooted.put("/a", b"1")
    assert set(await stored(rebooted)) == {"/a"}
    await rebooted.close()
