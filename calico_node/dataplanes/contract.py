"""What a dataplane is: three Protocols and the typed messages that pass through them.

A plugin may supply any of the three; the Linux ones are the defaults.  The messages carry the fields of Felix's
``felixbackend.proto`` under its names.  Every value is immutable.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, TypeAlias

from attrs import field, frozen

from calico_node.model import EndpointPort, IPNat, PolicyKey, Port

CONTRACT_VERSION = 1
"""A dataplane whose ``contract_version`` differs is refused at load."""


class IPSetType(enum.Enum):
    """NET members: ``10.0.0.1/32``, ``fd00::/64``.  IP_AND_PORT members: ``10.0.0.1,tcp:80`` (or udp, sctp)."""

    NET = "net"
    IP_AND_PORT = "ip-and-port"


@frozen
class IPSetUpdate:
    """The whole membership of set ``id`` (both families, no member covered by another)."""

    id: str
    type: IPSetType
    members: frozenset[str]


@frozen
class IPSetDeltaUpdate:
    id: str
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()


@frozen
class IPSetRemove:
    id: str


@frozen
class DataplaneRule:
    """A rule whose selectors have become IP set ids.

    ``action`` is ``allow``, ``deny``, ``log`` or ``next-tier``.  All present fields are ANDed; inside a tuple OR;
    a ``not_`` tuple means none of.  Port tuples hold numeric ports only; named ports are sets of IP_AND_PORT type in
    ``*_named_port_ip_set_ids``, ORed with the numeric ports of that side.  Each id in ``src_ip_set_ids`` must match
    (AND).  ``dst_ip_port_set_ids`` are service sets.
    """

    action: str
    ip_version: int | None = None
    protocol: str | int | None = None
    not_protocol: str | int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    not_icmp_type: int | None = None
    not_icmp_code: int | None = None
    src_nets: tuple[str, ...] = ()
    not_src_nets: tuple[str, ...] = ()
    src_ports: tuple[Port, ...] = ()
    not_src_ports: tuple[Port, ...] = ()
    src_named_port_ip_set_ids: tuple[str, ...] = ()
    not_src_named_port_ip_set_ids: tuple[str, ...] = ()
    src_ip_set_ids: tuple[str, ...] = ()
    not_src_ip_set_ids: tuple[str, ...] = ()
    dst_nets: tuple[str, ...] = ()
    not_dst_nets: tuple[str, ...] = ()
    dst_ports: tuple[Port, ...] = ()
    not_dst_ports: tuple[Port, ...] = ()
    dst_named_port_ip_set_ids: tuple[str, ...] = ()
    not_dst_named_port_ip_set_ids: tuple[str, ...] = ()
    dst_ip_set_ids: tuple[str, ...] = ()
    not_dst_ip_set_ids: tuple[str, ...] = ()
    dst_ip_port_set_ids: tuple[str, ...] = ()


@frozen
class ActivePolicyUpdate:
    """``original_selector`` lets a dataplane group consecutive policies with one selector."""

    key: PolicyKey
    tier: str
    inbound_rules: tuple[DataplaneRule, ...] = ()
    outbound_rules: tuple[DataplaneRule, ...] = ()
    untracked: bool = False
    pre_dnat: bool = False
    original_selector: str = ""


@frozen
class ActivePolicyRemove:
    key: PolicyKey


@frozen
class ActiveProfileUpdate:
    name: str
    inbound_rules: tuple[DataplaneRule, ...] = ()
    outbound_rules: tuple[DataplaneRule, ...] = ()


@frozen
class ActiveProfileRemove:
    name: str


@frozen
class TierInfo:
    """One tier as it applies to one endpoint: only policies that match it, in order, staged ones left out."""

    name: str
    default_action: str = "Deny"
    ingress_policies: tuple[PolicyKey, ...] = ()
    egress_policies: tuple[PolicyKey, ...] = ()


@frozen
class WorkloadEndpointID:
    orchestrator: str
    workload: str
    endpoint: str


@frozen
class WorkloadEndpointUpdate:
    """``state`` ``active`` or admin down; ``name`` the host-side interface; ``tiers`` in order."""

    id: WorkloadEndpointID
    name: str
    state: str = "active"
    mac: str = ""
    profile_ids: tuple[str, ...] = ()
    ipv4_nets: tuple[str, ...] = ()
    ipv6_nets: tuple[str, ...] = ()
    ipv4_nat: tuple[IPNat, ...] = ()
    ipv6_nat: tuple[IPNat, ...] = ()
    tiers: tuple[TierInfo, ...] = ()
    ports: tuple[EndpointPort, ...] = ()
    allow_spoofed_source_prefixes: tuple[str, ...] = ()
    qos_controls: Mapping[str, int] = field(factory=dict, hash=False)


@frozen
class WorkloadEndpointRemove:
    id: WorkloadEndpointID


@frozen
class HostEndpointUpdate:
    id: str
    name: str = ""
    expected_ipv4_addrs: tuple[str, ...] = ()
    expected_ipv6_addrs: tuple[str, ...] = ()
    profile_ids: tuple[str, ...] = ()
    tiers: tuple[TierInfo, ...] = ()
    untracked_tiers: tuple[TierInfo, ...] = ()
    pre_dnat_tiers: tuple[TierInfo, ...] = ()
    forward_tiers: tuple[TierInfo, ...] = ()


@frozen
class HostEndpointRemove:
    id: str


@frozen
class HostMetadataUpdate:
    """A node of the cluster: its addresses as CIDR text (``10.0.0.5/24``), "" where unknown."""

    hostname: str
    ipv4_addr: str = ""
    ipv6_addr: str = ""
    as_number: int | None = None
    labels: Mapping[str, str] = field(factory=dict, hash=False)


@frozen
class HostMetadataRemove:
    hostname: str


@frozen
class IPPoolUpdate:
    cidr: str
    masquerade: bool = False
    ipip_mode: str = ""
    vxlan_mode: str = ""
    allowed_uses: tuple[str, ...] = ("Workload", "Tunnel")


@frozen
class IPPoolRemove:
    cidr: str


@frozen
class LocalBlockUpdate:
    """A block affine to this node: its blackhole route belongs to Felix where Felix owns the pool's routes."""

    cidr: str


@frozen
class LocalBlockRemove:
    cidr: str


@frozen
class ConfigUpdate:
    """The full merged Felix configuration: parameter name (``felix-config`` spelling) to text value."""

    config: Mapping[str, str] = field(factory=dict, hash=False)


@frozen
class InSync:
    """Everything known at start-up has been sent; from here on unknown state may be cleaned away."""


Message: TypeAlias = (
    IPSetUpdate
    | IPSetDeltaUpdate
    | IPSetRemove
    | ActivePolicyUpdate
    | ActivePolicyRemove
    | ActiveProfileUpdate
    | ActiveProfileRemove
    | WorkloadEndpointUpdate
    | WorkloadEndpointRemove
    | HostEndpointUpdate
    | HostEndpointRemove
    | HostMetadataUpdate
    | HostMetadataRemove
    | IPPoolUpdate
    | IPPoolRemove
    | LocalBlockUpdate
    | LocalBlockRemove
    | ConfigUpdate
    | InSync
)


@frozen
class Batch:
    """Messages in an order that is safe to apply, and the datastore revision they bring the dataplane to."""

    revision: int
    messages: tuple[Message, ...] = ()


class ObjectState(enum.Enum):
    UP = "up"
    DOWN = "down"
    ERROR = "error"


@frozen
class ObjectStatus:
    state: ObjectState
    reason: str = ""


ObjectID: TypeAlias = WorkloadEndpointID | PolicyKey | str
"""A str is a host endpoint id, ``profile/<name>`` or ``ipset/<id>``."""


@frozen
class Applied:
    """``revision`` is what is now in force; ``status`` the objects whose state this apply changed or confirmed."""

    revision: int
    status: Mapping[ObjectID, ObjectStatus] = field(factory=dict, hash=False)
    kernel_seconds: float = 0.0


class PolicyDataplane(Protocol):
    """Enforces policy.  One instance lives as long as one run of the calculation graph."""

    contract_version: int

    async def start(self) -> None:
        """Read what is in force and adopt it; change nothing that is correct."""

    async def apply(self, batch: Batch) -> Applied:
        """Bring ``batch`` in force atomically, or raise ``DataplaneError``.

        A single bad object must not fail the batch: report it in ``Applied.status`` and fail closed for it.
        Before the first ``InSync`` nothing present may be removed.
        """

    async def interfaces_changed(self, up: frozenset[str]) -> Applied:
        """The host's interfaces that are up; endpoints whose interface came or went change state."""

    async def stop(self) -> None:
        """Release resources and leave the kernel state in force."""


class RouteType(enum.Enum):
    UNICAST = "unicast"
    BLACKHOLE = "blackhole"
    UNREACHABLE = "unreachable"


@frozen
class Route:
    """One desired or observed route of the main table.

    ``dst`` canonical CIDR text; ``gateways`` addresses (several mean ECMP); ``device`` the outgoing interface name
    ("" lets the kernel resolve it); ``protocol`` the rtm_protocol number; ``metric`` 0 for none.
    """

    dst: str
    type: RouteType = RouteType.UNICAST
    device: str = ""
    gateways: tuple[str, ...] = ()
    onlink: bool = False
    scope_link: bool = False
    protocol: int = 3
    metric: int = 0
    source: str = ""
    mtu: int = 0


@frozen
class ConnectedPrefix:
    """An address of this host (``10.0.0.5/24``) and the interface that has it; ``up`` is the link state."""

    address: str
    device: str
    up: bool = True


@frozen
class KernelView:
    """A consistent picture of the main table and the addresses, whenever either changed."""

    routes: tuple[Route, ...]
    addresses: tuple[ConnectedPrefix, ...]


@frozen
class RouteOwnership:
    """What Felix may clean away, besides the routes it wants: see ``RouteSink.configure``.

    ``workload_prefixes`` begin the names of workload interfaces (InterfacePrefix); ``protocol`` is the rtm_protocol
    that nobody else uses; on workload interfaces everything is Felix's with ``remove_external``
    (RemoveExternalRoutes), otherwise only ``protocol``, 80 and 3.  ``refresh_interval`` seconds pass between full
    reads of the table (RouteRefreshInterval), 0 for none.
    """

    workload_prefixes: tuple[str, ...] = ("cali",)
    protocol: int = 80
    remove_external: bool = True
    refresh_interval: float = 90.0


class RouteSink(Protocol):
    """The one reconciler of the kernel's main routing table.

    Owners (``felix``, ``bgp``) state what they want; where two want one prefix the lower rank wins.
    """

    async def set_routes(self, owner: str, add: Sequence[Route], remove: Sequence[str] = ()) -> None:
        """Add or replace ``owner``'s desired routes by destination, and drop the destinations in ``remove``."""

    def configure(self, ownership: RouteOwnership) -> None:
        """Felix's configuration, before its ``prune`` and whenever it changes."""

    def refused(self, owner: str) -> Mapping[str, str]:
        """Destinations of ``owner`` that are not in force (they are retried), and why."""

    async def adopt(self, owner: str) -> None:
        """``owner`` starts (again): forget what it wanted; its routes stay until it calls ``prune``."""

    async def prune(self, owner: str) -> None:
        """From now on, kernel routes that carry ``owner``'s mark and are not desired are removed."""

    def watch(self) -> AsyncIterator[KernelView]:
        """First the present state, then again after each change (coalesced)."""


@frozen
class PodInterface:
    """What a pod gets.  ``addresses`` are /32 or /128; ``host_interface`` the veth name on the node."""

    container_id: str
    interface: str
    host_interface: str
    addresses: tuple[str, ...]
    mtu: int = 0
    mac: str = ""
    allow_ip_forwarding: bool = False
    metric: int = 1024


class PodWiring(Protocol):
    """Connects a pod's network namespace, given as an open descriptor, to the node."""

    async def add(self, netns_fd: int, pod: PodInterface) -> str:
        """Make the interface, addresses, routes and sysctls; returns the MAC of the pod's side."""

    async def check(self, netns_fd: int, pod: PodInterface) -> None:
        """Raise ``CNIError`` when something of ``pod`` is missing."""

    async def delete(self, netns_fd: int | None, interface: str, host_interface: str) -> None:
        """Remove it; nothing there is success."""
