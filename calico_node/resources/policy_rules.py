"""Rules of policies and profiles that go beyond one field, each a function that raises ``Fault``."""

import ipaddress
from typing import Any

from calico_node.resources.fields import Fault
from calico_node.resources.policy import EntityRule, HTTPMatch, Rule
from calico_node.resources.scalars import port_range, protocol_number
from calico_node.resources.structure import write_struct

_PORT_PROTOCOLS = (6, 17, 132)
_ICMP = {1: 6, 58: 4}
"""Protocol numbers of ICMP and ICMPv6, each with the IP version it contradicts."""


def check_policy(resource: Any) -> None:
    _check_types(resource.spec.types, "types")
    _check_hints(resource.spec.performance_hints)
    _check_rules(resource.spec, global_policy=False)


def check_global_policy(resource: Any) -> None:
    spec = resource.spec
    _check_types(spec.types, "types")
    _check_hints(spec.performance_hints)
    if spec.do_not_track and spec.pre_dnat:
        raise Fault("cannot be combined with doNotTrack", True, "spec.preDNAT")
    for name, value in (("doNotTrack", spec.do_not_track), ("preDNAT", spec.pre_dnat)):
        if value and not spec.apply_on_forward:
            raise Fault(f"must be true with {name}", bool(spec.apply_on_forward), "spec.applyOnForward")
    if spec.pre_dnat and (spec.egress or "Egress" in spec.types):
        raise Fault("a preDNAT policy cannot have egress rules", path="spec.egress" if spec.egress else "spec.types")
    _check_rules(spec, global_policy=True)


def check_staged_policy(resource: Any) -> None:
    if not _is_delete(resource, ("tier",)):
        check_policy(resource)


def check_staged_global_policy(resource: Any) -> None:
    if not _is_delete(resource, ("tier",)):
        check_global_policy(resource)


def check_staged_kubernetes_policy(resource: Any) -> None:
    if not _is_delete(resource, ()):
        _check_types(resource.spec.policy_types, "policyTypes")


def check_profile(resource: Any) -> None:
    _check_rules(resource.spec, global_policy=True)


def _is_delete(resource: Any, allowed: tuple[str, ...]) -> bool:
    if resource.spec.staged_action != "Delete":
        return False
    unknown = resource.spec.extra or {}
    for name, value in write_struct(resource.spec).items():
        if name not in ("stagedAction", *allowed, *unknown) and value != {}:
            raise Fault("must be absent with stagedAction Delete", path=f"spec.{name}")
    return True


def _check_hints(hints: list[str]) -> None:
    if len(set(hints)) < len(hints):
        raise Fault("has a hint twice", hints, "spec.performanceHints")


def _check_types(types: list[str], name: str) -> None:
    if len(set(types)) < len(types):
        raise Fault("has a type twice", types, f"spec.{name}")


def _check_rules(spec: Any, *, global_policy: bool) -> None:
    for direction, rules in (("ingress", spec.ingress), ("egress", spec.egress)):
        for index, rule in enumerate(rules):
            try:
                check_rule(rule, ingress=direction == "ingress", global_policy=global_policy)
            except Fault as fault:
                raise fault.under(f"spec.{direction}[{index}]") from None


def check_rule(rule: Rule, *, ingress: bool, global_policy: bool) -> None:
    """Raise ``Fault`` where the criteria of one rule contradict each other."""
    if rule.ip_version not in (None, 4, 6):
        raise Fault("must be 4 or 6", rule.ip_version, "ipVersion")
    _check_protocols(rule)
    _check_icmp(rule)
    _check_families(rule)
    for name, entity, may_match_service in (
        ("source", rule.source, ingress),
        ("destination", rule.destination, not ingress),
    ):
        if entity is not None and entity.services is not None:
            try:
                _check_service(entity, may_match_service, ports=name == "source", global_policy=global_policy)
            except Fault as fault:
                raise fault.under(name) from None
    if rule.http is not None:
        try:
            _check_http(rule, rule.http, ingress)
        except Fault as fault:
            raise fault.under("http") from None


def _entities(rule: Rule) -> list[tuple[str, EntityRule]]:
    both = (("source", rule.source), ("destination", rule.destination))
    return [(name, entity) for name, entity in both if entity is not None]


def _check_protocols(rule: Rule) -> None:
    number = None if rule.protocol is None else protocol_number(rule.protocol)
    for name, protocol in (("protocol", rule.protocol), ("notProtocol", rule.not_protocol)):
        contradicted = _ICMP.get(protocol_number(protocol) or 0) if protocol is not None else None
        if contradicted is not None and rule.ip_version == contradicted:
            raise Fault(f"contradicts ipVersion {rule.ip_version}", protocol, name)
    if number in _PORT_PROTOCOLS:
        return
    for side, entity in _entities(rule):
        for name, ports in (("ports", entity.ports), ("notPorts", entity.not_ports)):
            for index, port in enumerate(ports):
                if rule.protocol is None and port_range(port) is None:
                    continue  # a named port brings its protocol with it
                reason = "protocol must be TCP, UDP or SCTP where a rule has ports"
                raise Fault(reason, port, f"{side}.{name}[{index}]")


def _check_icmp(rule: Rule) -> None:
    if rule.icmp is not None and (rule.protocol is None or protocol_number(rule.protocol) not in _ICMP):
        raise Fault("needs protocol ICMP or ICMPv6", path="icmp")
    for name, icmp in (("icmp", rule.icmp), ("notICMP", rule.not_icmp)):
        if icmp is not None and icmp.code is not None and icmp.type is None:
            raise Fault("needs a type", icmp.code, f"{name}.code")


def _check_families(rule: Rule) -> None:
    version, first = rule.ip_version, ""
    for side, entity in _entities(rule):
        for name, nets in (("nets", entity.nets), ("notNets", entity.not_nets)):
            for index, text in enumerate(nets):
                network = ipaddress.ip_network(text)
                path = f"{side}.{name}[{index}]"
                if name == "notNets" and network.prefixlen == 0:
                    raise Fault("leaves nothing to match", text, path)
                if version is None:
                    version, first = network.version, text
                elif network.version != version:
                    other = f"net {first}" if first else f"ipVersion {version}"
                    raise Fault(f"is not of the same IP version as {other} of this rule", text, path)


def _check_service(entity: EntityRule, allowed: bool, *, ports: bool, global_policy: bool) -> None:
    service = entity.services
    if not allowed:
        raise Fault(
            "services can be only the source of an ingress or the destination of an egress rule", path="services"
        )
    for name, value in (
        ("selector", entity.selector),
        ("notSelector", entity.not_selector),
        ("namespaceSelector", entity.namespace_selector),
        ("serviceAccounts", entity.service_accounts),
        ("nets", entity.nets),
        ("notNets", entity.not_nets),
        ("ports", None if ports else entity.ports),
        ("notPorts", None if ports else entity.not_ports),
    ):
        if value:
            raise Fault("cannot be combined with services", path=name)
    if global_policy and service is not None and not service.namespace:
        raise Fault("is required in a global policy", path="services.namespace")


def _check_http(rule: Rule, http: HTTPMatch, ingress: bool) -> None:
    if not ingress:
        raise Fault("can be used only in ingress rules")
    if rule.action != "Allow":
        raise Fault(f"needs action Allow, not {rule.action}")
    if rule.protocol is not None and protocol_number(rule.protocol) != 6:
        raise Fault("needs protocol TCP")
    if len(set(http.methods)) < len(http.methods):
        raise Fault("has a method twice", http.methods, "methods")
    for index, path in enumerate(http.paths):
        given = [text for text in (path.exact, path.prefix) if text is not None]
        if len(given) != 1:
            raise Fault("must be exactly one of exact and prefix", path=f"paths[{index}]")
        if not given[0].startswith("/") or any(mark in given[0] for mark in " ?#"):
            raise Fault("must start with '/' and hold no space, '?' or '#'", given[0], f"paths[{index}]")
