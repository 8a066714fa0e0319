"""The defaults that a Kubernetes API server (and its controllers) would add.  Pure.

Source: Kubernetes ``pkg/apis/{core,networking,apps,batch}/v1/defaults.go`` and the service account admission.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from calico_node.kubernetes.kinds import KINDS, Object, ref_of

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
DEFAULT_NAMESPACE = "default"
DEFAULT_SERVICE_ACCOUNT = "default"


def apply_api_defaults(document: Mapping[str, Any]) -> Object:
    """A copy of the document with the defaults that matter to the network filled in.

    Namespace ``default``; the namespace's own name as a label; the ``default`` service account; protocol TCP;
    policyTypes; targetPort; replica counts.  Members of a wrong type are left as they are, for ``validate`` to name.
    """
    out: Object = copy.deepcopy(dict(document))
    kind = out.get("kind")
    metadata = out.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        return out
    if kind in KINDS and KINDS[str(kind)].namespaced:
        metadata["namespace"] = metadata.get("namespace") or DEFAULT_NAMESPACE
    if out.get("spec") is None:
        if kind in ("Namespace", "ServiceAccount"):
            out.pop("spec", None)
        else:
            out["spec"] = {}
    spec = out.get("spec")
    if kind == "Namespace":
        if metadata.get("labels") is None:
            metadata["labels"] = {}
        if isinstance(metadata["labels"], dict) and metadata.get("name"):
            metadata["labels"][NAMESPACE_NAME_LABEL] = metadata["name"]
    elif isinstance(spec, dict) and kind in _DEFAULTS:
        _DEFAULTS[str(kind)](spec)
    return out


def implied_objects(documents: Iterable[Mapping[str, Any]]) -> list[Object]:
    """What exists in every cluster without anybody's YAML: namespace ``default``, and in each namespace the service
    account ``default``; those that ``documents`` hold themselves are left out."""
    present = {ref_of(document) for document in documents}
    namespaces = {DEFAULT_NAMESPACE} | {ref.name for ref in present if ref.kind == "Namespace"}
    implied: list[Object] = []
    for name in sorted(namespaces):
        wanted: list[Object] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": DEFAULT_SERVICE_ACCOUNT, "namespace": name},
            },
        ]
        implied += [apply_api_defaults(document) for document in wanted if ref_of(document) not in present]
    return implied


def missing_namespaces(documents: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Namespaces that are used but neither declared nor ``default``, each with the objects that use it: an API server
    would refuse those."""
    refs = [ref_of(document) for document in documents]
    declared = {DEFAULT_NAMESPACE} | {ref.name for ref in refs if ref.kind == "Namespace"}
    missing: dict[str, list[str]] = {}
    for ref in refs:
        if ref.namespace and ref.namespace not in declared:
            missing.setdefault(ref.namespace, []).append(str(ref))
    return missing


def _items(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _pod(spec: dict[str, Any]) -> None:
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or DEFAULT_SERVICE_ACCOUNT
    spec["serviceAccountName"] = account
    for name in ("containers", "initContainers"):
        for container in _items(spec.get(name)):
            for port in _items(container.get("ports")):
                port["protocol"] = port.get("protocol") or "TCP"


def _template(spec: dict[str, Any]) -> None:
    template = spec.get("template")
    if isinstance(template, dict):
        if template.get("spec") is None:
            template["spec"] = {}
        if isinstance(template["spec"], dict):
            _pod(template["spec"])


def _replicated(spec: dict[str, Any]) -> None:
    if spec.get("replicas") is None:
        spec["replicas"] = 1
    _template(spec)


def _job(spec: dict[str, Any]) -> None:
    if spec.get("parallelism") is None:
        spec["parallelism"] = 1
    if spec.get("completions") is None and spec["parallelism"] == 1:
        spec["completions"] = 1
    _template(spec)


def _cron_job(spec: dict[str, Any]) -> None:
    template = spec.get("jobTemplate")
    if isinstance(template, dict) and isinstance(template.get("spec"), dict):
        _job(template["spec"])


def _service(spec: dict[str, Any]) -> None:
    spec["type"] = spec.get("type") or "ClusterIP"
    for port in _items(spec.get("ports")):
        port["protocol"] = port.get("protocol") or "TCP"
        if port.get("targetPort") in (None, ""):
            port["targetPort"] = port.get("port")


def _network_policy(spec: dict[str, Any]) -> None:
    if spec.get("podSelector") is None:
        spec["podSelector"] = {}
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for direction in ("ingress", "egress"):
        for rule in _items(spec.get(direction)):
            for port in _items(rule.get("ports")):
                port["protocol"] = port.get("protocol") or "TCP"


_DEFAULTS = {
    "Pod": _pod,
    "Deployment": _replicated,
    "ReplicaSet": _replicated,
    "StatefulSet": _replicated,
    "DaemonSet": _template,
    "Job": _job,
    "CronJob": _cron_job,
    "Service": _service,
    "NetworkPolicy": _network_policy,
}
