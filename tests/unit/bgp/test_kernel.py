"""What is learned from the kernel, and what of it a change touches."""

from __future__ import annotations

from calico_node.dataplanes.contract import ConnectedPrefix, KernelView, Route, RouteType
from calico_node.plugins.bgp.kernel import KernelRoutes, adopted_routes, local_addresses
from calico_node.plugins.bgp.prefix import parse_prefix
from calico_node.plugins.bgp.rib import Origin

ETH = ConnectedPrefix("10.0.0.1/24", "eth0")


def route(dst: str, protocol: int = 3, metric: int = 0, device: str = "cali1") -> Route:
    return Route(dst, device=device, protocol=protocol, metric=metric)


def test_what_is_learned() -> None:
    view = KernelView(
        (
            route("10.77.1.1/32"),
            route("10.0.0.0/24", protocol=2),
            route("10.77.2.0/26", protocol=12),
            route("fd77::1/128"),
            Route("10.77.1.0/26", RouteType.BLACKHOLE, protocol=80),
        ),
        (
            ETH,
            ConnectedPrefix("10.1.0.1/24", "eth1", up=False),
            ConnectedPrefix("10.2.0.1/32", "cali7"),
            ConnectedPrefix("127.0.0.1/8", "lo"),
            ConnectedPrefix("169.254.3.4/16", "eth0"),
            ConnectedPrefix("10.3.0.1/24", "eth9"),
            ConnectedPrefix("fd00::1/64", "eth0"),
        ),
    )
    found = KernelRoutes(4).update(view, ("eth9",))
    origins = {str(prefix): [path.origin for path in paths.values()] for prefix, paths in found.items()}
    assert origins == {
        "10.77.1.1/32": [Origin.KERNEL],
        "10.77.1.0/26": [Origin.KERNEL],
        "10.0.0.0/24": [Origin.DIRECT],
    }
    assert set(map(str, KernelRoutes(6).update(view, ()))) == {"fd77::1/128", "fd00::/64"}
    assert "10.0.0.1" in local_addresses(view, 4)
    assert adopted_routes(view)
    assert not adopted_routes(KernelView((), ()))


def test_only_what_changed_is_said() -> None:
    routes = tuple(route(f"10.77.1.{number}/32") for number in range(50))
    kernel = KernelRoutes(4)
    assert len(kernel.update(KernelView(routes, (ETH,)), ())) == 51
    assert kernel.update(KernelView(routes, (ETH,)), ()) == {}
    changed = (*routes[1:], route("10.77.9.9/32"))
    found = kernel.update(KernelView(changed, (ETH,)), ())
    assert {str(prefix): len(paths) for prefix, paths in found.items()} == {"10.77.1.0/32": 0, "10.77.9.9/32": 1}
    assert list(kernel.update(KernelView(changed, ()), ())) == [parse_prefix("10.0.0.0/24")]


def test_the_lowest_metric_counts() -> None:
    low, high = route("10.77.1.1/32", metric=512, device="cali2"), route("10.77.1.1/32", metric=1024)
    kernel = KernelRoutes(4)
    (paths,) = kernel.update(KernelView((high, low), ()), ()).values()
    assert [(path.metric, path.device) for path in paths.values()] == [(512, "cali2")]
    (paths,) = kernel.update(KernelView((high,), ()), ()).values()
    assert [(path.metric, path.device) for path in paths.values()] == [(1024, "cali1")]
