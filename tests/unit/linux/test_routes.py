"""The route table against a kernel that is a dictionary: what ends up in it, and what is left alone."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.dataplanes.contract import Route, RouteType
from calico_node.errors import NetlinkError
from calico_node.linux.route_plan import BGP, FELIX, Ownership
from calico_node.linux.routes import UNKNOWN_ROUTE_GRACE, RouteTable
from calico_node.linux.rtnetlink import Link, NextHop, Path, pack_address, pack_prefix, unpack_prefix

ETH0 = Link(2, "eth0", True, True)
CALI1 = Link(3, "cali1", True, True)
CALI2 = Link(4, "cali2", True, True)
DOWN = Link(5, "cali3", False, False)


class Kernel:
    """Holds routes by prefix and metric, as the kernel does."""

    def __init__(self, *links: Link) -> None:
        self.table: RouteTable[tuple[str, int]] = RouteTable(
            lambda dst, path, devices: (dst, path.protocol), Ownership()
        )
        self.table.set_links(links or (ETH0, CALI1, CALI2, DOWN))
        self.routes: dict[tuple[bytes, int], Path] = {}
        self.log: list[str] = []
        self.refuse: set[bytes] = set()
        self.now = 0.0

    def put(self, dst: str, path: Path) -> None:
        """As somebody else would, with the notification."""
        prefix = pack_prefix(dst)
        self.routes[prefix, path.metric] = path
        self.table.route_changed(prefix, path, removed=False, replaced=True)

    def load(self) -> None:
        load = self.table.begin_load()
        load.feed((prefix, path) for (prefix, _), path in self.routes.items())
        load.take_in(load.differing())

    def settle(self) -> None:
        self.table.expire(self.now)
        while self.table.has_work():
            for plan in self.table.take(3, self.now):
                failed = False
                for change in plan.puts:
                    key = (change.prefix, change.path.metric)
                    error = None
                    if change.prefix in self.refuse:
                        error = NetlinkError("route", errno.ENETUNREACH, "Network is unreachable")
                    elif key in self.routes and not change.replace:
                        error = NetlinkError("route", errno.EEXIST, "File exists")
                    else:
                        self.routes[key] = change.path
                        self.log.append(f"put {unpack_prefix(change.prefix)} {change.path.metric}")
                    failed = failed or not self.table.done(change, error, self.now)
                for change in plan.deletes if not failed else ():
                    del self.routes[change.prefix, change.path.metric]
                    self.log.append(f"delete {unpack_prefix(change.prefix)} {change.path.metric}")
                    self.table.done(change, None, self.now)

    def has(self, dst: str) -> list[tuple[int, int]]:
        """Protocol and metric of each route to ``dst``."""
        prefix = pack_prefix(dst)
        return sorted((path.protocol, metric) for (own, metric), path in self.routes.items() if own == prefix)


def workload(dst: str, device: str = "cali1") -> Route:
    return Route(dst, device=device, scope_link=True, metric=1024)


def learned(dst: str, gateway: str = "172.30.0.2", metric: int = 1024) -> Route:
    return Route(dst, device="eth0", gateways=(gateway,), protocol=12, metric=metric)


def path(protocol: int, link: Link | None = None, *, metric: int = 0, gateway: str = "") -> Path:
    hops = (NextHop(pack_address(gateway) if gateway else b"", link.ifindex),) if link else ()
    return Path(1 if link else 6, 0 if gateway or not link else 253, protocol, metric, hops)


def test_the_cnis_route_at_metric_0_is_replaced_make_before_break() -> None:
    kernel = Kernel()
    kernel.put("10.65.0.1/32", path(3, CALI1))
    kernel.table.want(FELIX, [workload("10.65.0.1/32")])
    kernel.settle()
    assert kernel.log == ["put 10.65.0.1/32 1024", "delete 10.65.0.1/32 0"]


def test_a_route_that_is_already_as_wanted_is_not_written() -> None:
    kernel = Kernel()
    kernel.put("10.65.0.1/32", path(3, CALI1, metric=1024))
    kernel.table.want(FELIX, [workload("10.65.0.1/32")])
    kernel.settle()
    assert kernel.log == []


def test_nothing_present_goes_before_prune_and_only_the_owners_after() -> None:
    kernel = Kernel()
    kernel.put("10.1.0.0/26", path(12, ETH0, gateway="172.30.0.2", metric=1024))
    kernel.put("10.2.0.0/26", path(12, ETH0, gateway="172.30.0.2", metric=1024))
    kernel.put("10.3.0.0/26", path(80))
    kernel.put("10.4.0.0/24", path(4, ETH0, gateway="172.30.0.9"))
    kernel.put("10.65.0.9/32", path(3, ETH0))
    kernel.table.want(BGP, [learned("10.1.0.0/26")])
    kernel.settle()
    assert kernel.log == []
    kernel.table.prune(BGP)
    kernel.settle()
    assert kernel.log == ["delete 10.2.0.0/26 1024"]
    kernel.table.prune(FELIX)
    kernel.settle()
    assert kernel.log[1:] == ["delete 10.3.0.0/26 0"]
    assert kernel.has("10.4.0.0/24")
    assert kernel.has("10.65.0.9/32")


def test_an_unknown_workload_route_has_ten_seconds() -> None:
    kernel = Kernel()
    kernel.put("10.65.0.1/32", path(3, CALI1, metric=1024))
    kernel.table.prune(FELIX)
    kernel.settle()
    kernel.now = UNKNOWN_ROUTE_GRACE - 1
    kernel.settle()
    assert kernel.log == []
    kernel.now = UNKNOWN_ROUTE_GRACE
    kernel.settle()
    assert kernel.log == ["delete 10.65.0.1/32 1024"]


def test_the_grace_ends_when_felix_knows_the_interface() -> None:
    kernel = Kernel()
    kernel.put("10.65.0.1/32", path(3, CALI1, metric=1024))
    kernel.put("10.65.0.2/32", path(3, CALI2, metric=1024))
    kernel.table.prune(FELIX)
    kernel.table.want(FELIX, [workload("10.65.0.7/32", "cali1")])
    kernel.settle()
    assert sorted(kernel.log) == ["delete 10.65.0.1/32 1024", "put 10.65.0.7/32 1024"]


def test_ipv6_link_local_on_a_workload_interface_stays() -> None:
    kernel = Kernel()
    kernel.put("fe80::/64", path(2, CALI1, metric=256))
    kernel.table.prune(FELIX)
    kernel.now = 100
    kernel.settle()
    assert kernel.log == []


def test_felix_wins_a_prefix_that_bgp_wants_too_and_bgp_gets_it_back() -> None:
    kernel = Kernel()
    kernel.table.want(BGP, [learned("10.65.0.1/32")])
    kernel.settle()
    kernel.table.want(FELIX, [workload("10.65.0.1/32")])
    kernel.settle()
    assert kernel.has("10.65.0.1/32") == [(3, 1024)]
    kernel.table.unwant(FELIX, ["10.65.0.1/32"])
    kernel.settle()
    assert kernel.has("10.65.0.1/32") == [(12, 1024)]


def test_bgp_does_not_replace_an_alien_route_and_retries() -> None:
    kernel = Kernel()
    kernel.put("10.9.0.0/24", path(4, ETH0, gateway="172.30.0.9", metric=1024))
    kernel.table.want(BGP, [learned("10.9.0.0/24")])
    kernel.settle()
    assert kernel.log == []
    assert "protocol 4" in kernel.table.failures_of(BGP)["10.9.0.0/24"]
    prefix = pack_prefix("10.9.0.0/24")
    kernel.table.route_changed(prefix, kernel.routes.pop((prefix, 1024)), removed=True, replaced=False)
    kernel.settle()
    assert kernel.has("10.9.0.0/24") == [(12, 1024)]
    assert kernel.table.failures_of(BGP) == {}


def test_felix_replaces_an_alien_route_of_its_metric() -> None:
    kernel = Kernel()
    kernel.put("10.65.0.1/32", path(4, ETH0, gateway="172.30.0.9", metric=1024))
    kernel.table.want(FELIX, [workload("10.65.0.1/32")])
    kernel.settle()
    assert kernel.has("10.65.0.1/32") == [(3, 1024)]


def test_a_refused_route_is_tried_again_later_and_keeps_the_old_way() -> None:
    kernel = Kernel()
    kernel.put("10.1.0.0/26", path(12, ETH0, gateway="172.30.0.2", metric=1024))
    kernel.refuse.add(pack_prefix("10.1.0.0/26"))
    kernel.table.want(BGP, [learned("10.1.0.0/26", "172.31.0.1", metric=512)])
    kernel.settle()
    assert kernel.has("10.1.0.0/26") == [(12, 1024)]
    assert "unreachable" in kernel.table.failures_of(BGP)["10.1.0.0/26"]
    kernel.refuse.clear()
    kernel.now = kernel.table.next_due() or 0
    kernel.settle()
    assert kernel.has("10.1.0.0/26") == [(12, 512)]


def test_a_route_waits_for_its_interface_and_comes_back_with_it() -> None:
    kernel = Kernel()
    kernel.table.want(FELIX, [workload("10.65.0.3/32", "cali3")])
    kernel.settle()
    assert not kernel.has("10.65.0.3/32")
    kernel.table.link_changed(DOWN._replace(up=True, running=True))
    kernel.settle()
    assert kernel.has("10.65.0.3/32")
    kernel.table.link_changed(DOWN)
    kernel.routes.clear()
    kernel.settle()
    kernel.table.link_changed(DOWN._replace(up=True, running=True))
    kernel.settle()
    assert kernel.has("10.65.0.3/32")


def test_plans_that_were_not_carried_out_come_again() -> None:
    kernel = Kernel()
    kernel.table.want(FELIX, [workload("10.65.0.1/32")])
    plans = kernel.table.take(10, 0.0)
    assert not kernel.table.has_work()
    kernel.table.requeue(plans)
    kernel.settle()
    assert kernel.has("10.65.0.1/32")
    kernel.routes.clear()
    kernel.load()
    kernel.settle()
    assert kernel.has("10.65.0.1/32")


def test_a_removed_workload_address_is_due_for_a_conntrack_flush() -> None:
    kernel = Kernel()
    kernel.table.want(FELIX, [workload("10.65.0.1/32"), workload("10.65.0.2/32")])
    assert kernel.table.take_stale_addresses() == set()
    kernel.table.want(FELIX, [workload("10.65.0.2/32", "cali2")])
    kernel.table.unwant(FELIX, ["10.65.0.1/32"])
    assert kernel.table.take_stale_addresses() == {pack_address("10.65.0.1"), pack_address("10.65.0.2")}


def test_the_view_shows_what_bgp_has_not_made_itself() -> None:
    kernel = Kernel()
    kernel.put("10.1.0.0/26", path(12, ETH0, gateway="172.30.0.2", metric=1024))
    kernel.put("10.4.0.0/24", path(4, ETH0, gateway="172.30.0.9"))
    shown = [route for routes in kernel.table.visible.values() for route in routes]
    assert shown == [("10.1.0.0/26", 12), ("10.4.0.0/24", 4)]
    kernel.table.want(BGP, [learned("10.1.0.0/26"), learned("10.2.0.0/26")])
    version = kernel.table.version
    kernel.settle()
    assert [route for routes in kernel.table.visible.values() for route in routes] == [("10.4.0.0/24", 4)]
    assert kernel.table.version == version


PREFIXES = ["10.0.0.0/26", "10.65.0.1/32", "10.65.0.2/32", "fd00::1/128"]
_DESIRED = st.one_of(
    st.builds(workload, st.sampled_from(PREFIXES), st.sampled_from(["cali1", "cali2"])),
    st.builds(lambda dst: Route(dst, RouteType.BLACKHOLE, protocol=80), st.sampled_from(PREFIXES)),
)
_LEARNED = st.builds(
    lambda dst, metric: learned(dst, "fd01::2" if ":" in dst else "172.30.0.2", metric),
    st.sampled_from(PREFIXES),
    st.sampled_from([512, 1024]),
)
_ALIEN = st.tuples(
    st.sampled_from(PREFIXES),
    st.builds(path, st.sampled_from([3, 4, 12, 80]), st.sampled_from([ETH0, CALI1, None]), metric=st.just(7)),
)
_STEP = st.one_of(
    st.tuples(st.just(FELIX), _DESIRED),
    st.tuples(st.just(BGP), _LEARNED),
    st.tuples(st.just("unwant"), st.tuples(st.sampled_from([FELIX, BGP]), st.sampled_from(PREFIXES))),
    st.tuples(st.just("alien"), _ALIEN),
    st.tuples(st.just("settle"), st.none()),
    st.tuples(st.just("load"), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_STEP, max_size=14))
def test_whatever_the_order_the_desired_routes_and_nobody_elses_remain(steps: Sequence[tuple[str, object]]) -> None:
    kernel = Kernel()
    desired: dict[str, dict[str, Route]] = {FELIX: {}, BGP: {}}
    aliens: dict[str, Path] = {}
    for name, argument in steps:
        value: Any = argument
        if isinstance(value, Route):
            kernel.table.want(name, [value])
            desired[name][value.dst] = value
        elif name == "unwant":
            owner, dst = value
            kernel.table.unwant(owner, [dst])
            desired[owner].pop(dst, None)
        elif name == "alien":
            dst, alien = value
            kernel.put(dst, alien)
            aliens[dst] = alien
        elif name == "load":
            kernel.load()
        else:
            kernel.settle()
    kernel.table.prune(FELIX)
    kernel.table.prune(BGP)
    kernel.settle()
    kernel.now = 1000
    kernel.settle()
    for dst in PREFIXES:
        winner = desired[FELIX].get(dst) or desired[BGP].get(dst)
        alien = aliens.get(dst)
        expected = set()
        if winner is not None:
            expected.add((winner.protocol, winner.metric or (1024 if ":" in dst else 0)))
        on_workload = alien is not None and any(hop.ifindex == CALI1.ifindex for hop in alien.hops)
        if alien is not None and alien.protocol in (3, 4) and not on_workload:
            expected.add((alien.protocol, 7))
        assert set(kernel.has(dst)) == expected
    kernel.log.clear()
    kernel.load()
    kernel.settle()
    assert kernel.log == []
