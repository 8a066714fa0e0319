"""The calculation graph as a whole: datastore updates in, dataplane messages out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from attrs import evolve

from calico_node.dataplanes.contract import (
    HostMetadataRemove,
    HostMetadataUpdate,
    IPPoolRemove,
    IPPoolUpdate,
    LocalBlockRemove,
    LocalBlockUpdate,
    Message,
)
from calico_node.errors import CalicoError
from calico_node.model import (
    AllocationBlock,
    BlockKey,
    GlobalConfigKey,
    HostConfigKey,
    HostEndpoint,
    HostEndpointKey,
    IPPool,
    IPPoolKey,
    Key,
    NetworkSet,
    NetworkSetKey,
    Policy,
    PolicyKey,
    ProfileLabelsKey,
    ProfileRules,
    ProfileRulesKey,
    ReadyFlagKey,
    ResourceKey,
    SyncStatus,
    Tier,
    TierKey,
    Update,
    WorkloadEndpoint,
    WorkloadEndpointKey,
)
from calico_node.plugins.felix.calc import validation
from calico_node.plugins.felix.calc.active_rules import ActiveRules
from calico_node.plugins.felix.calc.config import ConfigBatcher, Resolved
from calico_node.plugins.felix.calc.ipsets import Contributor, IPSetIndex
from calico_node.plugins.felix.calc.nodes import host_metadata, selected_parameters
from calico_node.plugins.felix.calc.resolver import PolicyResolver
from calico_node.plugins.felix.calc.routes import NodeAddresses, RouteChange, RouteResolver
from calico_node.plugins.felix.calc.rules import RuleScanner
from calico_node.plugins.felix.calc.sequencer import EventSequencer


def describe(key: Key) -> str:
    """The object's kind and name as a user knows them: ``NetworkPolicy(default/web)``."""
    match key:
        case PolicyKey(kind, namespace, name) | ResourceKey(kind, namespace, name):
            return f"{kind}({namespace + '/' if namespace else ''}{name})"
        case WorkloadEndpointKey():
            return f"WorkloadEndpoint({key.workload}/{key.endpoint} on {key.host})"
        case HostEndpointKey():
            return f"HostEndpoint({key.name})"
        case NetworkSetKey(name):
            return f"{'NetworkSet' if '/' in name else 'GlobalNetworkSet'}({name})"
        case ProfileRulesKey(name) | ProfileLabelsKey(name):
            return f"Profile({name})"
        case TierKey(name):
            return f"Tier({name})"
        case IPPoolKey(cidr) | BlockKey(cidr):
            return f"{'IPPool' if isinstance(key, IPPoolKey) else 'IPAMBlock'}({cidr})"
        case _:
            return str(key)


class CalcGraph:
    """Felix's calculation for one node.

    ``feed`` only queues; ``step`` does a slice of work; once it returns False, ``flush`` gives what changed.  Nothing
    that opens or closes traffic for an endpoint is emitted before the datastore is in sync.
    """

    def __init__(
        self,
        node_name: str,
        *,
        environ: Mapping[str, str] | None = None,
        file_values: Mapping[str, str] | None = None,
    ) -> None:
        self._node = node_name
        self._inbox: OrderedDict[Key, Update] = OrderedDict()
        self._in_sync = False
        self._ready: bool | None = None
        self.rejected: dict[Key, str] = {}
        self.sequencer = EventSequencer()
        self.sets = IPSetIndex(self.sequencer)
        self.scanner = RuleScanner(self.sets)
        self.resolver = PolicyResolver(self.sequencer)
        self.active = ActiveRules(self.scanner, self.resolver, self.sequencer)
        self._routes = RouteResolver(node_name)
        self._batcher = ConfigBatcher(environ or {}, file_values or {})
        self.config: Resolved = self._batcher.resolve()
        self._config_dirty = True
        self._selectable: dict[str, Any] = {}  # FelixConfigurations with a nodeSelector, by name
        self._selector_faults: dict[str, str] = {}
        self._labels: Mapping[str, str] = {}  # of our own node
        self._spoofers: dict[WorkloadEndpointKey, WorkloadEndpoint] = {}
        self._known: dict[str, set[Key]] = {}
        self._handlers: dict[type[Any], Callable[[Any, Any], None]] = {
            WorkloadEndpointKey: self._workload_endpoint,
            HostEndpointKey: self._host_endpoint,
            NetworkSetKey: self._network_set,
            PolicyKey: self._policy,
            TierKey: self._tier,
            ProfileRulesKey: self._profile_rules,
            ProfileLabelsKey: self._profile_labels,
            IPPoolKey: self._pool,
            BlockKey: self._block,
            GlobalConfigKey: self._global_config,
            HostConfigKey: self._host_config,
            ReadyFlagKey: self._ready_flag,
            ResourceKey: self._resource,
        }

    # Input

    def feed(self, updates: Iterable[Update]) -> None:
        """Queue updates; a later one of the same key replaces an earlier one that was not looked at yet."""
        for update in updates:
            self._inbox[update.key] = update
            self._inbox.move_to_end(update.key)

    def set_status(self, status: SyncStatus) -> None:
        """Once in sync, always in sync: a datastore that goes away later changes nothing in force."""
        if status is SyncStatus.IN_SYNC:
            self._in_sync = True

    def step(self, max_items: int) -> bool:
        """Do at most about ``max_items`` pieces of work; True when more is left."""
        left = max_items
        while left > 0:
            done = self.active.index.step(left) or self.sets.index.step(left)
            if not done and self._inbox:
                _, update = self._inbox.popitem(last=False)
                self._process(update)
                done = 1
            if not done and self._config_dirty:
                self._refresh_config()
                done = 1
            if not done:
                done = self._routes.step(left)
            if not done and self._in_sync:
                done = self.resolver.step(left)
            if not done:
                return False
            left -= done
        return True

    # Output

    def flush(self) -> tuple[Message, ...]:
        """What changed since the last flush, in an order safe to apply."""
        return self.sequencer.flush(in_sync=self._in_sync)

    def take_routes(self) -> RouteChange:
        """The changes since the last call to the block routes that are Felix's."""
        return self._routes.take()

    @property
    def unreachable(self) -> tuple[str, ...]:
        """Why blocks of some nodes cannot be reached from here, one sentence for each pool and peer."""
        return self._routes.missing

    @property
    def in_sync(self) -> bool:
        return self._in_sync

    @property
    def datastore_ready(self) -> bool:
        """ClusterInformation's ``datastoreReady``; False as long as it is not known."""
        return self._ready is True

    @property
    def faults(self) -> dict[str, str]:
        """Every object and parameter that is not in force as written, and why."""
        found = {describe(key): fault for key, fault in self.rejected.items()}
        for owner, fault in self.scanner.faults.items():
            found.setdefault(describe(owner if isinstance(owner, PolicyKey) else ProfileRulesKey(owner)), fault)
        for name, fault in self._selector_faults.items():
            found[f"FelixConfiguration({name})"] = fault
        for name, fault in self.config.faults.items():
            found[f"Felix parameter {name}"] = fault
        return found

    def cluster_count(self, kind: str) -> int:
        """How many objects the cluster has of ``kind`` (a metric's name: hosts, policies, …)."""
        return len(self._known.get(kind, ()))

    # Inside: one handler per kind of key

    def _process(self, update: Update) -> None:
        handler = self._handlers.get(type(update.key))
        if handler is None:
            return
        self.rejected.pop(update.key, None)
        try:
            handler(update.key, update.value)
        except Exception as error:
            # Whatever is wrong with one object, it must not keep all others from this node.
            known = isinstance(error, CalicoError)
            self.rejected[update.key] = str(error) if known else f"cannot be used: {type(error).__name__}: {error}"
            handler(update.key, None)

    def _count(self, kind: str, key: Key, present: bool) -> None:
        known = self._known.setdefault(kind, set())
        if present:
            known.add(key)
        else:
            known.discard(key)

    def _workload_endpoint(self, key: WorkloadEndpointKey, value: WorkloadEndpoint | None) -> None:
        self._count("workload_endpoints", key, value is not None)
        if value is not None and value.allow_spoofed_source_prefixes:
            self._spoofers[key] = value
        elif value is None or key in self._spoofers:
            # A rejected one stays known, for the day when spoofing is allowed.
            rejected = key in self.rejected and key in self._spoofers
            if not rejected:
                self._spoofers.pop(key, None)
        if value is None:
            self.sets.delete_contributor(key)
            if key.host == self._node:
                self.active.delete_endpoint(key)
                self.resolver.set_endpoint(key, None)
            return
        spoofing = self.config.values.get("WorkloadSourceSpoofing") == "Any"
        endpoint = validation.workload_endpoint(value, spoofing_allowed=spoofing)
        nets = endpoint.ipv4_nets + endpoint.ipv6_nets
        self.sets.set_contributor(key, Contributor(nets, endpoint.ports), endpoint.labels, endpoint.profile_ids)
        if key.host == self._node:
            if endpoint.qos_controls:
                self.rejected[key] = f"enforced without {', '.join(sorted(endpoint.qos_controls))}: QoS is not built"
            self.resolver.set_endpoint(key, endpoint)
            self.active.set_endpoint(key, endpoint)

    def _host_endpoint(self, key: HostEndpointKey, value: HostEndpoint | None) -> None:
        self._count("host_endpoints", key, value is not None)
        if value is None:
            self.sets.delete_contributor(key)
            if key.host == self._node:
                self.active.delete_endpoint(key)
                self.resolver.set_endpoint(key, None)
            return
        endpoint = validation.host_endpoint(value)
        nets = validation.canonical_nets(endpoint.expected_ipv4_addrs + endpoint.expected_ipv6_addrs)
        self.sets.set_contributor(key, Contributor(nets, endpoint.ports), endpoint.labels, endpoint.profile_ids)
        if key.host == self._node:
            self.resolver.set_endpoint(key, endpoint)
            self.active.set_endpoint(key, endpoint)

    def _network_set(self, key: NetworkSetKey, value: NetworkSet | None) -> None:
        if value is None:
            self.sets.delete_contributor(key)
            return
        checked = validation.network_set(value)
        self.sets.set_contributor(key, Contributor(checked.nets), checked.labels, checked.profile_ids)

    def _policy(self, key: PolicyKey, value: Policy | None) -> None:
        self._count("policies", key, value is not None)
        if value is None or value.staged_action or key.kind.startswith("Staged"):
            self.active.delete_policy(key)
            self.resolver.set_policy(key, None)
            return
        policy, fault = validation.policy(value)
        if fault:
            self.rejected[key] = fault
        if not policy.tier:
            policy = evolve(policy, tier="default")
        self.resolver.set_policy(key, policy)
        self.active.set_policy(key, policy)

    def _tier(self, key: TierKey, value: Tier | None) -> None:
        self._count("tiers", key, value is not None)
        self.resolver.set_tier(key.name, value)

    def _profile_rules(self, key: ProfileRulesKey, value: ProfileRules | None) -> None:
        self._count("profiles", key, value is not None)
        if value is None:
            self.active.set_profile(key.name, None)
            return
        rules, fault = validation.profile(value)
        if fault:
            self.rejected[key] = fault
        self.active.set_profile(key.name, rules)

    def _profile_labels(self, key: ProfileLabelsKey, value: Mapping[str, str] | None) -> None:
        self.active.set_profile_labels(key.name, value)
        self.sets.index.set_parent_labels(key.name, value)

    def _pool(self, key: IPPoolKey, value: IPPool | None) -> None:
        if value is not None:
            validation.cidr(key.cidr)
        self._routes.set_pool(key.cidr, value)
        if value is None:
            self.sequencer.ip_pool(IPPoolRemove(key.cidr))
            return
        self.sequencer.ip_pool(
            IPPoolUpdate(
                cidr=key.cidr,
                masquerade=value.masquerade,
                ipip_mode=value.ipip_mode,
                vxlan_mode=value.vxlan_mode,
                allowed_uses=value.allowed_uses,
            )
        )

    def _block(self, key: BlockKey, value: AllocationBlock | None) -> None:
        if value is not None:
            validation.cidr(key.cidr)
        self._routes.set_block(key.cidr, value)
        if value is not None and value.affinity == f"host:{self._node}":
            self.sequencer.local_block(LocalBlockUpdate(key.cidr))
        else:
            self.sequencer.local_block(LocalBlockRemove(key.cidr))

    def _global_config(self, key: GlobalConfigKey, value: str | None) -> None:
        self._configure(self._batcher.cluster, key.name, value)

    def _host_config(self, key: HostConfigKey, value: str | None) -> None:
        if key.host == self._node:
            self._configure(self._batcher.host, key.name, value)

    def _configure(self, source: dict[str, Any], name: str, value: object | None) -> None:
        if value is None:
            source.pop(name, None)
        else:
            source[name] = value
        self._config_dirty = True

    def _refresh_config(self) -> None:
        self._config_dirty = False
        before = self.config
        self._batcher.selected, self._selector_faults = selected_parameters(self._selectable.values(), self._labels)
        self.config = self._batcher.resolve()
        self.sequencer.config(self.config.values)
        self._routes.set_program_cluster_routes(self.config.values["ProgramClusterRoutes"])
        spoofing = "WorkloadSourceSpoofing"
        if before.values.get(spoofing) != self.config.values.get(spoofing):
            for key, value in list(self._spoofers.items()):
                if key not in self._inbox:
                    self.feed([Update(key, value)])

    def _ready_flag(self, key: ReadyFlagKey, value: bool | None) -> None:
        self._ready = value

    def _resource(self, key: ResourceKey, value: object | None) -> None:
        if key.kind == "FelixConfiguration":
            self._configure(self._selectable, key.name, value)
        elif key.kind == "Node":
            self._node_resource(key, value)

    def _node_resource(self, key: ResourceKey, value: object | None) -> None:
        if key.name == self._node:
            labels = dict(cast(Any, value).metadata.labels) if value is not None else {}
            if labels != self._labels:
                self._labels = labels
                self._config_dirty = True
        self._count("hosts", key, value is not None)
        metadata = host_metadata(key.name, cast(Any, value)) if value is not None else None
        if metadata is None:
            self._routes.set_node(key.name, None)
            self.sequencer.host_metadata(HostMetadataRemove(key.name))
            return
        self._routes.set_node(key.name, NodeAddresses(metadata.ipv4_addr, metadata.ipv6_addr))
        self.sequencer.host_metadata(metadata)


__all__ = ["CalcGraph", "HostMetadataUpdate", "describe"]
