"""What the Kubernetes objects of a lab come to: pods on nodes, services with their endpoints, names.  Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve, field, frozen

from calico_node.errors import ValidationError
from calico_node.kubernetes import (
    Object,
    Ref,
    apply_api_defaults,
    expand_to_pods,
    implied_objects,
    missing_namespaces,
    ref_of,
)
from calico_node.lab.names import NamedPod, NamedService, Names
from calico_node.lab.probes import DNS_POD
from calico_node.lab.services import DNS_ADDRESS, Endpoint, Service, ServicePort, assign_addresses
from calico_node.lab.spec import LabSpec, Listen

HOSTNAME_LABEL = "kubernetes.io/hostname"
PINNED = "cni.projectcalico.org/ipAddrs"
"""The annotation by which a pod asks for its address."""
MAX_PODS = 2000
"""Pods that one lab takes: each is a network namespace of this machine, and some 50 ms of its time to make."""


@frozen
class Pod:
    """A pod to run.  ``alias`` is the ``ns/name`` of the workload whose first pod it is ("" for none); ``alone``
    says it is the only one."""

    namespace: str
    name: str
    node: str
    document: Mapping[str, Any] = field(hash=False)
    alias: str = ""
    alone: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def ref(self) -> Ref:
        return Ref("Pod", self.namespace, self.name)

    @property
    def host_network(self) -> bool:
        return bool(self.document["spec"].get("hostNetwork"))

    @property
    def labels(self) -> Mapping[str, str]:
        return self.document["metadata"].get("labels") or {}

    @property
    def ports(self) -> list[Mapping[str, Any]]:
        """The ports of containers and init containers, as they stand in the document."""
        spec = self.document["spec"]
        containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
        return [port for container in containers for port in container.get("ports") or ()]

    @property
    def listen(self) -> tuple[Listen, ...]:
        ports = (Listen(port["containerPort"], port.get("protocol") or "TCP") for port in self.ports)
        return tuple(dict.fromkeys(ports))

    def port_number(self, target: object, protocol: str) -> int | None:
        """A Service's targetPort as a number; None where no port of that name and protocol is declared."""
        if isinstance(target, int):
            return target
        for port in self.ports:
            if port.get("name") == target and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
        return None


@frozen
class Plan:
    """The whole desired state.  ``objects`` is what an API server would hold: the given ones, the implied ones, and
    all pods with their nodes."""

    objects: Mapping[Ref, Object] = field(factory=dict, hash=False)
    pods: Mapping[str, Pod] = field(factory=dict, hash=False)


@frozen
class _Made:
    """A pod before it has a node; ``by`` is the document that it comes from."""

    document: Object
    by: Ref
    alias: str
    alone: bool


def dns_objects() -> list[Object]:
    """The lab's own name server, a pod and a Service; documents of the same names take their place."""
    namespace, name = DNS_POD.split("/")
    labels = {"k8s-app": "kube-dns"}
    ports = [("dns", "UDP"), ("dns-tcp", "TCP")]
    documents: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "containers": [
                    {
                        "name": "dns",
                        "ports": [{"name": port, "containerPort": 53, "protocol": proto} for port, proto in ports],
                    }
                ]
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "clusterIP": DNS_ADDRESS,
                "selector": labels,
                "ports": [{"name": port, "port": 53, "protocol": proto} for port, proto in ports],
            },
        },
    ]
    return [apply_api_defaults(document) for document in documents]


def make_plan(
    given: Mapping[Ref, Object],
    lab: LabSpec,
    placed: Mapping[str, str],
    origins: Mapping[Ref, str] | None = None,
) -> Plan:
    """Expand workloads and place pods.

    ``placed`` maps pods that run already to their nodes: they stay.  Raises ``ValidationError`` for a namespace that
    nobody declared, a node that does not exist, and two documents that make the same pod.
    """
    origins = origins or {}
    objects: dict[Ref, Object] = {ref_of(item): item for item in dns_objects()}
    objects.update(given)
    for item in implied_objects(objects.values()):
        objects[ref_of(item)] = item
    for namespace, users in missing_namespaces(objects.values()).items():
        raise ValidationError(
            f"namespace {namespace!r} does not exist; add a Namespace document for it",
            resource=users[0],
            field="metadata.namespace",
            value=namespace,
            origin=next((origins[ref] for ref in origins if str(ref) == users[0]), ""),
        )
    labels = {node.name: {HOSTNAME_LABEL: node.name, **node.labels} for node in lab.nodes}
    found: dict[str, _Made] = {}
    for ref, item in objects.items():
        documents = expand_to_pods(item, labels)
        for number, document in enumerate(documents):
            key = f"{document['metadata']['namespace']}/{document['metadata']['name']}"
            if key in found:
                raise ValidationError(
                    f"makes pod {key}, and so does {found[key].by}", resource=str(ref), origin=origins.get(ref, "")
                )
            alias = f"{ref.namespace}/{ref.name}" if ref.kind != "Pod" and number == 0 else ""
            found[key] = _Made(document, ref, alias, bool(alias) and len(documents) == 1)
        if len(found) > MAX_PODS:
            raise ValidationError(
                f"a lab takes {MAX_PODS} pods at most, and this one makes it {len(found)}",
                resource=str(ref),
                field="spec.replicas" if "replicas" in item["spec"] else "",
                value=item["spec"].get("replicas"),
                origin=origins.get(ref, ""),
            )
    _check_pinned(found, origins)
    pods = _place(found, labels, placed, origins)
    objects.update((pod.ref, _with_node(pod)) for pod in pods.values())
    return Plan(objects, pods)


def _check_pinned(found: Mapping[str, _Made], origins: Mapping[Ref, str]) -> None:
    """Refuse what can be no address, and one that two pods ask for; the rest is the CNI plugin's to judge."""
    taken: dict[str, str] = {}
    for key, made in found.items():
        text = (made.document["metadata"].get("annotations") or {}).get(PINNED)
        if text is None or made.document["spec"].get("hostNetwork"):
            continue
        try:
            addresses = json.loads(text)
            if not isinstance(addresses, list) or not all(isinstance(item, str) for item in addresses):
                raise ValueError
            addresses = [str(ipaddress.ip_address(item)) for item in addresses]
            reason = next((f"pod {taken[item]} asks for {item} too" for item in addresses if item in taken), "")
        except ValueError:
            addresses, reason = [], """must be a JSON list of addresses, as '["10.244.7.7"]'"""
        if reason:
            raise ValidationError(
                reason,
                resource=str(made.by),
                field=f"metadata.annotations[{PINNED}]",
                value=text,
                origin=origins.get(made.by, ""),
            )
        taken.update(dict.fromkeys(addresses, key))


def _place(
    found: Mapping[str, _Made],
    labels: Mapping[str, Mapping[str, str]],
    placed: Mapping[str, str],
    origins: Mapping[Ref, str],
) -> dict[str, Pod]:
    """``spec.nodeName`` is honoured, then where the pod is, then the least loaded node its nodeSelector takes."""
    chosen: dict[str, str] = {}
    for key, made in found.items():
        wanted = made.document["spec"].get("nodeName") or ""
        if wanted and wanted not in labels:
            raise ValidationError(
                f"there is no such node; the lab has {', '.join(labels)}",
                resource=str(made.by),
                field="spec.nodeName",
                value=wanted,
                origin=origins.get(made.by, ""),
            )
        if wanted or placed.get(key) in labels:
            chosen[key] = wanted or placed[key]
    load = dict.fromkeys(labels, 0)
    for name in chosen.values():
        load[name] += 1
    for key, made in found.items():
        if key in chosen:
            continue
        selector = made.document["spec"].get("nodeSelector") or {}
        fit = [name for name in labels if all(labels[name].get(k) == v for k, v in selector.items())]
        if not fit:
            raise ValidationError(
                "no node of the lab has these labels",
                resource=str(made.by),
                field="spec.nodeSelector",
                value=selector,
                origin=origins.get(made.by, ""),
            )
        chosen[key] = min(fit, key=lambda name: load[name])
        load[chosen[key]] += 1
    return {
        key: Pod(
            made.document["metadata"]["namespace"],
            made.document["metadata"]["name"],
            chosen[key],
            made.document,
            made.alias,
            made.alone,
        )
        for key, made in found.items()
    }


def _with_node(pod: Pod) -> Object:
    document = dict(pod.document)
    document["spec"] = {**document["spec"], "nodeName": pod.node}
    return document


def services(plan: Plan, addresses: Mapping[str, str], known: Mapping[str, str]) -> list[Service]:
    """The Services with their endpoints.  ``addresses`` maps pods (``ns/name``) to addresses, ``known`` services that
    have a cluster IP already to it.  Raises ``ValidationError`` for two that ask for one address."""
    found: list[Service] = []
    wanted: dict[str, str] = {}
    for ref, item in plan.objects.items():
        if ref.kind != "Service" or item["spec"].get("type") == "ExternalName":
            continue
        spec = item["spec"]
        selector = spec.get("selector") or {}
        backends = [
            pod
            for pod in plan.pods.values()
            if selector
            and pod.namespace == ref.namespace
            and addresses.get(pod.key)
            and all(pod.labels.get(key) == value for key, value in selector.items())
        ]
        ports = tuple(
            ServicePort(
                port.get("name") or "",
                port.get("protocol") or "TCP",
                port["port"],
                tuple(
                    Endpoint(addresses[pod.key], number)
                    for pod in backends
                    if (number := pod.port_number(port.get("targetPort"), port.get("protocol") or "TCP")) is not None
                ),
            )
            for port in spec.get("ports") or ()
        )
        hostnames = tuple((pod.document["spec"].get("hostname") or pod.name, addresses[pod.key]) for pod in backends)
        service = Service(ref.namespace, ref.name, "", ports, hostnames)
        asked = spec.get("clusterIP") or ""
        if asked != "None":
            wanted[service.key] = asked
        found.append(service)
    assigned = assign_addresses(wanted, known)
    return [evolve(service, address=assigned.get(service.key, "")) for service in found]


def names(
    plan: Plan, addresses: Mapping[str, str], items: Iterable[Service], machines: Iterable[tuple[str, str]]
) -> Names:
    """What the name server and the hosts files say."""
    named = tuple(
        NamedService(
            item.namespace,
            item.name,
            item.address,
            tuple((port.name, port.protocol.lower(), port.number) for port in item.ports if port.name),
            item.hostnames,
        )
        for item in items
    )
    pods = tuple(
        NamedPod(pod.namespace, pod.name, addresses[pod.key]) for pod in plan.pods.values() if pod.key in addresses
    )
    return Names(named, pods, tuple(machines))
