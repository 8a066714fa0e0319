"""Kubernetes NetworkPolicies, against what Kubernetes says of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.policy.world import Document, World, gnp, knp

A = {"matchLabels": {"app": "a"}}


def on_a(*peers: dict[str, Any], ports: list[dict[str, Any]] | None = None) -> Document:
    rule: dict[str, Any] = {}
    if peers:
        rule["from"] = list(peers)
    if ports is not None:
        rule["ports"] = ports
    return knp("red/p", podSelector=A, ingress=[rule])


def from_a(*peers: dict[str, Any], ports: list[dict[str, Any]] | None = None) -> Document:
    rule: dict[str, Any] = {}
    if peers:
        rule["to"] = list(peers)
    if ports is not None:
        rule["ports"] = ports
    return knp("red/p", podSelector=A, policyTypes=["Egress"], egress=[rule])


def pods(**labels: str) -> dict[str, Any]:
    return {"matchLabels": labels}


def wants(key: str, operator: str, *values: str) -> dict[str, Any]:
    expression: dict[str, Any] = {"key": key, "operator": operator}
    return {"matchExpressions": [{**expression, "values": list(values)} if values else expression]}


SCENARIOS: dict[str, tuple[list[Document], str, str]] = {
    "default deny of a namespace": (
        [knp("red/deny", podSelector={}, policyTypes=["Ingress"])],
        "red/a > {blue/d,blue/e,host:e1} tcp 80\nnode:n1 > red/a tcp 80",
        "{red/b,blue/d,host:e1} > {red/a,red/c} tcp 80",
    ),
    "default deny in both directions": (
        [knp("red/deny", podSelector={}, policyTypes=["Ingress", "Egress"])],
        "blue/d > blue/e tcp 80",
        "red/a > {red/b,blue/d,host:e1} tcp 80\nblue/d > red/a tcp 80",
    ),
    "no policyTypes, no rules: ingress": (
        [knp("red/p", podSelector=A)],
        "red/a > red/b tcp 80\nblue/d > red/c tcp 80",
        "{red/b,blue/d,host:e1} > red/a tcp 80",
    ),
    "no policyTypes, with egress rules": (
        [knp("red/p", podSelector=A, egress=[{"ports": [{"port": 80}]}])],
        "red/a > red/b tcp 80",
        "red/a > red/b tcp 90\nred/b > red/a tcp 80",
    ),
    "allow everything": (
        [knp("red/deny", podSelector={}), knp("red/allow", podSelector=A, ingress=[{}])],
        "{red/b,blue/d,host:e1} > red/a tcp {80,90}",
        "{red/b,blue/d,host:e1} > red/c tcp 80",
    ),
    "policies add up": (
        [on_a({"podSelector": pods(app="b")}), knp("red/q", podSelector=A, ingress=[{"ports": [{"port": 90}]}])],
        "red/b > red/a tcp {80,90}\nblue/d > red/a tcp 90",
        "{red/c,blue/d} > red/a tcp 80",
    ),
    "podSelector is of the own namespace": (
        [on_a({"podSelector": pods(app="b")})],
        "red/b > red/a tcp 80",
        "{red/c,blue/e,host:e1} > red/a tcp 80",
    ),
    "empty podSelector is all pods of the own namespace": (
        [on_a({"podSelector": {}})],
        "{red/b,red/c} > red/a tcp 80",
        "{blue/d,blue/e,host:e1} > red/a tcp 80",
    ),
    "namespaceSelector": (
        [on_a({"namespaceSelector": pods(team="blue")})],
        "{blue/d,blue/e,blue/f} > red/a tcp 80",
        "{red/b,host:e1} > red/a tcp 80",
    ),
    "empty namespaceSelector is all pods of all namespaces": (
        [on_a({"namespaceSelector": {}})],
        "{red/b,red/c,blue/d,blue/e,blue/f} > red/a tcp 80",
        "{host:e1,host:e2} > red/a tcp 80",
    ),
    "namespaceSelector and podSelector in one peer": (
        [on_a({"namespaceSelector": pods(team="blue"), "podSelector": pods(app="b")})],
        "blue/e > red/a tcp 80",
        "{red/b,blue/d,blue/f,host:e1} > red/a tcp 80",
    ),
    "namespaceSelector and podSelector in two peers": (
        [on_a({"namespaceSelector": pods(team="blue")}, {"podSelector": pods(app="b")})],
        "{red/b,blue/d,blue/e,blue/f} > red/a tcp 80",
        "{red/c,host:e1} > red/a tcp 80",
    ),
    "namespace by its name": (
        [on_a({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "blue"}}})],
        "{blue/d,blue/e} > red/a tcp 80",
        "red/b > red/a tcp 80",
    ),
    "In": (
        [on_a({"podSelector": wants("app", "In", "b", "z")})],
        "red/b > red/a tcp 80",
        "{red/c,blue/e} > red/a tcp 80",
    ),
    "NotIn, also where there is no such label": (
        [on_a({"podSelector": wants("app", "NotIn", "b"), "namespaceSelector": {}})],
        "{red/c,blue/d,blue/f} > red/a tcp 80",
        "{red/b,blue/e,host:e1} > red/a tcp 80",
    ),
    "Exists": (
        [on_a({"podSelector": wants("side", "Exists"), "namespaceSelector": {}})],
        "{red/c,blue/e} > red/a tcp 80",
        "{red/b,blue/d,host:e1} > red/a tcp 80",
    ),
    "DoesNotExist": (
        [on_a({"podSelector": wants("side", "DoesNotExist"), "namespaceSelector": {}})],
        "{red/b,blue/d,blue/f} > red/a tcp 80",
        "{red/c,blue/e,host:e1} > red/a tcp 80",
    ),
    "ipBlock with except": (
        [on_a({"ipBlock": {"cidr": "172.30.0.0/24", "except": ["172.30.0.192/26", "172.30.0.2/32"]}})],
        "host:e1 > red/a tcp 80",
        "{host:e2,red/b,blue/d,node:n2} > red/a tcp 80",
    ),
    "ipBlock of pods": (
        [on_a({"ipBlock": {"cidr": "10.244.9.64/30"}})],
        "{red/b,blue/d} > red/a tcp 80",
        "{red/c,blue/f,host:e1} > red/a tcp 80",
    ),
    "ipBlock of everything": (
        [on_a({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.9.66/32"]}})],
        "{red/c,blue/d,host:e1} > red/a tcp 80",
        "red/b > red/a tcp 80",
    ),
    "ports": (
        [on_a(ports=[{"port": 80}, {"port": 53, "protocol": "UDP"}])],
        "{blue/d,host:e1} > red/a tcp 80\nblue/d > red/a udp 53",
        "blue/d > red/a tcp 90\nblue/d > red/a udp 80\nblue/d > red/a icmp",
    ),
    "endPort": (
        [on_a(ports=[{"port": 85, "endPort": 95}, {"port": 8080, "endPort": 8080}])],
        "red/b > red/a tcp {90,8080}",
        "red/b > red/a tcp 80",
    ),
    "a protocol without a port is all of its ports": (
        [on_a(ports=[{"protocol": "UDP"}])],
        "red/b > red/a udp {53,80}",
        "red/b > red/a tcp 80",
    ),
    "an entry with nothing is all of TCP": ([on_a(ports=[{}])], "red/b > red/a tcp {80,90}", "red/b > red/a udp 53"),
    "a named port on ingress": (
        [knp("red/p", podSelector={}, ingress=[{"ports": [{"port": "http"}]}])],
        "blue/d > red/a tcp 80\nblue/d > red/c tcp 90",
        "blue/d > red/a tcp 90\nblue/d > red/c tcp 80",
    ),
    "a named port on egress is the receiver's": (
        [from_a({"namespaceSelector": {}}, ports=[{"port": "http"}, {"port": "dns", "protocol": "UDP"}])],
        "red/a > red/b tcp 80\nred/a > red/c tcp 90\nred/a > blue/d tcp 8080\nred/a > blue/e udp 53",
        "red/a > red/c tcp 80\nred/a > blue/e tcp 80\nred/a > host:e1 tcp 80\nred/a > blue/e udp 80",
    ),
    "peers and ports: both": (
        [
            on_a(
                {"podSelector": pods(app="b")},
                {"ipBlock": {"cidr": "172.30.0.10/32"}},
                ports=[{"port": 80}, {"port": 90}],
            )
        ],
        "{red/b,host:e1} > red/a tcp {80,90}",
        "red/c > red/a tcp 80\nred/b > red/a tcp 8080\nhost:e2 > red/a tcp 80",
    ),
    "two rules are two chances": (
        [
            knp(
                "red/p",
                podSelector=A,
                ingress=[
                    {"from": [{"podSelector": pods(app="b")}], "ports": [{"port": 80}]},
                    {"from": [{"podSelector": pods(app="c")}], "ports": [{"port": 90}]},
                ],
            )
        ],
        "red/b > red/a tcp 80\nred/c > red/a tcp 90",
        "red/b > red/a tcp 90\nred/c > red/a tcp 80",
    ),
    "egress to pods and blocks": (
        [
            from_a(
                {"podSelector": pods(app="b")}, {"ipBlock": {"cidr": "172.30.0.0/24", "except": ["172.30.0.200/32"]}}
            )
        ],
        "red/a > red/b tcp 80\nred/a > host:e1 tcp 80",
        "red/a > {red/c,blue/e,host:e2} tcp 80",
    ),
    "answers to what was allowed come back": (
        [knp("red/p", podSelector={}, policyTypes=["Ingress", "Egress"], egress=[{}])],
        "red/a > {blue/d,host:e1} tcp 80\nred/a > blue/d udp 53\nred/a > blue/d icmp",
        "blue/d > red/a tcp 80",
    ),
    "beside a policy of Calico's with a lower order": (
        [
            knp("red/deny", podSelector={}),
            gnp(
                "open",
                order=999,
                selector="app == 'a'",
                types=["Ingress"],
                ingress=[{"action": "Allow", "protocol": "TCP", "destination": {"ports": [80]}}],
            ),
        ],
        "blue/d > red/a tcp 80",
        "blue/d > red/a tcp 90\nblue/d > red/c tcp 80",
    ),
    "beside a policy of Calico's with a higher order": (
        [on_a(), gnp("closed", order=1001, selector="app == 'a'", types=["Ingress"], ingress=[{"action": "Deny"}])],
        "blue/d > red/a tcp {80,90}",
        "",
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(world: World, name: str) -> None:
    documents, allowed, denied = SCENARIOS[name]
    with world.with_documents(*documents):
        world.check(allowed=[allowed], denied=[denied])
