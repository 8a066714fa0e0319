"""Backup and restore of the embedded datastore, killed before every system call by which they change something.

Of a backup there is nothing or all; a restore leaves what was there or what was restored, and what was there is kept.
Nodes that have the datastore open see either, and the same command, given again, gets to the end.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import Factory, define, frozen

from calico_node.datastores.embedded import EmbeddedEngine, copies
from calico_node.errors import Compacted, DatastoreError
from tests.interop.datastores.crash_plan import Writer, revisions, state_after, writes
from tests.interop.datastores.crash_walk import (
    CALLS,
    PATIENCE,
    Outcome,
    Place,
    Walk,
    Watcher,
    attach,
    count_calls,
    gather_some,
    inject,
    integrity,
)

_OLD, _NEW = writes(0, 6, 3000), writes(0, 3)
OLD = state_after([changes for step in _OLD for changes in revisions(step)])
NEW = state_after([changes for step in _NEW for changes in revisions(step)])
OLD_REVISION = 1 + len(_OLD)


@frozen
class Copying:
    """``what`` is backup or restore; ``used``: an engine has the store open; ``store``: there, damaged or absent."""

    name: str
    what: str
    used: bool = False
    store: str = "there"


COPYINGS = (
    Copying("backup in use", "backup", used=True),
    Copying("backup", "backup"),
    Copying("restore in use", "restore", used=True),
    Copying("restore", "restore"),
    Copying("restore of a damaged store", "restore", store="damaged"),
    Copying("restore of a lost store", "restore", store="absent"),
)


@define
class Copies:
    walk: Walk
    _serial: Iterator[int] = Factory(itertools.count)

    async def _begin(self, copying: Copying) -> Path:
        template = self.walk.folder / f"before {copying.name}"
        if not template.exists():
            template.mkdir()
            for path, plan in ((template / "db", _OLD), (template / "other" / "db", _NEW)):
                maker = Writer(path)
                await maker.carry_out(plan)
                await maker.close()
            copies.backup(template / "other" / "db", template / "copy")
            if copying.store == "damaged":
                (template / "db").write_bytes(b"rubbish" * 5000)
            elif copying.store == "absent":
                (template / "db").unlink()
        folder = self.walk.folder / f"copying {next(self._serial)}"
        shutil.copytree(template, folder)
        return folder

    async def counts(self, copying: Copying) -> dict[str, int]:
        """How many calls of each kind the copying makes."""
        log = self.walk.folder / f"{copying.name}.log"
        options = ["-o", str(log), "-e", "trace=" + ",".join(f"?{call}" for call in CALLS)]
        outcome = await self._step(copying, Place(copying.name, "", 0), options)
        assert not outcome.faults, outcome.faults
        return count_calls(log)

    async def sample(self, copying: Copying, offset: int, stride: int) -> list[Outcome]:
        """Kill before every ``stride``-th of these calls, from ``offset`` on."""
        places = [(call, n) for call, count in (await self.counts(copying)).items() for n in range(1, count + 1)]
        return await gather_some(
            self._step(copying, Place(copying.name, call, number), inject(call, number))
            for call, number in places[offset % stride :: stride]
        )

    async def _step(self, copying: Copying, place: Place, options: Sequence[str]) -> Outcome:
        folder = await self._begin(copying)
        path = folder / "db"
        outcome = Outcome(place, killed=False)
        engine = await EmbeddedEngine.open(path) if copying.used else None
        watcher = Watcher(engine, 2) if engine else None
        try:
            await self._act(copying, folder, options, outcome)
            judge = _judge_backup if copying.what == "backup" else _judge_restore
            async with asyncio.timeout(3 * PATIENCE):
                await judge(copying, folder, engine, watcher, outcome)
        except TimeoutError:
            outcome.faults.append(f"something took more than {3 * PATIENCE:.0f} s")
        finally:
            if engine and watcher:
                await watcher.stop()
                await engine.close()
        if (answer := integrity(path)) != "ok":
            outcome.faults.append(f"integrity_check: {answer}")
        shutil.rmtree(folder)
        return outcome

    async def _act(self, copying: Copying, folder: Path, options: Sequence[str], outcome: Outcome) -> None:
        reader, conversation = await self.walk.start("copy", copying.what, folder)
        try:
            strace = await attach(int((await reader.readline()).split()[1]), options)
            conversation.write(b"!")
            said = await reader.read()
            assert strace.stderr is not None
            await strace.stderr.read()
            await strace.wait()
        finally:
            conversation.close()
        outcome.killed = not said
        if said not in (b"", b"done"):
            outcome.faults.append(said.decode())


async def _read(path: Path) -> tuple[dict[str, bytes], int]:
    engine = await EmbeddedEngine.open(path)
    try:
        stored = await engine.range("")
    finally:
        await engine.close()
    return {kv.key: kv.value for kv in stored.kvs}, stored.revision


def _kept(folder: Path) -> list[Path]:
    return [path for path in folder.glob("db.replaced-*") if not path.name.endswith(("-wal", "-shm"))]


async def _content(copy: Path) -> dict[str, bytes]:
    """Of a copy: what a store holds that it is restored to."""
    copies.examine(copy)
    place = copy.parent / "tried" / "db"
    await asyncio.to_thread(copies.restore, place, copy)
    content, _ = await _read(place)
    shutil.rmtree(place.parent)
    return content


async def _judge_backup(
    _: Copying, folder: Path, engine: EmbeddedEngine | None, watcher: Watcher | None, outcome: Outcome
) -> None:
    faults, target = outcome.faults, folder / "target"
    if not outcome.killed and not target.exists():
        faults.append("there is no backup")
    if target.exists() and await _content(target) != OLD:
        faults.append("the backup is not what was stored")
    if await _read(folder / "db") != (OLD, OLD_REVISION):
        faults.append("the store has changed")
    await asyncio.to_thread(copies.backup, folder / "db", target, replace=target.exists())
    if await _content(target) != OLD:
        faults.append("the next backup is not what was stored")
    if engine and watcher:
        await watcher.reach(await engine.put("/last", b"999"))
        if watcher.fault:
            faults.append(watcher.fault)


async def _judge_restore(
    copying: Copying, folder: Path, engine: EmbeddedEngine | None, watcher: Watcher | None, outcome: Outcome
) -> None:
    faults, path = outcome.faults, folder / "db"
    try:
        content, revision = await _read(path)
    except DatastoreError as error:
        if copying.store == "there" or "datastore restore FILE" not in str(error):
            faults.append(f"opening said {error}")
        content, revision = {}, 0
    else:
        if (content, revision) != (OLD, OLD_REVISION) and (content != NEW or revision <= copies.REVISIONS_SKIPPED):
            faults.append(f"{sorted(content)} at {revision} is neither what was there nor what was restored")
        if not outcome.killed and content != NEW:
            faults.append("what is there was not restored")
    if (
        revision > OLD_REVISION
        and copying.store == "there"
        and [await _content(kept) for kept in _kept(folder)] != [OLD]
    ):
        faults.append(f"what was there is not kept as it was: {_kept(folder)}")
    if engine and watcher:
        faults += await _judge_node(engine, watcher, content, revision)
    restored = await asyncio.to_thread(copies.restore, path, folder / "copy", replace=True)
    if await _read(path) != (NEW, restored.revision):
        faults.append("the next restore is not what was restored")
    if engine:
        if await engine.put("/last", b"999") != restored.revision + 1:
            faults.append("who has the store open does not go on with what was restored")
        if (await _read(path))[0] != {**NEW, "/last": b"999"}:
            faults.append("what was written behind the restore is not there")


async def _judge_node(
    engine: EmbeddedEngine, watcher: Watcher, content: dict[str, bytes], revision: int
) -> Sequence[str]:
    """Who has the store open sees what is there; its watch ends if and only if that is another store."""
    stored = await engine.range("")
    faults = []
    if ({kv.key: kv.value for kv in stored.kvs}, stored.revision) != (content, revision):
        faults.append(f"who has the store open sees {[kv.key for kv in stored.kvs]} at {stored.revision}")
    if revision == OLD_REVISION:
        await watcher.reach(revision)
        if watcher.fault:
            faults.append(watcher.fault)
        return faults
    await watcher.end()
    if Compacted.__name__ not in watcher.fault:
        faults.append(watcher.fault)
    return faults
