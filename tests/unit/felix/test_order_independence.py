"""Whatever the order, grouping, repetition and detours of the updates, the dataplane ends in the same state, and it
is the state that the contents of the datastore call for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calico_node.dataplanes.recorder.plugin import State
from calico_node.model import (
    EndpointPort,
    HostEndpoint,
    HostEndpointKey,
    NetworkSet,
    NetworkSetKey,
    Policy,
    PolicyKey,
    Port,
    ProfileLabelsKey,
    ProfileRules,
    ProfileRulesKey,
    Rule,
    SyncStatus,
    Tier,
    TierKey,
    Update,
    WorkloadEndpoint,
    WorkloadEndpointKey,
)
from calico_node.plugins.felix.calc import CalcGraph
from calico_node.plugins.felix.calc.ipsets import unique_id
from calico_node.selectors import parse
from tests.unit.felix import oracle

NODE = "node1"
SELECTORS = (
    "all()",
    "a == '1'",
    "a != '1'",
    "has(b)",
    "!has(b)",
    "a in {'1', '2'} && b == '1'",
    "a == '2' || b contains '1'",
    "a not in {'1'} && has(a)",
)
NETS = ("10.0.0.1/32", "10.0.0.2/32", "10.0.0.0/30", "10.0.0.0/24", "0.0.0.0/0", "fd00::1/128", "fd00::/64")
HOSTS = ("10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32")

labels = st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2)
profiles = st.lists(st.sampled_from(("p1", "p2", "p3")), max_size=2, unique=True).map(tuple)
ports = st.lists(
    st.builds(EndpointPort, st.sampled_from(("http", "dns")), st.sampled_from(("tcp", "udp")), st.just(80)),
    max_size=2,
    unique=True,
).map(tuple)
selectors = st.sampled_from(SELECTORS)
some_selectors = st.one_of(st.just(""), selectors)
rules = st.builds(
    Rule,
    st.sampled_from(("allow", "deny", "next-tier")),
    protocol=st.sampled_from(("tcp", "udp")),
    src_selector=some_selectors,
    not_src_selector=some_selectors,
    dst_selector=some_selectors,
    dst_ports=st.sampled_from(((), (Port(80, 80),), (Port(name="http"),), (Port(80, 80), Port(name="dns")))),
)
rule_lists = st.lists(rules, max_size=2).map(tuple)

ENTRIES = st.one_of(
    st.tuples(
        st.builds(
            WorkloadEndpointKey, st.sampled_from((NODE, "node2")), st.just("k8s"), st.sampled_from("xy"), st.just("e")
        ),
        st.builds(
            WorkloadEndpoint,
            name=st.sampled_from(("cali1", "cali2", "")),
            ipv4_nets=st.lists(st.sampled_from(HOSTS), max_size=2, unique=True).map(tuple),
            labels=labels,
            profile_ids=profiles,
            ports=ports,
        ),
    ),
    st.tuples(
        st.builds(HostEndpointKey, st.sampled_from((NODE, "node2")), st.just("eth0")),
        st.builds(
            HostEndpoint,
            name=st.just("eth0"),
            expected_ipv4_addrs=st.just(("10.0.0.9",)),
            labels=labels,
            profile_ids=profiles,
            ports=ports,
        ),
    ),
    st.tuples(
        st.builds(NetworkSetKey, st.sampled_from(("n1", "ns/n2"))),
        st.builds(
            NetworkSet,
            nets=st.lists(st.sampled_from(NETS), max_size=4, unique=True).map(tuple),
            labels=labels,
            profile_ids=profiles,
        ),
    ),
    st.tuples(
        st.builds(
            PolicyKey, st.sampled_from(("NetworkPolicy", "GlobalNetworkPolicy")), st.just(""), st.sampled_from("pq")
        ),
        st.builds(
            Policy,
            tier=st.sampled_from(("default", "t1", "t2")),
            order=st.sampled_from((None, 1.0, 2.0)),
            selector=selectors,
            types=st.sampled_from(((), ("ingress",), ("egress",), ("ingress", "egress"))),
            inbound_rules=rule_lists,
            outbound_rules=rule_lists,
            untracked=st.just(False) | st.booleans(),
            staged_action=st.sampled_from(("", "", "", "Set")),
        ),
    ),
    st.tuples(
        st.builds(TierKey, st.sampled_from(("default", "t1", "t2"))),
        st.builds(Tier, st.sampled_from((None, 1.0, 2.0)), st.sampled_from(("Deny", "Pass"))),
    ),
    st.tuples(
        st.builds(ProfileRulesKey, st.sampled_from(("p1", "p2"))), st.builds(ProfileRules, rule_lists, rule_lists)
    ),
    st.tuples(st.builds(ProfileLabelsKey, st.sampled_from(("p1", "p2"))), labels),
)
UPDATES = st.lists(st.tuples(ENTRIES, st.sampled_from((True, True, True, False))), max_size=25)


def run(updates: Sequence[Update], cuts: Sequence[int], sync_at: int, slice_size: int) -> State:
    """Feed ``updates``, flushing after the positions in ``cuts``; in sync from position ``sync_at`` on."""
    graph = CalcGraph(NODE)
    batches = []
    for position, update in enumerate(updates):
        if position == sync_at:
            graph.set_status(SyncStatus.IN_SYNC)
        graph.feed([update])
        if position in cuts:
            while graph.step(slice_size):
                pass
            batches.append(graph.flush())
        elif position % 3 == 0:
            graph.step(1)
    graph.set_status(SyncStatus.IN_SYNC)
    while graph.step(slice_size):
        pass
    batches.append(graph.flush())
    assert not graph.flush()
    return oracle.replay(batches)


def check(state: State, contents: dict[Any, Any]) -> None:
    endpoints = oracle.local_endpoints(contents, NODE)
    workloads = {key: value for key, value in endpoints.items() if isinstance(key, WorkloadEndpointKey)}
    assert {(one.workload, one.endpoint) for one in state.workload_endpoints} == {
        (key.workload, key.endpoint) for key in workloads
    }
    for key, value in workloads.items():
        message = next(one for id_, one in state.workload_endpoints.items() if id_.workload == key.workload)
        assert message.tiers == oracle.tiers_for(value, contents)
        assert (message.name, message.profile_ids, message.ipv4_nets) == (
            value.name,
            value.profile_ids,
            value.ipv4_nets,
        )
    hosts = {key.name: value for key, value in endpoints.items() if isinstance(key, HostEndpointKey)}
    assert {name: one.tiers for name, one in state.host_endpoints.items()} == {
        name: oracle.tiers_for(value, contents) for name, value in hosts.items()
    }
    active = oracle.active_rules(contents, NODE)
    assert state.policies.keys() | state.profiles.keys() == active.keys()
    needed: dict[str, frozenset[str]] = {}
    for name, directions in active.items():
        active_message = state.profiles[name] if isinstance(name, str) else state.policies[name]
        sent = (active_message.inbound_rules, active_message.outbound_rules)
        for rules, compiled in zip(directions, sent, strict=True):
            assert [rule.action for rule in rules] == [rule.action for rule in compiled]
            for rule, got in zip(rules, compiled, strict=True):
                check_rule(rule, got, contents, needed)
    assert {set_id: one.members for set_id, one in state.ip_sets.items()} == needed


def check_rule(rule: Rule, got: Any, contents: dict[Any, Any], needed: dict[str, frozenset[str]]) -> None:
    def net_set(selector: str) -> str:
        uid = parse(selector).uid("s")
        needed[uid] = oracle.selected_nets(selector, contents)
        return uid

    src, not_src, dst = rule.src_selector, rule.not_src_selector, rule.dst_selector
    both = f"({src}) && (!({not_src}))" if src and not_src else src
    assert got.src_ip_set_ids == ((net_set(both),) if both else ())
    assert got.not_src_ip_set_ids == ((net_set(not_src),) if not_src and not src else ())
    named = [port.name for port in rule.dst_ports if port.name]
    numeric = tuple(port for port in rule.dst_ports if not port.name)
    assert got.dst_ports == numeric
    assert got.dst_ip_set_ids == ((net_set(dst),) if dst and (numeric or not named) else ())
    wanted = []
    for name in named:
        uid = unique_id("n", f"{parse(dst).uid('s')},{rule.protocol},{name}")
        needed[uid] = oracle.selected_ports(dst, str(rule.protocol), name, contents)
        wanted.append(uid)
    assert list(got.dst_named_port_ip_set_ids) == wanted


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(UPDATES, st.randoms(use_true_random=False), st.sets(st.integers(0, 60)), st.integers(0, 60))
def test_final_state_depends_only_on_contents(steps: list[Any], random: Any, cuts: set[int], sync_at: int) -> None:
    updates = [Update(key, value if present else None) for (key, value), present in steps]
    contents = {update.key: update.value for update in updates}
    contents = {key: value for key, value in contents.items() if value is not None}

    check(run(updates, sorted(cuts), sync_at, 1000), contents)

    final = [Update(key, value) for key, value in contents.items()]
    random.shuffle(final)
    detours = [Update(key, None) for key in contents] + final + random.sample(final, len(final) // 2)
    check(run(detours, [], 0, 1), contents)
    check(run(detours, range(len(detours)), len(detours), 3), contents)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ENTRIES, max_size=20), st.lists(ENTRIES, max_size=20))
def test_from_one_state_to_another_by_way_of_nothing(first: list[Any], second: list[Any]) -> None:
    graph = CalcGraph(NODE)
    graph.set_status(SyncStatus.IN_SYNC)
    batches = []
    for flush, contents in (True, dict(first)), (False, {}), (True, dict(second)), (False, {}), (True, dict(second)):
        graph.feed(Update(key, contents.get(key)) for key in {**dict(first), **dict(second)})
        while graph.step(7):
            pass
        if flush:
            batches.append(graph.flush())
            check(oracle.replay(batches), contents)


def test_no_endpoint_before_in_sync() -> None:
    graph = CalcGraph(NODE)
    graph.feed([Update(WorkloadEndpointKey(NODE, "k8s", "x", "e"), WorkloadEndpoint("cali1"))])
    while graph.step(100):
        pass
    assert not oracle.replay([graph.flush()]).workload_endpoints
    graph.set_status(SyncStatus.IN_SYNC)
    while graph.step(100):
        pass
    state = oracle.replay([graph.flush()])
    assert state.workload_endpoints
    assert state.in_sync
