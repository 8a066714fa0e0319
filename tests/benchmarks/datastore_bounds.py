"""Prints the embedded datastore's bounds: ``python -m tests.benchmarks.datastore_bounds [WRITES [KEYS]]``.

Writes over a fixed number of keys, 64 in flight, with a clock that runs faster so that compaction comes every few
seconds, while another process watches everything.  Beside the writes stand bare inserts of SQLite's with the same
commits.  What has to hold: the watch is told of each write once, in order; history, file and log follow the writes of
two compaction periods, and the watch's memory no number of writes at all.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from contextlib import aclosing, closing
from pathlib import Path

from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.embedded.clock import Clock
from calico_node.datastores.embedded.store import COMPACTION_PERIOD

VALUE = b"x" * 500
IN_FLIGHT = 64
HASTE = 60
"""How much faster the clock runs: compaction comes every five seconds."""


class HastyClock(Clock):
    def now(self) -> float:
        return super().now() * HASTE


def bare_rate(folder: Path, writes: int) -> float:
    """Inserts a second, as many to a commit as the engine has in flight."""
    with closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE history (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB)")
        started = time.perf_counter()
        for first in range(0, writes, IN_FLIGHT):
            db.execute("BEGIN")
            for number in range(first, min(first + IN_FLIGHT, writes)):
                db.execute("INSERT INTO history VALUES (?, ?, ?)", (number, b"/bounds/%06d" % number, VALUE))
            db.execute("COMMIT")
        return writes / (time.perf_counter() - started)


class Sizes:
    """The most that was seen of the log, the file and the rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.log = self.file = self.rows = 0

    async def look(self, engine: EmbeddedEngine) -> None:
        while True:
            self.file = max(self.file, self._path.stat().st_size)
            self.log = max(self.log, self._path.with_name(self._path.name + "-wal").stat().st_size)
            self.rows = max(self.rows, await engine._read(_rows))
            await asyncio.sleep(0.5)


def _rows(store: object) -> int:
    found: int = store._db.execute("SELECT count(*) FROM history").fetchone()[0]  # type: ignore[attr-defined]
    return found


async def write(engine: EmbeddedEngine, writes: int, keys: int) -> float:
    """Writes a second; each writer waits for its own."""
    numbers = iter(range(writes))

    async def writer() -> None:
        for number in numbers:
            await engine.put(f"/bounds/{number % keys:06}", VALUE)

    started = time.perf_counter()
    await asyncio.gather(*(writer() for _ in range(IN_FLIGHT)))
    return writes / (time.perf_counter() - started)


async def follow(path: Path, start: int, writes: int) -> None:
    """The other process: count what a watch is told, and say what memory that took."""
    engine = await EmbeddedEngine.open(path, clock=HastyClock.system())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("ready", flush=True)
    expected, most = start, 0
    async with aclosing(engine.watch("/bounds/", start_revision=start)) as watch:
        async for batch in watch:
            most = max(most, len(batch.events))
            for event in batch.events:
                if event.kv.mod_revision != expected:
                    print(f"told of revision {event.kv.mod_revision}, not of {expected}")
                    sys.exit(1)
                expected += 1
            if expected - start >= writes:
                break
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    told = f"{expected - start} events, each once and in order, {most} at once"
    print(f"{told}; memory grew by {grown / 1024:.1f} MB")
    await engine.close()


async def main(writes: int, keys: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare = await asyncio.to_thread(bare_rate, Path(folder), min(writes, 100_000))
        path = Path(folder) / "datastore.db"
        engine = await EmbeddedEngine.open(path, clock=HastyClock.system())
        start = (await engine.get("/"))[1] + 1
        arguments = ("-m", "tests.benchmarks.datastore_bounds", "follow", str(path), str(start), str(writes))
        follower = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
        assert follower.stdout is not None
        await follower.stdout.readline()
        sizes = Sizes(path)
        looking = asyncio.create_task(sizes.look(engine))
        started = time.perf_counter()
        rate = await write(engine, writes, keys)
        written = time.perf_counter()
        told = (await follower.stdout.read()).decode().strip()
        behind = time.perf_counter() - written
        kept = 2 * rate * COMPACTION_PERIOD / HASTE + keys
        print(f"writes        {rate:8.0f}/s, {rate / bare:.2f} of bare inserts with as many to a commit")
        print(f"watch         {told}; done {behind:.1f} s after the last write")
        print(f"history       {sizes.rows} rows at most, {sizes.rows / kept:.2f} of two periods' writes and the keys")
        print(f"log           {sizes.log / 2**20:.1f} MB at most")
        row = sizes.file / sizes.rows
        print(f"file          {sizes.file / 2**20:.1f} MB at most, {row:.0f} bytes a row of {len(VALUE)}")
        await _settle(engine, keys)
        looking.cancel()
        print(f"afterwards    {await engine._read(_rows)} rows, {time.perf_counter() - started:.0f} s in all")
        await engine.close()
        assert await follower.wait() == 0, "the watch missed events"


async def _settle(engine: EmbeddedEngine, keys: int) -> None:
    """Until compaction has left one row a key, or for four periods."""
    for _ in range(40):
        if await engine._read(_rows) <= keys:
            return
        await asyncio.sleep(COMPACTION_PERIOD / HASTE / 10)


if __name__ == "__main__":
    if sys.argv[1:2] == ["follow"]:
        asyncio.run(follow(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
    else:
        numbers = [int(argument) for argument in sys.argv[1:]]
        asyncio.run(main(*numbers, *(200_000, 1_000)[len(numbers) :]))
