"""Three members under faults; the long version is ``python -m tests.benchmarks.etcd_faults SECONDS SEED``."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.interop.datastores.cluster import Cluster
from tests.interop.datastores.fault_run import Run

SECONDS = 6.0
LONGEST = 1.5


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_nothing_is_lost_or_invented_while_members_fail(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    log: list[str] = [f"seed {seed}"]
    async with Cluster(tmp_path) as cluster:
        run = Run(cluster, seed, LONGEST, log.append)
        await run.run(SECONDS)
    assert not run.faults, "\n".join([*run.faults[:20], *log])
    assert run.counts["write done"] > 50
    assert run.counts["events"] > 200
