"""What every KV engine must do with old revisions: reads and watches of the past, and compaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest

from calico_node.datastores.kv import SLICE_BYTES, Delete, Event, KVEngine, Put, WatchBatch
from calico_node.errors import Compacted, DatastoreError

PATIENCE = 60.0
"""Seconds, on however busy a machine."""
Restart = Callable[[], Awaitable[KVEngine]]
Flat = tuple[str, str, bytes, int, bytes | None]


async def events_until(watch: AsyncIterator[WatchBatch], revision: int) -> list[Event]:
    """The events of a watch up to ``revision``."""
    found: list[Event] = []
    async with asyncio.timeout(PATIENCE):
        async for batch in watch:
            assert all(event.kv.mod_revision <= batch.revision for event in batch.events)
            found.extend(batch.events)
            if batch.revision >= revision:
                return found
    raise AssertionError("the watch ended")


def flat(events: list[Event]) -> list[Flat]:
    return [(e.type.value, e.kv.key, e.kv.value, e.kv.mod_revision, e.prev.value if e.prev else None) for e in events]


async def seen(engine: KVEngine, start: int, until: int, prefix: str = "/t/") -> list[Flat]:
    """What a new watch from ``start`` is told up to ``until``."""
    async with aclosing(engine.watch(prefix, start_revision=start)) as watch:
        return flat(await events_until(watch, until))


async def values_at(engine: KVEngine, revision: int) -> dict[str, bytes]:
    return {kv.key: kv.value for kv in (await engine.range("/t/", revision=revision)).kvs}


class HistorySuite:
    async def test_a_revision_of_zero_or_below_is_the_latest(self, engine: KVEngine) -> None:
        await engine.put("/t/a", b"1")
        last = await engine.put("/t/a", b"2")
        for revision in (0, -1, -(2**40)):
            stored, now = await engine.get("/t/a", revision=revision)
            assert stored is not None
            assert (stored.value, now) == (b"2", last)
            assert await values_at(engine, revision) == {"/t/a": b"2"}

    async def test_a_limit_below_zero_is_none(self, engine: KVEngine) -> None:
        await asyncio.gather(*(engine.put(f"/t/{number:03}", b"") for number in range(150)))
        result = await engine.range("/t/", limit=-1)
        assert len(result.kvs) == 150
        assert not result.more

    async def test_order_is_that_of_bytes_and_a_page_starts_after_any_text(self, engine: KVEngine) -> None:
        keys = ["/t/a", "/t/a\0", "/t/a/b", "/t/b", "/t/~", "/t/é", "/t/\uffff", "/t/\U00010000"]
        for key in [*reversed(keys), "/t", "/u", "/s/z"]:
            await engine.put(key, b"")
        for after, expected in [
            ("", keys),
            ("\0", keys),
            ("/t", keys),
            ("/t/", keys),
            ("/t/a", keys[1:]),
            ("/t/a/", keys[2:]),
            ("/t/c", keys[4:]),
            ("/t/\uffff", keys[7:]),
            ("/t/\U0010ffff", []),
            ("/u", []),
        ]:
            for limit in (0, 1, len(expected), len(expected) + 1):
                page = await engine.range("/t/", start_after=after, limit=limit)
                assert [kv.key for kv in page.kvs] == (expected[:limit] if limit else expected)
                assert page.more == (0 < limit < len(expected))

    async def test_a_future_revision_is_refused(self, engine: KVEngine) -> None:
        now = await engine.put("/t/a", b"1")
        for call in (
            lambda: engine.get("/t/a", revision=now + 1),
            lambda: engine.range("/t/", revision=now + 1),
            lambda: engine.compact(now + 1),
        ):
            with pytest.raises(DatastoreError, match="future") as caught:
                await call()
            assert not isinstance(caught.value, Compacted)
        assert await values_at(engine, now) == {"/t/a": b"1"}

    async def test_paging_at_a_revision_while_others_write(self, engine: KVEngine) -> None:
        keys = [f"/t/{number:03}" for number in range(90)]
        await asyncio.gather(*(engine.put(key, b"old") for key in keys))
        page = await engine.range("/t/", limit=7)
        at, found = page.revision, list(page.kvs)

        async def disturb() -> None:
            for number in range(0, 90, 3):
                await engine.delete(keys[number])
                await engine.put(keys[number + 1], b"new")
                await engine.put(f"{keys[number]}/more", b"new")

        writing = asyncio.create_task(disturb())
        while page.more:
            page = await engine.range("/t/", start_after=found[-1].key, limit=7, revision=at)
            found += page.kvs
            await asyncio.sleep(0)
        await writing
        assert [(kv.key, kv.value) for kv in found] == [(key, b"old") for key in keys]
        assert all(kv.mod_revision <= at for kv in found)

    async def test_compaction_bounds_what_can_be_read(self, engine: KVEngine) -> None:
        revisions = [await engine.put("/t/a", b"%d" % number) for number in range(5)]
        gone = (await engine.delete("/t/a"))[1]
        last = await engine.put("/t/b", b"x")
        await engine.compact(revisions[3])
        for revision in revisions[:3]:
            for key in ("/t/a", "/t/none"):
                with pytest.raises(Compacted):
                    await engine.get(key, revision=revision)
            with pytest.raises(Compacted):
                await engine.range("/none/", revision=revision)
        for revision, expected in [
            (revisions[3], {"/t/a": b"3"}),
            (revisions[4], {"/t/a": b"4"}),
            (gone, {}),
            (last, {"/t/b": b"x"}),
        ]:
            assert await values_at(engine, revision) == expected
            stored, now = await engine.get("/t/a", revision=revision)
            assert (stored.value if stored else None, now) == (expected.get("/t/a"), last)

    async def test_compaction_goes_forward_alone(self, engine: KVEngine) -> None:
        first = await engine.put("/t/a", b"1")
        second = await engine.put("/t/a", b"2")
        third = await engine.put("/t/a", b"3")
        await engine.compact(second)
        for revision in (second, first, 1, 0, -1, -(2**40)):
            with pytest.raises(Compacted):
                await engine.compact(revision)
        await engine.compact(third)
        assert await values_at(engine, third) == {"/t/a": b"3"}
        assert (await engine.get("/t/a"))[1] == third  # compaction is no change

    async def test_a_watch_starts_above_the_compacted_revision(self, engine: KVEngine) -> None:
        """At the compacted revision itself a deletion may be gone: no watch may pretend to tell all of it."""
        created = await engine.put("/t/a", b"1")
        gone = (await engine.delete("/t/a"))[1]
        last = (await engine.txn([], [Put("/t/b", b"1"), Put("/t/c", b"1")])).revision
        expected = [("put", "/t/b", b"1", last, None), ("put", "/t/c", b"1", last, None)]
        await engine.compact(gone)
        for start in (-1, 0, 1, created, gone):
            with pytest.raises(Compacted) as caught:
                await seen(engine, start, last)
            assert caught.value.compact_revision == gone
        assert await seen(engine, gone + 1, last) == expected
        await engine.compact(last)
        with pytest.raises(Compacted):
            await seen(engine, last, last)
        async with aclosing(engine.watch("/t/", start_revision=last + 1)) as watch:
            end = (await engine.delete("/t/b"))[1]
            assert flat(await events_until(watch, end)) == [("delete", "/t/b", b"", end, b"1")]

    async def test_events_of_a_transaction_keep_its_order(self, engine: KVEngine) -> None:
        await engine.put("/t/m", b"0")
        operations = [Put("/t/z", b"1"), Put("/t/a", b"1"), Delete("/t/m"), Delete("/t/none"), Put("/t/b", b"1")]
        at = (await engine.txn([], operations)).revision
        assert await seen(engine, at, at) == [
            ("put", "/t/z", b"1", at, None),
            ("put", "/t/a", b"1", at, None),
            ("delete", "/t/m", b"", at, b"0"),
            ("put", "/t/b", b"1", at, None),
        ]

    async def test_a_watch_from_far_ahead_waits(self, engine: KVEngine) -> None:
        now = await engine.put("/t/a", b"1")
        for start in (now + 3, 2**62):
            async with aclosing(engine.watch("/t/", start_revision=start)) as watch:
                waiting = asyncio.ensure_future(anext(aiter(watch)))
                await engine.put("/t/a", b"2")
                await asyncio.sleep(0.05)
                assert not waiting.done()
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

    async def test_a_backlog_of_large_values_comes_in_slices_of_whole_revisions(self, engine: KVEngine) -> None:
        """A watch that was away may have missed more than fits in memory."""
        start = (await engine.get("/t/"))[1] + 1
        for number in range(12):
            await engine.txn([], [Put(key, b"%06d" % number * 100_000) for key in ("/t/a", "/t/b")])
        slices: list[tuple[Event, ...]] = []
        async with asyncio.timeout(PATIENCE), aclosing(engine.watch("/t/", start_revision=start)) as watch:
            async for batch in watch:
                slices.append(batch.events)
                if batch.revision == start + 11:
                    break
        events = [event for batch in slices for event in batch]
        assert [(e.kv.key, e.kv.mod_revision - start, int(e.kv.value[:6])) for e in events] == [
            (key, number, number) for number in range(12) for key in ("/t/a", "/t/b")
        ]
        sizes = [sum(len(e.kv.value) + len(e.prev.value if e.prev else b"") for e in batch) for batch in slices]
        assert max(sizes) <= 2 * SLICE_BYTES
        assert sum(sizes) > 4 * SLICE_BYTES
        assert all(len(batch) % 2 == 0 for batch in slices)

    async def test_a_deleted_key_has_no_past_when_it_comes_again(self, engine: KVEngine) -> None:
        start = await engine.put("/t/a", b"1")
        await engine.delete("/t/a")
        last = await engine.put("/t/a", b"2")
        assert [event[4] for event in await seen(engine, start, last)] == [None, b"1", None]

    async def test_a_watch_of_everything(self, engine: KVEngine) -> None:
        start = await engine.put("/t/a", b"1")
        await engine.put("\0", b"2")
        last = await engine.put("\U0010ffff", b"3")
        found = await seen(engine, start, last, prefix="")
        await engine.delete("\0")
        await engine.delete("\U0010ffff")
        assert [event[1] for event in found] == ["/t/a", "\0", "\U0010ffff"]

    async def test_history_outlives_a_restart(self, engine: KVEngine, restart: Restart) -> None:
        first = await engine.put("/t/a", b"1")
        compacted = await engine.put("/t/a", b"2")
        gone = (await engine.delete("/t/a"))[1]
        last = await engine.put("/t/a", b"3")
        await engine.compact(compacted)
        lease = await engine.grant(60)
        leased = await engine.put("/t/l", b"1", lease=lease)
        before = await seen(engine, compacted + 1, leased)
        again = await restart()
        assert (await again.get("/t/a"))[1] == leased
        assert await values_at(again, compacted) == {"/t/a": b"2"}
        assert await values_at(again, gone) == {}
        with pytest.raises(Compacted):
            await again.get("/t/a", revision=first)
        with pytest.raises(Compacted):
            await seen(again, compacted, leased)
        assert await seen(again, compacted + 1, leased) == before
        assert [event[3] for event in before] == [gone, last, leased]
        await again.revoke(lease)
        assert await seen(again, leased + 1, leased + 1) == [("delete", "/t/l", b"", leased + 1, b"1")]
