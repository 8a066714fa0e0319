"""The KV engine interface: etcd v3's semantics, offered by the embedded engine and by etcd itself."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeAlias

from attrs import frozen


@frozen
class KeyValue:
    """``lease`` is 0 for none; ``version`` counts puts since creation, from 1."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int = 1
    lease: int = 0


@frozen
class RangeResult:
    """``revision`` is the store's revision at the time of the read; ``more`` says ``limit`` cut the list."""

    kvs: tuple[KeyValue, ...]
    revision: int
    more: bool = False


class CompareTarget(enum.Enum):
    VERSION = "version"
    MOD_REVISION = "mod_revision"


@frozen
class Compare:
    """True when ``target`` of ``key`` equals ``value``; an absent key has version and mod_revision 0."""

    key: str
    target: CompareTarget
    value: int


@frozen
class Put:
    key: str
    value: bytes
    lease: int = 0


@frozen
class Delete:
    key: str


@frozen
class Get:
    key: str


Operation: TypeAlias = Put | Delete | Get


@frozen
class TxnResult:
    """``revision`` is the header revision.  ``responses`` has one item per operation carried out: the previous
    KeyValue (or None) for Delete, the KeyValue (or None) for Get, None for Put."""

    succeeded: bool
    revision: int
    responses: tuple[KeyValue | None, ...] = ()


class EventType(enum.Enum):
    PUT = "put"
    DELETE = "delete"


@frozen
class Event:
    """``kv.mod_revision`` is the event's revision (for DELETE too, with an empty value)."""

    type: EventType
    kv: KeyValue
    prev: KeyValue | None = None


SLICE_BYTES = 4 << 20
"""Of values, in a batch of what a watch has missed: about so many at most, or one revision."""


@frozen
class WatchBatch:
    """All events of the watched prefix up to and including ``revision``; no events means progress alone."""

    revision: int
    events: tuple[Event, ...] = ()


class KVEngine(Protocol):
    """Raises ``DatastoreError`` when the store cannot be reached or refuses (what ``limits`` names, a revision in the
    future, a lease that is not there), ``Compacted`` when a revision is gone."""

    name: str

    async def get(self, key: str, *, revision: int = 0) -> tuple[KeyValue | None, int]:
        """The key's value (at ``revision``, 0 or below = latest) and the store's revision."""

    async def range(self, prefix: str, *, start_after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        """Keys that start with ``prefix`` in byte order, after ``start_after``; ``limit`` 0 or below = all."""

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """One atomic transaction: what it writes shares one revision, and each operation sees those before it.

        A branch may not put a key twice, or put and delete it.  Where nothing is put or deleted, the revision stays.
        """

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Unconditional put; returns the revision."""

    async def delete(self, key: str) -> tuple[KeyValue | None, int]:
        """Unconditional delete; returns what was there, and the store's revision."""

    def watch(self, prefix: str, *, start_revision: int, previous: bool = True) -> AsyncIterator[WatchBatch]:
        """Every event from ``start_revision`` (inclusive) on, in order, and progress when other keys moved the
        revision.  Never skips: raises ``Compacted`` or ``DatastoreError`` instead of losing an event.

        A start in the future waits for it; one of 0 or below is the beginning.  ``Compacted`` for a start that is not
        above the compacted revision: at that revision a deletion may be gone already.

        Without ``previous`` the events may come without ``prev``, which costs a store a look-up each."""

    async def grant(self, ttl: int) -> int:
        """A new lease of ``ttl`` seconds (2 at least, ``LONGEST_LEASE`` at most); keys put with it vanish when it
        runs out.  Raises ``DatastoreError`` for a longer one."""

    async def keep_alive(self, lease: int) -> None:
        """Start the lease's time anew."""

    async def revoke(self, lease: int) -> None:
        """End the lease; its keys vanish in one commit (more than 1,024 at several revisions of the embedded one)."""

    async def compact(self, revision: int) -> None:
        """Forget history before ``revision``.  Raises ``Compacted`` where that is not above the last compaction."""

    async def close(self) -> None: ...
