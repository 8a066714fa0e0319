"""Random operations on the embedded engine and on etcd: ``python -m tests.benchmarks.engines_compared COUNT SEED``.

Ends with 1 at the first answer that differs, with the steps before it.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.interop.datastores.comparison import Comparison, Differ, sides
from tests.interop.datastores.conftest import Etcd


async def main(count: int, seed: int) -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="engines-compared-") as folder:
        server = Etcd(shutil.which("etcd") or "etcd", Path(folder))
        server.start()
        try:
            async with sides(server, Path(folder) / "datastore.db") as (embedded, etcd):
                run = Comparison(embedded, etcd, seed)
                await run.run(count)
        except Differ as difference:
            print(f"DIFFERENT: {difference}")
            return 1
        finally:
            server.stop()
    for (name, answer), number in sorted(run.counts.items()):
        print(f"{number:8} {name}: {answer}")
    print(f"{run.counts.total()} operations answered alike, up to revision {run.now}, seed {seed}, "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]))))
