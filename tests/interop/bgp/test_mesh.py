"""Three nodes, one mesh, real kernel routes."""

from __future__ import annotations

import signal
import time

from tests.interop.bgp.cluster import Cluster, until


def test_three_nodes_exchange_their_blocks(cluster: Cluster) -> None:
    nodes = [cluster.node(number) for number in (1, 2, 3)]
    for node in nodes:
        node.start()
    blocks = {node.name: f"10.77.{node.number}.0/26" for node in nodes}
    for node in nodes:
        until(node.status, 15, node.log)
        cluster.affinity(node, blocks[node.name])
    for node in nodes:
        for other in nodes:
            if other is not node:
                node.wait_established(other.address)
        until(lambda n=node: set(blocks.values()) <= set(n.routes()), 10, lambda n=node: (n.routes(), n.status()))
        for other in nodes:
            route = node.routes()[blocks[other.name]]
            if other is node:
                assert route["type"] == "blackhole"
            else:
                assert route["gateway"] == other.address
                assert route["metric"] == 1024
        assert node.status()["ready"]
        assert node.log().count("session up") == 2

    cluster.affinity(nodes[0], blocks["node1"], None)
    until(lambda: blocks["node1"] not in nodes[1].routes(), 5, nodes[1].routes)
    until(lambda: blocks["node1"] not in nodes[0].routes(), 5, nodes[0].routes)


def test_restart_keeps_the_routes_on_both_sides(cluster: Cluster) -> None:
    a, b = cluster.node(1), cluster.node(2)
    a.start()
    b.start()
    for node in (a, b):
        until(node.status, 15, node.log)
        cluster.affinity(node, f"10.77.{node.number}.0/26")
    until(lambda: "10.77.1.0/26" in b.routes() and "10.77.2.0/26" in a.routes(), 15, lambda: (a.log(), b.log()))
    for how in (signal.SIGKILL, signal.SIGTERM):
        a.end(how)
        watched = time.monotonic() + 1
        while time.monotonic() < watched:
            assert "10.77.1.0/26" in b.routes()
            assert "10.77.2.0/26" in a.routes()
        a.start()
        while a.session(b.address).get("state") != "Established":
            assert "10.77.1.0/26" in b.routes()
            assert "10.77.2.0/26" in a.routes()
        watched = time.monotonic() + 1
        while time.monotonic() < watched:
            assert "10.77.1.0/26" in b.routes()
            assert "10.77.2.0/26" in a.routes()


def test_a_block_given_up_while_we_were_away_is_removed_after_recovery(cluster: Cluster) -> None:
    a, b = cluster.node(1), cluster.node(2)
    a.start()
    b.start()
    for node in (a, b):
        until(node.status, 15, node.log)
        cluster.affinity(node, f"10.77.{node.number}.0/26")
    cluster.affinity(b, "10.77.22.0/26")
    until(lambda: {"10.77.2.0/26", "10.77.22.0/26"} <= set(a.routes()), 15, lambda: (a.log(), a.routes()))
    a.end(signal.SIGKILL)
    cluster.affinity(b, "10.77.22.0/26", None)
    time.sleep(0.5)
    assert "10.77.22.0/26" in a.routes()
    a.start()
    until(lambda: "10.77.22.0/26" not in a.routes(), 15, a.routes)
    assert "10.77.2.0/26" in a.routes()
    until(lambda: a.status().get("ready"), 5, a.status)
