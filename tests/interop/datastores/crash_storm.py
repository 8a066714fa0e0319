"""Writers killed at random moments, between system calls too, while others write and watch the same datastore."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import Factory, define

from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.kv import Event, EventType
from tests.interop.datastores.crash_walk import PATIENCE, Walk, Watcher, integrity

WRITERS = 4


@define
class Storm:
    """``run`` it, then read ``faults``: what did not hold.

    ``watched``: two engines have the datastore open all the time.  Otherwise the writers open and close it again and
    again, so that there is a last one, who removes the log.
    """

    walk: Walk
    path: Path
    seed: int
    watched: bool = True
    faults: list[str] = Factory(list)
    kills: int = 0
    acknowledged: dict[str, int] = Factory(dict)
    """The last transaction of each writer that it was told is stored."""
    events: int = 0
    _alive: set[int] = Factory(set)
    _names: Iterator[int] = Factory(itertools.count)

    async def run(self, seconds: float) -> None:
        engines, watchers = (await self._watch()) if self.watched else ([], [])
        try:
            until = asyncio.get_running_loop().time() + seconds
            await asyncio.gather(*(self._lives(random.Random(self.seed + slot), until) for slot in range(WRITERS)))
            if not self.watched:
                engines, watchers = await self._watch()
            await self._judge(engines[0], watchers)
        except TimeoutError:
            self.faults.append(f"something took more than {PATIENCE:.0f} s")
        finally:
            for watcher in watchers:
                await watcher.stop()
            for engine in engines:
                await engine.close()
        if (answer := integrity(self.path)) != "ok":
            self.faults.append(f"integrity_check: {answer}")

    async def _watch(self) -> tuple[list[EmbeddedEngine], list[Watcher]]:
        engines = [await EmbeddedEngine.open(self.path) for _ in range(2)]
        return engines, [Watcher(engine, 2) for engine in engines]

    async def _lives(self, dice: random.Random, until: float) -> None:
        """One writer after the other, each killed."""
        while (loop := asyncio.get_running_loop()).time() < until:
            name = str(next(self._names))
            reader, conversation = await self.walk.start("write" if self.watched else "visit", name, self.path)
            pid = int((await asyncio.wait_for(reader.readline(), PATIENCE)).split()[1])
            killing = loop.call_later(dice.random() ** 2 * 0.5, self._kill, pid)
            self._alive.add(pid)
            for line in (await reader.read()).splitlines(keepends=True):
                if line.endswith(b"\n"):
                    self.acknowledged[name] = int(line)
            if pid in self._alive:
                killing.cancel()
                self.faults.append(f"writer {name} ended by itself")
            conversation.close()

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._alive.discard(pid)
        self.kills += 1

    async def _judge(self, engine: EmbeddedEngine, watchers: list[Watcher]) -> None:
        # What was written with a lease goes within the second that the lease has, and the one between two looks.
        async with asyncio.timeout(PATIENCE):
            while True:
                stored = await engine.range("")
                if not any(kv.lease for kv in stored.kvs):
                    break
                await asyncio.sleep(0.1)
        for watcher in watchers:
            await watcher.reach(stored.revision)
            self.faults += judge_storm(watcher, stored.revision, self.acknowledged)
            self.events += sum(map(len, watcher.events.values()))
        if watchers[0].events != watchers[1].events:
            self.faults.append("two watches were told different things")
        told = {event.kv.key: event.kv for events in watchers[0].events.values() for event in events}
        live = {key: kv for key, kv in told.items() if not key.startswith("/leased/")}
        if {kv.key: kv for kv in stored.kvs} != live:
            self.faults.append("what is stored is not what the watch was told")


def judge_storm(watcher: Watcher, revision: int, acknowledged: dict[str, int]) -> Iterable[str]:
    """What is wrong with the events of a watch from the beginning to ``revision``."""
    if watcher.fault:
        yield watcher.fault
    last: dict[str, int] = {}
    leased: set[str] = set()
    for number in range(2, revision + 1):
        events = watcher.events.get(number, [])
        deleted = [event.kv.key for event in events if event.type is EventType.DELETE]
        if deleted:
            if len(events) > 1 or deleted[0] not in leased:
                yield f"revision {number} should be one expired lease, the watch said {deleted} of {len(events)}"
            leased.discard(deleted[0])
            continue
        name, count = _transaction(events)
        if count != last.get(name, -1) + 1:
            yield f"revision {number}: transaction {name} {count} behind {last.get(name)}, the watch said {events}"
        last[name] = count
        leased |= {event.kv.key for event in events if event.kv.lease}
    if leased:
        yield f"nobody was told that {sorted(leased)} expired"
    for name, count in acknowledged.items():
        if last.get(name, -1) < count:
            yield f"transaction {name} {count} was acknowledged and is not there, but {last.get(name)}"


def _transaction(events: list[Event]) -> tuple[str, int]:
    """Which whole transaction these events are; an empty name for none."""
    values = {event.kv.key: event.kv.value for event in events}
    name, _, count = values.get("/all", b" -1").decode().partition(" ")
    whole = {"/all", f"/last/{name}", f"/w/{name}/{count}"}
    if values.keys() - {f"/leased/{name}/{count}"} == whole and values[f"/last/{name}"] == count.encode():
        return name, int(count)
    return "", -1
