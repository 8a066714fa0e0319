"""What another process does with the same datastore; run as ``python -m``."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.kv import Compare, CompareTarget, Put


async def increment(engine: EmbeddedEngine, times: int) -> None:
    """Add one to /n, ``times`` times, by compare and swap."""
    for _ in range(times):
        while True:
            stored, _ = await engine.get("/n")
            value, revision = (int(stored.value), stored.mod_revision) if stored else (0, 0)
            compare = Compare("/n", CompareTarget.MOD_REVISION, revision)
            if (await engine.txn([compare], [Put("/n", str(value + 1).encode())])).succeeded:
                break


async def write_for_ever(engine: EmbeddedEngine, name: str) -> None:
    """Put /w/NAME/0, 1, 2 …, saying each on stdout once it is acknowledged."""
    number = 0
    while True:
        await engine.txn([], [Put(f"/w/{name}/{number}", b"x" * 200), Put(f"/last/{name}", str(number).encode())])
        print(number, flush=True)
        number += 1


async def stamp(engine: EmbeddedEngine, times: int) -> None:
    """Put the monotonic time under /stamp, now and then."""
    for _ in range(times):
        await asyncio.sleep(0.02)
        await engine.put("/stamp", str(time.monotonic()).encode())


async def main(path: str, what: str, argument: str) -> None:
    engine = await EmbeddedEngine.open(Path(path))
    if what == "increment":
        await increment(engine, int(argument))
    elif what == "write":
        await write_for_ever(engine, argument)
    else:
        await stamp(engine, int(argument))
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
