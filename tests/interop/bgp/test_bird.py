"""A real BIRD 2 as the neighbour: both directions, internal and external, restarts of both sides, MD5, add-path."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.interop.bgp.cluster import Bird, Cluster, Node, until

BLOCK = "10.77.1.0/26"
PREFIX = "10.99.0.0/16"


def bird_config(
    bird: Bird, node: Node, *, asn: int = 64512, extra: str = "", channel: str = "", statics: str = ""
) -> str:
    return f"""
router id {bird.address};
protocol device {{}}
protocol direct {{ ipv4; interface "eth0"; }}
protocol static {{ ipv4; route {PREFIX} blackhole; {statics} }}
protocol bgp node {{
  local {bird.address} as {asn};
  neighbor {node.address} as 64512;
  multihop;
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 2;
  graceful restart on;
  {extra}
  ipv4 {{ import all; export where source = RTS_STATIC; add paths on; gateway recursive; {channel} }};
}}
"""


def peer(bird: Bird, asn: int = 64512, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "BGPPeer",
        "metadata": {"name": "bird"},
        "spec": {"peerIP": bird.address, "asNumber": asn, **spec},
    }


def start_node(cluster: Cluster, node: Node) -> None:
    node.start()
    until(node.status, 15, node.log)
    cluster.affinity(node, BLOCK)


def test_internal_peer(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    start_node(cluster, node)
    # a workload of our block, one borrowed from elsewhere, one without a metric
    node.ip("link", "add", "cali1", "type", "bridge")
    node.ip("link", "set", "cali1", "up")
    for address, metric in (("10.77.1.5", 1024), ("10.77.1.6", 0), ("10.77.3.7", 1024), ("10.77.3.8", 0)):
        node.ip("route", "add", f"{address}/32", "dev", "cali1", "proto", "3", "metric", str(metric))
    cluster.apply(peer(bird))
    bird.start(bird_config(bird, node))
    node.wait_established(bird.address)

    block = bird.wait_route(BLOCK)
    assert "BGP.local_pref: 2147482623" in block
    assert f"BGP.next_hop: {node.address}" in block
    assert "BGP.as_path: \n" in block
    assert "BGP.local_pref: 2147482623" in bird.wait_route("10.77.3.7/32")
    assert "BGP.local_pref: 2147482623" in bird.wait_route("10.77.3.8/32")
    assert not bird.route("10.77.1.5/32")
    assert not bird.route("10.77.1.6/32")

    until(lambda: PREFIX in node.routes(), 10, lambda: (node.routes(), node.log()))
    assert node.routes()[PREFIX]["gateway"] == bird.address
    assert node.routes()[PREFIX]["metric"] == 2147483547
    until(lambda: node.session(bird.address)["prefixes_received"] == 1, 3, node.status)

    node.ip("route", "add", "10.77.1.9/32", "dev", "cali1", "proto", "3", "metric", "512")
    assert "BGP.local_pref: 2147483135" in bird.wait_route("10.77.1.9/32")
    node.ip("route", "del", "10.77.1.9/32")
    bird.wait_gone("10.77.1.9/32")

    bird.birdc("disable static1")
    until(lambda: PREFIX not in node.routes(), 5, node.routes)
    cluster.affinity(node, BLOCK, None)
    bird.wait_gone(BLOCK)


def test_local_pref_becomes_the_metric(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    start_node(cluster, node)
    cluster.apply(peer(bird))
    config = bird_config(bird, node).replace(
        "export where source = RTS_STATIC;", "export filter { bgp_local_pref = 2147483135; accept; };"
    )
    bird.start(config.replace('protocol direct { ipv4; interface "eth0"; }', ""))
    node.wait_established(bird.address)
    until(lambda: PREFIX in node.routes(), 10, lambda: (node.routes(), node.log()))
    assert node.routes()[PREFIX]["metric"] == 512


def test_external_peer(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    start_node(cluster, node)
    cluster.apply(peer(bird, asn=65010))
    bird.start(bird_config(bird, node, asn=65010))
    node.wait_established(bird.address)
    block = bird.wait_route(BLOCK)
    assert "BGP.as_path: 64512" in block
    assert f"BGP.next_hop: {node.address}" in block
    until(lambda: PREFIX in node.routes(), 10, lambda: (node.routes(), node.log()))


def test_our_death_leaves_our_routes_with_bird(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    start_node(cluster, node)
    cluster.apply(peer(bird))
    bird.start(bird_config(bird, node))
    node.wait_established(bird.address)
    bird.wait_route(BLOCK)
    for how in (signal.SIGKILL, signal.SIGTERM):
        node.end(how)
        for _ in range(20):
            assert bird.route(BLOCK)
            assert PREFIX in node.routes()
            time.sleep(0.05)
        node.start()
        end = time.monotonic() + 15
        while node.session(bird.address).get("state") != "Established":
            assert bird.route(BLOCK)
            assert PREFIX in node.routes()
            assert time.monotonic() < end, node.log()
        until(lambda: node.session(bird.address)["prefixes_received"] == 1, 5, node.status)
        for _ in range(10):
            assert bird.route(BLOCK)
            assert PREFIX in node.routes()
            time.sleep(0.05)


def test_death_of_bird_leaves_its_routes_with_us(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    start_node(cluster, node)
    cluster.apply(peer(bird, maxRestartTime="3s"))
    bird.start(bird_config(bird, node, extra="graceful restart time 3;"))
    node.wait_established(bird.address)
    until(lambda: PREFIX in node.routes(), 10, lambda: (node.routes(), node.log()))
    bird.end(signal.SIGKILL)
    until(lambda: node.session(bird.address)["state"] != "Established", 5, node.status)
    assert PREFIX in node.routes()
    bird.start(bird_config(bird, node, extra="graceful restart time 3;"), "-R")
    while node.session(bird.address)["state"] != "Established":
        assert PREFIX in node.routes()
    time.sleep(0.5)
    assert PREFIX in node.routes()
    bird.end(signal.SIGKILL)
    time.sleep(1)
    assert PREFIX in node.routes()
    until(lambda: PREFIX not in node.routes(), 6, node.routes)


def test_an_orderly_shutdown_of_bird_withdraws_at_once(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    start_node(cluster, node)
    cluster.apply(peer(bird))
    bird.start(bird_config(bird, node))
    node.wait_established(bird.address)
    until(lambda: PREFIX in node.routes(), 10, lambda: (node.routes(), node.log()))
    bird.birdc("disable node")
    until(lambda: PREFIX not in node.routes(), 3, node.routes)
    until(lambda: bird.address in node.status()["reason"], 3, node.status)
    assert not node.status()["ready"]


def test_md5(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    secret = node.dir / "state" / "secrets" / "bgp"
    secret.mkdir(parents=True)
    (secret / "password").write_text("hunter2\n")
    start_node(cluster, node)
    reference = {"secretKeyRef": {"name": "bgp", "key": "password"}}
    cluster.apply(peer(bird, password=reference))
    bird.start(bird_config(bird, node, extra='password "hunter2";'))
    node.wait_established(bird.address)
    bird.wait_route(BLOCK)


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_md5_that_differs_never_comes_up(cluster: Cluster, side: str) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    secret = node.dir / "state" / "secrets" / "bgp"
    secret.mkdir(parents=True)
    (secret / "password").write_text("right")
    start_node(cluster, node)
    password = {"password": {"secretKeyRef": {"name": "bgp", "key": "password"}}} if side == "ours" else {}
    cluster.apply(peer(bird, **password))
    bird.start(bird_config(bird, node, extra='password "wrong";'))
    until(lambda: node.session(bird.address), 10, lambda: (node.status(), node.log()))
    time.sleep(4)
    assert node.session(bird.address)["state"] != "Established"
    assert "Established" not in bird.birdc("show protocols node")


def test_gtsm(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    start_node(cluster, node)
    cluster.apply(peer(bird, ttlSecurity=1))
    bird.start(bird_config(bird, node, extra="ttl security on;").replace("multihop;", "direct;"))
    node.wait_established(bird.address)
    bird.wait_route(BLOCK)


def test_several_paths_to_one_prefix_are_merged(cluster: Cluster) -> None:
    node, first, second = cluster.node(1), cluster.bird(8), cluster.bird(9)
    start_node(cluster, node)
    for bird in (first, second):
        document = peer(bird, asn=65010)
        document["metadata"] = {"name": f"bird{bird.number}"}
        cluster.apply(document)
        bird.start(bird_config(bird, node, asn=65010))
    for bird in (first, second):
        node.wait_established(bird.address)
    until(lambda: len(node.routes().get(PREFIX, {}).get("nexthops", ())) == 2, 10, node.routes)
    hops = {hop["gateway"] for hop in node.routes()[PREFIX]["nexthops"]}
    assert hops == {first.address, second.address}
    first.end(signal.SIGTERM)
    until(lambda: node.routes().get(PREFIX, {}).get("gateway") == second.address, 10, node.routes)


def test_filters_and_refresh(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    start_node(cluster, node)
    rules = {
        "kind": "BGPFilter",
        "metadata": {"name": "f"},
        "spec": {
            "importV4": [{"action": "Reject", "cidr": "10.98.0.0/16", "matchOperator": "In"}],
            "exportV4": [
                {
                    "action": "Accept",
                    "cidr": BLOCK,
                    "matchOperator": "Equal",
                    "operations": [
                        {"addCommunity": {"value": "65000:7"}},
                        {"prependASPath": {"prefix": [65001, 65002]}},
                    ],
                },
            ],
        },
    }
    cluster.apply(rules, peer(bird, asn=65010, filters=["f"]))
    bird.start(bird_config(bird, node, asn=65010, statics="route 10.98.1.0/24 blackhole;"))
    node.wait_established(bird.address)
    block = bird.wait_route(BLOCK)
    assert "BGP.as_path: 64512 65001 65002" in block
    assert "BGP.community: (65000,7)" in block
    until(lambda: PREFIX in node.routes(), 10, lambda: (node.routes(), node.log()))
    assert "10.98.1.0/24" not in node.routes()
    since = node.session(bird.address)["since"]

    rules["spec"] = {"exportV4": [{"action": "Reject", "cidr": BLOCK, "matchOperator": "Equal"}]}
    cluster.apply(rules)
    bird.wait_gone(BLOCK)
    until(lambda: "10.98.1.0/24" in node.routes(), 5, node.routes)
    rules["spec"] = {}
    cluster.apply(rules)
    bird.wait_route(BLOCK)
    bird.birdc("reload in node")
    bird.wait_route(BLOCK)
    assert node.session(bird.address)["state"] == "Established"
    assert abs(int(node.session(bird.address)["since"][17:19]) - int(since[17:19])) in (0, 1, 59)


def test_ipv6(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    for host in (node, bird):
        host.ip("addr", "add", f"fd00:9::{host.number}/64", "dev", "eth0", "nodad")
    start_node(cluster, node)
    cluster.apply(
        {
            "kind": "Node",
            "metadata": {"name": node.name},
            "spec": {"bgp": {"ipv4Address": f"{node.address}/24", "ipv6Address": "fd00:9::1/64"}},
        },
        {"kind": "IPPool", "metadata": {"name": "six"}, "spec": {"cidr": "fd77::/48", "blockSize": 122}},
        {
            "kind": "BGPPeer",
            "metadata": {"name": "bird"},
            "spec": {"peerIP": "fd00:9::9", "asNumber": 64512},
        },
    )
    cluster.affinity(node, "fd77::1:0/122")
    bird.start(
        f"""
router id {bird.address};
protocol device {{}}
protocol direct {{ ipv6; interface "eth0"; }}
protocol static {{ ipv6; route fd99::/32 blackhole; }}
protocol bgp node {{
  local fd00:9::9 as 64512;
  neighbor fd00:9::1 as 64512;
  multihop;
  graceful restart on;
  ipv6 {{ import all; export where source = RTS_STATIC; add paths on; gateway recursive; }};
}}
"""
    )
    node.wait_established("fd00:9::9")
    block = bird.wait_route("fd77::1:0/122")
    assert "BGP.local_pref: 2147482623" in block
    assert "BGP.next_hop: fd00:9::1" in block
    until(lambda: "fd99::/32" in node.ip("-6", "route", "show", "proto", "bird"), 10, lambda: node.ip("-6", "route"))
    assert "via fd00:9::9 dev eth0 metric 2147483547" in node.ip("-6", "route", "show", "proto", "bird")


def test_long_lived_stale_routes_are_a_last_resort(cluster: Cluster) -> None:
    node, bird = cluster.node(1), cluster.bird(9)
    start_node(cluster, node)
    cluster.apply(peer(bird))
    extra = "graceful restart time 1; long lived graceful restart on; long lived stale time 3;"
    bird.start(bird_config(bird, node, extra=extra))
    node.wait_established(bird.address)
    until(lambda: PREFIX in node.routes(), 10, lambda: (node.routes(), node.log()))
    bird.end(signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: PREFIX not in node.routes(), 10, node.routes)
    assert 3.5 < time.monotonic() - killed < 6
