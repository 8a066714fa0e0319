"""The rows of the embedded store's tables, and how events are written and read.

``history`` holds every event that is still kept; its id is ``revision << 16 | position in the transaction``, so the
primary key alone orders events and finds those of a revision.  ``live`` maps each present key to its last event.
Keys are BLOBs: compared bytewise, as etcd does.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from calico_node.datastores.kv import Event, EventType, KeyValue, Put

APPLICATION_ID = 0x43414C4E  # "CALN"
FORMAT_VERSION = 1
SHIFT = 16
MOST_DELETIONS = 1024
"""Of one revision, where a lease ends: far below the places that an id has."""

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE history (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB, create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL, lease INTEGER NOT NULL
);
CREATE INDEX history_key ON history (key, id);
CREATE TABLE live (key BLOB PRIMARY KEY, id INTEGER NOT NULL, lease INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX live_lease ON live (lease) WHERE lease != 0;
CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, boot TEXT NOT NULL, deadline REAL NOT NULL);
"""

COLUMNS = "h.id, h.key, h.value, h.create_revision, h.version, h.lease"
Row = tuple[int, bytes, bytes | None, int, int, int]


def format_fault(db: sqlite3.Connection) -> str:
    """What keeps this release from reading a database; "" when nothing does."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return "is a SQLite file of some other program, not a datastore of calico-node"
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT_VERSION:
        return (
            f"datastore format {version}, this calico-node reads {FORMAT_VERSION}; use the calico-node release that "
            "wrote it"
        )
    return ""


def file_uri(path: Path, options: str) -> str:
    """The name under which SQLite opens ``path``, with ``options`` such as ``mode=rw``."""
    name = str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file:{name}?{options}"


def prefix_end(prefix: bytes) -> bytes | None:
    """The first key after every key that starts with ``prefix``; None when there is no such key."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def key_value(row: Row) -> KeyValue:
    event, key, value, create_revision, version, lease = row
    return KeyValue(bytes(key).decode(), bytes(value or b""), create_revision, event >> SHIFT, version, lease)


def event_of(row: tuple[int | bytes | None, ...]) -> Event:
    kv = key_value(row[:6])  # type: ignore[arg-type]
    previous = key_value(row[6:]) if row[6] is not None and row[8] is not None else None  # type: ignore[arg-type]
    return Event(EventType.DELETE if row[2] is None else EventType.PUT, kv, previous)


class EventWriter:
    """Writes the events of one transaction, all at one revision."""

    def __init__(self, db: sqlite3.Connection, revision: int) -> None:
        self._db = db
        self._revision = revision
        self.position = 0

    def put(self, operation: Put, previous: KeyValue | None) -> None:
        created = previous.create_revision if previous else self._revision
        version = previous.version + 1 if previous else 1
        event = self._append(operation.key, operation.value, created, version, operation.lease)
        self._db.execute(
            "INSERT INTO live VALUES (?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET id = excluded.id, lease = excluded.lease",
            (operation.key.encode(), event, operation.lease),
        )

    def delete(self, key: str, previous: KeyValue | None) -> None:
        if previous is not None:
            self._append(key, None, 0, 0, 0)
            self._db.execute("DELETE FROM live WHERE key = ?", (key.encode(),))

    def _append(self, key: str, value: bytes | None, created: int, version: int, lease: int) -> int:
        event = self._revision << SHIFT | self.position
        self.position += 1
        self._db.execute(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)", (event, key.encode(), value, created, version, lease)
        )
        return event
