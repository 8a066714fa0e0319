"""A walk that kills the embedded datastore's writer before every system call by which it changes something.

strace does the killing: the writer dies on entering its N-th call of a kind, for N = 1, 2, … until it outlives its
scenario.  What a killed writer leaves is judged by an engine that has watched all the time and by one that is opened
behind the crash and carries on where the killed one stopped.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import re
import shutil
import sqlite3
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from attrs import Factory, define, frozen

from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.kv import Delete, Event, EventType, WatchBatch
from calico_node.errors import Compacted, DatastoreError
from tests.interop.datastores.crash_plan import (
    Change,
    Scenario,
    Write,
    Writer,
    rest,
    revisions,
    state_after,
    write,
)

CALLS = (
    "pwrite64", "write", "writev", "ftruncate", "fallocate", "fsync", "fdatasync", "rename", "renameat", "renameat2",
    "unlink", "unlinkat", "link", "linkat", "mkdir", "mkdirat", "open", "openat", "close", "mmap", "munmap", "flock",
    "fcntl", "fchown", "fchmod",
)  # fmt: skip
"""What a writer is killed before; strace passes over those that the machine does not know."""

FAILURES = (
    ("pwrite64", "ENOSPC"), ("pwrite64", "EIO"), ("fdatasync", "EIO"), ("ftruncate", "EIO"), ("openat", "EMFILE"),
)  # fmt: skip
"""What a writer's calls fail with: a full disk, one that is broken for a moment, too many files."""

PATIENCE = 8.0
"""Seconds until something that should be there at once or within two counts as missing: machines may be busy."""
TOGETHER = 6


@frozen
class Place:
    """Before the ``number``-th ``call``, counted per thread."""

    scenario: str
    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.scenario}: {self.call} {self.number}"


@define
class Outcome:
    """``faults`` says what did not hold; ``seen`` and ``wrote`` are the seconds until the watcher had seen all that
    the killed writer had committed, and until the next one had opened the datastore."""

    place: Place
    killed: bool
    faults: list[str] = Factory(list)
    seen: float = 0.0
    opened: float = 0.0


class Watcher:
    """Collects what one watch of everything says, and notices what is not in order."""

    def __init__(self, engine: EmbeddedEngine, start: int) -> None:
        self.start = start
        self.revision = start - 1
        self.events: dict[int, list[Event]] = {}
        self.fault = ""
        self._moved = asyncio.Condition()
        self._task = asyncio.create_task(self._watch(engine, start))

    async def _watch(self, engine: EmbeddedEngine, start: int) -> None:
        try:
            async with aclosing(engine.watch("", start_revision=start)) as watch:
                async for batch in watch:
                    self._take(batch)
                    async with self._moved:
                        self._moved.notify_all()
        except DatastoreError as error:
            self.fault = f"the watch ended: {error!r}"

    def _take(self, batch: WatchBatch) -> None:
        for revision, events in itertools.groupby(batch.events, lambda event: event.kv.mod_revision):
            if revision <= self.revision or revision > batch.revision or revision in self.events:
                self.fault = (
                    self.fault or f"revision {revision} came at {self.revision}, in a batch to {batch.revision}"
                )
            self.events[revision] = list(events)
        self.revision = batch.revision

    async def reach(self, revision: int) -> None:
        async with self._moved:
            await asyncio.wait_for(self._moved.wait_for(lambda: self.revision >= revision or self.fault), PATIENCE)

    async def end(self) -> None:
        """Wait until the watch has been told that it must begin anew."""
        await asyncio.wait({self._task}, timeout=PATIENCE)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def judge_events(watcher: Watcher, changes: Sequence[tuple[Change, ...]], compacting: bool) -> Iterator[str]:
    """What is wrong with the events that a watch was told; the store holds ``changes``.

    What was there before an event may be gone where someone compacts.
    """
    if watcher.fault:
        yield watcher.fault
    for revision in range(watcher.start, len(changes) + 2):
        before, expected = state_after(changes[: revision - 2]), sorted(changes[revision - 2], key=lambda c: c.key)
        events = sorted(watcher.events.get(revision, []), key=lambda event: event.kv.key)
        found = [(event.kv.key, None if event.type is EventType.DELETE else event.kv.value) for event in events]
        if found != [(change.key, None if isinstance(change, Delete) else change.value) for change in expected]:
            yield f"revision {revision} should be {expected}, the watch said {found}"
        previous = {event.kv.key: event.prev.value for event in events if event.prev}
        replaced = {change.key: before[change.key] for change in expected if change.key in before}
        if previous != replaced and not (compacting and previous.items() <= replaced.items()):
            yield f"revision {revision}: what was there before was told as {previous}"
    extra = [revision for revision in watcher.events if not watcher.start <= revision < len(changes) + 2]
    if extra:
        yield f"events at the revisions {extra}, which nobody made"


@define
class Walk:
    """The places of the folder ``folder``'s scenarios, one by one or all; use it as made by ``walking``."""

    folder: Path
    socket: Path
    _serial: Iterator[int] = Factory(itertools.count)

    async def template(self, scenario: Scenario) -> Path:
        """What is there before ``scenario``: a folder to copy."""
        folder = self.folder / scenario.name
        if not folder.exists():
            folder.mkdir()
            if scenario.crashed:
                reader, _ = await self.start("crash", scenario.name, folder / "db")
                await reader.read()
            else:
                maker = Writer(folder / "db")
                await maker.carry_out(scenario.before)
                await maker.close()
        return folder

    async def start(self, what: str, name: str, path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A conversation with a new process that does ``what`` (see ``crash_writer``) with the datastore ``path``."""
        reader, conversation = await asyncio.open_unix_connection(self.socket)
        conversation.write(json.dumps([what, name, str(path)]).encode() + b"\n")
        return reader, conversation

    async def counts(self, scenario: Scenario) -> dict[str, int]:
        """How many calls of each kind the scenario makes, at most in one thread."""
        log = self.folder / f"{scenario.name}.log"
        place = Place(scenario.name, "", 0)
        await self.step(scenario, place, ["-o", str(log), "-e", "trace=" + ",".join(f"?{call}" for call in CALLS)])
        return count_calls(log)

    async def kill(self, scenario: Scenario, call: str, number: int) -> Outcome:
        """Carry out ``scenario`` and kill the writer before its ``number``-th ``call``."""
        return await self.step(scenario, Place(scenario.name, call, number), inject(call, number))

    async def whole(self, scenario: Scenario, counts: dict[str, int]) -> AsyncIterator[Outcome]:
        """Every place of ``scenario``: of each call that it makes, the first, the second … until it lives on."""
        for call in counts:
            for first in itertools.count(1, TOGETHER):
                numbers = range(first, first + TOGETHER)
                outcomes = await asyncio.gather(*(self.kill(scenario, call, number) for number in numbers))
                for outcome in outcomes:
                    yield outcome
                if not outcomes[-1].killed:
                    break

    async def sample(self, scenario: Scenario, offset: int, stride: int) -> list[Outcome]:
        """Kill at every ``stride``-th place of ``scenario``, from ``offset`` on."""
        places = [(call, n) for call, count in (await self.counts(scenario)).items() for n in range(1, count + 1)]
        chosen = places[offset % stride :: stride]
        return await gather_some(self.kill(scenario, call, number) for call, number in chosen)

    async def fail(self, scenario: Scenario, offset: int, stride: int) -> list[Outcome]:
        """Every ``stride``-th of the ``FAILURES`` that ``scenario`` can meet; "killed" if something was refused."""
        counts = await self.counts(scenario)
        places = [(*failure, n) for failure in FAILURES for n in range(1, counts.get(failure[0], 0) + 1)]
        steps = []
        for call, error, number in places[offset % stride :: stride]:
            options = ["-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"]
            steps.append(self.step(scenario, Place(scenario.name, f"{error} of {call}", number), options, "stumble"))
        return await gather_some(steps)

    async def step(self, scenario: Scenario, place: Place, options: Sequence[str], what: str = "act") -> Outcome:
        template = await self.template(scenario)
        folder = self.folder / str(next(self._serial))
        shutil.copytree(template, folder)
        watching = await EmbeddedEngine.open(folder / "db") if scenario.watched else None
        start = 2 + sum(len(revisions(step)) for step in scenario.before)
        watcher = Watcher(watching, start) if watching else None
        outcome = Outcome(place, killed=False)
        try:
            acknowledged = await self._act(what, scenario, folder / "db", options, outcome, watcher)
            await _judge(scenario, folder / "db", acknowledged, watcher, outcome)
        finally:
            if watcher and watching:
                await watcher.stop()
                await watching.close()
        if (answer := integrity(folder / "db")) != "ok":
            outcome.faults.append(f"integrity_check: {answer}")
        shutil.rmtree(folder)
        return outcome

    async def _act(
        self,
        what: str,
        scenario: Scenario,
        path: Path,
        options: Sequence[str],
        outcome: Outcome,
        watcher: Watcher | None,
    ) -> int:
        """Let the writer run into strace's trap; the last revision it acknowledged."""
        reader, conversation = await self.start(what, scenario.name, path)
        try:
            answer = await reader.readline()
            while answer.strip().isdigit():  # what it did to prepare
                answer = await reader.readline()
            words = answer.split()
            if words[:1] != [b"ready"]:
                raise RuntimeError(f"{outcome.place}: the writer is not ready: {answer!r}")
            if watcher:
                await watcher.reach(watcher.start + sum(len(revisions(step)) for step in scenario.prepare) - 1)
            strace = await attach(int(words[1]), options)
            conversation.write(b"!")
            lines = (await reader.read()).splitlines()
            assert strace.stderr is not None
            await strace.stderr.read()
            await strace.wait()
        finally:
            conversation.close()
        done = bool(lines) and lines[-1] == b"done"
        outcome.killed = not done
        if what == "stumble":
            outcome.killed = any(line.startswith(b"refused") for line in lines)
            if not done:
                outcome.faults.append(f"the writer did not get over it: {lines[-1:]}")
        return max((int(line) for line in lines if line.isdigit()), default=0)


async def gather_some(steps: Iterable[Awaitable[Outcome]]) -> list[Outcome]:
    """All of them, ``TOGETHER`` at a time."""
    turn = asyncio.Semaphore(TOGETHER)

    async def one(step: Awaitable[Outcome]) -> Outcome:
        async with turn:
            return await step

    return await asyncio.gather(*map(one, steps))


def count_calls(log: Path) -> dict[str, int]:
    """How many calls of each kind strace's ``log`` has, at most in one thread."""
    found = collections.Counter(
        (match[1], match[2]) for match in re.finditer(r"^(\d+) +(\w+)\(", log.read_text(), re.M)
    )
    most: dict[str, int] = {}
    for (_, call), count in found.items():
        most[call] = max(most.get(call, 0), count)
    return dict(sorted(most.items()))


def inject(call: str, number: int) -> list[str]:
    """strace's options to kill before the ``number``-th ``call``."""
    return ["-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]


async def attach(pid: int, options: Sequence[str]) -> Process:
    """strace, tracing the process ``pid`` and all its threads when this returns."""
    strace = await asyncio.create_subprocess_exec(
        "strace", "-f", "-p", str(pid), *options, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )
    assert strace.stderr is not None
    answer = await strace.stderr.readline()
    if b"attached" not in answer:
        raise RuntimeError(f"strace cannot trace a process of the same user: {answer.decode().strip()}")
    return strace


async def _judge(
    scenario: Scenario, path: Path, acknowledged: int, watcher: Watcher | None, outcome: Outcome
) -> None:
    """What the watcher and a new engine see behind the crash, and whether the plan can be carried on."""
    faults = outcome.faults
    planned = [changes for step in scenario.plan for changes in revisions(step)]
    began = time.monotonic()
    writer = Writer(path)
    try:
        engine = await asyncio.wait_for(writer.open(), PATIENCE)
        outcome.opened = time.monotonic() - began
        stored = await engine.range("")
        done = stored.revision - 1
        if stored.revision < acknowledged:
            faults.append(f"revision {acknowledged} was acknowledged, the store is at {stored.revision}")
        if {kv.key: kv.value for kv in stored.kvs} != state_after(planned[:done]):
            faults.append(f"revision {stored.revision} is not whole: {[kv.key for kv in stored.kvs]}")
        if watcher:
            await watcher.reach(stored.revision)
            outcome.seen = time.monotonic() - began
            faults += judge_events(watcher, planned[:done], scenario.compacts)
        # The next writer goes on, and so does whoever has been there all the time.
        await asyncio.wait_for(writer.carry_out(rest(scenario.plan, done)), PATIENCE)
        last = Write((write(999).changes[3],))
        await asyncio.wait_for(writer.carry_out([last]), PATIENCE)
        planned.append(last.changes)
        if watcher:
            await watcher.reach(len(planned) + 1)
            faults += judge_events(watcher, planned, scenario.compacts)
        faults += [fault async for fault in _judge_history(await writer.open(), planned, scenario.compacts)]
    except TimeoutError:
        faults.append(f"something took more than {PATIENCE:.0f} s")
    except DatastoreError as error:
        faults.append(f"the next one met {error!r}")
    finally:
        await writer.close()


async def _judge_history(
    engine: EmbeddedEngine, planned: Sequence[tuple[Change, ...]], compacts: bool
) -> AsyncIterator[str]:
    """What is wrong with the store when all is done: its end, its past, and a watch from the beginning."""
    end = len(planned) + 1
    oldest = await _oldest(engine)
    for revision in range(2, end + 1):
        try:
            stored = await engine.range("", revision=revision)
        except Compacted:
            if revision >= oldest - 1:
                yield f"revision {revision} cannot be read, a watch may start at {oldest}"
            continue
        if {kv.key: kv.value for kv in stored.kvs} != state_after(planned[: revision - 1]):
            yield f"revision {revision}, read at the end, holds {[kv.key for kv in stored.kvs]}"
    watcher = Watcher(engine, oldest)
    await watcher.reach(end)
    await watcher.stop()
    for fault in judge_events(watcher, planned, compacts):
        yield f"a new watch: {fault}"


async def _oldest(engine: EmbeddedEngine) -> int:
    """The first revision that a watch of everything may start at."""
    try:
        async with aclosing(engine.watch("", start_revision=2)) as watch:
            await anext(watch)
    except Compacted as error:
        return error.compact_revision + 1
    return 2


def integrity(path: Path) -> str:
    """SQLite's own judgement: ``ok``, or what is damaged."""
    database = sqlite3.connect(path)
    try:
        return str(database.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        database.close()


@asynccontextmanager
async def walking(folder: Path) -> AsyncIterator[Walk]:
    """A walk whose files are in ``folder``.  Raises ``RuntimeError`` where strace is not installed."""
    if shutil.which("strace") is None:
        raise RuntimeError("strace is not installed: apt-get install strace")
    socket = folder / "socket"
    command = (sys.executable, "-m", "tests.interop.datastores.crash_writer", str(socket))
    server = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE)
    assert server.stdout is not None
    try:
        await asyncio.wait_for(server.stdout.readline(), 30)
        yield Walk(folder, socket)
    finally:
        server.terminate()
        await server.wait()
