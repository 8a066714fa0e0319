"""The Kubernetes kinds that have a meaning for the network, and references to objects of them.

Kubernetes objects are plain dicts everywhere, as they stand in YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from attrs import frozen

Object: TypeAlias = dict[str, Any]


@frozen
class Kind:
    """``plural`` as in the Kubernetes API's URLs."""

    kind: str
    plural: str
    api_versions: tuple[str, ...]
    namespaced: bool = True


KINDS: Mapping[str, Kind] = {
    kind.kind: kind
    for kind in (
        Kind("Namespace", "namespaces", ("v1",), namespaced=False),
        Kind("ServiceAccount", "serviceaccounts", ("v1",)),
        Kind("Pod", "pods", ("v1",)),
        Kind("Service", "services", ("v1",)),
        Kind("NetworkPolicy", "networkpolicies", ("networking.k8s.io/v1",)),
        Kind("Deployment", "deployments", ("apps/v1",)),
        Kind("ReplicaSet", "replicasets", ("apps/v1",)),
        Kind("StatefulSet", "statefulsets", ("apps/v1",)),
        Kind("DaemonSet", "daemonsets", ("apps/v1",)),
        Kind("Job", "jobs", ("batch/v1",)),
        Kind("CronJob", "cronjobs", ("batch/v1",)),
    )
}
WORKLOAD_KINDS = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob")


@frozen
class Ref:
    """``namespace`` is "" for cluster-scoped kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}({self.namespace}/{self.name})" if self.namespace else f"{self.kind}({self.name})"


def is_kubernetes(document: Mapping[str, Any]) -> bool:
    """Whether a document is of a Kubernetes kind known here, going by kind and API group (so that Calico's
    NetworkPolicy is not taken for Kubernetes')."""
    kind = KINDS.get(str(document.get("kind")))
    return kind is not None and document.get("apiVersion") in kind.api_versions


def ref_of(document: Mapping[str, Any]) -> Ref:
    """The reference of a document with its defaults applied."""
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping):
        metadata = {}
    kind = str(document.get("kind") or "")
    namespaced = KINDS[kind].namespaced if kind in KINDS else True
    namespace = str(metadata.get("namespace") or "default") if namespaced else ""
    return Ref(kind, namespace, str(metadata.get("name") or ""))
