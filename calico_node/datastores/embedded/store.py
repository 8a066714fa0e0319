"""etcd's key-value semantics in SQLite tables: synchronous, one connection, no threads, no notification."""

from __future__ import annotations

import enum
import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from calico_node.datastores.embedded.clock import Clock
from calico_node.datastores.embedded.files import log_files
from calico_node.datastores.embedded.rows import (
    APPLICATION_ID,
    COLUMNS,
    FORMAT_VERSION,
    MOST_DELETIONS,
    SCHEMA,
    SHIFT,
    EventWriter,
    Meta,
    advised,
    event_of,
    file_uri,
    format_fault,
    is_damage,
    key_value,
    prefix_end,
)
from calico_node.datastores.kv import (
    SLICE_BYTES,
    Compare,
    CompareTarget,
    Event,
    Get,
    KeyValue,
    Operation,
    Put,
    RangeResult,
    TxnResult,
    WatchBatch,
)
from calico_node.datastores.limits import key_bytes, lease_missing, lease_seconds, prefix_bytes
from calico_node.errors import Compacted, DatastoreError

COMPACTION_PERIOD = 300.0
_SHORTEST_LEASE = 2  # etcd's, with its default election timeout
_SWEEP_REVISIONS = 500
_BUSY_SECONDS = 5.0
# Checkpoint without waiting above the first size; above the second also wait a little for readers to step aside, so
# that the WAL starts over and stays bounded.  A long read (a backup) does not: then again after as much more.
_WAL_KEPT_BYTES = 1 << 20
_WAL_PASSIVE_BYTES = 4 << 20
_WAL_TRUNCATE_BYTES = 16 << 20
_CHECKPOINT_WAIT_MS = 50


class Durability(enum.Enum):
    """What an acknowledged commit survives; either way ``kill -9`` of any process.

    DISK: a power cut too, for one flush of the disk a commit (measured: 0.2 ms on an idle virtual disk, 5 ms on a
    busy one).  PROCESS: not a power cut, which may take the last commits but leaves the file whole.
    """

    DISK = "FULL"
    PROCESS = "NORMAL"


class Store:
    """One connection to the database.  The caller holds the file lock around the methods marked "under the lock".

    Raises ``DatastoreError`` for a file that is damaged, foreign or out of reach.
    """

    def __init__(
        self, path: Path, *, writable: bool, clock: Clock | None = None, durability: Durability = Durability.DISK
    ) -> None:
        """Open, and create when ``writable``; under the lock."""
        self.path = path
        self.damaged = False
        """Whether something could not be read; what SQLite keeps in memory may outlast a repair."""
        self._durability = durability
        self._clock = clock or Clock.system()
        self._truncate_above = _WAL_TRUNCATE_BYTES
        try:
            self._db = sqlite3.connect(
                file_uri(path, "mode=rw"),
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=_BUSY_SECONDS,
            )
        except sqlite3.Error as error:
            raise DatastoreError(f"{path}: {advised(path, error)}") from None
        self._meta = Meta(self._db)
        try:
            with self._errors():
                self._prepare(writable)
            status = os.stat(path)
            self.inode = (status.st_dev, status.st_ino)
            self._log = log_files(path)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, writable: bool) -> None:
        execute = self._db.execute
        execute("PRAGMA wal_autocheckpoint = 0")
        application = execute("PRAGMA application_id").fetchone()[0]
        if writable and application == 0 and execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            self._create()
        fault = format_fault(self._db)
        if fault:
            raise DatastoreError(
                f"{self.path}: {fault}; move this file away, or set CALICO_DATASTORE_PATH to another path"
            )
        if writable:
            self._require_log()  # a copy put here by hand has none
            # For want of descriptors SQLite opens for reading alone, and would refuse every write from then on.
            execute("DELETE FROM meta WHERE 0")
        execute(f"PRAGMA synchronous = {self._durability.value}")
        execute("PRAGMA cache_size = -8192")
        execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
        if not writable:
            execute("PRAGMA query_only = 1")
        self.id = self._meta.text("id")

    def _create(self) -> None:
        execute = self._db.execute
        self._require_log()
        execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";"):
            execute(statement)
        start = {"id": str(uuid.uuid4()), "revision": 1, "compacted": 0, "swept": 0, "mark": 0, "mark_boot": ""}
        self._db.executemany("INSERT INTO meta VALUES (?, ?)", [*start.items(), ("mark_time", 0.0)])
        execute(f"PRAGMA application_id = {APPLICATION_ID}")
        execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        execute("COMMIT")

    def _require_log(self) -> None:
        mode = self._db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise DatastoreError(f"{self.path}: SQLite refuses write-ahead logging here (journal mode {mode!r})")

    def close(self) -> None:
        """Under the lock: the last connection to close writes the WAL back."""
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            self.damaged = self.damaged or is_damage(error)
            raise DatastoreError(f"{self.path}: {advised(self.path, error)}") from error

    def moved(self) -> bool:
        """Whether the path no longer leads to the file that is open here, or that file was emptied."""
        try:
            status = os.stat(self.path)
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self.inode or status.st_size == 0

    def replaced(self) -> bool:
        """Whether others who open the path would not find what is open here: the file, or its log."""
        return self.moved() or log_files(self.path) != self._log

    def save_log(self) -> None:
        """Under the lock: into the file with all that a log holds which was removed; nobody may have begun another.

        Raises ``DatastoreError`` when a reader is in the way.
        """
        found = log_files(self.path)
        if None not in found or any(now not in (None, then) for now, then in zip(found, self._log, strict=True)):
            return
        with self._errors():
            if self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise DatastoreError(
                    f"{self.path}: its log was removed, and a reader keeps it from being written back"
                )

    # Reading

    @contextmanager
    def _snapshot(self) -> Iterator[int]:
        """One consistent read; gives the revision."""
        with self._errors():
            self._db.execute("BEGIN")
            try:
                self.id = self._meta.text("id")  # another after a restore
                yield self._meta.number("revision")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def data_version(self) -> int:
        """A number that differs when another connection has committed since the last call."""
        with self._errors():
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def get(self, key: str, revision: int) -> tuple[KeyValue | None, int]:
        stored_key = key_bytes(key)
        with self._snapshot() as current:
            if revision <= 0 or revision == current:
                return self._live(stored_key), current
            self._check_revision(revision, current)
            row = self._db.execute(
                f"SELECT {COLUMNS} FROM history h WHERE h.key = ? AND h.id < ? ORDER BY h.id DESC LIMIT 1",
                (stored_key, (revision + 1) << SHIFT),
            ).fetchone()
            return (key_value(row) if row is not None and row[2] is not None else None), current

    def _live(self, key: bytes) -> KeyValue | None:
        row = self._db.execute(
            f"SELECT {COLUMNS} FROM live l JOIN history h ON h.id = l.id WHERE l.key = ?", (key,)
        ).fetchone()
        return None if row is None else key_value(row)

    def _check_revision(self, revision: int, current: int) -> None:
        compacted = self._meta.number("compacted")
        if revision < compacted:
            raise Compacted(compacted)
        if revision > current:
            raise DatastoreError(f"revision {revision} is in the future; the store is at {current}")

    def range(self, prefix: str, start_after: str, limit: int, revision: int) -> RangeResult:
        low = prefix_bytes(prefix)
        end = prefix_end(low)
        if start_after:
            low = max(low, prefix_bytes(start_after) + b"\0")
        count = limit + 1 if limit > 0 else -1
        with self._snapshot() as current:
            bounds: tuple[bytes, ...] = (low,) if end is None else (low, end)
            if revision <= 0 or revision == current:
                condition = "l.key >= ?" if end is None else "l.key >= ? AND l.key < ?"
                rows = self._db.execute(
                    f"SELECT {COLUMNS} FROM live l JOIN history h ON h.id = l.id WHERE {condition} "
                    "ORDER BY l.key LIMIT ?",
                    (*bounds, count),
                ).fetchall()
            else:
                self._check_revision(revision, current)
                condition = "key >= ?" if end is None else "key >= ? AND key < ?"
                rows = self._db.execute(
                    f"SELECT {COLUMNS} FROM (SELECT max(id) AS id FROM history WHERE {condition} AND id < ? "
                    "GROUP BY key) l JOIN history h ON h.id = l.id WHERE h.value IS NOT NULL ORDER BY h.key LIMIT ?",
                    (*bounds, (revision + 1) << SHIFT, count),
                ).fetchall()
            more = 0 < limit < len(rows)
            return RangeResult(tuple(map(key_value, rows[:limit] if more else rows)), current, more)

    def events(self, prefix: str, start_revision: int, limit: int) -> WatchBatch:
        """Events of ``prefix`` from ``start_revision`` on: about ``limit`` and ``SLICE_BYTES`` at most, and whole
        revisions alone.

        An empty batch at ``start_revision - 1`` (or before) says that nothing has happened yet.
        """
        low = prefix_bytes(prefix)
        end = prefix_end(low)
        with self._snapshot() as revision:
            compacted = self._meta.number("compacted")
            if max(start_revision - 1, 1) < compacted:
                raise Compacted(compacted)
            if start_revision > revision:
                return WatchBatch(revision)
            condition = "h.key >= ?" if end is None else "h.key >= ? AND h.key < ?"
            # "+h.key" keeps the planner on the primary key: work follows the new events, not the prefix's size.
            query = (
                f"SELECT {COLUMNS}, p.id, p.key, p.value, p.create_revision, p.version, p.lease FROM history h "
                "LEFT JOIN history p ON p.id = (SELECT max(id) FROM history WHERE key = h.key AND id < h.id) "
                f"WHERE h.id >= ? AND {condition.replace('h.key', '+h.key')} ORDER BY h.id"
            )
            bounds = (low,) if end is None else (low, end)
            found: list[Event] = []
            size = 0
            for row in self._db.execute(query, (max(start_revision, 0) << SHIFT, *bounds)):
                event = event_of(row)
                enough = len(found) >= limit or size >= SLICE_BYTES
                if enough and event.kv.mod_revision != found[-1].kv.mod_revision:
                    return WatchBatch(found[-1].kv.mod_revision, tuple(found))
                found.append(event)
                size += len(event.kv.value) + (len(event.prev.value) if event.prev else 0)
        return WatchBatch(revision, tuple(found))

    def copy_to(self, target: Path) -> None:
        """All of it as of one moment into ``target``, a file that is absent or empty; writers go on meanwhile."""
        with self._errors():
            self._db.execute("PRAGMA query_only = 0")
            self._db.execute("VACUUM INTO ?", (str(target),))

    # Writing, under the lock

    def take_over(self, source: Path) -> None:
        """Become what the database ``source`` is, in one commit.

        Whoever has this store open goes on with it, and finds it to be another: ``source`` has an id of its own.
        """
        with self._errors():
            other = sqlite3.connect(file_uri(source, "mode=ro"), uri=True)
            try:
                other.backup(self._db)
            finally:
                other.close()
            self.id = self._meta.text("id")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One SQLite transaction, durable when this returns; several ``txn`` calls may share it."""
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite itself has rolled back already after some errors (a full disk).
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]
    ) -> TxnResult:
        """Carry out one transaction inside ``writing``."""
        succeeded = all(self._holds(compare) for compare in compares)
        operations = success if succeeded else failure
        self._check_leases(operations)
        revision = self._meta.number("revision")
        writer = EventWriter(self._db, revision + 1)
        responses: list[KeyValue | None] = []
        for operation in operations:
            previous = self._live(operation.key.encode())
            if isinstance(operation, Get):
                responses.append(previous)
            elif isinstance(operation, Put):
                writer.put(operation, previous)
                responses.append(None)
            else:
                writer.delete(operation.key, previous)
                responses.append(previous)
        if writer.position:
            revision += 1
            self._meta.set("revision", revision)
        return TxnResult(succeeded, revision, tuple(responses))

    def _holds(self, compare: Compare) -> bool:
        found = self._live(compare.key.encode())
        if compare.target is CompareTarget.VERSION:
            return (found.version if found else 0) == compare.value
        return (found.mod_revision if found else 0) == compare.value

    def _check_leases(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Put) and operation.lease:
                self._require_lease(operation.lease)

    def _require_lease(self, lease: int) -> int:
        row = self._db.execute("SELECT ttl FROM lease WHERE id = ?", (lease,)).fetchone()
        if row is None:
            raise lease_missing(lease)
        if type(row[0]) is not int:
            raise sqlite3.DatabaseError(f"lease {lease} is malformed")
        return row[0]

    # Leases

    def grant(self, ttl: int) -> int:
        ttl = max(lease_seconds(ttl), _SHORTEST_LEASE)
        lease = uuid.uuid4().int & (2**62 - 1) or 1
        self._db.execute(
            "INSERT INTO lease VALUES (?, ?, ?, ?)", (lease, ttl, self._clock.boot, self._clock.now() + ttl)
        )
        return lease

    def keep_alive(self, lease: int) -> None:
        ttl = self._require_lease(lease)
        self._db.execute(
            "UPDATE lease SET deadline = ?, boot = ? WHERE id = ?", (self._clock.now() + ttl, self._clock.boot, lease)
        )

    def revoke(self, lease: int) -> None:
        self._require_lease(lease)
        self._drop_lease(lease)

    def _drop_lease(self, lease: int) -> None:
        """The keys go at one revision, as in etcd, up to ``MOST_DELETIONS`` of them; more take several revisions.

        They are one commit, so that a read finds all or none; and a watch is not given all at once.
        """
        self._db.execute("DELETE FROM lease WHERE id = ?", (lease,))
        first = self._meta.number("revision") + 1
        events = self._db.execute(
            f"INSERT INTO history SELECT (? + n / {MOST_DELETIONS}) << {SHIFT} | n % {MOST_DELETIONS}, "
            "key, NULL, 0, 0, 0 "
            "FROM (SELECT key, row_number() OVER (ORDER BY key) - 1 AS n FROM live WHERE lease = ?)",
            (first, lease),
        ).rowcount
        if events:
            self._db.execute("DELETE FROM live WHERE lease = ?", (lease,))
            self._meta.set("revision", first + (events - 1) // MOST_DELETIONS)

    def _expired(self) -> list[int]:
        # A lease of an earlier boot has run out: no process that could have kept it alive has survived.
        rows = self._db.execute(
            "SELECT id FROM lease WHERE boot != ? OR deadline <= ?", (self._clock.boot, self._clock.now())
        )
        return [row[0] for row in rows]

    def expire_leases(self) -> int:
        """Inside ``writing``: drop the leases that have run out, with their keys; how many."""
        expired = self._expired()
        for lease in expired:
            self._drop_lease(lease)
        return len(expired)

    # Compaction

    def compact(self, revision: int) -> None:
        """Inside ``writing``: forget history before ``revision``; ``sweep`` then removes the rows."""
        current, compacted = self._meta.number("revision"), self._meta.number("compacted")
        if revision > current:
            raise DatastoreError(f"revision {revision} is in the future; the store is at {current}")
        if revision <= compacted:
            raise Compacted(compacted)
        self._meta.set("compacted", revision)

    def _mark_age(self) -> float:
        if self._meta.text("mark_boot") != self._clock.boot:
            return COMPACTION_PERIOD + 1
        return self._clock.now() - self._meta.seconds("mark_time")

    def maintenance_due(self) -> bool:
        """Whether ``maintain`` has something to do; a read."""
        with self._snapshot():
            return bool(
                self._expired()
                or self._meta.number("swept") < self._meta.number("compacted")
                or self._mark_age() > COMPACTION_PERIOD
            )

    def maintain(self) -> bool:
        """Inside ``writing``: expire leases, compact to where the store was a period ago, sweep one slice.

        True when keys changed.
        """
        changed = self.expire_leases() > 0
        if self._mark_age() > COMPACTION_PERIOD:
            mark = self._meta.number("mark")
            if mark > self._meta.number("compacted"):
                self._meta.set("compacted", mark)
            self._meta.set("mark", self._meta.number("revision"))
            self._meta.set("mark_boot", self._clock.boot)
            self._meta.set("mark_time", self._clock.now())
        self._sweep()
        return changed

    def _sweep(self) -> None:
        """Remove rows that compaction made unreachable: work follows the events since the last sweep."""
        compacted, swept = self._meta.number("compacted"), self._meta.number("swept")
        if swept >= compacted:
            return
        until = min(swept + _SWEEP_REVISIONS, compacted)
        low, high = swept << SHIFT, (until + 1) << SHIFT
        self._db.execute(
            "DELETE FROM history WHERE id IN (SELECT old.id FROM history new JOIN history old "
            "ON old.key = new.key AND old.id < new.id WHERE new.id >= ? AND new.id < ?)",
            (low, high),
        )
        self._db.execute(
            "DELETE FROM history WHERE value IS NULL AND id >= ? AND id < ?", (low, min(high, compacted << SHIFT))
        )
        self._meta.set("swept", until)

    def checkpoint(self) -> None:
        """Under the lock: keep the WAL bounded."""
        try:
            size = os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return
        if size <= _WAL_PASSIVE_BYTES:
            self._truncate_above = _WAL_TRUNCATE_BYTES
            return
        with self._errors():
            if size <= self._truncate_above:
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                return
            self._db.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_WAIT_MS}")
            try:
                busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                self._db.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000:.0f}")
        self._truncate_above = _WAL_TRUNCATE_BYTES + (size if busy else 0)
