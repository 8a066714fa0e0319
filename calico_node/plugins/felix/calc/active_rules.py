"""Which policies and profiles apply to this node's endpoints, and their rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from calico_node.dataplanes.contract import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
)
from calico_node.model import (
    HostEndpoint,
    HostEndpointKey,
    Policy,
    PolicyKey,
    ProfileRules,
    Rule,
    WorkloadEndpoint,
    WorkloadEndpointKey,
)
from calico_node.plugins.felix.calc.labelindex import LabelIndex
from calico_node.plugins.felix.calc.rules import RuleScanner
from calico_node.plugins.felix.calc.sequencer import EventSequencer
from calico_node.selectors import parse

LocalKey: TypeAlias = WorkloadEndpointKey | HostEndpointKey
LocalEndpoint: TypeAlias = WorkloadEndpoint | HostEndpoint

MISSING_PROFILE = ProfileRules(inbound_rules=(Rule("deny"),), outbound_rules=(Rule("deny"),))
"""An endpoint that lists a profile which does not exist is denied by it, in both directions."""

NEEDED_EVERYWHERE = "AssumeNeededOnEveryNode"
"""The performance hint that has a policy programmed before an endpoint of this node needs it."""


class PolicyMatches(Protocol):
    """Told which policies select which local endpoints, and when such a policy changes (the policy resolver)."""

    def match_started(self, policy: PolicyKey, endpoint: LocalKey) -> None: ...

    def match_stopped(self, policy: PolicyKey, endpoint: LocalKey) -> None: ...


class ActiveRules:
    """A policy is active while it selects a local endpoint, a profile while a local endpoint lists it."""

    def __init__(self, scanner: RuleScanner, resolver: PolicyMatches, output: EventSequencer) -> None:
        self._scanner = scanner
        self._resolver = resolver
        self._output = output
        self._policies: dict[PolicyKey, Policy] = {}
        self._profiles: dict[str, ProfileRules] = {}
        self._matches: dict[PolicyKey, int] = {}
        self._profile_users: dict[str, int] = {}
        self._endpoint_profiles: dict[LocalKey, frozenset[str]] = {}
        self.index: LabelIndex[PolicyKey, LocalKey] = LabelIndex(self._match_started, self._match_stopped)

    def set_endpoint(self, key: LocalKey, endpoint: LocalEndpoint) -> None:
        self._use_profiles(key, frozenset(endpoint.profile_ids))
        self.index.set_item(key, endpoint.labels, endpoint.profile_ids)

    def delete_endpoint(self, key: LocalKey) -> None:
        self.index.delete_item(key)
        self._use_profiles(key, frozenset())

    def set_policy(self, key: PolicyKey, policy: Policy) -> None:
        """``policy.selector`` parses (the validation saw to it)."""
        old = self._policies.get(key)
        if old == policy:
            return
        self._policies[key] = policy
        hinted = NEEDED_EVERYWHERE in policy.performance_hints
        was_hinted = old is not None and NEEDED_EVERYWHERE in old.performance_hints
        already_active = key in self._matches
        # The hint counts as one more match, which no endpoint can end.
        self._count(key, int(hinted) - int(was_hinted))
        self.index.set_selector(key, parse(policy.selector))
        if already_active and key in self._matches:
            self._send_policy(key)

    def delete_policy(self, key: PolicyKey) -> None:
        if self._policies.pop(key, None) is not None:
            self.index.delete_selector(key)
            self._count(key, -self._matches.get(key, 0))

    def set_profile(self, name: str, rules: ProfileRules | None) -> None:
        """The profile's rules; None when there is no such profile."""
        if self._profiles.get(name) == rules:
            return
        if rules is None:
            del self._profiles[name]
        else:
            self._profiles[name] = rules
        if name in self._profile_users:
            self._send_profile(name)

    def set_profile_labels(self, name: str, labels: Mapping[str, str] | None) -> None:
        self.index.set_parent_labels(name, labels)

    def _match_started(self, policy: PolicyKey, endpoint: LocalKey) -> None:
        self._count(policy, 1)
        self._resolver.match_started(policy, endpoint)

    def _match_stopped(self, policy: PolicyKey, endpoint: LocalKey) -> None:
        self._resolver.match_stopped(policy, endpoint)
        self._count(policy, -1)

    def _count(self, key: PolicyKey, change: int) -> None:
        old = self._matches.get(key, 0)
        new = old + change
        if new:
            self._matches[key] = new
        else:
            self._matches.pop(key, None)
        if new and not old:
            self._send_policy(key)
        elif old and not new:
            self._scanner.forget(key)
            self._output.policy(ActivePolicyRemove(key))

    def _send_policy(self, key: PolicyKey) -> None:
        policy = self._policies[key]
        inbound, outbound = self._scanner.scan(key, policy.inbound_rules, policy.outbound_rules)
        self._output.policy(
            ActivePolicyUpdate(
                key=key,
                tier=policy.tier,
                inbound_rules=inbound,
                outbound_rules=outbound,
                untracked=policy.untracked,
                pre_dnat=policy.pre_dnat,
                original_selector=policy.selector,
            )
        )

    def _use_profiles(self, key: LocalKey, names: frozenset[str]) -> None:
        old = self._endpoint_profiles.pop(key, frozenset())
        if names:
            self._endpoint_profiles[key] = names
        for name in sorted(names - old):
            users = self._profile_users.get(name, 0)
            self._profile_users[name] = users + 1
            if not users:
                self._send_profile(name)
        for name in sorted(old - names):
            users = self._profile_users[name] - 1
            if users:
                self._profile_users[name] = users
            else:
                del self._profile_users[name]
                self._scanner.forget(name)
                self._output.profile(ActiveProfileRemove(name))

    def _send_profile(self, name: str) -> None:
        rules = self._profiles.get(name, MISSING_PROFILE)
        inbound, outbound = self._scanner.scan(name, rules.inbound_rules, rules.outbound_rules)
        self._output.profile(ActiveProfileUpdate(name, inbound, outbound))
