"""What a Kubernetes API server would refuse, as far as it matters to the network.  Pure.

Every function raises ``ValidationError`` with the resource, the field, the value and the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from calico_node.addresses import parse_network
from calico_node.errors import ValidationError
from calico_node.kubernetes.kinds import KINDS, ref_of

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")
_PORT_NAME = re.compile(r"(?=[a-z0-9-]{1,15}\Z)(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
_LABEL_KINDS = ("Namespace", "Service")  # names that become DNS labels
_NETWORK_POLICY = {"podSelector", "ingress", "egress", "policyTypes"}


def validate(document: Mapping[str, Any], *, origin: str = "") -> None:
    """Check a document whose defaults have been applied; ``origin`` is the file and document for the error's text."""
    try:
        _validate(document)
    except ValidationError as error:
        raise ValidationError(
            error.reason, resource=str(ref_of(document)), field=error.field, value=error.value, origin=origin
        ) from None


def _validate(document: Mapping[str, Any]) -> None:
    kind = KINDS.get(str(document.get("kind")))
    if kind is None:
        raise _fault("kind", document.get("kind"), "not a Kubernetes kind known here")
    if document.get("apiVersion") not in kind.api_versions:
        raise _fault("apiVersion", document.get("apiVersion"), f"must be {' or '.join(kind.api_versions)}")
    metadata = _mapping(document.get("metadata"), "metadata")
    name = metadata.get("name")
    _name(name, "metadata.name", _LABEL if kind.kind in _LABEL_KINDS else _SUBDOMAIN, 253)
    if kind.namespaced:
        _name(metadata.get("namespace"), "metadata.namespace", _LABEL, 63)
    _labels(metadata.get("labels"), "metadata.labels")
    for key, value in _mapping(metadata.get("annotations") or {}, "metadata.annotations").items():
        if not isinstance(value, str):
            raise _fault(f"metadata.annotations[{key}]", value, "must be a text (quote it)")
    if kind.kind in _CHECKS:
        _CHECKS[kind.kind](_mapping(document.get("spec"), "spec"), "spec")


def _fault(field: str, value: Any, reason: str) -> ValidationError:
    return ValidationError(reason, field=field, value=value)


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _fault(field, value, "must be a mapping")
    return value


def _list(value: Any, field: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _fault(field, value, "must be a list")
    return value


def _name(value: Any, field: str, pattern: re.Pattern[str], longest: int) -> None:
    longest = 63 if pattern is _LABEL else longest
    if not isinstance(value, str) or len(value) > longest or not pattern.match(value):
        raise _fault(
            field, value, f"must be lower-case letters, digits and dashes (at most {longest}), no dash at either end"
        )


def _labels(value: Any, field: str) -> Mapping[str, Any]:
    labels = _mapping(value if value is not None else {}, field)
    for key, text in labels.items():
        _label_key(key, field)
        _label_value(text, f"{field}[{key}]")
    return labels


def _label_key(key: Any, field: str) -> None:
    prefix, slash, name = key.rpartition("/") if isinstance(key, str) else ("", "", "")
    if len(name) > 63 or not _QUALIFIED.match(name) or (slash and not _SUBDOMAIN.match(prefix)):
        raise _fault(field, key, "not a valid label name")


def _label_value(value: Any, field: str) -> None:
    if not isinstance(value, str):
        raise _fault(field, value, "a label value must be a text (quote it)")
    if value and (len(value) > 63 or not _QUALIFIED.match(value)):
        raise _fault(field, value, "not a valid label value")


def _selector(value: Any, field: str, *, required: bool = False) -> Mapping[str, Any]:
    if value is None and not required:
        return {}
    selector = _mapping(value, field)
    for member in selector:
        if member not in ("matchLabels", "matchExpressions"):
            raise _fault(f"{field}.{member}", selector[member], "unknown field of a label selector")
    _labels(selector.get("matchLabels"), f"{field}.matchLabels")
    for index, expression in enumerate(_list(selector.get("matchExpressions"), f"{field}.matchExpressions")):
        at = f"{field}.matchExpressions[{index}]"
        expression = _mapping(expression, at)
        _label_key(expression.get("key"), f"{at}.key")
        operator = expression.get("operator")
        if operator not in _OPERATORS:
            raise _fault(f"{at}.operator", operator, f"must be one of {', '.join(_OPERATORS)}")
        values = _list(expression.get("values"), f"{at}.values")
        if bool(values) != (operator in ("In", "NotIn")):
            raise _fault(f"{at}.values", values, f"operator {operator} " + ("takes none" if values else "needs some"))
        for text in values:
            _label_value(text, f"{at}.values")
    return selector


def _number(value: Any, field: str, low: int = 1, high: int = 65535) -> int:
    if type(value) is not int or not low <= value <= high:
        raise _fault(field, value, f"must be a number from {low} to {high}")
    return value


def _port_name(value: Any, field: str) -> None:
    if not isinstance(value, str) or not _PORT_NAME.match(value):
        raise _fault(field, value, "must be a port name: at most 15 of a-z, 0-9 and single dashes, with a letter")


def _protocol(value: Any, field: str) -> None:
    if value not in _PROTOCOLS:
        raise _fault(field, value, "must be TCP, UDP or SCTP")


def _pod(spec: Mapping[str, Any], field: str) -> None:
    account = spec.get("serviceAccountName")
    _name(account, f"{field}.serviceAccountName", _SUBDOMAIN, 253)
    if spec.get("nodeName") is not None:
        _name(spec["nodeName"], f"{field}.nodeName", _SUBDOMAIN, 253)
    if not _list(spec.get("containers"), f"{field}.containers"):
        raise _fault(f"{field}.containers", spec.get("containers"), "a pod needs a container")
    for group in ("containers", "initContainers"):
        names: set[str] = set()
        for index, container in enumerate(_list(spec.get(group), f"{field}.{group}")):
            at = f"{field}.{group}[{index}]"
            container = _mapping(container, at)
            _name(container.get("name"), f"{at}.name", _LABEL, 63)
            if container["name"] in names:
                raise _fault(f"{at}.name", container["name"], "the name stands twice")
            names.add(container["name"])
            _container_ports(_list(container.get("ports"), f"{at}.ports"), f"{at}.ports")


def _container_ports(ports: list[Any], field: str) -> None:
    for index, port in enumerate(ports):
        at = f"{field}[{index}]"
        port = _mapping(port, at)
        _number(port.get("containerPort"), f"{at}.containerPort")
        _protocol(port.get("protocol"), f"{at}.protocol")
        if port.get("name") not in (None, ""):
            _port_name(port["name"], f"{at}.name")
        if port.get("hostPort"):
            _number(port["hostPort"], f"{at}.hostPort")


def _workload(spec: Mapping[str, Any], field: str) -> None:
    if spec.get("replicas") is not None:
        _number(spec["replicas"], f"{field}.replicas", 0, 100_000)
    selector = _selector(spec.get("selector"), f"{field}.selector", required=True)
    template = _mapping(spec.get("template"), f"{field}.template")
    metadata = _mapping(template.get("metadata") or {}, f"{field}.template.metadata")
    labels = _labels(metadata.get("labels"), f"{field}.template.metadata.labels")
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            raise _fault(
                f"{field}.template.metadata.labels", dict(labels), f"the selector asks for {key}: {value}, not here"
            )
    _pod(_mapping(template.get("spec"), f"{field}.template.spec"), f"{field}.template.spec")


def _job(spec: Mapping[str, Any], field: str) -> None:
    for member in ("parallelism", "completions"):
        if spec.get(member) is not None:
            _number(spec[member], f"{field}.{member}", 0, 100_000)
    template = _mapping(spec.get("template"), f"{field}.template")
    metadata = _mapping(template.get("metadata") or {}, f"{field}.template.metadata")
    _labels(metadata.get("labels"), f"{field}.template.metadata.labels")
    _pod(_mapping(template.get("spec"), f"{field}.template.spec"), f"{field}.template.spec")


def _cron_job(spec: Mapping[str, Any], field: str) -> None:
    template = _mapping(spec.get("jobTemplate"), f"{field}.jobTemplate")
    _job(_mapping(template.get("spec"), f"{field}.jobTemplate.spec"), f"{field}.jobTemplate.spec")


def _service(spec: Mapping[str, Any], field: str) -> None:
    _labels(spec.get("selector"), f"{field}.selector")
    if spec.get("type") not in ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"):
        raise _fault(f"{field}.type", spec.get("type"), "must be ClusterIP, NodePort, LoadBalancer or ExternalName")
    cluster_ip = spec.get("clusterIP")
    if cluster_ip not in (None, "", "None"):
        _cidr(cluster_ip, f"{field}.clusterIP", bare=True)
    ports = _list(spec.get("ports"), f"{field}.ports")
    names: set[str] = set()
    for index, port in enumerate(ports):
        at = f"{field}.ports[{index}]"
        port = _mapping(port, at)
        _number(port.get("port"), f"{at}.port")
        _protocol(port.get("protocol"), f"{at}.protocol")
        if isinstance(port.get("targetPort"), str):
            _port_name(port["targetPort"], f"{at}.targetPort")
        else:
            _number(port.get("targetPort"), f"{at}.targetPort")
        name = port.get("name") or ""
        if name:
            _name(name, f"{at}.name", _LABEL, 63)
        if name in names or (not name and len(ports) > 1):
            raise _fault(f"{at}.name", name, "each of several ports needs a name of its own")
        names.add(name)


def _network_policy(spec: Mapping[str, Any], field: str) -> None:
    _only(spec, field, _NETWORK_POLICY)
    _selector(spec.get("podSelector"), f"{field}.podSelector", required=True)
    types = _list(spec.get("policyTypes"), f"{field}.policyTypes")
    for index, value in enumerate(types):
        if value not in ("Ingress", "Egress") or types.index(value) != index:
            raise _fault(f"{field}.policyTypes[{index}]", value, "must be Ingress or Egress, each at most once")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(_list(spec.get(direction), f"{field}.{direction}")):
            at = f"{field}.{direction}[{index}]"
            rule = _mapping(rule, at)
            _only(rule, at, {"ports", peers})
            for number, port in enumerate(_list(rule.get("ports"), f"{at}.ports")):
                _policy_port(_mapping(port, f"{at}.ports[{number}]"), f"{at}.ports[{number}]")
            for number, peer in enumerate(_list(rule.get(peers), f"{at}.{peers}")):
                _peer(_mapping(peer, f"{at}.{peers}[{number}]"), f"{at}.{peers}[{number}]")


def _only(value: Mapping[str, Any], field: str, known: set[str]) -> None:
    for member in value:
        if member not in known:
            raise _fault(f"{field}.{member}", value[member], f"unknown field; known are {', '.join(sorted(known))}")


def _policy_port(port: Mapping[str, Any], field: str) -> None:
    _only(port, field, {"protocol", "port", "endPort"})
    _protocol(port.get("protocol"), f"{field}.protocol")
    number, end = port.get("port"), port.get("endPort")
    if isinstance(number, str):
        _port_name(number, f"{field}.port")
    elif number is not None:
        _number(number, f"{field}.port")
    if end is not None:
        if type(number) is not int:
            raise _fault(f"{field}.endPort", end, "needs a numeric port")
        _number(end, f"{field}.endPort", number)


def _peer(peer: Mapping[str, Any], field: str) -> None:
    _only(peer, field, {"podSelector", "namespaceSelector", "ipBlock"})
    present = [name for name in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(name) is not None]
    if not present:
        raise _fault(field, dict(peer), "must name podSelector, namespaceSelector or ipBlock")
    if "ipBlock" in present:
        if len(present) > 1:
            raise _fault(field, dict(peer), "ipBlock cannot stand beside a selector")
        block = _mapping(peer["ipBlock"], f"{field}.ipBlock")
        _only(block, f"{field}.ipBlock", {"cidr", "except"})
        _cidr(block.get("cidr"), f"{field}.ipBlock.cidr")
        outer = parse_network(block["cidr"])
        for index, text in enumerate(_list(block.get("except"), f"{field}.ipBlock.except")):
            at = f"{field}.ipBlock.except[{index}]"
            _cidr(text, at)
            inner = parse_network(text)
            if inner == outer or inner.version != outer.version or not inner.subnet_of(outer):  # type: ignore[arg-type]
                raise _fault(at, text, f"must be a proper part of {outer}")
    _selector(peer.get("podSelector"), f"{field}.podSelector")
    _selector(peer.get("namespaceSelector"), f"{field}.namespaceSelector")


def _cidr(value: Any, field: str, *, bare: bool = False) -> None:
    if not isinstance(value, str) or ("/" in value) is bare:
        raise _fault(field, value, "must be an IP address" if bare else "must be a CIDR, such as 10.0.0.0/8")
    try:
        parse_network(value)
    except ValidationError as error:
        raise _fault(field, value, error.reason) from None


_CHECKS: Mapping[str, Callable[[Mapping[str, Any], str], None]] = {
    "Pod": _pod,
    "Deployment": _workload,
    "ReplicaSet": _workload,
    "StatefulSet": _workload,
    "DaemonSet": _workload,
    "Job": _job,
    "CronJob": _cron_job,
    "Service": _service,
    "NetworkPolicy": _network_policy,
}
