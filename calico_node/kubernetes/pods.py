"""What a Pod means for its WorkloadEndpoint.  Pure.

Source: Calico ``libcalico-go/lib/backend/k8s/conversion/workload_endpoint_default.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from calico_node.addresses import parse_network
from calico_node.errors import ValidationError
from calico_node.kubernetes.profiles import namespace_profile_name, service_account_profile_name

LABEL_NAMESPACE = "projectcalico.org/namespace"
LABEL_ORCHESTRATOR = "projectcalico.org/orchestrator"
LABEL_SERVICE_ACCOUNT = "projectcalico.org/serviceaccount"
ORCHESTRATOR = "k8s"
FINISHED_PHASES = ("Failed", "Succeeded", "Completed")

_CNI = "cni.projectcalico.org/"
ANNOTATION_POD_IP = _CNI + "podIP"
ANNOTATION_POD_IPS = _CNI + "podIPs"
ANNOTATION_AWS_POD_IPS = "vpc.amazonaws.com/pod-ips"


@frozen
class PodMetadata:
    """What the CNI server needs to know of a pod; ``labels`` hold the three standard ones as well, ``ports`` are
    entries of ``WorkloadEndpoint.spec.ports``."""

    labels: Mapping[str, str] = field(factory=dict, hash=False)
    annotations: Mapping[str, str] = field(factory=dict, hash=False)
    namespace_labels: Mapping[str, str] = field(factory=dict, hash=False)
    namespace_annotations: Mapping[str, str] = field(factory=dict, hash=False)
    service_account: str = ""
    generate_name: str = ""
    ports: tuple[Mapping[str, Any], ...] = ()


def pod_to_workload_metadata(pod: Mapping[str, Any], namespace: Mapping[str, Any] | None = None) -> PodMetadata:
    """From a Pod and (when known) its Namespace."""
    metadata = pod.get("metadata") or {}
    ns = (namespace or {}).get("metadata") or {}
    return PodMetadata(
        labels=workload_labels(pod),
        annotations=dict(metadata.get("annotations") or {}),
        namespace_labels=dict(ns.get("labels") or {}),
        namespace_annotations=dict(ns.get("annotations") or {}),
        service_account=service_account_of(pod),
        generate_name=metadata.get("generateName") or "",
        ports=tuple(workload_ports(pod)),
    )


def pod_namespace(pod: Mapping[str, Any]) -> str:
    return str((pod.get("metadata") or {}).get("namespace") or "default")


def service_account_of(pod: Mapping[str, Any]) -> str:
    """``spec.serviceAccountName``, or its old alias; "" when none is set."""
    spec = pod.get("spec") or {}
    return str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "")


def workload_labels(pod: Mapping[str, Any]) -> dict[str, str]:
    """The pod's labels and the standard ones (namespace, orchestrator, service account)."""
    labels = dict((pod.get("metadata") or {}).get("labels") or {})
    labels[LABEL_NAMESPACE] = pod_namespace(pod)
    labels[LABEL_ORCHESTRATOR] = ORCHESTRATOR
    account = service_account_of(pod)
    if account and len(account) < 63:  # a label value may not be longer
        labels[LABEL_SERVICE_ACCOUNT] = account
    return labels


def workload_profiles(pod: Mapping[str, Any]) -> list[str]:
    """``kns.<namespace>`` and, with a service account, ``ksa.<namespace>.<account>``."""
    profiles = [namespace_profile_name(pod_namespace(pod))]
    account = service_account_of(pod)
    if account:
        profiles.append(service_account_profile_name(pod_namespace(pod), account))
    return profiles


def workload_ports(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``WorkloadEndpoint.spec.ports``: of containers, then init containers, each port with a name or a host port."""
    spec = pod.get("spec") or {}
    ports = []
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        for port in container.get("ports") or ():
            if not port.get("containerPort") or not (port.get("name") or port.get("hostPort")):
                continue
            ports.append(
                {
                    "name": port.get("name") or "",
                    "protocol": port.get("protocol") or "TCP",
                    "port": port["containerPort"],
                    "hostPort": port.get("hostPort") or 0,
                    "hostIP": port.get("hostIP") or "",
                }
            )
    return ports


def is_networked(pod: Mapping[str, Any]) -> bool:
    """Whether the pod is an endpoint at all: scheduled, and not in its host's network namespace."""
    spec = pod.get("spec") or {}
    return bool(spec.get("nodeName")) and not spec.get("hostNetwork")


def is_finished(pod: Mapping[str, Any]) -> bool:
    """Whether its addresses may belong to somebody else by now.  A pod that merely terminates keeps them."""
    metadata, annotations = pod.get("metadata") or {}, _annotations(pod)
    if (pod.get("status") or {}).get("phase") in FINISHED_PHASES:
        return True
    emptied = any(annotations.get(name) == "" for name in (ANNOTATION_POD_IP, ANNOTATION_AWS_POD_IPS))
    return bool(metadata.get("deletionTimestamp")) and emptied


def pod_networks(pod: Mapping[str, Any]) -> list[str]:
    """The pod's addresses as /32 and /128: from its status, else from the CNI's annotations; none once finished.

    Raises ``ValidationError`` when the source holds something that is not an address.
    """
    if is_finished(pod):
        return []
    status, annotations = pod.get("status") or {}, _annotations(pod)
    sources: list[list[str]] = [
        [item.get("ip") or "" for item in status.get("podIPs") or ()],
        [status.get("podIP") or ""],
        (annotations.get(ANNOTATION_POD_IPS) or "").split(","),
        [annotations.get(ANNOTATION_POD_IP) or ""],
        (annotations.get(ANNOTATION_AWS_POD_IPS) or "").split(","),
    ]
    for source in sources:
        networks = [parse_network(text.strip()) for text in source if text.strip()]
        if networks:
            for network in networks:
                if network.num_addresses != 1:
                    raise ValidationError(f"pod address {network} is not a single address", value=str(network))
            return [str(network) for network in networks]
    return []


def _annotations(pod: Mapping[str, Any]) -> Mapping[str, str]:
    return (pod.get("metadata") or {}).get("annotations") or {}
