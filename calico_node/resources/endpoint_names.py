"""Names that several programs must derive alike: WorkloadEndpoint names and host-side interface names.

Source: Calico ``libcalico-go/lib/names/workloadendpoint.go`` and the CNI plugin's ``VethNameForWorkload``.
"""

from __future__ import annotations

import hashlib

from attrs import frozen

from calico_node.errors import ValidationError

INTERFACE_PREFIX = "cali"


@frozen
class WorkloadEndpointName:
    """The four parts of a WorkloadEndpoint's name; ``workload`` is the pod for ``k8s``, the container ID for
    ``cni``, the word libnetwork for ``libnetwork``."""

    node: str
    orchestrator: str
    workload: str
    endpoint: str

    def __str__(self) -> str:
        return workload_endpoint_name(self.node, self.orchestrator, self.workload, self.endpoint)


def workload_endpoint_name(node: str, orchestrator: str, workload: str, endpoint: str) -> str:
    """``node-a``, ``k8s``, ``nginx-1``, ``eth0`` -> ``node--a-k8s-nginx--1-eth0``.

    Raises ``ValidationError`` for a part that is empty or starts or ends with a dash.
    """
    parts = (node, orchestrator, "libnetwork" if orchestrator == "libnetwork" else workload, endpoint)
    return "-".join(_segment(part, what) for part, what in zip(parts, _PARTS, strict=True))


def workload_endpoint_prefix(node: str, orchestrator: str = "", workload: str = "") -> str:
    """The start of every name with these parts, up to the first empty one: ``node--1-k8s-``.

    Two nodes' prefixes may overlap (``a-`` is one of ``a--b-…``, too): compare ``spec.node`` as well.
    """
    prefix = ""
    for part, what in zip((node, orchestrator, workload), _PARTS, strict=False):
        if not part:
            break
        prefix += _segment(part, what) + "-"
    return prefix


def parse_workload_endpoint_name(name: str) -> WorkloadEndpointName:
    """The inverse of ``workload_endpoint_name``.  Raises ``ValidationError``."""
    parts = name.replace("--", _DASH).split("-")
    if len(parts) != 4 or _DASH in name:
        raise ValidationError(
            "does not have the four parts node-orchestrator-workload-endpoint",
            resource="WorkloadEndpoint",
            field="metadata.name",
            value=name,
        )
    parts = [part.replace(_DASH, "-") for part in parts]
    for part, what in zip(parts, _PARTS, strict=True):
        _check_segment(part, what)
    return WorkloadEndpointName(*parts)


_DASH = "\ud800"
"""Stands for a dash within a part while a name is taken apart: half a character, which no sound text has."""
_PARTS = ("node", "orchestrator", "workload", "endpoint")


def _segment(part: str, what: str) -> str:
    _check_segment(part, what)
    return part.replace("-", "--")


def _check_segment(part: str, what: str) -> None:
    if not part or part.startswith("-") or part.endswith("-"):
        raise ValidationError(
            "must not be empty, nor start or end with a dash",
            resource="WorkloadEndpoint",
            field=f"spec.{what}",
            value=part,
        )


def veth_name(namespace: str, pod: str, prefix: str = INTERFACE_PREFIX) -> str:
    """The host-side interface of a pod: the prefix and 11 hex digits of the SHA-1 of ``<namespace>.<pod>``."""
    digest = hashlib.sha1(f"{namespace}.{pod}".encode(), usedforsecurity=False).hexdigest()
    return prefix + digest[:11]
