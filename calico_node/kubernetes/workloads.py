"""The pods that a workload's controller would make.  Pure, and the same every time.

StatefulSet pods are ``<name>-0``, ``-1``, …; a Deployment's are ``<name>-<hash>-<suffix>`` (by way of its
ReplicaSet), the other kinds' ``<name>-<suffix>``.  Hash and suffix depend on nothing but namespace, kind, name and
index, so that a pod keeps its name when its template changes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

from calico_node.kubernetes.kinds import WORKLOAD_KINDS, Object

# Kubernetes' own alphabet of generated names: no vowels, nothing that looks alike.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_MAX_GENERATED = 63 - 5


def expand_to_pods(document: Mapping[str, Any], nodes: Mapping[str, Mapping[str, str]] | None = None) -> list[Object]:
    """The Pods of a workload (with its defaults applied); a Pod is returned as it is.

    ``nodes`` maps the cluster's nodes to their labels: a DaemonSet has a pod on each that its nodeSelector takes.
    A CronJob gives the pods of one run.
    """
    kind = document.get("kind")
    if kind == "Pod":
        return [copy.deepcopy(dict(document))]
    if kind not in WORKLOAD_KINDS:
        return []
    metadata, spec = document["metadata"], document.get("spec") or {}
    name, namespace = metadata["name"], metadata.get("namespace") or "default"
    if kind == "DaemonSet":
        return _daemon_set(spec, namespace, name, nodes or {})
    if kind == "StatefulSet":
        return _stateful_set(spec, namespace, name)
    if kind == "CronJob":
        job = (spec.get("jobTemplate") or {}).get("spec") or {}
        return _job(job, namespace, f"{name}-{_hash(namespace, 'CronJob', name, length=10)}")
    if kind == "Job":
        return _job(spec, namespace, name)
    extra: dict[str, str] = {}
    if kind == "Deployment":
        template_hash = _hash(namespace, "Deployment", name, length=10)
        name, extra = f"{name}-{template_hash}", {"pod-template-hash": template_hash}
    return [
        _pod(spec, namespace, pod_name, extra, generate_name=f"{name}-")
        for pod_name in _generated_names(name, namespace, kind, _count(spec.get("replicas"), 1))
    ]


def _daemon_set(
    spec: Mapping[str, Any], namespace: str, name: str, nodes: Mapping[str, Mapping[str, str]]
) -> list[Object]:
    wanted = ((spec.get("template") or {}).get("spec") or {}).get("nodeSelector") or {}
    pods = []
    for node in sorted(nodes):
        if all(nodes[node].get(key) == value for key, value in wanted.items()):
            pod = _pod(spec, namespace, _generated(name, namespace, "DaemonSet", node), {}, generate_name=f"{name}-")
            pod["spec"]["nodeName"] = node
            pods.append(pod)
    return pods


def _stateful_set(spec: Mapping[str, Any], namespace: str, name: str) -> list[Object]:
    start = int((spec.get("ordinals") or {}).get("start") or 0)
    pods = []
    for index in range(start, start + _count(spec.get("replicas"), 1)):
        pod_name = f"{name}-{index}"
        labels = {"apps.kubernetes.io/pod-index": str(index), "statefulset.kubernetes.io/pod-name": pod_name}
        pod = _pod(spec, namespace, pod_name, labels, generate_name=f"{name}-")
        pod["spec"]["hostname"] = pod_name
        if spec.get("serviceName"):
            pod["spec"]["subdomain"] = spec["serviceName"]
        pods.append(pod)
    return pods


def _job(spec: Mapping[str, Any], namespace: str, name: str) -> list[Object]:
    count = _count(spec.get("parallelism"), 1)
    if spec.get("completions") is not None:
        count = min(count, int(spec["completions"]))
    labels = {"batch.kubernetes.io/job-name": name, "job-name": name}
    return [
        _pod(spec, namespace, pod_name, labels, generate_name=f"{name}-")
        for pod_name in _generated_names(name, namespace, "Job", count)
    ]


def _pod(
    spec: Mapping[str, Any], namespace: str, name: str, labels: Mapping[str, str], *, generate_name: str
) -> Object:
    template = copy.deepcopy(dict(spec.get("template") or {}))
    metadata = dict(template.get("metadata") or {})
    metadata.update(name=name, namespace=namespace, generateName=generate_name)
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": dict(template.get("spec") or {})}


def _count(value: Any, default: int) -> int:
    return default if value is None else int(value)


def _generated(base: str, namespace: str, kind: str, index: int | str) -> str:
    return f"{base[: _MAX_GENERATED - 1]}-{_hash(namespace, kind, base, str(index), length=5)}"


def _generated_names(base: str, namespace: str, kind: str, count: int) -> list[str]:
    """``count`` different names; those of fewer pods are the first of those of more."""
    found: dict[str, None] = {}
    for index in range(count):
        name = _generated(base, namespace, kind, index)
        again = 0
        while name in found:
            # Among thousands, two of five letters do meet.
            again += 1
            name = _generated(base, namespace, kind, f"{index}.{again}")
        found[name] = None
    return list(found)


def _hash(*parts: str, length: int) -> str:
    number = int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest())
    letters = []
    for _ in range(length):
        number, letter = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[letter])
    return "".join(letters)
