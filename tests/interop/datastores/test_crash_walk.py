"""A writer killed before its system calls: a sample; ``python -m tests.benchmarks.crash_walk`` walks them all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.interop.datastores.crash_plan import SCENARIOS, Scenario
from tests.interop.datastores.crash_walk import walking

STRIDE = 7


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name.replace(" ", "-") for scenario in SCENARIOS])
async def test_a_killed_writer_leaves_whole_transactions_and_every_event(tmp_path: Path, scenario: Scenario) -> None:
    offset = random.SystemRandom().randrange(STRIDE)
    async with walking(tmp_path) as walk:
        outcomes = await walk.sample(scenario, offset, STRIDE)
    faults = [f"{outcome.place}: {fault}" for outcome in outcomes for fault in outcome.faults]
    assert not faults, "\n".join(faults)
    assert sum(outcome.killed for outcome in outcomes) > len(outcomes) / 2
