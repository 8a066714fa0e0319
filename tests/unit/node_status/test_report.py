"""What a CalicoNodeStatus says of given speakers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import attrs
from hypothesis import given
from hypothesis import strategies as st

from calico_node.hookspecs import BGPRoute, BGPSession, BGPSpeaker
from calico_node.plugins.node_status.report import build
from calico_node.resources import CalicoNodeStatus, CalicoNodeStatusStatus, to_dict

NOW = datetime(2026, 8, 22, 10, 0, 0, tzinfo=UTC)
ALL = ("Agent", "BGP", "Routes")
MESH = BGPSession("10.192.0.3", "mesh", "Established", NOW - timedelta(minutes=59, seconds=55))
GLOBAL = BGPSession("10.0.0.9", "global", "Passive", NOW - timedelta(days=3))
ROUTES = (
    BGPRoute("192.168.1.0/26", "mesh", True, "eth0", "10.192.0.3", "10.192.0.3"),
    BGPRoute("192.168.1.0/26", "peer", False, "unreachable", "", "10.0.0.9"),
    BGPRoute("192.168.2.0/26", "static", True, "blackhole"),
    BGPRoute("10.192.0.0/24", "direct", True, "eth0"),
    BGPRoute("0.0.0.0/0", "kernel", True, "eth0", "10.192.0.1"),
)


def speaker(*sessions: BGPSession, ready: bool = True) -> BGPSpeaker:
    def routes() -> Iterator[BGPRoute]:
        return iter(())

    booted, reconfigured = NOW - timedelta(hours=1), NOW - timedelta(minutes=30)
    return BGPSpeaker(ready, "v1", "10.192.0.2", booted, reconfigured, sessions, routes)


def status(before: CalicoNodeStatusStatus, *classes: str, now: datetime = NOW, **speakers: BGPSpeaker) -> dict:
    found = {int(name[1:]): value for name, value in speakers.items()}
    built = build(before, classes, found, {4: ROUTES} if found else {}, now)
    return to_dict(attrs.evolve(CalicoNodeStatus(), status=built))["status"]


def test_all_classes() -> None:
    peer6 = BGPSession("fd00::3", "node", "OpenSent", NOW)
    daemon = {
        "state": "Ready", "version": "v1", "routerID": "10.192.0.2",
        "lastBootTime": "2026-08-22 09:00:00", "lastReconfigurationTime": "2026-08-22 09:30:00",
    }  # fmt: skip
    found = status(CalicoNodeStatusStatus(), *ALL, v4=speaker(MESH, GLOBAL), v6=speaker(peer6, ready=False))
    assert found["agent"] == {"birdV4": daemon, "birdV6": {**daemon, "state": "NotReady"}}
    assert found["bgp"] == {
        "numberEstablishedV4": 1,
        "numberNotEstablishedV4": 1,
        "numberEstablishedV6": 0,
        "numberNotEstablishedV6": 1,
        "peersV4": [
            {"peerIP": "10.192.0.3", "type": "NodeMesh", "state": "Established", "since": "09:00:05"},
            {"peerIP": "10.0.0.9", "type": "GlobalPeer", "since": "2026-08-19"},
        ],
        "peersV6": [{"peerIP": "fd00::3", "type": "NodePeer", "state": "OpenSent", "since": "10:00:00"}],
    }
    assert [
        (r["type"], r["destination"], r["gateway"], r["interface"], r["learnedFrom"])
        for r in found["routes"]["routesV4"]
    ] == [
        ("FIB", "0.0.0.0/0", "10.192.0.1", "eth0", {"sourceType": "Kernel"}),
        ("FIB", "10.192.0.0/24", "N/A", "eth0", {"sourceType": "Direct"}),
        ("FIB", "192.168.1.0/26", "10.192.0.3", "eth0", {"sourceType": "NodeMesh", "peerIP": "10.192.0.3"}),
        ("RIB", "192.168.1.0/26", "N/A", "unreachable", {"sourceType": "BGPPeer", "peerIP": "10.0.0.9"}),
        ("FIB", "192.168.2.0/26", "N/A", "blackhole", {"sourceType": "Static"}),
    ]
    assert "routesV6" not in found["routes"]


def test_classes_that_nobody_asked_for_stay_as_they_were() -> None:
    before = build(CalicoNodeStatusStatus(), ALL, {4: speaker(MESH)}, {4: ROUTES}, NOW)
    after = build(before, ("BGP",), {}, {}, NOW)
    assert (after.agent, after.routes) == (before.agent, before.routes)
    assert after.bgp.peers_v4 == []


def test_without_a_speaker_the_agents_are_not_ready_and_nothing_else_is_told() -> None:
    found = status(CalicoNodeStatusStatus(), *ALL)
    assert {daemon["state"] for daemon in found["agent"].values()} == {"NotReady"}
    assert "routerID" not in found["agent"]["birdV4"]
    assert set(found["bgp"].values()) == {0}
    assert found["routes"] == {}


def test_the_absence_of_ipv6_takes_nothing_of_ipv4_away() -> None:
    found = status(CalicoNodeStatusStatus(), *ALL, v4=speaker(MESH))
    assert len(found["bgp"]["peersV4"]) == 1
    assert len(found["routes"]["routesV4"]) == 5


def test_times_are_the_hosts_own() -> None:
    found = status(CalicoNodeStatusStatus(), *ALL, now=NOW.astimezone(timezone(timedelta(hours=2))), v4=speaker(MESH))
    assert found["agent"]["birdV4"]["lastBootTime"] == "2026-08-22 11:00:00"
    assert found["bgp"]["peersV4"][0]["since"] == "11:00:05"


@given(st.permutations(ROUTES))
def test_the_order_of_the_table_makes_no_difference(routes: list[BGPRoute]) -> None:
    def report(rows: list[BGPRoute]) -> CalicoNodeStatusStatus:
        return build(CalicoNodeStatusStatus(), ("Routes",), {}, {4: rows}, NOW)

    assert report(routes) == report(list(ROUTES))
