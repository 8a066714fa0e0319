"""Felix's configuration: parameters, their sources and how they combine.

Sources, highest first: environment (``FELIX_<NAME>``, any case), the configuration file, this host's configuration
in the datastore, that of the selector which picks this node, the cluster's.  Overriding is per parameter.  A value
that does not parse counts as the *default* from that source, so it still beats lower sources; it is reported.
"""

from __future__ import annotations

import configparser
import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping

from attrs import frozen

from calico_node.errors import SettingsError

Parser = Callable[[str], str]
"""Text to canonical text.  Raises ``ValueError``."""


@frozen
class Parameter:
    """``local``: not taken from the datastore.  ``fatal``: a bad value ends the start.  ``no_zero``: may not be
    ``none``.  ``zero`` is what ``none`` stands for."""

    name: str
    parse: Parser
    default: str = ""
    zero: str = ""
    local: bool = False
    fatal: bool = False
    no_zero: bool = False


def _bool(text: str) -> str:
    lowered = text.lower()
    if lowered in ("true", "1", "yes", "y", "t"):
        return "true"
    if lowered in ("false", "0", "no", "n", "f"):
        return "false"
    raise ValueError("must be true or false")


def _int(low: int | None = None, high: int | None = None) -> Parser:
    def parse(text: str) -> str:
        digits = text.lstrip("+-")
        base = 8 if re.fullmatch(r"0[0-7]+", digits) else 0
        value = int(text, base)
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(f"must be within {low}..{high}")
        return str(value)

    return parse


def _seconds(text: str) -> str:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError("must be a number of seconds, not negative")
    return text


def _enum(*choices: str) -> Parser:
    by_lower = {choice.lower(): choice for choice in choices}

    def parse(text: str) -> str:
        try:
            return by_lower[text.lower()]
        except KeyError:
            raise ValueError(f"must be one of {', '.join(choices)}") from None

    return parse


def _pattern(pattern: str) -> Parser:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"must match {pattern}")
        return text

    return parse


def _address(version: int) -> Parser:
    def parse(text: str) -> str:
        address = ipaddress.ip_address(text)
        if address.version != version:
            raise ValueError(f"must be an IPv{version} address")
        return str(address)

    return parse


def _cidrs(text: str) -> str:
    return ",".join(str(ipaddress.ip_network(part.strip(), strict=False)) for part in text.split(",") if part.strip())


def _failsafe_ports(text: str) -> str:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        match = re.fullmatch(r"(?:(tcp|udp):)?(?:(?:\[([^]]+)\]|([0-9./]+)):)?(\d{1,5})", part)
        if not match or not 0 <= int(match[4]) <= 65535:
            raise ValueError(f"{part!r} must be [(tcp|udp):[cidr:]]port")
        if match[2] or match[3]:
            ipaddress.ip_network(match[2] or match[3], strict=False)
    return ",".join(parts)


def _mark_mask(text: str) -> str:
    value = int(text, 0)
    if not 0 < value <= 0xFFFFFFFF or value.bit_count() < 2:
        raise ValueError("must be a mask of at least two bits")
    return hex(value)


_IN_PORTS = "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667"
_OUT_PORTS = "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667"
_PORT_RANGE = r"\d{1,5}(:\d{1,5})?"

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("AllowIPIPPacketsFromWorkloads", _bool, "false", "false"),
    Parameter("AllowVXLANPacketsFromWorkloads", _bool, "false", "false"),
    Parameter("DataplaneWatchdogTimeout", _seconds, "90", "0"),
    Parameter("DefaultEndpointToHostAction", _enum("ACCEPT", "DROP", "RETURN"), "DROP", fatal=True, no_zero=True),
    Parameter("DeviceRouteProtocol", _int(0, 255), "3", "0"),
    Parameter("DeviceRouteSourceAddress", _address(4)),
    Parameter("DeviceRouteSourceAddressIPv6", _address(6)),
    Parameter("DisableConntrackInvalidCheck", _bool, "false", "false"),
    Parameter("EndpointReportingDelaySecs", _seconds, "1", "0"),
    Parameter("EndpointReportingEnabled", _bool, "false", "false"),
    Parameter("EndpointStatusPathPrefix", str, "/var/run/calico"),
    Parameter("ExternalNodesCIDRList", _cidrs, fatal=True),
    Parameter("FailsafeInboundHostPorts", _failsafe_ports, _IN_PORTS, fatal=True),
    Parameter("FailsafeOutboundHostPorts", _failsafe_ports, _OUT_PORTS, fatal=True),
    Parameter("IPForwarding", _enum("Disabled", "Enabled"), "Enabled"),
    Parameter("IPv4NormalRoutePriority", _int(1, 2147483646), "1024"),
    Parameter("IPv6NormalRoutePriority", _int(1, 2147483646), "1024"),
    Parameter("InterfaceExclude", str, "kube-ipvs0"),
    Parameter(
        "InterfacePrefix",
        _pattern(r"[a-zA-Z0-9_-]{1,15}(,[a-zA-Z0-9_-]{1,15})*"),
        "cali",
        fatal=True,
        no_zero=True,
    ),
    Parameter("IpInIpEnabled", _bool),
    Parameter("Ipv6Support", _bool, "true", "false"),
    Parameter("LogActionRateLimit", _pattern(r"([1-9]\d{0,3}/(?:second|minute|hour|day))?")),
    Parameter("LogActionRateLimitBurst", _int(0, 9999), "5", "0"),
    Parameter("LogPrefix", str, "calico-packet"),
    Parameter("NATOutgoingAddress", _address(4)),
    Parameter("NATOutgoingExclusions", _enum("IPPoolsAndHostIPs", "IPPoolsOnly"), "IPPoolsOnly"),
    Parameter("NATPortRange", _pattern(_PORT_RANGE)),
    Parameter("IptablesNATOutgoingInterfaceFilter", _pattern(r"[a-zA-Z0-9:._+-]{1,15}")),
    Parameter("NftablesFilterAllowAction", _enum("ACCEPT", "RETURN"), "ACCEPT", fatal=True, no_zero=True),
    Parameter("NftablesFilterDenyAction", _enum("DROP", "REJECT"), "DROP", fatal=True, no_zero=True),
    Parameter("NftablesMangleAllowAction", _enum("ACCEPT", "RETURN"), "ACCEPT", fatal=True, no_zero=True),
    Parameter("NftablesMarkMask", _mark_mask, "0xffff0000", fatal=True, no_zero=True),
    Parameter("NftablesRefreshInterval", _seconds, "180", "0"),
    Parameter("IpsetsRefreshInterval", _seconds, "90", "0"),
    Parameter("OpenstackRegion", _pattern(r"[a-z0-9]([a-z0-9-]{0,44}[a-z0-9])?")),
    Parameter(
        "ProgramClusterRoutes",
        _enum("Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly", "Enabled"),
        "EnabledIPIPOnly",
    ),
    Parameter("RemoveExternalRoutes", _bool, "true", "false"),
    Parameter("ReportingIntervalSecs", _seconds, "30", "0"),
    Parameter("ReportingTTLSecs", _seconds, "90", "0"),
    Parameter("RouteRefreshInterval", _seconds, "90", "0"),
    Parameter("RouteSyncDisabled", _bool, "false", "false"),
    Parameter("ServiceLoopPrevention", _enum("Disabled", "Drop", "Reject"), "Drop"),
    Parameter("VXLANEnabled", _bool),
    Parameter("VXLANPort", _int(0, 65535), "4789", "0"),
    Parameter("WorkloadSourceSpoofing", _enum("Any", "Disabled"), "Disabled"),
)

_BY_LOWER = {parameter.name.lower(): parameter for parameter in PARAMETERS}

NOT_BUILT: Mapping[str, str] = {
    "BPFEnabled": "true",
    "WireguardEnabled": "true",
    "WireguardEnabledV6": "true",
    "FloatingIPs": "Enabled",
    "IstioAmbientMode": "Enabled",
    "LocalSubnetL2Reachability": "PodsAndLoadBalancers",
    "NFTablesMode": "Disabled",
    "NFTablesFlowTableOffload": "All",
    "RouteSource": "WorkloadIPs",
    "FlowLogsLocalReporter": "Enabled",
    "IpInIpEnabled": "true",
    "VXLANEnabled": "true",
    "SidecarAccelerationEnabled": "true",
    "UseInternalDataplaneDriver": "false",
    "RequireMTUFile": "true",
}
"""Parameters that ask for something which is not built when they have this value."""

_NOT_BUILT_WHEN_SET = ("PolicySyncPathPrefix", "FlowLogsGoldmaneServer")

_NOT_ENFORCED: Mapping[str, tuple[str, ...]] = {
    "DataplaneWatchdogTimeout": ("90",),
    "FailsafeInboundHostPorts": (),
    "FailsafeOutboundHostPorts": (),
    "HealthTimeoutOverrides": (),
    "InterfaceExclude": (),
    "InterfaceRefreshInterval": ("90",),
    "IpInIpMtu": ("0",),
    "IPv4ElevatedRoutePriority": ("512",),
    "IPv6ElevatedRoutePriority": ("512",),
    "LiveMigrationRouteConvergenceTime": ("30",),
    "LogFilePath": ("none",),
    "LogSeverityFile": (),
    "LogSeveritySys": (),
    "MetadataAddr": ("127.0.0.1", "none"),
    "MetadataPort": ("8775",),
    "MTUIfacePattern": (),
    "NetlinkTimeoutSecs": ("10",),
    "NFTablesFlowTableDataIfacePattern": (),
    "NftablesMangleAllowAction": ("accept",),
    "PrometheusMetricsCAFile": (),
    "PrometheusMetricsCertFile": (),
    "PrometheusMetricsClientAuth": ("noclientcert",),
    "PrometheusMetricsKeyFile": (),
    "RouteTableRange": (),
    "RouteTableRanges": (),
    "ServiceLoopPrevention": ("disabled",),
    "VXLANMTU": ("0",),
    "VXLANMTUV6": ("0",),
    "VXLANVNI": ("4096",),
}
"""Parameters that change nothing here, and the values (in lower case) that ask for nothing else than what is done.
Those of the iptables, eBPF, WireGuard and Windows dataplanes mean something only where these are chosen."""

_START_ONLY: Mapping[str, tuple[str, ...]] = {
    "HealthEnabled": ("true",),
    "HealthHost": ("localhost",),
    "HealthPort": ("9099",),
    "LogSeverityScreen": ("info",),
    "PrometheusMetricsEnabled": ("false",),
    "PrometheusMetricsHost": (),
    "PrometheusMetricsPort": ("9091",),
}
"""Parameters of the process as a whole: read from the environment before the datastore is known, and only there."""

ENVIRONMENT, FILE, HOST, SELECTOR, GLOBAL = "environment", "configuration file", "per-host", "per-selector", "global"


@frozen
class Resolved:
    """The merged configuration, and what is wrong with or cannot be done about it (parameter -> reason)."""

    values: Mapping[str, str]
    faults: Mapping[str, str]

    def flag(self, name: str) -> bool:
        return self.values.get(name) == "true"


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The ``FELIX_`` variables, without the prefix."""
    return {name[6:]: value for name, value in environ.items() if name.upper().startswith("FELIX_")}


def from_file(text: str) -> dict[str, str]:
    """An INI file: section names mean nothing, the last of several wins.  Raises ``SettingsError``."""
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string("[before-any-section]\n" + text)
    except configparser.Error as error:
        raise SettingsError(f"Felix configuration file: {error}") from None
    return {name: value for section in parser.sections() for name, value in parser.items(section)}


class ConfigBatcher:
    """Collects the sources; ``resolve`` merges them.  Local sources are fixed at construction.

    Raises ``SettingsError`` when a local value is bad that may not be.
    """

    def __init__(self, environ: Mapping[str, str], file_values: Mapping[str, str]) -> None:
        self._local = [
            (ENVIRONMENT, _canonical_names(from_environment(environ))),
            (FILE, _canonical_names(file_values)),
        ]
        self.host: dict[str, str] = {}
        self.selected: dict[str, str] = {}
        self.cluster: dict[str, str] = {}
        for source, values in self._local:
            for name, text in values.items():
                parameter = _BY_LOWER.get(name.lower())
                if parameter is not None and parameter.fatal:
                    _, fault = _value(parameter, text)
                    if fault:
                        raise SettingsError(f"{name} = {text!r} ({source}): {fault}")

    def resolve(self) -> Resolved:
        merged = {parameter.name: parameter.default for parameter in PARAMETERS}
        faults: dict[str, str] = {}
        sources = [
            (source, _canonical_names(values))
            for source, values in ((GLOBAL, self.cluster), (SELECTOR, self.selected), (HOST, self.host))
        ]
        for source, values in (*sources, *reversed(self._local)):
            for name, text in values.items():
                if not text:
                    continue
                parameter = _BY_LOWER.get(name.lower())
                if parameter is None:
                    merged[name] = text
                    continue
                merged[parameter.name], fault = _value(parameter, text)
                if fault:
                    faults[name] = f"{text!r} ({source}): {fault}; the default is used"
        faults.update(_not_built(merged))
        faults.update(_not_enforced([*sources, *reversed(self._local)]))
        return Resolved(merged, faults)


def _value(parameter: Parameter, text: str) -> tuple[str, str]:
    """The canonical value (the default for a bad one) and the fault ("" for none)."""
    if text.lower() == "none" and not _accepts(parameter, text):
        if parameter.no_zero:
            return parameter.default, "may not be none"
        return parameter.zero, ""
    try:
        return parameter.parse(text.strip()), ""
    except ValueError as error:
        return parameter.default, str(error)


def _accepts(parameter: Parameter, text: str) -> bool:
    """Free text takes every word, but ``none`` means "nothing" there too."""
    if parameter.parse is str:
        return False
    try:
        parameter.parse(text)
    except ValueError:
        return False
    return parameter.name not in ("IptablesNATOutgoingInterfaceFilter", "InterfacePrefix")


_SPELLINGS = {name.lower(): name for name in (*_NOT_BUILT_WHEN_SET, *NOT_BUILT, *_NOT_ENFORCED, *_START_ONLY)} | {
    parameter.name.lower(): parameter.name for parameter in PARAMETERS
}


def _canonical_names(values: Mapping[str, str]) -> dict[str, str]:
    return {_SPELLINGS.get(name.lower(), name): value for name, value in values.items()}


def _not_built(merged: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for name, value in NOT_BUILT.items():
        if merged.get(name, "").lower() in (value.lower(), "1" if value == "true" else value.lower()):
            yield name, f"{merged[name]!r} asks for something that is not built"
    for name in _NOT_BUILT_WHEN_SET:
        if merged.get(name, "").lower() not in ("", "none"):
            yield name, f"{merged[name]!r} asks for something that is not built"


def _not_enforced(sources: Iterable[tuple[str, Mapping[str, str]]]) -> Iterable[tuple[str, str]]:
    """What somebody set, and nobody follows.  A default is not something that was asked for."""
    asked: dict[str, tuple[str, str]] = {}
    for source, values in sources:
        asked.update((name, (source, text)) for name, text in values.items() if text)
    for name, (source, text) in asked.items():
        if name in _NOT_ENFORCED and text.lower() not in _NOT_ENFORCED[name]:
            yield name, f"{text!r} ({source}): this parameter is not enforced"
        elif name in _START_ONLY and source != ENVIRONMENT and text.lower() not in _START_ONLY[name]:
            yield name, f"{text!r} ({source}): only the environment's FELIX_{name.upper()} is followed"
