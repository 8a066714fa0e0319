"""Values of the v1 model (frozen; sequences are tuples, so that equal means unchanged)."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen


@frozen
class Port:
    """One entry of a rule's port list: a number or range (``low``..``high``, inclusive) or a ``name``."""

    low: int = 0
    high: int = 0
    name: str = ""


@frozen
class Rule:
    """One rule of a policy or profile, after namespace and service-account matches were folded into selectors.

    ``action`` is ``allow``, ``deny``, ``log`` or ``next-tier``.  ``protocol`` is the lower-case name (``tcp``,
    ``udp``, ``icmp``, ``icmpv6``, ``sctp``, ``udplite``) or a number.  Nets are canonical CIDR text.  ``None`` and
    empty mean "any".  ``src_service`` / ``dst_service`` name a Kubernetes Service.
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
    src_selector: str = ""
    not_src_selector: str = ""
    src_ports: tuple[Port, ...] = ()
    not_src_ports: tuple[Port, ...] = ()
    dst_nets: tuple[str, ...] = ()
    not_dst_nets: tuple[str, ...] = ()
    dst_selector: str = ""
    not_dst_selector: str = ""
    dst_ports: tuple[Port, ...] = ()
    not_dst_ports: tuple[Port, ...] = ()
    src_service: str = ""
    src_service_namespace: str = ""
    dst_service: str = ""
    dst_service_namespace: str = ""
    metadata: Mapping[str, str] = field(factory=dict, hash=False)


@frozen
class Policy:
    """A policy of any kind.  ``order`` None means +infinity.  ``types`` holds ``ingress`` / ``egress``.

    ``staged_action`` is "" for enforced kinds; a policy with any staged action is never enforced.
    """

    tier: str = "default"
    namespace: str = ""
    order: float | None = None
    selector: str = ""
    types: tuple[str, ...] = ()
    inbound_rules: tuple[Rule, ...] = ()
    outbound_rules: tuple[Rule, ...] = ()
    untracked: bool = False
    pre_dnat: bool = False
    apply_on_forward: bool = False
    performance_hints: tuple[str, ...] = ()
    staged_action: str = ""


@frozen
class Tier:
    """``default_action`` is ``Deny`` or ``Pass``; ``order`` None sorts last."""

    order: float | None = None
    default_action: str = "Deny"


@frozen
class ProfileRules:
    inbound_rules: tuple[Rule, ...] = ()
    outbound_rules: tuple[Rule, ...] = ()


@frozen
class EndpointPort:
    """A named port of an endpoint; ``protocol`` lower case."""

    name: str
    protocol: str
    port: int


@frozen
class IPNat:
    internal_ip: str
    external_ip: str


@frozen
class WorkloadEndpoint:
    """``state`` ``active`` or anything else for admin down; ``name`` the host-side interface; nets as CIDR text."""

    name: str
    state: str = "active"
    mac: str = ""
    profile_ids: tuple[str, ...] = ()
    ipv4_nets: tuple[str, ...] = ()
    ipv6_nets: tuple[str, ...] = ()
    ipv4_nat: tuple[IPNat, ...] = ()
    ipv6_nat: tuple[IPNat, ...] = ()
    labels: Mapping[str, str] = field(factory=dict, hash=False)
    ports: tuple[EndpointPort, ...] = ()
    generate_name: str = ""
    allow_spoofed_source_prefixes: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(factory=dict, hash=False)
    qos_controls: Mapping[str, int] = field(factory=dict, hash=False)


@frozen
class HostEndpoint:
    """``name`` is the interface name, ``*``, or "" when only ``expected_*`` identify it."""

    name: str = ""
    expected_ipv4_addrs: tuple[str, ...] = ()
    expected_ipv6_addrs: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(factory=dict, hash=False)
    profile_ids: tuple[str, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


@frozen
class NetworkSet:
    nets: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(factory=dict, hash=False)
    profile_ids: tuple[str, ...] = ()


@frozen
class IPPool:
    """``ipip_mode`` / ``vxlan_mode``: "", ``always`` or ``cross-subnet``; ``masquerade`` is natOutgoing."""

    cidr: str
    ipip_mode: str = ""
    vxlan_mode: str = ""
    masquerade: bool = False
    disabled: bool = False
    disable_bgp_export: bool = False
    assignment_mode: str = "Automatic"
    allowed_uses: tuple[str, ...] = ("Workload", "Tunnel")
    block_size: int = 26


@frozen
class AllocationAttribute:
    """Who holds an address of a block; ``released_at`` (RFC 3339) while it cools down."""

    handle_id: str | None = None
    secondary: Mapping[str, str] = field(factory=dict, hash=False)
    released_at: str | None = None


@frozen
class AllocationBlock:
    """An IPAM block as components see it.  ``allocations[i]`` is None or an index into ``attributes``;
    ``affinity`` is ``host:<node>``, ``virtual:<name>`` or None."""

    cidr: str
    affinity: str | None = None
    allocations: tuple[int | None, ...] = ()
    attributes: tuple[AllocationAttribute, ...] = ()


@frozen
class BlockAffinity:
    """``state``: ``pending``, ``confirmed`` ("" means confirmed) or ``pendingDeletion``."""

    state: str = "confirmed"


@frozen
class Wireguard:
    interface_ipv4_addr: str = ""
    public_key: str = ""
    interface_ipv6_addr: str = ""
    public_key_v6: str = ""
