"""A KV engine in memory with etcd's revisions, for tests; it can be slow, and die, at chosen steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from calico_node.datastores.kv import (
    Compare,
    CompareTarget,
    Delete,
    Event,
    EventType,
    Get,
    KeyValue,
    Operation,
    Put,
    RangeResult,
    TxnResult,
    WatchBatch,
)
from calico_node.datastores.limits import check_transaction


class MemoryEngine:
    name = "memory"

    def __init__(self) -> None:
        self.data: dict[str, KeyValue] = {}
        self.revision = 1
        self.history: list[Event] = []
        self.moved = asyncio.Event()
        self.on_write: Callable[[], None] = lambda: None
        self.writes = 0

    async def get(self, key: str, *, revision: int = 0) -> tuple[KeyValue | None, int]:
        return self.data.get(key), self.revision

    async def range(self, prefix: str, *, start_after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        keys = sorted(key for key in self.data if key.startswith(prefix) and key > start_after)
        cut = keys[:limit] if limit else keys
        return RangeResult(tuple(self.data[key] for key in cut), self.revision, len(cut) < len(keys))

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        check_transaction(compares, success, failure)
        holds = all(self._holds(compare) for compare in compares)
        operations = success if holds else failure
        writes = any(
            isinstance(each, Put) or (isinstance(each, Delete) and each.key in self.data) for each in operations
        )
        if writes:
            self.revision += 1
            self.writes += 1
        responses = tuple(self._carry_out(operation) for operation in operations)
        if writes:
            self.on_write()
            self.moved.set()
            self.moved = asyncio.Event()
        return TxnResult(holds, self.revision, responses)

    def _holds(self, compare: Compare) -> bool:
        kv = self.data.get(compare.key)
        if compare.target is CompareTarget.VERSION:
            return (kv.version if kv else 0) == compare.value
        return (kv.mod_revision if kv else 0) == compare.value

    def _carry_out(self, operation: Operation) -> KeyValue | None:
        old = self.data.get(operation.key)
        if isinstance(operation, Get):
            return old
        if isinstance(operation, Delete):
            if old is not None:
                del self.data[operation.key]
                gone = KeyValue(operation.key, b"", 0, self.revision)
                self.history.append(Event(EventType.DELETE, gone, old))
            return old
        assert isinstance(operation, Put)
        created, version = (old.create_revision, old.version + 1) if old else (self.revision, 1)
        new = KeyValue(operation.key, operation.value, created, self.revision, version)
        self.data[operation.key] = new
        self.history.append(Event(EventType.PUT, new, old))
        return None

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return (await self.txn([], [Put(key, value)])).revision

    async def delete(self, key: str) -> tuple[KeyValue | None, int]:
        result = await self.txn([], [Delete(key)])
        return result.responses[0], result.revision

    async def watch(self, prefix: str, *, start_revision: int, previous: bool = True) -> AsyncIterator[WatchBatch]:
        at = start_revision - 1
        while True:
            moved = self.moved
            if self.revision > at:
                events = [e for e in self.history if e.kv.mod_revision > at and e.kv.key.startswith(prefix)]
                at = self.revision
                yield WatchBatch(at, tuple(events))
            else:
                await moved.wait()

    async def grant(self, ttl: int) -> int:
        return 1

    async def keep_alive(self, lease: int) -> None: ...

    async def revoke(self, lease: int) -> None: ...

    async def compact(self, revision: int) -> None: ...

    async def close(self) -> None: ...
