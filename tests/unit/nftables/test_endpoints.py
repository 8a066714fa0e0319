"""The walk of one endpoint: tiers, pass, default actions, profiles, states, interfaces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.dataplanes.contract import (
    ActivePolicyUpdate,
    ActiveProfileUpdate,
    ConfigUpdate,
    DataplaneRule,
    TierInfo,
    WorkloadEndpointID,
    WorkloadEndpointUpdate,
)
from calico_node.dataplanes.nftables import expressions as e
from calico_node.dataplanes.nftables.config import RenderConfig
from calico_node.dataplanes.nftables.desired import Desired
from calico_node.dataplanes.nftables.layout import IPV4, IPV6
from calico_node.model import PolicyKey
from tests.unit.nftables.machine import Machine, Packet

POLICIES = ("p0", "p1", "p2", "p3")
RULES = {
    "allow-tcp": DataplaneRule("allow", protocol="tcp"),
    "deny-tcp": DataplaneRule("deny", protocol="tcp"),
    "pass-tcp": DataplaneRule("next-tier", protocol="tcp"),
    "allow": DataplaneRule("allow"),
    "deny": DataplaneRule("deny"),
    "pass": DataplaneRule("next-tier"),
}
VERDICTS = {"allow": "accept", "deny": "drop", "next-tier": "pass"}


def key(name: str) -> PolicyKey:
    return PolicyKey("NetworkPolicy", "default", name)


def workload(name: str, **fields: object) -> WorkloadEndpointUpdate:
    return WorkloadEndpointUpdate(WorkloadEndpointID("k8s", f"default/{name}", "eth0"), f"cali{name}", **fields)


def machine(desired: Desired, version: int = 4) -> Machine:
    desired.refresh()
    table = desired.tables[version]
    made = Machine(table.chains, {name: content.keys for name, content in table.sets.items()})
    made.maps = table.maps
    return made


def fresh(*messages) -> Desired:
    desired = Desired(RenderConfig(), (IPV4, IPV6))
    for message in messages:
        desired.feed(message)
    return desired


def verdict_of(rules: tuple[DataplaneRule, ...], tcp: bool) -> str:
    for rule in rules:
        if tcp or rule.protocol is None:
            return VERDICTS[rule.action]
    return "none"


def walk(tiers, policies, profiles, names, tcp: bool, *, egress: bool = False) -> str:
    """The reference walk for one direction."""
    for tier in tiers:
        applied = tier.egress_policies if egress else tier.ingress_policies
        if not applied:
            continue
        for policy in applied:
            verdict = verdict_of(policies[policy.name], tcp)
            if verdict in ("accept", "drop"):
                return verdict
            if verdict == "pass":
                break
        else:
            if tier.default_action != "Pass":
                return "drop"
    for name in names:
        verdict = verdict_of(profiles[name], tcp) if name in profiles else "drop"
        if verdict in ("accept", "drop"):
            return verdict
    return "drop"


_rule_lists = st.lists(st.sampled_from(sorted(RULES)), max_size=2).map(lambda names: tuple(RULES[n] for n in names))
_tier = st.builds(
    lambda action, ingress, egress: TierInfo("t", action, tuple(map(key, ingress)), tuple(map(key, egress))),
    st.sampled_from(("Deny", "Pass", "")),
    st.lists(st.sampled_from(POLICIES), max_size=3, unique=True),
    st.lists(st.sampled_from(POLICIES), max_size=3, unique=True),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(_tier, max_size=3),
    st.fixed_dictionaries(dict.fromkeys(POLICIES, _rule_lists)),
    st.dictionaries(st.sampled_from(("kns", "ksa")), _rule_lists),
    st.lists(st.sampled_from(("kns", "ksa")), max_size=2, unique=True),
    st.booleans(),
)
def test_random_tiers_policies_and_profiles(tiers, policies, profiles, names, tcp):
    desired = fresh(
        *(ActivePolicyUpdate(key(name), "t", rules, rules) for name, rules in policies.items()),
        *(ActiveProfileUpdate(name, rules, rules) for name, rules in profiles.items()),
        workload("a", tiers=tuple(tiers), profile_ids=tuple(names)),
    )
    runner = machine(desired)
    packet = Packet("10.0.0.1", "10.0.0.2", 6 if tcp else 17, out_interface="calia")
    expected = walk(tiers, policies, profiles, names, tcp)
    assert runner.run("filter-FORWARD", packet) == expected
    packet = Packet("10.0.0.1", "10.0.0.2", 6 if tcp else 17, in_interface="calia")
    expected = walk(tiers, policies, profiles, names, tcp, egress=True)
    assert runner.run("filter-FORWARD", packet) == expected
    assert (
        runner.run("filter-INPUT", Packet("10.0.0.1", "10.0.0.2", 6 if tcp else 17, in_interface="calia")) == "drop"
    )
    desired.feed(ConfigUpdate({"DefaultEndpointToHostAction": "Accept"}))
    packet = Packet("10.0.0.1", "10.0.0.2", 6 if tcp else 17, in_interface="calia")
    assert machine(desired).run("filter-INPUT", packet) == expected


ALLOWED = ActiveProfileUpdate("kns", (DataplaneRule("allow"),), (DataplaneRule("allow"),))


@pytest.mark.parametrize("version", [4, 6])
def test_interfaces_connection_states_and_what_is_not_ours(version):
    runner = machine(fresh(ALLOWED, workload("a", profile_ids=("kns",)), workload("b")), version)
    addresses = ("10.0.0.1", "10.0.0.2") if version == 4 else ("fd00::1", "fd00::2")

    def forwarded(**fields) -> str:
        return runner.run("filter-FORWARD", Packet(*addresses, 6, **fields))

    assert forwarded(in_interface="eth0", out_interface="eth1") == "return", "no workload takes part"
    assert forwarded(in_interface="calia", out_interface="eth1") == "accept"
    assert forwarded(in_interface="calia", out_interface="calib") == "drop", "b has no profile"
    assert forwarded(in_interface="calix", out_interface="eth1") == "drop", "unknown"
    assert forwarded(in_interface="eth0", out_interface="calix") == "drop", "unknown"
    assert forwarded(in_interface="eth0", out_interface="calib", ct_state=e.CT_STATE_ESTABLISHED) == "accept"
    assert forwarded(in_interface="eth0", out_interface="calib", ct_state=e.CT_STATE_RELATED) == "accept"
    assert forwarded(in_interface="eth0", out_interface="calia", ct_state=e.CT_STATE_INVALID) == "drop"
    assert forwarded(in_interface="calia", out_interface="eth0", mark=0xFFFF0000) == "accept"
    assert forwarded(in_interface="eth0", out_interface="calib", mark=0xFFFF0000) == "drop", "marks are not trusted"


def test_neighbour_discovery_of_workloads_is_let_in():
    runner = machine(fresh(workload("a")), 6)
    assert (
        runner.run("filter-INPUT", Packet("fe80::1", "ff02::1", 58, icmp_type=135, in_interface="calia")) == "accept"
    )
    assert runner.run("filter-INPUT", Packet("fe80::1", "fe80::2", 58, icmp_type=128, in_interface="calia")) == "drop"


def test_sources_are_checked_by_route_and_exceptions():
    runner = machine(fresh(workload("a", allow_spoofed_source_prefixes=("10.9.0.0/16", "fd00::/8")), workload("b")))

    def arrives(source: str, interface: str, **fields) -> str:
        return runner.run("raw-PREROUTING", Packet(source, "10.0.0.2", 6, in_interface=interface, **fields))

    assert arrives("10.0.0.1", "calia") == "return"
    assert arrives("10.0.0.1", "calia", reverse_path=False) == "drop"
    assert arrives("10.9.0.1", "calia", reverse_path=False) == "return"
    assert arrives("10.9.0.1", "calib", reverse_path=False) == "drop"
    assert arrives("10.0.0.1", "eth0", reverse_path=False) == "return"


def test_unknown_policies_and_sets_close():
    tiers = (TierInfo("default", ingress_policies=(key("p0"), key("p1"))),)
    desired = fresh(ALLOWED, workload("a", tiers=tiers, profile_ids=("kns",)))
    packet = {"out_interface": "calia", "source": "10.0.0.1", "destination": "10.0.0.2", "protocol": 6}
    assert machine(desired).run("filter-FORWARD", Packet(**packet)) == "drop"
    desired.feed(ActivePolicyUpdate(key("p0"), "default"))
    assert machine(desired).run("filter-FORWARD", Packet(**packet)) == "drop", "p1 is not known"
    desired.feed(ActivePolicyUpdate(key("p1"), "default", (DataplaneRule("allow", not_src_ip_set_ids=("s:x",)),)))
    assert machine(desired).run("filter-FORWARD", Packet(**packet)) == "drop", "the set is not known"
    assert "IP set s:x is not known" in desired.errors[key("p1")]


def test_a_source_prefix_that_is_none_is_named_and_lets_nothing_through():
    desired = fresh(workload("a", allow_spoofed_source_prefixes=("10.9.0.0/16", "nonsense")))
    runner = machine(desired)
    packet = Packet("10.9.0.1", "10.0.0.2", 6, in_interface="calia", reverse_path=False)
    assert runner.run("raw-PREROUTING", packet) == "drop"
    (reason,) = desired.errors.values()
    assert "allowed source prefix: 'nonsense'" in reason
