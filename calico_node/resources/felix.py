"""FelixConfiguration: the configuration of the policy and routing agent."""

# ruff: noqa: RUF009 - the calls in class bodies declare fields (calico_node.resources.fields)

import re
from typing import ClassVar

from attrs import define

from calico_node.resources import checks
from calico_node.resources.fields import Struct, always, lst, opt, req
from calico_node.resources.meta import Resource
from calico_node.resources.scalars import (
    DSCP,
    DURATION,
    PORT,
    check_dscp,
    check_not_negative,
    check_numeric_port,
    check_positive_duration,
    check_whole_duration,
)

_ENABLED = checks.one_of("Enabled", "Disabled")
_LOG_LEVEL = checks.one_of_any_case("Trace", "Debug", "Info", "Warning", "Error", "Fatal")
_ACCEPT_OR_RETURN = checks.one_of_any_case("Accept", "Return")
_DROP_OR_REJECT = checks.one_of_any_case("Drop", "Reject")
_PORT = checks.between(0, 65535)
_PRIORITY = checks.between(1, 2147483646)
_MASK = checks.between(0, 0xFFFFFFFF)
_WHOLE = check_whole_duration
_POSITIVE = check_positive_duration
_TIMEOUT = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:ms|s|h|m|us)|\.[0-9]+(?:ms|s|h|m|us))+|Auto", re.ASCII)


@define(kw_only=True)
class ProtoPort(Struct):
    """A failsafe port; ``net`` limits it to peers in that range."""

    protocol: str = req(check=checks.one_of("TCP", "UDP", "SCTP"))
    port: int = req(check=_PORT, default=0)
    net: str | None = opt(check=checks.cidr)


@define(kw_only=True)
class RouteTableRange(Struct):
    min: int = req(check=checks.between(1, 250), default=0)
    max: int = req(check=checks.between(1, 250), default=0)


@define(kw_only=True)
class RouteTableIDRange(Struct):
    min: int = req(check=checks.at_least(1), default=0)
    max: int = req(check=checks.between(1, 0xFFFFFFFF), default=0)


@define(kw_only=True)
class HealthTimeoutOverride(Struct):
    name: str = req(check=checks.matching("[a-zA-Z0-9_ -]+"))
    timeout: str = req(codec=DURATION, check=check_not_negative)


def _timeout(value: str) -> str | None:
    return None if _TIMEOUT.fullmatch(value) else "must be Auto or a duration such as 90s"


@define(kw_only=True)
class BPFConntrackTimeouts(Struct):
    """Each a duration, or Auto for the kernel's own; kept as it was written, as Calico does."""

    creation_grace_period: str | None = opt(check=_timeout)
    tcp_syn_sent: str | None = opt(check=_timeout)
    tcp_established: str | None = opt(check=_timeout)
    tcp_fins_seen: str | None = opt(check=_timeout)
    tcp_reset_seen: str | None = opt(check=_timeout)
    udp_timeout: str | None = opt(check=_timeout)
    generic_timeout: str | None = opt(check=_timeout)
    icmp_timeout: str | None = opt(check=_timeout)


@define(kw_only=True)
class FelixConfigurationSpec(Struct):
    """Absent is None, also for lists, because an empty list (no failsafe ports at all) differs from an absent one."""

    node_selector: str | None = opt(check=checks.all_of(checks.at_most_long(1024), checks.scoped_selector))
    use_internal_dataplane_driver: bool | None = opt()
    dataplane_driver: str | None = opt()
    dataplane_watchdog_timeout: str | None = opt(codec=DURATION)
    ipv6_support: bool | None = opt()
    route_refresh_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    interface_refresh_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    iptables_refresh_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    iptables_post_write_check_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    iptables_lock_probe_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    feature_detect_override: str | None = opt()
    feature_gates: str | None = opt(check=checks.matching(r"^([a-zA-Z0-9-_]+=([^=]+),)*([a-zA-Z0-9-_]+=([^=]+))?$"))
    ipsets_refresh_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    max_ipset_size: int | None = opt()
    iptables_backend: str | None = opt(check=checks.one_of_any_case("Auto", "Legacy", "NFT"))
    xdp_refresh_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    netlink_timeout: str | None = opt(codec=DURATION, check=_WHOLE)
    metadata_addr: str | None = opt()
    metadata_port: int | None = opt(check=_PORT)
    openstack_region: str | None = opt()
    interface_prefix: str | None = opt()
    interface_exclude: str | None = opt()
    chain_insert_mode: str | None = opt(check=checks.one_of_any_case("Append", "Insert"))
    default_endpoint_to_host_action: str | None = opt(check=checks.one_of_any_case("Accept", "Drop", "Return"))
    iptables_filter_allow_action: str | None = opt(check=_ACCEPT_OR_RETURN)
    iptables_mangle_allow_action: str | None = opt(check=_ACCEPT_OR_RETURN)
    iptables_filter_deny_action: str | None = opt(check=_DROP_OR_REJECT)
    log_prefix: str | None = opt(check=checks.matching(r"^([a-zA-Z0-9%: /_-])*$"))
    log_action_rate_limit: str | None = opt(check=checks.matching(r"^[1-9]\d{0,3}/(?:second|minute|hour|day)$"))
    log_action_rate_limit_burst: int | None = opt(check=checks.between(0, 9999))
    log_file_path: str | None = opt()
    log_severity_file: str | None = opt(check=_LOG_LEVEL)
    log_severity_screen: str | None = opt(check=_LOG_LEVEL)
    log_severity_sys: str | None = opt(check=_LOG_LEVEL)
    log_debug_filename_regex: str | None = opt()
    ipip_enabled: bool | None = opt()
    ipip_mtu: int | None = opt("ipipMTU")
    vxlan_enabled: bool | None = opt()
    vxlan_mtu: int | None = opt("vxlanMTU")
    vxlan_mtu_v6: int | None = opt("vxlanMTUV6")
    vxlan_port: int | None = opt()
    vxlan_vni: int | None = opt("vxlanVNI")
    allow_vxlan_packets_from_workloads: bool | None = opt("allowVXLANPacketsFromWorkloads")
    allow_ipip_packets_from_workloads: bool | None = opt("allowIPIPPacketsFromWorkloads")
    reporting_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    reporting_ttl: str | None = opt("reportingTTL", codec=DURATION, check=_WHOLE)
    endpoint_reporting_enabled: bool | None = opt()
    endpoint_reporting_delay: str | None = opt(codec=DURATION, check=_WHOLE)
    endpoint_status_path_prefix: str | None = opt()
    iptables_mark_mask: int | None = opt(check=_MASK)
    disable_conntrack_invalid_check: bool | None = opt()
    health_enabled: bool | None = opt()
    health_host: str | None = opt(pointer=True)
    health_port: int | None = opt(check=_PORT)
    health_timeout_overrides: list[HealthTimeoutOverride] = lst()
    prometheus_metrics_enabled: bool | None = opt()
    prometheus_metrics_host: str | None = opt()
    prometheus_metrics_port: int | None = opt(check=_PORT)
    prometheus_go_metrics_enabled: bool | None = opt()
    prometheus_process_metrics_enabled: bool | None = opt()
    prometheus_wireguard_metrics_enabled: bool | None = opt("prometheusWireGuardMetricsEnabled")
    prometheus_metrics_ca_file: str | None = opt("prometheusMetricsCAFile")
    prometheus_metrics_cert_file: str | None = opt()
    prometheus_metrics_key_file: str | None = opt()
    prometheus_metrics_client_auth: str | None = opt(
        check=checks.one_of(
            "NoClientCert", "RequireAndVerifyClientCert", "RequireAnyClientCert", "VerifyClientCertIfGiven"
        )
    )
    failsafe_inbound_host_ports: list[ProtoPort] | None = opt()
    failsafe_outbound_host_ports: list[ProtoPort] | None = opt()
    kube_node_port_ranges: list[int | str] | None = opt(each=check_numeric_port, codec=PORT)
    policy_sync_path_prefix: str | None = opt()
    usage_reporting_enabled: bool | None = opt()
    usage_reporting_initial_delay: str | None = opt(codec=DURATION, check=_WHOLE)
    usage_reporting_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    nat_port_range: int | str | None = opt(check=check_numeric_port, codec=PORT)
    nat_outgoing_address: str | None = opt()
    nat_outgoing_exclusions: str | None = opt(check=checks.one_of("IPPoolsAndHostIPs", "IPPoolsOnly"))
    device_route_source_address: str | None = opt()
    device_route_source_address_ipv6: str | None = opt("deviceRouteSourceAddressIPv6")
    device_route_protocol: int | None = opt()
    remove_external_routes: bool | None = opt()
    program_cluster_routes: str | None = opt(
        check=checks.one_of("Disabled", "Enabled", "EnabledIPIPOnly", "EnabledNoEncapOnly")
    )
    ip_forwarding: str | None = opt(check=_ENABLED)
    external_nodes_list: list[str] | None = opt(each=checks.ipv4_cidr)
    debug_memory_profile_path: str | None = opt()
    debug_disable_log_dropping: bool | None = opt()
    debug_simulate_calc_graph_hang_after: str | None = opt(codec=DURATION, check=_WHOLE)
    debug_simulate_dataplane_hang_after: str | None = opt(codec=DURATION, check=_WHOLE)
    debug_simulate_dataplane_apply_delay: str | None = opt(codec=DURATION, check=_WHOLE)
    debug_host: str | None = opt(pointer=True)
    debug_port: int | None = opt(check=_PORT)
    iptables_nat_outgoing_interface_filter: str | None = opt("iptablesNATOutgoingInterfaceFilter")
    sidecar_acceleration_enabled: bool | None = opt()
    xdp_enabled: bool | None = opt()
    generic_xdp_enabled: bool | None = opt("genericXDPEnabled")
    nftables_mode: str | None = opt(check=checks.one_of("Auto", "Disabled", "Enabled"))
    nftables_flow_table_offload: str | None = opt(check=checks.one_of("All", "Disabled"))
    nftables_flow_table_data_iface_pattern: str | None = opt()
    nftables_refresh_interval: str | None = opt(codec=DURATION)
    nftables_filter_allow_action: str | None = opt(check=_ACCEPT_OR_RETURN)
    nftables_mangle_allow_action: str | None = opt(check=_ACCEPT_OR_RETURN)
    nftables_filter_deny_action: str | None = opt(check=_DROP_OR_REJECT)
    nftables_mark_mask: int | None = opt(check=_MASK)
    bpf_enabled: bool | None = opt()
    bpf_disable_unprivileged: bool | None = opt()
    bpf_jit_hardening: str | None = opt("bpfJITHardening", check=checks.one_of("Auto", "Strict"))
    bpf_log_level: str = opt(check=checks.one_of_any_case("Debug", "Info", "Off"), default="", always=True)
    bpf_conntrack_log_level: str | None = opt(check=checks.one_of("Debug", "Off"))
    bpf_conntrack_mode: str | None = opt(check=checks.one_of("Auto", "BPFProgram", "Userspace"))
    bpf_conntrack_timeouts: BPFConntrackTimeouts | None = opt()
    bpf_log_filters: dict[str, str] | None = opt()
    bpf_ctlb_log_filter: str | None = opt("bpfCTLBLogFilter")
    bpf_data_iface_pattern: str | None = opt()
    bpf_l3_iface_pattern: str | None = opt()
    bpf_connect_time_load_balancing_enabled: bool | None = opt()
    bpf_connect_time_load_balancing: str | None = opt(check=checks.one_of("Disabled", "Enabled", "TCP"))
    bpf_host_networked_nat_without_ctlb: str | None = opt("bpfHostNetworkedNATWithoutCTLB", check=_ENABLED)
    bpf_external_service_mode: str | None = opt(check=checks.one_of_any_case("DSR", "Tunnel"))
    bpf_dsr_optout_cidrs: list[str] | None = opt("bpfDSROptoutCIDRs", each=checks.cidr)
    bpf_ext_to_service_connmark: int | None = opt()
    bpf_kube_proxy_iptables_cleanup_enabled: bool | None = opt()
    bpf_kube_proxy_min_sync_period: str | None = opt(codec=DURATION, check=_WHOLE)
    bpf_kube_proxy_healthz_port: int | None = opt()
    bpf_psnat_ports: int | str | None = opt("bpfPSNATPorts", check=check_numeric_port, codec=PORT)
    bpf_map_size_nat_frontend: int | None = opt("bpfMapSizeNATFrontend")
    bpf_map_size_nat_backend: int | None = opt("bpfMapSizeNATBackend")
    bpf_map_size_nat_affinity: int | None = opt("bpfMapSizeNATAffinity")
    bpf_map_size_route: int | None = opt()
    bpf_map_size_conntrack: int | None = opt()
    bpf_map_size_per_cpu_conntrack: int | None = opt()
    bpf_map_size_conntrack_scaling: str | None = opt(check=checks.one_of_any_case("Disabled", "DoubleIfFull"))
    bpf_map_size_conntrack_cleanup_queue: int | None = opt(check=checks.at_least(1))
    bpf_map_size_ip_sets: int | None = opt("bpfMapSizeIPSets")
    bpf_map_size_if_state: int | None = opt()
    bpf_host_conntrack_bypass: bool | None = opt()
    bpf_enforce_rpf: str | None = opt("bpfEnforceRPF", check=checks.one_of_any_case("Disabled", "Loose", "Strict"))
    bpf_policy_debug_enabled: bool | None = opt()
    bpf_force_track_packets_from_ifaces: list[str] | None = opt()
    bpf_disable_gro_for_ifaces: str | None = opt("bpfDisableGROForIfaces")
    bpf_exclude_cidrs_from_nat: list[str] | None = opt("bpfExcludeCIDRsFromNAT", each=checks.cidr)
    bpf_export_buffer_size_mb: int | None = opt("bpfExportBufferSizeMB")
    bpf_ip_frag_timeout: str | None = opt("bpfIPFragTimeout", codec=DURATION, check=_WHOLE)
    bpf_ip_fragment_reassembly_enabled: bool | None = opt("bpfIPFragmentReassemblyEnabled")
    cgroup_v2_path: str | None = opt()
    flow_logs_policy_evaluation_mode: str | None = opt(check=checks.one_of("Continuous", "None"))
    bpf_redirect_to_peer: str | None = opt(check=_ENABLED)
    bpf_attach_type: str | None = opt(check=checks.one_of("Netkit", "TC", "TCX"))
    flow_logs_flush_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    flow_logs_collector_debug_trace: bool | None = opt()
    flow_logs_goldmane_server: str | None = opt(pointer=True)
    flow_logs_local_reporter: str | None = opt(check=_ENABLED)
    bpf_profiling: str | None = opt(check=_ENABLED)
    bpf_overlay_host_source_ip: str | None = opt(
        "bpfOverlayHostSourceIP", check=checks.one_of("HostAddress", "TunnelAddress")
    )
    route_source: str | None = opt(check=checks.one_of_any_case("CalicoIPAM", "WorkloadIPs"))
    route_table_ranges: list[RouteTableIDRange] | None = opt()
    route_table_range: RouteTableRange | None = opt()
    route_sync_disabled: bool | None = opt()
    wireguard_enabled: bool | None = opt()
    wireguard_enabled_v6: bool | None = opt()
    wireguard_threading_enabled: bool | None = opt()
    wireguard_listening_port: int | None = opt()
    wireguard_listening_port_v6: int | None = opt()
    wireguard_routing_rule_priority: int | None = opt()
    wireguard_interface_name: str | None = opt()
    wireguard_interface_name_v6: str | None = opt()
    wireguard_mtu: int | None = opt("wireguardMTU")
    wireguard_mtu_v6: int | None = opt("wireguardMTUV6")
    wireguard_host_encryption_enabled: bool | None = opt()
    wireguard_keep_alive: str | None = opt(codec=DURATION, check=_WHOLE)
    aws_src_dst_check: str | None = opt(check=checks.one_of("Disable", "DoNothing", "Enable"))
    service_loop_prevention: str | None = opt(check=checks.one_of_any_case("Disabled", "Drop", "Reject"))
    workload_source_spoofing: str | None = opt(check=checks.one_of_any_case("Any", "Disabled"))
    mtu_iface_pattern: str | None = opt()
    floating_ips: str | None = opt("floatingIPs", check=_ENABLED)
    windows_manage_firewall_rules: str | None = opt(check=_ENABLED)
    go_gc_threshold: int | None = opt("goGCThreshold", check=checks.at_least(-1))
    go_memory_limit_mb: int | None = opt("goMemoryLimitMB", check=checks.at_least(-1))
    go_max_procs: int | None = opt(check=checks.at_least(-1))
    require_mtu_file: bool | None = opt("requireMTUFile")
    bpf_maglev_max_endpoints_per_service: int | None = opt(check=checks.between(1, 3000))
    bpf_maglev_max_services: int | None = opt(check=checks.between(1, 3000))
    istio_ambient_mode: str | None = opt(check=_ENABLED)
    istio_dscp_mark: int | str | None = opt("istioDSCPMark", check=check_dscp, codec=DSCP)
    ipv4_normal_route_priority: int | None = opt(check=_PRIORITY)
    ipv4_elevated_route_priority: int | None = opt(check=_PRIORITY)
    ipv6_normal_route_priority: int | None = opt(check=_PRIORITY)
    ipv6_elevated_route_priority: int | None = opt(check=_PRIORITY)
    live_migration_route_convergence_time: str | None = opt(codec=DURATION, check=_POSITIVE)
    local_subnet_l2_reachability: str | None = opt(check=checks.one_of("Disabled", "PodsAndLoadBalancers"))
    local_subnet_l2_reachability_refresh_interval: str | None = opt(codec=DURATION)


@define(kw_only=True)
class FelixConfiguration(Resource):
    """``default``, ``node.<name>`` or, with a node selector, any other name."""

    kind: ClassVar[str] = "FelixConfiguration"
    spec: FelixConfigurationSpec = always(FelixConfigurationSpec)
