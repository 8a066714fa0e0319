"""The validation filter: what cannot be enforced is treated as absent, and said so.

Only what the graph itself could stumble over is checked here; the v3 rules were checked on write and on reading.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from attrs import evolve

from calico_node.errors import CalicoError, ValidationError
from calico_node.model import HostEndpoint, NetworkSet, Policy, ProfileRules, Rule, WorkloadEndpoint
from calico_node.selectors import parse

_MAX_INTERFACE = 15


def canonical_nets(nets: Iterable[str]) -> tuple[str, ...]:
    """Every net once, masked and with its length.  Raises ``ValidationError``."""
    return tuple(dict.fromkeys(_canonical(net) for net in nets))


def cidr(text: str) -> None:
    """Raises ``ValidationError`` for a key that is no canonical CIDR."""
    if _canonical(text) != text:
        raise ValidationError("has bits set beyond its length", value=text)


def _canonical(net: str) -> str:
    try:
        return str(ipaddress.ip_network(net, strict=False))
    except ValueError as error:
        raise ValidationError(f"{net!r} is not a valid CIDR: {error}", value=net) from None


def workload_endpoint(endpoint: WorkloadEndpoint, *, spoofing_allowed: bool) -> WorkloadEndpoint:
    """Raises ``ValidationError`` for an endpoint that must not exist: then its traffic is dropped."""
    name = endpoint.name
    if not name:
        raise ValidationError("the endpoint has no interface name", field="interfaceName")
    if len(name) > _MAX_INTERFACE or name in (".", "..") or any(char in "/\0" or char.isspace() for char in name):
        raise ValidationError("not a valid interface name", field="interfaceName", value=name)
    if endpoint.allow_spoofed_source_prefixes and not spoofing_allowed:
        raise ValidationError("needs WorkloadSourceSpoofing=Any", field="allowSpoofedSourcePrefixes")
    return evolve(
        endpoint,
        ipv4_nets=_of_family(endpoint.ipv4_nets, 4),
        ipv6_nets=_of_family(endpoint.ipv6_nets, 6),
        allow_spoofed_source_prefixes=canonical_nets(endpoint.allow_spoofed_source_prefixes),
    )


def _of_family(nets: tuple[str, ...], version: int) -> tuple[str, ...]:
    canonical = canonical_nets(nets)
    for net in canonical:
        if (6 if ":" in net else 4) != version:
            raise ValidationError(f"not an IPv{version} net", value=net)
    return canonical


def host_endpoint(endpoint: HostEndpoint) -> HostEndpoint:
    """Raises ``ValidationError`` for an expected address that is none."""
    for address in endpoint.expected_ipv4_addrs + endpoint.expected_ipv6_addrs:
        _canonical(address)
    return endpoint


def network_set(network_set: NetworkSet) -> NetworkSet:
    """Raises ``ValidationError`` for a net that is none."""
    return evolve(network_set, nets=canonical_nets(network_set.nets))


def policy(policy: Policy) -> tuple[Policy, str]:
    """The policy with any rule that cannot be understood turned into a deny, and the fault ("" for none).

    Raises ``SelectorError`` when its own selector does not parse: nobody can say then whom it is about.
    """
    parse(policy.selector)
    inbound, first = _rules(policy.inbound_rules)
    outbound, second = _rules(policy.outbound_rules)
    return evolve(policy, inbound_rules=inbound, outbound_rules=outbound), first or second


def profile(rules: ProfileRules) -> tuple[ProfileRules, str]:
    """Like ``policy``, for a profile's rules."""
    inbound, first = _rules(rules.inbound_rules)
    outbound, second = _rules(rules.outbound_rules)
    return ProfileRules(inbound, outbound), first or second


def _rules(rules: tuple[Rule, ...]) -> tuple[tuple[Rule, ...], str]:
    checked: list[Rule] = []
    fault = ""
    for index, rule in enumerate(rules):
        try:
            checked.append(_rule(rule))
        except CalicoError as error:
            fault = fault or f"rule {index} replaced by a deny: {error}"
            checked.append(Rule("deny"))
    return tuple(checked), fault


def _rule(rule: Rule) -> Rule:
    if rule.action not in ("allow", "deny", "log", "next-tier"):
        raise ValidationError("unknown action", field="action", value=rule.action)
    for selector in (rule.src_selector, rule.not_src_selector, rule.dst_selector, rule.not_dst_selector):
        parse(selector)
    return evolve(
        rule,
        src_nets=canonical_nets(rule.src_nets),
        not_src_nets=canonical_nets(rule.not_src_nets),
        dst_nets=canonical_nets(rule.dst_nets),
        not_dst_nets=canonical_nets(rule.not_dst_nets),
    )
