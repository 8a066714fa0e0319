"""What the CNI server learns of a pod from the file store of Kubernetes objects (``hooks.kubernetes_store``)."""

from __future__ import annotations

import os

from attrs import asdict

from calico_node.errors import ValidationError
from calico_node.hookspecs import WorkloadMetadata, hookimpl
from calico_node.kubernetes import KubernetesStore, pod_to_workload_metadata


@hookimpl
def workload_metadata(namespace: str, pod: str) -> WorkloadMetadata | None:
    """The pod as it stands in the store that CALICO_KUBERNETES_STORE names; None without a store or such a pod."""
    store = KubernetesStore.from_environ(os.environ)
    if store is None:
        return None
    try:
        document = store.get("Pod", pod, namespace)
    except ValidationError:
        return None
    if document is None:
        return None
    metadata = pod_to_workload_metadata(document, store.get("Namespace", namespace))
    return WorkloadMetadata(**asdict(metadata, recurse=False))
