"""WorkloadEndpoints as CNI plugins write them, straight from JSON to the v1 model.

Of all that is watched they change most often, by the thousand a second; to read, check and convert each through
``calico_node.resources`` takes twice as long.  Known here are the members that the usual endpoint has; what may be in
them is asked of the checks that the resource's class declares.  Anything else, sound or not, is left to the general
way, which also words the refusals.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import orjson

from calico_node.model import EndpointPort, WorkloadEndpoint
from calico_node.resources import ObjectMeta, WorkloadEndpointPort, WorkloadEndpointSpec, checks
from calico_node.resources.fields import Check, Fault, Member, Struct
from calico_node.resources.readers import read_stored
from calico_node.resources.rules import check_workload_endpoint_port
from calico_node.resources.structure import STRINGS, plan_of
from calico_node.resources.validation import check_struct
from calico_node.syncer.endpoint_conversion import endpoint_labels, endpoint_nets, endpoint_port

_TOP = frozenset(("kind", "apiVersion", "metadata", "spec"))
_TEXTS = ("orchestrator", "node", "containerID", "pod", "endpoint", "serviceAccountName", "interfaceName", "mac")
_METADATA = frozenset(("name", "namespace", "uid", "creationTimestamp", "labels", "annotations", "generateName"))
_SPEC = frozenset((*_TEXTS, "ipNetworks", "profiles", "ports"))
_NONE: dict[str, str] = {}


def _declared(cls: type[Struct], name: str) -> Member:
    return plan_of(cls)[name].member


_SPEC_TEXTS = tuple((name, _declared(WorkloadEndpointSpec, name).check) for name in _TEXTS)
_METADATA_TEXTS: tuple[tuple[str, Check | None], ...] = (
    ("name", checks.dns_subdomain),
    ("namespace", checks.dns_label),
    *((name, _declared(ObjectMeta, name).check) for name in ("uid", "creationTimestamp", "generateName")),
)
_CHECK_LABELS = cast(Check, _declared(ObjectMeta, "labels").check)
_CHECK_ANNOTATIONS = cast(Check, _declared(ObjectMeta, "annotations").check)
_CHECK_NET = cast(Check, _declared(WorkloadEndpointSpec, "ipNetworks").each)


def usual_workload_endpoint(raw: bytes) -> WorkloadEndpoint | None:
    """The v1 value of a stored WorkloadEndpoint that is sound and has addresses; None where that is not sure."""
    try:
        data = orjson.loads(raw)
        metadata, spec = data["metadata"], data["spec"]
        if not (_TOP.issuperset(data) and _METADATA.issuperset(metadata) and _SPEC.issuperset(spec)):
            return None
        if not (_are_sound(metadata, _METADATA_TEXTS) and _are_sound(spec, _SPEC_TEXTS)):
            return None
        if not (metadata["name"] and metadata["namespace"]):
            return None
        labels, annotations = metadata.get("labels", _NONE), metadata.get("annotations", _NONE)
        if not (_is_sound_map(labels, _CHECK_LABELS) and _is_sound_map(annotations, _CHECK_ANNOTATIONS)):
            return None
        nets, profiles = spec["ipNetworks"], spec.get("profiles", [])
        if not (nets and _are_texts(nets) and _are_texts(profiles)) or any(map(_CHECK_NET, nets)):
            return None
        ports = spec.get("ports", [])
        if ports.__class__ is not list:
            return None
        ports = [_port(*port, *port.values()) for port in ports]
    except (KeyError, TypeError, ValueError, AttributeError, Fault):
        return None
    ipv4_nets = endpoint_nets(nets, 4)
    return WorkloadEndpoint(
        name=spec.get("interfaceName") or "",
        mac=spec.get("mac") or "",
        profile_ids=tuple(profiles),
        ipv4_nets=ipv4_nets,
        ipv6_nets=endpoint_nets(nets, 6) if len(ipv4_nets) < len(nets) else (),
        labels=endpoint_labels(labels, spec.get("serviceAccountName")),
        ports=tuple([port for port in ports if port.name]) if ports else (),
        generate_name=metadata.get("generateName") or "",
        annotations=dict(annotations),
    )


def _are_sound(values: dict[str, Any], members: tuple[tuple[str, Check | None], ...]) -> bool:
    """Whether each of ``members`` is absent or a text that its check takes."""
    for name, check in members:
        text = values.get(name)
        if text is not None and (text.__class__ is not str or (text and check is not None and check(text))):
            return False
    return True


def _is_sound_map(texts: Any, check: Check) -> bool:
    if texts.__class__ is not dict:
        return False
    return not texts or (STRINGS.issuperset(map(type, texts.values())) and not check(texts))


def _are_texts(values: Any) -> bool:
    return values.__class__ is list and STRINGS.issuperset(map(type, values))


@lru_cache(maxsize=1024, typed=True)  # the same few ports over and over
def _port(*members_and_values: Any) -> EndpointPort:
    """A port by its JSON members and then their values, the general way.  Raises ``Fault``."""
    half = len(members_and_values) // 2
    document = dict(zip(members_and_values[:half], members_and_values[half:], strict=True))
    port = read_stored(WorkloadEndpointPort, document)
    check_struct(port)
    check_workload_endpoint_port(port)
    return endpoint_port(port.name, port.protocol, port.port)
