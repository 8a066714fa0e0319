"""BGP: the speaker's configuration, its peers and filters."""

# ruff: noqa: RUF009 - the calls in class bodies declare fields (calico_node.resources.fields)

from typing import Any, ClassVar

from attrs import define

from calico_node.resources import checks
from calico_node.resources.fields import Check, Fault, Struct, always, lst, opt, req
from calico_node.resources.meta import Resource
from calico_node.resources.scalars import AS_NUMBER, DURATION

MAX_PRIORITY = 2147483646

_LOG_LEVEL = checks.one_of_any_case("Trace", "Debug", "Info", "Warning", "Error", "Fatal")
_PRIORITY = checks.between(1, MAX_PRIORITY)
_ENABLED = checks.one_of("Enabled", "Disabled")


@define(kw_only=True)
class ServiceBlock(Struct):
    """A range of service addresses to advertise."""

    cidr: str = req(check=checks.cidr)


@define(kw_only=True)
class Community(Struct):
    """A name for a community value ``aa:nn`` or ``aa:nn:mm``."""

    name: str = req()
    value: str = req(check=checks.community)


@define(kw_only=True)
class PrefixAdvertisement(Struct):
    """Communities (names or values) to put on routes within ``cidr``."""

    cidr: str = req(check=checks.cidr)
    communities: list[str] = lst(limit=50)


@define(kw_only=True)
class SecretKeyRef(Struct):
    """A key of a Kubernetes Secret."""

    name: str | None = opt()
    key: str = req()
    optional: bool | None = opt()


@define(kw_only=True)
class BGPPassword(Struct):
    secret_key_ref: SecretKeyRef | None = opt()


@define(kw_only=True)
class BGPConfigurationSpec(Struct):
    """``None`` means Calico's default: mesh enabled, AS 64512, port 179, restart time 120 s, priority 1024."""

    log_severity_screen: str | None = opt(check=_LOG_LEVEL)
    node_to_node_mesh_enabled: bool | None = opt()
    as_number: int | None = opt("asNumber", codec=AS_NUMBER)
    service_load_balancer_ips: list[ServiceBlock] = lst("serviceLoadBalancerIPs")
    service_external_ips: list[ServiceBlock] = lst("serviceExternalIPs")
    service_cluster_ips: list[ServiceBlock] = lst("serviceClusterIPs")
    service_load_balancer_aggregation: str | None = opt(check=_ENABLED)
    communities: list[Community] = lst(limit=500)
    prefix_advertisements: list[PrefixAdvertisement] = lst(limit=500)
    listen_port: int | None = opt(check=checks.between(1, 65535), zero=True)
    node_mesh_password: BGPPassword | None = opt()
    node_mesh_max_restart_time: str | None = opt(codec=DURATION)
    bind_mode: str | None = opt(check=checks.one_of("None", "NodeIP"))
    ignored_interfaces: list[str] = lst(each=checks.interface_pattern)
    local_workload_peering_ipv4: str | None = opt("localWorkloadPeeringIPV4", checks.ipv4)
    local_workload_peering_ipv6: str | None = opt("localWorkloadPeeringIPV6", checks.ipv6)
    program_cluster_routes: str | None = opt(
        check=checks.one_of("Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly")
    )
    ipv4_normal_route_priority: int | None = opt("ipv4NormalRoutePriority", _PRIORITY)
    ipv6_normal_route_priority: int | None = opt("ipv6NormalRoutePriority", _PRIORITY)


@define(kw_only=True)
class BGPConfiguration(Resource):
    kind: ClassVar[str] = "BGPConfiguration"
    spec: BGPConfigurationSpec = always(BGPConfigurationSpec)


@define(kw_only=True)
class BGPPeerSpec(Struct):
    """``peer_ip`` is ``<v4>``, ``<v4>:port``, ``<v6>`` or ``[<v6>]:port``."""

    node: str | None = opt()
    node_selector: str | None = opt(check=checks.scoped_selector)
    peer_ip: str | None = opt("peerIP", checks.at_most_long(64))
    as_number: int | None = opt("asNumber", codec=AS_NUMBER, zero=True)
    local_as_number: int | None = opt("localASNumber", codec=AS_NUMBER)
    peer_selector: str | None = opt(check=checks.scoped_selector)
    keep_original_next_hop: bool | None = opt(zero=True)
    next_hop_mode: str | None = opt(check=checks.one_of("Auto", "Self", "Keep"))
    password: BGPPassword | None = opt()
    source_address: str | None = opt(check=checks.one_of("UseNodeIP", "None"))
    max_restart_time: str | None = opt(codec=DURATION)
    keepalive_time: str | None = opt(codec=DURATION)
    num_allowed_local_as_numbers: int | None = opt("numAllowedLocalASNumbers", checks.between(0, 2**31 - 1))
    ttl_security: int | None = opt("ttlSecurity", checks.between(0, 255))
    reachable_by: str | None = opt(check=checks.ip)
    filters: list[str] = lst()
    local_workload_selector: str | None = opt(check=checks.scoped_selector)
    reverse_peering: str | None = opt(check=checks.one_of("Auto", "Manual"))


@define(kw_only=True)
class BGPPeer(Resource):
    kind: ClassVar[str] = "BGPPeer"
    spec: BGPPeerSpec = always(BGPPeerSpec)


@define(kw_only=True)
class PrefixLength(Struct):
    min: int | None = opt()
    max: int | None = opt()


@define(kw_only=True)
class CommunityMatch(Struct):
    values: list[str] = lst(each=checks.community, always=True)


@define(kw_only=True)
class AddCommunity(Struct):
    value: str = req(check=checks.community)


@define(kw_only=True)
class PrependASPath(Struct):
    prefix: list[int] = lst(codec=AS_NUMBER, limit=10, always=True)


@define(kw_only=True)
class SetPriority(Struct):
    value: int = req(check=_PRIORITY, default=0)


@define(kw_only=True)
class FilterOperation(Struct):
    """Exactly one of the three."""

    add_community: AddCommunity | None = opt()
    prepend_as_path: PrependASPath | None = opt("prependASPath")
    set_priority: SetPriority | None = opt()


@define(kw_only=True)
class FilterRule(Struct):
    """One rule of a filter; the first that matches decides."""

    cidr: str | None = opt(check=checks.strict_cidr)
    prefix_length: PrefixLength | None = opt()
    source: str | None = opt(check=checks.one_of("RemotePeers"))
    interface: str | None = opt(check=checks.interface_wildcard)
    match_operator: str | None = opt(check=checks.one_of("Equal", "NotEqual", "In", "NotIn"))
    peer_type: str | None = opt(check=checks.one_of("eBGP", "iBGP"))
    communities: CommunityMatch | None = opt()
    as_path_prefix: list[int] = lst("asPathPrefix", codec=AS_NUMBER)
    priority: int | None = opt(check=_PRIORITY)
    action: str = req(check=checks.one_of("Accept", "Reject"))
    operations: list[FilterOperation] = lst(limit=10)


@define(kw_only=True)
class BGPFilterSpec(Struct):
    export_v4: list[FilterRule] = lst("exportV4")
    import_v4: list[FilterRule] = lst("importV4")
    export_v6: list[FilterRule] = lst("exportV6")
    import_v6: list[FilterRule] = lst("importV6")


@define(kw_only=True)
class BGPFilter(Resource):
    kind: ClassVar[str] = "BGPFilter"
    spec: BGPFilterSpec = always(BGPFilterSpec)


@define(kw_only=True)
class CalicoNodeStatusSpec(Struct):
    """What a node reports of itself, and how often (0 = never)."""

    node: str = req()
    classes: list[str] = lst(each=checks.one_of("Agent", "BGP", "Routes"))
    update_period_seconds: int | None = opt(check=checks.between(0, 86400))

    def fault(self) -> Fault | None:
        if not self.classes:
            return Fault("is required", path="classes")
        if len(set(self.classes)) < len(self.classes):
            return Fault("has a class twice", self.classes, "classes")
        return Fault("is required", path="updatePeriodSeconds") if self.update_period_seconds is None else None


_DAEMON_STATES = checks.one_of("Ready", "NotReady")
_SESSION_STATES = checks.one_of("Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established", "Close")


def _text(name: str = "", check: Check | None = None) -> Any:
    """Text that is left out when empty."""
    return opt(name, check, default="")


@define(kw_only=True)
class DaemonStatus(Struct):
    """The BGP daemon of one address family."""

    state: str = _text(check=_DAEMON_STATES)
    version: str = _text()
    router_id: str = _text("routerID")
    last_boot_time: str = _text()
    last_reconfiguration_time: str = _text()


@define(kw_only=True)
class AgentStatus(Struct):
    bird_v4: DaemonStatus = always(DaemonStatus, "birdV4")
    bird_v6: DaemonStatus = always(DaemonStatus, "birdV6")


@define(kw_only=True)
class PeerStatus(Struct):
    """One BGP session; ``since`` is the time as the daemon prints it."""

    peer_ip: str = _text("peerIP", checks.ip)
    type: str = _text(check=checks.one_of("NodeMesh", "NodePeer", "GlobalPeer"))
    state: str = _text(check=_SESSION_STATES)
    since: str = _text()


@define(kw_only=True)
class BGPStatus(Struct):
    number_established_v4: int = opt("numberEstablishedV4", default=0, always=True)
    number_not_established_v4: int = opt("numberNotEstablishedV4", default=0, always=True)
    number_established_v6: int = opt("numberEstablishedV6", default=0, always=True)
    number_not_established_v6: int = opt("numberNotEstablishedV6", default=0, always=True)
    peers_v4: list[PeerStatus] = lst("peersV4")
    peers_v6: list[PeerStatus] = lst("peersV6")


@define(kw_only=True)
class RouteSource(Struct):
    """``peer_ip`` is absent where no peer was involved."""

    source_type: str = _text(check=checks.one_of("Kernel", "Static", "Direct", "NodeMesh", "BGPPeer"))
    peer_ip: str | None = opt("peerIP", checks.ip)


@define(kw_only=True)
class RouteStatus(Struct):
    type: str = _text(check=checks.one_of("FIB", "RIB"))
    destination: str = _text()
    gateway: str = _text()
    interface: str = _text()
    learned_from: RouteSource = always(RouteSource)


@define(kw_only=True)
class RoutesStatus(Struct):
    routes_v4: list[RouteStatus] = lst("routesV4")
    routes_v6: list[RouteStatus] = lst("routesV6")


@define(kw_only=True)
class CalicoNodeStatusStatus(Struct):
    """The report; of an empty one the objects and the numbers are written."""

    last_updated: str | None = opt(check=checks.timestamp, always=True)
    agent: AgentStatus = always(AgentStatus)
    bgp: BGPStatus = always(BGPStatus)
    routes: RoutesStatus = always(RoutesStatus)


@define(kw_only=True)
class CalicoNodeStatus(Resource):
    kind: ClassVar[str] = "CalicoNodeStatus"
    spec: CalicoNodeStatusSpec = always(CalicoNodeStatusSpec)
    status: CalicoNodeStatusStatus = always(CalicoNodeStatusStatus)
