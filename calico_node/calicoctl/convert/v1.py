"""Resources of Calico's v1 API (releases 1 and 2) as those of v3, by the rules of Calico's upgrade.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from calico_node.addresses import canonical_cidr, ip_version
from calico_node.calicoctl.convert import names
from calico_node.calicoctl.convert.reader import Reader
from calico_node.calicoctl.convert.rules import protocol, rules
from calico_node.errors import ValidationError
from calico_node.resources.endpoint_names import workload_endpoint_name

API_VERSION = "v1"
_TYPES = {"ingress": "Ingress", "egress": "Egress"}

T = TypeVar("T")
Parts = tuple[dict[str, Any], dict[str, Any]]


def convert_v1(data: Mapping[str, Any]) -> dict[str, Any]:
    """The v3 document of a v1 one.  Raises ``ValidationError`` that names the v1 field."""
    document = Reader(dict(data))
    document.allow("apiVersion", "kind", "metadata", "spec")
    kind = document.text("kind", needed=True)
    if kind not in _KINDS:
        raise ValidationError(f"must be one of {', '.join(_KINDS)}", field="kind", value=kind)
    new_kind, function = _KINDS[kind]
    metadata, spec = function(document.within("metadata"), document.within("spec"))
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": new_kind,
        "metadata": _present(metadata),
        "spec": _present(spec),
    }


def _present(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value not in (None, "", [], {}, False)}


def _bgp_peer(metadata: Reader, spec: Reader) -> Parts:
    metadata.allow("scope", "node", "peerIP")
    spec.allow("asNumber")
    scope, node = metadata.text("scope"), metadata.text("node")
    address = metadata.text("peerIP", needed=True)
    if scope not in ("global", "node"):
        raise ValidationError("must be global or node", field="metadata.scope", value=scope)
    if (scope == "node") != bool(node):
        raise ValidationError(
            "goes with scope node alone" if node else "is missing, as scope is node", field="metadata.node"
        )
    name, node = _at(names.address_name, metadata, "peerIP", address), names.node_name(node)
    return (
        {"name": f"{node}.{name}" if node else name},
        {"peerIP": address, "node": node, "asNumber": spec.data.get("asNumber")},
    )


def _host_endpoint(metadata: Reader, spec: Reader) -> Parts:
    metadata.allow("name", "node", "labels")
    spec.allow("interfaceName", "expectedIPs", "profiles", "ports")
    node = names.node_name(metadata.text("node", needed=True))
    name = metadata.text("name", needed=True)
    return (
        {"name": names.plain_name(f"{node}.{name}"), "labels": metadata.within("labels").data},
        {
            "node": node,
            "interfaceName": spec.text("interfaceName"),
            "expectedIPs": _by_family(spec, "expectedIPs"),
            "profiles": [names.profile_name(profile) for profile in spec.texts("profiles")],
            "ports": _ports(spec),
        },
    )


def _pool(metadata: Reader, spec: Reader) -> Parts:
    metadata.allow("cidr")
    spec.allow("ipip", "nat-outgoing", "disabled")
    cidr = _at(canonical_cidr, metadata, "cidr", metadata.text("cidr", needed=True))
    ipip = spec.within("ipip")
    ipip.allow("enabled", "mode")
    mode = ipip.text("mode")
    if mode.lower() not in ("", "always", "cross-subnet"):
        raise ValidationError("must be always or cross-subnet", field=ipip.at("mode"), value=mode)
    on = "CrossSubnet" if mode.lower() == "cross-subnet" else "Always"
    return {"name": names.pool_name(cidr)}, {
        "cidr": cidr,
        "ipipMode": on if ipip.flag("enabled") else "Never",
        "natOutgoing": spec.flag("nat-outgoing"),
        "disabled": spec.flag("disabled"),
        "nodeSelector": "all()",
        "blockSize": 122 if ":" in cidr else 26,
    }


def _node(metadata: Reader, spec: Reader) -> Parts:
    metadata.allow("name")
    spec.allow("bgp", "orchRefs")
    bgp = spec.within("bgp")
    bgp.allow("asNumber", "ipv4Address", "ipv6Address")
    if spec.data.get("bgp") is not None and not (bgp.text("ipv4Address") or bgp.text("ipv6Address")):
        raise ValidationError("needs ipv4Address or ipv6Address", field="spec.bgp")
    return {"name": names.node_name(metadata.text("name", needed=True))}, {
        "bgp": _present(dict(bgp.data)),
        "orchRefs": spec.items("orchRefs"),
    }


def _policy(metadata: Reader, spec: Reader) -> Parts:
    metadata.allow("name", "annotations")
    spec.allow("order", "selector", "ingress", "egress", "types", "doNotTrack", "preDNAT", "applyOnForward")
    ingress, egress = rules(spec, "ingress"), rules(spec, "egress")
    types = []
    for index, text in enumerate(spec.texts("types")):
        if text.lower() not in _TYPES:
            raise ValidationError("must be ingress or egress", field=f"spec.types[{index}]", value=text)
        types.append(_TYPES[text.lower()])
    early = spec.flag("doNotTrack") or spec.flag("preDNAT")
    return (
        {
            "name": names.policy_name(metadata.text("name", needed=True)),
            "annotations": metadata.within("annotations").data,
        },
        {
            "order": spec.data.get("order"),
            "selector": names.selector(spec.text("selector")),
            "types": types or (["Ingress"] if ingress or not egress else []) + (["Egress"] if egress else []),
            "ingress": ingress,
            "egress": egress,
            "doNotTrack": spec.flag("doNotTrack"),
            "preDNAT": spec.flag("preDNAT"),
            # Such a policy always met forwarded packets, too.
            "applyOnForward": early or spec.flag("applyOnForward"),
        },
    )


def _profile(metadata: Reader, spec: Reader) -> Parts:
    metadata.allow("name", "tags", "labels")
    spec.allow("ingress", "egress")
    labels = dict(metadata.within("labels").data)
    for index, tag in enumerate(metadata.texts("tags")):
        if tag in labels:
            raise ValidationError("is a label, too: tags become labels", field=f"metadata.tags[{index}]", value=tag)
        labels[tag] = ""
    return {"name": names.profile_name(metadata.text("name", needed=True))}, {
        "labelsToApply": labels,
        "ingress": rules(spec, "ingress"),
        "egress": rules(spec, "egress"),
    }


def _workload_endpoint(metadata: Reader, spec: Reader) -> Parts:
    metadata.allow("name", "workload", "orchestrator", "node", "activeInstanceID", "labels")
    spec.allow(
        "ipNetworks", "ipNATs", "profiles", "interfaceName", "mac", "ipv4Gateway", "ipv6Gateway", "ports"
    )  # fmt: skip
    orchestrator, workload = metadata.text("orchestrator", needed=True), metadata.text("workload", needed=True)
    node = names.node_name(metadata.text("node", needed=True))
    endpoint = names.plain_name(metadata.text("name", needed=True))
    namespace, identity, owner = "default", "", {}
    if orchestrator == "k8s":
        namespace, dot, identity = workload.partition(".")
        if not dot:
            raise ValidationError("must be <namespace>.<pod>", field="metadata.workload", value=workload)
        owner = {"pod": identity, "containerID": metadata.text("activeInstanceID")}
    elif orchestrator == "cni":
        identity, owner = workload, {"containerID": workload}
    else:
        identity = "libnetwork" if orchestrator == "libnetwork" else names.plain_name(workload)
        owner = {"workload": identity}
    orchestrator = names.plain_name(orchestrator)
    labels = dict(metadata.within("labels").data)
    if names.OLD_NAMESPACE_LABEL in labels:
        labels[names.NAMESPACE_LABEL] = labels.pop(names.OLD_NAMESPACE_LABEL)
    return (
        {
            "name": workload_endpoint_name(node, orchestrator, identity, endpoint),
            "namespace": namespace,
            "labels": labels,
        },
        {
            "orchestrator": orchestrator,
            "node": node,
            **owner,
            "endpoint": endpoint,
            "ipNetworks": _by_family(spec, "ipNetworks"),
            "ipNATs": spec.items("ipNATs"),
            "profiles": [names.profile_name(profile) for profile in spec.texts("profiles")],
            "interfaceName": spec.text("interfaceName"),
            "mac": spec.text("mac"),
            "ipv4Gateway": spec.text("ipv4Gateway"),
            "ipv6Gateway": spec.text("ipv6Gateway"),
            "ports": _ports(spec),
        },
    )


def _ports(spec: Reader) -> list[dict[str, Any]]:
    ports = []
    for port in spec.objects("ports"):
        port.allow("name", "protocol", "port")
        ports.append(_present({**port.data, "protocol": protocol(port, "protocol")}))
    return ports


def _by_family(spec: Reader, name: str) -> list[str]:
    """IPv4 before IPv6."""
    texts = spec.texts(name)
    for index, text in enumerate(texts):
        _at(ip_version, spec, f"{name}[{index}]", text.partition("/")[0])
    return sorted(texts, key=lambda text: ":" in text)


def _at(function: Callable[[str], T], reader: Reader, name: str, text: str) -> T:
    try:
        return function(text)
    except ValidationError as error:
        raise ValidationError(error.reason, field=reader.at(name), value=text) from None


_KINDS: dict[str, tuple[str, Callable[[Reader, Reader], Parts]]] = {
    "bgpPeer": ("BGPPeer", _bgp_peer),
    "hostEndpoint": ("HostEndpoint", _host_endpoint),
    "ipPool": ("IPPool", _pool),
    "node": ("Node", _node),
    "policy": ("GlobalNetworkPolicy", _policy),
    "profile": ("Profile", _profile),
    "workloadEndpoint": ("WorkloadEndpoint", _workload_endpoint),
}
