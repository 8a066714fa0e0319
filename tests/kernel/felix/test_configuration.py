"""Felix's parameters, by what the kernel then does: the environment beats this host beats the cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.felix.node import Node, document, run

PROFILE = document("Profile", "kns.default", ingress=[{"action": "Allow"}], egress=[{"action": "Allow"}])
LOG = document("GlobalNetworkPolicy", "p", selector="all()", types=["Ingress"], ingress=[{"action": "Log"}])
POOL = document("IPPool", "p", cidr="10.65.0.0/16", natOutgoing=True, ipipMode="Never")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path) as made:
        yield made


def configuration(name: str, **spec: Any) -> Any:
    return document("FelixConfiguration", name, **spec)


def rules(node: Node) -> str:
    return run(f"ip netns exec {node.name} nft list table ip calico")


def route(node: Node, dst: str) -> str:
    shown = run(f"ip -n {node.name} -N route show {dst}")
    return " ".join(shown.split())


PARAMETERS: list[tuple[str, str, list[tuple[Any, str]]]] = [
    # environment variable, field, then (value, what the rules say) for three different values
    (
        "FELIX_DEFAULTENDPOINTTOHOSTACTION",
        "defaultEndpointToHostAction",
        [
            ("Accept", r'accept comment "[^"]*Configured'),
            ("Drop", r'drop comment "[^"]*Configured'),
            ("Accept", r'accept comment "[^"]*Configured'),
        ],
    ),
    (
        "FELIX_LOGPREFIX",
        "logPrefix",
        [("one", 'prefix "one: "'), ("two", 'prefix "two: "'), ("three %t", 'prefix "three default: "')],
    ),
    ("FELIX_VXLANPORT", "vxlanPort", [(4790, "4790"), (4791, "4791"), (4792, "4792")]),
    (
        "FELIX_NFTABLESFILTERDENYACTION",
        "nftablesFilterDenyAction",
        [
            ("Reject", r'reject.* comment "[^"]*no profiles'),
            ("Drop", r'drop comment "[^"]*no profiles'),
            ("Reject", r'reject.* comment "[^"]*no profiles'),
        ],
    ),
    (
        "FELIX_NFTABLESMARKMASK",
        "nftablesMarkMask",
        [(0xFF000000, "0x01000000"), (0xFF00000, "0x00100000"), (0xFF0000, "0x00010000")],
    ),
    (
        "FELIX_NATPORTRANGE",
        "natPortRange",
        [("1000:1100", "1000-1100"), ("2000:2100", "2000-2100"), ("3000:3100", "3000-3100")],
    ),
    (
        "FELIX_NATOUTGOINGADDRESS",
        "natOutgoingAddress",
        [("192.0.2.1", "snat to 192.0.2.1"), ("192.0.2.2", "snat to 192.0.2.2"), ("192.0.2.3", "snat to 192.0.2.3")],
    ),
    (
        "FELIX_LOGACTIONRATELIMIT",
        "logActionRateLimit",
        [("3/second", "rate 3/second"), ("4/minute", "rate 4/minute"), ("5/hour", "rate 5/hour")],
    ),
    (
        "FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER",
        "iptablesNATOutgoingInterfaceFilter",
        [("eth9", 'oifname "eth9"'), ("bond+", 'oifname "bond\\*"'), ("eth7", 'oifname "eth7"')],
    ),
    (
        "FELIX_EXTERNALNODESCIDRLIST",
        "externalNodesList",
        [
            (["192.0.2.0/25"], "192.0.2.0/25"),
            (["192.0.2.128/26"], "192.0.2.128/26"),
            (["192.0.2.7"], r"192\.0\.2\.7\b"),
        ],
    ),
]


def test_the_environment_beats_the_host_beats_the_cluster(node: Node) -> None:
    """Every parameter has the cluster's value, then its host's, then the environment's; each shows in the rules."""
    node.start()
    node.write(PROFILE, LOG, POOL)
    node.pod("web", "10.65.0.2", app="web")

    def wrong(index: int) -> list[str]:
        shown = rules(node)
        return [name for name, _, values in PARAMETERS if not re.search(values[index][1], shown)]

    cluster = configuration("default", **{field: values[0][0] for _, field, values in PARAMETERS})
    node.write(cluster, configuration("node.node1"))
    assert wrong(0) == []
    node.write(configuration("node.node1", **{field: values[1][0] for _, field, values in PARAMETERS}))
    assert wrong(1) == []
    node.stop()
    for name, _, values in PARAMETERS:
        value = values[2][0]
        node.environ[name] = ",".join(value) if isinstance(value, list) else str(value)
    node.start()
    assert wrong(2) == []
    assert not any("Felix parameter" in name for name in node.felix()["rejected"]), node.felix()["rejected"]


def test_parameters_of_routes(node: Node) -> None:
    node.environ["FELIX_DEVICEROUTEPROTOCOL"] = "77"
    node.start()
    node.write(PROFILE)
    node.pod("web", "10.65.0.2", app="web")
    assert route(node, "10.65.0.2") == "10.65.0.2 dev caliweb proto 77 scope 253 metric 1024"
    node.write(
        configuration(
            "default", deviceRouteProtocol=78, ipv4NormalRoutePriority=99, deviceRouteSourceAddress="172.30.0.1"
        )
    )
    shown = "10.65.0.2 dev caliweb proto 77 scope 253 src 172.30.0.1 metric 99"
    node.until(lambda: route(node, "10.65.0.2") == shown)

    # What carries our protocol is ours to take away, wherever it is; what others put there is not.
    run(f"ip -n {node.name} route add 198.51.100.0/24 dev eth0 proto 77")
    run(f"ip -n {node.name} route add 203.0.113.0/24 dev eth0 proto 80")
    node.until(lambda: route(node, "198.51.100.0/24") == "")
    assert route(node, "203.0.113.0/24") != ""


def test_foreign_routes_on_workload_interfaces(node: Node) -> None:
    node.start()
    node.write(PROFILE)
    node.pod("web", "10.65.0.2", app="web")
    run(f"ip -n {node.name} route add 198.51.100.0/24 dev caliweb proto static")
    node.until(lambda: route(node, "198.51.100.0/24") == "")
    node.write(configuration("default", removeExternalRoutes=False))
    run(f"ip -n {node.name} route add 198.51.100.0/24 dev caliweb proto static")
    run(f"ip -n {node.name} route add 203.0.113.0/24 dev caliweb proto boot")
    node.until(lambda: route(node, "203.0.113.0/24") == "")
    assert route(node, "198.51.100.0/24") != ""
    node.write(configuration("default", removeExternalRoutes=True))
    node.until(lambda: route(node, "198.51.100.0/24") == "")


def test_the_prefix_of_workload_interfaces(node: Node) -> None:
    """Routes and rules mean the same interfaces: those that Felix is told to."""
    node.environ["FELIX_INTERFACEPREFIX"] = "tap,cali"
    node.start()
    node.write(PROFILE)
    node.pod("web", "10.65.0.2", app="web")
    for name in ("tap0", "other0"):
        run(f"ip -n {node.name} link add {name} type veth peer name peer-{name}")
        run(f"ip -n {node.name} link set peer-{name} up")
        run(f"ip -n {node.name} link set {name} up")
    assert 'iifname "tap*"' in rules(node)
    run(f"ip -n {node.name} route add 198.51.100.0/24 dev tap0 proto 80")
    run(f"ip -n {node.name} route add 203.0.113.0/24 dev tap0 proto static")
    run(f"ip -n {node.name} route add 192.0.2.0/24 dev other0 proto static")
    node.until(lambda: route(node, "198.51.100.0/24") == "")
    node.until(lambda: route(node, "203.0.113.0/24") == "", seconds=20)
    assert route(node, "192.0.2.0/24") != ""


def test_a_route_that_cannot_be_set_is_said(node: Node) -> None:
    node.start()
    node.write(PROFILE)
    node.pod("web", "10.65.0.2", app="web")
    # Nobody has this address, so the kernel refuses a route that is to prefer it.
    node.write(configuration("default", deviceRouteSourceAddress="198.51.100.9"))
    node.until(lambda: "route to 10.65.0.2/32" in node.felix()["rejected"])
    assert node.felix()["ready"], "one workload without a way does not make the node unready"
    node.write(configuration("default"))
    node.until(lambda: not node.felix()["rejected"])
