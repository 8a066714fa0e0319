"""v3 policies, profiles and tiers to the v1 model, with namespace and service-account matches folded into selectors.

libcalico-go ``backend/syncersv1/updateprocessors`` (rules.go, networkpolicyprocessor.go and their siblings); the
composed selector texts are Calico's, letter for letter, because selector ids are made from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from calico_node.addresses import canonical_cidr
from calico_node.model import Policy, Port, ProfileRules, Rule, Tier
from calico_node.selectors import parse, prefix_labels

NAMESPACE_LABEL = "projectcalico.org/namespace"
SERVICE_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"
NAMESPACE_PREFIX = "pcns."
SERVICE_ACCOUNT_PREFIX = "pcsa."

_ACTIONS = {"Allow": "allow", "Deny": "deny", "Log": "log", "Pass": "next-tier"}


def policy(resource: Any) -> Policy | None:
    """A NetworkPolicy, GlobalNetworkPolicy or staged one; None for a staged deletion."""
    spec = resource.spec
    staged = getattr(spec, "staged_action", None) or ""
    if staged == "Delete":
        return None
    namespace = resource.metadata.namespace or ""
    return Policy(
        tier=spec.tier or "default",
        namespace=namespace,
        order=spec.order,
        selector=_namespaced_selector(spec, namespace) if namespace else _global_selector(spec),
        types=tuple(kind.lower() for kind in spec.types or ()),
        inbound_rules=rules(spec.ingress, namespace),
        outbound_rules=rules(spec.egress, namespace),
        untracked=bool(getattr(spec, "do_not_track", False)),
        pre_dnat=bool(getattr(spec, "pre_dnat", False)),
        apply_on_forward=bool(getattr(spec, "apply_on_forward", False)),
        performance_hints=tuple(spec.performance_hints or ()),
        staged_action=staged or ("Set" if resource.kind.startswith("Staged") else ""),
    )


def profile_rules(resource: Any) -> ProfileRules:
    return ProfileRules(rules(resource.spec.ingress, ""), rules(resource.spec.egress, ""))


def tier(resource: Any) -> Tier:
    """Anything but Pass is Deny."""
    action = "Pass" if resource.spec.default_action == "Pass" else "Deny"
    return Tier(order=resource.spec.order, default_action=action)


def _namespaced_selector(spec: Any, namespace: str) -> str:
    own = f"{NAMESPACE_LABEL} == '{namespace}'"
    selector = f"({spec.selector}) && {own}" if spec.selector else own
    if spec.service_account_selector:
        prefixed = _prefixed(spec.service_account_selector, SERVICE_ACCOUNT_PREFIX)
        selector = f"({selector}) && {prefixed}" if prefixed else selector
    return selector


def _global_selector(spec: Any) -> str:
    selector = spec.selector or ""
    for text, prefix, label in (
        (spec.namespace_selector, NAMESPACE_PREFIX, NAMESPACE_LABEL),
        (spec.service_account_selector, SERVICE_ACCOUNT_PREFIX, SERVICE_ACCOUNT_LABEL),
    ):
        if text:
            prefixed = _prefixed(text, prefix)
            selector = f"({selector}) && {prefixed}" if selector and prefixed else selector or prefixed
            # Calico replaces the text wherever it stands, in the policy's own selector too.
            selector = selector.replace("all()", f"has({label})")
    return selector


def _prefixed(text: str, prefix: str) -> str:
    return prefix_labels(text, prefix)


def rules(items: Iterable[Any] | None, namespace: str) -> tuple[Rule, ...]:
    """The v1 rules of a rule list; ``namespace`` is the policy's, "" for global policies and profiles."""
    return tuple(rule(item, namespace) for item in items or ())


def rule(item: Any, namespace: str) -> Rule:
    source, destination = item.source, item.destination
    source_service = _service(source, namespace)
    destination_service = _service(destination, namespace)
    return Rule(
        action=_ACTIONS.get(item.action, "deny"),
        ip_version=item.ip_version,
        protocol=_protocol(item.protocol),
        not_protocol=_protocol(item.not_protocol),
        icmp_type=item.icmp.type if item.icmp else None,
        icmp_code=item.icmp.code if item.icmp else None,
        not_icmp_type=item.not_icmp.type if item.not_icmp else None,
        not_icmp_code=item.not_icmp.code if item.not_icmp else None,
        src_nets=_nets(source, "nets"),
        not_src_nets=_nets(source, "not_nets"),
        src_selector=entity_selector(source, namespace),
        not_src_selector=(source.not_selector or "") if source else "",
        src_ports=_ports(source.ports) if source else (),
        not_src_ports=_ports(source.not_ports) if source else (),
        dst_nets=_nets(destination, "nets"),
        not_dst_nets=_nets(destination, "not_nets"),
        dst_selector=entity_selector(destination, namespace),
        not_dst_selector=(destination.not_selector or "") if destination else "",
        dst_ports=_ports(destination.ports) if destination else (),
        not_dst_ports=_ports(destination.not_ports) if destination else (),
        src_service=source_service[0],
        src_service_namespace=source_service[1],
        dst_service=destination_service[0],
        dst_service_namespace=destination_service[1],
        metadata=dict(item.metadata.annotations) if item.metadata else {},
    )


def entity_selector(entity: Any | None, namespace: str) -> str:
    """The one selector that stands for an EntityRule's selector, namespaceSelector and serviceAccounts."""
    if entity is None:
        return ""
    parts = [part for part in (_service_accounts(entity.service_accounts), entity.selector or "") if part]
    selector = f"({parts[0]}) && ({parts[1]})" if len(parts) == 2 else "".join(parts)
    scope = _namespace_scope(entity.namespace_selector or "", namespace)
    if scope and (selector or entity.not_selector or entity.namespace_selector):
        return f"({scope}) && ({selector})" if selector else scope
    return selector


def _namespace_scope(namespace_selector: str, namespace: str) -> str:
    if namespace_selector:
        scope = _prefixed(namespace_selector, NAMESPACE_PREFIX)
        scope = scope.replace("all()", f"has({NAMESPACE_LABEL})")
        return scope.replace("global()", f"!has({NAMESPACE_LABEL})")
    return f"{NAMESPACE_LABEL} == '{namespace}'" if namespace else ""


def _service_accounts(match: Any | None) -> str:
    if match is None:
        return ""
    by_label = _prefixed(match.selector, SERVICE_ACCOUNT_PREFIX) if match.selector else ""
    by_name = ""
    if match.names:
        names = ", ".join(f'"{name}"' for name in match.names)
        by_name = parse(f"{SERVICE_ACCOUNT_LABEL} in {{{names}}}").canonical
    return f"({by_label}) && ({by_name})" if by_label and by_name else by_label or by_name


def _service(entity: Any | None, namespace: str) -> tuple[str, str]:
    if entity is None or entity.services is None:
        return "", ""
    return entity.services.name, entity.services.namespace or namespace


def _nets(entity: Any | None, attribute: str) -> tuple[str, ...]:
    return tuple(canonical_cidr(net) for net in getattr(entity, attribute) or ()) if entity else ()


def _protocol(value: str | int | None) -> str | int | None:
    return value.lower() if isinstance(value, str) else value


def _ports(values: Sequence[str | int]) -> tuple[Port, ...]:
    return tuple(map(_port, values))


def _port(value: str | int) -> Port:
    if isinstance(value, int):
        return Port(value, value)
    low, colon, high = value.partition(":")
    if colon and low.isdigit() and high.isdigit():
        return Port(int(low), int(high))
    return Port(int(value), int(value)) if value.isdigit() else Port(name=value)
