"""``calicoctl datastore backup`` and ``restore``."""

from __future__ import annotations

import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.calicoctl.conftest import Run

POOL = """\
kind: IPPool
apiVersion: projectcalico.org/v3
metadata: {name: %s}
spec: {cidr: %s}
"""
STORE = Path("store/datastore.db")


def apply(run: Run, name: str, cidr: str) -> None:
    assert run("apply", "-f", "pool.yaml", files={"pool.yaml": POOL % (name, cidr)}).status == 0


def pools(run: Run) -> list[str]:
    found = run("get", "ippool", "-o", "name")
    assert found.status == 0, found.err
    return sorted(line.rpartition("/")[2] for line in found.out.split())


def test_a_lost_datastore_is_restored(run: Run) -> None:
    apply(run, "first", "10.65.0.0/24")
    result = run("datastore", "backup", "copy")
    assert result.status == 0, result.err
    assert result.out.startswith("Backed up ")
    assert " keys of revision " in result.out
    assert result.out.rstrip().endswith(" to copy")
    apply(run, "second", "10.66.0.0/24")
    for end in ("", "-wal", "-shm", "-lock"):
        Path(f"{STORE}{end}").unlink(missing_ok=True)
    result = run("datastore", "restore", "copy")
    assert result.status == 0, result.err
    assert result.out.startswith("Restored ")
    assert "is kept as" not in result.out
    assert pools(run) == ["first"]


def test_a_look_at_a_lost_datastore_does_not_stand_in_the_way(run: Run) -> None:
    apply(run, "first", "10.65.0.0/24")
    assert run("datastore", "backup", "copy").status == 0
    for end in ("", "-wal", "-shm", "-lock"):
        Path(f"{STORE}{end}").unlink(missing_ok=True)
    looked = run("get", "ippool")
    assert (looked.out, looked.status) == ("", 1)
    result = run("datastore", "restore", "copy")
    assert result.status == 0, result.err
    assert pools(run) == ["first"]


def test_what_is_there_is_replaced_only_when_told(run: Run) -> None:
    apply(run, "first", "10.65.0.0/24")
    assert run("datastore", "backup", "copy").status == 0
    apply(run, "second", "10.66.0.0/24")
    result = run("datastore", "restore", "copy")
    assert (result.out, result.status) == ("", 1)
    assert result.err.endswith("there is a datastore already; --force replaces it and keeps it beside\n")
    assert pools(run) == ["first", "second"]
    result = run("datastore", "restore", "copy", "--force")
    assert result.status == 0, result.err
    assert pools(run) == ["first"]
    kept = next(line for line in result.out.splitlines() if "kept as" in line).rpartition(" ")[2]
    assert run("datastore", "restore", kept, "--force").status == 0
    assert pools(run) == ["first", "second"]
    result = run("datastore", "backup", "copy")
    assert (result.out, result.status) == ("", 1)
    assert result.err.endswith("copy: exists already; --force replaces it\n")
    assert run("datastore", "backup", "copy", "--force").status == 0


def test_what_is_no_backup_is_refused(run: Run, tmp_path: Path) -> None:
    apply(run, "first", "10.65.0.0/24")
    assert run("datastore", "backup", "copy").status == 0
    good = Path("copy").read_bytes()
    with sqlite3.connect("foreign") as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    Path("newer").write_bytes(good)
    with sqlite3.connect("newer") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    Path("folder").mkdir()
    Path("empty").touch()
    Path("text").write_text(POOL * 200)
    Path("cut").write_bytes(good[: len(good) // 2])
    Path("zeroed").write_bytes(good[:8192] + bytes(4096) + good[12288:])
    Path("headless").write_bytes(bytes(4096) + good[4096:])
    no_backup = "is not what 'calicoctl datastore backup' writes"
    for name, text in {
        "foreign": "is a SQLite file of some other program",
        "newer": "datastore format 99, this calico-node reads 1; use the calico-node release that wrote it",
        "folder": "is not a file",
        "missing": "No such file or directory",
        "empty": no_backup, "text": no_backup, "headless": no_backup,
        "cut": "the copy is damaged", "zeroed": "the copy is damaged",
        "store/datastore.db": "is the datastore itself",
    }.items():  # fmt: skip
        result = run("datastore", "restore", name, "--force")
        assert (result.out, result.status) == ("", 1), name
        assert name in result.err
        assert text in result.err, name
        assert result.err.count("\n") == 1
    assert pools(run) == ["first"]
    assert not [found for found in Path("store").iterdir() if found.name.endswith(".part")]
    assert not list(Path("store").glob("*.replaced-*"))


@pytest.mark.parametrize("damage", ["zeroed", "cut", "text", "foreign", "empty"])
def test_a_damaged_datastore_is_restored_and_kept(run: Run, damage: str) -> None:
    apply(run, "first", "10.65.0.0/24")
    assert run("datastore", "backup", "copy").status == 0
    content = STORE.read_bytes()
    bad = {
        "zeroed": content[:4096] + bytes(len(content) - 4096), "cut": content[: len(content) // 2],
        "text": b"rubbish" * 1000, "foreign": b"", "empty": b"",
    }[damage]  # fmt: skip
    STORE.write_bytes(bad)
    if damage == "foreign":
        with sqlite3.connect(STORE) as db:
            db.execute("CREATE TABLE t (x)")
        db.close()
    result = run("datastore", "restore", "copy", "--force")
    assert result.status == 0, result.err
    assert pools(run) == ["first"]
    assert ("is kept as" in result.out) is (damage != "empty")
    if damage not in ("empty", "foreign"):
        kept = next(line for line in result.out.splitlines() if "kept as" in line).rpartition(" ")[2]
        assert Path(kept).read_bytes() == bad


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_etcd_has_tools_of_its_own(run: Run, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_ENDPOINTS", "http://127.0.0.1:1")
    result = run("datastore", command, "copy")
    assert (result.out, result.status) == ("", 1)
    assert result.err == ("this datastore is etcd: 'etcdctl snapshot save' and 'etcdctl snapshot restore' copy it\n")


def test_the_commands_are_told(run: Run) -> None:
    assert run("datastore", "backup").err == "Missing argument 'FILE'.\n"
    listed = run("datastore", "--help").out
    assert "backup " in listed
    assert "restore " in listed
    for command in ("backup", "restore"):
        text = run("datastore", command, "--help").out
        assert f"calicoctl datastore {command} [OPTIONS] FILE" in text
        assert "--force" in text


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_full_disk_is_named_and_nothing_is_left(run: Run, command: str) -> None:
    for number in range(5):
        apply(run, f"pool{number}", f"10.65.{number}.0/24")
    assert run("datastore", "backup", "copy").status == 0
    small = "small/datastore.db" if command == "restore" else "store/datastore.db"
    file = "copy" if command == "restore" else "small/copy"
    Path("small").mkdir()
    script = "mount -t tmpfs -o size=12k small small && " + shlex.join(
        [sys.executable, "-m", "calico_node.calicoctl", "datastore", command, file]
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{script}; echo status $?; ls -A small"],
        env={**os.environ, "CALICO_DATASTORE_PATH": str(Path(small).absolute())},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["status 1", *(["datastore.db-lock"] if command == "restore" else [])]
    assert done.stderr.startswith(f"{Path('small').absolute()}")
    assert "no room there for a copy" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_a_killed_backup_left_goes_with_the_next(run: Run) -> None:
    apply(run, "first", "10.65.0.0/24")
    old, new, other = Path(".copy.a.part"), Path(".copy.b.part"), Path(".copies.a.part")
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    assert run("datastore", "backup", "copy").status == 0
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)


# System calls, and which one of them the restore is killed at.
STEPS = {
    "one commit": ["rename", "fsync:2", "unlink", "pwrite64:30", "fdatasync"],
    "renames": ["rename", "rename:2", "fsync", "fsync:2"],
}


@pytest.mark.parametrize(("way", "step"), [(way, step) for way, steps in STEPS.items() for step in steps])
def test_killed_at_any_moment_the_old_or_the_new_is_there(run: Run, way: str, step: str) -> None:
    apply(run, "first", "10.65.0.0/24")
    assert run("datastore", "backup", "copy").status == 0
    apply(run, "second", "10.66.0.0/24")
    if way == "renames":
        STORE.write_bytes(b"rubbish" * 1000)
    call, _, number = step.partition(":")
    inject = f"inject={call}:signal=SIGKILL:when={number or 1}"
    command = [sys.executable, "-m", "calico_node.calicoctl", "datastore", "restore", "copy", "--force"]
    killed = subprocess.run(
        ["strace", "-f", "-qq", "-o", "trace", "-e", f"trace={call}", "-e", inject, *command],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed
    if way == "one commit":
        assert pools(run) in (["first"], ["first", "second"])
    else:
        assert "file is not a database" in run("get", "ippool").err or not STORE.exists() or pools(run) == ["first"]
    assert run("datastore", "restore", "copy", "--force").status == 0
    assert pools(run) == ["first"]
