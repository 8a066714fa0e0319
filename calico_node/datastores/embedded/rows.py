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
_VALUES = (bytes, type(None))
_DAMAGE = ("not a database", "malformed", "Could not decode", "no such table", "too big")
_REVISIONS = 1 << (63 - SHIFT)


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


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is at fault; not a lock, a full disk or a permission."""
    return any(words in str(error) for words in _DAMAGE)


def advised(path: Path, error: sqlite3.Error) -> str:
    """What SQLite says of the store at ``path``, and what to do about it."""
    text = str(error)
    if is_damage(error):
        return (
            f"{text}; 'calicoctl datastore restore FILE --force' puts a backup in its place; without one, stop every "
            f"calico-node process on this host, move {path.name}, {path.name}-wal, {path.name}-shm and "
            f"{path.name}-lock away and start afresh"
        )
    if "unable to open" in text or "readonly" in text:
        return f"{text}; this user has to be able to write it and its folder (CALICO_DATASTORE_PATH says where it is)"
    return text


def file_uri(path: Path, options: str) -> str:
    """The name under which SQLite opens ``path``, with ``options`` such as ``mode=rw``."""
    name = str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file:{name}?{options}"


def prefix_end(prefix: bytes) -> bytes | None:
    """The first key after every key that starts with ``prefix``; None when there is no such key."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def key_value(row: Row) -> KeyValue:
    """Raises ``sqlite3.DatabaseError`` for what no store has written: the file is damaged."""
    event, key, value, created, version, lease = row
    if (
        type(key) is not bytes
        or type(value) not in _VALUES
        or not (type(created) is type(version) is type(lease) is int)
    ):
        raise sqlite3.DatabaseError(f"record {event} is malformed")
    try:
        return KeyValue(key.decode(), value or b"", created, event >> SHIFT, version, lease)
    except UnicodeDecodeError:
        raise sqlite3.DatabaseError(f"the key of record {event} is malformed") from None


def event_of(row: tuple[int | bytes | None, ...]) -> Event:
    kv = key_value(row[:6])  # type: ignore[arg-type]
    previous = key_value(row[6:]) if row[6] is not None and row[8] is not None else None  # type: ignore[arg-type]
    return Event(EventType.DELETE if row[2] is None else EventType.PUT, kv, previous)


class Meta:
    """The table of single values.  Raises ``sqlite3.DatabaseError`` for one that is not as it was made."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def number(self, name: str) -> int:
        """A revision."""
        value = self._value(name)
        if type(value) is not int or not 0 <= value < _REVISIONS:
            raise self._malformed(name)
        return value

    def seconds(self, name: str) -> float:
        value = self._value(name)
        if not isinstance(value, int | float):
            raise self._malformed(name)
        return value

    def text(self, name: str) -> str:
        value = self._value(name)
        if not isinstance(value, str):
            raise self._malformed(name)
        return value

    def set(self, name: str, value: str | float) -> None:
        self._db.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))

    def _value(self, name: str) -> object:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _malformed(self, name: str) -> sqlite3.DatabaseError:
        return sqlite3.DatabaseError(f"the record {name!r} is missing or malformed")


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
