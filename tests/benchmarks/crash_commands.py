"""calicoctl killed before every flush to the disk: ``python -m tests.benchmarks.crash_commands [COMMAND …]``.

Prints each command, how often it was killed and what did not hold; ends with 1 if anything did not.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.interop.calicoctl.crash_commands import COMMANDS, Command, Commands, Outcome
from tests.interop.datastores.crash_walk import walking


async def kill_everywhere(commands: Commands, command: Command) -> int:
    """How many kills left something that did not hold."""
    started = time.monotonic()
    _, flushes = await commands.end(command)
    turn = asyncio.Semaphore(3)

    async def kill(number: int) -> Outcome:
        async with turn:
            return await commands.kill(command, number)

    outcomes = await asyncio.gather(*(kill(number) for number in range(1, flushes + 1)))
    broken = [outcome for outcome in outcomes if outcome.faults]
    killed = sum(outcome.killed for outcome in outcomes)
    print(
        f"{command.name:26} {killed:4} kills {len(outcomes) - len(broken):4} held {len(broken):3} did not;"
        f" {time.monotonic() - started:.0f} s",
        flush=True,
    )
    for outcome in broken:
        print(f"DID NOT HOLD: {outcome}: {'; '.join(outcome.faults)}")
    return len(broken)


async def main(names: list[str]) -> int:
    chosen = [command for command in COMMANDS if not names or command.name in names]
    with tempfile.TemporaryDirectory(prefix="crash-commands-") as folder:
        async with walking(Path(folder)) as walk:
            commands = Commands(walk)
            broken = [await kill_everywhere(commands, command) for command in chosen]
    return 1 if any(broken) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
