"""What applies to an endpoint, as a user of Calico expects it."""

from __future__ import annotations

from typing import Any

import pytest

from calico_node.dataplanes.contract import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    InSync,
    IPSetDeltaUpdate,
    IPSetRemove,
    IPSetUpdate,
    Message,
    WorkloadEndpointID,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_node.dataplanes.recorder.plugin import State
from calico_node.model import (
    AllocationAttribute,
    AllocationBlock,
    BlockKey,
    EndpointPort,
    GlobalConfigKey,
    HostEndpoint,
    HostEndpointKey,
    IPPool,
    IPPoolKey,
    Key,
    NetworkSet,
    NetworkSetKey,
    Policy,
    PolicyKey,
    Port,
    ProfileLabelsKey,
    ProfileRules,
    ProfileRulesKey,
    ResourceKey,
    Rule,
    SyncStatus,
    Tier,
    TierKey,
    Update,
    WorkloadEndpoint,
    WorkloadEndpointKey,
)
from calico_node.plugins.felix.calc import CalcGraph
from calico_node.resources import from_dict
from tests.unit.felix import oracle

POD = WorkloadEndpointKey("node1", "k8s", "default/web", "eth0")
REMOTE = WorkloadEndpointKey("node2", "k8s", "default/client", "eth0")
HOST = HostEndpointKey("node1", "eth0")


def web(**changes: Any) -> WorkloadEndpoint:
    fields: dict[str, Any] = {
        "name": "cali1",
        "ipv4_nets": ("10.0.0.1/32",),
        "labels": {"app": "web"},
        "profile_ids": ("kns.default",),
    }
    return WorkloadEndpoint(**(fields | changes))


def client(**changes: Any) -> WorkloadEndpoint:
    return web(**({"name": "cali9", "ipv4_nets": ("10.0.0.9/32",), "labels": {"app": "client"}} | changes))


def gnp(name: str) -> PolicyKey:
    return PolicyKey("GlobalNetworkPolicy", "", name)


class Felix:
    """A graph whose output is summed up."""

    def __init__(self, **environ: str) -> None:
        self.graph = CalcGraph("node1", environ=environ)
        self.graph.set_status(SyncStatus.IN_SYNC)
        self.state = State()
        self.last: tuple[Message, ...] = ()

    def put(self, contents: dict[Key, Any]) -> tuple[Message, ...]:
        self.graph.feed(Update(key, value) for key, value in contents.items())
        while self.graph.step(10):
            pass
        self.last = self.graph.flush()
        for message in self.last:
            oracle.check_references(self.state, message)
            self.state.feed(message)
        return self.last

    @property
    def pod(self) -> WorkloadEndpointUpdate:
        return self.state.workload_endpoints[WorkloadEndpointID("k8s", "default/web", "eth0")]


def test_listed_profile_that_does_not_exist_denies() -> None:
    felix = Felix()
    felix.put({POD: web()})
    profile = felix.state.profiles["kns.default"]
    assert [rule.action for rule in profile.inbound_rules + profile.outbound_rules] == ["deny", "deny"]
    felix.put({ProfileRulesKey("kns.default"): ProfileRules((Rule("allow"),), (Rule("allow"),))})
    assert felix.state.profiles["kns.default"].inbound_rules[0].action == "allow"
    felix.put({ProfileRulesKey("kns.default"): None})
    assert felix.state.profiles["kns.default"].inbound_rules[0].action == "deny"


def test_egress_policy_leaves_ingress_to_others() -> None:
    felix = Felix()
    felix.put({POD: web(), TierKey("default"): Tier(), gnp("out"): Policy(selector="all()", types=("egress",))})
    (tier,) = felix.pod.tiers
    assert tier.ingress_policies == ()
    assert tier.egress_policies == (gnp("out"),)


def test_tiers_and_policies_in_order() -> None:
    felix = Felix()
    contents: dict[Key, Any] = {
        POD: web(),
        TierKey("default"): Tier(1_000_000.0),
        TierKey("security"): Tier(100.0, "Pass"),
        TierKey("last"): Tier(None),
        gnp("b"): Policy(tier="security", order=1.0),
        gnp("a"): Policy(tier="security", order=1.0),
        gnp("first"): Policy(tier="security", order=-5.0),
        gnp("unordered"): Policy(tier="security"),
        gnp("plain"): Policy(),
        gnp("end"): Policy(tier="last"),
        gnp("nowhere"): Policy(tier="missing", order=0.0),
    }
    felix.put(contents)
    assert [(tier.name, tier.default_action) for tier in felix.pod.tiers] == [
        ("security", "Pass"),
        ("default", "Deny"),
        ("last", "Deny"),
        ("missing", "Deny"),
    ]
    assert felix.pod.tiers[0].ingress_policies == (gnp("first"), gnp("a"), gnp("b"), gnp("unordered"))
    felix.put({TierKey("security"): Tier(2_000_000.0)})
    assert [tier.name for tier in felix.pod.tiers] == ["default", "security", "last", "missing"]


def test_tier_that_exists_goes_before_one_that_does_not() -> None:
    felix = Felix()
    felix.put({POD: web(), TierKey("z"): Tier(None), gnp("p"): Policy(tier="a"), gnp("q"): Policy(tier="z")})
    assert [tier.name for tier in felix.pod.tiers] == ["z", "a"]


def test_changed_order_and_types_reach_the_endpoint() -> None:
    felix = Felix()
    felix.put({POD: web(), gnp("a"): Policy(order=1.0), gnp("b"): Policy(order=2.0)})
    felix.put({gnp("a"): Policy(order=3.0)})
    assert felix.pod.tiers[0].ingress_policies == (gnp("b"), gnp("a"))
    felix.put({gnp("a"): Policy(order=3.0, types=("egress",))})
    assert list(felix.pod.tiers[0].ingress_policies) == [gnp("b")]
    felix.put({gnp("a"): Policy(order=3.0, tier="x")})
    assert [tier.name for tier in felix.pod.tiers] == ["default", "x"]


def test_set_that_goes_and_comes_within_a_batch_stays() -> None:
    felix = Felix()
    rule = Rule("allow", src_selector="app == 'client'")
    felix.put({POD: web(), REMOTE: client(), gnp("p"): Policy(inbound_rules=(rule,))})
    sets = felix.state.ip_sets
    felix.graph.feed([Update(gnp("p"), None)])
    while felix.graph.step(10):
        pass
    felix.put({gnp("p"): Policy(inbound_rules=(rule,))})
    assert felix.state.ip_sets == sets
    assert felix.state.policies


def test_staged_policies_are_not_enforced() -> None:
    felix = Felix()
    felix.put({POD: web(), PolicyKey("StagedGlobalNetworkPolicy", "", "s"): Policy(staged_action="Set")})
    assert felix.pod.tiers == ()
    assert not felix.state.policies


def test_policy_that_selects_nothing_here_costs_nothing() -> None:
    felix = Felix()
    rule = Rule("allow", src_selector="app == 'client'")
    felix.put({POD: web(), REMOTE: client(), gnp("p"): Policy(selector="app == 'db'", inbound_rules=(rule,))})
    assert not felix.state.policies
    assert not felix.state.ip_sets
    felix.put({gnp("p"): Policy(selector="app == 'web'", inbound_rules=(rule,))})
    assert felix.state.policies
    assert felix.state.ip_sets
    felix.put({POD: web(labels={"app": "other"})})
    assert not felix.state.policies
    assert not felix.state.ip_sets


def test_performance_hint_programs_a_policy_ahead() -> None:
    felix = Felix()
    hinted = Policy(selector="app == 'later'", performance_hints=("AssumeNeededOnEveryNode",))
    felix.put({gnp("p"): hinted})
    assert felix.state.policies
    felix.put({POD: web(labels={"app": "later"})})
    felix.put({POD: None})
    assert felix.state.policies
    felix.put({gnp("p"): Policy(selector="app == 'later'")})
    assert not felix.state.policies


def test_only_differences_go_out() -> None:
    felix = Felix()
    rule = Rule("allow", src_selector="app == 'client'")
    felix.put({POD: web(), REMOTE: client(), gnp("p"): Policy(selector="app == 'web'", inbound_rules=(rule,))})
    assert felix.put({REMOTE: client()}) == ()
    other = WorkloadEndpointKey("node2", "k8s", "default/client2", "eth0")
    (delta,) = felix.put({other: client(ipv4_nets=("10.0.0.8/32",))})
    assert isinstance(delta, IPSetDeltaUpdate)
    assert delta.added == {"10.0.0.8/32"}
    assert not delta.removed
    assert felix.put({other: client(ipv4_nets=("10.0.0.9/32",))})[0] == IPSetDeltaUpdate(
        delta.id, frozenset(), frozenset({"10.0.0.8/32"})
    )
    assert felix.put({REMOTE: None}) == (), "another endpoint still has the address"


def test_member_that_goes_and_comes_is_not_mentioned() -> None:
    felix = Felix()
    rule = Rule("allow", src_selector="app == 'client'")
    felix.put({POD: web(), REMOTE: client(), gnp("p"): Policy(selector="app == 'web'", inbound_rules=(rule,))})
    felix.graph.feed([Update(REMOTE, None)])
    while felix.graph.step(10):
        pass
    assert felix.put({REMOTE: client()}) == ()


def test_labels_are_inherited_and_follow_the_profile() -> None:
    felix = Felix()
    felix.put({POD: web(), gnp("p"): Policy(selector="pcns.team == 'a'")})
    assert not felix.pod.tiers
    felix.put({ProfileLabelsKey("kns.default"): {"pcns.team": "a"}})
    assert [tier.ingress_policies for tier in felix.pod.tiers] == [(gnp("p"),)]
    felix.put({ProfileLabelsKey("kns.default"): None})
    assert felix.pod.tiers == ()


def test_sets_follow_inherited_labels() -> None:
    felix = Felix()
    rule = Rule("allow", src_selector="pcns.team == 'a'")
    felix.put({POD: web(), REMOTE: client(profile_ids=("kns.other",)), gnp("p"): Policy(inbound_rules=(rule,))})
    (only,) = felix.state.ip_sets.values()
    assert not only.members
    felix.put({ProfileLabelsKey("kns.other"): {"pcns.team": "a"}})
    (only,) = felix.state.ip_sets.values()
    assert only.members == {"10.0.0.9/32"}


def test_changed_rules_of_an_active_policy_go_out() -> None:
    felix = Felix()
    felix.put({POD: web(), gnp("p"): Policy(inbound_rules=(Rule("allow"),))})
    (message,) = felix.put({gnp("p"): Policy(inbound_rules=(Rule("deny"),))})
    assert isinstance(message, ActivePolicyUpdate)
    assert message.inbound_rules[0].action == "deny"


def test_named_ports_replace_the_selector_set() -> None:
    felix = Felix()
    rule = Rule("allow", protocol="tcp", dst_selector="app == 'web'", dst_ports=(Port(name="http"),))
    felix.put(
        {
            POD: web(ports=(EndpointPort("http", "tcp", 8080), EndpointPort("http", "udp", 1))),
            gnp("p"): Policy(outbound_rules=(rule,)),
        }
    )
    (compiled,) = felix.state.policies[gnp("p")].outbound_rules
    assert compiled.dst_ip_set_ids == ()
    assert felix.state.ip_sets[compiled.dst_named_port_ip_set_ids[0]].members == {"10.0.0.1,tcp:8080"}


def test_a_port_of_a_protocol_without_ports_breaks_nothing() -> None:
    """What one endpoint says of itself must not spoil a set that all policies use."""
    felix = Felix()
    rule = Rule("allow", dst_ports=(Port(name="http"),))
    ports = (EndpointPort("http", "tcp", 80), EndpointPort("http", "6", 81), EndpointPort("http", "icmp", 82))
    felix.put({POD: web(ports=ports), gnp("p"): Policy(outbound_rules=(rule,))})
    (compiled,) = felix.state.policies[gnp("p")].outbound_rules
    assert felix.state.ip_sets[compiled.dst_named_port_ip_set_ids[0]].members == {"10.0.0.1,tcp:80"}


def test_covered_prefixes_stay_out_of_the_kernel() -> None:
    felix = Felix()
    rule = Rule("allow", src_selector="has(net)")
    broad, narrow = NetworkSetKey("broad"), NetworkSetKey("narrow")
    felix.put({POD: web(), gnp("p"): Policy(inbound_rules=(rule,))})
    felix.put({narrow: NetworkSet(("10.1.0.0/16", "192.168.0.1"), {"net": ""})})
    (only,) = felix.state.ip_sets.values()
    assert only.members == {"10.1.0.0/16", "192.168.0.1/32"}
    felix.put({broad: NetworkSet(("10.0.0.0/8", "0.0.0.0/0"), {"net": ""})})
    (only,) = felix.state.ip_sets.values()
    assert only.members == {"0.0.0.0/0"}
    felix.put({broad: None})
    (only,) = felix.state.ip_sets.values()
    assert only.members == {"10.1.0.0/16", "192.168.0.1/32"}


def test_broken_rule_denies_and_is_reported() -> None:
    felix = Felix()
    policy = Policy(inbound_rules=(Rule("allow", src_selector="app = 'x'"), Rule("allow")))
    felix.put({POD: web(), gnp("p"): policy})
    assert [rule.action for rule in felix.state.policies[gnp("p")].inbound_rules] == ["deny", "allow"]
    assert "position" in felix.graph.faults["GlobalNetworkPolicy(p)"]
    felix.put({gnp("p"): Policy()})
    assert not felix.graph.faults


def test_service_match_never_opens() -> None:
    felix = Felix()
    rules = tuple(
        Rule(action, dst_service="kubernetes", dst_service_namespace="default") for action in ("allow", "deny")
    )
    felix.put({POD: web(), gnp("p"): Policy(outbound_rules=rules)})
    allow, deny = felix.state.policies[gnp("p")].outbound_rules
    assert felix.state.ip_sets[allow.dst_ip_port_set_ids[0]].members == frozenset()
    assert (deny.action, deny.dst_ip_port_set_ids) == ("deny", ())
    assert "service" in felix.graph.faults["GlobalNetworkPolicy(p)"]


@pytest.mark.parametrize(
    "endpoint",
    [web(name=""), web(name="a/b"), web(ipv4_nets=("nonsense",)), web(allow_spoofed_source_prefixes=("8.8.8.8/32",))],
)
def test_endpoint_that_must_not_exist(endpoint: WorkloadEndpoint) -> None:
    felix = Felix()
    felix.put({POD: web()})
    felix.put({POD: endpoint})
    assert not felix.state.workload_endpoints
    assert "WorkloadEndpoint(default/web/eth0 on node1)" in felix.graph.faults
    felix.put({POD: None})
    assert not felix.graph.faults


def test_spoofing_endpoint_appears_when_it_is_allowed() -> None:
    felix = Felix()
    felix.put({POD: web(allow_spoofed_source_prefixes=("8.8.8.8/32",))})
    felix.put({GlobalConfigKey("WorkloadSourceSpoofing"): "Any"})
    assert felix.pod.allow_spoofed_source_prefixes == ("8.8.8.8/32",)
    felix.put({GlobalConfigKey("WorkloadSourceSpoofing"): None})
    assert not felix.state.workload_endpoints


def test_host_endpoint_planes() -> None:
    felix = Felix()
    felix.put(
        {
            HOST: HostEndpoint("eth0"),
            gnp("normal"): Policy(),
            gnp("forward"): Policy(apply_on_forward=True),
            gnp("raw"): Policy(untracked=True, apply_on_forward=True),
            gnp("nat"): Policy(pre_dnat=True, apply_on_forward=True),
            POD: web(),
        }
    )
    host = felix.state.host_endpoints["eth0"]
    assert host.tiers[0].ingress_policies == (gnp("forward"), gnp("normal"))
    assert host.forward_tiers[0].ingress_policies == (gnp("forward"),)
    assert host.untracked_tiers[0].egress_policies == (gnp("raw"),)
    assert host.pre_dnat_tiers[0].ingress_policies == (gnp("nat"),)
    assert host.pre_dnat_tiers[0].egress_policies == ()
    assert felix.pod.tiers[0].ingress_policies == (gnp("forward"), gnp("normal"))


def test_order_within_a_batch() -> None:
    felix = Felix()
    rule = Rule("allow", src_selector="app == 'client'")
    profile = ProfileRules((Rule("allow"),), (Rule("allow"),))
    contents: dict[Key, Any] = {
        POD: web(),
        REMOTE: client(),
        ProfileRulesKey("kns.default"): profile,
        gnp("p"): Policy(inbound_rules=(rule,)),
    }
    kinds = [type(message) for message in felix.put(contents)]
    assert kinds[1:] == [IPSetUpdate, ActivePolicyUpdate, ActiveProfileUpdate, WorkloadEndpointUpdate, InSync]
    kinds = [type(message) for message in felix.put(dict.fromkeys(contents))]
    assert kinds == [WorkloadEndpointRemove, ActiveProfileRemove, ActivePolicyRemove, IPSetRemove]


def test_blocks_and_pools() -> None:
    felix = Felix()
    node = {"apiVersion": "projectcalico.org/v3", "kind": "Node"}
    ours = from_dict(node | {"metadata": {"name": "node1"}, "spec": {"bgp": {"ipv4Address": "172.30.0.1/24"}}})
    peer = from_dict(node | {"metadata": {"name": "node2"}, "spec": {"bgp": {"ipv4Address": "172.30.0.2/24"}}})
    borrowed = AllocationBlock(
        "10.0.2.0/26", "host:node1", (None, 0) + (None,) * 62, (AllocationAttribute("h", {"node": "node2"}),)
    )
    felix.put(
        {
            ResourceKey("Node", "", "node1"): ours,
            ResourceKey("Node", "", "node2"): peer,
            IPPoolKey("10.0.0.0/16"): IPPool("10.0.0.0/16", vxlan_mode="cross-subnet"),
            BlockKey("10.0.1.0/26"): AllocationBlock("10.0.1.0/26", "host:node2"),
            BlockKey("10.0.2.0/26"): borrowed,
        }
    )
    routes = felix.graph.take_routes().routes
    gateways = {dst: route.gateway for dst, route in routes.items() if route is not None}
    assert gateways == {"10.0.1.0/26": "172.30.0.2", "10.0.2.0/26": "", "10.0.2.1/32": "172.30.0.2"}
    assert felix.state.local_blocks == {"10.0.2.0/26"}
    assert felix.state.hosts["node2"].ipv4_addr == "172.30.0.2/24"

    felix.put({IPPoolKey("10.0.0.0/16"): IPPool("10.0.0.0/16")})
    assert set(felix.graph.take_routes().routes.values()) == {None}, "the BGP speaker has the pools without a tunnel"
    felix.put({IPPoolKey("10.0.0.0/16"): IPPool("10.0.0.0/16", ipip_mode="always")})
    assert [route and route.gateway for route in felix.graph.take_routes().routes.values()] == [""]
    (reason,) = felix.graph.unreachable
    assert "10.0.0.0/16" in reason
    assert "node2" in reason
    assert "Always" in reason


def test_one_bad_object_does_not_stop_the_others() -> None:
    felix = Felix()
    broken: Any = object()
    felix.put({POD: web(), gnp("bad"): broken, BlockKey("nonsense"): AllocationBlock("nonsense", "host:node1")})
    assert felix.pod
    assert not felix.state.local_blocks
    assert set(felix.graph.faults) == {"GlobalNetworkPolicy(bad)", "IPAMBlock(nonsense)"}
