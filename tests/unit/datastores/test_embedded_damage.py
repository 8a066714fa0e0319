"""A store that is damaged, foreign or out of reach is refused in one sentence, left as it is, and can be restored."""

# Small test files block nobody.
# ruff: noqa: ASYNC221, ASYNC240

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from calico_node.datastores.embedded import EmbeddedEngine, copies
from calico_node.datastores.kv import Put
from calico_node.errors import DatastoreError
from tests.unit.datastores.engine_suite import events_until
from tests.unit.datastores.test_embedded_copies import soon, stored

pytestmark = pytest.mark.anyio

NOBODY = 65534
PAGE = 4096
KEYS = 400


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store of some pages, closed."""
    path = tmp_path / "datastore.db"
    engine = await EmbeddedEngine.open(path)
    for start in range(0, KEYS, 100):
        await engine.txn([], [Put(f"/{number:04}", b"x" * 100) for number in range(start, start + 100)])
    await engine.close()
    return path


def sql(*statements: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        db = sqlite3.connect(path, isolation_level=None)
        for statement in statements:
            db.execute(statement)
        db.close()

    return damage


def page(number: int) -> Callable[[Path], None]:
    """Zeroes one page; 0 is the header."""
    return lambda path: overwrite(path, number * PAGE, bytes(PAGE))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE + 100)


def random_bytes(path: Path) -> None:
    overwrite(path, PAGE, random.Random(1).randbytes(path.stat().st_size - PAGE))


def text(path: Path) -> None:
    path.write_bytes(b"kind: IPPool\n" * 1000)


ADVICE = "'calicoctl datastore restore FILE --force' puts a backup in its place"
MALFORMED = f"malformed; {ADVICE}"
NOT_A_DATABASE = f"file is not a database; {ADVICE}"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "header": (page(0), NOT_A_DATABASE),
    "first table": (page(1), MALFORMED),
    "second table": (page(2), MALFORMED),
    "truncated": (truncated, MALFORMED),
    "random bytes": (random_bytes, MALFORMED),
    "text": (text, NOT_A_DATABASE),
    "no revision": (sql("DELETE FROM meta WHERE name = 'revision'"), "'revision' is missing or malformed; 'calico"),
    "no number": (sql("UPDATE meta SET value = 'x' WHERE name = 'revision'"), "'revision' is missing or malformed"),
    "no id": (sql("UPDATE meta SET value = 7 WHERE name = 'id'"), "'id' is missing or malformed"),
    "a key that is no text": (sql("UPDATE history SET key = x'ff'"), MALFORMED),
    "a number for a value": (sql("UPDATE history SET value = 7"), MALFORMED),
    "no tables": (sql("DROP TABLE live", "DROP TABLE history"), "no such table"),
    "a newer format": (sql("PRAGMA user_version = 2"), "datastore format 2, this calico-node reads 1; use"),
    "another program": (sql("PRAGMA application_id = 7"), "some other program.*move this file away"),
    "a folder": (lambda path: (path.unlink(), path.mkdir())[0], "is a folder; set CALICO_DATASTORE_PATH"),
    "empty": (lambda path: path.write_bytes(b"") and None, "gone or empty; put it back"),
    "gone": (lambda path: path.unlink(), "gone or empty; put it back, or a backup with 'calicoctl datastore rest"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
async def test_a_damaged_store_is_refused_and_left_alone(path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(path)
    before = contents(path)
    with pytest.raises(DatastoreError, match=message) as caught:
        await open_and_read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert contents(path) == before


async def open_and_read(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    try:
        await engine.range("/")
    finally:
        await engine.close()


def contents(path: Path) -> object:
    if not path.exists() or path.is_dir():
        return path.exists()
    return path.read_bytes(), stat.S_IMODE(path.stat().st_mode)


LIVE = ("header", "truncated", "random bytes", "a number for a value", "gone")


@pytest.mark.parametrize("name", LIVE)
async def test_a_running_engine_says_so_and_goes_on_with_a_backup(path: Path, tmp_path: Path, name: str) -> None:
    copies.backup(path, tmp_path / "copy")
    engine = await EmbeddedEngine.open(path)
    DAMAGE[name][0](path)
    for _ in range(2):
        with pytest.raises(DatastoreError, match=r"datastore\.db: "):
            await write_and_read(engine)
    restored = copies.restore(path, tmp_path / "copy", replace=True)
    found = await soon(lambda: stored(engine))
    assert isinstance(found, dict)
    assert len(found) == KEYS
    async with aclosing(engine.watch("/", start_revision=restored.revision + 1)) as watch:
        await engine.put("/0001", b"y")
        assert len(await events_until(watch, restored.revision + 1)) == 1
    await engine.close()


@pytest.mark.parametrize("name", ["header", "text"])
async def test_a_running_engine_takes_up_a_file_that_was_mended_in_its_place(path: Path, name: str) -> None:
    good = path.read_bytes()
    engine = await EmbeddedEngine.open(path)
    DAMAGE[name][0](path)
    with pytest.raises(DatastoreError, match=ADVICE):
        await write_and_read(engine)
    await asyncio.sleep(1.5)  # it has tried to open it anew, and goes on to say what is wrong
    with pytest.raises(DatastoreError, match=ADVICE):
        await write_and_read(engine)
    path.write_bytes(good)
    assert await soon(lambda: engine.put("/0001", b"z")) == 6
    assert len(await stored(engine)) == KEYS
    await engine.close()


async def write_and_read(engine: EmbeddedEngine) -> None:
    await engine.put("/0001", b"y")
    await engine.range("/")


@contextmanager
def another_user(path: Path, writable: bool) -> Iterator[Path]:
    """A store and a copy that may only be read, in a folder that may be written when ``writable``; not as root."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / path.name
        copies.backup(path, place.with_name("copy"))
        place.write_bytes(path.read_bytes())
        for file in (place, place.with_name("copy")):
            file.chmod(0o444)
        os.chmod(folder, 0o777 if writable else 0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield place
        finally:
            if root:
                os.seteuid(0)
            os.chmod(folder, 0o755)


@pytest.mark.parametrize("writable", [False, True], ids=["its folder", "the file alone"])
async def test_a_user_who_may_not_write_is_told(path: Path, writable: bool) -> None:
    before = path.read_bytes()
    with another_user(path, writable) as place:
        with pytest.raises(DatastoreError, match=r"denied; set CALICO_DATASTORE_PATH .* can write") as caught:
            await EmbeddedEngine.open(place)
        assert str(caught.value).startswith(str(place))
        copy = place.with_name("copy")
        with pytest.raises(DatastoreError, match=rf"^{place.parent}.*(denied|to be able to write it and its folder)"):
            copies.restore(place, copy, replace=True)
        assert place.read_bytes() == before
        assert not list(place.parent.glob(".*"))


async def test_a_file_system_for_reading_only_is_told(path: Path) -> None:
    command = f"mount --bind {path.parent} {path.parent} && mount -o remount,ro,bind {path.parent} && exec "
    command += f"{sys.executable} -m calico_node.calicoctl get nodes"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command],
        env={**os.environ, "CALICO_DATASTORE_PATH": str(path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        f"{path}-lock: Read-only file system; set CALICO_DATASTORE_PATH (or CALICO_STATE_DIR) to a place this "
        "user can write\n"
    )
