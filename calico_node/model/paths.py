"""The text of v1 keys: Calico's key paths, which are also the keys of Typha's wire protocol.

libcalico-go ``backend/model``.  ``%`` and ``/`` inside workload, endpoint and set names are written ``%25`` and
``%2f``; host names and policy names are written as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from calico_node.addresses import canonical_cidr, ip_version
from calico_node.errors import ValidationError
from calico_node.model.keys import (
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
    WireguardKey,
    WorkloadEndpointKey,
)

__all__ = [
    "felix_last_status_path",
    "felix_status_path",
    "host_endpoint_status_path",
    "host_endpoint_status_prefix",
    "key_path",
    "parse_key_path",
    "workload_status_path",
    "workload_status_prefix",
]


def _escape(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2f")


def _cidr_segment(cidr: str) -> str:
    return cidr.replace("/", "-")


def _cidr(segment: str) -> str:
    return canonical_cidr("/".join(segment.rsplit("-", 1)))


def key_path(key: Key, plural: str = "") -> str:
    """The path of ``key``.  A ``ResourceKey`` needs its kind's ``plural``; the model knows no kinds."""
    match key:
        case PolicyKey(kind, namespace, name):
            return f"/calico/v1/policy/{kind}/{namespace}/{name}"
        case TierKey(name):
            return f"/calico/v1/policy/tier/{name}/metadata"
        case ProfileRulesKey(name):
            return f"/calico/v1/policy/profile/{_escape(name)}/rules"
        case ProfileLabelsKey(name):
            return f"/calico/v1/policy/profile/{_escape(name)}/labels"
        case WorkloadEndpointKey(host, orchestrator, workload, endpoint):
            ids = f"workload/{_escape(orchestrator)}/{_escape(workload)}/endpoint/{_escape(endpoint)}"
            return f"/calico/v1/host/{host}/{ids}"
        case HostEndpointKey(host, name):
            return f"/calico/v1/host/{host}/endpoint/{_escape(name)}"
        case NetworkSetKey(name):
            return f"/calico/v1/netset/{_escape(name)}"
        case IPPoolKey(cidr):
            return f"/calico/v1/ipam/v{ip_version(cidr)}/pool/{_cidr_segment(cidr)}"
        case BlockKey(cidr):
            return f"/calico/ipam/v2/assignment/ipv{ip_version(cidr)}/block/{_cidr_segment(cidr)}"
        case BlockAffinityKey(cidr, host, kind):
            return f"/calico/ipam/v2/{kind}/{host}/ipv{ip_version(cidr)}/block/{_cidr_segment(cidr)}"
        case HostConfigKey(host, name):
            return f"/calico/v1/host/{host}/config/{name}"
        case GlobalConfigKey(name):
            return f"/calico/v1/config/{name}"
        case ReadyFlagKey():
            return "/calico/v1/Ready"
        case WireguardKey(host):
            return f"/calico/v1/host/{host}/wireguard"
        case ResourceKey(_, namespace, name):
            if not plural:
                raise ValueError("a resource key needs its kind's plural")
            scope = f"{namespace}/" if namespace else ""
            return f"/calico/resources/v3/projectcalico.org/{plural}/{scope}{name}"


# Status keys, which Felix writes to etcd (libcalico-go ``backend/model`` statusreport, workloadendpointstatus,
# hostendpointstatus).  The region is OpenStack's; without one the segment is "no-region".


def _felix_host(region: str, host: str) -> str:
    return f"/calico/felix/v2/{f'region-{region}' if region else 'no-region'}/host/{host}"


def felix_status_path(region: str, host: str) -> str:
    """That Felix on ``host`` is alive; stored with a lease."""
    return f"{_felix_host(region, host)}/status"


def felix_last_status_path(region: str, host: str) -> str:
    """The last such report, which stays."""
    return f"{_felix_host(region, host)}/last_reported_status"


def workload_status_prefix(region: str, host: str) -> str:
    return f"{_felix_host(region, host)}/workload/"


def workload_status_path(region: str, host: str, orchestrator: str, workload: str, endpoint: str) -> str:
    ids = f"{_escape(orchestrator)}/{_escape(workload)}/endpoint/{_escape(endpoint)}"
    return workload_status_prefix(region, host) + ids


def host_endpoint_status_prefix(host: str) -> str:
    return f"/calico/felix/v1/host/{host}/endpoint/"


def host_endpoint_status_path(host: str, endpoint: str) -> str:
    return host_endpoint_status_prefix(host) + _escape(endpoint)


_PARSERS: tuple[tuple[re.Pattern[str], Callable[..., Key]], ...] = tuple(
    (re.compile(pattern), make)
    for pattern, make in (
        (r"/calico/v1/policy/tier/([^/]+)/metadata", TierKey),
        (r"/calico/v1/policy/profile/([^/]+)/rules", lambda name: ProfileRulesKey(unquote(name))),
        (r"/calico/v1/policy/profile/([^/]+)/labels", lambda name: ProfileLabelsKey(unquote(name))),
        (r"/calico/v1/policy/tier/[^/]+/policy/([^/]+)", lambda name: _legacy_policy(unquote(name))),
        (r"/calico/v1/policy/([A-Z][A-Za-z]*)/([^/]*)/([^/]+)", PolicyKey),
        (
            r"/calico/v1/host/([^/]+)/workload/([^/]+)/([^/]+)/endpoint/([^/]+)",
            lambda host, *ids: WorkloadEndpointKey(host, *map(unquote, ids)),
        ),
        (r"/calico/v1/host/([^/]+)/endpoint/([^/]+)", lambda host, name: HostEndpointKey(host, unquote(name))),
        (r"/calico/v1/netset/([^/]+)", lambda name: NetworkSetKey(unquote(name))),
        (r"/calico/v1/ipam/v[46]/pool/([^/]+)", lambda cidr: IPPoolKey(_cidr(cidr))),
        (r"/calico/ipam/v2/assignment/ipv[46]/block/([^/]+)", lambda cidr: BlockKey(_cidr(cidr))),
        (
            r"/calico/ipam/v2/(host|virtual)/([^/]+)/ipv[46]/block/([^/]+)",
            lambda kind, host, cidr: BlockAffinityKey(_cidr(cidr), host, kind),
        ),
        (r"/calico/v1/host/([^/]+)/config/([^/]+)", HostConfigKey),
        (r"/calico/v1/config/([^/]+)", GlobalConfigKey),
        (r"/calico/v1/Ready", lambda: ReadyFlagKey()),
        (r"/calico/v1/host/([^/]+)/wireguard", WireguardKey),
    )
)


def parse_key_path(path: str) -> Key | None:
    """The key of a path; None for a path of no known form.  Resource paths need the kinds: see
    ``calico_node.datastores.names.parse_resource_key``."""
    for pattern, make in _PARSERS:
        found = pattern.fullmatch(path)
        if found:
            try:
                return make(*found.groups())
            except ValidationError:
                return None
    return None


def _legacy_policy(name: str) -> PolicyKey:
    """Typha before v3.32 put the kind into the name: ``ns/knp.default.x``, ``staged:x``, ``kcnp.x``."""
    namespace, slash, rest = name.partition("/")
    if not slash:
        namespace, rest = "", name
    staged = rest.startswith("staged:")
    rest = rest.removeprefix("staged:")
    if namespace:
        kind = "KubernetesNetworkPolicy" if rest.startswith("knp.default.") else "NetworkPolicy"
    elif rest.startswith("kcnp.") and not staged:
        kind = "KubernetesClusterNetworkPolicy"
    else:
        kind = "GlobalNetworkPolicy"
    return PolicyKey(f"Staged{kind}" if staged else kind, namespace, rest)
