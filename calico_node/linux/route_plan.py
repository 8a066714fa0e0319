"""Who owns which route of the main table, and what brings one prefix to what is wanted: no state, no socket."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from calico_node.linux.rtnetlink import (
    RTN_BLACKHOLE,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    RTPROT_BIRD,
    RTPROT_BOOT,
    RTPROT_CALICO,
    NextHop,
    Path,
)

FELIX = "felix"
BGP = "bgp"
RANK = (FELIX, BGP)
"""Where two owners want one prefix, the earlier wins."""

TYPES: Mapping[str, int] = {"unicast": RTN_UNICAST, "blackhole": RTN_BLACKHOLE, "unreachable": RTN_UNREACHABLE}
TYPE_NAMES: Mapping[int, str] = {number: name for name, number in TYPES.items()}


class WantedRoute(Protocol):
    """What an owner gives: the attributes of ``dataplanes.contract.Route``; ``type`` is an enum of ``TYPES``."""

    @property
    def dst(self) -> str: ...
    @property
    def type(self) -> Enum: ...
    @property
    def device(self) -> str: ...
    @property
    def gateways(self) -> tuple[str, ...]: ...
    @property
    def onlink(self) -> bool: ...
    @property
    def scope_link(self) -> bool: ...
    @property
    def protocol(self) -> int: ...
    @property
    def metric(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def mtu(self) -> int: ...


class Ownership:
    """Which routes of the main table are whose (Felix's rules for cleaning up, BIRD's protocol number).

    Felix owns ``felix_protocol`` (80) anywhere, every route on workload interfaces (only ``felix_protocol``, 3 and
    80 there with ``remove_external`` off, FelixConfiguration removeExternalRoutes), and every route on its own
    tunnel devices.  BGP owns protocol 12.  IPv6 link-local and multicast prefixes are nobody's.
    """

    def __init__(
        self,
        *,
        workload_prefixes: Sequence[str] = ("cali",),
        exclusive_devices: Iterable[str] = ("vxlan.calico", "vxlan-v6.calico", "bpfin.cali"),
        felix_protocol: int = RTPROT_CALICO,
        remove_external: bool = True,
    ) -> None:
        self._prefixes = tuple(workload_prefixes)
        self._exclusive = frozenset(exclusive_devices)
        self._felix_protocol = felix_protocol
        self._remove_external = remove_external

    def is_workload(self, device: str) -> bool:
        return device.startswith(self._prefixes) and device not in self._exclusive

    def owners(self, prefix: bytes, path: Path, devices: Sequence[str]) -> tuple[str, ...]:
        """Who may remove this route when it is not wanted; empty: nobody."""
        if len(prefix) == 17 and (prefix[1] == 0xFF or (prefix[1] == 0xFE and prefix[2] & 0xC0 == 0x80)):
            return ()
        found: tuple[str, ...] = ()
        if (
            path.protocol == self._felix_protocol
            or (devices and all(device in self._exclusive for device in devices))
            or (
                devices
                and all(self.is_workload(device) for device in devices)
                and (self._remove_external or path.protocol in (RTPROT_BOOT, RTPROT_CALICO, self._felix_protocol))
            )
        ):
            found = (FELIX,)
        if path.protocol == RTPROT_BIRD:
            found = (*found, BGP)
        return found

    def has_grace(self, path: Path, devices: Sequence[str]) -> bool:
        """Whether a route is Felix's only for the interface it is on."""
        return path.protocol not in (self._felix_protocol, RTPROT_BIRD) and any(
            self.is_workload(device) for device in devices
        )


class Change(NamedTuple):
    """One write: put ``path`` at ``prefix`` (replacing the route of the same metric if ``replace``), or delete it."""

    prefix: bytes
    path: Path
    delete: bool = False
    replace: bool = False


class Plan(NamedTuple):
    """The changes for one prefix; ``deletes`` only after all ``puts`` succeeded, so that the way never breaks."""

    puts: tuple[Change, ...] = ()
    deletes: tuple[Change, ...] = ()
    conflict: Path | None = None


def satisfies(present: Path, wanted: Path) -> bool:
    """Whether the kernel's route is the wanted one; an interface left open matches any."""
    if present == wanted:
        return True
    if len(present.hops) != len(wanted.hops) or all(hop.ifindex for hop in wanted.hops):
        return False
    open_hops = sorted(hop if hop.ifindex else hop._replace(ifindex=0) for hop in wanted.hops)
    matched = sorted(
        NextHop(p.gateway, p.ifindex if w.ifindex else 0)
        for p, w in zip(sorted(present.hops), sorted(wanted.hops, key=lambda hop: hop.gateway), strict=True)
    )
    return matched == open_hops and present._replace(hops=()) == wanted._replace(hops=())


def plan(
    prefix: bytes,
    wanted: Path | None,
    present: Sequence[Path],
    *,
    removable: Callable[[Path], bool],
    replaceable: Callable[[Path], bool],
) -> Plan:
    """What brings ``prefix`` from ``present`` to ``wanted``.

    The kernel tells routes of one prefix apart by metric.  A route of the wanted metric that may not be replaced is
    a conflict: then nothing is changed, the old way included.
    """
    if wanted is None:
        return Plan(deletes=tuple(Change(prefix, path, delete=True) for path in present if removable(path)))
    same = [path for path in present if path.metric == wanted.metric]
    puts: tuple[Change, ...] = ()
    if not any(satisfies(path, wanted) for path in same):
        for path in same:
            if not replaceable(path):
                return Plan(conflict=path)
        puts = (Change(prefix, wanted, replace=bool(same)),)
    deletes = tuple(
        Change(prefix, path, delete=True) for path in present if path.metric != wanted.metric and removable(path)
    )
    return Plan(puts, deletes)
