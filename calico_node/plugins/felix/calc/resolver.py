"""The policy resolver: each local endpoint with the tiers and policies that apply to it, in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from calico_node.dataplanes.contract import (
    HostEndpointRemove,
    HostEndpointUpdate,
    TierInfo,
    WorkloadEndpointID,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_node.model import HostEndpoint, Policy, PolicyKey, Tier, WorkloadEndpoint, WorkloadEndpointKey
from calico_node.plugins.felix.calc.active_rules import LocalEndpoint, LocalKey
from calico_node.plugins.felix.calc.sequencer import EventSequencer


def workload_id(key: WorkloadEndpointKey) -> WorkloadEndpointID:
    return WorkloadEndpointID(key.orchestrator, key.workload, key.endpoint)


class PolicyResolver:
    """Keeps a list of endpoints whose tiers must be worked out anew; ``step`` does so once all is in sync."""

    def __init__(self, output: EventSequencer) -> None:
        self._output = output
        self._endpoints: dict[LocalKey, LocalEndpoint] = {}
        self._policies: dict[PolicyKey, Policy] = {}
        self._tiers: dict[str, Tier] = {}
        self._of_endpoint: dict[LocalKey, set[PolicyKey]] = {}
        self._of_policy: dict[PolicyKey, set[LocalKey]] = {}
        self._in_tier: dict[str, set[PolicyKey]] = {}
        self._dirty: dict[LocalKey, None] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._dirty)

    def set_endpoint(self, key: LocalKey, endpoint: LocalEndpoint | None) -> None:
        if endpoint is None:
            self._endpoints.pop(key, None)
        else:
            self._endpoints[key] = endpoint
        self._dirty[key] = None

    def set_policy(self, key: PolicyKey, policy: Policy | None) -> None:
        old = self._policies.get(key)
        if old == policy:
            return
        if old is not None and (policy is None or old.tier != policy.tier):
            siblings = self._in_tier[old.tier]
            siblings.discard(key)
            if not siblings:
                del self._in_tier[old.tier]
        if policy is None:
            del self._policies[key]
            for endpoint in self._of_policy.pop(key, set()):
                self._of_endpoint[endpoint].discard(key)
                self._dirty[endpoint] = None
            return
        self._policies[key] = policy
        self._in_tier.setdefault(policy.tier, set()).add(key)
        for endpoint in self._of_policy.get(key, ()):
            self._dirty[endpoint] = None

    def set_tier(self, name: str, tier: Tier | None) -> None:
        if self._tiers.get(name) == tier:
            return
        if tier is None:
            del self._tiers[name]
        else:
            self._tiers[name] = tier
        for policy in self._in_tier.get(name, ()):
            for endpoint in self._of_policy.get(policy, ()):
                self._dirty[endpoint] = None

    def match_started(self, policy: PolicyKey, endpoint: LocalKey) -> None:
        self._of_endpoint.setdefault(endpoint, set()).add(policy)
        self._of_policy.setdefault(policy, set()).add(endpoint)
        self._dirty[endpoint] = None

    def match_stopped(self, policy: PolicyKey, endpoint: LocalKey) -> None:
        self._of_endpoint.get(endpoint, set()).discard(policy)
        self._of_policy.get(policy, set()).discard(endpoint)
        self._dirty[endpoint] = None

    def step(self, budget: int) -> int:
        """Work out at most ``budget`` endpoints; returns how many."""
        done = 0
        while self._dirty and done < budget:
            key = next(iter(self._dirty))
            del self._dirty[key]
            self._resolve(key)
            done += 1
        return done

    def _resolve(self, key: LocalKey) -> None:
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            self._of_endpoint.pop(key, None)
            if isinstance(key, WorkloadEndpointKey):
                self._output.workload_endpoint(WorkloadEndpointRemove(workload_id(key)))
            else:
                self._output.host_endpoint(HostEndpointRemove(key.name))
            return
        policies = sorted(self._of_endpoint.get(key, ()), key=self._rank)
        if isinstance(key, WorkloadEndpointKey):
            assert isinstance(endpoint, WorkloadEndpoint)
            self._output.workload_endpoint(self._workload(key, endpoint, policies))
        else:
            assert isinstance(endpoint, HostEndpoint)
            self._output.host_endpoint(self._host(key.name, endpoint, policies))

    def _rank(self, key: PolicyKey) -> tuple[bool, float, str, float, str]:
        """Existing tiers first, by order and name; within a tier by order, then by ``name/namespace/kind``."""
        policy = self._policies[key]
        tier = self._tiers.get(policy.tier)
        tier_order = math.inf if tier is None or tier.order is None else tier.order
        order = math.inf if policy.order is None else policy.order
        return tier is None, tier_order, policy.tier, order, f"{key.name}/{key.namespace}/{key.kind}"

    def _plane(
        self,
        ranked: Iterable[PolicyKey],
        belongs: Callable[[Policy], bool],
        *,
        egress: bool = True,
    ) -> tuple[TierInfo, ...]:
        """The tiers of one plane: of ``ranked``, the policies that belong to it, by direction."""
        tiers: dict[str, tuple[list[PolicyKey], list[PolicyKey]]] = {}
        for key in ranked:
            policy = self._policies[key]
            if not belongs(policy):
                continue
            inward, outward = tiers.setdefault(policy.tier, ([], []))
            if not policy.types or "ingress" in policy.types:
                inward.append(key)
            if egress and (not policy.types or "egress" in policy.types):
                outward.append(key)
        return tuple(
            TierInfo(
                name=name,
                default_action=self._tiers[name].default_action if name in self._tiers else "Deny",
                ingress_policies=tuple(inward),
                egress_policies=tuple(outward),
            )
            for name, (inward, outward) in tiers.items()
            if inward or outward
        )

    def _workload(
        self, key: WorkloadEndpointKey, endpoint: WorkloadEndpoint, ranked: list[PolicyKey]
    ) -> WorkloadEndpointUpdate:
        return WorkloadEndpointUpdate(
            id=workload_id(key),
            name=endpoint.name,
            state=endpoint.state,
            mac=endpoint.mac,
            profile_ids=endpoint.profile_ids,
            ipv4_nets=endpoint.ipv4_nets,
            ipv6_nets=endpoint.ipv6_nets,
            ipv4_nat=endpoint.ipv4_nat,
            ipv6_nat=endpoint.ipv6_nat,
            tiers=self._plane(ranked, _is_normal),
            ports=endpoint.ports,
            allow_spoofed_source_prefixes=endpoint.allow_spoofed_source_prefixes,
            qos_controls=endpoint.qos_controls,
        )

    def _host(self, name: str, endpoint: HostEndpoint, ranked: list[PolicyKey]) -> HostEndpointUpdate:
        return HostEndpointUpdate(
            id=name,
            name=endpoint.name,
            expected_ipv4_addrs=endpoint.expected_ipv4_addrs,
            expected_ipv6_addrs=endpoint.expected_ipv6_addrs,
            profile_ids=endpoint.profile_ids,
            tiers=self._plane(ranked, _is_normal),
            untracked_tiers=self._plane(ranked, lambda policy: policy.untracked),
            pre_dnat_tiers=self._plane(ranked, lambda policy: policy.pre_dnat and not policy.untracked, egress=False),
            forward_tiers=self._plane(ranked, lambda policy: policy.apply_on_forward and _is_normal(policy)),
        )


def _is_normal(policy: Policy) -> bool:
    return not policy.untracked and not policy.pre_dnat
