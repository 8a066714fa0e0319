"""A dataplane that programs nothing: it keeps what it was told, for tests, dry runs and simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, evolve, field

from calico_node.addresses import canonical_cidr
from calico_node.dataplanes.contract import (
    CONTRACT_VERSION,
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    Applied,
    Batch,
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
    IPSetUpdate,
    LocalBlockRemove,
    LocalBlockUpdate,
    Message,
    ObjectID,
    ObjectState,
    ObjectStatus,
    WorkloadEndpointID,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_node.errors import DataplaneError
from calico_node.model import PolicyKey

if TYPE_CHECKING:
    from calico_node.hookspecs import AgentContext

UP = ObjectStatus(ObjectState.UP)


@define
class State:
    """The sum of all messages so far: each object's latest update, under its identity."""

    ip_sets: dict[str, IPSetUpdate] = field(factory=dict)
    policies: dict[PolicyKey, ActivePolicyUpdate] = field(factory=dict)
    profiles: dict[str, ActiveProfileUpdate] = field(factory=dict)
    workload_endpoints: dict[WorkloadEndpointID, WorkloadEndpointUpdate] = field(factory=dict)
    host_endpoints: dict[str, HostEndpointUpdate] = field(factory=dict)
    hosts: dict[str, HostMetadataUpdate] = field(factory=dict)
    ip_pools: dict[str, IPPoolUpdate] = field(factory=dict)
    local_blocks: set[str] = field(factory=set)
    config: dict[str, str] = field(factory=dict)
    in_sync: bool = False

    def feed(self, message: Message) -> None:
        """Take one message in.  Raises ``DataplaneError`` for a delta to a set that was never sent."""
        match message:
            case IPSetUpdate():
                self.ip_sets[message.id] = message
            case IPSetDeltaUpdate():
                self._delta(message)
            case IPSetRemove():
                self.ip_sets.pop(message.id, None)
            case ActivePolicyUpdate():
                self.policies[message.key] = message
            case ActivePolicyRemove():
                self.policies.pop(message.key, None)
            case ActiveProfileUpdate():
                self.profiles[message.name] = message
            case ActiveProfileRemove():
                self.profiles.pop(message.name, None)
            case WorkloadEndpointUpdate():
                self.workload_endpoints[message.id] = message
            case WorkloadEndpointRemove():
                self.workload_endpoints.pop(message.id, None)
            case HostEndpointUpdate():
                self.host_endpoints[message.id] = message
            case HostEndpointRemove():
                self.host_endpoints.pop(message.id, None)
            case HostMetadataUpdate():
                self.hosts[message.hostname] = message
            case HostMetadataRemove():
                self.hosts.pop(message.hostname, None)
            case IPPoolUpdate():
                self.ip_pools[canonical_cidr(message.cidr)] = message
            case IPPoolRemove():
                self.ip_pools.pop(canonical_cidr(message.cidr), None)
            case LocalBlockUpdate():
                self.local_blocks.add(canonical_cidr(message.cidr))
            case LocalBlockRemove():
                self.local_blocks.discard(canonical_cidr(message.cidr))
            case ConfigUpdate():
                self.config = dict(message.config)
            case InSync():
                self.in_sync = True

    def _delta(self, message: IPSetDeltaUpdate) -> None:
        present = self.ip_sets.get(message.id)
        if present is None:
            raise DataplaneError(f"ipset/{message.id}: a delta came before the set itself")
        members = (present.members - message.removed) | message.added
        self.ip_sets[message.id] = evolve(present, members=members)


class Recorder:
    """A ``PolicyDataplane`` that accepts everything.

    ``state`` is the sum of what it was told, ``batches`` every batch in order, ``revision`` the last one's; every
    endpoint is reported up at once.
    """

    contract_version = CONTRACT_VERSION

    def __init__(self, context: AgentContext | None = None) -> None:
        self.state = State()
        self.batches: list[Batch] = []
        self.revision = 0
        self.started = False
        self.interfaces: frozenset[str] = frozenset()

    async def start(self) -> None:
        self.started = True

    async def apply(self, batch: Batch) -> Applied:
        status: dict[ObjectID, ObjectStatus] = {}
        for message in batch.messages:
            self.state.feed(message)
            match message:
                case WorkloadEndpointUpdate() | HostEndpointUpdate():
                    status[message.id] = UP
                case WorkloadEndpointRemove() | HostEndpointRemove():
                    status.pop(message.id, None)
        self.batches.append(batch)
        self.revision = batch.revision
        return Applied(batch.revision, status)

    async def interfaces_changed(self, up: frozenset[str]) -> Applied:
        self.interfaces = up
        return Applied(self.revision)

    async def stop(self) -> None:
        self.started = False
