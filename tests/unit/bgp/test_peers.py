"""Which sessions a node has."""

from __future__ import annotations

from typing import Any

import pytest

from calico_node.errors import ValidationError
from calico_node.plugins.bgp.peers import NodeInfo, PeerConfig, Peers, View, compute, parse_as, parse_peer_ip, seconds
from calico_node.resources import BGPPeer, from_dict


def node(name: str, ip: str, **more: Any) -> NodeInfo:
    return NodeInfo(name, {4: ip}, **more)


def bgp_peer(name: str = "p", **spec: Any) -> BGPPeer:
    found = from_dict(
        {"apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec}
    )
    assert isinstance(found, BGPPeer)
    return found


def sessions(me: str, nodes: list[NodeInfo], *peers: BGPPeer, **view: Any) -> dict[str, PeerConfig]:
    return {peer.name: peer for peer in outcome(me, nodes, *peers, **view).sessions}


def outcome(me: str, nodes: list[NodeInfo], *peers: BGPPeer, **view: Any) -> Peers:
    named = {peer.metadata.name: peer for peer in peers}
    return compute(View(me, {n.name: n for n in nodes}, named, **view), 4)


NODES = [node("a", "10.0.0.9"), node("b", "10.0.0.10"), node("c", "10.0.0.11")]


class TestMesh:
    def test_every_other_node(self) -> None:
        found = sessions("a", NODES)
        assert list(found) == ["Mesh_10_0_0_10", "Mesh_10_0_0_11"]
        assert all(peer.source == "10.0.0.9" and peer.asn == peer.local_as == 64512 for peer in found.values())

    def test_the_greater_address_as_text_connects(self) -> None:
        assert not sessions("a", NODES)["Mesh_10_0_0_10"].passive
        assert sessions("b", NODES)["Mesh_10_0_0_9"].passive
        assert sessions("b", NODES)["Mesh_10_0_0_11"].passive

    def test_off_or_without_an_address(self) -> None:
        assert not sessions("a", NODES, mesh_enabled=False)
        assert not sessions("x", NODES)
        assert not compute(View("a", {n.name: n for n in NODES}, {}), 6).sessions

    def test_reflectors_stand_outside(self) -> None:
        nodes = [*NODES[:2], node("c", "10.0.0.11", cluster_id="1.1.1.1")]
        assert list(sessions("a", nodes)) == ["Mesh_10_0_0_10"]
        assert not sessions("c", nodes)

    def test_as_numbers_and_ports_of_nodes(self) -> None:
        nodes = [node("a", "10.0.0.1", asn=65001), node("b", "10.0.0.2", port=1790), node("c", "10.0.0.3", asn=65003)]
        found = sessions("a", nodes)
        assert (found["Mesh_10_0_0_2"].asn, found["Mesh_10_0_0_2"].port) == (65001, 1790)
        assert (found["Mesh_10_0_0_3"].asn, found["Mesh_10_0_0_3"].local_as) == (65003, 65001)


class TestExplicit:
    def test_global(self) -> None:
        found = sessions("a", NODES[:1], bgp_peer(peerIP="10.0.0.50", asNumber=65000))
        (peer,) = found.values()
        assert (peer.name, peer.asn, peer.port, peer.source) == ("Global_10_0_0_50", 65000, 179, "10.0.0.9")
        assert not peer.ibgp
        assert not peer.passive

    def test_global_peers_that_are_nodes_follow_the_text_rule(self) -> None:
        peer = bgp_peer(peerIP="10.0.0.10", asNumber=64512)
        assert not sessions("a", NODES, peer)["Global_10_0_0_10"].passive
        assert sessions("c", NODES, bgp_peer(peerIP="10.0.0.9", asNumber=64512))["Global_10_0_0_9"].passive

    def test_an_explicit_peer_replaces_the_mesh_session(self) -> None:
        found = sessions("a", NODES, bgp_peer(peerIP="10.0.0.10", asNumber=64512))
        assert list(found) == ["Global_10_0_0_10", "Mesh_10_0_0_11"]

    def test_node_and_selector(self) -> None:
        nodes = [node("a", "10.0.0.1", labels={"rack": "r1"}), node("b", "10.0.0.2", labels={"rack": "r2"})]
        one = bgp_peer("one", node="a", peerIP="10.0.0.50", asNumber=65000)
        rack = bgp_peer("rack", nodeSelector="rack == 'r2'", peerIP="10.0.0.51:1790", asNumber=65000)
        assert "Node_10_0_0_50" in sessions("a", nodes, one, rack)
        found = sessions("b", nodes, one, rack)
        assert list(found) == ["Mesh_10_0_0_1", "Node_10_0_0_51_port_1790"]

    def test_a_global_peer_wins_over_a_nodes(self) -> None:
        first = bgp_peer("a", node="a", peerIP="10.0.0.50", asNumber=65000)
        second = bgp_peer("b", peerIP="10.0.0.50", asNumber=65001)
        (peer,) = sessions("a", NODES[:1], first, second).values()
        assert (peer.kind, peer.asn) == ("global", 65001)

    def test_peer_selector_makes_both_ends(self) -> None:
        reflector = node("rr", "10.0.0.99", labels={"rr": "yes"}, cluster_id="1.1.1.1")
        peer = bgp_peer(nodeSelector="all()", peerSelector="has(rr)")
        found = sessions("a", [*NODES, reflector], peer, mesh_enabled=False)
        assert list(found) == ["Node_10_0_0_99"]
        assert not found["Node_10_0_0_99"].rr_client
        ours = sessions("rr", [*NODES, reflector], peer, mesh_enabled=False)
        assert len(ours) == 3
        assert all(p.rr_client and p.cluster_id == "1.1.1.1" and not p.passive for p in ours.values())

    def test_reverse_peering(self) -> None:
        peer = bgp_peer(node="a", peerIP="10.0.0.10", asNumber=64512)
        assert list(sessions("b", NODES, peer, mesh_enabled=False)) == ["Node_10_0_0_9"]
        manual = bgp_peer(node="a", peerIP="10.0.0.10", asNumber=64512, reversePeering="Manual")
        assert not sessions("b", NODES, manual, mesh_enabled=False)

    def test_all_the_options(self) -> None:
        peer = bgp_peer(
            peerIP="10.0.0.50",
            asNumber="1.10",
            localASNumber=65009,
            nextHopMode="Self",
            sourceAddress="None",
            maxRestartTime="1m30s",
            keepaliveTime="20s",
            numAllowedLocalASNumbers=2,
            ttlSecurity=3,
            filters=["f"],
        )
        (found,) = sessions("a", NODES[:1], peer).values()
        assert found == PeerConfig(
            name="Global_10_0_0_50",
            address="10.0.0.50",
            asn=65546,
            local_as=65009,
            kind="global",
            next_hop_self=True,
            restart_time=90,
            keepalive=20,
            allow_own_as=2,
            ttl=3,
            filters=("f",),
        )

    def test_passwords(self) -> None:
        spec = {"peerIP": "10.0.0.50", "asNumber": 65000}
        peer = bgp_peer(password={"secretKeyRef": {"name": "n", "key": "k"}}, **spec)
        (found,) = sessions("a", NODES[:1], peer, secret=lambda reference: "s3cret").values()
        assert found.password == "s3cret"
        assert "s3cret" not in repr(found)
        missing = outcome("a", NODES[:1], peer)
        assert missing.sessions[0].password == ""
        assert "BGPPeer(p)" in missing.rejected

    def test_a_bad_peer_leaves_the_others(self) -> None:
        bad = bgp_peer("bad", peerIP="10.0.0.50")
        good = bgp_peer("good", peerIP="10.0.0.51", asNumber=1)
        found = outcome("a", NODES[:1], bad, good)
        assert [peer.name for peer in found.sessions] == ["Global_10_0_0_51"]
        assert list(found.rejected) == ["BGPPeer(bad)"]


def test_small_parsers() -> None:
    assert parse_peer_ip("10.0.0.1:1790") == ("10.0.0.1", 1790)
    assert parse_peer_ip("[fd00::1]:1790") == ("fd00::1", 1790)
    assert parse_peer_ip("fd00::1") == ("fd00::1", 0)
    assert parse_as("1.10") == 65546
    assert seconds("1h2m3s", 0) == 3723
    assert seconds("1500ms", 0) == 2
    assert seconds(None, 5) == 5
    for text in ("x", "10.0.0.1:y", "[fd00::1"):
        with pytest.raises(ValidationError):
            parse_peer_ip(text + "!")
    for text in ("5", "5x", "s"):
        with pytest.raises(ValidationError):
            seconds(text, 0)
