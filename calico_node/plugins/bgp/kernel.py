"""The kernel's own routes as paths of the table: what BIRD's ``direct`` and ``kernel`` protocols learn."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from calico_node.addresses import ip_version
from calico_node.dataplanes.contract import ConnectedPrefix, KernelView, Route, RouteType
from calico_node.plugins.bgp.prefix import Prefix, parse_prefix
from calico_node.plugins.bgp.rib import PREFERENCE, Origin, Path, PathKey

IGNORED_PROTOCOLS = frozenset((0, 2, 12))  # unspecified, the kernel's connected routes, our own
_NOT_CONNECTED = ("cali*", "kube-ipvs*", "lo")
_LINK_LOCAL = (parse_prefix("169.254.0.0/16"), parse_prefix("fe80::/10"))
_KERNEL = PathKey("kernel")


class KernelRoutes:
    """Follows the views of one family and says what a new one changes; the cost is that of the change, as long as a
    Route that stays the same stays the same object."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._routes: dict[int, Route] = {}
        self._by_prefix: dict[Prefix, list[Route]] = {}
        self._addresses: tuple[tuple[ConnectedPrefix, ...], tuple[str, ...]] = ((), ())
        self._direct: dict[Prefix, frozenset[str]] = {}

    def update(self, view: KernelView, ignored: Sequence[str]) -> dict[Prefix, dict[PathKey, Path]]:
        """The paths of each prefix that may have changed.

        ``ignored`` are patterns of interfaces whose addresses are not connected routes.
        """
        changed: set[Prefix] = set()
        present = {id(route): route for route in view.routes}
        for number in [number for number in self._routes if number not in present]:
            route = self._routes.pop(number)
            prefix = self._prefix(route)
            if prefix is not None:
                rest = [other for other in self._by_prefix[prefix] if other is not route]
                self._by_prefix[prefix] = rest
                if not rest:
                    del self._by_prefix[prefix]
                changed.add(prefix)
        for number, route in present.items():
            if number not in self._routes:
                self._routes[number] = route
                prefix = self._prefix(route)
                if prefix is not None:
                    self._by_prefix.setdefault(prefix, []).append(route)
                    changed.add(prefix)
        if self._addresses != (view.addresses, tuple(ignored)):
            self._addresses = (view.addresses, tuple(ignored))
            direct = self._connected(view.addresses, ignored)
            everywhere = direct.keys() | self._direct.keys()
            changed.update(prefix for prefix in everywhere if direct.get(prefix) != self._direct.get(prefix))
            self._direct = direct
        return {prefix: self._paths(prefix) for prefix in changed}

    def _prefix(self, route: Route) -> Prefix | None:
        """The destination; None for a route that is not to be learned."""
        if route.protocol in IGNORED_PROTOCOLS or ip_version(route.dst) != self._version:
            return None
        prefix = parse_prefix(route.dst)
        return None if prefix.within(_LINK_LOCAL[1]) else prefix

    def _connected(
        self, addresses: Sequence[ConnectedPrefix], ignored: Sequence[str]
    ) -> dict[Prefix, frozenset[str]]:
        """Connected prefixes, with the interfaces that have them."""
        found: dict[Prefix, frozenset[str]] = {}
        for connected in addresses:
            if not connected.up or ip_version(connected.address) != self._version:
                continue
            prefix = parse_prefix(connected.address)
            if any(fnmatch.fnmatchcase(connected.device, pattern) for pattern in (*_NOT_CONNECTED, *ignored)):
                continue
            if not any(prefix.within(local) for local in _LINK_LOCAL):
                found[prefix] = found.get(prefix, frozenset()) | {connected.device}
        return found

    def _paths(self, prefix: Prefix) -> dict[PathKey, Path]:
        """Of several alien routes to one prefix the one with the lowest metric counts."""
        paths: dict[PathKey, Path] = {}
        for device in self._direct.get(prefix, ()):
            key = PathKey(f"direct/{device}")
            paths[key] = Path(key, Origin.DIRECT, PREFERENCE[Origin.DIRECT], device=device)
        routes = self._by_prefix.get(prefix)
        if routes:
            route = min(routes, key=lambda route: route.metric)
            paths[_KERNEL] = Path(
                _KERNEL,
                Origin.KERNEL,
                PREFERENCE[Origin.KERNEL],
                metric=route.metric,
                device=route.device,
                gateway=route.gateways[0] if route.gateways else "",
                blackhole=route.type is not RouteType.UNICAST,
            )
        return paths


def local_addresses(view: KernelView, version: int) -> set[str]:
    """This host's addresses, without length."""
    return {
        connected.address.partition("/")[0]
        for connected in view.addresses
        if ip_version(connected.address) == version
    }


def adopted_routes(view: KernelView) -> bool:
    """Whether the main table holds routes that an earlier run of ours (or BIRD) left."""
    return any(route.protocol == 12 for route in view.routes)
