"""Best paths, equal-cost paths and next hops; the outcome never depends on the order of changes."""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.plugins.bgp.packet import Attributes, Segment
from calico_node.plugins.bgp.packet.attributes import LLGR_STALE
from calico_node.plugins.bgp.prefix import Prefix, address_to_number, mask, parse_prefix, prefix_text
from calico_node.plugins.bgp.rib import PREFERENCE, Origin, Path, PathKey, Resolution, Table

NET = parse_prefix("20.0.0.0/8")


def path_of(*asns: int) -> tuple[Segment, ...]:
    return (Segment(2, asns),) if asns else ()


def bgp(name: str, *, ebgp: bool = True, preference: int = 100, peer_id: int = 1, **attributes: Any) -> Path:
    values = {"next_hop": "10.0.0.2", **attributes}
    return Path(PathKey(name), Origin.BGP, preference, Attributes(**values), ebgp=ebgp, peer_id=peer_id)


def connected(text: str, device: str = "eth0") -> tuple[Prefix, Path]:
    key = PathKey(f"direct/{device}")
    return parse_prefix(text), Path(key, Origin.DIRECT, PREFERENCE[Origin.DIRECT], device=device)


def kernel(text: str, gateway: str = "", device: str = "eth0", blackhole: bool = False) -> tuple[Prefix, Path]:
    path = Path(PathKey("kernel"), Origin.KERNEL, 10, metric=0, gateway=gateway, device=device, blackhole=blackhole)
    return parse_prefix(text), path


def settle(table: Table) -> None:
    for _ in range(1000):
        if not table.dirty:
            return
        prefix = next(iter(table.dirty))
        del table.dirty[prefix]
        table.select(prefix)
    raise AssertionError("the table does not settle")


def table_with(*paths: Path) -> Table:
    table = Table(4)
    table.set(*connected("10.0.0.0/24"))
    for path in paths:
        table.set(NET, path)
    settle(table)
    return table


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (bgp("a", preference=200), bgp("b", local_pref=9999)),
        (bgp("a", local_pref=100), bgp("b", next_hop="99.0.0.1", local_pref=200)),
        (bgp("a", local_pref=50), bgp("b", local_pref=200, communities=(LLGR_STALE,))),
        (bgp("a", local_pref=101, as_path=path_of(1, 2, 3)), bgp("b", local_pref=100)),
        (bgp("a"), bgp("b", local_pref=99)),
        (bgp("a", as_path=path_of(1), origin=2), bgp("b", as_path=path_of(1, 2))),
        (bgp("a", as_path=(Segment(1, (1, 2, 3)),)), bgp("b", as_path=path_of(1, 2))),
        (bgp("a", origin=0, med=9), bgp("b", origin=1, med=0)),
        (bgp("a", as_path=path_of(7), med=1, ebgp=False), bgp("b", as_path=path_of(7), med=2)),
        (bgp("a", as_path=path_of(7), ebgp=False), bgp("b", as_path=path_of(7), med=2)),
        (bgp("a", peer_id=9), bgp("b", ebgp=False)),
        (bgp("a", peer_id=1), bgp("b", peer_id=2)),
        (bgp("a", peer_id=9, originator_id=1), bgp("b", peer_id=2)),
        (bgp("a", originator_id=1, cluster_list=(1,)), bgp("b", originator_id=1, cluster_list=(1, 2))),
    ],
)
def test_the_order_of_preference(better: Path, worse: Path) -> None:
    for order in itertools.permutations((better, worse)):
        assert table_with(*order).selected[NET].best is better


def test_med_is_compared_only_within_one_neighbouring_as() -> None:
    first, second = bgp("a", as_path=path_of(7), med=5, peer_id=1), bgp("b", as_path=path_of(8), med=1, peer_id=2)
    assert table_with(first, second).selected[NET].best is first


def test_our_own_routes_stand_before_learned_ones() -> None:
    table = table_with(bgp("a"))
    static = Path(PathKey("static"), Origin.STATIC, 200, blackhole=True)
    table.set(NET, static)
    table.set(NET, bgp("b", preference=200))
    table.set(*kernel("20.0.0.0/8"))
    settle(table)
    assert table.selected[NET].best is static
    table.remove(NET, static.key)
    settle(table)
    assert table.selected[NET].best.key.source == "b"


def test_equal_paths_are_gathered_up_to_sixteen() -> None:
    paths = [bgp(f"p{i:02}", next_hop=f"10.0.0.{i + 2}", peer_id=i) for i in range(20)]
    selection = table_with(*paths).selected[NET]
    assert selection.multipath == tuple(paths[:16])
    unequal = bgp("z", next_hop="10.0.0.99", as_path=path_of(1), peer_id=99)
    assert table_with(paths[0], unequal).selected[NET].multipath == (paths[0],)


class TestNextHops:
    def resolve(self, table: Table, hop: str) -> Resolution:
        path = bgp("p", next_hop=hop)
        table.set(NET, path)
        settle(table)
        return table.resolution(path)

    def test_connected(self) -> None:
        assert self.resolve(table_with(), "10.0.0.7") == Resolution(True, "10.0.0.7", "eth0", 0)

    def test_behind_a_gateway(self) -> None:
        table = table_with()
        table.set(*kernel("30.0.0.0/8", gateway="10.0.0.1"))
        found = self.resolve(table, "30.1.2.3")
        assert (found.reachable, found.gateway, found.device) == (True, "10.0.0.1", "eth0")

    def test_not_through_bgp_nor_into_a_black_hole_nor_ourselves(self) -> None:
        table = table_with()
        table.set(*kernel("30.0.0.0/8", blackhole=True))
        table.set(parse_prefix("40.0.0.0/8"), bgp("q"))
        table.set_local_addresses(["10.0.0.1"])
        for hop in ("30.0.0.1", "40.0.0.1", "50.0.0.1", "10.0.0.1", "20.0.0.1"):
            assert not self.resolve(table, hop).reachable

    def test_a_more_specific_bgp_route_hides_a_connected_next_hop(self) -> None:
        table = table_with()
        path = bgp("p", next_hop="10.0.0.7")
        table.set(NET, path)
        settle(table)
        assert table.resolution(path).reachable
        table.set(parse_prefix("10.0.0.0/25"), bgp("q", next_hop="10.0.0.200"))
        settle(table)
        assert not table.resolution(path).reachable
        table.remove(parse_prefix("10.0.0.0/25"), PathKey("q"))
        settle(table)
        assert table.resolution(path).reachable

    def test_only_users_of_a_next_hop_are_decided_again(self) -> None:
        table = table_with(bgp("p", next_hop="10.0.0.7"))
        other = parse_prefix("21.0.0.0/8")
        table.set(other, bgp("p", next_hop="30.0.0.1"))
        settle(table)
        table.set(*kernel("30.0.0.0/8", gateway="10.0.0.1"))
        prefix = next(iter(table.dirty))
        table.dirty.clear()
        table.select(prefix)
        assert set(table.dirty) == {other}


def test_path_identifiers_are_small_unique_and_stable() -> None:
    table = table_with()
    for name in ("a", "b", "c"):
        table.set(NET, bgp(name))
    assert [path.id for path in table.paths[NET]] == [1, 2, 3]
    table.remove(NET, PathKey("b"))
    table.set(NET, bgp("a", med=1))
    table.set(NET, bgp("d"))
    assert {path.key.source: path.id for path in table.paths[NET]} == {"a": 1, "c": 3, "d": 2}


nets = st.sampled_from(("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/25", "20.0.0.0/8", "20.1.0.0/16"))
hops = st.sampled_from(("10.0.0.2", "10.0.0.200", "20.1.0.1", "30.0.0.1"))
changes = st.one_of(
    st.tuples(st.just("bgp"), nets, st.sampled_from("abc"), hops, st.integers(0, 3)),
    st.tuples(st.just("kernel"), nets, st.sampled_from("k"), st.sampled_from(("", *("10.0.0.9",))), st.just(0)),
    st.tuples(st.just("direct"), nets, st.sampled_from("d"), st.just(""), st.just(0)),
)


def make(change: tuple[str, str, str, str, int]) -> tuple[Prefix, Path]:
    kind, net, name, hop, pref = change
    if kind == "bgp":
        return parse_prefix(net), bgp(name, next_hop=hop, local_pref=pref, peer_id=ord(name))
    return kernel(net, hop) if kind == "kernel" else connected(net)


@settings(max_examples=150, deadline=None)
@given(st.lists(changes, max_size=10), st.lists(st.tuples(changes, st.booleans()), max_size=8), st.randoms())
def test_only_the_present_set_of_paths_matters(
    last: list[tuple[str, str, str, str, int]],
    before: list[tuple[tuple[str, str, str, str, int], bool]],
    random: Any,
) -> None:
    """Whatever came and went, in whatever order: the outcome is that of a table filled at once."""
    final = {(c[1], c[2], c[0]): c for c in last}
    worked, fresh = Table(4), Table(4)
    for change, now in before:
        worked.set(*make(change))
        if now:
            settle(worked)
    for change, _ in before:
        if (change[1], change[2], change[0]) not in final:
            prefix, path = make(change)
            worked.remove(prefix, path.key)
    shuffled = list(final.values())
    random.shuffle(shuffled)
    for change in shuffled:
        worked.set(*make(change))
    for change in final.values():
        fresh.set(*make(change))
    settle(worked)
    settle(fresh)
    assert _outcome(worked) == _outcome(fresh)


def _outcome(table: Table) -> dict[str, object]:
    return {
        str(prefix): (
            selection.best.key,
            tuple(path.key for path in selection.multipath),
            table.resolution(selection.best),
        )
        for prefix, selection in table.selected.items()
    }


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_containment_agrees_with_the_standard_library(a: int, a_length: int, b: int, b_length: int) -> None:
    first, second = mask(4, a, a_length), mask(4, b, b_length)
    ours = ipaddress.IPv4Network(prefix_text(first))
    theirs = ipaddress.IPv4Network(prefix_text(second))
    assert first.within(second) == ours.subnet_of(theirs)
    assert parse_prefix(str(ours)) == first
    assert address_to_number(str(ours.network_address)) == first.value
