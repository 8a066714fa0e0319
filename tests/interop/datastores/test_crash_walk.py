"""A writer killed before its system calls: a sample; ``python -m tests.benchmarks.crash_walk`` walks all."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.interop.datastores.crash_copies import COPYINGS, Copies, Copying
from tests.interop.datastores.crash_plan import SCENARIOS, Scenario
from tests.interop.datastores.crash_storm import Storm
from tests.interop.datastores.crash_walk import Outcome, Walk, walking

STRIDE = 7
COPY_STRIDE = 37
FAIL_STRIDE = 23
SECONDS = 1.5


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def walk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Walk]:
    async with walking(tmp_path_factory.mktemp("walk")) as walk:
        yield walk


@pytest.mark.anyio
@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name.replace(" ", "-") for scenario in SCENARIOS])
async def test_a_killed_writer_leaves_whole_transactions_and_every_event(walk: Walk, scenario: Scenario) -> None:
    offset = random.SystemRandom().randrange(STRIDE)
    judge(await walk.sample(scenario, offset, STRIDE))


@pytest.mark.anyio
async def test_a_writer_gets_over_what_a_full_or_broken_disk_refuses(walk: Walk) -> None:
    offset = random.SystemRandom().randrange(FAIL_STRIDE)
    for scenario in SCENARIOS:
        faultless(await walk.fail(scenario, offset, FAIL_STRIDE))


@pytest.mark.anyio
@pytest.mark.parametrize("copying", COPYINGS, ids=[copying.name.replace(" ", "-") for copying in COPYINGS])
async def test_a_killed_backup_or_restore_leaves_one_or_the_other(walk: Walk, copying: Copying) -> None:
    offset = random.SystemRandom().randrange(COPY_STRIDE)
    judge(await Copies(walk).sample(copying, offset, COPY_STRIDE))


def faultless(outcomes: list[Outcome]) -> None:
    faults = [f"{outcome.place}: {fault}" for outcome in outcomes for fault in outcome.faults]
    assert not faults, "\n".join(faults)


def judge(outcomes: list[Outcome]) -> None:
    faultless(outcomes)
    assert sum(outcome.killed for outcome in outcomes) > len(outcomes) / 2


@pytest.mark.anyio
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "opened-and-closed"])
async def test_writers_killed_at_random_lose_nothing(walk: Walk, tmp_path: Path, watched: bool) -> None:
    storm = Storm(walk, tmp_path / "db", random.SystemRandom().randrange(10**6), watched)
    await storm.run(SECONDS)
    assert not storm.faults, "\n".join([f"seed {storm.seed}", *storm.faults[:20]])
    assert storm.kills > 3
    assert storm.events
