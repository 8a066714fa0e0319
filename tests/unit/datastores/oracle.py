"""etcd's semantics in plain dictionaries, to compare engines with."""

from __future__ import annotations

from collections.abc import Sequence

from calico_node.datastores.kv import (
    Compare,
    CompareTarget,
    Event,
    EventType,
    Get,
    KeyValue,
    Operation,
    Put,
    TxnResult,
)


class Oracle:
    """The whole history is kept as one state per revision."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.states: dict[int, dict[str, KeyValue]] = {1: {}}
        self.events: list[Event] = []

    @property
    def state(self) -> dict[str, KeyValue]:
        return self.states[self.revision]

    def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]
    ) -> TxnResult:
        succeeded = all(self._holds(compare) for compare in compares)
        state = dict(self.state)
        events: list[Event] = []
        responses: list[KeyValue | None] = []
        revision = self.revision + 1
        for operation in success if succeeded else failure:
            old = state.get(operation.key)
            if isinstance(operation, Get):
                responses.append(old)
            elif isinstance(operation, Put):
                created, version = (old.create_revision, old.version + 1) if old else (revision, 1)
                new = KeyValue(operation.key, operation.value, created, revision, version, operation.lease)
                state[operation.key] = new
                events.append(Event(EventType.PUT, new, old))
                responses.append(None)
            else:
                if old is not None:
                    del state[operation.key]
                    gone = KeyValue(operation.key, b"", 0, revision, 0)
                    events.append(Event(EventType.DELETE, gone, old))
                responses.append(old)
        if events:
            self.revision = revision
            self.states[revision] = state
            self.events += events
        return TxnResult(succeeded, self.revision, tuple(responses))

    def _holds(self, compare: Compare) -> bool:
        found = self.state.get(compare.key)
        if compare.target is CompareTarget.VERSION:
            return (found.version if found else 0) == compare.value
        return (found.mod_revision if found else 0) == compare.value

    def range(self, prefix: str, revision: int) -> tuple[KeyValue, ...]:
        state = self.states[revision]
        keys = sorted((key for key in state if key.startswith(prefix)), key=str.encode)
        return tuple(state[key] for key in keys)

    def watch(self, prefix: str, start: int) -> list[Event]:
        return [e for e in self.events if e.kv.mod_revision >= start and e.kv.key.startswith(prefix)]
