"""Backup and restore killed at their system calls: ``python -m tests.benchmarks.restore_kills [STEP]``.

Every ``STEP``-th call (by default every fifth) of those that change files, with the store open in another process
and with it closed.  What has to hold: the store is whole, the old one or the new one; what backup's FILE holds
is whole; and whoever has the store open goes on.  Ends with 1 if anything did not hold.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import tempfile
from asyncio.subprocess import DEVNULL
from collections import Counter
from contextlib import closing
from pathlib import Path

from attrs import frozen

from calico_node.datastores.embedded import EmbeddedEngine, copies
from calico_node.datastores.kv import Put
from calico_node.errors import DatastoreError

CALLS = ("pwrite64", "fsync", "fdatasync", "rename", "link", "unlink", "ftruncate")
KEYS = 60


@frozen
class Kill:
    """``number`` 0 kills nothing."""

    command: str
    is_open: bool
    call: str
    number: int


async def values(engine: EmbeddedEngine) -> set[bytes]:
    """Of all keys; waits while the engine turns to another file."""
    async with asyncio.timeout(10):
        while True:
            try:
                return {kv.value[:3] for kv in (await engine.range("/k")).kvs}
            except DatastoreError:
                await asyncio.sleep(0.05)


async def fill(engine: EmbeddedEngine, value: bytes) -> None:
    await engine.txn([], [Put(f"/k{number}", value * 500) for number in range(KEYS)])


async def carry_out(kill: Kill, folder: Path) -> Counter[str]:
    """The calls that were made.  Raises ``AssertionError`` for what did not hold."""
    store, copy, written = folder / "datastore.db", folder / "copy", folder / "written"
    engine = await EmbeddedEngine.open(store)
    await fill(engine, b"old")
    copies.backup(store, copy)
    await fill(engine, b"new")
    if not kill.is_open:
        await engine.close()
    arguments = [str(copy), "--force"] if kill.command == "restore" else [str(written)]
    calls = kill.call or ",".join(CALLS)
    inject = ["-e", f"inject={kill.call}:signal=SIGKILL:when={kill.number}"] if kill.number else []
    process = await asyncio.create_subprocess_exec(
        "strace", "-f", "-qq", "-o", str(folder / "trace"), "-e", f"trace={calls}", *inject,
        sys.executable, "-m", "calico_node.calicoctl", "datastore", kill.command, *arguments,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "CALICO_DATASTORE_PATH": str(store)},
        stdout=DEVNULL, stderr=DEVNULL,
    )  # fmt: skip
    assert await process.wait() == (-signal.SIGKILL if kill.number else 0), "was not killed"
    if not kill.is_open:
        engine = await EmbeddedEngine.open(store)
    found = await values(engine)
    assert found in ({b"old"}, {b"new"}), f"holds {found}"
    if written.exists():
        assert copies.examine(written).keys == KEYS, "the backup is not whole"
    await engine.put("/after", b"1")
    other = await EmbeddedEngine.open(store)
    assert len((await other.range("/")).kvs) == KEYS + 1, "keys are missing"
    await other.close()
    await engine.close()
    with closing(sqlite3.connect(store)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",), "the file is damaged"
    lines = (folder / "trace").read_text().splitlines()
    return Counter(line.split()[1].partition("(")[0] for line in lines) + Counter({found.pop().decode(): 1})


async def try_out(kill: Kill) -> Counter[str]:
    with tempfile.TemporaryDirectory(prefix="restore-kills-") as folder:
        return await carry_out(kill, Path(folder))


async def main(step: int) -> int:
    failed = 0
    for command in ("restore", "backup"):
        for is_open in (True, False):
            counts = await try_out(Kill(command, is_open, "", 0))
            found: Counter[str] = Counter()
            for call in CALLS:
                for number in range(1, counts[call] + 1, step):
                    try:
                        outcome = await try_out(Kill(command, is_open, call, number))
                        found += Counter({name: outcome[name] for name in ("old", "new")})
                    except (AssertionError, DatastoreError) as error:
                        failed += 1
                        print(f"DID NOT HOLD: {command} killed at {call} {number}: {error}")
            calls = ", ".join(f"{call} {counts[call]}" for call in CALLS if counts[call])
            where = "open" if is_open else "closed"
            print(
                f"{command:8} {where:6} {found.total():4} kills, {found['old']} before, {found['new']} after: {calls}"
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)))
