"""What many writers at once must find on every KV engine."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing

from calico_node.datastores.kv import Compare, CompareTarget, Get, KeyValue, KVEngine, Operation, Put
from tests.unit.datastores.suite_history import events_until

WRITERS = 50
OWN, SHARED = 6, 3


async def increment(engine: KVEngine, key: str, *others: Operation) -> int:
    """Add one to a counter by compare and swap, ``others`` with it; gives the revision."""
    found: KeyValue | None = None
    while True:
        count, at = (int(found.value), found.mod_revision) if found else (0, 0)
        compare = Compare(key, CompareTarget.MOD_REVISION, at)
        result = await engine.txn([compare], [Put(key, b"%d" % (count + 1)), *others], [Get(key)])
        if result.succeeded:
            return result.revision
        found = result.responses[0]


class ConcurrencySuite:
    async def test_fifty_writers_lose_no_update_and_a_watch_sees_each_once(self, engine: KVEngine) -> None:
        start = await engine.put("/t/start", b"")

        async def write(name: int) -> list[int]:
            revisions = [await increment(engine, f"/t/own/{name}") for _ in range(OWN)]
            for _ in range(SHARED):
                revisions.append(await increment(engine, "/t/shared", Put(f"/t/with/{name}", b"")))
            return revisions

        writes = WRITERS * (OWN + SHARED)
        async with aclosing(engine.watch("/t/", start_revision=start + 1)) as watch:
            watching = asyncio.ensure_future(events_until(watch, start + writes))
            told = await asyncio.gather(*(write(name) for name in range(WRITERS)))
            events = await watching
        expected = list(range(start + 1, start + writes + 1))
        assert sorted(revision for revisions in told for revision in revisions) == expected
        assert all(revisions == sorted(revisions) for revisions in told)
        counted = [event for event in events if not event.kv.key.startswith("/t/with/")]
        assert [event.kv.mod_revision for event in counted] == expected
        shared = [event.kv.mod_revision for event in counted if event.kv.key == "/t/shared"]
        assert [event.kv.mod_revision for event in events if event.kv.key.startswith("/t/with/")] == shared
        assert all(event.kv.version == (event.prev.version + 1 if event.prev else 1) for event in events)
        values = {kv.key: kv.value for kv in (await engine.range("/t/")).kvs}
        assert values["/t/shared"] == b"%d" % (WRITERS * SHARED)
        assert Counter(value for key, value in values.items() if "/own/" in key) == {b"%d" % OWN: WRITERS}

    async def test_of_many_creators_of_a_key_one_wins(self, engine: KVEngine) -> None:
        absent = [Compare("/t/a", CompareTarget.VERSION, 0)]
        results = await asyncio.gather(
            *(engine.txn(absent, [Put("/t/a", b"%d" % name)], [Get("/t/a")]) for name in range(WRITERS))
        )
        (winner,) = (name for name, result in enumerate(results) if result.succeeded)
        stored = KeyValue("/t/a", b"%d" % winner, results[winner].revision, results[winner].revision)
        for name, result in enumerate(results):
            assert result.responses == ((None,) if name == winner else (stored,))

    async def test_reads_while_others_write_are_of_one_moment(self, engine: KVEngine) -> None:
        """Both keys are always written together: no read may see one of them older than the other."""
        await engine.txn([], [Put("/t/a", b"0"), Put("/t/b", b"0")])
        done = asyncio.Event()

        async def write() -> None:
            for number in range(150):
                value = b"%d" % number
                await engine.txn([], [Put("/t/a", value), Put("/t/b", value)])
            done.set()

        async def read() -> int:
            last = reads = 0
            while not done.is_set():
                result = await engine.range("/t/")
                first, second = result.kvs
                assert (first.value, first.mod_revision) == (second.value, second.mod_revision)
                assert last <= first.mod_revision <= result.revision
                last, reads = first.mod_revision, reads + 1
            return reads

        _, *reads = await asyncio.gather(write(), *(read() for _ in range(5)))
        assert all(reads)
