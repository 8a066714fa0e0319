"""Chains of one family, from the contract's messages: what is walked at each hook, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from calico_node.addresses import parse_network
from calico_node.dataplanes.contract import DataplaneRule, TierInfo, WorkloadEndpointUpdate
from calico_node.dataplanes.nftables import expressions as e
from calico_node.dataplanes.nftables import layout as names
from calico_node.dataplanes.nftables import matches as m
from calico_node.dataplanes.nftables.codec import Hook
from calico_node.dataplanes.nftables.config import RenderConfig
from calico_node.dataplanes.nftables.layout import Chain, Family, Rule, set_name
from calico_node.dataplanes.nftables.rules import RenderError, RuleOrigin, render_rule
from calico_node.model import PolicyKey

MASQUERADED_POOLS = "masq-ipam-pools"
ALL_POOLS = "network-ip-pools"
ALL_HOSTS = "all-hosts-net"

RPF_SKIP = "raw-cali-rpf-skip"

BASE_CHAINS: Mapping[str, Hook] = {
    "raw-PREROUTING": Hook("filter", 0, -300),
    "filter-INPUT": Hook("filter", 1, 0),
    "filter-FORWARD": Hook("filter", 2, 0),
    "nat-POSTROUTING": Hook("nat", 4, 110),
}
"""Hooks that have rules now.  Those of host endpoints (mangle, raw OUTPUT, filter OUTPUT) join with them."""

_ROUTER_DISCOVERY = (130, 131, 132, 133, 135, 136)
"""ICMPv6 that a workload needs of its host whatever the policy: multicast listeners, routers, neighbours."""


def policy_chain(
    family: Family, config: RenderConfig, name: str, rules: Sequence[DataplaneRule], origin: RuleOrigin
) -> Chain:
    """One direction of a policy or profile.  Raises ``RenderError`` naming the rule."""
    rendered: list[Rule] = []
    for number, rule in enumerate(rules, 1):
        try:
            rendered += render_rule(family, config, rule, origin)
        except RenderError as error:
            raise RenderError(f"rule {number}: {error}") from None
    return Chain(name, tuple(rendered))


def closed_chain(name: str, reason: str) -> Chain:
    """What stands for an object that cannot be enforced."""
    return Chain(name, (Rule(m.DROP, reason),))


def workload_chain(
    config: RenderConfig,
    endpoint: WorkloadEndpointUpdate,
    *,
    inbound: bool,
    policy_known: Callable[[PolicyKey], bool],
    profile_known: Callable[[str], bool],
) -> Chain:
    """All that a packet towards (``inbound``) or from a workload is asked."""
    marks = config.marks
    name = names.workload_chain_name(endpoint.name, inbound=inbound)
    if endpoint.state != "active":
        return Chain(name, (Rule(m.deny(config), "Endpoint admin disabled"),))
    established = m.ct_state(e.CT_STATE_ESTABLISHED | e.CT_STATE_RELATED)
    # With FilterAllowAction Return the mark tells the callers what a mere "return" would not.
    marked = (e.Counter(), *m.mark_set(marks.accept), e.Verdict(e.NFT_RETURN))
    rules = [Rule((*established, *(marked if config.accept_returns else m.ACCEPT)), "Established")]
    if config.check_invalid:
        rules.append(Rule((*m.ct_state(e.CT_STATE_INVALID), *m.DROP), "Invalid"))
    rules.append(Rule(m.mark_set(0, clear=marks.accept | marks.passed)))
    if not inbound:
        rules += _no_tunnels(config)
    for tier in endpoint.tiers:
        policies = tier.ingress_policies if inbound else tier.egress_policies
        if policies:
            rules += _tier(config, tier, policies, inbound=inbound, policy_known=policy_known)
    for profile in endpoint.profile_ids:
        if profile_known(profile):
            rules.append(Rule(m.jump(names.profile_chain_name(profile, inbound=inbound))))
            rules.append(Rule((*m.mark_is(marks.accept), *m.RETURN), "Return if profile accepted"))
        else:
            rules.append(Rule(m.deny(config), f"Profile {profile} is not known"))
    rules.append(Rule(m.deny(config), "Drop if no profiles matched"))
    return Chain(name, tuple(rules))


def _tier(
    config: RenderConfig,
    tier: TierInfo,
    policies: Sequence[PolicyKey],
    *,
    inbound: bool,
    policy_known: Callable[[PolicyKey], bool],
) -> list[Rule]:
    marks = config.marks
    not_passed = m.mark_is(marks.passed, 0)
    rules = [Rule(m.mark_set(0, clear=marks.passed), f"Start of tier {tier.name}")]
    for key in policies:
        if not policy_known(key):
            rules.append(Rule((*not_passed, *m.deny(config)), f"{names.policy_id(key)} is not known"))
            continue
        rules.append(Rule((*not_passed, *m.jump(names.policy_chain_name(key, inbound=inbound)))))
        rules.append(Rule((*m.mark_is(marks.accept), *m.RETURN), "Return if policy accepted"))
    if tier.default_action.lower() != "pass":
        text = f"End of tier {tier.name}. Drop if no policies passed packet"
        rules.append(Rule((*not_passed, *m.deny(config)), text))
    return rules


def _no_tunnels(config: RenderConfig) -> Iterable[Rule]:
    """A workload must not speak the cluster's encapsulations: it could forge other workloads' traffic."""
    if not config.allow_vxlan:
        port = m.ports([(config.vxlan_port, config.vxlan_port)], source=False)
        yield Rule((*m.protocol(m.UDP), *port, *m.DROP), "Drop VXLAN encapped packets originating in workloads")
    if not config.allow_ipip:
        yield Rule((*m.protocol(m.IPIP), *m.DROP), "Drop IPinIP encapped packets originating in workloads")


def dispatch_chains() -> list[Chain]:
    """By interface to the workload's chain; an interface that is ours but not known is closed."""
    return [
        Chain(
            name,
            (
                Rule((e.Meta(key), e.Lookup(name, verdict_map=True))),
                Rule(m.DROP, "Unknown interface"),
            ),
        )
        for name, key in (
            (names.FROM_WORKLOAD_DISPATCH, e.META_IIFNAME),
            (names.TO_WORKLOAD_DISPATCH, e.META_OIFNAME),
        )
    ]


def static_chains(family: Family, config: RenderConfig) -> list[Chain]:
    """Base chains and what they call, but for the parts that depend on endpoints and pools."""
    marks = config.marks
    scratch = marks.passed | marks.scratch0 | marks.scratch1
    workload_in = [m.interface(e.META_IIFNAME, prefix + "*") for prefix in config.interface_prefixes]
    workload_out = [m.interface(e.META_OIFNAME, prefix + "*") for prefix in config.interface_prefixes]
    accepted = m.mark_is(marks.accept)
    return [
        Chain("raw-PREROUTING", (Rule(m.jump("raw-cali-PREROUTING")),), BASE_CHAINS["raw-PREROUTING"]),
        Chain(
            "raw-cali-PREROUTING",
            (
                Rule(m.mark_set(0, clear=marks.accept | scratch)),
                *(Rule((*match, *m.jump(RPF_SKIP)), "Workload sources must be their own") for match in workload_in),
            ),
        ),
        Chain("filter-INPUT", (Rule(m.jump("filter-cali-INPUT")),), BASE_CHAINS["filter-INPUT"]),
        Chain(
            "filter-cali-INPUT",
            tuple(Rule((*match, *m.goto("filter-cali-wl-to-host"))) for match in workload_in),
        ),
        Chain("filter-cali-wl-to-host", tuple(_workload_to_host(family, config))),
        Chain(
            "filter-FORWARD",
            (
                Rule(m.jump("filter-cali-FORWARD")),
                Rule((*accepted, *m.allow(config)), "Policy explicitly accepted packet."),
                Rule(m.mark_set(marks.accept)),
            ),
            BASE_CHAINS["filter-FORWARD"],
        ),
        Chain(
            "filter-cali-FORWARD",
            (
                Rule(m.mark_set(0, clear=scratch)),
                *(Rule((*match, *m.jump(names.FROM_WORKLOAD_DISPATCH))) for match in workload_in),
                *(Rule((*match, *m.jump(names.TO_WORKLOAD_DISPATCH))) for match in workload_out),
            ),
        ),
        *dispatch_chains(),
        Chain("nat-POSTROUTING", (Rule(m.jump("nat-cali-POSTROUTING")),), BASE_CHAINS["nat-POSTROUTING"]),
        Chain("nat-cali-POSTROUTING", (Rule(m.jump("nat-cali-nat-outgoing")),)),
    ]


def _workload_to_host(family: Family, config: RenderConfig) -> Iterable[Rule]:
    if family.version == 6:
        for type_ in _ROUTER_DISCOVERY:
            yield Rule((*m.protocol(family.icmp_protocol), *m.icmp(type_, None), *m.ACCEPT))
    yield Rule(m.jump(names.FROM_WORKLOAD_DISPATCH))
    if config.accept_returns:
        # The dispatch has only returned them: what this host asked of its workload is answered whatever follows.
        yield Rule((*m.ct_state(e.CT_STATE_ESTABLISHED | e.CT_STATE_RELATED), *m.RETURN), "Established")
    text = "Configured DefaultEndpointToHostAction"
    if config.endpoint_to_host == "accept":
        yield Rule(m.ACCEPT, text)
    elif config.endpoint_to_host != "return":
        yield Rule(m.deny(config), text)


def reverse_path_chain(family: Family, endpoints: Iterable[WorkloadEndpointUpdate]) -> Chain:
    """Drop what does not come from where its source lives, but for the prefixes endpoints may use besides."""
    rules = []
    for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.name):
        networks = m.collapse(endpoint.allow_spoofed_source_prefixes, family)
        if networks:
            everything = networks[0].prefixlen == 0
            match = () if everything else m.nets(family, networks, source=True)
            rules.append(Rule((*m.interface(e.META_IIFNAME, endpoint.name), *match, *m.RETURN), "Allowed sources"))
    rules.append(Rule((*m.reverse_path_fails(), *m.DROP), "Spoofed source"))
    return Chain(RPF_SKIP, tuple(rules))


def nat_outgoing_chain(family: Family, config: RenderConfig, *, masquerading: bool) -> Chain:
    """Source NAT for what leaves the cluster from a pool that asks for it."""
    name = "nat-cali-nat-outgoing"
    if not masquerading:
        return Chain(name)
    match: m.Expressions = (
        *m.in_set(family, set_name(family, MASQUERADED_POOLS), source=True),
        *m.in_set(family, set_name(family, ALL_POOLS), source=False, negated=True),
    )
    if config.nat_excludes_hosts:
        match += m.in_set(family, set_name(family, ALL_HOSTS), source=False, negated=True)
    if config.nat_interface:
        match += m.interface(e.META_OIFNAME, config.nat_interface.replace("+", "*"))
    rules = []
    if config.nat_ports is not None:
        for number in (m.TCP, m.UDP):
            rules.append(
                Rule((*m.protocol(number), *match, e.Counter(), *_source_nat(family, config, config.nat_ports)))
            )
    rules.append(Rule((*match, e.Counter(), *_source_nat(family, config, None))))
    return Chain(name, tuple(rules))


def _source_nat(family: Family, config: RenderConfig, port_range: tuple[int, int] | None) -> m.Expressions:
    load: list[e.Expression] = []
    low = high = 0
    flags = e.NAT_RANGE_PROTO_RANDOM_FULLY
    if port_range is not None:
        low, high = 2, 3
        flags |= e.NAT_RANGE_PROTO_SPECIFIED
        load += [e.Immediate(port_range[0].to_bytes(2), low), e.Immediate(port_range[1].to_bytes(2), high)]
    if config.nat_address and family.version == 4:
        address = parse_network(config.nat_address).network_address.packed
        return (e.Immediate(address, 1), *load, e.Nat(0, family.number, 1, 1, low, high, flags | e.NAT_RANGE_MAP_IPS))
    return (*load, e.Masquerade(flags, low, high))
