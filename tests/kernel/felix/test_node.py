"""A policy in the datastore becomes what packets obey, by way of the whole process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.felix.node import Node, connects, document, listener, run

PROFILE = document("Profile", "kns.default", ingress=[{"action": "Allow"}], egress=[{"action": "Allow"}])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path) as made:
        made.start()
        yield made


def web_policy(*apps: str) -> object:
    rules = [
        {
            "action": "Allow",
            "protocol": "TCP",
            "source": {"selector": f"app == '{app}'"},
            "destination": {"ports": [80]},
        }
        for app in apps
    ]
    return document("GlobalNetworkPolicy", "web", selector="app == 'web'", types=["Ingress"], ingress=rules)


def test_packets_obey(node: Node) -> None:
    node.write(PROFILE)
    web = node.pod("web", "10.65.0.2", app="web")
    good = node.pod("good", "10.65.0.3", app="client")
    bad = node.pod("bad", "10.65.0.4", app="other")
    with listener(web, 80), listener(web, 81):
        assert connects(good, "10.65.0.2", 80), node.felix()
        assert connects(bad, "10.65.0.2", 80)
        node.write(web_policy("client"))
        assert connects(good, "10.65.0.2", 80)
        assert not connects(good, "10.65.0.2", 81)
        assert not connects(bad, "10.65.0.2", 80)
        node.write(node.endpoint("bad", "10.65.0.4", app="client"))
        assert connects(bad, "10.65.0.2", 80)

        node.stop(kill=True)
        assert connects(good, "10.65.0.2", 80), "policy stays in force without the process"
        node.start()
        assert connects(good, "10.65.0.2", 80)
        assert not connects(good, "10.65.0.2", 81)


def test_routes_sysctls_and_status_files(node: Node) -> None:
    node.write(PROFILE)
    node.pod("web", "10.65.0.2", app="web")
    node.until(lambda: "10.65.0.2" in run(f"ip -n {node.name} route"))
    (route,) = (line for line in run(f"ip -n {node.name} route").splitlines() if line.startswith("10.65.0.2"))
    assert " ".join(route.split()) == "10.65.0.2 dev caliweb scope link metric 1024", "ip shows no protocol for boot"
    for name, value in (("proxy_arp", "1"), ("forwarding", "1"), ("route_localnet", "1")):
        shown = run(f"ip netns exec {node.name} cat /proc/sys/net/ipv4/conf/caliweb/{name}")
        assert shown.strip() == value
    files = list((node.folder / "run" / "endpoint-status").iterdir())
    assert [file.name for file in files] == ["k8s default%2Fweb eth0"]

    run(f"ip -n {node.name} link del caliweb")
    node.until(lambda: "10.65.0.2" not in run(f"ip -n {node.name} route"))
    node.until(lambda: not any((node.folder / "run" / "endpoint-status").iterdir()))


def test_blocks_of_a_pool_that_needs_no_tunnel_here(node: Node) -> None:
    pool = document("IPPool", "overlay", cidr="10.70.0.0/16", vxlanMode="CrossSubnet", natOutgoing=True)
    near = document("Node", "near", bgp={"ipv4Address": "172.30.0.2/24"})
    far = document("Node", "far", bgp={"ipv4Address": "172.31.0.2/24"})
    node.write(pool, near, far)
    node.block("10.70.1.0/26", "node1")
    node.block("10.70.2.0/26", "near")
    node.until(lambda: "10.70.2.0/26" in run(f"ip -n {node.name} route"))
    routes = run(f"ip -n {node.name} route")
    assert "10.70.2.0/26 via 172.30.0.2 dev eth0 proto 80" in routes
    assert "blackhole 10.70.1.0/26 proto 80" in routes
    assert node.felix()["ready"]

    node.block("10.70.3.0/26", "far")
    node.until(lambda: not node.felix()["ready"])
    assert "10.70.0.0/16" in node.felix()["reason"]
    assert "far (172.31.0.2)" in node.felix()["reason"]
    assert "10.70.3.0/26" not in run(f"ip -n {node.name} route")


def test_stale_routes_go_after_the_first_apply(node: Node) -> None:
    node.stop()
    run(f"ip -n {node.name} route add blackhole 10.65.9.0/26 proto 80")
    run(f"ip -n {node.name} route add blackhole 10.66.9.0/26 proto static")
    node.start()
    node.until(lambda: "10.65.9.0/26" not in run(f"ip -n {node.name} route"))
    assert "10.66.9.0/26" in run(f"ip -n {node.name} route")


def test_endpoint_without_its_profile_is_closed(node: Node) -> None:
    web = node.pod("web", "10.65.0.2", app="web")
    good = node.pod("good", "10.65.0.3", app="client")
    with listener(web, 80):
        assert not connects(good, "10.65.0.2", 80)
        node.write(PROFILE)
        assert connects(good, "10.65.0.2", 80)


def test_metrics(node: Node) -> None:
    node.write(PROFILE)
    node.pod("web", "10.65.0.2", app="web")
    script = "import urllib.request as u; print(u.urlopen('http://localhost:9099/metrics').read().decode())"
    command = ["ip", "netns", "exec", node.name, "python3", "-c", script]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "felix_active_local_endpoints 1.0" in text
    assert "felix_cluster_num_workload_endpoints 1.0" in text
    assert "felix_resync_state 3.0" in text


def test_a_change_is_obeyed_at_once(node: Node) -> None:
    """Commit to first packet through, by retrying; a bound far above what it takes, so that load cannot fail it."""
    node.write(PROFILE)
    web = node.pod("web", "10.65.0.2", app="web")
    good = node.pod("good", "10.65.0.3", app="client")
    with listener(web, 80):
        node.write(web_policy("nobody"))
        assert not connects(good, "10.65.0.2", 80)
        node.write(web_policy("client"), wait=False)
        began = time.monotonic()
        while not connects(good, "10.65.0.2", 80, timeout=0.005):
            assert time.monotonic() - began < 2
