"""Rendered rules do what the rules mean, for random rules and packets."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calico_node.dataplanes.contract import DataplaneRule, IPSetType
from calico_node.dataplanes.nftables.chains import policy_chain
from calico_node.dataplanes.nftables.config import RenderConfig
from calico_node.dataplanes.nftables.layout import IPV4, IPV6, set_name
from calico_node.dataplanes.nftables.members import parse_members
from calico_node.dataplanes.nftables.rules import RenderError, RuleOrigin, log_prefix, render_rule
from calico_node.model import PolicyKey, Port
from tests.unit.nftables.machine import Machine, Packet
from tests.unit.nftables.strategies import NET_SETS, PORT_SETS, matches, packets, rules, version_of

CONFIG = RenderConfig()
FAMILIES = {4: IPV4, 6: IPV6}


def kernel_sets(version: int) -> dict[str, set[bytes]]:
    found = {}
    for kind, source in ((IPSetType.NET, NET_SETS), (IPSetType.IP_AND_PORT, PORT_SETS)):
        for set_id, members in source.items():
            found[set_name(FAMILIES[version], set_id)] = parse_members(kind, members)[version]
    return found


SETS = {version: kernel_sets(version) for version in FAMILIES}


def walk(policy: list[DataplaneRule], packet: Packet) -> tuple[str, int]:
    """The naive verdict of a policy, and how many packets it logs."""
    logged = 0
    for rule in policy:
        if not matches(rule, packet):
            continue
        if rule.action == "log":
            logged += 1
        else:
            return {"allow": "accept", "deny": "drop", "next-tier": "pass"}[rule.action], logged
    return "none", logged


def rendered(policy: list[DataplaneRule], packet: Packet) -> tuple[str, int]:
    version = version_of(packet)
    chain = policy_chain(FAMILIES[version], CONFIG, "policy", policy, RuleOrigin())
    verdict = Machine({"policy": chain}, SETS[version]).run("policy", packet)
    if verdict == "drop":
        return "drop", len(packet.logged)
    accept, passed = packet.mark & CONFIG.marks.accept, packet.mark & CONFIG.marks.passed
    return "accept" if accept else "pass" if passed else "none", len(packet.logged)


@settings(max_examples=600, deadline=None)
@given(st.lists(rules(), min_size=1, max_size=4), st.lists(packets(), min_size=1, max_size=8))
@example(
    [
        DataplaneRule("log", protocol="tcp", src_ports=(Port(80, 80),), src_named_port_ip_set_ids=("n:web",)),
        DataplaneRule("allow", protocol="tcp", src_ports=(Port(443, 443),), src_named_port_ip_set_ids=("n:dns",)),
    ],
    [Packet("10.0.0.1", "10.1.0.1", 6, 80, 82)],
)
@example(
    [
        DataplaneRule(
            "deny",
            protocol="tcp",
            src_named_port_ip_set_ids=("n:web", "n:dns"),
            dst_ports=(Port(53, 80),),
            dst_named_port_ip_set_ids=("n:dns",),
        ),
    ],
    [Packet("10.1.0.1", "10.1.0.1", 6, 82, 82), Packet("10.1.0.1", "10.1.0.1", 6, 81, 82)],
)
@example(
    [DataplaneRule("allow", protocol="icmp", not_icmp_type=8, not_icmp_code=0)],
    [Packet("10.0.0.1", "10.1.0.1", 1, icmp_type=8, icmp_code=1)],
)
def test_rendered_rules_decide_as_the_rules_say(policy, some_packets):
    for packet in some_packets:
        assert rendered(policy, packet) == walk(policy, packet), packet


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (DataplaneRule("allow", dst_ports=(Port(80, 80),)), "ports need protocol"),
        (DataplaneRule("allow", protocol="icmp", dst_ports=(Port(80, 80),)), "ports need protocol"),
        (DataplaneRule("allow", protocol="tcp", dst_ports=(Port(name="http"),)), "'http' is no port"),
        (DataplaneRule("allow", protocol="tcp", dst_ports=(Port(90, 80),)), "'90:80' is no port"),
        (DataplaneRule("allow", protocol="nonsense"), "unknown protocol 'nonsense'"),
        (DataplaneRule("allow", protocol=256), "protocol 256"),
        (DataplaneRule("allow", protocol="tcp", icmp_type=8), "ICMP type needs protocol icmp"),
        (DataplaneRule("allow", icmp_code=8), "without a type"),
        (DataplaneRule("allow", protocol="icmp", icmp_type=255), "out of range"),
        (DataplaneRule("allow", src_nets=("nonsense",)), "'nonsense' is not a valid CIDR"),
        (DataplaneRule("explode"), "unknown action 'explode'"),
    ],
)
def test_impossible_rules_are_refused_with_a_reason(rule, reason):
    with pytest.raises(RenderError, match=reason):
        render_rule(IPV4, CONFIG, rule, RuleOrigin())


def test_a_rule_that_cannot_match_in_a_family_has_no_kernel_rule_there():
    for rule in (
        DataplaneRule("allow", src_nets=("fd00::/8",)),
        DataplaneRule("allow", protocol="icmpv6"),
        DataplaneRule("allow", ip_version=6),
        DataplaneRule("deny", not_dst_nets=("0.0.0.0/0",)),
    ):
        assert render_rule(IPV4, CONFIG, rule, RuleOrigin()) == []


def test_log_prefix_specifiers():
    origin = RuleOrigin("security", PolicyKey("NetworkPolicy", "shop", "web"))
    assert log_prefix("%t %k %p %n 100%", origin) == "security NetworkPolicy shop/web web 100%: "
    assert log_prefix("plain", RuleOrigin(profile="kns.x")) == "plain: "
    assert len(log_prefix("x" * 300, origin)) == 127
