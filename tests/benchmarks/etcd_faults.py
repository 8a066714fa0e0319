"""Three etcd members under faults, for as long as one likes: ``python -m tests.benchmarks.etcd_faults SECONDS SEED``.

Ends with 1 and says what did not hold, if anything did not.  Needs root.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.interop.datastores.cluster import Cluster
from tests.interop.datastores.fault_run import Run

LONGEST = 9.0
"""Seconds that a fault lasts at most: longer than a silent watch is believed."""


async def main(seconds: float, seed: int) -> int:
    started = time.monotonic()

    def report(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="etcd-faults-") as folder:
        async with Cluster(Path(folder)) as cluster:
            run = Run(cluster, seed, LONGEST, report)
            await run.run(seconds)
    for name, count in sorted(run.counts.items()):
        print(f"{count:8} {name}")
    for fault in run.faults[:50]:
        print(f"DID NOT HOLD: {fault}")
    print(f"{len(run.faults)} things did not hold (seed {seed})")
    return 1 if run.faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]), int(sys.argv[2]))))
