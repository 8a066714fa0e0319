"""The embedded datastore's writer killed before every call: ``python -m tests.benchmarks.crash_walk [SCENARIO …]``.

Prints each scenario, the calls it was killed before and what did not hold; ends with 1 if anything did not.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.interop.datastores.crash_copies import COPYINGS, Copies, Copying
from tests.interop.datastores.crash_plan import BIG, SCENARIOS, Scenario
from tests.interop.datastores.crash_walk import Outcome, Walk, walking

BIG_STRIDE = 41
"""Of the thousands of calls that big values need."""


def tell(name: str, started: float, counts: dict[str, int], outcomes: list[Outcome]) -> None:
    if not outcomes:
        return
    killed, broken = sum(outcome.killed for outcome in outcomes), sum(bool(outcome.faults) for outcome in outcomes)
    print(
        f"{name:32} {killed:5} kills {len(outcomes) - broken:5} held {broken:3} did not;"
        f" at most {max(o.opened for o in outcomes):.3f} s to open behind a kill,"
        f" {max(o.seen for o in outcomes):.3f} s to see all; {time.monotonic() - started:.0f} s;"
        f" {', '.join(f'{call} {count}' for call, count in counts.items())}",
        flush=True,
    )
    for outcome in outcomes:
        for fault in outcome.faults:
            print(f"DID NOT HOLD: {outcome.place}: {fault}")


async def walk_through(walk: Walk, scenario: Scenario) -> list[Outcome]:
    started, counts = time.monotonic(), await walk.counts(scenario)
    outcomes = [outcome async for outcome in walk.whole(scenario, counts)]
    tell(scenario.name, started, counts, outcomes)
    return outcomes


async def stride_through(walk: Walk, scenario: Scenario) -> list[Outcome]:
    started, counts = time.monotonic(), await walk.counts(scenario)
    outcomes = await walk.sample(scenario, 0, BIG_STRIDE)
    tell(scenario.name, started, counts, outcomes)
    return outcomes


async def fail_through(walk: Walk, scenario: Scenario) -> list[Outcome]:
    started, outcomes = time.monotonic(), await walk.fail(scenario, 0, 1)
    refused = sum(outcome.killed for outcome in outcomes)
    tell(f"{scenario.name}, failing", started, {"failures": len(outcomes), "refused": refused}, outcomes)
    return outcomes


async def copy_through(walk: Walk, copying: Copying) -> list[Outcome]:
    copies = Copies(walk)
    started, counts = time.monotonic(), await copies.counts(copying)
    outcomes = await copies.sample(copying, 0, 1)
    tell(copying.name, started, counts, outcomes)
    return outcomes


async def main(names: list[str]) -> int:
    scenarios = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
    copyings = [copying for copying in COPYINGS if not names or copying.name in names]
    with tempfile.TemporaryDirectory(prefix="crash-walk-") as folder:
        async with walking(Path(folder)) as walk:
            outcomes = [outcome for scenario in scenarios for outcome in await walk_through(walk, scenario)]
            if not names or BIG.name in names:
                outcomes += await stride_through(walk, BIG)
            for scenario in scenarios:
                outcomes += await fail_through(walk, scenario)
            outcomes += [outcome for copying in copyings for outcome in await copy_through(walk, copying)]
    print(f"{len(outcomes)} runs, {sum(outcome.killed for outcome in outcomes)} kills")
    return 1 if any(outcome.faults for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
