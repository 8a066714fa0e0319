"""Nodes and endpoints."""

# ruff: noqa: RUF009 - the calls in class bodies declare fields (calico_node.resources.fields)

from typing import ClassVar

from attrs import define

from calico_node.resources import checks
from calico_node.resources.fields import Fault, Struct, always, lst, opt, req
from calico_node.resources.meta import Resource
from calico_node.resources.scalars import AS_NUMBER, DSCP, PROTOCOL, check_dscp, check_port_name, check_protocol

_PORT_NUMBER = checks.between(1, 65535)


@define(kw_only=True)
class NodeBGPSpec(Struct):
    """``ipv4_address`` and ``ipv6_address`` are address/length with host bits, or bare addresses."""

    as_number: int | None = opt("asNumber", codec=AS_NUMBER)
    ipv4_address: str | None = opt("ipv4Address", check=checks.ipv4_cidr)
    ipv6_address: str | None = opt("ipv6Address", check=checks.ipv6_cidr)
    ipv4_ipip_tunnel_addr: str | None = opt("ipv4IPIPTunnelAddr", check=checks.ipv4)
    route_reflector_cluster_id: str | None = opt("routeReflectorClusterID", check=checks.ipv4)


@define(kw_only=True)
class OrchRef(Struct):
    node_name: str | None = opt()
    orchestrator: str = req()


@define(kw_only=True)
class NodeWireguardSpec(Struct):
    interface_ipv4_address: str | None = opt("interfaceIPv4Address", check=checks.ipv4)
    interface_ipv6_address: str | None = opt("interfaceIPv6Address", check=checks.ipv6)


@define(kw_only=True)
class NodeAddress(Struct):
    address: str = req(check=checks.cidr)
    type: str | None = opt(check=checks.one_of("CalicoNodeIP", "InternalIP", "ExternalIP"))


@define(kw_only=True)
class NodeInterface(Struct):
    name: str = opt(default="")
    addresses: list[str] = lst(each=checks.cidr)


@define(kw_only=True)
class NodeSpec(Struct):
    bgp: NodeBGPSpec | None = opt()
    ipv4_vxlan_tunnel_addr: str | None = opt("ipv4VXLANTunnelAddr", check=checks.ipv4)
    vxlan_tunnel_mac_addr: str | None = opt("vxlanTunnelMACAddr", check=checks.mac)
    ipv6_vxlan_tunnel_addr: str | None = opt("ipv6VXLANTunnelAddr", check=checks.ipv6)
    vxlan_tunnel_mac_addr_v6: str | None = opt("vxlanTunnelMACAddrV6", check=checks.mac)
    orch_refs: list[OrchRef] = lst()
    wireguard: NodeWireguardSpec | None = opt()
    addresses: list[NodeAddress] = lst()
    interfaces: list[NodeInterface] = lst()


@define(kw_only=True)
class NodeStatus(Struct):
    wireguard_public_key: str | None = opt()
    wireguard_public_key_v6: str | None = opt("wireguardPublicKeyV6")
    pod_cidrs: list[str] = lst("podCIDRs", each=checks.cidr)


@define(kw_only=True)
class Node(Resource):
    kind: ClassVar[str] = "Node"
    spec: NodeSpec = always(NodeSpec)
    status: NodeStatus = always(NodeStatus)


@define(kw_only=True)
class EndpointPort(Struct):
    """A named port of a host endpoint."""

    name: str = req(check=check_port_name)
    protocol: str | int = req(codec=PROTOCOL, check=check_protocol)
    port: int = req(check=_PORT_NUMBER, default=0)


@define(kw_only=True)
class HostEndpointSpec(Struct):
    """``interface_name`` ``*`` means all interfaces of the host."""

    node: str = req()
    interface_name: str | None = opt(check=checks.interface)
    expected_ips: list[str] = lst("expectedIPs", each=checks.ip)
    profiles: list[str] = lst()
    ports: list[EndpointPort] = lst()


@define(kw_only=True)
class HostEndpoint(Resource):
    kind: ClassVar[str] = "HostEndpoint"
    spec: HostEndpointSpec = always(HostEndpointSpec)


@define(kw_only=True)
class WorkloadEndpointPort(Struct):
    """All five members are always written; the name may be empty only with a host port."""

    name: str = opt(default="", always=True)
    protocol: str | int = req(codec=PROTOCOL, check=check_protocol)
    port: int = req(check=_PORT_NUMBER, default=0)
    host_port: int = opt(check=checks.between(0, 65535), default=0, always=True)
    host_ip: str = opt("hostIP", checks.ip, default="", always=True)


@define(kw_only=True)
class IPNAT(Struct):
    internal_ip: str = req("internalIP", check=checks.ip)
    external_ip: str = req("externalIP", check=checks.ip)


@define(kw_only=True)
class QoSControls(Struct):
    """Bandwidths, bursts and peak rates in bits, minimum bursts in bytes, packets a second, connections."""

    ingress_bandwidth: int | None = opt(zero=True)
    ingress_burst: int | None = opt(zero=True)
    ingress_peakrate: int | None = opt(zero=True)
    ingress_minburst: int | None = opt(zero=True)
    egress_bandwidth: int | None = opt(zero=True)
    egress_burst: int | None = opt(zero=True)
    egress_peakrate: int | None = opt(zero=True)
    egress_minburst: int | None = opt(zero=True)
    ingress_packet_rate: int | None = opt(zero=True)
    ingress_packet_burst: int | None = opt(zero=True)
    egress_packet_rate: int | None = opt(zero=True)
    egress_packet_burst: int | None = opt(zero=True)
    ingress_max_connections: int | None = opt(zero=True)
    egress_max_connections: int | None = opt(zero=True)
    dscp: int | str | None = opt(codec=DSCP, check=check_dscp)


@define(kw_only=True)
class WorkloadEndpointSpec(Struct):
    """``ip_networks`` holds only /32 and /128."""

    orchestrator: str = opt(default="", check=checks.container_id)
    workload: str | None = opt()
    node: str = opt(default="")
    container_id: str | None = opt("containerID", check=checks.container_id)
    pod: str | None = opt()
    endpoint: str = opt(default="")
    service_account_name: str | None = opt()
    ip_networks: list[str] = lst("ipNetworks", each=checks.host_cidr)
    ip_nats: list[IPNAT] = lst("ipNATs")
    ipv4_gateway: str | None = opt("ipv4Gateway", check=checks.ipv4)
    ipv6_gateway: str | None = opt("ipv6Gateway", check=checks.ipv6)
    profiles: list[str] = lst()
    interface_name: str | None = opt(check=checks.interface)
    mac: str | None = opt(check=checks.mac)
    ports: list[WorkloadEndpointPort] = lst()
    allow_spoofed_source_prefixes: list[str] = lst(each=checks.cidr)
    qos_controls: QoSControls | None = opt("qosControls")


@define(kw_only=True)
class WorkloadEndpoint(Resource):
    kind: ClassVar[str] = "WorkloadEndpoint"
    spec: WorkloadEndpointSpec = always(WorkloadEndpointSpec)


@define(kw_only=True)
class WorkloadID(Struct):
    """A workload, by what a WorkloadEndpoint says of it."""

    hostname: str | None = opt()
    orchestrator_id: str | None = opt("orchestratorID")
    workload_id: str | None = opt("workloadID")


@define(kw_only=True)
class WorkloadEndpointID(WorkloadID):
    endpoint_id: str | None = opt("endpointID")


@define(kw_only=True)
class LiveMigrationSource(Struct):
    """One of the two."""

    workload: WorkloadID | None = opt()
    workload_endpoint: WorkloadEndpointID | None = opt()

    def fault(self) -> Fault | None:
        if self.workload is None or self.workload_endpoint is None:
            return None
        return Fault("cannot be combined with workload", path="workloadEndpoint")


@define(kw_only=True)
class LiveMigrationTarget(Struct):
    """One of the two."""

    selector: str | None = opt(check=checks.scoped_selector)
    workload_endpoint: WorkloadEndpointID | None = opt()

    def fault(self) -> Fault | None:
        if self.selector is None or self.workload_endpoint is None:
            return None
        return Fault("cannot be combined with selector", path="workloadEndpoint")


@define(kw_only=True)
class LiveMigrationSpec(Struct):
    source: LiveMigrationSource | None = opt()
    target: LiveMigrationTarget | None = opt()


@define(kw_only=True)
class LiveMigration(Resource):
    """A workload on its way from one host to another; internal, no user writes it."""

    kind: ClassVar[str] = "LiveMigration"
    spec: LiveMigrationSpec = always(LiveMigrationSpec)
