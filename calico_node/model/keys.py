"""Keys of the v1 model (frozen, hashable).  Their path texts are in ``calico_node.model.paths``."""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen


@frozen
class PolicyKey:
    """A policy: ``kind`` is NetworkPolicy, GlobalNetworkPolicy, Staged…, KubernetesNetworkPolicy…;
    ``namespace`` is "" for global kinds."""

    kind: str
    namespace: str
    name: str


@frozen
class TierKey:
    name: str


@frozen
class ProfileRulesKey:
    name: str


@frozen
class ProfileLabelsKey:
    name: str


@frozen(cache_hash=True)  # of 100,000 of them, each looked up a dozen times an update
class WorkloadEndpointKey:
    """``workload`` is ``<namespace>/<pod>`` for Kubernetes pods."""

    host: str
    orchestrator: str
    workload: str
    endpoint: str


@frozen
class HostEndpointKey:
    host: str
    name: str


@frozen
class NetworkSetKey:
    """``name`` is ``<namespace>/<name>`` for a NetworkSet, the plain name for a GlobalNetworkSet."""

    name: str


@frozen
class IPPoolKey:
    """``cidr`` is canonical text, e.g. ``10.0.0.0/16``."""

    cidr: str


@frozen
class BlockKey:
    cidr: str


@frozen
class BlockAffinityKey:
    """``affinity_type`` is ``host`` or ``virtual``."""

    cidr: str
    host: str
    affinity_type: str = "host"


@frozen
class HostConfigKey:
    host: str
    name: str


@frozen
class GlobalConfigKey:
    name: str


@frozen
class ReadyFlagKey:
    """ClusterInformation.spec.datastoreReady; its value is a bool."""


@frozen
class WireguardKey:
    host: str


@frozen
class ResourceKey:
    """A v3 resource passed through raw; its value is the resource object."""

    kind: str
    namespace: str
    name: str


Key: TypeAlias = (
    PolicyKey
    | TierKey
    | ProfileRulesKey
    | ProfileLabelsKey
    | WorkloadEndpointKey
    | HostEndpointKey
    | NetworkSetKey
    | IPPoolKey
    | BlockKey
    | BlockAffinityKey
    | HostConfigKey
    | GlobalConfigKey
    | ReadyFlagKey
    | WireguardKey
    | ResourceKey
)
