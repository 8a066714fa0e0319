"""Damages files of the embedded store at random: ``python -m tests.benchmarks.fuzz_damage [FILES [SEED]]``.

Zeroed pages, random bytes, flipped bits, cut ends; in the file or its log; while an engine has it open and before.
Whatever is asked then is answered, or refused with a ``DatastoreError`` in one line that names the file.  Prints what
was said how often; ends with 1 if anything else was raised or waited for in vain.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path

from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.kv import Put
from calico_node.errors import Compacted, DatastoreError

PAGE = 4096
PATIENCE = 10.0
_ABOUT_REQUEST = re.compile("lease|revision .* is in the future")


class Findings:
    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def call(self, work: Callable[[], Awaitable[object]], path: Path) -> None:
        try:
            await asyncio.wait_for(work(), PATIENCE)
        except Compacted:
            self.said["compacted"] += 1
        except DatastoreError as error:
            text = str(error)
            if "\n" in text or not (str(path) in text or _ABOUT_REQUEST.match(text)):
                self.wrong.append(f"does not name the file in one line: {text}")
            self.said[re.sub(r"\d+", "N", text.replace(str(path), "FILE"))[:80]] += 1
        except Exception:
            self.wrong.append(traceback.format_exc())
        else:
            self.said["answered"] += 1


def damaged(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    kind = rng.choice(("page", "bytes", "bits", "cut"))
    place = rng.randrange(len(data))
    if kind == "page":
        first = place // PAGE * PAGE
        data[first : first + PAGE] = bytes(len(data[first : first + PAGE]))
    elif kind == "bytes":
        size = rng.choice((1, 16, 500))
        data[place : place + size] = rng.randbytes(len(data[place : place + size]))
    elif kind == "bits":
        for _ in range(5):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    else:
        del data[place:]
    return bytes(data)


async def fill(path: Path) -> tuple[EmbeddedEngine, int]:
    engine = await EmbeddedEngine.open(path)
    lease = await engine.grant(600)
    for first in range(0, 200, 50):
        numbers = range(first, first + 50)
        await engine.txn([], [Put(f"/{number:04}", b"v" * 300, 0 if number % 10 else lease) for number in numbers])
    for number in range(20):
        await engine.put(f"/{number:04}", b"w" * 300)
    await engine.delete("/0003")
    return engine, lease


async def ask(engine: EmbeddedEngine, lease: int, findings: Findings) -> None:
    """Everything that an engine does."""

    async def watch() -> None:
        # Of a damaged log SQLite takes what is before the damage: the store may be at an older revision.
        with suppress(TimeoutError):
            async with aclosing(engine.watch("/", start_revision=3)) as batches, asyncio.timeout(0.5):
                async for batch in batches:
                    if batch.revision > 5:
                        return

    for work in (
        lambda: engine.get("/0001"), lambda: engine.get("/0150", revision=5), lambda: engine.range("/"),
        lambda: engine.range("/", revision=4), watch, lambda: engine.put("/0001", b"x"),
        lambda: engine.put("/new", b"x"), lambda: engine.delete("/0100"), lambda: engine.grant(10),
        lambda: engine.keep_alive(lease), lambda: engine.revoke(lease), lambda: engine.compact(6), engine._look_once,
        engine.close,
    ):  # fmt: skip
        await findings.call(work, engine.path)


async def try_out(path: Path, good: dict[str, bytes], lease: int, rng: random.Random, findings: Findings) -> None:
    """``good`` are the contents of the file and of its log."""
    for end, content in good.items():
        path.with_name(path.name + end).write_bytes(content)
    victim = rng.choice(sorted(good))
    bad = damaged(good[victim], rng)
    opened: list[EmbeddedEngine] = []

    async def open_it() -> None:
        opened.append(await EmbeddedEngine.open(path))

    if rng.random() < 0.5:
        await open_it()
        with path.with_name(path.name + victim).open("r+b") as file:
            file.write(bad)
            file.truncate(len(bad))
    else:
        path.with_name(path.name + victim).write_bytes(bad)
        await findings.call(open_it, path)
    for engine in opened:
        await ask(engine, lease, findings)


async def main(files: int, seed: int) -> int:
    rng, findings = random.Random(seed), Findings()
    with tempfile.TemporaryDirectory(prefix="fuzz-damage-") as folder:
        path = Path(folder) / "good.db"
        engine, lease = await fill(path)
        good = {end: path.with_name(path.name + end).read_bytes() for end in ("", "-wal")}
        await engine.close()
        whole = {"": path.read_bytes()}
        for number in range(files):
            place = Path(folder) / str(number)
            place.mkdir()
            await try_out(place / "datastore.db", rng.choice((good, whole)), lease, rng, findings)
    for text, times in findings.said.most_common():
        print(f"{times:7}  {text}")
    for text in findings.wrong:
        print(f"WRONG: {text}")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    sys.exit(asyncio.run(main(*arguments, *(200, 1)[len(arguments) :])))
