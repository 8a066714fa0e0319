"""The event sequencer: collects what changed and hands it over in an order that is safe to apply."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from attrs import define, field

from calico_node.dataplanes.contract import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    ConfigUpdate,
    HostEndpointRemove,
    HostEndpointUpdate,
    HostMetadataRemove,
    HostMetadataUpdate,
    InSync,
    IPPoolRemove,
    IPPoolUpdate,
    IPSetDeltaUpdate,
    IPSetRemove,
    IPSetType,
    IPSetUpdate,
    LocalBlockRemove,
    LocalBlockUpdate,
    Message,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_node.plugins.felix.calc.members import Change


@define
class _Objects:
    """The last value per key: what was sent, and what is to be sent (None: the removal)."""

    remove: Callable[[Any], Message]
    sent: dict[Hashable, Message] = field(factory=dict)
    pending: dict[Hashable, Message | None] = field(factory=dict)

    def set(self, key: Hashable, message: Message | None) -> None:
        if self.sent.get(key) == message:
            self.pending.pop(key, None)
        else:
            self.pending[key] = message

    def updates(self) -> list[Message]:
        return [message for message in self.pending.values() if message is not None]

    def removes(self) -> list[Message]:
        return [self.remove(key) for key, message in self.pending.items() if message is None]

    def settle(self) -> None:
        for key, message in self.pending.items():
            if message is None:
                self.sent.pop(key, None)
            else:
                self.sent[key] = message
        self.pending.clear()


@define
class _Delta:
    added: set[str] = field(factory=set)
    removed: set[str] = field(factory=set)

    def merge(self, change: Change) -> None:
        for member in change.removed:
            if member in self.added:
                self.added.discard(member)
            else:
                self.removed.add(member)
        for member in change.added:
            if member in self.removed:
                self.removed.discard(member)
            else:
                self.added.add(member)


class EventSequencer:
    """Coalesces: the last value per object wins, what was never sent and is gone again is not mentioned, and a
    member that came and went in between cancels out.  A new set goes out whole."""

    def __init__(self) -> None:
        self._sent_sets: set[str] = set()
        self._new_sets: dict[str, tuple[IPSetType, _Delta]] = {}
        self._deltas: dict[str, _Delta] = {}
        self._removed_sets: set[str] = set()
        self._policies = _Objects(ActivePolicyRemove)
        self._profiles = _Objects(ActiveProfileRemove)
        self._workloads = _Objects(WorkloadEndpointRemove)
        self._hosts = _Objects(HostEndpointRemove)
        self._blocks = _Objects(LocalBlockRemove)
        self._metadata = _Objects(HostMetadataRemove)
        self._pools = _Objects(IPPoolRemove)
        self._config: ConfigUpdate | None = None
        self._sent_config: ConfigUpdate | None = None
        self._in_sync_sent = False

    # What the nodes of the graph tell

    def ip_set_added(self, set_id: str, set_type: IPSetType) -> None:
        self._removed_sets.discard(set_id)
        self._deltas.pop(set_id, None)
        self._new_sets[set_id] = (set_type, _Delta())

    def ip_set_removed(self, set_id: str) -> None:
        self._new_sets.pop(set_id, None)
        self._deltas.pop(set_id, None)
        if set_id in self._sent_sets:
            self._removed_sets.add(set_id)

    def ip_set_changed(self, set_id: str, change: Change) -> None:
        if not change.added and not change.removed:
            return
        new = self._new_sets.get(set_id)
        if new is not None:
            new[1].merge(change)
            return
        delta = self._deltas.get(set_id)
        if delta is None:
            delta = self._deltas[set_id] = _Delta()
        delta.merge(change)

    def policy(self, message: ActivePolicyUpdate | ActivePolicyRemove) -> None:
        self._policies.set(message.key, message if isinstance(message, ActivePolicyUpdate) else None)

    def profile(self, message: ActiveProfileUpdate | ActiveProfileRemove) -> None:
        self._profiles.set(message.name, message if isinstance(message, ActiveProfileUpdate) else None)

    def workload_endpoint(self, message: WorkloadEndpointUpdate | WorkloadEndpointRemove) -> None:
        self._workloads.set(message.id, message if isinstance(message, WorkloadEndpointUpdate) else None)

    def host_endpoint(self, message: HostEndpointUpdate | HostEndpointRemove) -> None:
        self._hosts.set(message.id, message if isinstance(message, HostEndpointUpdate) else None)

    def local_block(self, message: LocalBlockUpdate | LocalBlockRemove) -> None:
        self._blocks.set(message.cidr, message if isinstance(message, LocalBlockUpdate) else None)

    def host_metadata(self, message: HostMetadataUpdate | HostMetadataRemove) -> None:
        self._metadata.set(message.hostname, message if isinstance(message, HostMetadataUpdate) else None)

    def ip_pool(self, message: IPPoolUpdate | IPPoolRemove) -> None:
        self._pools.set(message.cidr, message if isinstance(message, IPPoolUpdate) else None)

    def config(self, config: Mapping[str, str]) -> None:
        message = ConfigUpdate(dict(config))
        self._config = None if message == self._sent_config else message

    # What the dataplane gets

    def flush(self, *, in_sync: bool) -> tuple[Message, ...]:
        """All that changed since the last flush, in order; ``InSync`` ends the first one that is in sync."""
        messages = tuple(self._ordered())
        for objects in self._all_objects():
            objects.settle()
        self._sent_sets |= self._new_sets.keys()
        self._sent_sets -= self._removed_sets
        self._new_sets, self._deltas, self._removed_sets = {}, {}, set()
        if self._config is not None:
            self._sent_config, self._config = self._config, None
        if in_sync and not self._in_sync_sent:
            self._in_sync_sent = True
            messages += (InSync(),)
        return messages

    @property
    def counts(self) -> Mapping[str, int]:
        """How many objects are in force, by kind (for metrics)."""
        return {
            "endpoints": len(self._workloads.sent) + len(self._hosts.sent),
            "policies": len(self._policies.sent),
            "sets": len(self._sent_sets),
        }

    def _all_objects(self) -> tuple[_Objects, ...]:
        return (
            self._policies,
            self._profiles,
            self._workloads,
            self._hosts,
            self._blocks,
            self._metadata,
            self._pools,
        )

    def _ordered(self) -> Iterator[Message]:
        if self._config is not None:
            yield self._config
        for set_id, (set_type, members) in self._new_sets.items():
            yield IPSetUpdate(set_id, set_type, frozenset(members.added))
        for set_id, delta in self._deltas.items():
            if delta.added or delta.removed:
                yield IPSetDeltaUpdate(set_id, frozenset(delta.added), frozenset(delta.removed))
        for objects in (self._policies, self._profiles, self._workloads, self._hosts):
            yield from objects.updates()
        for objects in (self._workloads, self._hosts, self._profiles, self._policies):
            yield from objects.removes()
        for set_id in sorted(self._removed_sets):
            yield IPSetRemove(set_id)
        for objects in (self._blocks, self._metadata, self._pools):
            yield from objects.removes()
            yield from objects.updates()
