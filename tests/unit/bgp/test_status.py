"""What a speaker lets others know of its sessions and its table."""

from __future__ import annotations

import datetime

import pytest

from calico_node.dataplanes.contract import ConnectedPrefix, KernelView, Route, RouteType
from calico_node.hookspecs import BGPRoute, BGPSpeaker
from calico_node.plugins.bgp import status
from calico_node.plugins.bgp.packet import Attributes
from calico_node.plugins.bgp.peers import PeerConfig
from calico_node.plugins.bgp.prefix import address_to_number, parse_prefix
from calico_node.plugins.bgp.rib import Origin, Path, PathKey
from calico_node.plugins.bgp.speaker import Speaker, SpeakerConfig
from calico_node.plugins.bgp.status import Clock, describe
from tests.unit.bgp.simulator import Network, Node
from tests.unit.bgp.test_speaker import pair

BOOT = datetime.datetime(2026, 8, 22, 9, 0, 0, tzinfo=datetime.UTC)


def told(speaker: Speaker, router_id: int = 1, now: float = 0.0) -> BGPSpeaker:
    clock = Clock(lambda: now)
    return describe(speaker, router_id=router_id, ready=True, booted=BOOT, reconfigured=BOOT, clock=clock)


def routes(node: Node) -> dict[tuple[str, str], BGPRoute]:
    return {(route.destination, route.source): route for route in told(node.speaker).routes()}


def test_a_session_and_the_routes_of_a_node() -> None:
    network = Network()
    a, b = pair(network)
    network.run(20)
    (session,) = told(a.speaker, now=network.now).sessions
    assert (session.peer, session.kind, session.state) == (b.address, "mesh", "Established")
    assert {source for _, source in routes(a)} == {"direct", "static", "mesh"}
    subnet = next(route for route in routes(a).values() if route.source == "direct")
    assert (subnet.device, subnet.gateway, subnet.peer) == ("eth0", "", "")


def test_a_learned_route_names_the_router_it_came_from() -> None:
    network = Network()
    mesh = PeerConfig("Mesh_10_0_0_2", "10.0.0.2", 64512, 64512, "mesh", source="10.0.0.1")
    back = PeerConfig("Node_10_0_0_1", "10.0.0.1", 64512, 64512, "node", source="10.0.0.2")
    a = network.add("10.0.0.1", mesh)
    b = network.add("10.0.0.2", back, blocks=("192.168.1.0/26",))
    network.run(20)
    learned = routes(a)["192.168.1.0/26", "mesh"]
    assert (learned.gateway, learned.device, learned.peer, learned.best) == ("10.0.0.2", "eth0", "10.0.0.2", True)
    static = routes(b)["192.168.1.0/26", "static"]
    assert (static.device, static.gateway, static.best) == ("blackhole", "", True)
    a.speaker.set_kernel(KernelView((), ()))
    network.settle(a)
    lost = routes(a)["192.168.1.0/26", "mesh"]
    assert (lost.device, lost.gateway) == ("unreachable", "")


@pytest.mark.parametrize(
    ("version", "address", "dst"), [(4, "10.0.0.1/24", "10.9.0.0/16"), (6, "fd00::1/64", "fd09::/48")]
)
def test_the_kernels_own_routes(version: int, address: str, dst: str) -> None:
    speaker = Speaker(version, lambda: 0.5)
    speaker.configure(SpeakerConfig(address_to_number("10.0.0.1")), 0.0)
    gateway = address.partition("/")[0] + "9"
    blackhole = Route(dst.replace("9.", "8.").replace("09:", "08:"), RouteType.BLACKHOLE)
    view = KernelView(
        (Route(dst, device="eth0", gateways=(gateway,)), blackhole), (ConnectedPrefix(address, "eth0"),)
    )
    speaker.set_kernel(view)
    while speaker.step(100, 0.0):
        pass
    found = {(r.source, r.device, r.gateway, r.best) for r in told(speaker).routes()}
    assert found == {
        ("kernel", "eth0", gateway, True),
        ("kernel", "blackhole", "", True),
        ("direct", "eth0", "", True),
    }


def test_without_a_router_id_a_speaker_is_not_ready() -> None:
    found = told(Speaker(4, lambda: 0.5), router_id=0)
    assert (found.ready, found.router_id) == (False, "")
    assert told(Speaker(4, lambda: 0.5), router_id=address_to_number("10.0.0.1")).router_id == "10.0.0.1"


def test_a_table_may_change_while_it_is_read() -> None:
    network = Network()
    (node, _) = pair(network)
    network.run(5)
    reading = told(node.speaker).routes()
    next(reading)
    node.speaker.set_kernel(KernelView((), ()))
    network.settle(node)
    assert all(route.destination for route in reading)


def test_a_moment_is_told_the_same_until_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    now, wall = 100.0, BOOT

    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return wall

    monkeypatch.setattr(status.datetime, "datetime", Datetime)
    clock = Clock(lambda: now)
    first = clock.wall(90.0)
    now, wall = 160.0, BOOT + datetime.timedelta(seconds=60.4)  # the clocks drift apart
    assert clock.wall(90.0) == first
    wall += datetime.timedelta(hours=1)
    assert clock.wall(90.0) == first + datetime.timedelta(hours=1, seconds=0.4)


def test_a_learned_ipv6_route() -> None:
    speaker = Speaker(6, lambda: 0.5)
    speaker.configure(SpeakerConfig(address_to_number("10.0.0.1")), 0.0)
    speaker.set_kernel(KernelView((), (ConnectedPrefix("fd00::1/64", "eth0"),)))
    path = Path(
        PathKey("Mesh_fd00__2"),
        Origin.BGP,
        100,
        Attributes(next_hop="fd00::2"),
        peer_address=address_to_number("fd00::2"),
    )
    speaker.table.set(parse_prefix("fd77::/122"), path)
    while speaker.step(100, 0.0):
        pass
    learned = next(route for route in told(speaker).routes() if route.destination == "fd77::/122")
    assert learned == BGPRoute("fd77::/122", "mesh", True, "eth0", "fd00::2", "fd00::2")
