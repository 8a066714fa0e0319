"""The rule scanner: rules with selectors and named ports become rules that refer to IP sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from attrs import frozen

from calico_node.dataplanes.contract import DataplaneRule
from calico_node.errors import CalicoError
from calico_node.model import PolicyKey, Port, Rule
from calico_node.plugins.felix.calc.ipsets import (
    IPSetIndex,
    SetSpec,
    named_port_set,
    selector_set,
    service_set,
)
from calico_node.selectors import parse

DENY_ALL = DataplaneRule(action="deny")
"""Stands in for a rule that cannot be understood: what reaches it is denied."""

_PORT_PROTOCOLS = {"tcp": "tcp", "udp": "udp", "sctp": "sctp", 6: "tcp", 17: "udp", 132: "sctp"}

OwnerKey: TypeAlias = PolicyKey | str
"""The policy, or the profile's name, whose rules they are."""


@frozen
class CompiledRule:
    rule: DataplaneRule
    sets: tuple[SetSpec, ...] = ()
    fault: str = ""


@frozen
class _Side:
    """One side of a rule (source or destination): its sets and what is left of its ports."""

    set_ids: tuple[str, ...]
    not_set_ids: tuple[str, ...]
    ports: tuple[Port, ...]
    not_ports: tuple[Port, ...]
    port_set_ids: tuple[str, ...]
    not_port_set_ids: tuple[str, ...]
    sets: tuple[SetSpec, ...]


def _compile_side(
    positive: str, negated: str, ports: tuple[Port, ...], not_ports: tuple[Port, ...], protocol: str
) -> _Side:
    wanted = parse(positive) if positive else None
    named = [named_port_set(wanted or parse(""), protocol, port.name) for port in ports if port.name]
    not_named = [named_port_set(wanted or parse(""), protocol, port.name) for port in not_ports if port.name]
    numeric = tuple(port for port in ports if not port.name)
    selected: list[SetSpec] = []
    excluded: list[SetSpec] = []
    if wanted is not None and negated:
        selected.append(selector_set(parse(f"({positive}) && (!({negated}))")))
    elif wanted is not None:
        # A side with named ports alone needs no set of its own: the port set holds only selected endpoints.
        if numeric or not named:
            selected.append(selector_set(wanted))
    elif negated:
        excluded.append(selector_set(parse(negated)))
    return _Side(
        set_ids=tuple(spec.id for spec in selected),
        not_set_ids=tuple(spec.id for spec in excluded),
        ports=numeric,
        not_ports=tuple(port for port in not_ports if not port.name),
        port_set_ids=tuple(spec.id for spec in named),
        not_port_set_ids=tuple(spec.id for spec in not_named),
        sets=(*selected, *excluded, *named, *not_named),
    )


def compile_rule(rule: Rule) -> CompiledRule:
    """The rule as the dataplane gets it and the sets it refers to.  Raises ``SelectorError``."""
    protocol = _PORT_PROTOCOLS.get(rule.protocol, "any") if rule.protocol is not None else "any"
    src = _compile_side(rule.src_selector, rule.not_src_selector, rule.src_ports, rule.not_src_ports, protocol)
    dst = _compile_side(rule.dst_selector, rule.not_dst_selector, rule.dst_ports, rule.not_dst_ports, protocol)
    services: list[SetSpec] = []
    src_service_ids: tuple[str, ...] = ()
    dst_service_ids: tuple[str, ...] = ()
    fault = ""
    if rule.src_service:
        spec = service_set(f"{rule.src_service_namespace}/{rule.src_service}", with_ports=False)
        services.append(spec)
        src_service_ids = (spec.id,)
    if rule.dst_service:
        spec = service_set(f"{rule.dst_service_namespace}/{rule.dst_service}", with_ports=True)
        services.append(spec)
        dst_service_ids = (spec.id,)
    if services:
        fault = "service matches are not built: the service is taken to have no endpoints"
        if rule.action == "deny":
            return CompiledRule(DENY_ALL, fault=f"{fault}, and the rule denies all it could apply to")
    compiled = DataplaneRule(
        action=rule.action,
        ip_version=rule.ip_version,
        protocol=rule.protocol,
        not_protocol=rule.not_protocol,
        icmp_type=rule.icmp_type,
        icmp_code=rule.icmp_code,
        not_icmp_type=rule.not_icmp_type,
        not_icmp_code=rule.not_icmp_code,
        src_nets=rule.src_nets,
        not_src_nets=rule.not_src_nets,
        src_ports=src.ports,
        not_src_ports=src.not_ports,
        src_named_port_ip_set_ids=src.port_set_ids,
        not_src_named_port_ip_set_ids=src.not_port_set_ids,
        src_ip_set_ids=src.set_ids + src_service_ids,
        not_src_ip_set_ids=src.not_set_ids,
        dst_nets=rule.dst_nets,
        not_dst_nets=rule.not_dst_nets,
        dst_ports=dst.ports,
        not_dst_ports=dst.not_ports,
        dst_named_port_ip_set_ids=dst.port_set_ids,
        not_dst_named_port_ip_set_ids=dst.not_port_set_ids,
        dst_ip_set_ids=dst.set_ids,
        not_dst_ip_set_ids=dst.not_set_ids,
        dst_ip_port_set_ids=dst_service_ids,
    )
    return CompiledRule(compiled, (*src.sets, *dst.sets, *services), fault)


def _compile_closed(rule: Rule) -> CompiledRule:
    try:
        return compile_rule(rule)
    except CalicoError as error:
        return CompiledRule(DENY_ALL, fault=f"rule replaced by a deny: {error}")


class RuleScanner:
    """Holds, for every active policy and profile, the sets that its rules need."""

    def __init__(self, sets: IPSetIndex) -> None:
        self._sets = sets
        self._held: dict[OwnerKey, frozenset[str]] = {}
        self.faults: dict[OwnerKey, str] = {}

    def scan(
        self, owner: OwnerKey, inbound: tuple[Rule, ...], outbound: tuple[Rule, ...]
    ) -> tuple[tuple[DataplaneRule, ...], tuple[DataplaneRule, ...]]:
        """The rules as the dataplane gets them.  A rule that cannot be understood denies, and ``faults`` says so."""
        compiled = [[_compile_closed(rule) for rule in rules] for rules in (inbound, outbound)]
        everything = [*compiled[0], *compiled[1]]
        specs = {spec.id: spec for one in everything for spec in one.sets}
        self._hold(owner, specs)
        faults = [one.fault for one in everything if one.fault]
        if faults:
            self.faults[owner] = "; ".join(dict.fromkeys(faults))
        else:
            self.faults.pop(owner, None)
        return tuple(one.rule for one in compiled[0]), tuple(one.rule for one in compiled[1])

    def forget(self, owner: OwnerKey) -> None:
        """The policy or profile is no longer active."""
        self.faults.pop(owner, None)
        self._hold(owner, {})

    def _hold(self, owner: OwnerKey, needed: Mapping[str, SetSpec]) -> None:
        old = self._held.pop(owner, frozenset())
        for set_id, spec in needed.items():
            if set_id not in old:
                self._sets.acquire(spec)
        for set_id in sorted(old - needed.keys()):
            self._sets.release(set_id)
        if needed:
            self._held[owner] = frozenset(needed)
