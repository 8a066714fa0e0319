"""Random operations carried out on the embedded engine and on a real etcd, whose answers must be the same.

Both stores are fresh at the start, so that revisions are equal as they stand.  Leases alone have ids of their own:
here each has a number, in the order of the grants.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

from attrs import define, evolve, field

from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.datastores.kv import (
    Compare,
    CompareTarget,
    Delete,
    Event,
    Get,
    KeyValue,
    KVEngine,
    Operation,
    Put,
    RangeResult,
    TxnResult,
    WatchBatch,
)
from calico_node.errors import Compacted, DatastoreError
from tests.interop.datastores.conftest import Etcd

KEYS = ["/d", "/d/\0", "/d/a", "/d/a/b", "/d/a/b/c", "/d/a0", "/d/b", "/d/é", "/d/\uffff", "/d/\U0010ffff", "/e"]
PREFIXES = ["", "/", "/d", "/d/", "/d/a", "/d/a/", "/d/\U0010ffff", "/none/"]
REFUSED = ["", "/d/\ud800"]
UNKNOWN_LEASE = 4711
PATIENCE = 60.0
ENGINES = 2

Step: TypeAlias = Callable[["Comparison"], Awaitable[None]]


class Differ(AssertionError):
    """The two engines gave different answers."""


@define
class Side:
    """Several engines over one store, as of several processes; ``restart`` closes some of it and opens it again.

    ``leases`` gives the id of a lease by its number: 0 is none, 1 one that never was.
    """

    engines: list[KVEngine]
    restart: Callable[[Side], Awaitable[None]]
    leases: list[int] = field(factory=lambda: [0, UNKNOWN_LEASE])
    events: list[Event] = field(factory=list)
    revision: int = 1
    _following: asyncio.Task[None] | None = None
    _dice: random.Random = field(factory=lambda: random.Random(0))

    @property
    def engine(self) -> KVEngine:
        """Any of them: what one has written the others know."""
        return self._dice.choice(self.engines)

    def operations(self, operations: Sequence[Operation]) -> list[Operation]:
        return [evolve(each, lease=self.leases[each.lease]) if isinstance(each, Put) else each for each in operations]

    def plain(self, result: Any) -> Any:
        """The result with numbers for leases."""
        if isinstance(result, KeyValue):
            return evolve(result, lease=self.leases.index(result.lease))
        if isinstance(result, Event):
            return evolve(result, kv=self.plain(result.kv), prev=self.plain(result.prev))
        if isinstance(result, tuple | list):
            return [self.plain(item) for item in result]
        if isinstance(result, RangeResult):
            return evolve(result, kvs=tuple(self.plain(result.kvs)))
        if isinstance(result, TxnResult):
            return evolve(result, responses=tuple(self.plain(result.responses)))
        return result

    def follow(self) -> None:
        """Collect all events from where it was, as a watch that never falls behind."""

        async def collect() -> None:
            async with aclosing(self.engine.watch("", start_revision=self.revision + 1)) as watch:
                async for batch in whole(watch):
                    self.events += batch.events
                    self.revision = batch.revision

        self._following = asyncio.create_task(collect())

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def caught_up(self, revision: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.revision < revision:
                if self._following is not None and self._following.done():
                    await self._following
                await asyncio.sleep(0.002)


async def whole(watch: AsyncIterator[WatchBatch]) -> AsyncIterator[WatchBatch]:
    """The batches of a watch; none may begin within a revision, or reach beyond what it says."""
    last = -(2**63)
    async for batch in watch:
        revisions = [event.kv.mod_revision for event in batch.events]
        assert revisions == sorted(revisions)
        assert batch.revision > last
        assert all(last < revision <= batch.revision for revision in revisions)
        last = batch.revision
        yield batch


@asynccontextmanager
async def sides(server: Etcd, path: Path) -> AsyncIterator[tuple[Side, Side]]:
    """The embedded engine at ``path`` and the one over ``server``, both fresh."""

    async def reopen(side: Side) -> None:
        await side.engines.pop().close()
        side.engines.insert(0, await EmbeddedEngine.open(path))

    async def restart(side: Side) -> None:
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)

    embedded = Side([await EmbeddedEngine.open(path) for _ in range(ENGINES)], reopen)
    etcd = Side([EtcdEngine([server.endpoint]) for _ in range(ENGINES)], restart)
    try:
        yield embedded, etcd
    finally:
        for engine in (*embedded.engines, *etcd.engines):
            await engine.close()


async def outcome(side: Side, call: Callable[[Side], Awaitable[Any]]) -> Any:
    """What a call gives, or the kind of its refusal."""
    try:
        return side.plain(await call(side))
    except Compacted:
        return "compacted"
    except DatastoreError:
        return "refused"


class Comparison:
    """``run`` raises ``Differ`` at the first difference, with the steps that led to it."""

    def __init__(self, embedded: Side, etcd: Side, seed: int) -> None:
        self.sides = (embedded, etcd)
        self.seed = seed
        self.dice = random.Random(seed)
        self.counts: Counter[tuple[str, str]] = Counter()
        """By operation and kind of answer."""
        self.now = 1
        self.alive: list[int] = []
        """Leases."""
        self._compacted = 0
        self._compared = 0
        self._steps: deque[str] = deque(maxlen=40)

    async def run(self, count: int) -> None:
        """``count`` operations, and at the end a lease that runs out."""
        for side in self.sides:
            side.follow()
        names, weights = zip(*STEPS.items(), strict=True)
        try:
            while self.counts.total() < count:
                (step,) = self.dice.choices(names, weights)
                await step(self)
            await lapse(self)
            await self.compare_events()
            await look_back(self)
        except Exception as error:
            if isinstance(error, Differ):
                raise
            raise Differ(f"seed {self.seed}: {error!r} after\n" + "\n".join(self._steps)) from error
        finally:
            for side in self.sides:
                await side.stop()

    async def both(self, name: str, text: str, call: Callable[[Side], Awaitable[Any]]) -> Any:
        """Carry out one operation on each side; gives what both answered."""
        self._steps.append(f"at {self.now}: {name} {text}")
        ours, theirs = await asyncio.gather(*(outcome(side, call) for side in self.sides))
        if ours != theirs:
            steps = "\n".join(self._steps)
            raise Differ(f"seed {self.seed}\n{steps}\nembedded: {ours}\netcd:     {theirs}")
        self.counts[name, ours if isinstance(ours, str) else "done"] += 1
        return ours

    async def compare_events(self) -> None:
        """Both watches that follow have been told the same."""
        for side in self.sides:
            await side.caught_up(self.now)
        ours, theirs = (side.plain(side.events[self._compared :]) for side in self.sides)
        if ours != theirs:
            raise Differ(f"seed {self.seed}: events differ\nembedded: {ours}\netcd:     {theirs}")
        self._compared += len(ours)

    # Random parts

    def key(self) -> str:
        return self.dice.choice(KEYS)

    def lease(self) -> int:
        """Mostly none, or one that is alive; at times one that was revoked, or never was."""
        kind = self.dice.random()
        if kind < 0.05:
            return self.dice.randrange(1, len(self.sides[0].leases))
        return self.dice.choice(self.alive) if kind < 0.4 and self.alive else 0

    def revision(self) -> int:
        """Any: mostly one that is kept, or about the borders."""
        about = self.dice.choice([0, self._compacted, self.now])
        kept = self.dice.randint(min(max(self._compacted, 1), self.now), self.now)
        return self.dice.choice([0, about - 1, about, about + 1, kept, kept, kept])

    def operation(self) -> Operation:
        kind = self.dice.random()
        if kind < 0.5:
            return Put(self.key(), self.dice.randbytes(self.dice.choice([0, 1, 5])), self.lease())
        return Delete(self.key()) if kind < 0.75 else Get(self.key())

    async def compare(self) -> Compare:
        """True more often than not."""
        key, target = self.key(), self.dice.choice(list(CompareTarget))
        stored, _ = await self.sides[0].engine.get(key)
        value = 0
        if stored is not None:
            value = stored.version if target is CompareTarget.VERSION else stored.mod_revision
        return Compare(key, target, value if self.dice.random() < 0.8 else self.dice.randint(-1, self.now))

    async def write(self, name: str, operations: list[Operation], **more: Any) -> None:
        """A transaction; ``more`` may have compares and the other branch."""
        compares, failure = more.get("compares", []), more.get("failure", [])

        async def call(side: Side) -> TxnResult:
            return await side.engine.txn(compares, side.operations(operations), side.operations(failure))

        result = await self.both(name, f"{compares} {operations} {failure}", call)
        if isinstance(result, TxnResult):
            self.now = result.revision


async def put(run: Comparison) -> None:
    key, value, lease = run.key(), run.dice.randbytes(2), run.lease()
    result = await run.both(
        "put", f"{key!a} {value!r} {lease}", lambda side: side.engine.put(key, value, lease=side.leases[lease])
    )
    run.now = result if isinstance(result, int) else run.now


async def delete(run: Comparison) -> None:
    key = run.key()
    run.now = (await run.both("delete", ascii(key), lambda side: side.engine.delete(key)))[1]


async def transaction(run: Comparison) -> None:
    compares = [await run.compare() for _ in range(run.dice.choice([0, 1, 1, 2]))]
    branches = [[run.operation() for _ in range(run.dice.randint(0, 5))] for _ in range(2)]
    await run.write("txn", branches[0], compares=compares, failure=branches[1])


async def large_transaction(run: Comparison) -> None:
    """About the greatest number of operations."""
    count, lease = run.dice.randint(125, 130), run.dice.choice([0, *run.alive])
    await run.write("large txn", [Put(f"/d/many/{number}", b"", lease) for number in range(count)])


async def get(run: Comparison) -> None:
    key, revision = run.key(), run.revision()
    await run.both("get", f"{key!a} at {revision}", lambda side: side.engine.get(key, revision=revision))


async def range_(run: Comparison) -> None:
    prefix, revision = run.dice.choice(PREFIXES), run.revision()
    after = run.dice.choice(["", "", *KEYS])
    limit = run.dice.choice([-1, 0, 0, 1, 2, 3, 7, 1000])
    await run.both(
        "range",
        f"{prefix!a} after {after!a} limit {limit} at {revision}",
        lambda side: side.engine.range(prefix, start_after=after, limit=limit, revision=revision),
    )


async def watch(run: Comparison) -> None:
    """From any revision, past or to come, until some writes later."""
    prefix, start = run.dice.choice(PREFIXES), run.revision() + run.dice.choice([0, 0, 0, 2])
    previous = run.dice.random() < 0.5
    until = max(run.now + 1, start) + run.dice.randint(0, 2)

    async def call(side: Side) -> list[Event]:
        found: list[Event] = []
        watch = side.engine.watch(prefix, start_revision=start, previous=previous)
        async with asyncio.timeout(PATIENCE), aclosing(watch) as batches:
            async for batch in whole(batches):
                found += [each if previous else evolve(each, prev=None) for each in batch.events]
                if batch.revision >= until:
                    break
        return found

    watching = asyncio.create_task(run.both("watch", f"{prefix!a} from {start} until {until}", call))
    if run.dice.random() < 0.5:
        await asyncio.sleep(0.01)  # it is under way when the rest is written
    while run.now < until:
        await run.write("put", [Put(f"{prefix}!", b"")])
    await watching


async def grant(run: Comparison) -> None:
    async def call(side: Side) -> None:
        side.leases.append(await side.engine.grant(1000))

    await run.both("grant", "", call)
    run.alive.append(len(run.sides[0].leases) - 1)


async def revoke(run: Comparison) -> None:
    lease = run.lease() or 1
    if await run.both("revoke", f"{lease}", lambda side: side.engine.revoke(side.leases[lease])) is None:
        run.alive.remove(lease)
    run.now = (await run.both("get", "the revision", lambda side: side.engine.get("/d")))[1]


async def keep_alive(run: Comparison) -> None:
    lease = run.lease() or 1
    await run.both("keep alive", f"{lease}", lambda side: side.engine.keep_alive(side.leases[lease]))


async def compact(run: Comparison) -> None:
    """Watches that follow have been told first: one that has fallen behind may be refused."""
    await run.compare_events()
    revision = run.dice.choice([run._compacted, run.revision(), run.revision()])
    if await run.both("compact", f"{revision}", lambda side: side.engine.compact(revision)) is None:
        run._compacted = revision


async def refusal(run: Comparison) -> None:
    key, good = run.dice.choice(REFUSED), run.key()
    call = run.dice.choice(
        [
            lambda side: side.engine.put(key, b""),
            lambda side: side.engine.get(key),
            lambda side: side.engine.delete(key),
            lambda side: side.engine.txn([Compare(key, CompareTarget.VERSION, 0)], [Put(good, b"")]),
            lambda side: side.engine.txn([], [Put(good, b"")], [Get(key)]),
            lambda side: side.engine.txn([], [Put(good, b""), Delete(key)]),
            lambda side: side.engine.put(good, bytes(1536 << 10)),
            lambda side: side.engine.txn([], [Put(good, bytes(900_000))], [Put(good, bytes(900_000))]),
        ]
    )
    assert await run.both("refusal", ascii(key), call) == "refused"


async def look_back(run: Comparison) -> None:
    """Everything, at several revisions, and in pages."""
    for revision in [0, run._compacted, *(run.revision() for _ in range(4))]:
        await run.both("range", f"all at {revision}", lambda side, at=revision: side.engine.range("", revision=at))

    async def paged(side: Side) -> list[KeyValue]:
        found: list[KeyValue] = []
        while True:
            after = found[-1].key if found else ""
            page = await side.engine.range("", start_after=after, limit=3, revision=run.now)
            found += page.kvs
            if not page.more:
                return found

    await run.both("range", "all in pages", paged)


async def restart(run: Comparison) -> None:
    """One of them; what it knew it still knows."""
    await run.compare_events()
    side = run.dice.choice(run.sides)
    await side.stop()
    await side.restart(side)
    side.follow()
    run.counts["restart", "done"] += 1


async def lapse(run: Comparison) -> None:
    """A lease runs out by itself: its keys go at one revision."""

    async def call(side: Side) -> None:
        side.leases.append(await side.engine.grant(1))

    await run.both("grant", "", call)
    lease = len(run.sides[0].leases) - 1
    await run.write("txn", [Put(key, b"1", lease) for key in run.dice.sample(KEYS, 6)])
    await run.write("txn", [run.dice.choice([Put(key, b""), Delete(key)]) for key in run.dice.sample(KEYS, 3)])

    async def gone(side: Side) -> int:
        async with asyncio.timeout(PATIENCE), aclosing(side.engine.watch("", start_revision=run.now + 1)) as batches:
            return (await anext(aiter(batches))).revision

    run.now = await run.both("lapse", "", gone)


STEPS: dict[Step, float] = {
    put: 20, delete: 10, transaction: 30, large_transaction: 0.5, get: 15, range_: 15, watch: 6, grant: 2, revoke: 2,
    keep_alive: 2, compact: 3, refusal: 1, look_back: 1, restart: 0.1, lapse: 0.02,
}  # fmt: skip
