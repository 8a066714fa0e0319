"""Both engines answer alike; the long version is ``python -m tests.benchmarks.engines_compared COUNT SEED``."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.interop.datastores.comparison import Comparison, sides
from tests.interop.datastores.conftest import Etcd

OPERATIONS = 800


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_random_operations_are_answered_alike(etcd_server: Etcd, tmp_path: Path) -> None:
    async with sides(etcd_server, tmp_path / "datastore.db") as (embedded, etcd):
        run = Comparison(embedded, etcd, random.SystemRandom().randrange(10**6))
        await run.run(OPERATIONS)
    assert run.counts["watch", "done"] > 5
    assert run.now > OPERATIONS / 4
