"""Four writers of the embedded datastore killed at random: ``python -m tests.benchmarks.crash_storm SECONDS SEED``.

Once while two engines watch, once where only the writers have it open, for a while.  Ends with 1 and says what did
not hold, if anything did not.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.interop.datastores.crash_storm import Storm
from tests.interop.datastores.crash_walk import walking


async def main(seconds: float, seed: int) -> int:
    broken = 0
    with tempfile.TemporaryDirectory(prefix="crash-storm-") as folder:
        async with walking(Path(folder)) as walk:
            for watched in (True, False):
                storm = Storm(walk, Path(folder, "watched" if watched else "visited"), seed, watched)
                await storm.run(seconds)
                for fault in storm.faults[:50]:
                    print(f"DID NOT HOLD: {fault}")
                print(
                    f"{'watched' if watched else 'opened and closed'}: {storm.kills} kills,"
                    f" {sum(last + 1 for last in storm.acknowledged.values())} acknowledged transactions,"
                    f" {storm.events} events seen, {len(storm.faults)} things did not hold (seed {seed})",
                    flush=True,
                )
                broken += len(storm.faults)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]), int(sys.argv[2]))))
