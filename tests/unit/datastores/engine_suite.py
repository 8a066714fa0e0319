"""What every KV engine must do; run for the embedded engine and for etcd."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from calico_node.datastores.kv import (
    Compare,
    CompareTarget,
    Delete,
    EventType,
    Get,
    KVEngine,
    Put,
)
from calico_node.errors import Compacted, DatastoreError
from tests.unit.datastores.suite_concurrency import ConcurrencySuite
from tests.unit.datastores.suite_history import PATIENCE, HistorySuite, events_until, flat
from tests.unit.datastores.suite_leases import LeaseSuite
from tests.unit.datastores.suite_transactions import TransactionSuite


class EngineSuite(TransactionSuite, HistorySuite, LeaseSuite, ConcurrencySuite):
    """Subclasses give the fixtures ``engine`` and ``restart``, which gives an engine over the same store begun anew;
    no key is there at the start."""

    pytestmark = pytest.mark.anyio

    async def test_put_and_get(self, engine: KVEngine) -> None:
        missing, before = await engine.get("/t/a")
        assert missing is None
        first = await engine.put("/t/a", b"1")
        assert first == before + 1
        second = await engine.put("/t/a", b"2")
        stored, revision = await engine.get("/t/a")
        assert stored is not None
        assert (stored.key, stored.value, stored.create_revision, stored.mod_revision, stored.version) == (
            "/t/a", b"2", first, second, 2,
        )  # fmt: skip
        assert revision == second
        old, _ = await engine.get("/t/a", revision=first)
        assert old is not None
        assert old.value == b"1"
        with pytest.raises(DatastoreError):
            await engine.get("/t/a", revision=second + 100)

    async def test_delete(self, engine: KVEngine) -> None:
        created = await engine.put("/t/a", b"1")
        previous, revision = await engine.delete("/t/a")
        assert previous is not None
        assert previous.value == b"1"
        assert revision == created + 1
        assert await engine.delete("/t/a") == (None, revision)
        again = await engine.put("/t/a", b"3")
        stored, _ = await engine.get("/t/a")
        assert stored is not None
        assert (stored.version, stored.create_revision) == (1, again)

    async def test_range_is_by_prefix_in_byte_order_and_paged(self, engine: KVEngine) -> None:
        keys = ["/t/a", "/t/a/b", "/t/b", "/t/é", "/u", "/t"]
        for key in keys:
            await engine.put(key, key.encode())
        whole = await engine.range("/t/")
        assert [kv.key for kv in whole.kvs] == ["/t/a", "/t/a/b", "/t/b", "/t/é"]
        assert not whole.more
        page = await engine.range("/t/", limit=2)
        assert [kv.key for kv in page.kvs] == ["/t/a", "/t/a/b"]
        assert page.more
        rest = await engine.range("/t/", start_after="/t/a/b", limit=2, revision=page.revision)
        assert [kv.key for kv in rest.kvs] == ["/t/b", "/t/é"]
        assert not rest.more
        assert [kv.key for kv in (await engine.range("/t/a")).kvs] == ["/t/a", "/t/a/b"]

    async def test_range_at_a_revision_ignores_what_came_later(self, engine: KVEngine) -> None:
        await engine.put("/t/a", b"1")
        then = await engine.put("/t/b", b"1")
        await engine.put("/t/c", b"1")
        await engine.put("/t/a", b"2")
        now = (await engine.delete("/t/b"))[1]
        result = await engine.range("/t/", revision=then)
        assert [(kv.key, kv.value) for kv in result.kvs] == [("/t/a", b"1"), ("/t/b", b"1")]
        assert result.revision == now
        page = await engine.range("/t/", limit=1, revision=then)
        assert [kv.key for kv in page.kvs] == ["/t/a"]
        assert page.more

    async def test_transaction_compares_and_swaps(self, engine: KVEngine) -> None:
        create = [Compare("/t/a", CompareTarget.VERSION, 0)]
        won = await engine.txn(create, [Put("/t/a", b"1"), Put("/t/b", b"1")], [Get("/t/a")])
        assert won.succeeded
        assert won.responses == (None, None)
        lost = await engine.txn(create, [Put("/t/a", b"2")], [Get("/t/a"), Get("/t/x")])
        assert not lost.succeeded
        assert lost.revision == won.revision
        found, missing = lost.responses
        assert found is not None
        assert (found.value, found.mod_revision) == (b"1", won.revision)
        assert missing is None
        swap = [Compare("/t/a", CompareTarget.MOD_REVISION, won.revision)]
        swapped = await engine.txn(swap, [Put("/t/a", b"3"), Delete("/t/b"), Delete("/t/x")])
        assert swapped.succeeded
        assert swapped.revision == won.revision + 1
        assert [response.value if response else None for response in swapped.responses] == [None, b"1", None]
        assert not (await engine.txn(swap, [Put("/t/a", b"4")])).succeeded

    async def test_a_transaction_that_writes_nothing_moves_nothing(self, engine: KVEngine) -> None:
        revision = await engine.put("/t/a", b"1")
        assert (await engine.txn([], [Get("/t/a"), Delete("/t/none")])).revision == revision

    async def test_one_key_written_twice_is_refused(self, engine: KVEngine) -> None:
        with pytest.raises(DatastoreError):
            await engine.txn([], [Put("/t/a", b"1"), Put("/t/a", b"2")])
        assert (await engine.get("/t/a"))[0] is None

    async def test_concurrent_swaps_lose_no_update(self, engine: KVEngine) -> None:
        await engine.put("/t/n", b"0")

        async def increment(times: int) -> None:
            for _ in range(times):
                while True:
                    stored, _ = await engine.get("/t/n")
                    assert stored is not None
                    put = Put("/t/n", str(int(stored.value) + 1).encode())
                    compare = Compare("/t/n", CompareTarget.MOD_REVISION, stored.mod_revision)
                    if (await engine.txn([compare], [put])).succeeded:
                        break

        await asyncio.gather(*(increment(10) for _ in range(5)))
        stored, _ = await engine.get("/t/n")
        assert stored is not None
        assert stored.value == b"50"

    async def test_watch_gives_history_then_what_comes(self, engine: KVEngine) -> None:
        start = await engine.put("/t/a", b"1")
        await engine.put("/other", b"x")
        await engine.put("/t/a", b"2")
        async with aclosing(engine.watch("/t/", start_revision=start)) as watch:
            first = await events_until(watch, start + 2)
            await engine.put("/t/b", b"3")
            end = (await engine.delete("/t/a"))[1]
            later = await events_until(watch, end)
        assert flat(first + later) == [
            ("put", "/t/a", b"1", start, None),
            ("put", "/t/a", b"2", start + 2, b"1"),
            ("put", "/t/b", b"3", start + 3, None),
            ("delete", "/t/a", b"", start + 4, b"2"),
        ]

    async def test_watch_starts_where_it_is_told(self, engine: KVEngine) -> None:
        first = await engine.put("/t/a", b"1")
        second = await engine.put("/t/a", b"2")
        async with aclosing(engine.watch("/t/", start_revision=second)) as watch:
            assert flat(await events_until(watch, second)) == [("put", "/t/a", b"2", second, b"1")]
        assert second == first + 1

    async def test_watch_without_previous_values_gives_the_same_events(self, engine: KVEngine) -> None:
        first = await engine.put("/t/a", b"1")
        await engine.put("/t/a", b"2")
        _, last = await engine.delete("/t/a")
        async with aclosing(engine.watch("/t/", start_revision=first)) as watch:
            whole = await events_until(watch, last)
        async with aclosing(engine.watch("/t/", start_revision=first, previous=False)) as watch:
            bare = await events_until(watch, last)
        assert [(event.type, event.kv) for event in bare] == [(event.type, event.kv) for event in whole]
        assert all(event.prev in (None, complete.prev) for event, complete in zip(bare, whole, strict=True))

    async def test_a_watcher_that_is_away_gets_every_event_once_and_in_order(self, engine: KVEngine) -> None:
        first = await engine.put("/t/a", b"first")
        async with aclosing(engine.watch("/t/", start_revision=first)) as watch:
            assert len(await events_until(watch, first)) == 1
            for number in range(60):
                last = await engine.put("/t/a", b"%d" % number)
                await asyncio.sleep(0)
            events = await events_until(watch, last)
        assert [event.kv.value for event in events] == [b"%d" % number for number in range(60)]
        assert [event.kv.mod_revision for event in events] == list(range(first + 1, last + 1))

    async def test_watch_of_a_future_revision_waits_for_it(self, engine: KVEngine) -> None:
        now = await engine.put("/t/a", b"1")
        async with aclosing(engine.watch("/t/", start_revision=now + 2)) as watch:
            await engine.put("/t/a", b"2")
            last = await engine.put("/t/a", b"3")
            assert flat(await events_until(watch, last)) == [("put", "/t/a", b"3", last, b"2")]

    async def test_watch_reports_progress_when_other_keys_change(self, engine: KVEngine) -> None:
        revision = await engine.put("/t/a", b"1")
        async with aclosing(engine.watch("/t/", start_revision=revision + 1)) as watch:
            waiting = asyncio.create_task(events_until(watch, revision + 3))
            await asyncio.sleep(0.05)
            for value in (b"1", b"2", b"3"):
                await engine.put("/other", value)
            assert await asyncio.wait_for(waiting, 2) == []

    async def test_a_transaction_arrives_whole(self, engine: KVEngine) -> None:
        start = await engine.put("/t/start", b"")
        puts = [Put(f"/t/{number:02}", b"x") for number in range(50)]
        async with aclosing(engine.watch("/t/", start_revision=start + 1)) as watch:
            await engine.txn([], puts)
            async for batch in watch:
                if batch.events:
                    assert sorted(event.kv.key for event in batch.events) == [put.key for put in puts]
                    break

    async def test_many_events_come_in_order(self, engine: KVEngine) -> None:
        start = (await engine.get("/t"))[1]
        for block in range(5):
            await asyncio.gather(*(engine.put(f"/t/{number}", b"%d" % block) for number in range(500)))
        async with aclosing(engine.watch("/t/", start_revision=start + 1)) as watch:
            events = await events_until(watch, start + 2500)
        revisions = [event.kv.mod_revision for event in events]
        assert revisions == list(range(start + 1, start + 2501))

    async def test_compaction_forgets_history_but_no_key(self, engine: KVEngine) -> None:
        first = await engine.put("/t/a", b"1")
        await engine.put("/t/b", b"1")
        await engine.put("/t/a", b"2")
        deleted = (await engine.delete("/t/b"))[1]
        last = await engine.put("/t/c", b"1")
        await engine.compact(deleted)
        assert [kv.key for kv in (await engine.range("/t/")).kvs] == ["/t/a", "/t/c"]
        kept = await engine.range("/t/", revision=deleted)
        assert [(kv.key, kv.value) for kv in kept.kvs] == [("/t/a", b"2")]
        with pytest.raises(Compacted):
            await engine.get("/t/a", revision=first)
        with pytest.raises(Compacted):
            await events_until(engine.watch("/t/", start_revision=first), last)
        async with aclosing(engine.watch("/t/", start_revision=deleted + 1)) as watch:
            assert flat(await events_until(watch, last)) == [("put", "/t/c", b"1", last, None)]

    async def test_revoking_a_lease_removes_its_keys(self, engine: KVEngine) -> None:
        lease = await engine.grant(60)
        await engine.put("/t/a", b"1", lease=lease)
        await engine.put("/t/b", b"1", lease=lease)
        await engine.put("/t/b", b"2")  # without the lease it stays
        stored, revision = await engine.get("/t/a")
        assert stored is not None
        assert stored.lease == lease
        await engine.keep_alive(lease)
        await engine.revoke(lease)
        assert [kv.key for kv in (await engine.range("/t/")).kvs] == ["/t/b"]
        async with aclosing(engine.watch("/t/", start_revision=revision + 1)) as watch:
            assert flat(await events_until(watch, revision + 1)) == [("delete", "/t/a", b"", revision + 1, b"1")]
        with pytest.raises(DatastoreError):
            await engine.keep_alive(lease)
        with pytest.raises(DatastoreError):
            await engine.put("/t/x", b"", lease=lease)

    async def test_a_lease_runs_out_by_itself(self, engine: KVEngine) -> None:
        lease = await engine.grant(1)
        revision = await engine.put("/t/a", b"1", lease=lease)
        async with aclosing(engine.watch("/t/", start_revision=revision + 1)) as watch:
            events = await events_until(watch, revision + 1)
        assert [event.type for event in events] == [EventType.DELETE]
        assert (await engine.get("/t/a"))[0] is None

    @pytest.mark.parametrize("ttl", [9_000_000_001, 2**63 - 1, 2**63, 10**30])
    async def test_a_lease_longer_than_etcd_grants_is_refused(self, engine: KVEngine, ttl: int) -> None:
        with pytest.raises(DatastoreError, match="too large lease TTL"):
            await engine.grant(ttl)

    @pytest.mark.parametrize("ttl", [0, -(10**30)])
    async def test_a_lease_without_time_is_as_short_as_leases_are(self, engine: KVEngine, ttl: int) -> None:
        """etcd grants it, for as long as an election takes: two seconds."""
        lease = await engine.grant(ttl)
        revision = await engine.put("/t/a", b"1", lease=lease)
        assert (await engine.get("/t/a"))[0] is not None
        async with aclosing(engine.watch("/t/", start_revision=revision + 1)) as watch:
            events = await events_until(watch, revision + 1)
        assert flat(events) == [("delete", "/t/a", b"", revision + 1, b"1")]
        with pytest.raises(DatastoreError):
            await engine.keep_alive(lease)

    async def test_the_longest_lease_is_granted(self, engine: KVEngine) -> None:
        lease = await engine.grant(9_000_000_000)
        await engine.keep_alive(lease)
        await engine.revoke(lease)

    async def test_a_lease_with_many_keys_takes_them_all(self, engine: KVEngine) -> None:
        lease = await engine.grant(60)
        keys = [f"/t/{number:04}" for number in range(1100)]
        for start in range(0, len(keys), 100):
            await engine.txn([], [Put(key, b"x", lease) for key in keys[start : start + 100]])
        before = await engine.put("/t/other", b"1")
        await engine.revoke(lease)
        left = await engine.range("/t/")
        assert [kv.key for kv in left.kvs] == ["/t/other"]
        after = await engine.put("/t/other", b"2")
        assert after == left.revision + 1
        async with aclosing(engine.watch("/t/", start_revision=before + 1)) as watch:
            events = await events_until(watch, after)
        assert sorted(event.kv.key for event in events[:-1]) == keys
        assert {event.type for event in events[:-1]} == {EventType.DELETE}
        assert flat(events[-1:]) == [("put", "/t/other", b"2", after, b"1")]

    async def test_values_may_be_empty_or_large(self, engine: KVEngine) -> None:
        large = bytes(range(256)) * 4000
        await engine.txn([], [Put("/t/empty", b""), Put("/t/large", large)])
        result = await engine.range("/t/")
        assert [kv.value for kv in result.kvs] == [b"", large]

    async def test_what_a_closed_engine_is_asked_is_refused(self, engine: KVEngine) -> None:
        """Whoever outlives it would otherwise open connections that nobody closes; its watches end, too."""
        start = await engine.put("/t/a", b"1")
        watches = [engine.watch("/t/", start_revision=start + 1), engine.watch("/t/", start_revision=start + 9)]
        waiting = [asyncio.ensure_future(anext(aiter(watch))) for watch in watches]
        await asyncio.sleep(0.1)
        await engine.close()
        await engine.close()
        for task in waiting:
            with pytest.raises(DatastoreError):
                await asyncio.wait_for(task, PATIENCE)
        for call in (
            lambda: engine.get("/t/a"),
            lambda: engine.range("/t/"),
            lambda: engine.put("/t/a", b"2"),
            lambda: engine.txn([], [Get("/t/a")]),
            lambda: engine.delete("/t/a"),
            lambda: anext(aiter(engine.watch("/t/", start_revision=start))),
            lambda: engine.grant(60),
            lambda: engine.keep_alive(4711),
            lambda: engine.revoke(4711),
            lambda: engine.compact(start),
        ):
            with pytest.raises(DatastoreError, match="closed"):
                await asyncio.wait_for(call(), PATIENCE)
