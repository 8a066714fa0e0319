"""What others may know of a speaker: its sessions and its table, as ``hookspecs.BGPSpeaker`` says."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import ipaddress
from collections.abc import Callable, Iterator

from calico_node.hookspecs import BGPRoute, BGPSession, BGPSpeaker
from calico_node.plugins.bgp.prefix import prefix_text
from calico_node.plugins.bgp.rib import Origin, Path, Table
from calico_node.plugins.bgp.speaker import Speaker

_STEP = 2.0
"""Seconds by which the wall clock must have been set for earlier times to be told anew."""
_SOURCES = {Origin.DIRECT: "direct", Origin.STATIC: "static", Origin.KERNEL: "kernel"}


class Clock:
    """Times of the loop's clock as times of the day: the same moment is always told the same, to the microsecond,
    until the wall clock is set."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._offset = self._present()

    def _present(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=self._monotonic())

    def wall(self, moment: float) -> datetime.datetime:
        present = self._present()
        if abs((present - self._offset).total_seconds()) > _STEP:
            self._offset = present
        return self._offset + datetime.timedelta(seconds=moment)


@functools.cache
def _version() -> str:
    return f"calico-node v{importlib.metadata.version('calico-node')}"


def describe(
    speaker: Speaker,
    *,
    router_id: int,
    ready: bool,
    booted: datetime.datetime,
    reconfigured: datetime.datetime,
    clock: Clock,
) -> BGPSpeaker:
    """The speaker as it is now.  ``router_id`` 0: there is none, and so no session can be."""
    return BGPSpeaker(
        ready=ready and router_id != 0,
        version=_version(),
        router_id=str(ipaddress.IPv4Address(router_id)) if router_id else "",
        booted=booted,
        reconfigured=reconfigured,
        sessions=tuple(
            BGPSession(config.address, config.kind, session.state.value, clock.wall(session.since))
            for config, session, _, _ in speaker.peers()
        ),
        routes=functools.partial(_routes, speaker.table),
    )


def _routes(table: Table) -> Iterator[BGPRoute]:
    for prefix in list(table.paths):
        selection = table.selected.get(prefix)
        for path in tuple(table.paths.get(prefix, ())):
            best = selection is not None and selection.best is path
            yield _route(prefix_text(prefix), table, path, best)


def _route(destination: str, table: Table, path: Path, best: bool) -> BGPRoute:
    hop = table.resolution(path)
    device, gateway = hop.device, hop.gateway
    if path.blackhole:
        device, gateway = "blackhole", ""
    elif not hop.reachable:
        device, gateway = "unreachable", ""
    if path.origin is not Origin.BGP:
        return BGPRoute(destination, _SOURCES[path.origin], best, device, gateway)
    source = "mesh" if path.key.source.startswith("Mesh_") else "peer"
    number = ipaddress.IPv4Address if table.version == 4 else ipaddress.IPv6Address
    return BGPRoute(destination, source, best, device, gateway, str(number(path.peer_address)))
