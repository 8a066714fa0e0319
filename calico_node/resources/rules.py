"""Rules of single kinds that go beyond one field, each a function that raises ``Fault``."""

import ipaddress
from collections.abc import Callable
from typing import Any

from calico_node.resources import checks
from calico_node.resources.defaults import BUILTIN_TIERS
from calico_node.resources.fields import Check, Fault
from calico_node.resources.kinds import KINDS
from calico_node.resources.meta import Resource
from calico_node.resources.policy_rules import (
    check_global_policy,
    check_policy,
    check_profile,
    check_staged_global_policy,
    check_staged_kubernetes_policy,
    check_staged_policy,
)
from calico_node.resources.scalars import check_port_name

_SINGLETONS = ("ClusterInformation", "KubeControllersConfiguration", "IPAMConfiguration")
_POOL_LENGTHS = {4: (20, 32), 6: (116, 128)}
_LINK_LOCAL = {4: ipaddress.ip_network("169.254.0.0/16"), 6: ipaddress.ip_network("fe80::/10")}
_NAMESPACE_LABEL = "projectcalico.org/namespace"


def check_name(resource: Resource) -> None:
    """Name and namespace, by the conventions of the kind."""
    metadata = resource.metadata
    name, kind = metadata.name, resource.kind
    if KINDS[kind].namespaced:
        if not metadata.namespace:
            raise Fault("is required", path="metadata.namespace")
        _apply(checks.dns_label, metadata.namespace, "metadata.namespace")
    elif metadata.namespace:
        raise Fault(f"{kind} is not namespaced", metadata.namespace, "metadata.namespace")
    if not name:
        if kind == "WorkloadEndpoint":
            return  # the client composes it
        raise Fault("is required", path="metadata.name")
    _apply(checks.dns_subdomain, name, "metadata.name")
    if kind in _SINGLETONS and name != "default":
        raise Fault(f"the only {kind} is named default", name, "metadata.name")
    if kind in ("BGPConfiguration",) and name != "default" and not name.startswith("node."):
        raise Fault("must be default or node.<node name>", name, "metadata.name")
    if kind == "Tier":
        _apply(checks.dns_label, name, "metadata.name")
    elif kind.endswith("NetworkPolicy") and kind != "StagedKubernetesNetworkPolicy":
        _check_policy_name(kind, name)


def _check_policy_name(kind: str, name: str) -> None:
    labels = name.split(".")
    if (
        not kind.endswith("GlobalNetworkPolicy")
        and len(labels) > 2
        and labels[0] in ("knp", "ossg")
        and labels[1] == "default"
    ):
        return
    if len(labels) > 2:
        raise Fault(
            "a policy's name has at most one '.' (between an optional tier and the name)", name, "metadata.name"
        )
    for label in labels:
        _apply(checks.dns_label, label, "metadata.name")


def _apply(check: Check, value: Any, path: str) -> None:
    reason = check(value)
    if reason:
        raise Fault(reason, value, path)


def _tier(resource: Any) -> None:
    fixed = BUILTIN_TIERS.get(resource.metadata.name)
    if not fixed:
        return
    order, action = fixed
    if resource.spec.order not in (None, order):
        raise Fault(
            f"order of tier {resource.metadata.name} is always {order:.0f}", resource.spec.order, "spec.order"
        )
    if resource.spec.default_action not in (None, action):
        raise Fault(
            f"default action of tier {resource.metadata.name} is always {action}",
            resource.spec.default_action,
            "spec.defaultAction",
        )


def _network_set(resource: Any) -> None:
    if _NAMESPACE_LABEL in resource.metadata.labels:
        raise Fault(f"label {_NAMESPACE_LABEL} is set by Calico and cannot be given", path="metadata.labels")


def _pool(resource: Any) -> None:
    spec = resource.spec
    network = ipaddress.ip_network(spec.cidr)
    version = network.version
    if "/" not in spec.cidr:
        raise Fault("is not a valid CIDR: it has no prefix length", spec.cidr, "spec.cidr")
    if network.overlaps(_LINK_LOCAL[version]):
        raise Fault(f"overlaps the link-local range {_LINK_LOCAL[version]}", spec.cidr, "spec.cidr")
    ipip, vxlan = spec.ipip_mode or "Never", spec.vxlan_mode or "Never"
    if ipip != "Never" and vxlan != "Never":
        raise Fault("IPIP and VXLAN cannot both be enabled on one pool", vxlan, "spec.vxlanMode")
    if version == 6 and ipip != "Never":
        raise Fault("IPIP is supported for IPv4 pools only", ipip, "spec.ipipMode")
    if spec.block_size is not None:
        _pool_block_size(spec, network.prefixlen, version)
    uses = spec.allowed_uses
    if len(set(uses)) < len(uses):
        raise Fault("has an item twice", uses, "spec.allowedUses")
    if "LoadBalancer" in uses:
        _load_balancer_pool(spec, ipip, vxlan)
    if "Tunnel" in uses and spec.namespace_selector:
        raise Fault(
            "cannot be used with allowedUses Tunnel: a tunnel address has no namespace",
            spec.namespace_selector,
            "spec.namespaceSelector",
        )


def _pool_block_size(spec: Any, length: int, version: int) -> None:
    low, high = _POOL_LENGTHS[version]
    if not low <= spec.block_size <= high:
        raise Fault(f"must be {low} to {high} for IPv{version}", spec.block_size, "spec.blockSize")
    if length > spec.block_size and not spec.disabled:
        raise Fault(f"is smaller than one block of /{spec.block_size}", spec.cidr, "spec.cidr")


def _load_balancer_pool(spec: Any, ipip: str, vxlan: str) -> None:
    if len(spec.allowed_uses) > 1:
        raise Fault("LoadBalancer cannot be combined with another use", spec.allowed_uses, "spec.allowedUses")
    for name, mode in (("ipipMode", ipip), ("vxlanMode", vxlan)):
        if mode != "Never":
            raise Fault("must be Never on a LoadBalancer pool", mode, f"spec.{name}")
    if (spec.node_selector or "all()") != "all()":
        raise Fault("must be all() on a LoadBalancer pool", spec.node_selector, "spec.nodeSelector")
    if spec.disable_bgp_export:
        raise Fault("cannot be set on a LoadBalancer pool", True, "spec.disableBGPExport")


def _node(resource: Any) -> None:
    bgp = resource.spec.bgp
    if bgp is not None and not any(
        value is not None
        for value in (
            bgp.as_number,
            bgp.ipv4_address,
            bgp.ipv6_address,
            bgp.ipv4_ipip_tunnel_addr,
            bgp.route_reflector_cluster_id,
            bgp.extra,
        )
    ):
        raise Fault("must not be an empty object", path="spec.bgp")
    for name, key in (
        ("wireguardPublicKey", resource.status.wireguard_public_key),
        ("wireguardPublicKeyV6", resource.status.wireguard_public_key_v6),
    ):
        if key and not _is_wireguard_key(key):
            raise Fault("must be the base64 text of 32 bytes", key, f"status.{name}")


def _is_wireguard_key(text: str) -> bool:
    import base64
    import binascii

    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


def _host_endpoint(resource: Any) -> None:
    spec = resource.spec
    if not spec.interface_name and not spec.expected_ips:
        raise Fault("interfaceName or expectedIPs is required", path="spec")
    for index, port in enumerate(spec.ports):
        _endpoint_port_protocol(port.protocol, f"spec.ports[{index}].protocol")


def _endpoint_port_protocol(protocol: str | int, path: str) -> None:
    if protocol not in ("TCP", "UDP", "SCTP", 6, 17, 132):
        raise Fault("must be TCP, UDP or SCTP", protocol, path)


def _workload_endpoint(resource: Any) -> None:
    spec = resource.spec
    own = {ipaddress.ip_interface(text).ip for text in spec.ip_networks} if spec.ip_nats else set()
    for index, nat in enumerate(spec.ip_nats):
        internal, external = ipaddress.ip_address(nat.internal_ip), ipaddress.ip_address(nat.external_ip)
        path = f"spec.ipNATs[{index}]"
        if internal.version != external.version:
            raise Fault("is not of the same IP version as internalIP", nat.external_ip, f"{path}.externalIP")
        if internal not in own:
            raise Fault("is not among ipNetworks", nat.internal_ip, f"{path}.internalIP")
    for index, port in enumerate(spec.ports):
        try:
            check_workload_endpoint_port(port)
        except Fault as fault:
            raise fault.under(f"spec.ports[{index}]") from None


def check_workload_endpoint_port(port: Any) -> None:
    """Raises ``Fault``."""
    _endpoint_port_protocol(port.protocol, "protocol")
    if port.name:
        _apply(check_port_name, port.name, "name")
    elif not port.host_port:
        raise Fault("is required where there is no hostPort", path="name")


def _bgp_configuration(resource: Any) -> None:
    spec = resource.spec
    if resource.metadata.name != "default":
        for name, value in (
            ("nodeToNodeMeshEnabled", spec.node_to_node_mesh_enabled),
            ("asNumber", spec.as_number),
            ("serviceLoadBalancerIPs", spec.service_load_balancer_ips),
            ("serviceExternalIPs", spec.service_external_ips),
            ("serviceClusterIPs", spec.service_cluster_ips),
            ("nodeMeshPassword", spec.node_mesh_password),
            ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time),
        ):
            if value is not None and value != []:
                raise Fault("can be set only on the BGPConfiguration named default", path=f"spec.{name}")
    if spec.node_to_node_mesh_enabled is False:
        for name, value in (
            ("nodeMeshPassword", spec.node_mesh_password),
            ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time),
        ):
            if value is not None:
                raise Fault("cannot be set where the node-to-node mesh is disabled", path=f"spec.{name}")
    if spec.communities and not spec.prefix_advertisements:
        raise Fault("communities without prefixAdvertisements have no use", path="spec.communities")
    known = {community.name for community in spec.communities}
    for index, advertisement in enumerate(spec.prefix_advertisements):
        for position, text in enumerate(advertisement.communities):
            if text not in known and checks.community(text):
                raise Fault(
                    "is neither a community aa:nn or aa:nn:mm nor a name from communities",
                    text,
                    f"spec.prefixAdvertisements[{index}].communities[{position}]",
                )


def parse_peer_ip(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int | None]:
    """Address and port (None = default) of a BGPPeer's peerIP.  Raises ``ValueError``."""
    address, port = text, ""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(text)
        port = rest[1:] if rest else ""
        if rest and not port:
            raise ValueError(text)
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
        if not port:
            raise ValueError(text)
    parsed = ipaddress.ip_address(address)
    if (text.startswith("[") and parsed.version == 4) or "%" in address:
        raise ValueError(text)
    if not port:
        return parsed, None
    if not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 65536:
        raise ValueError(text)
    return parsed, int(port)


def _bgp_peer(resource: Any) -> None:
    spec = resource.spec
    if spec.node and spec.node_selector:
        raise Fault("cannot be combined with node", spec.node_selector, "spec.nodeSelector")
    address = None
    if spec.peer_ip:
        try:
            address, _ = parse_peer_ip(spec.peer_ip)
        except ValueError:
            raise Fault(
                "must be an IP address, optionally with a port (10.0.0.1:179, [fd00::1]:179)",
                spec.peer_ip,
                "spec.peerIP",
            ) from None
    if spec.local_workload_selector:
        if spec.peer_ip or spec.peer_selector:
            raise Fault("cannot be combined with peerIP or peerSelector", path="spec.localWorkloadSelector")
        if not spec.as_number:
            raise Fault("is required with localWorkloadSelector", path="spec.asNumber")
    elif spec.peer_selector:
        if spec.peer_ip:
            raise Fault("cannot be combined with peerSelector", spec.peer_ip, "spec.peerIP")
        if spec.as_number:
            raise Fault("cannot be combined with peerSelector", spec.as_number, "spec.asNumber")
    if spec.keep_original_next_hop and spec.next_hop_mode:
        raise Fault("cannot be combined with nextHopMode", True, "spec.keepOriginalNextHop")
    if spec.reachable_by:
        if address is None:
            raise Fault("needs peerIP", spec.reachable_by, "spec.reachableBy")
        if ipaddress.ip_address(spec.reachable_by).version != address.version:
            raise Fault("is not of the same IP version as peerIP", spec.reachable_by, "spec.reachableBy")


def _bgp_filter(resource: Any) -> None:
    spec = resource.spec
    for name, rules, version in (
        ("exportV4", spec.export_v4, 4),
        ("importV4", spec.import_v4, 4),
        ("exportV6", spec.export_v6, 6),
        ("importV6", spec.import_v6, 6),
    ):
        for index, rule in enumerate(rules):
            try:
                _filter_rule(rule, version)
            except Fault as fault:
                raise fault.under(f"spec.{name}[{index}]") from None


def _filter_rule(rule: Any, version: int) -> None:
    bits = 32 if version == 4 else 128
    if bool(rule.cidr) != bool(rule.match_operator):
        raise Fault("cidr and matchOperator must be given together", path="matchOperator" if rule.cidr else "cidr")
    if rule.cidr and (":" in rule.cidr) != (version == 6):
        raise Fault(f"is not an IPv{version} CIDR", rule.cidr, "cidr")
    if rule.prefix_length:
        if not rule.cidr:
            raise Fault("needs cidr", path="prefixLength")
        for name, value in (("min", rule.prefix_length.min), ("max", rule.prefix_length.max)):
            if value is not None and not 0 <= value <= bits:
                raise Fault(f"must be 0 to {bits}", value, f"prefixLength.{name}")
    if rule.communities is not None and len(rule.communities.values) != 1:
        raise Fault("must hold exactly one community", rule.communities.values, "communities.values")
    if rule.operations and rule.action != "Accept":
        raise Fault("operations need action Accept", rule.action, "action")
    for index, operation in enumerate(rule.operations):
        given = [operation.add_community, operation.prepend_as_path, operation.set_priority]
        if sum(item is not None for item in given) != 1:
            raise Fault(
                "must be exactly one of addCommunity, prependASPath, setPriority", path=f"operations[{index}]"
            )
        if operation.prepend_as_path is not None and not operation.prepend_as_path.prefix:
            raise Fault("must hold 1 to 10 AS numbers", path=f"operations[{index}].prependASPath.prefix")


def _felix_configuration(resource: Any) -> None:
    spec, name = resource.spec, resource.metadata.name
    if spec.node_selector and (name == "default" or name.startswith("node.")):
        raise Fault(f"cannot be set on {name}", spec.node_selector, "spec.nodeSelector")
    if spec.route_table_range is not None and spec.route_table_ranges is not None:
        raise Fault("cannot be combined with routeTableRange", path="spec.routeTableRanges")
    ranges = [("spec.routeTableRange", spec.route_table_range)] if spec.route_table_range else []
    ranges += [(f"spec.routeTableRanges[{index}]", item) for index, item in enumerate(spec.route_table_ranges or [])]
    for path, item in ranges:
        if item.max < item.min:
            raise Fault("is below min", item.max, f"{path}.max")
    if sum(item.max - item.min + 1 for _, item in ranges) > 65535:
        raise Fault("designates more than 65535 tables", path="spec.routeTableRanges")
    for path, text, check in (
        ("spec.natOutgoingAddress", spec.nat_outgoing_address, checks.ipv4),
        ("spec.deviceRouteSourceAddress", spec.device_route_source_address, checks.ipv4),
        ("spec.deviceRouteSourceAddressIPv6", spec.device_route_source_address_ipv6, checks.ipv6),
    ):
        if text:
            _apply(check, text, path)
    if len(spec.kube_node_port_ranges or []) > 7:
        raise Fault("has more than 7 entries", path="spec.kubeNodePortRanges")
    if spec.openstack_region:
        _apply(
            checks.all_of(checks.at_most_long(46), checks.dns_label), spec.openstack_region, "spec.openstackRegion"
        )
    for interface in spec.bpf_log_filters or {}:
        _apply(checks.interface, interface, "spec.bpfLogFilters")


BY_KIND: dict[str, Callable[[Any], None]] = {
    "NetworkPolicy": check_policy,
    "GlobalNetworkPolicy": check_global_policy,
    "StagedNetworkPolicy": check_staged_policy,
    "StagedGlobalNetworkPolicy": check_staged_global_policy,
    "StagedKubernetesNetworkPolicy": check_staged_kubernetes_policy,
    "Profile": check_profile,
    "Tier": _tier,
    "NetworkSet": _network_set,
    "GlobalNetworkSet": _network_set,
    "IPPool": _pool,
    "Node": _node,
    "HostEndpoint": _host_endpoint,
    "WorkloadEndpoint": _workload_endpoint,
    "BGPConfiguration": _bgp_configuration,
    "BGPPeer": _bgp_peer,
    "BGPFilter": _bgp_filter,
    "FelixConfiguration": _felix_configuration,
}
