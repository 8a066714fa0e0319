"""The routes that Felix wants: workload addresses and blocks, as changes to the route sink.  Pure."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from calico_node.dataplanes.contract import (
    Route,
    RouteOwnership,
    RouteType,
    WorkloadEndpointID,
    WorkloadEndpointUpdate,
)
from calico_node.plugins.felix.calc.routes import BlockRoute

CALICO_PROTOCOL = 80
"""The rtm_protocol of routes to blocks, unless DeviceRouteProtocol is changed from its default."""
BOOT_PROTOCOL = 3
_SHARED_PROTOCOLS = frozenset((0, 1, 2, BOOT_PROTOCOL, 4, 12))
"""Others use these too (the kernel, boot scripts, the administrator, BGP): what carries them proves nothing."""


@frozen
class RouteSettings:
    """``protocol`` and metrics of workload routes; ``source4`` and ``source6`` their preferred source;
    without ``ipv6`` there are no IPv6 routes at all."""

    protocol: int = BOOT_PROTOCOL
    metric4: int = 1024
    metric6: int = 1024
    source4: str = ""
    source6: str = ""
    ipv6: bool = True

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> RouteSettings:
        """From Felix's parameters, already checked."""
        return cls(
            protocol=int(values["DeviceRouteProtocol"]),
            metric4=int(values["IPv4NormalRoutePriority"]),
            metric6=int(values["IPv6NormalRoutePriority"]),
            source4=values["DeviceRouteSourceAddress"],
            source6=values["DeviceRouteSourceAddressIPv6"],
            ipv6=values["Ipv6Support"] == "true",
        )

    @property
    def block_protocol(self) -> int:
        return CALICO_PROTOCOL if self.protocol in _SHARED_PROTOCOLS else self.protocol

    def ownership(self, values: Mapping[str, str]) -> RouteOwnership:
        """What the route sink may clean away with these settings and Felix's other parameters."""
        return RouteOwnership(
            workload_prefixes=tuple(part for part in values["InterfacePrefix"].split(",") if part),
            protocol=self.block_protocol,
            remove_external=values["RemoveExternalRoutes"] == "true",
            refresh_interval=float(values["RouteRefreshInterval"]),
        )


class DesiredRoutes:
    """What is wanted by destination; a workload's own route beats one to a block on the same prefix."""

    def __init__(self) -> None:
        self.settings = RouteSettings()
        self._claims: dict[str, dict[WorkloadEndpointID, str]] = {}  # dst -> endpoint -> device
        self._of_endpoint: dict[WorkloadEndpointID, frozenset[str]] = {}
        self._blocks: dict[str, BlockRoute] = {}
        self._stated: dict[str, Route] = {}
        self._dirty: dict[str, None] = {}

    def set_settings(self, settings: RouteSettings) -> None:
        if settings != self.settings:
            self.settings = settings
            self._dirty.update(dict.fromkeys([*self._claims, *self._blocks]))

    def set_endpoint(self, identity: WorkloadEndpointID, endpoint: WorkloadEndpointUpdate | None) -> None:
        """The endpoint's routes are wanted; None while it has none (gone, admin down, interface down)."""
        wanted = frozenset(endpoint.ipv4_nets + endpoint.ipv6_nets) if endpoint is not None else frozenset()
        for dst in self._of_endpoint.pop(identity, frozenset()) - wanted:
            claims = self._claims[dst]
            del claims[identity]
            if not claims:
                del self._claims[dst]
            self._dirty[dst] = None
        if endpoint is None:
            return
        for dst in sorted(wanted):
            claims = self._claims.setdefault(dst, {})
            if claims.get(identity) != endpoint.name:
                claims[identity] = endpoint.name
                self._dirty[dst] = None
        if wanted:
            self._of_endpoint[identity] = wanted

    def set_blocks(self, changes: Mapping[str, BlockRoute | None]) -> None:
        for dst, route in changes.items():
            if route is None:
                self._blocks.pop(dst, None)
            else:
                self._blocks[dst] = route
            self._dirty[dst] = None

    def is_block(self, dst: str) -> bool:
        """Whether many addresses hang on the route to ``dst``."""
        return dst in self._blocks and dst not in self._claims

    def take(self) -> tuple[list[Route], list[str]]:
        """(routes to add or replace, destinations to remove) since the last call."""
        add: list[Route] = []
        remove: list[str] = []
        for dst in self._dirty:
            route = self._wanted(dst)
            if route == self._stated.get(dst):
                continue
            if route is None:
                del self._stated[dst]
                remove.append(dst)
            else:
                self._stated[dst] = route
                add.append(route)
        self._dirty.clear()
        return add, remove

    def _wanted(self, dst: str) -> Route | None:
        if ":" in dst and not self.settings.ipv6:
            return None
        claims = self._claims.get(dst)
        if claims:
            first = min(claims, key=lambda one: (one.orchestrator, one.workload, one.endpoint))
            v6 = ":" in dst
            return Route(
                dst,
                device=claims[first],
                scope_link=True,
                protocol=self.settings.protocol,
                metric=self.settings.metric6 if v6 else self.settings.metric4,
                source=self.settings.source6 if v6 else self.settings.source4,
            )
        block = self._blocks.get(dst)
        if block is None:
            return None
        if not block.gateway:
            return Route(dst, RouteType.BLACKHOLE, protocol=self.settings.block_protocol)
        # Only peers on our own subnet get such a route, so the kernel finds the device by itself.
        return Route(dst, gateways=(block.gateway,), protocol=self.settings.block_protocol)
