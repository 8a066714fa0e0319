"""Kubernetes objects (plain dicts) and what they mean to Calico: pure conversions, defaults and checks.

``calico_node.kubernetes.store`` is the one module here that touches files.
"""

from calico_node.kubernetes.defaults import apply_api_defaults, implied_objects, missing_namespaces
from calico_node.kubernetes.kinds import KINDS, WORKLOAD_KINDS, Object, Ref, is_kubernetes, ref_of
from calico_node.kubernetes.pods import (
    PodMetadata,
    pod_networks,
    pod_to_workload_metadata,
    service_account_of,
    workload_labels,
    workload_ports,
    workload_profiles,
)
from calico_node.kubernetes.policies import convert_network_policy, network_policy_to_calico
from calico_node.kubernetes.profiles import (
    namespace_profile_name,
    namespace_to_profile,
    service_account_profile_name,
    service_account_to_profile,
)
from calico_node.kubernetes.store import Acknowledgement, KubernetesStore, StoreReader
from calico_node.kubernetes.validation import validate
from calico_node.kubernetes.workloads import expand_to_pods
from calico_node.resources.endpoint_names import (
    WorkloadEndpointName,
    parse_workload_endpoint_name,
    veth_name,
    workload_endpoint_name,
    workload_endpoint_prefix,
)

__all__ = [
    "KINDS",
    "WORKLOAD_KINDS",
    "Acknowledgement",
    "KubernetesStore",
    "Object",
    "PodMetadata",
    "Ref",
    "StoreReader",
    "WorkloadEndpointName",
    "apply_api_defaults",
    "convert_network_policy",
    "expand_to_pods",
    "implied_objects",
    "is_kubernetes",
    "missing_namespaces",
    "namespace_profile_name",
    "namespace_to_profile",
    "network_policy_to_calico",
    "parse_workload_endpoint_name",
    "pod_networks",
    "pod_to_workload_metadata",
    "ref_of",
    "service_account_of",
    "service_account_profile_name",
    "service_account_to_profile",
    "validate",
    "veth_name",
    "workload_endpoint_name",
    "workload_endpoint_prefix",
    "workload_labels",
    "workload_ports",
    "workload_profiles",
]
