"""The Felix parameters that shape rules, from their text values."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from calico_node.dataplanes.nftables.layout import Marks
from calico_node.errors import DataplaneError

_TRUE = ("true", "1", "yes", "y", "t")


DEFAULT_MARKS = Marks.from_mask(0xFFFF0000)


@frozen
class RenderConfig:
    """Names are Felix's parameters in snake case; see FelixConfiguration for their meaning."""

    interface_prefixes: tuple[str, ...] = ("cali",)
    marks: Marks = DEFAULT_MARKS
    accept_returns: bool = False
    deny_rejects: bool = False
    endpoint_to_host: str = "drop"
    check_invalid: bool = True
    vxlan_port: int = 4789
    allow_vxlan: bool = False
    allow_ipip: bool = False
    log_prefix: str = "calico-packet"
    log_rate: tuple[int, int] | None = None
    log_burst: int = 5
    nat_ports: tuple[int, int] | None = None
    nat_address: str = ""
    nat_excludes_hosts: bool = False
    nat_interface: str = ""
    external_nodes: tuple[str, ...] = ()
    ipv6: bool = True
    refresh_interval: float = 180.0
    sets_refresh_interval: float = 90.0

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> RenderConfig:
        """From ``ConfigUpdate.config``; absent parameters have Felix's defaults.

        Raises ``DataplaneError`` naming the parameter whose value cannot be used.
        """
        text = {name.lower(): value.strip() for name, value in values.items()}
        current = ""

        def get(name: str, default: str = "") -> str:
            nonlocal current
            current = name
            return text.get(name.lower(), "") or default

        def flag(name: str, default: bool = False) -> bool:
            return get(name, str(default)).lower() in _TRUE

        try:
            return cls(
                interface_prefixes=tuple(part for part in get("InterfacePrefix", "cali").split(",") if part),
                marks=Marks.from_mask(int(get("NftablesMarkMask", "0xffff0000"), 0)),
                accept_returns=get("NftablesFilterAllowAction", "ACCEPT").lower() == "return",
                deny_rejects=get("NftablesFilterDenyAction", "DROP").lower() == "reject",
                endpoint_to_host=get("DefaultEndpointToHostAction", "DROP").lower(),
                check_invalid=not flag("DisableConntrackInvalidCheck"),
                vxlan_port=int(get("VXLANPort", "4789")),
                allow_vxlan=flag("AllowVXLANPacketsFromWorkloads"),
                allow_ipip=flag("AllowIPIPPacketsFromWorkloads"),
                log_prefix=get("LogPrefix", "calico-packet"),
                log_rate=_rate(get("LogActionRateLimit")),
                log_burst=int(get("LogActionRateLimitBurst", "5")),
                nat_ports=_ports(get("NATPortRange")),
                nat_address=get("NATOutgoingAddress"),
                nat_excludes_hosts=get("NATOutgoingExclusions").lower() == "ippoolsandhostips",
                nat_interface=get("IptablesNATOutgoingInterfaceFilter"),
                external_nodes=tuple(
                    part.strip() for part in get("ExternalNodesCIDRList").split(",") if part.strip()
                ),
                ipv6=flag("Ipv6Support", True),
                refresh_interval=float(get("NftablesRefreshInterval", "180")),
                sets_refresh_interval=float(get("IpsetsRefreshInterval", "90")),
            )
        except ValueError as error:
            raise DataplaneError(f"{current} = {text.get(current.lower(), '')!r}: {error}") from None


def _rate(text: str) -> tuple[int, int] | None:
    """``10/second`` -> (10, 1): packets per so many seconds."""
    if not text:
        return None
    number, _, unit = text.partition("/")
    seconds = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}.get(unit)
    if seconds is None:
        raise ValueError("must be like 10/second, /minute, /hour or /day")
    return int(number), seconds


def _ports(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    low, _, high = text.partition(":")
    return int(low), int(high or low)
