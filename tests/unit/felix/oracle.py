"""What the dataplane should have been told, worked out naively from the final contents of the datastore."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping
from typing import Any

from calico_node.dataplanes.contract import (
    ConfigUpdate,
    HostEndpointUpdate,
    IPSetDeltaUpdate,
    IPSetRemove,
    IPSetUpdate,
    Message,
    TierInfo,
    WorkloadEndpointUpdate,
)
from calico_node.dataplanes.recorder.plugin import State
from calico_node.model import (
    HostEndpointKey,
    NetworkSetKey,
    Policy,
    PolicyKey,
    ProfileLabelsKey,
    ProfileRules,
    ProfileRulesKey,
    Rule,
    Tier,
    TierKey,
    WorkloadEndpointKey,
)
from calico_node.selectors import parse

DENIED = ProfileRules((Rule("deny"),), (Rule("deny"),))


def replay(batches: Iterable[Iterable[Message]]) -> State:
    """The state after all messages, checking on the way that nothing refers to what is not there."""
    state = State()
    for messages in batches:
        for message in messages:
            check_references(state, message)
            state.feed(message)
    return state


def check_references(state: State, message: Message) -> None:
    match message:
        case IPSetDeltaUpdate():
            members = state.ip_sets[message.id].members
            assert message.removed <= members, "removes what is not in the set"
            assert not message.added & (members - message.removed), "adds what is in the set"
        case IPSetUpdate():
            assert no_overlap(message.members)
        case IPSetRemove():
            assert message.id in state.ip_sets
        case ConfigUpdate():
            assert state.config != message.config
        case WorkloadEndpointUpdate() | HostEndpointUpdate():
            for tier in message.tiers:
                for key in tier.ingress_policies + tier.egress_policies:
                    assert key in state.policies, "endpoint before its policy"
            for name in message.profile_ids:
                assert name in state.profiles, "endpoint before its profile"
    rules = getattr(message, "inbound_rules", ()) + getattr(message, "outbound_rules", ())
    for rule in rules:
        for name in dir(rule):
            if name.endswith("set_ids"):
                assert set(getattr(rule, name)) <= state.ip_sets.keys(), "rule before its set"


def no_overlap(members: Iterable[str]) -> bool:
    nets = [ipaddress.ip_network(member) for member in members if "," not in member]
    return not any(a != b and a.version == b.version and a.overlaps(b) for a in nets for b in nets)


def labels_of(value: Any, contents: Mapping[Any, Any]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for profile in reversed(value.profile_ids):
        merged.update(contents.get(ProfileLabelsKey(profile)) or {})
    merged.update(value.labels)
    return merged


def nets_of(value: Any) -> tuple[str, ...]:
    for names in (("ipv4_nets", "ipv6_nets"), ("nets",), ("expected_ipv4_addrs", "expected_ipv6_addrs")):
        if all(hasattr(value, name) for name in names):
            nets = [net for name in names for net in getattr(value, name)]
            return tuple(str(ipaddress.ip_network(net)) for net in nets)
    raise AssertionError(value)


def contributors(contents: Mapping[Any, Any]) -> list[Any]:
    kinds = (WorkloadEndpointKey, HostEndpointKey, NetworkSetKey)
    return [
        value
        for key, value in contents.items()
        if isinstance(key, kinds) and not (isinstance(key, WorkloadEndpointKey) and not value.name)
    ]


def selected_nets(selector: str, contents: Mapping[Any, Any]) -> frozenset[str]:
    nets = {
        net
        for value in contributors(contents)
        if parse(selector).matches(labels_of(value, contents))
        for net in nets_of(value)
    }
    return frozenset(
        net
        for net in nets
        if not any(
            other != net
            and ipaddress.ip_network(other).version == ipaddress.ip_network(net).version
            and ipaddress.ip_network(net).subnet_of(ipaddress.ip_network(other))  # type: ignore[arg-type]
            for other in nets
        )
    )


def selected_ports(selector: str, protocol: str, name: str, contents: Mapping[Any, Any]) -> frozenset[str]:
    return frozenset(
        f"{net.partition('/')[0]},{port.protocol}:{port.port}"
        for value in contributors(contents)
        if parse(selector).matches(labels_of(value, contents))
        for port in getattr(value, "ports", ())
        if port.name == name and port.protocol == protocol
        for net in nets_of(value)
    )


def local_endpoints(contents: Mapping[Any, Any], node: str) -> dict[Any, Any]:
    return {
        key: value
        for key, value in contents.items()
        if isinstance(key, WorkloadEndpointKey | HostEndpointKey)
        and key.host == node
        and (isinstance(key, HostEndpointKey) or value.name)
    }


def enforced(contents: Mapping[Any, Any]) -> dict[PolicyKey, Policy]:
    return {key: value for key, value in contents.items() if isinstance(key, PolicyKey) and not value.staged_action}


def tiers_for(value: Any, contents: Mapping[Any, Any]) -> tuple[TierInfo, ...]:
    """The normal plane of one endpoint."""
    labels = labels_of(value, contents)
    policies = {
        key: policy
        for key, policy in enforced(contents).items()
        if parse(policy.selector).matches(labels) and not policy.untracked and not policy.pre_dnat
    }

    def tier_rank(name: str) -> tuple[bool, float, str]:
        tier: Tier | None = contents.get(TierKey(name))
        return tier is None, math.inf if tier is None or tier.order is None else tier.order, name

    def rank(key: PolicyKey) -> tuple[float, str]:
        order = policies[key].order
        return math.inf if order is None else order, f"{key.name}/{key.namespace}/{key.kind}"

    result = []
    for name in sorted({policy.tier for policy in policies.values()}, key=tier_rank):
        ordered = sorted((key for key in policies if policies[key].tier == name), key=rank)
        tier = contents.get(TierKey(name))
        result.append(
            TierInfo(
                name=name,
                default_action=tier.default_action if tier else "Deny",
                ingress_policies=tuple(key for key in ordered if "ingress" in (policies[key].types or ["ingress"])),
                egress_policies=tuple(key for key in ordered if "egress" in (policies[key].types or ["egress"])),
            )
        )
    return tuple(tier for tier in result if tier.ingress_policies or tier.egress_policies)


def active_rules(contents: Mapping[Any, Any], node: str) -> dict[PolicyKey | str, tuple[tuple[Rule, ...], ...]]:
    """Rules of the policies and profiles that some local endpoint needs, by key or profile name."""
    found: dict[PolicyKey | str, tuple[tuple[Rule, ...], ...]] = {}
    for value in local_endpoints(contents, node).values():
        labels = labels_of(value, contents)
        for key, policy in enforced(contents).items():
            if parse(policy.selector).matches(labels):
                found[key] = (policy.inbound_rules, policy.outbound_rules)
        for name in value.profile_ids:
            rules = contents.get(ProfileRulesKey(name), DENIED)
            found[name] = (rules.inbound_rules, rules.outbound_rules)
    return found
