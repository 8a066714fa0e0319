"""What policy does to real packets between pods, node and outside."""

from __future__ import annotations

import asyncio

import pytest

from calico_node.dataplanes.contract import (
    ActiveProfileUpdate,
    ConfigUpdate,
    DataplaneRule,
    IPPoolUpdate,
    IPSetDeltaUpdate,
    IPSetType,
    IPSetUpdate,
    ObjectState,
    TierInfo,
    WorkloadEndpointRemove,
)
from calico_node.model import Port
from tests.kernel.nftables.conftest import endpoint, ingress, key, policy
from tests.kernel.nftables.world import Place, World, ping, run, tcp, tcp_stream, udp, udp_source

A, B, C = "10.65.0.1", "10.65.0.2", "10.65.0.3"


@pytest.fixture
def a(world: World) -> Place:
    return world.pod("a", A)


@pytest.fixture
def b(world: World) -> Place:
    pod = world.pod("b", B)
    pod.listen(80, 81, 8080)
    return pod


@pytest.fixture
def c(world: World) -> Place:
    return world.pod("c", C)


def test_unknown_workload_interfaces_are_closed_from_the_first_moment(world, a, b, driver):
    assert not tcp(a, B, 80)
    assert not ping(a, world.node)
    assert not ping(a, b)
    driver.sync(endpoint("a"))
    assert not tcp(a, B, 80), "b is still unknown"
    driver.apply(endpoint("b"))
    assert tcp(a, B, 80)
    driver.apply(WorkloadEndpointRemove(endpoint("b").id))
    assert not tcp(a, B, 80)


def test_profiles_decide_where_no_policy_selects(a, b, driver):
    driver.sync(endpoint("a"), endpoint("b"))
    assert tcp(a, B, 80)
    driver.apply(endpoint("b", profiles=()))
    assert not tcp(a, B, 80), "no profile, no policy: closed"
    driver.apply(endpoint("b", profiles=("missing",)))
    assert not tcp(a, B, 80), "a missing profile allows nothing"
    driver.apply(ActiveProfileUpdate("missing", (DataplaneRule("allow", protocol="tcp"),)))
    assert tcp(a, B, 80)
    assert not ping(a, b)


def test_rules_ports_and_default_deny_of_the_tier(a, b, driver):
    driver.sync(
        endpoint("a"),
        policy(
            "web",
            DataplaneRule("deny", protocol="tcp", dst_ports=(Port(81, 81),)),
            DataplaneRule("allow", protocol="tcp", dst_ports=(Port(80, 81),)),
        ),
        endpoint("b", ingress("web")),
    )
    assert tcp(a, B, 80)
    assert not tcp(a, B, 81), "the deny comes first"
    assert not tcp(a, B, 8080), "nothing allows it"
    assert not ping(a, b)
    assert tcp(b, A, 9999) is False  # nobody listens, but egress is open: refused, not dropped
    driver.apply(policy("web", DataplaneRule("allow")))
    assert tcp(a, B, 8080)
    assert ping(a, b)


def test_tiers_pass_and_default_action_pass(a, b, driver):
    tiers = (
        ingress("security", tier="security"),
        ingress("platform", tier="platform", default_action="Pass"),
        ingress("app", tier="default"),
    )
    driver.sync(
        endpoint("a"),
        policy(
            "security",
            DataplaneRule("next-tier", protocol="tcp", dst_ports=(Port(80, 80), Port(81, 81))),
            DataplaneRule("allow", protocol="icmp"),
        ),
        policy("platform", DataplaneRule("deny", protocol="tcp", dst_ports=(Port(81, 81),))),
        policy("app", DataplaneRule("next-tier", protocol="tcp", dst_ports=(Port(80, 80),))),
        endpoint("b", *tiers),
    )
    assert tcp(a, B, 80), "passed by security, past platform by its default, passed by app, allowed by the profile"
    assert not tcp(a, B, 81), "denied by platform"
    assert not tcp(a, B, 8080), "security neither passed nor allowed it"
    assert ping(a, b)


def test_egress_policy_of_the_source_and_ingress_policy_of_the_target_both_count(a, b, c, driver):
    out = DataplaneRule("allow", dst_nets=(f"{B}/32",))
    driver.sync(
        policy("out", egress=(out,)),
        policy("in", DataplaneRule("allow", src_nets=(f"{A}/32", f"{C}/32"))),
        endpoint("a", TierInfo("default", egress_policies=(key("out"),))),
        endpoint("b", ingress("in")),
        endpoint("c"),
    )
    assert tcp(a, B, 80)
    assert not ping(a, c)
    assert ping(c, b)
    driver.apply(policy("in", DataplaneRule("allow", src_nets=(f"{C}/32",))))
    assert not tcp(a, B, 80)
    assert tcp(c, B, 80)


def test_ip_set_deltas_open_and_close(a, b, c, driver):
    driver.sync(
        IPSetUpdate("s:clients", IPSetType.NET, frozenset({f"{A}/32"})),
        policy("web", DataplaneRule("allow", src_ip_set_ids=("s:clients",))),
        endpoint("a"),
        endpoint("b", ingress("web")),
        endpoint("c"),
    )
    assert tcp(a, B, 80)
    assert not tcp(c, B, 80)
    driver.apply(IPSetDeltaUpdate("s:clients", frozenset({f"{C}/32"}), frozenset({f"{A}/32"})))
    assert not tcp(a, B, 80)
    assert tcp(c, B, 80)
    driver.apply(IPSetDeltaUpdate("s:clients", frozenset({"10.65.0.0/24"}), frozenset({f"{C}/32"})))
    assert tcp(a, B, 80)
    driver.apply(IPSetDeltaUpdate("s:clients", frozenset({f"{C}/32"}), frozenset({"10.65.0.0/24"})))
    assert not tcp(a, B, 80)
    driver.apply(policy("web", DataplaneRule("allow", not_src_ip_set_ids=("s:clients",))))
    assert tcp(a, B, 80)
    assert not tcp(c, B, 80)


def test_named_ports_beside_numeric_ones(a, b, driver):
    rule = DataplaneRule(
        "allow", protocol="tcp", dst_ports=(Port(80, 80),), dst_named_port_ip_set_ids=("n:http", "n:other")
    )
    driver.sync(
        IPSetUpdate("n:http", IPSetType.IP_AND_PORT, frozenset({f"{B},tcp:8080"})),
        IPSetUpdate("n:other", IPSetType.IP_AND_PORT, frozenset({f"{B},udp:81"})),
        policy("web", rule),
        endpoint("a"),
        endpoint("b", ingress("web")),
    )
    assert tcp(a, B, 80)
    assert tcp(a, B, 8080)
    assert not tcp(a, B, 81), "81 is udp in the set"
    driver.apply(policy("web", DataplaneRule("allow", protocol="tcp", not_dst_named_port_ip_set_ids=("n:http",))))
    assert tcp(a, B, 80)
    assert not tcp(a, B, 8080)
    driver.apply(policy("web", DataplaneRule("allow", dst_ip_port_set_ids=("n:http",))))
    assert not tcp(a, B, 80)
    assert tcp(a, B, 8080)


def test_source_ports_and_negations(a, b, driver):
    driver.sync(
        policy("web", DataplaneRule("allow", protocol="tcp", src_ports=(Port(2000, 2010), Port(3000, 3000)))),
        endpoint("a"),
        endpoint("b", ingress("web")),
    )
    assert tcp(a, B, 80, source_port=2005)
    assert tcp(a, B, 80, source_port=3000)
    assert not tcp(a, B, 80, source_port=3001)
    driver.apply(policy("web", DataplaneRule("allow", not_protocol="icmp", not_src_nets=(f"{C}/32", "10.99.0.0/16"))))
    assert tcp(a, B, 80)
    assert not ping(a, b)
    driver.apply(policy("web", DataplaneRule("allow", not_src_nets=("10.65.0.0/24",))))
    assert not tcp(a, B, 80)
    driver.apply(policy("web", DataplaneRule("allow", protocol="tcp", not_dst_ports=(Port(80, 81),))))
    assert not tcp(a, B, 80)
    assert tcp(a, B, 8080)


def test_icmp_types_and_codes(a, b, driver):
    driver.sync(
        policy("web", DataplaneRule("allow", protocol="icmp", icmp_type=13, icmp_code=5)),
        endpoint("a"),
        endpoint("b", ingress("web")),
    )
    assert ping(a, b, 13, 5)
    assert not ping(a, b, 13, 0)
    assert not ping(a, b, 8, 0)
    rule = DataplaneRule("allow", protocol="icmp", not_icmp_type=13, not_icmp_code=5)
    driver.apply(policy("web", rule))
    assert not ping(a, b, 13, 5)
    assert ping(a, b, 13, 0), "same type, other code: not what was excluded"
    assert ping(a, b, 8, 0)
    driver.apply(policy("web", DataplaneRule("allow", protocol="icmp", not_icmp_type=13)))
    assert not ping(a, b, 13, 0)
    assert ping(a, b, 8, 0)


def test_spoofed_sources_are_dropped_but_for_allowed_prefixes(a, b, driver):
    run(f"ip -n {a.name} addr add 10.99.0.1/32 dev lo")
    run(f"ip -n {a.name} addr add 10.98.0.1/32 dev lo")
    driver.sync(endpoint("a"), endpoint("b"))
    assert udp(a, b, 5000)
    assert not udp(a, b, 5000, claim="10.99.0.1")
    driver.apply(endpoint("a", allow_spoofed_source_prefixes=("10.99.0.0/24", "10.97.0.0/24")))
    assert udp(a, b, 5000, claim="10.99.0.1")
    assert not udp(a, b, 5000, claim="10.98.0.1")
    driver.apply(endpoint("a", allow_spoofed_source_prefixes=("10.98.0.0/24",)))
    assert udp(a, b, 5000, claim="10.98.0.1")
    assert not udp(a, b, 5000, claim="10.99.0.1")
    driver.apply(endpoint("a"))
    assert not udp(a, b, 5000, claim="10.98.0.1")


def test_workload_to_host_asks_policy_then_the_configured_action(world, a, driver):
    world.node.listen(7000)
    driver.sync(endpoint("a"))
    assert not tcp(a, "192.0.2.1", 7000), "Drop by default"
    driver.apply(ConfigUpdate({"DefaultEndpointToHostAction": "Accept"}))
    assert tcp(a, "192.0.2.1", 7000)
    driver.apply(ConfigUpdate({"DefaultEndpointToHostAction": "Return"}))
    assert tcp(a, "192.0.2.1", 7000)
    driver.apply(policy("none"), endpoint("a", TierInfo("default", egress_policies=(key("none"),))))
    assert not tcp(a, "192.0.2.1", 7000), "egress policy first"


def test_host_reaches_its_pods_whatever_their_ingress_policy(world, b, driver):
    driver.sync(policy("none"), endpoint("b", ingress("none")))
    assert tcp(world.node, B, 80)


def test_nat_outgoing_leaves_the_cluster_with_the_nodes_address(world, a, b, driver):
    driver.sync(endpoint("a"), endpoint("b"), IPPoolUpdate("10.65.0.0/16", masquerade=True))
    assert udp_source(a, world.outside, 5000) == "192.0.2.1"
    assert udp_source(a, b, 5000) == A, "inside the pools nothing is translated"
    world.route_back()
    driver.apply(IPPoolUpdate("10.65.0.0/16", masquerade=False))
    assert udp_source(a, world.outside, 5001) == A
    driver.apply(
        IPPoolUpdate("10.65.0.0/16", masquerade=True),
        ConfigUpdate({"NATPortRange": "40000:40010", "NATOutgoingAddress": "192.0.2.1"}),
    )
    assert udp_source(a, world.outside, 5002) == "192.0.2.1"


def test_workloads_may_not_speak_vxlan(a, b, driver):
    driver.sync(endpoint("a"), endpoint("b"))
    assert not udp(a, b, 4789)
    driver.apply(ConfigUpdate({"AllowVXLANPacketsFromWorkloads": "true"}))
    assert udp(a, b, 4789)


def test_established_flows_outlive_the_rule_that_let_them_in(a, b, driver):
    driver.sync(endpoint("a"), endpoint("b"), policy("none"))
    with tcp_stream(a, b, 9000) as works:
        assert works()
        driver.apply(endpoint("b", ingress("none")))
        assert works()
        assert not tcp(a, B, 80)


def test_admin_down_endpoint_drops_even_established(a, b, driver):
    driver.sync(endpoint("a"), endpoint("b"))
    with tcp_stream(a, b, 9000) as works:
        applied = driver.apply(endpoint("a", state="inactive"))
        assert applied.status[endpoint("a").id].state is ObjectState.DOWN
        assert not works()


def test_reject_instead_of_drop(a, b, driver):
    driver.sync(ConfigUpdate({"NftablesFilterDenyAction": "Reject"}), endpoint("a"), endpoint("b", profiles=()))
    assert not tcp(a, B, 80)
    assert driver.world.counters("filter-cali-tw-calib")[-1] >= 1


def test_allow_action_return_still_allows(a, b, driver):
    driver.sync(ConfigUpdate({"NftablesFilterAllowAction": "Return"}), endpoint("a"), endpoint("b"))
    assert tcp(a, B, 80)
    driver.apply(endpoint("b", profiles=()))
    assert not tcp(a, B, 80)


def test_second_interface_prefix(world, driver):
    a = world.pod("x", A)
    driver.sync(ConfigUpdate({"InterfacePrefix": "tap,cali"}), endpoint("x"))
    assert udp(world.node, a, 5000)


def test_rule_for_the_other_ip_version_does_not_apply(a, b, driver):
    driver.sync(
        policy("web", DataplaneRule("allow", ip_version=6), DataplaneRule("allow", src_nets=("fd00::/8",))),
        endpoint("a"),
        endpoint("b", ingress("web")),
    )
    assert not tcp(a, B, 80)
    driver.apply(policy("web", DataplaneRule("allow", src_nets=("fd00::/8", f"{A}/32"))))
    assert tcp(a, B, 80)


def test_log_rules_come_through_nflog_with_prefix_addresses_and_ports(a, b, driver, capsys):
    driver.sync(
        ConfigUpdate({"LogPrefix": "%t|%k|%p|%n"}),
        policy("web", DataplaneRule("log", protocol="tcp"), DataplaneRule("allow")),
        endpoint("a"),
        endpoint("b", ingress("web")),
    )
    driver.runner.run(asyncio.sleep(0))
    assert tcp(a, B, 80)
    assert ping(a, b)
    lines: list[str] = []
    for _ in range(50):
        driver.runner.run(asyncio.sleep(0.1))
        lines += [line for line in capsys.readouterr().out.splitlines() if "NetworkPolicy" in line]
        if lines:
            break
    driver.runner.run(asyncio.sleep(0.2))
    lines += [line for line in capsys.readouterr().out.splitlines() if "NetworkPolicy" in line]
    assert len(lines) == 1, "one packet: the connection's first"
    assert "default|NetworkPolicy|default/web|web" in lines[0]
    for part in (
        "in_interface=calia",
        "out_interface=calib",
        f"source={A}",
        f"destination={B}",
        "destination_port=80",
    ):
        assert part in lines[0]


def test_limited_log_rules_do_not_decide(a, b, driver):
    driver.sync(
        ConfigUpdate({"LogActionRateLimit": "1/hour", "LogActionRateLimitBurst": "1"}),
        policy("web", DataplaneRule("log"), DataplaneRule("allow")),
        endpoint("a"),
        endpoint("b", ingress("web")),
    )
    assert all(tcp(a, B, 80) for _ in range(4))


def test_ipv6_packets_meet_the_same_policy(world, a, b, driver):
    world.ipv6(a, "fd00::a")
    world.ipv6(b, "fd00::b")
    assert not tcp(a, "fd00::b", 80), "closed until known"
    driver.sync(
        IPSetUpdate("s:x", IPSetType.NET, frozenset({"fd00::a/128"})),
        IPSetUpdate("n:x", IPSetType.IP_AND_PORT, frozenset({"fd00::b,tcp:8080"})),
        policy(
            "web",
            DataplaneRule("allow", protocol="tcp", dst_ports=(Port(80, 80),), src_ip_set_ids=("s:x",)),
            DataplaneRule("allow", protocol="tcp", dst_named_port_ip_set_ids=("n:x",)),
        ),
        endpoint("a"),
        endpoint("b", ingress("web")),
    )
    assert tcp(a, "fd00::b", 80)
    assert tcp(a, "fd00::b", 8080)
    assert not tcp(a, "fd00::b", 81)
    assert not tcp(a, B, 80), "the set has no IPv4 members"
    driver.apply(IPSetDeltaUpdate("s:x", removed=frozenset({"fd00::a/128"})))
    assert not tcp(a, "fd00::b", 80)
    run(f"ip -n {a.name} -6 addr add fd00::bad/128 dev eth0 nodad")
    run(f"ip -n {a.name} -6 addr del fd00::a/128 dev eth0")
    driver.apply(endpoint("b"))
    assert not tcp(a, "fd00::b", 80), "spoofed"
