"""The defaults that Calico writes into stored resources."""

from collections.abc import Callable
from typing import Any

from calico_node.resources.meta import Resource

DEFAULT_TIER_ORDER = 1_000_000.0
BUILTIN_TIERS = {
    "default": (DEFAULT_TIER_ORDER, "Deny"),
    "kube-admin": (1_000.0, "Pass"),
    "kube-baseline": (10_000_000.0, "Pass"),
}
"""The tiers that always exist, with the order and default action that they always have."""


def apply_defaults(resource: Resource) -> None:
    """Set what is absent, in place, as Calico's client does on create and update.

    Only defaults that become part of the stored object; the others are assumed by whoever reads it.
    """
    setter = _DEFAULTS.get(resource.kind)
    if setter:
        setter(resource)


def _policy(resource: Any) -> None:
    spec = resource.spec
    if resource.kind.startswith("Staged"):
        spec.staged_action = spec.staged_action or "Set"
    spec.tier = spec.tier or "default"
    if spec.types:
        return
    if getattr(spec, "staged_action", None) == "Delete":
        return
    # Without egress rules a policy is about ingress, even when it has no ingress rule either.
    spec.types = ["Ingress"] if spec.ingress or not spec.egress else []
    if spec.egress:
        spec.types.append("Egress")


def _staged_kubernetes_policy(resource: Any) -> None:
    spec = resource.spec
    spec.staged_action = spec.staged_action or "Set"
    if not spec.policy_types and spec.staged_action != "Delete":
        spec.policy_types = ["Ingress", "Egress"] if spec.egress else ["Ingress"]


def _tier(resource: Any) -> None:
    spec = resource.spec
    order, action = BUILTIN_TIERS.get(resource.metadata.name, (DEFAULT_TIER_ORDER, "Deny"))
    if spec.order is None:
        spec.order = order
    spec.default_action = spec.default_action or action


def _pool(resource: Any) -> None:
    spec = resource.spec
    spec.ipip_mode = spec.ipip_mode or "Never"
    spec.vxlan_mode = spec.vxlan_mode or "Never"
    spec.block_size = spec.block_size or (122 if ":" in spec.cidr else 26)
    spec.node_selector = spec.node_selector or "all()"
    spec.allowed_uses = spec.allowed_uses or ["Workload", "Tunnel"]
    spec.assignment_mode = spec.assignment_mode or "Automatic"
    _canonical_cidr(spec)


def _canonical_cidr(spec: Any) -> None:
    from calico_node.resources import checks

    if checks.strict_cidr(spec.cidr) is None:
        from calico_node.addresses import canonical_cidr

        spec.cidr = canonical_cidr(spec.cidr)


def _bgp_configuration(resource: Any) -> None:
    spec = resource.spec
    spec.log_severity_screen = spec.log_severity_screen or "Info"
    spec.service_load_balancer_aggregation = spec.service_load_balancer_aggregation or "Enabled"


def _felix_configuration(resource: Any) -> None:
    spec = resource.spec
    deprecated = spec.bpf_connect_time_load_balancing_enabled
    if deprecated is not None:
        spec.bpf_host_networked_nat_without_ctlb = "Disabled"
        spec.bpf_connect_time_load_balancing = "Enabled" if deprecated else "Disabled"
    spec.floating_ips = spec.floating_ips or "Disabled"
    spec.bpf_connect_time_load_balancing = spec.bpf_connect_time_load_balancing or "TCP"
    spec.bpf_host_networked_nat_without_ctlb = spec.bpf_host_networked_nat_without_ctlb or "Enabled"
    spec.nftables_mode = spec.nftables_mode or "Auto"
    spec.nftables_flow_table_offload = spec.nftables_flow_table_offload or "Disabled"


def _ipam_configuration(resource: Any) -> None:
    if resource.spec.max_blocks_per_host is None:
        resource.spec.max_blocks_per_host = 0


def _kube_controllers_configuration(resource: Any) -> None:
    spec = resource.spec
    spec.health_checks = spec.health_checks or "Enabled"
    if spec.prometheus_metrics_port is None:
        spec.prometheus_metrics_port = 9094
    controllers = spec.controllers
    if controllers.node and controllers.node.leak_grace_period is None:
        controllers.node.leak_grace_period = "15m0s"
    if controllers.load_balancer and not controllers.load_balancer.assign_ips:
        controllers.load_balancer.assign_ips = "AllServices"
    if controllers.migration and not controllers.migration.policy_name_migrator:
        controllers.migration.policy_name_migrator = "Enabled"


_DEFAULTS: dict[str, Callable[[Any], None]] = {
    "NetworkPolicy": _policy,
    "GlobalNetworkPolicy": _policy,
    "StagedNetworkPolicy": _policy,
    "StagedGlobalNetworkPolicy": _policy,
    "StagedKubernetesNetworkPolicy": _staged_kubernetes_policy,
    "Tier": _tier,
    "IPPool": _pool,
    "BGPConfiguration": _bgp_configuration,
    "FelixConfiguration": _felix_configuration,
    "IPAMConfiguration": _ipam_configuration,
    "KubeControllersConfiguration": _kube_controllers_configuration,
}
