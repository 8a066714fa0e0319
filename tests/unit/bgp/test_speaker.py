"""Whole speakers in memory under a virtual clock: convergence, withdrawal, restarts, collisions, hostile peers."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.dataplanes.contract import ConnectedPrefix, KernelView, Route, RouteType
from calico_node.plugins.bgp.packet import Cease, Notification, RouteRefresh, encode
from calico_node.plugins.bgp.policy import Filter, FilterRule, PolicyConfig, Pool
from calico_node.plugins.bgp.prefix import parse_prefix
from tests.unit.bgp.simulator import Network, Node, mesh_peer

A, B, C, D = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"
BLOCK_A, BLOCK_B, BLOCK_C = "192.168.1.0/26", "192.168.2.0/26", "192.168.3.0/26"


def pair(network: Network, **changes: Any) -> tuple[Node, Node]:
    a = network.add(A, mesh_peer(A, B, **changes), blocks=(BLOCK_A,))
    b = network.add(B, mesh_peer(B, A, **changes), blocks=(BLOCK_B,))
    return a, b


def give_blocks(node: Node, now: float, *blocks: str) -> None:
    prefixes = [parse_prefix(block) for block in blocks]
    policy = evolve(node.config.policy, blocks=tuple((prefix, "confirmed") for prefix in prefixes))
    node.configure(now, policy=policy, blackholes=frozenset(prefixes))


def notifications(node: Node) -> list[tuple[int, int]]:
    return [(data[19], data[20]) for data in node.wire if data[18] == 3]


def test_two_nodes_learn_each_others_blocks() -> None:
    network = Network()
    a, b = pair(network)
    network.run(10)
    assert a.state(B) == b.state(A) == "Established"
    assert a.routes[BLOCK_B] == Route(BLOCK_B, device="eth0", gateways=(B,), protocol=12, metric=1024)
    assert a.routes[BLOCK_A] == Route(BLOCK_A, RouteType.BLACKHOLE, protocol=12)
    assert b.routes[BLOCK_A].gateways == (A,)


def test_blocks_come_and_go() -> None:
    network = Network()
    a, b = pair(network)
    network.run(10)
    give_blocks(b, network.now, BLOCK_C)
    network.settle(b)
    network.run(1)
    assert BLOCK_B not in a.routes
    assert a.routes[BLOCK_C].gateways == (B,)
    assert len(b.wire) < 12
    assert notifications(a) == notifications(b) == []


def test_what_is_no_unicast_beyond_this_host_is_not_taken_from_a_peer() -> None:
    network = Network()
    a, b = pair(network)
    network.run(10)
    bogus = ("127.0.0.0/8", "127.0.0.1/32", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32", "0.0.0.0/8")
    give_blocks(b, network.now, BLOCK_C, "0.0.0.0/0", *bogus)
    network.settle(b)
    network.run(1)
    assert set(a.routes) == {BLOCK_A, BLOCK_C, "0.0.0.0/0"}
    assert a.state(B) == "Established"


def test_only_one_of_a_mesh_pair_connects() -> None:
    network = Network()
    a, b = pair(network)
    network.run(1)
    assert a.state(B) == "Passive"
    assert b.state(A) in ("Idle", "Connect")


@pytest.mark.parametrize("latency", [0.0001, 0.2, 1.0])
def test_both_may_connect_and_one_connection_stays(latency: float) -> None:
    network = Network(latency)
    a, b = pair(network, passive=False)
    network.run(30)
    assert a.state(B) == b.state(A) == "Established"
    assert len(a.links) == len(b.links) == 1
    assert a.routes[BLOCK_B].gateways == (B,)
    for code, subcode in notifications(a) + notifications(b):
        assert (code, subcode) == (6, Cease.COLLISION)


def test_a_third_node_is_reached_directly_not_through_the_second() -> None:
    network = Network()
    addresses = {A: BLOCK_A, B: BLOCK_B, C: BLOCK_C}
    nodes = [
        network.add(own, *(mesh_peer(own, other) for other in addresses if other != own), blocks=(block,))
        for own, block in addresses.items()
    ]
    network.run(10)
    for node in nodes:
        for other, block in addresses.items():
            if other != node.address:
                assert node.routes[block].gateways == (other,)


class TestRestart:
    def test_a_killed_node_keeps_its_routes_and_its_peers_keep_them(self) -> None:
        network = Network()
        a, b = pair(network)
        network.run(10)
        network.kill(A)
        network.run(100)
        assert BLOCK_A in b.routes
        a = network.add(A, config=a.config, adopted=tuple(a.routes.values()))
        assert not a.speaker.recovered
        network.run(10)
        assert a.speaker.recovered
        assert a.state(B) == "Established"
        assert BLOCK_A in b.routes
        assert BLOCK_B in a.routes

    def test_routes_of_a_node_that_stays_away_go_after_the_restart_time(self) -> None:
        network = Network()
        _, b = pair(network)
        network.run(10)
        network.kill(A)
        network.run(119)
        assert BLOCK_A in b.routes
        network.run(3)
        assert BLOCK_A not in b.routes

    def test_what_is_not_announced_again_goes_at_end_of_rib(self) -> None:
        network = Network()
        a, b = pair(network)
        give_blocks(a, network.now, BLOCK_A, BLOCK_C)
        network.settle(a)
        network.run(10)
        assert {BLOCK_A, BLOCK_C} <= set(b.routes)
        network.kill(A)
        policy = evolve(a.config.policy, blocks=((parse_prefix(BLOCK_A), "confirmed"),))
        config = evolve(a.config, policy=policy, blackholes=frozenset((parse_prefix(BLOCK_A),)))
        network.add(A, config=config)
        network.run(10)
        assert BLOCK_A in b.routes
        assert BLOCK_C not in b.routes

    def test_recovery_does_not_wait_longer_than_it_may(self) -> None:
        network = Network()
        a = network.add(A, mesh_peer(A, B), adopted=(Route(BLOCK_B, gateways=(B,), protocol=12, metric=1024),))
        network.run(119)
        assert not a.speaker.recovered
        network.run(2)
        assert a.speaker.recovered

    def test_nothing_adopted_nothing_waits(self) -> None:
        network = Network()
        assert network.add(A, mesh_peer(A, B)).speaker.recovered

    def test_no_peers_nothing_waits(self) -> None:
        network = Network()
        assert network.add(A, adopted=(Route(BLOCK_B, protocol=12),)).speaker.recovered

    def test_two_that_restart_together_do_not_wait_for_each_other(self) -> None:
        network = Network()
        a, b = pair(network)
        network.run(10)
        network.kill(A)
        network.kill(B)
        a = network.add(A, config=a.config, adopted=tuple(a.routes.values()))
        b = network.add(B, config=b.config, adopted=tuple(b.routes.values()))
        network.run(10)
        assert a.speaker.recovered
        assert b.speaker.recovered

    def test_stopping_says_nothing(self) -> None:
        network = Network()
        a, b = pair(network)
        network.run(10)
        a.speaker.stop(network.now)
        network.settle(a)
        network.run(1)
        assert notifications(a) == []
        assert BLOCK_A in b.routes

    def test_a_session_lost_on_the_way_costs_no_route(self) -> None:
        network = Network()
        a, b = pair(network)
        network.run(10)
        for key in list(a.links):
            remote = a.links.pop(key)
            a.speaker.closed(*key, network.now, "reset")
            network._close_far(*remote)
        network.settle(a)
        seen = []
        for _ in range(100):
            network.run(0.1)
            seen.append(BLOCK_A in b.routes and BLOCK_B in a.routes)
        assert all(seen)
        assert a.state(B) == "Established"


def test_a_removed_peer_is_told_and_forgotten() -> None:
    network = Network()
    a, b = pair(network)
    network.run(10)
    a.configure(network.now, peers=())
    network.settle(a)
    network.run(0.1)
    assert notifications(a) == [(6, Cease.DECONFIGURED)]
    assert BLOCK_A not in b.routes
    assert BLOCK_B not in a.routes
    assert list(a.speaker.peers()) == []


def test_silence_ends_the_session_after_the_hold_time() -> None:
    network = Network()
    a, b = pair(network)
    network.run(10)
    network.cut.add(frozenset((A, B)))
    network.run(100)
    assert a.state(B) == "Established"
    network.run(150)
    assert a.state(B) != "Established"
    assert BLOCK_B not in a.routes
    assert (4, 0) in notifications(a) + notifications(b)
    network.cut.clear()
    network.run(60)
    assert a.state(B) == "Established"
    assert BLOCK_B in a.routes


def test_keepalives_keep_an_idle_session() -> None:
    network = Network()
    a, _ = pair(network)
    network.run(1000)
    assert a.state(B) == "Established"
    assert notifications(a) == []


def test_a_wrong_as_is_refused_with_its_reason() -> None:
    network = Network()
    a = network.add(A, mesh_peer(A, B, asn=65001), blocks=(BLOCK_A,))
    network.add(B, mesh_peer(B, A), blocks=(BLOCK_B,))
    network.run(10)
    assert (2, 2) in notifications(a)
    assert "bad peer as" in " ".join(a.speaker.not_established()).lower()


def test_local_pref_carries_the_metric_and_elevated_routes_win() -> None:
    network = Network()
    a, b = pair(network)
    workload = Route("192.168.2.9/32", device="cali9", protocol=3, metric=512)
    a.speaker.set_kernel(KernelView((workload,), a.view.addresses))
    network.settle(a)
    network.run(10)
    # A workload of B's block that now lives on A: announced by A as a borrowed address with priority 512.
    assert b.routes["192.168.2.9/32"].metric == 512
    assert b.routes["192.168.2.9/32"].gateways == (A,)


def test_a_blackhole_that_felix_keeps_for_our_block_is_no_second_path() -> None:
    network = Network()
    a, b = pair(network)
    felix = Route(BLOCK_A, RouteType.BLACKHOLE, protocol=80)
    a.speaker.set_kernel(KernelView((felix,), a.view.addresses))
    network.settle(a)
    network.run(10)
    assert b.routes[BLOCK_A].metric == 1024


def test_a_next_hop_that_vanishes_makes_its_routes_unreachable() -> None:
    network = Network()
    a, _ = pair(network)
    network.run(10)
    a.speaker.set_kernel(KernelView((), ()))
    network.settle(a)
    assert a.routes[BLOCK_B].type is RouteType.UNREACHABLE
    via = Route("10.0.0.0/24", gateways=("172.16.0.1",), device="eth1", protocol=4, metric=5)
    a.speaker.set_kernel(KernelView((via,), (ConnectedPrefix("172.16.0.2/30", "eth1"),)))
    network.settle(a)
    assert a.routes[BLOCK_B].gateways == ("172.16.0.1",)
    a.speaker.set_kernel(a.view)
    network.settle(a)
    assert a.routes[BLOCK_B].gateways == (B,)


@pytest.mark.parametrize(
    ("pool", "hole"),
    [
        (Pool(parse_prefix("192.168.0.0/16"), vxlan_mode="always"), True),
        (Pool(parse_prefix("192.168.0.0/16"), ipip_mode="cross-subnet"), True),
        (Pool(parse_prefix("192.168.0.0/16")), False),
    ],
)
def test_a_route_that_nobody_programs_is_reported(pool: Pool, hole: bool) -> None:
    network = Network()
    a, _ = pair(network)
    a.configure(network.now, policy=evolve(a.config.policy, pools=(pool,)))
    network.run(10)
    assert (BLOCK_B in a.routes) != hole
    found = a.speaker.holes.get(parse_prefix(BLOCK_B))
    assert (found is not None) == hole
    if found is None:
        return
    assert (found.pool, found.peer, found.next_hop) == (pool, "Mesh_10_0_0_2", B)
    felix = Route(BLOCK_B, device="vxlan.calico", gateways=("192.168.2.0",), protocol=80)
    a.speaker.set_kernel(KernelView((felix,), a.view.addresses))
    network.settle(a)
    assert not a.speaker.holes


def test_a_reflector_passes_routes_between_its_clients() -> None:
    network = Network()
    reflect = {"rr_client": True, "cluster_id": "1.1.1.1"}
    policy = PolicyConfig(pools=(Pool(parse_prefix("192.168.0.0/16")),), cluster_id="1.1.1.1")
    a = network.add(A, mesh_peer(A, C), blocks=(BLOCK_A,))
    b = network.add(B, mesh_peer(B, C), blocks=(BLOCK_B,))
    rr = network.add(C, mesh_peer(C, A, **reflect), mesh_peer(C, B, **reflect))
    rr.configure(network.now, policy=policy)
    network.run(20)
    assert a.routes[BLOCK_B].gateways == (B,)
    assert b.routes[BLOCK_A].gateways == (A,)
    give_blocks(b, network.now)
    network.settle(b)
    network.run(1)
    assert BLOCK_B not in a.routes


def test_equal_paths_are_merged_and_a_refused_one_is_not() -> None:
    network = Network()
    outside = {"asn": 65010}
    a = network.add(A, mesh_peer(A, B, **outside), mesh_peer(A, C, **outside))
    for own in (B, C):
        peer = mesh_peer(own, A, local_as=65010)
        network.add(own, peer, blocks=(BLOCK_B,))
    network.run(20)
    assert set(a.routes[BLOCK_B].gateways) == {B, C}
    network.kill(C)
    network.run(200)
    assert a.routes[BLOCK_B].gateways == (B,)


def test_our_own_as_in_a_path_is_a_loop() -> None:
    network = Network()
    a = network.add(A, mesh_peer(A, B, asn=65010), blocks=(BLOCK_A,))
    b = network.add(B, mesh_peer(B, A, local_as=65010), mesh_peer(B, C, local_as=65010))
    c = network.add(C, mesh_peer(C, B, asn=65010))
    network.run(20)
    assert BLOCK_A in b.routes
    assert BLOCK_A not in c.routes
    c.configure(network.now, peers=(mesh_peer(C, B, asn=65010, allow_own_as=1),))
    network.run(20)
    assert c.routes[BLOCK_A].gateways == (B,)
    assert a.state(B) == "Established"


class TestHostile:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=80), max_size=6), st.booleans(), st.integers(0, 60))
    def test_noise_ends_one_session_and_nothing_else(self, noise: list[bytes], framed: bool, kind: int) -> None:
        network = Network()
        a, _ = pair(network)
        c = network.add(C, mesh_peer(C, A), blocks=(BLOCK_C,))
        a.configure(network.now, peers=(mesh_peer(A, B), mesh_peer(A, C)))
        network.run(10)
        assert a.state(B) == a.state(C) == "Established"
        key = next(key for key, (address, *_) in a.links.items() if address == B)
        for data in noise:
            body = b"\xff" * 16 + (19 + len(data)).to_bytes(2, "big") + bytes((kind % 6,)) + data
            a.speaker.receive(*key, body if framed else data, network.now)
        network.settle(a)
        network.run(1)
        assert a.state(C) == "Established"
        assert BLOCK_C in a.routes
        network.run(300)
        assert a.state(B) == "Established"
        assert a.routes[BLOCK_B].gateways == (B,)
        assert c.state(A) == "Established"

    def test_a_notification_withdraws_at_once(self) -> None:
        network = Network()
        a, _ = pair(network)
        network.run(10)
        (key,) = a.links
        a.speaker.receive(*key, encode(Notification(6, 2)), network.now)
        network.settle(a)
        assert BLOCK_B not in a.routes

    def test_a_malformed_update_is_counted_by_peer_and_forgotten_with_it(self) -> None:
        network = Network()
        a, _ = pair(network)
        network.run(10)
        (key,) = a.links
        body = b"\x00\x00\x00\x00" + b"\x00\x00\x00\x01\x10\x0a\x00"  # path 1 to 10.0.0.0/16
        for _ in range(2):
            a.speaker.receive(*key, b"\xff" * 16 + (19 + len(body)).to_bytes(2, "big") + b"\x02" + body, network.now)
        network.settle(a)
        assert a.state(B) == "Established"
        assert a.speaker.faults == {key[0]: (2, "UPDATE without attributes")}
        a.configure(network.now, peers=())
        assert a.speaker.faults == {}

    def test_a_stranger_is_refused(self) -> None:
        network = Network()
        a, _ = pair(network)
        assert a.speaker.incoming("10.9.9.9", A, 0.0) is None


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(("give", "take", "kill", "reset", "wait")),
        st.integers(0, 2),
        st.integers(0, 5),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.sampled_from((0.001, 0.3)))
def test_whatever_happens_the_mesh_converges(actions: list[tuple[str, int, int]], latency: float) -> None:
    """After any sequence of changes and failures each node has exactly the others' blocks."""
    network = Network(latency)
    addresses = (A, B, C)
    blocks: dict[str, set[str]] = {address: set() for address in addresses}
    for own in addresses:
        network.add(own, *(mesh_peer(own, other, passive=False) for other in addresses if other != own))
    for action, index, number in actions:
        address = addresses[index]
        node = network.nodes[address]
        block = f"192.168.{number}.0/26"
        if action == "give" and not any(block in held for held in blocks.values()):
            blocks[address].add(block)
        elif action == "take":
            blocks[address].discard(block)
        elif action == "kill":
            network.restart(address)
            continue
        elif action == "reset":
            for key in list(node.links)[:1]:
                remote = node.links.pop(key)
                node.speaker.closed(*key, network.now, "reset")
                network._close_far(*remote)
        else:
            network.run(number)
            continue
        give_blocks(node, network.now, *sorted(blocks[address]))
        network.settle(node)
    network.run(200)
    wanted = {block: address for address, held in blocks.items() for block in held}
    for address in addresses:
        node = network.nodes[address]
        assert node.speaker.recovered
        learned = {dst: route.gateways[0] for dst, route in node.routes.items() if route.gateways}
        stale = {dst for dst in node.routes if dst not in wanted and not _desired(node, dst)}
        assert {dst: hop for dst, hop in learned.items() if dst not in stale} == {
            block: holder for block, holder in wanted.items() if holder != address
        }


def _desired(node: Node, dst: str) -> bool:
    """Whether the speaker still asks for ``dst``: adopted routes that it does not want are the sink's to prune."""
    return parse_prefix(dst) in node.speaker.desired


@pytest.mark.parametrize("enhanced", [True, False])
def test_a_refresh_sends_everything_again_and_loses_no_withdrawal(enhanced: bool) -> None:
    network = Network()
    a, b = pair(network)
    give_blocks(a, network.now, BLOCK_A, BLOCK_C)
    network.settle(a)
    network.run(10)
    (key,) = a.links
    peer = a.speaker._peers[key[0]]
    assert peer.negotiated is not None
    peer.negotiated = evolve(peer.negotiated, enhanced_refresh=enhanced)
    a.wire.clear()
    give_blocks(a, network.now, BLOCK_A)
    a.speaker.receive(*key, encode(RouteRefresh(4)), network.now)
    network.settle(a)
    network.run(1)
    assert BLOCK_A in b.routes
    assert BLOCK_C not in b.routes
    assert any(data[18] == 2 and b"\x1a\xc0\xa8\x01\x00" in data for data in a.wire)
    assert [(data[18], data[21]) for data in a.wire if data[18] == 5] == ([(5, 1), (5, 2)] if enhanced else [])


def test_a_change_of_filters_reaches_the_peer_without_a_new_session() -> None:
    network = Network()
    a, b = pair(network, filters=("f",))
    network.run(10)
    assert BLOCK_A in b.routes
    refuse = FilterRule(accept=False, prefix=parse_prefix(BLOCK_A))
    a.configure(network.now, filters={"f": Filter("f", exports=(refuse,))})
    network.settle(a)
    network.run(1)
    assert BLOCK_A not in b.routes
    a.configure(network.now, filters={"f": Filter("f", imports=(FilterRule(accept=False),))})
    network.settle(a)
    network.run(1)
    assert BLOCK_A in b.routes
    assert BLOCK_B not in a.routes
    a.configure(network.now, filters={})
    network.settle(a)
    assert a.routes[BLOCK_B].gateways == (B,)
    assert notifications(a) == []


def test_a_slow_peer_gets_only_the_latest_state() -> None:
    network = Network()
    a, b = pair(network)
    network.run(10)
    ((name, _),) = a.links
    a.speaker.congested(name, True)
    for number in range(50):
        give_blocks(a, network.now, f"192.168.{100 + number}.0/26")
        network.settle(a)
    a.wire.clear()
    a.speaker.congested(name, False)
    network.settle(a)
    network.run(1)
    assert "192.168.149.0/26" in b.routes
    assert BLOCK_A not in b.routes
    assert len([data for data in a.wire if data[18] == 2]) == 2


def test_a_change_of_session_parameters_makes_a_new_session() -> None:
    network = Network()
    a, _ = pair(network)
    network.run(10)
    a.configure(network.now, peers=(mesh_peer(A, B, keepalive=10),))
    network.settle(a)
    network.run(60)
    assert notifications(a) == [(6, Cease.CONFIG_CHANGE)]
    assert a.state(B) == "Established"
    assert a.routes[BLOCK_B].gateways == (B,)
