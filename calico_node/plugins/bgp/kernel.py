"""The kernel's own routes as paths of the table: what BIRD's ``direct`` and ``kernel`` protocols learn."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Iterable, Sequence

from calico_node.addresses import ip_version
from calico_node.dataplanes.contract import KernelView, Route, RouteType
from calico_node.plugins.bgp.prefix import Prefix, parse_prefix
from calico_node.plugins.bgp.rib import PREFERENCE, Origin, Path, PathKey

IGNORED_PROTOCOLS = frozenset((0, 2, 12))  # unspecified, the kernel's connected routes, our own
_NOT_CONNECTED = ("cali*", "kube-ipvs*", "lo")


def kernel_paths(view: KernelView, version: int, ignored: Sequence[str]) -> dict[Prefix, dict[PathKey, Path]]:
    """Connected prefixes and alien routes by prefix.

    ``ignored`` are interface patterns whose addresses are not connected routes.  Of several alien routes to one
    prefix the one with the lowest metric counts.
    """
    found: dict[Prefix, dict[PathKey, Path]] = {}
    for connected in view.addresses:
        if not connected.up or ip_version(connected.address) != version:
            continue
        if any(fnmatch.fnmatchcase(connected.device, pattern) for pattern in (*_NOT_CONNECTED, *ignored)):
            continue
        prefix = parse_prefix(connected.address)
        if ipaddress.ip_address(connected.address.partition("/")[0]).is_link_local:
            continue
        key = PathKey(f"direct/{connected.device}")
        path = Path(key, Origin.DIRECT, PREFERENCE[Origin.DIRECT], device=connected.device)
        found.setdefault(prefix, {})[key] = path
    best: dict[Prefix, Route] = {}
    for route in view.routes:
        if route.protocol in IGNORED_PROTOCOLS or ip_version(route.dst) != version:
            continue
        prefix = parse_prefix(route.dst)
        other = best.get(prefix)
        if other is None or route.metric < other.metric:
            best[prefix] = route
    key = PathKey("kernel")
    for prefix, route in best.items():
        if prefix.version == 6 and prefix.value >> 118 == 0x3FA:
            continue
        found.setdefault(prefix, {})[key] = Path(
            key,
            Origin.KERNEL,
            PREFERENCE[Origin.KERNEL],
            metric=route.metric,
            device=route.device,
            gateway=route.gateways[0] if route.gateways else "",
            blackhole=route.type is not RouteType.UNICAST,
        )
    return found


def local_addresses(view: KernelView, version: int) -> Iterable[str]:
    """This host's addresses, without length."""
    return {
        connected.address.partition("/")[0]
        for connected in view.addresses
        if ip_version(connected.address) == version
    }


def adopted_routes(view: KernelView) -> bool:
    """Whether the main table holds routes that an earlier run of ours (or BIRD) left."""
    return any(route.protocol == 12 for route in view.routes)
