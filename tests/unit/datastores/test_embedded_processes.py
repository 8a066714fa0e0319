"""One datastore file, several processes: no lost update, no lost commit, events in time."""

# Moving small test files about blocks nobody.
# ruff: noqa: ASYNC240

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import aclosing
from pathlib import Path

import pytest

from calico_node.datastores.embedded import EmbeddedEngine, files
from calico_node.datastores.embedded.clock import Clock
from calico_node.datastores.embedded.engine import WATCH_EVENTS
from calico_node.datastores.kv import Put, WatchBatch
from calico_node.errors import DatastoreError
from tests.unit.datastores.engine_suite import events_until

pytestmark = pytest.mark.anyio


async def start(path: Path, what: str, argument: object) -> Process:
    command = (sys.executable, "-m", "tests.unit.datastores.other_process", str(path), what, str(argument))
    return await asyncio.create_subprocess_exec(*command, stdout=PIPE)


async def test_writers_in_many_processes_lose_no_update(path: Path) -> None:
    workers = [await start(path, "increment", 60) for _ in range(4)]
    assert [await worker.wait() for worker in workers] == [0] * 4
    engine = await EmbeddedEngine.open(path)
    stored, _ = await engine.get("/n")
    assert stored is not None
    assert stored.value == b"240"
    assert stored.version == 240
    await engine.close()


async def test_a_killed_writer_loses_nothing_it_acknowledged(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    for attempt in range(5):
        writers = [await start(path, "write", f"{attempt}-{number}") for number in range(2)]
        acknowledged = [await kill_after(writer, 0.15) for writer in writers]
        for number, last in enumerate(acknowledged):
            name = f"{attempt}-{number}"
            assert last >= 0
            kept = {kv.key for kv in (await engine.range(f"/w/{name}/")).kvs}
            assert {f"/w/{name}/{i}" for i in range(last + 1)} <= kept
            stored, _ = await engine.get(f"/last/{name}")
            assert stored is not None
            assert len(kept) == int(stored.value) + 1  # a transaction is there whole or not at all
    await engine.close()
    with sqlite3.connect(path) as check:
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def kill_after(writer: Process, seconds: float) -> int:
    """Let it write, kill -9; the last number it acknowledged."""
    assert writer.stdout is not None
    last = int(await asyncio.wait_for(writer.stdout.readline(), 20))
    await asyncio.sleep(seconds)
    os.kill(writer.pid, signal.SIGKILL)
    for line in (await writer.stdout.read()).splitlines(keepends=True):
        if line.endswith(b"\n"):
            last = int(line)
    await writer.wait()
    return last


async def test_an_event_reaches_another_process_in_time(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    writer = await start(path, "stamp", 50)
    delays = []
    async with aclosing(engine.watch("/stamp", start_revision=2)) as watch:
        async for batch in watch:
            delays += [time.monotonic() - float(event.kv.value) for event in batch.events]
            if len(delays) >= 50:
                break
    await writer.wait()
    await engine.close()
    # The time includes the writer's own commit to disk.
    assert statistics.median(delays) < 0.05


async def test_a_commit_without_notification_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a writer that was killed between its commit and its notification."""
    reader, writer = await EmbeddedEngine.open(path), await EmbeddedEngine.open(path)
    monkeypatch.setattr(writer._notifier, "notify", lambda: None)
    async with aclosing(reader.watch("/", start_revision=2)) as watch:
        waiting = asyncio.create_task(events_until(watch, 2))
        await asyncio.sleep(0.05)
        await writer.put("/a", b"1")
        assert len(await asyncio.wait_for(waiting, 3)) == 1
    await reader.close()
    await writer.close()


async def test_without_inotify_it_polls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files._libc, "inotify_init1", lambda flags: -1)
    engine = await EmbeddedEngine.open(path)
    async with aclosing(engine.watch("/", start_revision=2)) as watch:
        waiting = asyncio.create_task(events_until(watch, 2))
        await asyncio.sleep(0.05)
        await engine.put("/a", b"1")
        started = time.monotonic()
        await waiting
        assert time.monotonic() - started < 0.5
    await engine.close()


async def test_a_removed_notification_file_is_replaced(path: Path) -> None:
    engine, other = await EmbeddedEngine.open(path), await EmbeddedEngine.open(path)
    path.with_name("datastore.db-notify").unlink()
    await asyncio.sleep(2.5)
    async with aclosing(engine.watch("/", start_revision=2)) as watch:
        waiting = asyncio.create_task(events_until(watch, 2))
        await asyncio.sleep(0.05)
        await other.put("/a", b"1")
        await asyncio.wait_for(waiting, 0.5)
    await engine.close()
    await other.close()


async def test_another_process_expires_a_dead_holders_lease(path: Path) -> None:
    holder, other = await EmbeddedEngine.open(path), await EmbeddedEngine.open(path)
    lease = await holder.grant(1)
    await holder.put("/a", b"1", lease=lease)
    await holder.close()
    async with aclosing(other.watch("/a", start_revision=3)) as watch:
        assert [event.kv.key for event in await events_until(watch, 3)] == ["/a"]
    await other.close()


async def test_leases_of_an_earlier_boot_are_over(path: Path) -> None:
    before = await EmbeddedEngine.open(path, clock=Clock("earlier"))
    await before.put("/a", b"1", lease=await before.grant(3600))
    await before.close()
    after = await EmbeddedEngine.open(path)
    await after.put("/b", b"1")
    assert [kv.key for kv in (await after.range("/")).kvs] == ["/b"]
    await after.close()


async def test_the_wal_stays_bounded(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    for _ in range(40):
        await engine.txn([], [Put(f"/{number}", bytes(20_000)) for number in range(50)])
    size = path.with_name("datastore.db-wal").stat().st_size
    await engine.close()
    assert size < 24 << 20


async def test_compaction_removes_faster_than_one_writes(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    for _ in range(60):
        await asyncio.gather(*(engine.put(f"/{number % 10}", b"") for number in range(100)))
    await engine.compact((await engine.get("/0"))[1])
    for _ in range(30):
        if not await engine._read(lambda store: store.maintenance_due()):
            break
        await asyncio.sleep(0.2)
    rows = await engine._read(lambda store: store._db.execute("SELECT count(*) FROM history").fetchone()[0])
    assert rows == 10
    await engine.close()


async def test_a_slow_watch_is_read_in_slices(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    for _ in range(25):
        await engine.txn([], [Put(f"/{number}", b"") for number in range(120)])
    async with aclosing(engine.watch("/", start_revision=2)) as watch:
        sizes = []
        async for batch in watch:
            sizes.append(len(batch.events))
            if batch.revision >= 26:
                break
    assert sum(sizes) == 3000
    assert max(sizes) <= WATCH_EVENTS + 120
    await engine.close()


async def test_a_foreign_sqlite_file_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(DatastoreError, match=r"some other program.*CALICO_DATASTORE_PATH"):
        await EmbeddedEngine.open(path)


async def test_a_damaged_file_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(DatastoreError, match=r"datastore\.db: file is not a database; 'calicoctl datastore restore"):
        await EmbeddedEngine.open(path)


async def test_a_newer_format_is_refused(path: Path) -> None:
    await (await EmbeddedEngine.open(path)).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(DatastoreError, match="format 99"):
        await EmbeddedEngine.open(path)


@pytest.mark.parametrize(("magic", "name"), [(0x6969, "NFS"), (0x01021997, "9p")])
async def test_network_file_systems_are_refused(
    path: Path, magic: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_filesystem_magic", lambda directory: magic)
    with pytest.raises(DatastoreError, match=f"cannot live on {name}.*CALICO_DATASTORE_PATH"):
        await EmbeddedEngine.open(path)


def test_fuse_file_systems_are_told_apart_by_the_mount_table() -> None:
    table = (
        "22 1 8:1 / / rw - ext4 /dev/vda rw\n"
        "30 22 0:40 / /mnt/shared\\040folder rw - virtiofs shared rw\n"
        "31 22 0:41 / /home rw - fuse.fuse-overlayfs overlay rw\n"
    )
    assert files._mount_type(Path("/mnt/shared folder/x"), table) == "virtiofs"
    assert files._mount_type(Path("/home/user"), table) == "fuse.fuse-overlayfs"
    assert files._mount_type(Path("/mnt/other"), table) == "ext4"


async def test_a_file_that_vanishes_is_never_replaced_by_an_empty_one(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    await engine.put("/a", b"1")
    moved = path.with_name("moved")
    path.rename(moved)
    with pytest.raises(DatastoreError, match="moved away, emptied or replaced"):
        await engine.get("/a")
    with pytest.raises(DatastoreError, match="moved away, emptied or replaced"):
        await engine.put("/b", b"1")
    assert not path.exists()
    moved.rename(path)
    stored, _ = await engine.get("/a")
    assert stored is not None
    await engine.put("/b", b"1")
    await engine.close()


async def test_opening_makes_no_empty_store_where_one_has_vanished(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    await engine.put("/a", b"1")
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).rename(path.with_name("kept.db" + end))
    with pytest.raises(DatastoreError, match="is gone or empty; put it back, or"):
        await EmbeddedEngine.open(path)
    assert not path.exists()
    for end in ("", "-wal", "-shm"):
        path.with_name("kept.db" + end).rename(path.with_name(path.name + end))
    other = await EmbeddedEngine.open(path)
    assert (await other.get("/a"))[0] is not None
    await other.close()
    await engine.close()
    path.unlink()
    path.with_name("datastore.db-lock").unlink()
    fresh = await EmbeddedEngine.open(path)  # as the message says
    assert (await fresh.get("/a"))[0] is None
    await fresh.close()


async def test_an_emptied_file_is_neither_read_nor_made_anew(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    await engine.put("/a", b"1")
    content = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(DatastoreError, match="emptied"):
        await engine.get("/a")
    with pytest.raises(DatastoreError, match="is gone or empty"):
        await EmbeddedEngine.open(path)
    assert path.with_name("datastore.db-wal").exists()  # where the commits are
    path.write_bytes(content)
    assert (await engine.get("/a"))[0] is not None
    await engine.close()


async def test_a_file_that_comes_back_after_another_is_used_again(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    await engine.put("/a", b"1")
    identity = engine.identity
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).rename(path.with_name("kept.db" + end))
    path.write_bytes(b"rubbish" * 1000)
    await asyncio.sleep(1.5)
    with pytest.raises(DatastoreError):
        await engine.get("/a")
    for end in ("", "-wal", "-shm"):
        path.with_name("kept.db" + end).rename(path.with_name(path.name + end))
    async with asyncio.timeout(6):
        while True:
            try:
                stored, _ = await engine.get("/a")
                break
            except DatastoreError:
                await asyncio.sleep(0.1)
    assert stored is not None
    assert engine.identity == identity
    assert await engine.put("/a", b"2") == 3
    await engine.close()


async def test_closing_lets_queued_writes_finish(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    writes = [asyncio.ensure_future(engine.put(f"/{number}", b"")) for number in range(200)]
    await asyncio.sleep(0)
    await engine.close()
    assert sorted(await asyncio.gather(*writes)) == list(range(2, 202))


async def test_a_process_that_holds_the_lock_too_long_is_an_error(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    engine._lock._timeout = 0.2
    with files.FileLock(path.with_name("datastore.db-lock")):
        with pytest.raises(DatastoreError, match="held the lock"):
            await engine.put("/a", b"1")
        assert (await engine.get("/a"))[0] is None  # reading goes on
    assert await engine.put("/a", b"1") == 2
    await engine.close()


async def test_a_removed_lock_file_still_excludes_everybody(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    engine._lock._timeout = 0.2
    lock = path.with_name("datastore.db-lock")
    lock.unlink()
    newcomer = await EmbeddedEngine.open(path)
    with files.FileLock(lock), pytest.raises(DatastoreError, match="held the lock"):
        await engine.put("/a", b"1")
    lock.unlink()
    assert await engine.put("/a", b"1") == 2
    assert await newcomer.put("/a", b"2") == 3
    lock.unlink()
    path.unlink()
    with pytest.raises(DatastoreError, match="moved away"):
        await engine.put("/a", b"3")
    with pytest.raises(DatastoreError, match="is gone or empty"):  # the engine's lock remembers it
        await EmbeddedEngine.open(path)
    await engine.close()
    await newcomer.close()


async def test_a_link_leads_to_the_same_lock_and_log(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    engine, linked = await EmbeddedEngine.open(path), await EmbeddedEngine.open(link)
    linked._lock._timeout = 0.2
    with files.FileLock(path.with_name("datastore.db-lock")), pytest.raises(DatastoreError, match="held the lock"):
        await linked.put("/a", b"1")
    for _ in range(30):
        await linked.txn([], [Put(f"/{number}", bytes(20_000)) for number in range(50)])
    assert path.with_name("datastore.db-wal").stat().st_size < 24 << 20
    assert sorted(found.name for found in path.parent.glob("link*")) == ["link.db"]
    await linked.close()
    await engine.close()


async def test_a_long_read_holds_up_no_writer(path: Path) -> None:
    """A copy of a large store reads for seconds; the log has to wait for it, writers do not."""
    engine = await EmbeddedEngine.open(path)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM live").fetchone() == (0,)
    durations = []
    for _ in range(40):
        started = time.monotonic()
        await engine.txn([], [Put(f"/{number}", bytes(20_000)) for number in range(50)])
        durations.append(time.monotonic() - started)
    assert max(durations) < 4
    assert reader.execute("SELECT count(*) FROM live").fetchone() == (0,)
    reader.close()
    for _ in range(20):
        await engine.txn([], [Put(f"/{number}", bytes(20_000)) for number in range(50)])
    assert path.with_name("datastore.db-wal").stat().st_size < 64 << 20
    await engine.close()


async def test_a_full_disk_refuses_the_write_and_nothing_else(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    await engine.put("/a", b"1")
    limit = engine._writer._db.execute("PRAGMA max_page_count").fetchone()[0]
    engine._writer._db.execute("PRAGMA max_page_count = 12")
    with pytest.raises(DatastoreError, match="full"):
        await engine.put("/b", bytes(1 << 20))
    assert [kv.key for kv in (await engine.range("/")).kvs] == ["/a"]
    engine._writer._db.execute(f"PRAGMA max_page_count = {limit}")
    assert await engine.put("/b", bytes(1 << 20)) == 3
    await engine.close()


async def test_a_key_that_is_not_text_is_refused(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    with pytest.raises(DatastoreError, match="not Unicode"):
        await engine.put("/\ud800", b"")
    await engine.close()


async def test_a_closed_engine_says_so(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    await engine.close()
    await engine.close()
    with pytest.raises(DatastoreError, match="closed"):
        await engine.get("/a")


async def test_what_fails_after_a_commit_is_not_told_as_a_failed_write(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await EmbeddedEngine.open(path)

    def refuse() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(engine._notifier, "notify", refuse)
    assert await engine.put("/a", b"1") == 2
    assert (await engine.get("/a"))[0] is not None
    await engine.close()


async def test_a_failing_file_system_is_a_datastore_error_and_no_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await EmbeddedEngine.open(path)

    def refuse(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(engine._writer, "replaced", refuse)
        broken.setattr(engine._reader, "replaced", refuse)
        with pytest.raises(DatastoreError, match="Input/output error"):
            await engine.put("/a", b"1")
        with pytest.raises(DatastoreError, match="Input/output error"):
            await engine.get("/a")
        await asyncio.sleep(1.5)  # the look once a second has met it too
    assert engine._look_task is not None
    assert not engine._look_task.done()
    assert await engine.put("/a", b"1") == 2
    await engine.close()


async def test_watches_go_on_after_a_read_they_shared_has_failed(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    revision = await engine.put("/a", b"1")
    async with aclosing(engine.watch("/", start_revision=revision)) as watch:
        await anext(watch)
    events = engine._reader.events

    def refuse(*_: object) -> WatchBatch:
        raise DatastoreError("disk I/O error")

    engine._reader.events = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(DatastoreError, match="disk I/O"):
        await anext(engine.watch("/", start_revision=revision + 1))
    engine._reader.events = events  # type: ignore[method-assign]
    async with aclosing(engine.watch("/", start_revision=revision + 1)) as watch, asyncio.timeout(5):
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.05)
        await engine.put("/b", b"2")
        assert [event.kv.key for event in (await waiting).events] == ["/b"]
    await engine.close()
