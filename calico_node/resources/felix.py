"""FelixConfiguration: the configuration of the policy and routing agent."""

# ruff: noqa: RUF009 - the calls in class bodies declare fields (calico_node.resources.fields)

from typing import Any, ClassVar

from attrs import define

from calico_node.resources import checks
from calico_node.resources.fields import Codec, Fault, Struct, always, mapping, opt, req
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


def _read_timeout(raw: Any) -> Any:
    if raw == "Auto":
        return raw
    try:
        return DURATION.read(raw)
    except Fault:
        raise Fault("must be Auto or a duration such as 90s", raw) from None


_TIMEOUT = Codec(_read_timeout)


@define(kw_only=True)
class BPFConntrackTimeouts(Struct):
    """Each a duration, or Auto for the kernel's own."""

    creation_grace_period: str | None = opt(codec=_TIMEOUT)
    tcp_syn_sent: str | None = opt(codec=_TIMEOUT)
    tcp_established: str | None = opt(codec=_TIMEOUT)
    tcp_fins_seen: str | None = opt(codec=_TIMEOUT)
    tcp_reset_seen: str | None = opt(codec=_TIMEOUT)
    udp_timeout: str | None = opt(codec=_TIMEOUT)
    generic_timeout: str | None = opt(codec=_TIMEOUT)
    icmp_timeout: str | None = opt(codec=_TIMEOUT)


@define(kw_only=True)
class FelixConfigurationSpec(Struct):
    """Absent is None, also for lists, because an empty list (no failsafe ports at all) differs from an absent one."""

    node_selector: str | None = opt(check=checks.all_of(checks.at_most_long(1024), checks.scoped_selector))
    feature_detect_override: str | None = opt()
    feature_gates: str | None = opt(check=checks.matching(r"^([a-zA-Z0-9-_]+=([^=]+),)*([a-zA-Z0-9-_]+=([^=]+))?$"))
    go_gc_threshold: int | None = opt("goGCThreshold", check=checks.at_least(-1))
    go_max_procs: int | None = opt(check=checks.at_least(-1))
    go_memory_limit_mb: int | None = opt("goMemoryLimitMB", check=checks.at_least(-1))
    health_enabled: bool | None = opt()
    health_host: str | None = opt()
    health_port: int | None = opt(check=_PORT)
    health_timeout_overrides: list[HealthTimeoutOverride] | None = opt()
    log_action_rate_limit: str | None = opt(check=checks.matching(r"^[1-9]\d{0,3}/(?:second|minute|hour|day)$"))
    log_action_rate_limit_burst: int | None = opt(check=checks.between(0, 9999))
    log_debug_filename_regex: str | None = opt()
    log_file_path: str | None = opt()
    log_prefix: str | None = opt(check=checks.matching(r"^([a-zA-Z0-9%: /_-])*$"))
    log_severity_file: str | None = opt(check=_LOG_LEVEL)
    log_severity_screen: str | None = opt(check=_LOG_LEVEL)
    log_severity_sys: str | None = opt(check=_LOG_LEVEL)
    prometheus_go_metrics_enabled: bool | None = opt()
    prometheus_metrics_ca_file: str | None = opt("prometheusMetricsCAFile")
    prometheus_metrics_cert_file: str | None = opt()
    prometheus_metrics_client_auth: str | None = opt(
        check=checks.one_of(
            "NoClientCert", "RequireAndVerifyClientCert", "RequireAnyClientCert", "VerifyClientCertIfGiven"
        )
    )
    prometheus_metrics_enabled: bool | None = opt()
    prometheus_metrics_host: str | None = opt()
    prometheus_metrics_key_file: str | None = opt()
    prometheus_metrics_port: int | None = opt(check=_PORT)
    prometheus_process_metrics_enabled: bool | None = opt()
    prometheus_wireguard_metrics_enabled: bool | None = opt("prometheusWireGuardMetricsEnabled")
    allow_ipip_packets_from_workloads: bool | None = opt("allowIPIPPacketsFromWorkloads")
    allow_vxlan_packets_from_workloads: bool | None = opt("allowVXLANPacketsFromWorkloads")
    cgroup_v2_path: str | None = opt()
    chain_insert_mode: str | None = opt(check=checks.one_of_any_case("Append", "Insert"))
    dataplane_driver: str | None = opt()
    dataplane_watchdog_timeout: str | None = opt(codec=DURATION)
    default_endpoint_to_host_action: str | None = opt(check=checks.one_of_any_case("Accept", "Drop", "Return"))
    device_route_protocol: int | None = opt()
    device_route_source_address: str | None = opt()
    device_route_source_address_ipv6: str | None = opt("deviceRouteSourceAddressIPv6")
    disable_conntrack_invalid_check: bool | None = opt()
    endpoint_status_path_prefix: str | None = opt()
    external_nodes_list: list[str] | None = opt(each=checks.ipv4_cidr)
    failsafe_inbound_host_ports: list[ProtoPort] | None = opt()
    failsafe_outbound_host_ports: list[ProtoPort] | None = opt()
    floating_ips: str | None = opt("floatingIPs", check=_ENABLED)
    ip_forwarding: str | None = opt(check=_ENABLED)
    ipv4_elevated_route_priority: int | None = opt(check=_PRIORITY)
    ipv4_normal_route_priority: int | None = opt(check=_PRIORITY)
    ipv6_elevated_route_priority: int | None = opt(check=_PRIORITY)
    ipv6_normal_route_priority: int | None = opt(check=_PRIORITY)
    interface_exclude: str | None = opt()
    interface_prefix: str | None = opt()
    interface_refresh_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    ipv6_support: bool | None = opt()
    istio_ambient_mode: str | None = opt(check=_ENABLED)
    istio_dscp_mark: int | str | None = opt("istioDSCPMark", check=check_dscp, codec=DSCP)
    live_migration_route_convergence_time: str | None = opt(codec=DURATION, check=_POSITIVE)
    local_subnet_l2_reachability: str | None = opt(check=checks.one_of("Disabled", "PodsAndLoadBalancers"))
    local_subnet_l2_reachability_refresh_interval: str | None = opt(codec=DURATION)
    mtu_iface_pattern: str | None = opt()
    nat_outgoing_address: str | None = opt()
    nat_outgoing_exclusions: str | None = opt(check=checks.one_of("IPPoolsAndHostIPs", "IPPoolsOnly"))
    nat_port_range: int | str | None = opt(check=check_numeric_port, codec=PORT)
    nftables_flow_table_data_iface_pattern: str | None = opt()
    nftables_flow_table_offload: str | None = opt(check=checks.one_of("All", "Disabled"))
    nftables_mode: str | None = opt(check=checks.one_of("Auto", "Disabled", "Enabled"))
    netlink_timeout: str | None = opt(codec=DURATION, check=_WHOLE)
    policy_sync_path_prefix: str | None = opt()
    program_cluster_routes: str | None = opt(
        check=checks.one_of("Disabled", "Enabled", "EnabledIPIPOnly", "EnabledNoEncapOnly")
    )
    remove_external_routes: bool | None = opt()
    require_mtu_file: bool | None = opt("requireMTUFile")
    route_refresh_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    route_source: str | None = opt(check=checks.one_of_any_case("CalicoIPAM", "WorkloadIPs"))
    route_sync_disabled: bool | None = opt()
    route_table_range: RouteTableRange | None = opt()
    route_table_ranges: list[RouteTableIDRange] | None = opt()
    service_loop_prevention: str | None = opt(check=checks.one_of_any_case("Disabled", "Drop", "Reject"))
    sidecar_acceleration_enabled: bool | None = opt()
    use_internal_dataplane_driver: bool | None = opt()
    workload_source_spoofing: str | None = opt(check=checks.one_of_any_case("Any", "Disabled"))
    ipsets_refresh_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    iptables_backend: str | None = opt(check=checks.one_of_any_case("Auto", "Legacy", "NFT"))
    iptables_filter_allow_action: str | None = opt(check=_ACCEPT_OR_RETURN)
    iptables_filter_deny_action: str | None = opt(check=_DROP_OR_REJECT)
    iptables_lock_probe_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    iptables_mangle_allow_action: str | None = opt(check=_ACCEPT_OR_RETURN)
    iptables_mark_mask: int | None = opt(check=_MASK)
    iptables_nat_outgoing_interface_filter: str | None = opt("iptablesNATOutgoingInterfaceFilter")
    iptables_post_write_check_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    iptables_refresh_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    kube_node_port_ranges: list[int | str] | None = opt(each=check_numeric_port, codec=PORT)
    max_ipset_size: int | None = opt()
    nftables_filter_allow_action: str | None = opt(check=_ACCEPT_OR_RETURN)
    nftables_filter_deny_action: str | None = opt(check=_DROP_OR_REJECT)
    nftables_mangle_allow_action: str | None = opt(check=_ACCEPT_OR_RETURN)
    nftables_mark_mask: int | None = opt(check=_MASK)
    nftables_refresh_interval: str | None = opt(codec=DURATION)
    bpf_attach_type: str | None = opt(check=checks.one_of("Netkit", "TC", "TCX"))
    bpf_ctlb_log_filter: str | None = opt("bpfCTLBLogFilter")
    bpf_connect_time_load_balancing: str | None = opt(check=checks.one_of("Disabled", "Enabled", "TCP"))
    bpf_connect_time_load_balancing_enabled: bool | None = opt()
    bpf_conntrack_mode: str | None = opt(check=checks.one_of("Auto", "BPFProgram", "Userspace"))
    bpf_conntrack_log_level: str | None = opt(check=checks.one_of("Debug", "Off"))
    bpf_conntrack_timeouts: BPFConntrackTimeouts | None = opt()
    bpf_dsr_optout_cidrs: list[str] | None = opt("bpfDSROptoutCIDRs", each=checks.cidr)
    bpf_data_iface_pattern: str | None = opt()
    bpf_disable_gro_for_ifaces: str | None = opt("bpfDisableGROForIfaces")
    bpf_disable_unprivileged: bool | None = opt()
    bpf_enabled: bool | None = opt()
    bpf_enforce_rpf: str | None = opt("bpfEnforceRPF", check=checks.one_of_any_case("Disabled", "Loose", "Strict"))
    bpf_exclude_cidrs_from_nat: list[str] | None = opt("bpfExcludeCIDRsFromNAT", each=checks.cidr)
    bpf_export_buffer_size_mb: int | None = opt("bpfExportBufferSizeMB")
    bpf_ext_to_service_connmark: int | None = opt()
    bpf_external_service_mode: str | None = opt(check=checks.one_of_any_case("DSR", "Tunnel"))
    bpf_force_track_packets_from_ifaces: list[str] | None = opt()
    bpf_host_conntrack_bypass: bool | None = opt()
    bpf_host_networked_nat_without_ctlb: str | None = opt("bpfHostNetworkedNATWithoutCTLB", check=_ENABLED)
    bpf_ip_frag_timeout: str | None = opt("bpfIPFragTimeout", codec=DURATION, check=_WHOLE)
    bpf_ip_fragment_reassembly_enabled: bool | None = opt("bpfIPFragmentReassemblyEnabled")
    bpf_jit_hardening: str | None = opt("bpfJITHardening", check=checks.one_of("Auto", "Strict"))
    bpf_kube_proxy_healthz_port: int | None = opt()
    bpf_kube_proxy_iptables_cleanup_enabled: bool | None = opt()
    bpf_kube_proxy_min_sync_period: str | None = opt(codec=DURATION, check=_WHOLE)
    bpf_l3_iface_pattern: str | None = opt()
    bpf_log_filters: dict[str, str] = mapping()
    bpf_log_level: str | None = opt(check=checks.one_of_any_case("Debug", "Info", "Off"))
    bpf_maglev_max_endpoints_per_service: int | None = opt(check=checks.between(1, 3000))
    bpf_maglev_max_services: int | None = opt(check=checks.between(1, 3000))
    bpf_map_size_conntrack: int | None = opt()
    bpf_map_size_conntrack_cleanup_queue: int | None = opt(check=checks.at_least(1))
    bpf_map_size_conntrack_scaling: str | None = opt(check=checks.one_of_any_case("Disabled", "DoubleIfFull"))
    bpf_map_size_ip_sets: int | None = opt("bpfMapSizeIPSets")
    bpf_map_size_if_state: int | None = opt()
    bpf_map_size_nat_affinity: int | None = opt("bpfMapSizeNATAffinity")
    bpf_map_size_nat_backend: int | None = opt("bpfMapSizeNATBackend")
    bpf_map_size_nat_frontend: int | None = opt("bpfMapSizeNATFrontend")
    bpf_map_size_per_cpu_conntrack: int | None = opt()
    bpf_map_size_route: int | None = opt()
    bpf_overlay_host_source_ip: str | None = opt(
        "bpfOverlayHostSourceIP", check=checks.one_of("HostAddress", "TunnelAddress")
    )
    bpf_psnat_ports: int | str | None = opt("bpfPSNATPorts", check=check_numeric_port, codec=PORT)
    bpf_policy_debug_enabled: bool | None = opt()
    bpf_profiling: str | None = opt(check=_ENABLED)
    bpf_redirect_to_peer: str | None = opt(check=_ENABLED)
    windows_manage_firewall_rules: str | None = opt(check=_ENABLED)
    endpoint_reporting_delay: str | None = opt(codec=DURATION, check=_WHOLE)
    endpoint_reporting_enabled: bool | None = opt()
    metadata_addr: str | None = opt()
    metadata_port: int | None = opt(check=_PORT)
    openstack_region: str | None = opt()
    reporting_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    reporting_ttl: str | None = opt("reportingTTL", codec=DURATION, check=_WHOLE)
    generic_xdp_enabled: bool | None = opt("genericXDPEnabled")
    xdp_enabled: bool | None = opt()
    xdp_refresh_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    vxlan_enabled: bool | None = opt()
    vxlan_mtu: int | None = opt("vxlanMTU")
    vxlan_mtu_v6: int | None = opt("vxlanMTUV6")
    vxlan_port: int | None = opt()
    vxlan_vni: int | None = opt("vxlanVNI")
    ipip_enabled: bool | None = opt()
    ipip_mtu: int | None = opt("ipipMTU")
    wireguard_enabled: bool | None = opt()
    wireguard_enabled_v6: bool | None = opt()
    wireguard_host_encryption_enabled: bool | None = opt()
    wireguard_interface_name: str | None = opt()
    wireguard_interface_name_v6: str | None = opt()
    wireguard_listening_port: int | None = opt()
    wireguard_listening_port_v6: int | None = opt()
    wireguard_mtu: int | None = opt("wireguardMTU")
    wireguard_mtu_v6: int | None = opt("wireguardMTUV6")
    wireguard_keep_alive: str | None = opt(codec=DURATION, check=_WHOLE)
    wireguard_routing_rule_priority: int | None = opt()
    wireguard_threading_enabled: bool | None = opt()
    flow_logs_collector_debug_trace: bool | None = opt()
    flow_logs_flush_interval: str | None = opt(codec=DURATION, check=_WHOLE)
    flow_logs_goldmane_server: str | None = opt()
    flow_logs_local_reporter: str | None = opt(check=_ENABLED)
    flow_logs_policy_evaluation_mode: str | None = opt(check=checks.one_of("Continuous", "None"))
    aws_src_dst_check: str | None = opt(check=checks.one_of("Disable", "DoNothing", "Enable"))
    debug_disable_log_dropping: bool | None = opt()
    debug_host: str | None = opt()
    debug_memory_profile_path: str | None = opt()
    debug_port: int | None = opt(check=_PORT)
    debug_simulate_calc_graph_hang_after: str | None = opt(codec=DURATION, check=_WHOLE)
    debug_simulate_dataplane_apply_delay: str | None = opt(codec=DURATION, check=_WHOLE)
    debug_simulate_dataplane_hang_after: str | None = opt(codec=DURATION, check=_WHOLE)
    usage_reporting_enabled: bool | None = opt()
    usage_reporting_initial_delay: str | None = opt(codec=DURATION, check=_WHOLE)
    usage_reporting_interval: str | None = opt(codec=DURATION, check=_WHOLE)


@define(kw_only=True)
class FelixConfiguration(Resource):
    """``default``, ``node.<name>`` or, with a node selector, any other name."""

    kind: ClassVar[str] = "FelixConfiguration"
    spec: FelixConfigurationSpec = always(FelixConfigurationSpec)
