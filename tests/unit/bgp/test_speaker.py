"""Whole speakers in memory: convergence, withdrawal, restart."""

from __future__ import annotations

from tests.unit.bgp.simulator import Network, mesh_peer

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def test_two_nodes_learn_each_others_blocks() -> None:
    network = Network()
    a = network.add(A, mesh_peer(A, B), blocks=("192.168.1.0/26",))
    b = network.add(B, mesh_peer(B, A), blocks=("192.168.2.0/26",))
    network.run(10)
    assert a.state(B) == b.state(A) == "Established"
    assert a.routes["192.168.2.0/26"].gateways == (B,)
    assert a.routes["192.168.2.0/26"].metric == 1024
    assert a.routes["192.168.2.0/26"].protocol == 12
    assert b.routes["192.168.1.0/26"].gateways == (A,)
