"""Whole copies of the embedded store: taking one while nodes write, and putting one in the store's place.

A copy is one SQLite file without a write-ahead log.  A restored store is another one than the copied: it has an id of
its own, and a revision that no reader of either has seen, at which everything older counts as compacted.  So every
watch lists again, and no compare-and-swap succeeds against what was restored away.
"""

from __future__ import annotations

import glob
import os
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from calico_node.datastores.embedded.files import FileLock, Notifier, check_filesystem, check_log
from calico_node.datastores.embedded.rows import file_uri, format_fault, is_damage
from calico_node.datastores.embedded.store import Store
from calico_node.errors import DatastoreError

COMPANIONS = ("", "-wal", "-shm", "-lock", "-notify")
"""What the names of a store's files end with."""
REVISIONS_SKIPPED = 1_000_000_000
"""More than a store can have gone on by since a copy was taken; etcd's advice for its own."""

_PART = ".part"
_LEFT_SECONDS = 3600.0


@frozen
class Contents:
    """What a copy holds: ``keys`` as of ``revision``; ``size`` is the file's, in bytes."""

    keys: int
    revision: int
    size: int


@frozen
class Restored:
    """``revision`` is where the store goes on; ``kept`` what it was before, None where there was nothing."""

    contents: Contents
    revision: int
    kept: Path | None


def backup(path: Path, target: Path, *, replace: bool = False) -> Contents:
    """Copy the store at ``path`` to the file ``target``, which others cannot read, while nodes go on writing.

    ``target`` appears whole, checked and on disk, or not at all; one that exists is refused unless ``replace``.
    Raises ``DatastoreError``.
    """
    path, target = _real(path), target.absolute()
    with _said(target):
        _check_target(path, target, replace)
        if not _has_content(path):
            raise DatastoreError(f"{path}: there is no datastore here (CALICO_DATASTORE_PATH says where it is)")
        with _temporary(target) as copy:
            _copy_store(path, copy)
            contents = examine(copy)
            _flush(copy)
            if replace:
                os.replace(copy, target)
            else:
                _publish(copy, target)
            _flush(target.parent)
    return contents


def restore(path: Path, source: Path, *, replace: bool = False) -> Restored:
    """Put the copy ``source`` in the place of the store at ``path``; nodes that run go on with it.

    A store that is there is refused unless ``replace``, and is kept beside the new one.  A process killed here
    leaves the old one or the new one.  Raises ``DatastoreError``.
    """
    path = _real(path)
    with _said(path):
        if source.exists() and path.exists() and source.samefile(path):
            raise DatastoreError(f"{source}: is the datastore itself, not a copy of it")
        contents = examine(source)
        _check_place(path, replace)
        path.parent.mkdir(parents=True, exist_ok=True)
        check_filesystem(path.parent)
        owner = (path if path.exists() else path.parent).stat()
        lock = FileLock(path.with_name(path.name + "-lock"))
        try:
            with _temporary(path) as staged:
                _give(staged, owner)
                with _room_named(path.parent), _said(path):
                    _stage(source, staged)
                with lock:
                    _check_place(path, replace)
                    restored = _put_in_place(path, staged, contents)
                    lock.remember()
        finally:
            lock.close()
        notifier = Notifier(path.with_name(path.name + "-notify"))
        notifier.notify()
        notifier.close()
        for end in ("-lock", "-notify"):
            _give(path.with_name(path.name + end), owner)
    return restored


def examine(path: Path) -> Contents:
    """Read all of a copy.  Raises ``DatastoreError`` saying why it cannot be restored."""
    with _said(path):
        size = path.stat().st_size
        if not path.is_file():
            raise DatastoreError(f"{path}: is not a file")
        try:
            with closing(_open_copy(path)) as db:
                keys, revision = _examined(path, db) if size else (0, 0)
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                size = 0
            else:
                raise DatastoreError(f"{path}: the copy is damaged ({error}); take another one") from None
        if not size:
            raise DatastoreError(
                f"{path}: is not what 'calicoctl datastore backup' writes "
                "('calicoctl datastore migrate import' takes what 'export' writes)"
            )
    return Contents(keys, revision, size)


def _open_copy(path: Path) -> sqlite3.Connection:
    """For reading.  Without a log beside it the file is all there is, and may lie where SQLite could make no shared
    memory."""
    alone = not _has_content(path.with_name(path.name + "-wal"))
    return sqlite3.connect(file_uri(path, "mode=ro&immutable=1" if alone else "mode=ro"), uri=True)


def _examined(path: Path, db: sqlite3.Connection) -> tuple[int, int]:
    fault = format_fault(db)
    if fault:
        raise DatastoreError(f"{path}: {fault}")
    found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise DatastoreError(f"{path}: the copy is damaged ({' '.join(found.split())}); take another one")
    keys, lost = db.execute(
        "SELECT count(*), count(CASE WHEN h.value IS NULL OR h.key != l.key THEN 1 END) "
        "FROM live l LEFT JOIN history h ON h.id = l.id"
    ).fetchone()
    meta = dict(db.execute("SELECT name, value FROM meta"))
    numbers = [meta.get(name) for name in ("revision", "compacted", "swept", "mark")]
    if lost or not meta.get("id") or not all(isinstance(number, int) for number in numbers):
        raise DatastoreError(f"{path}: the copy is damaged (records are missing); take another one")
    return keys, meta["revision"]


def _copy_store(path: Path, copy: Path) -> None:
    lock = FileLock(path.with_name(path.name + "-lock"))
    try:
        with lock:
            check_log(path)
            store = Store(path, writable=False)
        try:
            with _room_named(copy.parent):
                store.copy_to(copy)
        finally:
            with lock:
                store.close()
    finally:
        lock.close()


@contextmanager
def _room_named(folder: Path) -> Iterator[None]:
    """SQLite says of no file which of two is on a full disk."""
    try:
        yield
    except DatastoreError as error:
        if "full" in str(error.__cause__):
            raise DatastoreError(f"{folder}: no room there for a copy of the datastore") from error.__cause__
        raise


def _stage(source: Path, staged: Path) -> None:
    """A copy of the copy, without history: of a store of its own."""
    with closing(_open_copy(source)) as db:
        db.execute("VACUUM INTO ?", (str(staged),))
    with closing(sqlite3.connect(file_uri(staged, "mode=rw"), uri=True, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("DELETE FROM history WHERE id NOT IN (SELECT id FROM live)")
        db.execute("UPDATE meta SET value = ? WHERE name = 'id'", (str(uuid.uuid4()),))
        db.execute("COMMIT")


def _put_in_place(path: Path, staged: Path, contents: Contents) -> Restored:
    """Under the lock."""
    kept = _keep_name(path)
    store = _open_sound(path)
    if store is not None:
        try:
            with _temporary(kept) as copy, _room_named(copy.parent):
                store.copy_to(copy)
                revision = max(contents.revision, examine(copy).revision)
                _flush(copy)
                os.rename(copy, kept)
            _flush(path.parent)
        except DatastoreError as error:
            store.close()
            if not _is_damage(error):
                raise
        else:
            try:
                revision = _advance(staged, revision)
                # One commit of SQLite's: whoever has the store open meanwhile sees the old one or the new one.
                store.take_over(staged)
                store.checkpoint()
            finally:
                store.close()
            return Restored(contents, revision, kept)
    revision = _advance(staged, contents.revision)
    with closing(sqlite3.connect(file_uri(staged, "mode=rw"), uri=True)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    _flush(staged)
    moved = _move_aside(path, kept)
    os.rename(staged, path)
    _flush(path.parent)
    return Restored(contents, revision, kept if moved else None)


def _advance(staged: Path, revision: int) -> int:
    revision += REVISIONS_SKIPPED
    with closing(sqlite3.connect(file_uri(staged, "mode=rw"), uri=True, isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = ? WHERE name IN ('revision', 'compacted', 'swept', 'mark')", (revision,))
    return revision


def _open_sound(path: Path) -> Store | None:
    """The store at ``path``; None where there is none that can be taken over."""
    if not _has_content(path):
        return None
    try:
        check_log(path)
        return Store(path, writable=True)
    except DatastoreError as error:
        if not _is_damage(error):
            raise
        return None


def _is_damage(error: DatastoreError) -> bool:
    """Of the file, or that it is no store of this release; not a full disk, a lock or a permission."""
    cause = error.__cause__
    return cause is None or (isinstance(cause, sqlite3.Error) and (is_damage(cause) or "disk I/O" in str(cause)))


def _move_aside(path: Path, kept: Path) -> bool:
    """What is left of a store that cannot be read; the log goes along, so that nobody takes it for the new one's."""
    moved = False
    for end in ("", "-wal", "-shm"):
        part = path.with_name(path.name + end)
        if part.exists():
            moved = moved or part.stat().st_size > 0
            os.rename(part, kept.with_name(kept.name + end))
    return moved


def _keep_name(path: Path) -> Path:
    stem = f"{path.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    number = 1
    while True:
        kept = path.with_name(stem if number == 1 else f"{stem}-{number}")
        if not any(kept.with_name(kept.name + end).exists() for end in COMPANIONS):
            return kept
        number += 1


# Files


def _real(path: Path) -> Path:
    return path.resolve() if path.is_symlink() else path.absolute()


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _check_target(path: Path, target: Path, replace: bool) -> None:
    if target.name in ("", "..") or target.is_dir():
        raise DatastoreError(f"{target}: is a folder; name the file to write")
    if target.resolve() in [path.resolve().with_name(path.resolve().name + end) for end in COMPANIONS]:
        raise DatastoreError(f"{target}: belongs to the datastore itself; name another file")
    if not replace and os.path.lexists(target):
        raise DatastoreError(f"{target}: exists already; --force replaces it")


def _check_place(path: Path, replace: bool) -> None:
    if path.is_dir():
        raise DatastoreError(f"{path}: is a folder, not a datastore; set CALICO_DATASTORE_PATH to a file")
    if not replace and _has_content(path):
        raise DatastoreError(f"{path}: there is a datastore already; --force replaces it and keeps it beside")


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """An empty file in the folder of ``target``, of this user's alone; removed in the end unless it was renamed.

    Those that a killed process left go first.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.*{_PART}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                left.unlink()
    fd, name = tempfile.mkstemp(_PART, f".{target.name}.", target.parent)
    os.close(fd)
    try:
        yield Path(name)
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(name + end)


def _give(path: Path, owner: os.stat_result) -> None:
    """To whoever the store belongs to: what root restores, the nodes' user has to be able to write."""
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def _publish(copy: Path, target: Path) -> None:
    """Rename without replacing."""
    try:
        os.link(copy, target)
    except FileExistsError:
        raise DatastoreError(f"{target}: exists already; --force replaces it") from None
    except OSError:  # no hard links here, such as on FAT
        if os.path.lexists(target):
            raise DatastoreError(f"{target}: exists already; --force replaces it") from None
        os.rename(copy, target)


def _flush(path: Path) -> None:
    """Onto the disk: a file's content, or a folder's names."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Errors of the file system and of SQLite in our words."""
    try:
        yield
    except OSError as error:
        where = error.filename if error.filename and not str(error.filename).endswith(_PART) else path
        raise DatastoreError(f"{where}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise DatastoreError(f"{path}: {error}") from error
