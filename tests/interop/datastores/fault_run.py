"""A cluster under faults while writers write and watchers watch, and the oracle that judges what they were told.

What has to hold: a watcher's events come in the order of their revisions, none twice, none that nobody wrote; none is
missing but those of a reported relist; a write reported as done is there and at its revision, one reported as failed
is not, ``OutcomeUnknown`` is either; of several swaps from one revision one wins; at the end what each watcher knows
equals a linearizable read; and a lease that was kept alive in time is there.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TypeAlias

from attrs import define, field, frozen

from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.datastores.kv import Compare, CompareTarget, Delete, Event, EventType, KeyValue, Operation, Put
from calico_node.errors import Compacted, DatastoreError, OutcomeUnknown
from tests.interop.datastores.cluster import Cluster, Member

PREFIX = "/f/"
_LEASE = 6

Fault: TypeAlias = Callable[["Run", Member, float], Awaitable[None]]


@frozen
class Change:
    """One key's part of a write; ``value`` None is a deletion."""

    key: str
    value: bytes | None


@define
class Write:
    changes: tuple[Change, ...]
    expected: tuple[tuple[str, int], ...]
    """The mod_revision that each key had to have, as compared."""
    outcome: str = "unknown"
    """``done``, ``failed`` (nothing was changed) or ``unknown``."""
    revision: int = 0


@define
class Watcher:
    """Follows the prefix as a syncer does; ``trusting`` resumes from mere progress, too."""

    engine: EtcdEngine
    trusting: bool
    state: dict[str, KeyValue] = field(factory=dict)
    events: list[Event] = field(factory=list)
    gaps: list[tuple[int, int]] = field(factory=list)
    """What a list stood in for: revisions from (exclusive) – to (inclusive)."""
    revision: int = 0
    faults: list[str] = field(factory=list)
    losses: int = 0
    _reached: asyncio.Event = field(factory=asyncio.Event)
    _awaited: int = 0

    async def follow(self) -> None:
        resume = 0
        while True:
            try:
                if not resume:
                    resume = await self._list()
                async with aclosing(self.engine.watch(PREFIX, start_revision=resume + 1)) as batches:
                    async for batch in batches:
                        for event in batch.events:
                            self._take(event, resume)
                        if batch.revision < self.revision:
                            self.faults.append(f"progress goes back from {self.revision} to {batch.revision}")
                        if batch.events or self.trusting:
                            resume = max(resume, batch.revision)
                        self._advance(batch.revision)
            except Compacted:
                resume = 0
            except DatastoreError:
                self.losses += 1
            if resume:
                self.revision = resume
            await asyncio.sleep(0.1)

    async def until(self, revision: int) -> None:
        self._awaited = revision
        if self.revision < revision:
            self._reached.clear()
            await self._reached.wait()

    def _advance(self, revision: int) -> None:
        self.revision = revision
        if revision >= self._awaited:
            self._reached.set()

    async def _list(self) -> int:
        found = await self.engine.range(PREFIX)
        last = self.events[-1].kv.mod_revision if self.events else 0
        newest = max([last, *(end for _, end in self.gaps)])
        if found.revision < newest:
            self.faults.append(f"a list at {found.revision} after {newest}")
        self.gaps.append((newest, found.revision))
        self.state = {kv.key: kv for kv in found.kvs}
        self._advance(found.revision)
        return found.revision

    def _take(self, event: Event, resume: int) -> None:
        revision = event.kv.mod_revision
        last = self.events[-1] if self.events else None
        if revision <= resume or (last is not None and revision < last.kv.mod_revision):
            self.faults.append(f"{event} after {last}, resumed from {resume}")
        if revision <= self.revision:
            self.faults.append(f"{event} after progress up to {self.revision}")
        before = self.state.get(event.kv.key)
        # A compaction may have taken what was there before.
        if event.prev is not None and event.prev.mod_revision != (before.mod_revision if before else 0):
            self.faults.append(f"{event} in place of {before}")
        self.events.append(event)
        if event.type is EventType.DELETE:
            self.state.pop(event.kv.key, None)
        else:
            self.state[event.kv.key] = event.kv

    def saw(self, revision: int) -> bool:
        """Whether an event of ``revision`` must have come here."""
        return not any(start < revision <= end for start, end in self.gaps)


class Run:
    """``longest`` bounds the length of a fault in seconds."""

    def __init__(self, cluster: Cluster, seed: int, longest: float, report: Callable[[str], None]) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.longest = longest
        self.report = report
        self.writes: list[Write] = []
        self.watchers: list[Watcher] = []
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self._writing = True
        self._stack = AsyncExitStack()

    def _engine(self) -> EtcdEngine:
        engine = EtcdEngine(self.cluster.endpoints)
        self._stack.push_async_callback(engine.close)
        return engine

    async def run(self, seconds: float) -> None:
        """Faults for so long, then the judgement: ``self.faults`` says what did not hold."""
        async with self._stack, asyncio.TaskGroup() as group:
            background = []
            for number in range(4):
                self.watchers.append(Watcher(self._engine(), trusting=number % 2 == 0))
                background.append(group.create_task(self.watchers[-1].follow()))
            writers = [
                group.create_task(self._write(f"w{number}", self._engine(), random.Random(self.random.random())))
                for number in range(3)
            ]
            writers.append(group.create_task(self._keep(self._engine())))
            end = time.monotonic() + seconds
            order: list[Fault] = []
            while time.monotonic() < end:
                order = order or self.random.sample(FAULTS, len(FAULTS))
                await self._disturb(order.pop())
            await self.cluster.healthy()
            self._writing = False
            await asyncio.wait(writers)
            await self._judge()
            for task in background:
                task.cancel()

    async def _disturb(self, fault: Fault) -> None:
        member = self.random.choice(self.cluster.members)
        length = self.random.uniform(0.3, self.longest)
        name = fault.__name__
        self.counts[f"fault {name}"] += 1
        self.report(f"{name} of member {member.number}, {length:.1f} s")
        with suppress(RuntimeError):  # what etcdctl cannot do now is done another time
            await fault(self, member, length)
        await asyncio.sleep(self.random.uniform(0.2, 1.0))

    # What runs meanwhile

    async def _write(self, name: str, engine: EtcdEngine, chance: random.Random) -> None:
        number = 0
        while self._writing:
            number += 1
            await asyncio.sleep(chance.uniform(0.0, 0.06))
            keys = chance.sample([f"{PREFIX}{letter}" for letter in "abcdefgh"], chance.choice((1, 1, 3)))
            try:
                stored = {key: (await engine.get(key))[0] for key in keys}
            except DatastoreError:
                self.counts["read failed"] += 1
                continue
            changes, operations, expected = [], [], []
            for key in keys:
                kv = stored[key]
                value = None if kv and chance.random() < 0.2 else f"{name}-{number}".encode()
                changes.append(Change(key, value))
                operations.append(Delete(key) if value is None else Put(key, value))
                expected.append((key, kv.mod_revision if kv else 0))
            write = Write(tuple(changes), tuple(expected))
            self.writes.append(write)
            await self._carry_out(engine, write, operations)

    async def _carry_out(self, engine: EtcdEngine, write: Write, operations: Sequence[Operation]) -> None:
        compares = [Compare(key, CompareTarget.MOD_REVISION, revision) for key, revision in write.expected]
        try:
            result = await engine.txn(compares, operations)
        except OutcomeUnknown:
            write.outcome = "unknown"
        except DatastoreError:
            write.outcome = "failed"
        else:
            write.outcome = "done" if result.succeeded else "failed"
            write.revision = result.revision
        self.counts[f"write {write.outcome}"] += 1

    async def _keep(self, engine: EtcdEngine) -> None:
        """A status key under a lease, as a node has; it may be lost only after the lease's time without a renewal."""
        lease, renewed = 0, 0.0
        while self._writing:
            asked = time.monotonic()
            try:
                if not lease:
                    lease, renewed = await engine.grant(_LEASE), asked
                    await engine.put("/status", b"x", lease=lease)
                await engine.keep_alive(lease)
                renewed = asked
            except OutcomeUnknown:
                lease = 0
            except DatastoreError as error:
                if "does not exist, or has run out" in str(error):
                    if asked - renewed < _LEASE - 1:
                        self.faults.append(f"the lease is gone {asked - renewed:.1f} s after its renewal")
                    lease = 0
                    self.counts["lease ran out"] += 1
            await asyncio.sleep(0.5)

    # The judgement

    async def _judge(self) -> None:
        engine = self._engine()
        last = await engine.put("/f/zz-last", b"last")
        self.writes.append(Write((Change("/f/zz-last", b"last"),), (), "done", last))
        started = time.monotonic()
        try:
            async with asyncio.timeout(30):
                for watcher in self.watchers:
                    await watcher.until(last)
        except TimeoutError:
            self.faults.append(f"watchers stand at {[w.revision for w in self.watchers]}, the end is {last}")
        self.report(f"all watchers at the end after {time.monotonic() - started:.1f} s")
        stored = {kv.key: kv for kv in (await engine.range(PREFIX)).kvs}
        self._judge_writes(stored)
        for number, watcher in enumerate(self.watchers):
            self.counts["events"] += len(watcher.events)
            self.counts["relists"] += len(watcher.gaps) - 1
            self.counts["watches lost"] += watcher.losses
            self.faults += [f"watcher {number}: {fault}" for fault in watcher.faults]
            self.faults += [f"watcher {number}: {fault}" for fault in self._judge_events(watcher)]
            if watcher.state != stored:
                self.faults.append(f"watcher {number} ends with {watcher.state}, stored is {stored}")

    def _judge_writes(self, stored: dict[str, KeyValue]) -> None:
        refused = {change for write in self.writes if write.outcome == "failed" for change in write.changes}
        for kv in stored.values():
            if Change(kv.key, kv.value) in refused:
                self.faults.append(f"{kv} is stored, its write was reported as failed")
        winners: dict[tuple[str, int], Write] = {}
        for write in self.writes:
            if write.outcome != "done":
                continue
            for change in write.changes:
                kv = stored.get(change.key)
                if change.value is not None and (kv is None or kv.mod_revision <= write.revision):
                    later = any(
                        c.key == change.key and c.value is None
                        for other in self.writes
                        if other.revision > write.revision or other.outcome == "unknown"
                        for c in other.changes
                    )
                    if not (kv is None and later) and (kv is None or kv.value != change.value):
                        self.faults.append(f"{write} was done, stored is {kv}")
            for condition in write.expected:
                if condition[1] and condition in winners:
                    self.faults.append(f"{write} and {winners[condition]} have both swapped the same")
                winners[condition] = write

    def _judge_events(self, watcher: Watcher) -> list[str]:
        faults = []
        possible: dict[tuple[str, bytes | None], list[Write]] = {}
        done: set[tuple[str, int]] = set()
        for write in self.writes:
            for change in write.changes:
                possible.setdefault((change.key, change.value), []).append(write)
        for event in watcher.events:
            kv = event.kv
            value = None if event.type is EventType.DELETE else kv.value
            makers = possible.get((kv.key, value), [])
            if not any(
                w.outcome == "unknown" or w.revision == kv.mod_revision for w in makers if w.outcome != "failed"
            ):
                faults.append(f"{event} was written by nobody")
            if (kv.key, kv.mod_revision) in done:
                faults.append(f"{event} came twice")
            done.add((kv.key, kv.mod_revision))
        for write in self.writes:
            if write.outcome == "done" and watcher.saw(write.revision):
                faults += [
                    f"{write} did not come" for change in write.changes if (change.key, write.revision) not in done
                ]
        return faults


# Faults


async def partition(run: Run, member: Member, length: float) -> None:
    await run.cluster.partition(member)
    await asyncio.sleep(length)
    await run.cluster.partition(member, healed=True)


async def partition_of_the_leader_and_compaction(run: Run, member: Member, length: float) -> None:
    leader, _ = await run.cluster.leader()
    await run.cluster.partition(leader or member)
    await asyncio.sleep(length)
    try:
        await compaction(run, member, length)
    finally:
        await run.cluster.partition(leader or member, healed=True)


async def leader_moves(run: Run, member: Member, length: float) -> None:
    leader, others = await run.cluster.leader()
    if leader is not None and others:
        await run.cluster.etcdctl("move-leader", run.random.choice(others), member=leader)


async def kill_and_restart(run: Run, member: Member, length: float) -> None:
    await member.kill()
    await asyncio.sleep(length)
    member.start()


async def restart_of_all(run: Run, member: Member, length: float) -> None:
    for each in run.cluster.members:
        await each.kill()
    await asyncio.sleep(length / 4)
    for each in run.cluster.members:
        each.start()
    await run.cluster.healthy()


async def standstill(run: Run, member: Member, length: float) -> None:
    member.signal(signal.SIGSTOP)
    await asyncio.sleep(length)
    member.signal(signal.SIGCONT)


async def compaction(run: Run, member: Member, length: float) -> None:
    revision = max(watcher.revision for watcher in run.watchers)
    await run.cluster.etcdctl("compact", str(revision))


async def defragmentation(run: Run, member: Member, length: float) -> None:
    await run.cluster.etcdctl("defrag", member=member)


async def hang(run: Run, member: Member, length: float) -> None:
    member.forwarder.hang()
    await asyncio.sleep(length)
    member.forwarder.flow()


async def hang_that_is_cut(run: Run, member: Member, length: float) -> None:
    member.forwarder.hang()
    await asyncio.sleep(length)
    member.forwarder.cut()
    member.forwarder.flow()


async def compaction_while_a_client_hangs(run: Run, member: Member, length: float) -> None:
    member.forwarder.hang()
    await asyncio.sleep(length)
    others = [each for each in run.cluster.members if each is not member]
    revision = max(watcher.revision for watcher in run.watchers)
    try:
        await run.cluster.etcdctl("compact", str(revision), member=others[0])
    finally:
        member.forwarder.cut()
        member.forwarder.flow()


FAULTS: list[Fault] = [
    partition,
    partition_of_the_leader_and_compaction,
    leader_moves,
    kill_and_restart,
    restart_of_all,
    standstill,
    compaction,
    defragmentation,
    hang,
    hang_that_is_cut,
    compaction_while_a_client_hangs,
]
