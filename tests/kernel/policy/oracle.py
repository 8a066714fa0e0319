"""What Calico's documents say about one packet, worked out the plainest way: no sets, no chains, no order of arrival.

Selectors are values here: ``("==", label, value)``, ``("in", label, values)``, ``("has", label)``, ``("not", one)``,
``("and", one, other)``, ``("or", one, other)``, ``("all",)``, ``("global",)``.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import field, frozen

Sel: TypeAlias = tuple[Any, ...]


def text_of(selector: Sel) -> str:
    match selector:
        case ("==", label, value):
            return f"{label} == '{value}'"
        case ("in", label, values):
            return f"{label} in {{{', '.join(repr(value) for value in values)}}}"
        case ("has", label):
            return f"has({label})"
        case ("not", one):
            return f"!({text_of(one)})"
        case ("and", one, other):
            return f"({text_of(one)}) && ({text_of(other)})"
        case ("or", one, other):
            return f"({text_of(one)}) || ({text_of(other)})"
        case _:
            return f"{selector[0]}()"


def holds(selector: Sel, labels: Mapping[str, str]) -> bool:
    match selector:
        case ("==", label, value):
            return labels.get(label) == value
        case ("in", label, values):
            return labels.get(label) in values
        case ("has", label):
            return label in labels
        case ("not", one):
            return not holds(one, labels)
        case ("and", one, other):
            return holds(one, labels) and holds(other, labels)
        case ("or", one, other):
            return holds(one, labels) or holds(other, labels)
        case _:
            return True


@frozen
class Entity:
    """A workload or a network set."""

    nets: tuple[str, ...]
    labels: Mapping[str, str]
    namespace: str = ""
    namespace_labels: Mapping[str, str] = field(factory=dict)
    account: str = ""
    account_labels: Mapping[str, str] = field(factory=dict)
    ports: Mapping[str, tuple[str, int]] = field(factory=dict)

    def has(self, address: str) -> bool:
        return any(ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in self.nets)


@frozen
class Side:
    """One side of a rule, or what a policy applies to.  None: not given."""

    selector: Sel | None = None
    not_selector: Sel | None = None
    namespace_selector: Sel | None = None
    account_names: tuple[str, ...] = ()
    account_selector: Sel | None = None
    nets: tuple[str, ...] = ()
    not_nets: tuple[str, ...] = ()
    ports: tuple[int | str, ...] = ()
    not_ports: tuple[int | str, ...] = ()

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, selector in (
            ("selector", self.selector),
            ("notSelector", self.not_selector),
            ("namespaceSelector", self.namespace_selector),
        ):
            if selector is not None:
                found[name] = text_of(selector)
        if self.account_names or self.account_selector is not None:
            found["serviceAccounts"] = {
                **({"names": list(self.account_names)} if self.account_names else {}),
                **({"selector": text_of(self.account_selector)} if self.account_selector is not None else {}),
            }
        for name, values in (
            ("nets", self.nets),
            ("notNets", self.not_nets),
            ("ports", self.ports),
            ("notPorts", self.not_ports),
        ):
            if values:
                found[name] = list(values)
        return found


@frozen
class RuleOf:
    action: str
    protocol: str = ""
    not_protocol: str = ""
    icmp: tuple[int, int | None] | None = None
    not_icmp: tuple[int, int | None] | None = None
    source: Side = Side()
    destination: Side = Side()

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = {"action": self.action}
        if self.protocol:
            found["protocol"] = self.protocol
        if self.not_protocol:
            found["notProtocol"] = self.not_protocol
        for name, value in (("icmp", self.icmp), ("notICMP", self.not_icmp)):
            if value is not None:
                found[name] = {"type": value[0], **({} if value[1] is None else {"code": value[1]})}
        for name, side in (("source", self.source), ("destination", self.destination)):
            if document := side.document():
                found[name] = document
        return found


@frozen
class PolicyOf:
    name: str
    namespace: str  # "" for a GlobalNetworkPolicy
    tier: str
    order: float | None
    types: tuple[str, ...]
    applies: Side  # selector, namespace_selector, account_selector
    ingress: tuple[RuleOf, ...] = ()
    egress: tuple[RuleOf, ...] = ()

    def document(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"tier": self.tier, "types": list(self.types)}
        if self.order is not None:
            spec["order"] = self.order
        for name, selector in (
            ("selector", self.applies.selector),
            ("namespaceSelector", self.applies.namespace_selector),
            ("serviceAccountSelector", self.applies.account_selector),
        ):
            if selector is not None:
                spec[name] = text_of(selector)
        for name, rules in (("ingress", self.ingress), ("egress", self.egress)):
            if rules:
                spec[name] = [rule.document() for rule in rules]
        metadata = {"name": self.name, **({"namespace": self.namespace} if self.namespace else {})}
        kind = "NetworkPolicy" if self.namespace else "GlobalNetworkPolicy"
        return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}

    @property
    def rank(self) -> tuple[float, str]:
        kind = "NetworkPolicy" if self.namespace else "GlobalNetworkPolicy"
        return (math.inf if self.order is None else self.order, f"{self.name}/{self.namespace}/{kind}")


@frozen
class TierOf:
    name: str
    order: float | None
    default_action: str = "Deny"


@frozen
class Packet:
    source: str
    destination: str
    protocol: str
    port: int = 0
    icmp: tuple[int, int] = (0, 0)
    source_port: int = 1


@frozen
class Oracle:
    entities: Sequence[Entity]
    tiers: Sequence[TierOf]
    policies: Sequence[PolicyOf]

    def allows(self, workload: Entity, packet: Packet, direction: str) -> bool:
        """Whether what ``workload`` sends (``egress``) or is sent (``ingress``) may pass."""
        for tier in sorted(self.tiers, key=lambda one: (math.inf if one.order is None else one.order, one.name)):
            verdict = self._tier(tier, workload, packet, direction)
            if verdict in ("Allow", "Deny"):
                return verdict == "Allow"
        return True  # the namespace's profile

    def _tier(self, tier: TierOf, workload: Entity, packet: Packet, direction: str) -> str:
        policies = [
            policy
            for policy in sorted(self.policies, key=lambda one: one.rank)
            if policy.tier == tier.name and direction.capitalize() in policy.types and self._applies(policy, workload)
        ]
        for policy in policies:
            for rule in policy.ingress if direction == "ingress" else policy.egress:
                if rule.action != "Log" and self._matches(rule, policy.namespace, packet):
                    return rule.action
        return tier.default_action if policies else "Pass"

    def _applies(self, policy: PolicyOf, workload: Entity) -> bool:
        side = policy.applies
        return (
            (not policy.namespace or workload.namespace == policy.namespace)
            and (side.selector is None or holds(side.selector, workload.labels))
            and (side.namespace_selector is None or holds(side.namespace_selector, workload.namespace_labels))
            and (side.account_selector is None or holds(side.account_selector, workload.account_labels))
        )

    def _matches(self, rule: RuleOf, home: str, packet: Packet) -> bool:
        if rule.protocol and rule.protocol != packet.protocol:
            return False
        if rule.not_protocol and rule.not_protocol == packet.protocol:
            return False
        if (rule.icmp is not None or rule.not_icmp is not None) and packet.protocol != "ICMP":
            return False
        if rule.icmp is not None and not _is_icmp(rule.icmp, packet.icmp):
            return False
        if rule.not_icmp is not None and _is_icmp(rule.not_icmp, packet.icmp):
            return False
        return self._side(rule.source, home, packet.source, packet.source_port, packet) and self._side(
            rule.destination, home, packet.destination, packet.port, packet
        )

    def _side(self, side: Side, home: str, address: str, port: int, packet: Packet) -> bool:
        if side.nets and not _within(address, side.nets):
            return False
        if _within(address, side.not_nets):
            return False
        there = [entity for entity in self.entities if entity.has(address)]
        wanted = [entity for entity in there if self._is_wanted(side, home, entity)]
        named = any(isinstance(port_, str) and not _is_range(port_) for port_ in side.ports)
        numeric = any(not isinstance(port_, str) or _is_range(port_) for port_ in side.ports)
        if side.not_selector is not None:
            if self._has_scope(side, home):
                if not any(not holds(side.not_selector, entity.labels) for entity in wanted):
                    return False
            elif any(holds(side.not_selector, entity.labels) for entity in there):
                return False
        elif self._has_scope(side, home) and (numeric or not named) and not wanted:
            return False
        if side.ports and not self._is_port(side.ports, wanted, port, packet):
            return False
        return not self._is_port(side.not_ports, wanted, port, packet)

    def _has_scope(self, side: Side, home: str) -> bool:
        """Whether the rule says whom it means, by selectors or, with them, by the policy's own namespace."""
        said = side.selector is not None or bool(side.account_names) or side.account_selector is not None
        return said or side.namespace_selector is not None or (side.not_selector is not None and bool(home))

    def _is_wanted(self, side: Side, home: str, entity: Entity) -> bool:
        if not self._has_scope(side, home):
            return True
        if side.namespace_selector == ("all",):
            scope = bool(entity.namespace)
        elif side.namespace_selector == ("global",):
            scope = not entity.namespace
        elif side.namespace_selector is not None:
            scope = holds(side.namespace_selector, entity.namespace_labels)
        else:
            scope = not home or entity.namespace == home
        return (
            scope
            and (side.selector is None or holds(side.selector, entity.labels))
            and (not side.account_names or entity.account in side.account_names)
            and (side.account_selector is None or holds(side.account_selector, entity.account_labels))
        )

    def _is_port(self, ports: Iterable[int | str], who: list[Entity], port: int, packet: Packet) -> bool:
        if packet.protocol not in ("TCP", "UDP"):
            return False
        for one in ports:
            if isinstance(one, int):
                if one == port:
                    return True
            elif _is_range(one):
                low, _, high = one.partition(":")
                if int(low) <= port <= int(high):
                    return True
            elif any(entity.ports.get(one) == (packet.protocol, port) for entity in who):
                return True
        return False


def _is_range(port: str) -> bool:
    return ":" in port


def _is_icmp(wanted: tuple[int, int | None], found: tuple[int, int]) -> bool:
    return wanted[0] == found[0] and wanted[1] in (None, found[1])


def _within(address: str, nets: Iterable[str]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in nets)
