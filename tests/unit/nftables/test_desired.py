"""The desired state depends on what is known, not on the order it came in; the plan leads there."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.dataplanes.contract import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    ConfigUpdate,
    DataplaneRule,
    IPPoolRemove,
    IPPoolUpdate,
    IPSetDeltaUpdate,
    IPSetRemove,
    IPSetType,
    IPSetUpdate,
    TierInfo,
    WorkloadEndpointID,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_node.dataplanes.nftables.config import RenderConfig
from calico_node.dataplanes.nftables.desired import Desired
from calico_node.dataplanes.nftables.layout import IPV4, IPV6
from calico_node.dataplanes.nftables.plan import KnownTable, plan
from calico_node.model import PolicyKey

KEYS = [PolicyKey("NetworkPolicy", "default", name) for name in ("a", "b")]
SETS = ["s:1", "s:2"]
ENDPOINTS = [WorkloadEndpointID("k8s", name, "eth0") for name in ("x", "y", "z")]
MEMBERS = ["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"]

_rules = st.lists(
    st.builds(
        DataplaneRule,
        st.sampled_from(("allow", "deny")),
        src_ip_set_ids=st.lists(st.sampled_from(SETS), max_size=1).map(tuple),
        protocol=st.sampled_from((None, "tcp", "wrong")),
    ),
    max_size=2,
).map(tuple)
_members = st.frozensets(st.sampled_from(MEMBERS))
_keys = st.lists(st.sampled_from(KEYS), max_size=2, unique=True).map(tuple)
_messages = st.one_of(
    st.builds(ActivePolicyUpdate, st.sampled_from(KEYS), st.just("t"), _rules, _rules),
    st.builds(ActivePolicyRemove, st.sampled_from(KEYS)),
    st.builds(ActiveProfileUpdate, st.just("kns"), _rules, _rules),
    st.just(ActiveProfileRemove("kns")),
    st.builds(IPSetUpdate, st.sampled_from(SETS), st.just(IPSetType.NET), _members),
    st.builds(IPSetUpdate, st.just("s:1"), st.just(IPSetType.NET), st.just(frozenset({"wrong"}))),
    st.builds(IPSetRemove, st.sampled_from(SETS)),
    st.builds(
        WorkloadEndpointUpdate,
        st.sampled_from(ENDPOINTS),
        st.sampled_from(("cali1", "cali2", "eth0")),
        profile_ids=st.sampled_from(((), ("kns",))),
        allow_spoofed_source_prefixes=st.sampled_from(((), ("10.9.0.0/16",))),
        tiers=st.builds(lambda i, o: (TierInfo("t", "Deny", i, o),), _keys, _keys),
    ),
    st.builds(WorkloadEndpointRemove, st.sampled_from(ENDPOINTS)),
    st.builds(IPPoolUpdate, st.sampled_from(("10.0.0.0/16", "fd00::/48")), st.booleans()),
    st.builds(IPPoolRemove, st.just("10.0.0.0/16")),
    st.sampled_from((ConfigUpdate({}), ConfigUpdate({"DefaultEndpointToHostAction": "Accept"}))),
)


def latest(messages):
    """The messages that still count, each object's last; removals leave nothing."""
    kept: dict[object, object] = {}
    for message in messages:
        match message:
            case ActivePolicyUpdate() | ActivePolicyRemove():
                identity = message.key
            case IPSetUpdate() | IPSetRemove() | WorkloadEndpointUpdate() | WorkloadEndpointRemove():
                identity = (type(message).__name__[:5], message.id)
            case IPPoolUpdate() | IPPoolRemove():
                identity = message.cidr
            case _:
                identity = type(message).__name__[:13]
        kept.pop(identity, None)
        if not type(message).__name__.endswith("Remove"):
            kept[identity] = message
    return list(kept.values())


def content(desired: Desired):
    desired.refresh()
    return {
        version: (
            {name: chain.hashes for name, chain in table.chains.items()},
            {name: (c.shape, c.keys) for name, c in table.sets.items()},
            table.maps,
        )
        for version, table in desired.tables.items()
    }


@settings(max_examples=150, deadline=None)
@given(st.lists(_messages, max_size=25), st.randoms(use_true_random=False), st.integers(1, 5))
def test_any_history_ends_where_its_last_state_begins(messages, shuffle, every):
    desired = Desired(RenderConfig(), (IPV4, IPV6))
    known = {version: KnownTable() for version in desired.tables}
    for index, message in enumerate(messages):
        desired.feed(message)
        if index % every == 0:
            desired.refresh()
            commit(desired, known)
    desired.refresh()
    commit(desired, known)
    final = latest(messages)
    shuffle.shuffle(final)
    again = Desired(RenderConfig(), (IPV4, IPV6))
    for message in final:
        again.feed(message)
    assert content(desired) == content(again)
    assert desired.errors == again.errors
    assert in_kernel(known) == content(desired)


@pytest.mark.parametrize("between", [[IPSetRemove("s:1")], [IPSetUpdate("s:1", IPSetType.NET, frozenset({"wrong"}))]])
def test_a_set_that_went_and_came_back_between_commits_keeps_no_old_member(between) -> None:
    desired = Desired(RenderConfig(), (IPV4,))
    known = {version: KnownTable() for version in desired.tables}
    desired.feed(IPSetUpdate("s:1", IPSetType.NET, frozenset({"10.0.0.1/32"})))
    desired.refresh()
    commit(desired, known)
    for message in [*between, IPSetUpdate("s:1", IPSetType.NET, frozenset({"10.0.0.2/32"}))]:
        desired.feed(message)
    desired.refresh()
    commit(desired, known)
    assert in_kernel(known) == content(desired)
    desired.feed(IPSetDeltaUpdate("s:1", removed=frozenset({"10.0.0.2/32"})))
    desired.refresh()
    commit(desired, known)
    assert in_kernel(known) == content(desired)


def commit(desired: Desired, known) -> int:
    """Carry the plan out on the pretended kernel, checking that names exist when they are used."""
    ids = itertools.count(1)
    count = 0
    for version, table in desired.tables.items():
        for step in list(plan(table, known[version], ids)):
            step.done()
            count += len(step.messages)
        table.settled()
    return count


def in_kernel(known):
    return {
        version: (
            {name: chain.hashes for name, chain in table.chains.items()},
            {name: (c.shape, c.keys) for name, c in table.sets.items()},
            table.maps,
        )
        for version, table in known.items()
    }


def test_a_small_change_is_a_small_plan():
    desired = Desired(RenderConfig(), (IPV4, IPV6))
    known = {version: KnownTable() for version in desired.tables}
    desired.feed(
        IPSetUpdate("s:1", IPSetType.NET, frozenset(f"10.0.{x}.{y}/32" for x in range(20) for y in range(200)))
    )
    rules = (DataplaneRule("allow", src_ip_set_ids=("s:1",)),)
    desired.feed(ActivePolicyUpdate(KEYS[0], "t", rules))
    for number in range(50):
        tiers = (TierInfo("t", "Deny", (KEYS[0],)),)
        desired.feed(
            WorkloadEndpointUpdate(WorkloadEndpointID("k8s", str(number), "e"), f"cali{number}", tiers=tiers)
        )
    desired.refresh()
    commit(desired, known)
    desired.feed(IPSetDeltaUpdate("s:1", frozenset({"10.1.0.1/32"}), frozenset({"10.0.0.1/32"})))
    desired.refresh()
    assert commit(desired, known) == 2, "one message takes out, one puts in"
    desired.feed(ActivePolicyUpdate(KEYS[0], "t", (*rules, DataplaneRule("deny"))))
    desired.refresh()
    assert commit(desired, known) == 2, "a rule at the end is appended, in each family"
    desired.feed(ActivePolicyUpdate(KEYS[0], "t", (*rules, DataplaneRule("deny"))))
    desired.refresh()
    assert commit(desired, known) == 0
