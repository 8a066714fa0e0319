"""Tables of resources: the columns of each kind, and the layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from calico_node.calicoctl.manifests import DEFAULT_AS_NUMBER
from calico_node.errors import CalicoError
from calico_node.resources import KINDS

Column: TypeAlias = Callable[[Any], str]

_MIN_WIDTH = 5
_PADDING = 3
_CUT = 80


def _pointer(value: Any) -> str:
    """An optional value as Calico's tables show it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        from calico_node.calicoctl.gotemplate.values import show_float

        return show_float(value)
    return str(value)


def _flag(value: bool | None) -> str:
    return "true" if value else "false"


def _or_dash(value: Any) -> str:
    return "-" if value is None else _pointer(value)


def _join(values: Iterable[Any]) -> str:
    return ",".join(map(str, values))


def _cut(values: Iterable[str]) -> str:
    text = _join(values)
    return text if len(text) <= _CUT else text[: _CUT - 3] + "..."


def _pairs(labels: Mapping[str, Any]) -> str:
    return _join(f"{key}={labels[key]}" for key in sorted(labels))


def _pod_selector(policy: Any) -> str:
    from calico_node.calicoctl.goview import label_selector

    return label_selector(policy.spec.pod_selector)


def _text(path: str) -> Column:
    """The text at a dotted attribute path, "" where any part is absent."""
    parts = path.split(".")

    def column(resource: Any) -> str:
        value = resource
        for part in parts:
            value = getattr(value, part, None)
            if value is None:
                return ""
        return str(value)

    return column


def _peer_node(peer: Any) -> str:
    return peer.spec.node or peer.spec.node_selector or "(global)"


def _node_as_number(node: Any, cluster: int | None) -> str:
    """Of a node that speaks BGP; the number that the cluster gives one without its own stands in parentheses."""
    if node.spec.bgp is None:
        return ""
    own = node.spec.bgp.as_number
    return f"({'unknown' if cluster is None else cluster})" if own is None else str(own)


_NAME: dict[str, Column] = {"NAME": lambda resource: resource.metadata.name}
_ORDER: Column = lambda resource: _pointer(resource.spec.order)  # noqa: E731
_POLICY: dict[str, Column] = {
    **_NAME,
    "TIER": lambda policy: policy.spec.tier or "default",
    "ORDER": _ORDER,
    "SELECTOR": _text("spec.selector"),
}
_SET: dict[str, Column] = {**_NAME, "NETS": lambda network_set: _cut(network_set.spec.nets)}

COLUMNS: dict[str, dict[str, Column]] = {
    "BGPConfiguration": {
        **_NAME,
        "LOGSEVERITY": _text("spec.log_severity_screen"),
        "MESHENABLED": lambda config: _or_dash(config.spec.node_to_node_mesh_enabled),
        "ASNUMBER": lambda config: _or_dash(config.spec.as_number),
    },
    "BGPFilter": {
        **_NAME,
        "NUMEXPORTV4": lambda item: str(len(item.spec.export_v4)),
        "NUMIMPORTV4": lambda item: str(len(item.spec.import_v4)),
        "NUMEXPORTV6": lambda item: str(len(item.spec.export_v6)),
        "NUMIMPORTV6": lambda item: str(len(item.spec.import_v6)),
    },
    "BGPPeer": {
        **_NAME,
        "PEERIP": _text("spec.peer_ip"),
        "NODE": _peer_node,
        "ASN": lambda peer: str(peer.spec.as_number or 0),
    },
    "CalicoNodeStatus": {**_NAME, "NODE": _text("spec.node"), "CLASSES": lambda item: _join(item.spec.classes)},
    "ClusterInformation": {
        **_NAME,
        "CLUSTERGUID": _text("spec.cluster_guid"),
        "CLUSTERTYPE": _text("spec.cluster_type"),
        "CALICOVERSION": _text("spec.calico_version"),
        "DATASTOREREADY": lambda item: _pointer(item.spec.datastore_ready),
    },
    "FelixConfiguration": _NAME,
    "GlobalNetworkPolicy": _POLICY,
    "GlobalNetworkSet": _SET,
    "HostEndpoint": {
        **_NAME,
        "NODE": _text("spec.node"),
        "INTERFACE": _text("spec.interface_name"),
        "IPS": lambda endpoint: _join(endpoint.spec.expected_ips),
        "PROFILES": lambda endpoint: _join(endpoint.spec.profiles),
    },
    "IPAMConfiguration": {
        **_NAME,
        "STRICTAFFINITY": lambda config: _flag(config.spec.strict_affinity),
        "AUTOALLOCATEBLOCKS": lambda config: _flag(config.spec.auto_allocate_blocks),
        "MAXBLOCKSPERHOST": lambda config: str(config.spec.max_blocks_per_host or 0),
    },
    "IPPool": {
        **_NAME,
        "CIDR": _text("spec.cidr"),
        "NAT": lambda pool: _flag(pool.spec.nat_outgoing),
        "IPIPMODE": lambda pool: pool.spec.ipip_mode or "Never",
        "VXLANMODE": lambda pool: pool.spec.vxlan_mode or "Never",
        "DISABLED": lambda pool: _flag(pool.spec.disabled),
        "DISABLEBGPEXPORT": lambda pool: _flag(pool.spec.disable_bgp_export),
        "SELECTOR": _text("spec.node_selector"),
        "ASSIGNMENTMODE": _text("spec.assignment_mode"),
    },
    "IPReservation": {**_NAME, "CIDRS": lambda item: _cut(item.spec.reserved_cidrs)},
    "KubeControllersConfiguration": _NAME,
    "NetworkPolicy": _POLICY,
    "NetworkSet": _SET,
    "Node": {
        **_NAME,
        "ASN": lambda node: _node_as_number(node, DEFAULT_AS_NUMBER),
        "IPV4": _text("spec.bgp.ipv4_address"),
        "IPV6": _text("spec.bgp.ipv6_address"),
    },
    "Profile": {**_NAME, "LABELS": lambda profile: _pairs(profile.spec.labels_to_apply)},
    "StagedGlobalNetworkPolicy": _POLICY,
    "StagedKubernetesNetworkPolicy": {
        **_NAME,
        "PODSELECTOR": _pod_selector,
    },
    "StagedNetworkPolicy": _POLICY,
    "Tier": {**_NAME, "ORDER": _ORDER},
    "WorkloadEndpoint": {
        **_NAME,
        "WORKLOAD": lambda endpoint: endpoint.spec.workload or endpoint.spec.pod or "",
        "NODE": _text("spec.node"),
        "NETWORKS": lambda endpoint: _join(endpoint.spec.ip_networks),
        "INTERFACE": _text("spec.interface_name"),
        "PROFILES": lambda endpoint: _join(endpoint.spec.profiles),
        "NATS": lambda endpoint: _join(f"{{{nat.internal_ip} {nat.external_ip}}}" for nat in endpoint.spec.ip_nats),
    },
}
"""All columns of a kind, in the order of its wide table."""

_EXTRA: dict[str, dict[str, Column]] = {"WorkloadEndpoint": {"ORCHESTRATOR": _text("spec.orchestrator")}}
"""Columns that only custom-columns shows."""

_NARROW = {
    "CalicoNodeStatus": ("NAME", "NODE"),
    "GlobalNetworkPolicy": ("NAME", "TIER"),
    "GlobalNetworkSet": ("NAME",),
    "HostEndpoint": ("NAME", "NODE"),
    "IPAMConfiguration": ("NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"),
    "IPPool": ("NAME", "CIDR", "SELECTOR"),
    "IPReservation": ("NAME",),
    "NetworkPolicy": ("NAME", "TIER"),
    "NetworkSet": ("NAME",),
    "Node": ("NAME",),
    "Profile": ("NAME",),
    "StagedGlobalNetworkPolicy": ("NAME", "TIER"),
    "StagedKubernetesNetworkPolicy": ("NAME",),
    "StagedNetworkPolicy": ("NAME", "TIER"),
    "WorkloadEndpoint": ("WORKLOAD", "NODE", "NETWORKS", "INTERFACE"),
}


def headings(kind: str, *, wide: bool = False) -> tuple[str, ...]:
    """The default or wide columns of a kind."""
    return tuple(COLUMNS[kind]) if wide else _NARROW.get(kind, tuple(COLUMNS[kind]))


def check_headings(kind: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Custom columns in upper case.  Raises ``CalicoError`` naming the valid ones."""
    namespace = ("NAMESPACE",) if KINDS[kind].namespaced else ()
    valid = (*namespace, *COLUMNS[kind], *_EXTRA.get(kind, {}))
    columns = tuple(text.strip().upper() for text in wanted)
    for text in columns:
        if text not in valid:
            raise CalicoError(f"unknown heading {text}, valid values are: {', '.join(valid)}")
    return columns


def table(
    kind: str,
    resources: Iterable[Any],
    columns: Sequence[str],
    *,
    namespace: bool = False,
    as_number: int | None = DEFAULT_AS_NUMBER,
) -> str:
    """The table of resources of one kind, with a blank line after it; ``as_number`` is the cluster's."""
    wanted = ("NAMESPACE", *columns) if namespace and KINDS[kind].namespaced else tuple(columns)
    known: dict[str, Column] = {**COLUMNS[kind], **_EXTRA.get(kind, {})}
    known["NAMESPACE"] = lambda resource: resource.metadata.namespace
    if kind == "Node":
        known["ASN"] = lambda node: _node_as_number(node, as_number)
    rows = [wanted, *(tuple(known[heading](resource) for heading in wanted) for resource in resources)]
    widths = [max(_MIN_WIDTH, *(len(row[index]) + _PADDING for row in rows)) for index in range(len(wanted))]
    lines = ("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line}\n" for line in lines) + "\n"
