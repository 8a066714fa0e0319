"""The route sink against the kernel's table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from calico_node.dataplanes.contract import KernelView, Route, RouteOwnership, RouteType
from calico_node.dataplanes.linux_adapters import LinuxRouteSink
from calico_node.linux.reconciler import RouteReconciler
from tests.kernel.linux.helpers import eventually, ip

Test = Callable[[LinuxRouteSink], Coroutine[Any, Any, None]]


def with_sink(netns: int, body: Test) -> None:
    async def main() -> None:
        async with LinuxRouteSink(netns=netns) as sink:
            await body(sink)

    asyncio.run(main())


def learned(dst: str, *gateways: str) -> Route:
    return Route(dst, device="eth0", gateways=gateways or ("10.0.0.2",), protocol=12, metric=1024)


def workload(dst: str) -> Route:
    return Route(dst, device="cali1", scope_link=True, metric=1024)


def test_routes_of_every_kind_are_set_and_removed(netns: int) -> None:
    async def body(sink: LinuxRouteSink) -> None:
        routes = [
            learned("10.1.0.0/26"),
            learned("10.1.1.0/26", "10.0.0.2", "10.0.0.3"),
            Route("10.1.2.0/26", RouteType.UNREACHABLE, protocol=12, metric=1024),
            Route("10.1.3.0/26", device="eth0", gateways=("192.0.2.1",), onlink=True, protocol=12, metric=1024),
            Route("10.1.4.0/26", gateways=("10.0.0.9",), protocol=12, metric=512),
            Route("fd01::/64", RouteType.BLACKHOLE, protocol=12, metric=1024),
        ]
        await sink.set_routes("bgp", routes)
        await sink.set_routes("felix", [workload("10.65.0.1/32"), workload("fd00::1/128")])
        await sink.set_routes("felix", [Route("10.65.0.0/26", RouteType.BLACKHOLE, protocol=80)])
        assert sink.refused("bgp") == {}
        assert sink.refused("felix") == {}
        text = " ".join(ip(netns, "route").split())
        for part in (
            "10.1.0.0/26 via 10.0.0.2 dev eth0 proto bird metric 1024",
            "10.1.1.0/26 proto bird metric 1024 nexthop via 10.0.0.2 dev eth0 weight 1 nexthop via 10.0.0.3 dev eth0",
            "unreachable 10.1.2.0/26 proto bird metric 1024",
            "10.1.3.0/26 via 192.0.2.1 dev eth0 proto bird metric 1024 onlink",
            "10.1.4.0/26 via 10.0.0.9 dev eth0 proto bird metric 512",
            "10.65.0.1 dev cali1 scope link metric 1024",
            "blackhole 10.65.0.0/26 proto 80",
        ):
            assert part in text
        text = ip(netns, "-6 route")
        assert "blackhole fd01::/64 dev lo proto bird metric 1024" in text
        assert "fd00::1 dev cali1 metric 1024" in text
        await sink.set_routes("bgp", [], [route.dst for route in routes])
        await sink.set_routes("felix", [], ["10.65.0.1/32", "fd00::1/128", "10.65.0.0/26"])
        assert ip(netns, "route").strip() == "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1"

    with_sink(netns, body)


def test_an_ipv6_route_of_several_gateways_is_set_changed_and_kept(netns: int) -> None:
    ip(netns, "addr add fd99::1/64 dev eth0 nodad")

    async def body(sink: LinuxRouteSink) -> None:
        for gateways in (("fd99::2", "fd99::3"), ("fd99::3", "fd99::4"), ("fd99::4",)):
            await sink.set_routes("bgp", [learned("fd10::/64", *gateways)])
            await asyncio.sleep(0.3)
            text = ip(netns, "-6 route show proto bird")
            assert {word for word in text.split() if word.startswith("fd99::")} == set(gateways)
        assert sink.refused("bgp") == {}
        await sink.set_routes("bgp", [], ["fd10::/64"])
        assert ip(netns, "-6 route show proto bird") == ""

    with_sink(netns, body)


def test_a_restart_adopts_and_prunes_only_what_is_marked(netns: int) -> None:
    ip(
        netns,
        "route add 10.1.0.0/26 via 10.0.0.2 proto 12 metric 1024;"
        "route add 10.2.0.0/26 via 10.0.0.2 proto 12 metric 1024;"
        "route add 10.3.0.0/26 via 10.0.0.9 proto 4;"
        "route add 10.65.0.1/32 dev cali1 proto 3;route add blackhole 10.9.0.0/26",
    )

    async def body(sink: LinuxRouteSink) -> None:
        view = await anext(sink.watch())
        assert sum(route.protocol == 12 for route in view.routes) == 2
        await sink.set_routes("bgp", [learned("10.1.0.0/26")])
        await sink.set_routes("felix", [workload("10.65.0.1/32")])
        assert "10.2.0.0/26" in ip(netns, "route")
        await sink.prune("bgp")
        await sink.prune("felix")
        lines = [line.split(" metric")[0].strip() for line in ip(netns, "route").splitlines()]
        assert sorted(lines) == [
            "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1",
            "10.1.0.0/26 via 10.0.0.2 dev eth0 proto bird",
            "10.3.0.0/26 via 10.0.0.9 dev eth0 proto static",
            "10.65.0.1 dev cali1 scope link",
            "blackhole 10.9.0.0/26",
        ]

    with_sink(netns, body)


def test_an_owner_that_starts_again_prunes_what_it_no_longer_wants(netns: int) -> None:
    async def body(sink: LinuxRouteSink) -> None:
        await sink.set_routes("bgp", [learned("10.1.0.0/26"), learned("10.2.0.0/26")])
        await sink.prune("bgp")
        await sink.adopt("bgp")
        view = await anext(sink.watch())
        assert sum(route.protocol == 12 for route in view.routes) == 2
        await sink.set_routes("bgp", [learned("10.2.0.0/26")])
        assert "10.1.0.0/26" in ip(netns, "route")
        await sink.prune("bgp")
        assert "10.1.0.0/26" not in (text := ip(netns, "route"))
        assert "10.2.0.0/26" in text

    with_sink(netns, body)


def test_drift_is_repaired_and_a_foreign_workload_route_goes(netns: int) -> None:
    async def body(sink: LinuxRouteSink) -> None:
        await sink.set_routes("felix", [workload("10.65.0.1/32")])
        await sink.set_routes("bgp", [learned("10.1.0.0/26")])
        await sink.prune("felix")
        ip(netns, "route del 10.65.0.1;route del 10.1.0.0/26;route add 10.65.0.2 dev cali1")
        await eventually(
            lambda: (
                {"10.65.0.1", "10.1.0.0/26"} <= set(text := ip(netns, "route").split()) and "10.65.0.2" not in text
            )
        )
        ip(netns, "route replace 10.1.0.0/26 via 10.0.0.7 proto 12 metric 1024")
        await eventually(lambda: "10.1.0.0/26 via 10.0.0.2" in ip(netns, "route"))

    with_sink(netns, body)


def test_routes_follow_their_interface(netns: int) -> None:
    async def body(sink: LinuxRouteSink) -> None:
        await sink.set_routes(
            "felix", [workload("10.65.0.1/32"), Route("10.65.0.9/32", device="cali9", scope_link=True)]
        )
        ip(netns, "link set cali1 down;link set cali1 up")
        await eventually(lambda: "10.65.0.1" in ip(netns, "route"))
        ip(netns, "link del cali1;link add cali1 type veth peer name pod1;link set cali1 up")
        await eventually(lambda: "10.65.0.1" in ip(netns, "route"))
        ip(netns, "link add cali9 type veth peer name pod9;link set cali9 up")
        await eventually(lambda: "10.65.0.9" in ip(netns, "route"))

    with_sink(netns, body)


def test_a_route_without_a_way_waits_for_it(netns: int) -> None:
    async def body(sink: LinuxRouteSink) -> None:
        await sink.set_routes("bgp", [Route("10.7.0.0/26", gateways=("10.8.0.1",), protocol=12, metric=1024)])
        assert "unreachable" in sink.refused("bgp")["10.7.0.0/26"].lower()
        ip(netns, "addr add 10.8.0.2/24 dev eth0")
        await eventually(lambda: "10.7.0.0/26 via 10.8.0.1" in ip(netns, "route"))
        await eventually(lambda: sink.refused("bgp") == {})

    with_sink(netns, body)


def test_whose_routes_are_can_change(netns: int) -> None:
    ip(netns, "link add tap1 type veth peer name pod9;link set tap1 up;link set pod9 up")

    async def body(sink: LinuxRouteSink) -> None:
        await sink.set_routes("felix", [Route("10.65.0.7/32", device="tap1", scope_link=True)])
        await sink.prune("felix")
        ip(netns, "route add 10.9.0.0/24 dev tap1 proto 77;route add 10.9.1.0/24 dev eth0 proto 77")
        await asyncio.sleep(0.3)
        assert "10.9.0.0/24" in ip(netns, "route")
        sink.configure(RouteOwnership(workload_prefixes=("tap",)))
        await eventually(lambda: "10.9.0.0/24" not in ip(netns, "route"))
        assert "10.9.1.0/24" in ip(netns, "route")
        sink.configure(RouteOwnership(workload_prefixes=("tap",), protocol=77, remove_external=False))
        await eventually(lambda: "10.9.1.0/24" not in ip(netns, "route"))
        ip(netns, "route add 10.9.2.0/24 dev tap1 proto 78")
        await asyncio.sleep(0.3)
        assert "10.9.2.0/24" in ip(netns, "route")
        assert "10.65.0.7" in ip(netns, "route")

    with_sink(netns, body)


def test_the_tables_are_read_as_often_as_asked(netns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[float] = []
    read = RouteReconciler._resync

    async def counted(self: Any, sock: Any) -> None:
        reads.append(time.monotonic())
        await read(self, sock)

    monkeypatch.setattr(RouteReconciler, "_resync", counted)

    async def body(sink: LinuxRouteSink) -> None:
        sink.configure(RouteOwnership(refresh_interval=0.05))
        await eventually(lambda: len(reads) > 3)
        sink.configure(RouteOwnership(refresh_interval=0.0))
        await asyncio.sleep(0.1)
        before = len(reads)
        await asyncio.sleep(0.3)
        assert len(reads) <= before + 1

    with_sink(netns, body)


def test_routes_that_make_no_sense_are_named_and_the_others_set(netns: int) -> None:
    async def body(sink: LinuxRouteSink) -> None:
        bad = [learned("10.1.0.0/26", "gateway"), Route("10.2.0.0/26", device="eth0", protocol=12, metric=2**40)]
        await sink.set_routes("bgp", [*bad, learned("10.3.0.0/26")])
        assert set(sink.refused("bgp")) == {"10.1.0.0/26", "10.2.0.0/26"}
        assert "'gateway' is not an IP address" in sink.refused("bgp")["10.1.0.0/26"]
        assert "10.3.0.0/26" in ip(netns, "route")
        await sink.set_routes("bgp", [], [route.dst for route in bad])
        assert sink.refused("bgp") == {}

    with_sink(netns, body)


def test_views_are_given_on_change_only(netns: int) -> None:
    async def body(sink: LinuxRouteSink) -> None:
        views: list[KernelView] = []

        async def collect() -> None:
            async for view in sink.watch():
                views.append(view)

        task = asyncio.create_task(collect())
        await eventually(lambda: bool(views))
        assert ("10.0.0.1/24", "eth0") in [(item.address, item.device) for item in views[-1].addresses]
        await asyncio.sleep(0.1)
        before = len(views)
        await sink.set_routes("bgp", [learned(f"100.64.{n}.0/24") for n in range(200)])
        await asyncio.sleep(0.1)
        assert len(views) == before
        ip(netns, "route add 10.4.0.0/24 via 10.0.0.4;addr add 10.0.5.1/24 dev eth0")
        await eventually(lambda: "10.4.0.0/24" in [route.dst for route in views[-1].routes])
        await eventually(lambda: "10.0.5.1/24" in [item.address for item in views[-1].addresses])
        task.cancel()

    with_sink(netns, body)


def test_the_loop_turns_while_fifty_thousand_routes_are_set(netns: int) -> None:
    routes = [learned(f"{100 + (n >> 16)}.{n >> 8 & 255}.{n & 255}.0/24") for n in range(50_000)]

    async def body(sink: LinuxRouteSink) -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.create_task(count())
        await sink.set_routes("bgp", routes)
        task.cancel()
        assert ip(netns, "route").count("proto bird") == 50_000
        assert turns >= 20, "others had their turn between slices of the work"

    with_sink(netns, body)
