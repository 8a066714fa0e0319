"""Kubernetes NetworkPolicy -> Calico NetworkPolicy.  Pure.

Source: Calico ``libcalico-go/lib/backend/k8s/conversion/conversion.go``, ``K8sNetworkPolicyToCalico``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calico_node.addresses import canonical_cidr
from calico_node.errors import ValidationError
from calico_node.resources import NetworkPolicy, from_dict

POLICY_PREFIX = "knp.default."
ORDER = 1000
MAX_PORTS = 50  # of one Calico rule
_ORCHESTRATOR = "projectcalico.org/orchestrator == 'k8s'"
_OPERATORS = {"In": "in", "NotIn": "not in"}


def network_policy_to_calico(policy: Mapping[str, Any]) -> NetworkPolicy:
    """The Calico NetworkPolicy ``knp.default.<name>`` (as kept in etcd).  A rule that cannot be converted is left
    out: rules only allow, so less is open.  Raises ``ValidationError`` when the policy as a whole cannot stand."""
    resource = from_dict(convert_network_policy(policy)[0])
    assert isinstance(resource, NetworkPolicy)
    return resource


def convert_network_policy(policy: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The same as a JSON document, and what had to be left out, with the reason."""
    metadata, spec = policy["metadata"], policy.get("spec") or {}
    problems: list[str] = []
    types = [kind for kind in ("Ingress", "Egress") if kind in (spec.get("policyTypes") or ())] or ["Ingress"]
    out: dict[str, Any] = {"tier": "default", "order": ORDER}
    for direction, peers, side in (("ingress", "from", "source"), ("egress", "to", "destination")):
        rules: list[dict[str, Any]] = []
        for index, rule in enumerate(spec.get(direction) or ()):
            try:
                rules.extend(_rules(rule or {}, peers, side))
            except ValidationError as error:
                problems.append(f"spec.{direction}[{index}] is left out: {error.reason}")
        if rules:
            out[direction] = rules
    out["selector"] = pod_selector(spec.get("podSelector"))
    out["types"] = types
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": POLICY_PREFIX + metadata["name"],
            "namespace": metadata.get("namespace") or "default",
        },
        "spec": out,
    }
    return document, problems


def pod_selector(selector: Mapping[str, Any] | None) -> str:
    """A podSelector (None too) as Calico selector text."""
    return " && ".join([_ORCHESTRATOR, *_terms(selector or {})])


def namespace_selector(selector: Mapping[str, Any] | None) -> str:
    """A namespaceSelector: absent is "", empty is ``all()``."""
    return "" if selector is None else " && ".join(_terms(selector)) or "all()"


def _terms(selector: Mapping[str, Any]) -> Iterator[str]:
    labels = selector.get("matchLabels") or {}
    for key in sorted(labels):
        yield f"{key} == '{labels[key]}'"
    for expression in selector.get("matchExpressions") or ():
        key, operator = expression.get("key"), expression.get("operator")
        if operator in _OPERATORS:
            values = "', '".join(str(value) for value in expression.get("values") or ())
            yield f"{key} {_OPERATORS[operator]} {{ '{values}' }}"
        elif operator == "Exists":
            yield f"has({key})"
        elif operator == "DoesNotExist":
            yield f"! has({key})"
        else:
            raise ValidationError(f"{operator!r} is not a selector operator", field="operator", value=operator)


def _rules(rule: Mapping[str, Any], peers_name: str, side: str) -> Iterator[dict[str, Any]]:
    groups = _port_groups(rule.get("ports") or ())
    for protocol, ports in groups:
        for peer in rule.get(peers_name) or [None]:
            out: dict[str, Any] = {"action": "Allow"}
            if protocol:
                out["protocol"] = protocol
            entity = _entity(peer)
            if side == "source" and entity:
                out["source"] = entity
            destination = {**(entity if side == "destination" else {}), **({"ports": ports} if ports else {})}
            if destination:
                out["destination"] = destination
            yield out


def _entity(peer: Mapping[str, Any] | None) -> dict[str, Any]:
    if peer is None:
        return {}
    if block := peer.get("ipBlock"):
        entity: dict[str, Any] = {"nets": [canonical_cidr(block["cidr"])]}
        if block.get("except"):
            entity["notNets"] = [canonical_cidr(cidr) for cidr in block["except"]]
        return entity
    if peer.get("podSelector") is None and peer.get("namespaceSelector") is None:
        raise ValidationError("a peer names neither podSelector, namespaceSelector nor ipBlock", value=dict(peer))
    entity = {"selector": pod_selector(peer.get("podSelector"))}
    if namespaces := namespace_selector(peer.get("namespaceSelector")):
        entity["namespaceSelector"] = namespaces
    return entity


def _port_groups(ports: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[int | str]]]:
    """Ports by protocol, in protocol order; an empty list means every port.  None at all: one group, no protocol."""
    if not ports:
        return [("", [])]
    named: dict[str, list[str]] = {}
    ranges: dict[str, list[tuple[int, int]]] = {}
    every: set[str] = set()
    for entry in ports:
        protocol = entry.get("protocol") or "TCP"
        port, end = entry.get("port"), entry.get("endPort")
        named.setdefault(protocol, [])
        if isinstance(port, str) and port.isdigit():
            port = int(port)
        if port is None:
            if end is not None:
                raise ValidationError("endPort needs a port", field="endPort", value=end)
            every.add(protocol)
        elif isinstance(port, str):
            if end is not None:
                raise ValidationError("endPort needs a numeric port", field="port", value=port)
            if port not in named[protocol]:
                named[protocol].append(port)
        else:
            last = port if end is None else end
            if not 0 < port <= last < 65536:
                raise ValidationError(f"port {port} to {last} is not within 1 to 65535", field="port", value=port)
            ranges.setdefault(protocol, []).append((port, last))
    groups: list[tuple[str, list[int | str]]] = []
    for protocol in sorted(named):
        if protocol in every:
            groups.append((protocol, []))
            continue
        texts: list[int | str] = [*named[protocol], *_merged(ranges.get(protocol, []))]
        groups += [(protocol, texts[at : at + MAX_PORTS]) for at in range(0, len(texts), MAX_PORTS)]
    return groups


def _merged(ranges: list[tuple[int, int]]) -> list[int | str]:
    """Sorted; overlapping, adjacent and double ones joined; a single port as a number, a range as ``low:high``."""
    joined: list[list[int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1][1] = max(joined[-1][1], high)
        else:
            joined.append([low, high])
    return [low if low == high else f"{low}:{high}" for low, high in joined]
