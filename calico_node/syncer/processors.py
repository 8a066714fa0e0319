"""From stored keys and values to v1 updates: one processor per kind, and which of them a consumer needs.

A processor is given the present value (or None) at a stored key and answers with the v1 values that this key now
stands for; the ``Translator`` turns that into additions, changes and removals, and settles conflicts where several
stored objects stand for one v1 key.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from attrs import evolve, frozen

from calico_node.addresses import canonical_cidr
from calico_node.datastores.client import read_resource
from calico_node.datastores.kv import KeyValue
from calico_node.datastores.names import RESOURCES_PREFIX, ResourceName, kind_prefix, parse_resource_key
from calico_node.datastores.rules import DEFAULT_ALLOW, default_allow_profile
from calico_node.errors import ValidationError
from calico_node.kubernetes.policies import network_policy_to_calico
from calico_node.model import (
    AllocationBlock,
    BlockAffinity,
    BlockAffinityKey,
    BlockKey,
    GlobalConfigKey,
    HostConfigKey,
    HostEndpointKey,
    IPPoolKey,
    Key,
    NetworkSetKey,
    PolicyKey,
    ProfileLabelsKey,
    ProfileRulesKey,
    ReadyFlagKey,
    ResourceKey,
    TierKey,
    Wireguard,
    WireguardKey,
)
from calico_node.resources import KINDS, to_dict, validate
from calico_node.syncer import configuration, endpoint_conversion, policy_conversion
from calico_node.syncer.usual_endpoint import usual_workload_endpoint

_log = logging.getLogger(__name__)

Values: TypeAlias = dict[Key, object]
Processor: TypeAlias = Callable[[ResourceName, Any], Values]
OnRejected: TypeAlias = Callable[[str, str | None], None]
"""Told ``(object, reason)`` when a stored object is left out, ``(object, None)`` when it is sound or gone again."""

_NOTHING: Values = {}

IPAM_ASSIGNMENT = "/calico/ipam/v2/assignment/"
IPAM_HOST = "/calico/ipam/v2/host/"


class SyncerKind(enum.Enum):
    """Who the stream is for; libcalico-go's ``syncersv1`` has one syncer for each."""

    FELIX = "felix"
    BGP = "bgp"
    NODE_STATUS = "node-status"
    TUNNEL_IP_ALLOCATION = "tunnel-ip-allocation"


def _raw(name: ResourceName, resource: Any) -> Values:
    return {ResourceKey(name.kind, name.namespace, name.name): resource}


def _policy(name: ResourceName, resource: Any) -> Values:
    value = policy_conversion.policy(resource)
    return {} if value is None else {PolicyKey(name.kind, name.namespace, name.name): value}


def _staged_kubernetes_policy(name: ResourceName, resource: Any) -> Values:
    spec = resource.spec
    if spec.staged_action == "Delete":
        return {}
    kubernetes = {
        "metadata": {"name": name.name, "namespace": name.namespace},
        "spec": {
            "podSelector": spec.pod_selector,
            "ingress": spec.ingress,
            "egress": spec.egress,
            "policyTypes": spec.policy_types,
        },
    }
    value = policy_conversion.policy(network_policy_to_calico(kubernetes))
    if value is None:
        return {}
    return {PolicyKey(name.kind, name.namespace, name.name): evolve(value, staged_action=spec.staged_action or "Set")}


def _tier(name: ResourceName, resource: Any) -> Values:
    return {TierKey(name.name): policy_conversion.tier(resource)}


def _profile(name: ResourceName, resource: Any) -> Values:
    values = _raw(name, resource)
    values[ProfileRulesKey(name.name)] = policy_conversion.profile_rules(resource)
    if resource.spec.labels_to_apply:
        values[ProfileLabelsKey(name.name)] = dict(resource.spec.labels_to_apply)
    return values


def _workload_endpoint(name: ResourceName, resource: Any) -> Values:
    value = endpoint_conversion.workload_endpoint(resource)
    return {} if value is None else {endpoint_conversion.workload_endpoint_key(name.namespace, name.name): value}


def _host_endpoint(name: ResourceName, resource: Any) -> Values:
    return {HostEndpointKey(resource.spec.node, name.name): endpoint_conversion.host_endpoint(resource)}


def _network_set(name: ResourceName, resource: Any) -> Values:
    key = f"{name.namespace}/{name.name}" if name.namespace else name.name
    return {NetworkSetKey(key): endpoint_conversion.network_set(resource)}


def _ip_pool(name: ResourceName, resource: Any) -> Values:
    pool = endpoint_conversion.ip_pool(resource)
    return {IPPoolKey(pool.cidr): pool}


def _node(name: ResourceName, resource: Any) -> Values:
    values = _raw(name, resource)
    for parameter, text in configuration.node_parameters(resource.spec).items():
        values[HostConfigKey(name.name, parameter)] = text
    wireguard = resource.spec.wireguard
    value = Wireguard(
        interface_ipv4_addr=(wireguard.interface_ipv4_address if wireguard else None) or "",
        public_key=resource.status.wireguard_public_key or "",
        interface_ipv6_addr=(wireguard.interface_ipv6_address if wireguard else None) or "",
        public_key_v6=resource.status.wireguard_public_key_v6 or "",
    )
    if value != Wireguard():
        values[WireguardKey(name.name)] = value
    return values


def _node_with_blocks(name: ResourceName, resource: Any) -> Values:
    blocks = [AllocationBlock(canonical_cidr(cidr), f"host:{name.name}") for cidr in resource.status.pod_cidrs]
    return {**_node(name, resource), **{BlockKey(block.cidr): block for block in blocks}}


def _node_with_affinities(own_node: str, name: ResourceName, resource: Any) -> Values:
    values = _raw(name, resource)
    if name.name == own_node:
        for cidr in resource.status.pod_cidrs:
            values[BlockAffinityKey(canonical_cidr(cidr), own_node)] = BlockAffinity("confirmed")
    return values


def _cluster_information(name: ResourceName, resource: Any) -> Values:
    if name.name != "default":
        return {}
    values: Values = {
        GlobalConfigKey(parameter): text
        for parameter, text in configuration.cluster_information(resource.spec).items()
    }
    if resource.spec.datastore_ready is not None:
        values[ReadyFlagKey()] = bool(resource.spec.datastore_ready)
    return values


def _felix_configuration(name: ResourceName, resource: Any) -> Values:
    if name.name != "default" and not name.name.startswith("node."):
        return _raw(name, resource)
    parameters = configuration.flatten(to_dict(resource).get("spec", {}), resource.metadata.annotations)
    if name.name == "default":
        return {GlobalConfigKey(parameter): text for parameter, text in parameters.items()}
    host = name.name.removeprefix("node.")
    return {HostConfigKey(host, parameter): text for parameter, text in parameters.items()}


_FELIX: Mapping[str, Processor] = {
    "BGPConfiguration": _raw,
    "BGPPeer": _raw,
    "ClusterInformation": _cluster_information,
    "FelixConfiguration": _felix_configuration,
    "GlobalNetworkPolicy": _policy,
    "GlobalNetworkSet": _network_set,
    "HostEndpoint": _host_endpoint,
    "IPPool": _ip_pool,
    "LiveMigration": _raw,
    "NetworkPolicy": _policy,
    "NetworkSet": _network_set,
    "Node": _node,
    "Profile": _profile,
    "StagedGlobalNetworkPolicy": _policy,
    "StagedKubernetesNetworkPolicy": _staged_kubernetes_policy,
    "StagedNetworkPolicy": _policy,
    "Tier": _tier,
    "WorkloadEndpoint": _workload_endpoint,
}
_BGP: Mapping[str, Processor] = {
    "BGPConfiguration": _raw,
    "BGPFilter": _raw,
    "BGPPeer": _raw,
    "IPPool": _ip_pool,
    "Node": _raw,
}
_STATUS: Mapping[str, Processor] = {"CalicoNodeStatus": _raw}


@frozen
class Interest:
    """What one consumer needs: the key prefixes to watch and the processor of each kind."""

    prefixes: tuple[str, ...]
    processors: Mapping[str, Processor]
    own_node: str = ""
    """The one Node that is of interest, where others share its prefix; "" for all."""


def interest(kind: SyncerKind, node_name: str, *, use_pod_cidr: bool = False) -> Interest:
    """Few prefixes rather than one per kind: each is a watch of its own.

    With ``use_pod_cidr`` (USE_POD_CIDR) addresses come from host-local IPAM: a Node's podCIDRs stand for its blocks,
    and Calico's own IPAM documents are not looked at.
    """
    if kind is SyncerKind.FELIX:
        if use_pod_cidr:
            return Interest((RESOURCES_PREFIX,), {**_FELIX, "Node": _node_with_blocks})
        return Interest((RESOURCES_PREFIX, IPAM_ASSIGNMENT), _FELIX)
    if kind is SyncerKind.BGP:
        resources = (f"{RESOURCES_PREFIX}bgp", kind_prefix("IPPool"), kind_prefix("Node"))
        if use_pod_cidr:
            return Interest(resources, {**_BGP, "Node": partial(_node_with_affinities, node_name)})
        return Interest((*resources, f"{IPAM_HOST}{node_name}/"), _BGP)
    if kind is SyncerKind.NODE_STATUS:
        return Interest((kind_prefix("CalicoNodeStatus"),), {k: p for k, p in _STATUS.items() if k in KINDS})

    prefixes = (kind_prefix("IPPool"), f"{kind_prefix('Node')}{node_name}")
    return Interest(prefixes, {"IPPool": _ip_pool, "Node": _raw}, own_node=node_name)


class Translator:
    """Stored keys and values in, v1 changes out.  Pure but for its log.

    Several stored objects may stand for one v1 key (two pools of one CIDR): the object with the lowest name is in
    force, and when it goes the next takes over.
    """

    def __init__(self, wanted: Interest, on_rejected: OnRejected | None = None) -> None:
        self._wanted = wanted
        self._on_rejected = on_rejected
        self._given: dict[str, Values] = {}
        self._holders: dict[Key, str] = {}
        self._rivals: dict[Key, set[str]] = {}
        self._rejected: dict[str, str] = {}
        self._warned: dict[str, int] = {}  # revision of each rejected object that a warning was written of

    @property
    def rejected(self) -> Mapping[str, str]:
        """Why each stored object that is left out is left out, by its title."""
        return self._rejected

    def builtin(self) -> list[tuple[Key, object | None]]:
        """Values that are there without being stored: the profile ``projectcalico-default-allow``."""
        processor = self._wanted.processors.get("Profile")
        if processor is None:
            return []
        values = processor(ResourceName("Profile", "", DEFAULT_ALLOW), default_allow_profile())
        return list(values.items())

    def translate(self, key: str, stored: KeyValue | None) -> list[tuple[Key, object | None]]:
        """What changes in the v1 view now that ``stored`` is at ``key`` (None: nothing is)."""
        name = parse_resource_key(key)
        try:
            if name is not None:
                values = self._resource_values(name, stored)
            else:
                values = {} if key.startswith(RESOURCES_PREFIX) else _ipam_values(key, stored)
            if self._rejected:
                self._sound(str(name or key))
        except Exception as error:
            # Also for a document of a shape that no writer of ours or Calico's makes, or nested beyond measure: it is
            # left out, and all else goes on.
            self._reject(str(name or key), str(error), stored.mod_revision if stored is not None else 0)
            values = {}
        return self._settle(key, values)

    def _resource_values(self, name: ResourceName, stored: KeyValue | None) -> Values:
        processor = self._wanted.processors.get(name.kind)
        if processor is None or stored is None:
            return {}
        if name.name == DEFAULT_ALLOW and name.kind == "Profile":
            return {}  # built in; what is stored under its name counts nowhere
        if self._wanted.own_node and name.kind == "Node" and name.name != self._wanted.own_node:
            return {}
        if processor is _workload_endpoint:
            usual = usual_workload_endpoint(stored.value)
            if usual is not None:
                return {endpoint_conversion.workload_endpoint_key(name.namespace, name.name): usual}
        resource = read_resource(name.kind, stored)
        validate(resource)
        return processor(name, resource)

    def _sound(self, title: str) -> None:
        if self._rejected.pop(title, None) is not None:
            del self._warned[title]
            if self._on_rejected is not None:
                self._on_rejected(title, None)

    def _reject(self, title: str, reason: str, revision: int) -> None:
        if self._rejected.get(title) != reason or self._warned.get(title) != revision:
            self._rejected[title], self._warned[title] = reason, revision
            _log.warning("%s: the stored object is left out: %s", title, reason)
            if self._on_rejected is not None:
                self._on_rejected(title, reason)

    def _settle(self, stored_key: str, values: Values) -> list[tuple[Key, object | None]]:
        old = self._given.get(stored_key, _NOTHING)
        if values:
            self._given[stored_key] = values
        elif old:
            del self._given[stored_key]
        changes: list[tuple[Key, object | None]] = []
        for key in old.keys() - values.keys() if old.keys() != values.keys() else ():
            rivals = self._rivals.get(key, set())
            rivals.discard(stored_key)
            if self._holders[key] != stored_key:
                continue
            if rivals:
                heir = min(rivals)
                rivals.discard(heir)
                self._holders[key] = heir
                changes.append((key, self._given[heir][key]))
            else:
                del self._holders[key]
                changes.append((key, None))
        for key, value in values.items():
            holder = self._holders.setdefault(key, stored_key)
            if stored_key <= holder:
                if stored_key < holder:
                    self._rivals.setdefault(key, set()).add(holder)
                    self._rivals[key].discard(stored_key)
                    self._holders[key] = stored_key
                changes.append((key, value))
            else:
                self._rivals.setdefault(key, set()).add(stored_key)
        return changes


def _ipam_values(key: str, stored: KeyValue | None) -> Values:
    if stored is None:
        return {}
    if key.startswith(IPAM_ASSIGNMENT):
        # /calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26
        block = endpoint_conversion.allocation_block(stored.value)
        if block.cidr != _block_cidr(key):
            # Else a document at a wrong key could stand in for another, sound block.
            raise ValidationError("is not the CIDR that its key names", resource=key, field="cidr", value=block.cidr)
        return {BlockKey(block.cidr): block}
    # /calico/ipam/v2/host/<host>/ipv4/block/10.0.0.0-26
    host, _, rest = key.removeprefix(IPAM_HOST).partition("/")
    affinity = endpoint_conversion.block_affinity(stored.value)
    if "/block/" not in rest or affinity is None:
        return {}
    return {BlockAffinityKey(_block_cidr(key), host): affinity}


def _block_cidr(key: str) -> str:
    """The CIDR that a block's or affinity's key ends in (``…/block/10.0.0.0-26``).  Raises ``ValidationError``."""
    return canonical_cidr("/".join(key.rpartition("/block/")[2].rsplit("-", 1)))
