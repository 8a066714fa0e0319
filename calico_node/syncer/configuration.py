"""FelixConfiguration, ClusterInformation and Node to Felix's parameters as text.

Reference of names and text forms: libcalico-go ``updateprocessors/felixconfigprocessor.go``.  A FelixConfiguration
``default`` gives global parameters, ``node.<name>`` those of one host, any other name goes through raw (its
nodeSelector decides).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from calico_node.errors import ValidationError

ANNOTATION_PREFIX = "config.projectcalico.org/"

_RENAMED = {
    "ipv6Support": "Ipv6Support",
    "externalNodesList": "ExternalNodesCIDRList",
    "netlinkTimeout": "NetlinkTimeoutSecs",
    "iptablesLockProbeInterval": "IptablesLockProbeIntervalMillis",
    "iptablesPostWriteCheckInterval": "IptablesPostWriteCheckIntervalSecs",
    "bpfConntrackMode": "BPFConntrackCleanupMode",
    "bpfMapSizePerCpuConntrack": "BPFMapSizePerCPUConntrack",
    "endpointReportingDelay": "EndpointReportingDelaySecs",
    "reportingInterval": "ReportingIntervalSecs",
    "reportingTTL": "ReportingTTLSecs",
    "ipipEnabled": "IpInIpEnabled",
    "ipipMTU": "IpInIpMtu",
    "wireguardKeepAlive": "WireguardPersistentKeepAlive",
    "usageReportingInitialDelay": "UsageReportingInitialDelaySecs",
    "usageReportingInterval": "UsageReportingIntervalSecs",
}
_PREFIXES = {
    "bpf": "BPF",
    "vxlan": "VXLAN",
    "xdp": "XDP",
    "aws": "AWS",
    "mtu": "MTU",
    "nat": "NAT",
    "nftablesMode": "NFTablesMode",
    "nftablesFlowTable": "NFTablesFlowTable",
    "ipForwarding": "IPForwarding",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
}
_DURATIONS = frozenset(
    {
        "dataplaneWatchdogTimeout", "interfaceRefreshInterval", "liveMigrationRouteConvergenceTime",
        "localSubnetL2ReachabilityRefreshInterval", "netlinkTimeout", "routeRefreshInterval", "ipsetsRefreshInterval",
        "iptablesLockProbeInterval", "iptablesPostWriteCheckInterval", "iptablesRefreshInterval",
        "nftablesRefreshInterval", "bpfIPFragTimeout", "bpfKubeProxyMinSyncPeriod", "endpointReportingDelay",
        "reportingInterval", "reportingTTL", "xdpRefreshInterval", "wireguardKeepAlive", "flowLogsFlushInterval",
        "debugSimulateCalcGraphHangAfter", "debugSimulateDataplaneApplyDelay", "debugSimulateDataplaneHangAfter",
        "usageReportingInitialDelay", "usageReportingInterval",
    }
)  # fmt: skip
_MILLISECONDS = frozenset({"iptablesLockProbeInterval"})
_FAILSAFES = frozenset({"failsafeInboundHostPorts", "failsafeOutboundHostPorts"})
_CONNTRACK_NAMES = {"tcp": "TCP", "udp": "UDP", "icmp": "ICMP"}

_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parameter_name(json_name: str) -> str:
    """``bpfEnabled`` -> ``BPFEnabled``; Felix matches names without regard to case."""
    if json_name in _RENAMED:
        return _RENAMED[json_name]
    for prefix, name in _PREFIXES.items():
        if json_name.startswith(prefix):
            return name + json_name[len(prefix) :]
    return json_name[0].upper() + json_name[1:]


def flatten(spec: Mapping[str, Any], annotations: Mapping[str, str]) -> dict[str, str]:
    """A FelixConfiguration spec (JSON) as parameter texts; annotations win over the fields they name.

    Raises ``ValidationError`` for a duration that does not parse.
    """
    parameters: dict[str, str] = {}
    for name, value in spec.items():
        if name == "nodeSelector" or value is None:
            continue
        text = _text(name, value)
        if text:
            parameters[parameter_name(name)] = text
    names = {name.lower(): name for name in parameters}
    for key, text in annotations.items():
        if key.startswith(ANNOTATION_PREFIX):
            name = key[len(ANNOTATION_PREFIX) :]
            parameters[names.get(name.lower(), name)] = text
    return parameters


def _text(name: str, value: Any) -> str:
    if name in _FAILSAFES:
        return ",".join(map(_failsafe, value)) or "none"
    if name in _DURATIONS:
        seconds = parse_duration(str(value), field=f"spec.{name}")
        return number_text(seconds * 1000 if name in _MILLISECONDS else seconds)
    if name == "routeTableRange":
        return f"{value['min']}-{value['max']}"
    if name == "routeTableRanges":
        return ",".join(f"{entry['min']}-{entry['max']}" for entry in value)
    if name == "healthTimeoutOverrides":
        return ",".join(f"{entry['name']}={entry['timeout']}" for entry in value)
    if name == "bpfConntrackTimeouts":
        return ",".join(f"{_conntrack_name(key)}={text}" for key, text in value.items())
    return plain_text(value)


def plain_text(value: Any) -> str:
    """bool, numbers, text, lists and maps as Felix reads them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return number_text(value)
    if isinstance(value, list):
        return ",".join(map(plain_text, value))
    if isinstance(value, dict):
        return "".join(f"{key}={plain_text(value[key])}," for key in sorted(value))
    return str(value)


def number_text(value: float) -> str:
    """As Go prints a number: no ".0" and no more digits than needed."""
    rounded = round(value, 9)
    return str(int(rounded)) if rounded == int(rounded) else repr(rounded)


def parse_duration(text: str, *, field: str = "") -> float:
    """A Go duration (``1m30s``) in seconds.  Raises ``ValidationError``."""
    body = text.lstrip("+-")
    if body == "0":
        return 0.0
    if not body or _DURATION.sub("", body):
        raise ValidationError("is not a duration such as 90s or 1m30s", field=field, value=text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(body))
    return -seconds if text.startswith("-") else seconds


def _failsafe(entry: Mapping[str, Any]) -> str:
    protocol = str(entry.get("protocol") or "tcp").lower()
    net = entry.get("net") or ""
    if not net:
        return f"{protocol}:{entry['port']}"
    return f"{protocol}:[{net}]:{entry['port']}" if ":" in net else f"{protocol}:{net}:{entry['port']}"


def _conntrack_name(json_name: str) -> str:
    for prefix, name in _CONNTRACK_NAMES.items():
        if json_name.startswith(prefix):
            return name + json_name[len(prefix) :]
    return json_name[0].upper() + json_name[1:]


def cluster_information(spec: Any) -> dict[str, str]:
    """The global parameters that ClusterInformation gives."""
    values = {
        "ClusterGUID": spec.cluster_guid,
        "ClusterType": spec.cluster_type,
        "CalicoVersion": spec.calico_version,
        "Variant": spec.variant,
    }
    return {name: value for name, value in values.items() if value}


def node_parameters(spec: Any) -> dict[str, str]:
    """The parameters of one host that its Node resource gives: tunnel addresses and MACs."""
    values = {
        "IpInIpTunnelAddr": spec.bgp.ipv4_ipip_tunnel_addr if spec.bgp else None,
        "IPv4VXLANTunnelAddr": spec.ipv4_vxlan_tunnel_addr,
        "VXLANTunnelMACAddr": spec.vxlan_tunnel_mac_addr,
        "IPv6VXLANTunnelAddr": spec.ipv6_vxlan_tunnel_addr,
        "VXLANTunnelMACAddrV6": spec.vxlan_tunnel_mac_addr_v6,
    }
    return {name: value for name, value in values.items() if value}
