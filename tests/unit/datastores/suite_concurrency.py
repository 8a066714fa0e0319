"""What many writers at once must find on every KV engine."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import aclosing, suppress

from attrs import frozen

from calico_node.datastores.kv import (
    Compare,
    CompareTarget,
    Delete,
    EventType,
    Get,
    KeyValue,
    KVEngine,
    Operation,
    Put,
    TxnResult,
)
from calico_node.errors import Compacted
from tests.unit.datastores.oracle import Oracle
from tests.unit.datastores.suite_history import PATIENCE, events_until

WRITERS = 50
OWN, SHARED = 6, 2


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


@frozen
class Told:
    """A transaction and what its caller was told."""

    compares: list[Compare]
    success: list[Operation]
    failure: list[Operation]
    result: TxnResult

    @property
    def wrote(self) -> bool:
        """Whether the revision is its own."""
        branch = self.success if self.result.succeeded else self.failure
        pairs = zip(branch, self.result.responses, strict=True)
        return any(isinstance(each, Put) or (isinstance(each, Delete) and response) for each, response in pairs)


async def random_transaction(
    engine: KVEngine, dice: random.Random
) -> tuple[list[Compare], list[Operation], list[Operation]]:
    """Over few keys, so that they get in each other's way; a compare was true a moment ago."""
    keys = ["/t/a", "/t/b", "/t/c", "/t/d"]
    branches: list[list[Operation]] = []
    for _ in range(2):
        chosen = dice.sample(keys, dice.randint(0, 3))
        branches.append([dice.choice([Put(key, dice.randbytes(4)), Delete(key), Get(key)]) for key in chosen])
        branches[-1] += [Get(key) for key in chosen]
    stored, _ = await engine.get(key := dice.choice(keys))
    compare = Compare(key, CompareTarget.MOD_REVISION, stored.mod_revision if stored else 0)
    return ([compare] if dice.random() < 0.8 else []), branches[0], branches[1]


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

    async def test_concurrent_transactions_are_as_if_one_after_the_other(self, engine: KVEngine) -> None:
        """What each was told is what the oracle says when they are carried out in the order of their revisions."""
        seed = random.SystemRandom().randrange(10**6)
        dice, oracle = random.Random(seed), Oracle()
        first = (await engine.get("/t/"))[1]
        oracle.revision = first
        oracle.states = {first: {}}
        done: list[Told] = []

        async def work() -> None:
            for _ in range(12):
                asked = await random_transaction(engine, dice)
                known = max((each.result.revision for each in done), default=first)
                result = await engine.txn(*asked)
                assert result.revision >= known, f"seed {seed}: older than what was known before"
                done.append(Told(*asked, result))

        await asyncio.gather(*(work() for _ in range(WRITERS // 2)))
        done.sort(key=lambda told: (told.result.revision, not told.wrote))
        for told in done:
            expected = oracle.txn(told.compares, told.success, told.failure)
            assert told.result == expected, f"seed {seed}: {told}, but {expected}"
        assert (await engine.range("/t/")).kvs == oracle.range("/t/", oracle.revision)
        async with aclosing(engine.watch("/t/", start_revision=first + 1)) as watch:
            assert await events_until(watch, oracle.revision) == oracle.events

    async def test_compaction_at_the_heels_of_a_watch_loses_nothing(self, engine: KVEngine) -> None:
        """A watch is told of every change, or that it has to list anew."""
        keys = [f"/t/{number}" for number in range(5)]
        known: dict[str, KeyValue] = {}
        dice, told = random.Random(4), 0

        async def write() -> int:
            revision = 0
            for number in range(200):
                key = dice.choice(keys)
                wanted: Operation = Delete(key) if dice.random() < 0.4 else Put(key, b"%d" % number)
                revision = (await engine.txn([], [wanted])).revision
                before = told
                while number % 20 == 0 and told == before:  # until the watch is under way again
                    await engine.put("/t/mark", b"")
                    await asyncio.sleep(0.01)
                if number % 4 == 0:
                    with suppress(Compacted):  # nothing was written since
                        await engine.compact(revision)
            return (await engine.txn([], [Put("/t/end", b"")])).revision

        async def follow() -> int:
            """As a syncer does; gives the revision of the end."""
            nonlocal told
            while True:
                listed = await engine.range("/t/")
                known.clear()
                known.update((kv.key, kv) for kv in listed.kvs)
                if "/t/end" in known:
                    return listed.revision
                with suppress(Compacted):
                    async with aclosing(engine.watch("/t/", start_revision=listed.revision + 1)) as watch:
                        async for batch in watch:
                            told += len(batch.events)
                            for event in batch.events:
                                before = known.pop(event.kv.key, None)
                                if event.type is EventType.PUT:
                                    assert event.kv.version == (before.version + 1 if before else 1)
                                    known[event.kv.key] = event.kv
                                else:
                                    assert before is not None
                            if "/t/end" in known:
                                return batch.revision

        async with asyncio.timeout(PATIENCE):
            written, followed = await asyncio.gather(write(), follow())
        assert followed == written
        assert told >= 10
        assert {kv.key: kv for kv in (await engine.range("/t/")).kvs} == known
