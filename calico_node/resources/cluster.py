"""The cluster's identity and the configuration of the Kubernetes controllers."""

# ruff: noqa: RUF009 - the calls in class bodies declare fields (calico_node.resources.fields)

from typing import Any, ClassVar

from attrs import define

from calico_node.resources import checks
from calico_node.resources.fields import Struct, always, lst, mapping, opt, plain
from calico_node.resources.meta import Resource
from calico_node.resources.scalars import DURATION

_ENABLED = checks.one_of("Enabled", "Disabled")
_PORT = checks.between(0, 65535)


@define(kw_only=True)
class ClusterInformationSpec(Struct):
    """``datastore_ready`` False locks the datastore: agents and CNI wait."""

    cluster_guid: str | None = opt("clusterGUID")
    cluster_type: str | None = opt()
    calico_version: str | None = opt()
    datastore_ready: bool | None = opt()
    variant: str | None = opt()


@define(kw_only=True)
class ClusterInformation(Resource):
    kind: ClassVar[str] = "ClusterInformation"
    spec: ClusterInformationSpec = always(ClusterInformationSpec)


@define(kw_only=True)
class HostEndpointTemplate(Struct):
    generate_name: str | None = opt()
    interface_cidrs: list[str] = lst("interfaceCIDRs", each=checks.cidr)
    interface_pattern: str | None = opt()
    labels: dict[str, str] = mapping(check=checks.labels)
    annotations: dict[str, str] = mapping(check=checks.annotations)
    node_selector: str | None = opt(check=checks.scoped_selector)


@define(kw_only=True)
class AutoHostEndpoint(Struct):
    auto_create: str | None = opt(check=_ENABLED)
    create_default_host_endpoint: str | None = opt(check=_ENABLED)
    templates: list[HostEndpointTemplate] = lst()


@define(kw_only=True)
class NodeController(Struct):
    reconciler_period: str | None = opt(codec=DURATION)
    sync_labels: str | None = opt(check=_ENABLED)
    host_endpoint: AutoHostEndpoint | None = opt()
    leak_grace_period: str | None = opt(codec=DURATION)


@define(kw_only=True)
class Controller(Struct):
    reconciler_period: str | None = opt(codec=DURATION)


@define(kw_only=True)
class LoadBalancerController(Struct):
    assign_ips: str | None = opt("assignIPs", checks.one_of("AllServices", "RequestedServicesOnly"))


@define(kw_only=True)
class MigrationController(Struct):
    policy_name_migrator: str | None = opt("enabled", _ENABLED)


@define(kw_only=True)
class Controllers(Struct):
    """A controller is run when its object is present."""

    node: NodeController | None = opt()
    policy: Controller | None = opt()
    workload_endpoint: Controller | None = opt()
    service_account: Controller | None = opt()
    namespace: Controller | None = opt()
    load_balancer: LoadBalancerController | None = opt()
    migration: MigrationController | None = opt("policyMigration")


@define(kw_only=True)
class KubeControllersConfigurationSpec(Struct):
    log_severity_screen: str | None = opt(
        check=checks.one_of_any_case("None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic")
    )
    health_checks: str | None = opt(check=_ENABLED)
    etcd_v3_compaction_period: str | None = opt("etcdV3CompactionPeriod", codec=DURATION)
    prometheus_metrics_port: int | None = opt(check=_PORT)
    controllers: Controllers = always(Controllers)
    debug_profile_port: int | None = opt(check=_PORT)


@define(kw_only=True)
class KubeControllersConfigurationStatus(Struct):
    """``running_config`` is a spec, kept as plain JSON."""

    running_config: dict[str, Any] = plain(KubeControllersConfigurationSpec)
    environment_vars: dict[str, str] = mapping()


@define(kw_only=True)
class KubeControllersConfiguration(Resource):
    kind: ClassVar[str] = "KubeControllersConfiguration"
    spec: KubeControllersConfigurationSpec = always(KubeControllersConfigurationSpec)
    status: KubeControllersConfigurationStatus = always(KubeControllersConfigurationStatus)
