"""calicoctl killed at its commits: a sample; ``python -m tests.benchmarks.crash_commands`` kills at all of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.interop.calicoctl.crash_commands import COMMANDS, Command, Commands
from tests.interop.datastores.crash_walk import walking

SAMPLE = [command for command in COMMANDS if command.name in ("apply", "ipam release of a report", "ipam split")]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("command", SAMPLE, ids=[command.name.replace(" ", "-") for command in SAMPLE])
async def test_a_killed_command_given_again_gets_to_the_same_end(tmp_path: Path, command: Command) -> None:
    async with walking(tmp_path) as walk:
        commands = Commands(walk)
        _, flushes = await commands.end(command)
        outcome = await commands.kill(command, random.SystemRandom().randrange(flushes) + 1)
    assert not outcome.faults, "\n".join([str(outcome), *outcome.faults])
    assert outcome.killed
