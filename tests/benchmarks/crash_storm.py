"""Four writers of the embedded datastore killed at random: ``python -m tests.benchmarks.crash_storm SECONDS SEED``.

Ends with 1 and says what did not hold, if anything did not.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.interop.datastores.crash_storm import Storm
from tests.interop.datastores.crash_walk import walking


async def main(seconds: float, seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="crash-storm-") as folder:
        async with walking(Path(folder)) as walk:
            storm = Storm(walk, Path(folder) / "db", seed)
            await storm.run(seconds)
    for fault in storm.faults[:50]:
        print(f"DID NOT HOLD: {fault}")
    print(
        f"{storm.kills} kills, {sum(storm.acknowledged.values())} acknowledged transactions,"
        f" {storm.events} events seen, {len(storm.faults)} things did not hold (seed {seed})"
    )
    return 1 if storm.faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]), int(sys.argv[2]))))
