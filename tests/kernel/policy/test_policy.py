"""Who reaches whom under policies of Calico's: tiers, orders, types, selectors and rules."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.policy.world import Document, World, document, gnp, np, tier

ALLOW: dict[str, Any] = {"action": "Allow"}
DENY: dict[str, Any] = {"action": "Deny"}
PASS: dict[str, Any] = {"action": "Pass"}
A = "projectcalico.org/name == 'a'"


def to_port(*ports: int | str, action: str = "Allow", protocol: str = "TCP") -> dict[str, Any]:
    return {"action": action, "protocol": protocol, "destination": {"ports": list(ports)}}


def source(action: str = "Allow", **entity: Any) -> dict[str, Any]:
    return {"action": action, "source": entity}


def destination(action: str = "Allow", **entity: Any) -> dict[str, Any]:
    return {"action": action, "destination": entity}


def on_a(*rules: dict[str, Any], name: str = "on-a", **spec: Any) -> Document:
    """Ingress rules for the pod red/a."""
    return np(f"red/{name}", selector="app == 'a'", types=["Ingress"], ingress=list(rules), **spec)


def from_a(*rules: dict[str, Any], name: str = "from-a", **spec: Any) -> Document:
    """Egress rules for the pod red/a."""
    return np(f"red/{name}", selector="app == 'a'", types=["Egress"], egress=list(rules), **spec)


def network_set(name: str, *nets: str, **labels: str) -> Document:
    home, slash, short = name.partition("/")
    if slash:
        return document("NetworkSet", short, home, {"nets": list(nets)}, labels=labels)
    return document("GlobalNetworkSet", name, "", {"nets": list(nets)}, labels=labels)


OTHERS = "{red/b,red/c,blue/d,blue/e,blue/f,host:e1,host:e2} > red/a tcp 80"

SCENARIOS: dict[str, tuple[list[Document], str, str]] = {
    "nothing selects: the namespace's profile allows": ([], OTHERS, ""),
    "egress alone leaves ingress open": (
        [from_a(to_port(80))],
        f"{OTHERS}\nred/a > red/b tcp 80\nred/a > host:e1 tcp 80",
        "red/a > red/b tcp 90\nred/a > red/b udp 53\nred/a > red/b icmp",
    ),
    "types empty: ingress where there are no egress rules": (
        [np("red/p", selector="app == 'a'", ingress=[to_port(80)])],
        f"{OTHERS}\nred/a > red/b tcp 90",
        "red/b > red/a tcp 90",
    ),
    "types empty with egress rules only": (
        [np("red/p", selector="app == 'a'", egress=[to_port(80)])],
        f"{OTHERS}\nred/b > red/a tcp 90\nred/a > red/b tcp 80",
        "red/a > red/b tcp 90",
    ),
    "a type without rules denies that direction": (
        [np("red/p", selector="app == 'a'", types=["Ingress", "Egress"], ingress=[ALLOW])],
        OTHERS,
        "red/a > {red/b,red/c,blue/d,host:e1} tcp 80",
    ),
    "rules of a direction that types leaves out mean nothing": (
        [np("red/p", selector="app == 'a'", types=["Egress"], ingress=[DENY], egress=[ALLOW])],
        f"{OTHERS}\nred/a > red/b tcp 80",
        "",
    ),
    "on one node the sender's egress and the receiver's ingress both decide": (
        [on_a(source(selector="app == 'c'")), np("red/c", selector="app == 'c'", types=["Egress"], egress=[DENY])],
        "",
        "{red/b,red/c} > red/a tcp 80\nred/c > red/b tcp 80",
    ),
    "the accept of an egress policy is not the receiver's": (
        [on_a(DENY), np("red/c", selector="app == 'c'", types=["Egress"], egress=[ALLOW])],
        "red/c > red/b tcp 80",
        "red/c > red/a tcp 80",
    ),
    "a host reaches its own workload whatever the policy": (
        [on_a(DENY)],
        "node:n1 > red/a tcp {80,90}\nnode:n1 > red/a icmp",
        "node:n2 > red/a tcp 80\nhost:e1 > red/a tcp 80",
    ),
    "lower order first": (
        [on_a(DENY, name="p1", order=20), on_a(ALLOW, name="p2", order=10)],
        OTHERS,
        "",
    ),
    "no order is last": (
        [on_a(DENY, name="p1"), on_a(ALLOW, name="p2", order=10**9)],
        OTHERS,
        "",
    ),
    "orders may be negative and broken": (
        [on_a(DENY, name="p1", order=-0.5), on_a(ALLOW, name="p2", order=-0.6)],
        OTHERS,
        "",
    ),
    "equal orders: by name": (
        [on_a(ALLOW, name="alpha", order=5), on_a(DENY, name="beta", order=5)],
        OTHERS,
        "",
    ),
    "equal orders: by name, over kinds": (
        [on_a(ALLOW, name="beta", order=5), gnp("alpha", order=5, types=["Ingress"], ingress=[DENY])],
        "",
        OTHERS,
    ),
    "equal orders and names: a global policy is before a namespaced one": (
        [on_a(DENY, name="same", order=5), gnp("same", order=5, types=["Ingress"], ingress=[ALLOW])],
        OTHERS,
        "",
    ),
    "rules in order": (
        [on_a(to_port(80, action="Deny"), ALLOW)],
        "red/b > red/a tcp 90\nred/b > red/a icmp\nred/b > red/a udp 80",
        OTHERS,
    ),
    "log goes on to the next rule": ([on_a({"action": "Log"}, to_port(80))], OTHERS, "red/b > red/a tcp 90"),
    "tiers by order": (
        [
            tier("first", 10),
            tier("second", 20),
            gnp("second.p", tier="second", types=["Ingress"], ingress=[DENY]),
            gnp("first.p", tier="first", types=["Ingress"], ingress=[ALLOW]),
        ],
        OTHERS,
        "",
    ),
    "a tier without order is last, and equal orders go by name": (
        [
            tier("aaa", None),
            tier("mmm", 7),
            tier("nnn", 7),
            gnp("aaa.p", tier="aaa", types=["Ingress"], ingress=[DENY]),
            gnp("mmm.p", tier="mmm", types=["Ingress"], ingress=[to_port(80, action="Pass"), DENY]),
            gnp("nnn.p", tier="nnn", types=["Ingress"], ingress=[ALLOW]),
        ],
        OTHERS,
        "red/b > red/a tcp 90",
    ),
    "a tier denies what its policies do not decide": (
        [
            tier("t", 10),
            gnp("t.p", tier="t", selector="app == 'a'", types=["Ingress"], ingress=[to_port(80)]),
            gnp("all", types=["Ingress"], ingress=[ALLOW]),
        ],
        f"{OTHERS}\nred/b > red/c tcp 90",
        "red/b > red/a tcp 90\nred/b > red/a icmp",
    ),
    "a tier whose policies select someone else does not decide": (
        [tier("t", 10), gnp("t.p", tier="t", selector="app == 'c'", types=["Ingress"], ingress=[DENY])],
        OTHERS,
        "red/b > red/c tcp 80",
    ),
    "a tier whose policies are all egress has no say on ingress": (
        [tier("t", 10), gnp("t.p", tier="t", selector="app == 'a'", types=["Egress"], egress=[to_port(80)])],
        OTHERS,
        "red/a > red/b tcp 90",
    ),
    "default action Pass leaves it to the next tier": (
        [
            tier("t", 10, "Pass"),
            gnp("t.p", tier="t", types=["Ingress"], ingress=[to_port(90, action="Deny")]),
            on_a(to_port(90), to_port(80)),
        ],
        OTHERS,
        "red/b > red/a tcp 90\nred/b > red/a tcp 8080",
    ),
    "default action Pass in the last tier leaves it to the profiles": (
        [tier("t", 10, "Pass"), gnp("t.p", tier="t", types=["Ingress"], ingress=[to_port(90, action="Deny")])],
        f"{OTHERS}\nred/b > red/a icmp",
        "red/b > red/a tcp 90",
    ),
    "Pass skips the rest of its tier": (
        [
            tier("t", 10),
            gnp("t.p1", tier="t", order=1, types=["Ingress"], ingress=[to_port(80, action="Pass")]),
            gnp("t.p2", tier="t", order=2, types=["Ingress"], ingress=[DENY]),
            on_a(to_port(80)),
        ],
        f"{OTHERS}\nred/b > red/c tcp 80",
        "red/b > {red/a,red/c} tcp 90",
    ),
    "Pass in the last tier leaves it to the profiles": (
        [on_a(to_port(80, action="Pass"), DENY)],
        OTHERS,
        "red/b > red/a tcp 90",
    ),
    "Pass in one tier is forgotten in the next": (
        [
            tier("t", 10),
            gnp("t.p", tier="t", types=["Ingress"], ingress=[PASS]),
            on_a(to_port(80)),
        ],
        OTHERS,
        "red/b > red/a tcp 90",
    ),
    "staged policies decide nothing": (
        [
            tier("t", 10),
            document("StagedGlobalNetworkPolicy", "t.p", spec={"tier": "t", "types": ["Ingress"], "ingress": [DENY]}),
            document("StagedNetworkPolicy", "s", "red", {"types": ["Ingress"], "ingress": [DENY]}),
            document("StagedKubernetesNetworkPolicy", "k", "red", {"podSelector": {}, "policyTypes": ["Ingress"]}),
        ],
        OTHERS,
        "",
    ),
    "policies for host traffic alone do nothing to workloads": (
        [
            gnp("untracked", doNotTrack=True, applyOnForward=True, order=1, types=["Ingress"], ingress=[DENY]),
            gnp("predn", preDNAT=True, applyOnForward=True, order=1, types=["Ingress"], ingress=[DENY]),
        ],
        OTHERS,
        "",
    ),
    "a policy that applies on forward too is a workload's as well": (
        [gnp("forward", applyOnForward=True, selector="app == 'a'", types=["Ingress"], ingress=[to_port(80)])],
        OTHERS,
        "red/b > red/a tcp 90",
    ),
    "a namespaced policy selects in its namespace alone": (
        [np("red/p", selector="all()", types=["Ingress"], ingress=[DENY])],
        "red/b > {blue/d,blue/e} tcp 80",
        "{red/b,blue/e} > {red/a,red/c} tcp 80",
    ),
    "a rule's selector means the policy's namespace": (
        [on_a(source(selector="app == 'b'"))],
        "red/b > red/a tcp 80",
        "{red/c,blue/e,host:e1} > red/a tcp 80",
    ),
    "a rule's selector in a global policy means every namespace": (
        [
            gnp(
                "p",
                selector=A.replace("projectcalico.org/name == 'a'", "app == 'a'"),
                types=["Ingress"],
                ingress=[source(selector="app == 'b'")],
            )
        ],
        "{red/b,blue/e} > {red/a,blue/d} tcp 80",
        "{red/c,blue/f,host:e1} > red/a tcp 80",
    ),
    "namespaceSelector": (
        [on_a(source(namespaceSelector="team == 'blue'"))],
        "{blue/d,blue/e,blue/f} > red/a tcp 80",
        "{red/b,red/c,host:e1,host:e2} > red/a tcp 80",
    ),
    "namespaceSelector by name, with a selector": (
        [on_a(source(namespaceSelector="projectcalico.org/name in {'blue', 'green'}", selector="app == 'b'"))],
        "blue/e > red/a tcp 80",
        "{red/b,red/c,blue/d,blue/f,host:e1} > red/a tcp 80",
    ),
    "namespaceSelector all() is every workload and nobody outside": (
        [on_a(source(namespaceSelector="all()"))],
        "{red/b,red/c,blue/d,blue/e,blue/f} > red/a tcp 80",
        "{host:e1,host:e2} > red/a tcp 80",
    ),
    "namespaceSelector that a label's absence satisfies": (
        [on_a(source(namespaceSelector="!has(env)"))],
        "{blue/d,blue/f} > red/a tcp 80",
        "{red/b,red/c} > red/a tcp 80",
    ),
    "namespaceSelector of the policy": (
        [
            gnp(
                "p",
                namespaceSelector="team == 'red'",
                selector="app in {'a', 'b'}",
                types=["Ingress"],
                ingress=[DENY],
            )
        ],
        "red/a > {red/c,blue/d,blue/e,host:e1} tcp 80",
        "{red/c,blue/d} > {red/a,red/b} tcp 80",
    ),
    "serviceAccountSelector of the policy": (
        [gnp("p", serviceAccountSelector="role == 'admin'", types=["Ingress"], ingress=[DENY])],
        "red/a > {red/c,blue/d,blue/e,blue/f} tcp 80",
        "{red/a,blue/d} > red/b tcp 80",
    ),
    "service accounts by name": (
        [on_a(source(serviceAccounts={"names": ["admin", "reader"]}))],
        "red/b > red/a tcp 80",
        "{red/c,blue/e,blue/f,host:e1} > red/a tcp 80",
    ),
    "service accounts by name, in every namespace": (
        [on_a(source(serviceAccounts={"names": ["admin"]}, namespaceSelector="all()"))],
        "{red/b,blue/e} > red/a tcp 80",
        "{red/c,blue/f,host:e1} > red/a tcp 80",
    ),
    "service accounts by label": (
        [on_a(source(serviceAccounts={"selector": "role in {'admin', 'reader'}"}, namespaceSelector="all()"))],
        "{red/b,blue/f} > red/a tcp 80",
        "{red/c,blue/e,host:e1} > red/a tcp 80",
    ),
    "service accounts by name and label": (
        [on_a(source(serviceAccounts={"names": ["admin"], "selector": "role == 'none'"}, namespaceSelector="all()"))],
        "blue/e > red/a tcp 80",
        "{red/b,red/c,blue/f} > red/a tcp 80",
    ),
    "a global network set": (
        [
            network_set("outside", "172.30.0.8/29", "203.0.113.0/24", zone="near"),
            gnp("p", selector="app == 'a'", types=["Ingress"], ingress=[source(selector="zone == 'near'")]),
        ],
        "host:e1 > {red/a,blue/d} tcp 80",
        "{host:e2,red/b} > red/a tcp 80",
    ),
    "a global network set needs global() in a namespaced policy": (
        [
            network_set("outside", "172.30.0.8/29", zone="near"),
            on_a(source(selector="zone == 'near'"), name="without"),
            np(
                "red/with",
                selector="app == 'c'",
                types=["Ingress"],
                ingress=[source(selector="zone == 'near'", namespaceSelector="global()")],
            ),
        ],
        "host:e1 > red/c tcp 80",
        "{host:e1,red/b} > red/a tcp 80\n{host:e2,red/b} > red/c tcp 80",
    ),
    "global() alone selects only what has no namespace": (
        [network_set("outside", "172.30.0.8/29", zone="near"), on_a(source(namespaceSelector="global()"))],
        "host:e1 > red/a tcp 80",
        "{red/b,blue/d,host:e2} > red/a tcp 80",
    ),
    "a network set belongs to its namespace": (
        [
            network_set("red/mine", "172.30.0.10/32", zone="near"),
            network_set("blue/theirs", "172.30.0.200", zone="near"),
            on_a(source(selector="zone == 'near'")),
        ],
        "host:e1 > red/a tcp 80",
        "{host:e2,red/b} > red/a tcp 80",
    ),
    "a network set has its namespace's labels": (
        [network_set("blue/theirs", "172.30.0.200", zone="near"), on_a(source(namespaceSelector="team == 'blue'"))],
        "{host:e2,blue/d} > red/a tcp 80",
        "{host:e1,red/b} > red/a tcp 80",
    ),
    "notSelector": (
        [on_a(source(notSelector="app == 'b'"))],
        "red/c > red/a tcp 80",
        "{red/b,blue/d,blue/e,host:e1} > red/a tcp 80",
    ),
    "notSelector in a global policy: everybody else, also outside": (
        [gnp("p", selector="app == 'a'", types=["Ingress"], ingress=[source(notSelector="app == 'b'")])],
        "{red/c,blue/f,host:e1} > red/a tcp 80",
        "{red/b,blue/e} > red/a tcp 80",
    ),
    "selector and notSelector": (
        [on_a(source(selector="has(app)", notSelector="app == 'b'", namespaceSelector="all()"))],
        "{red/c,blue/d} > red/a tcp 80",
        "{red/b,blue/e,blue/f,host:e1} > red/a tcp 80",
    ),
    "nets": (
        [on_a(source(nets=["172.30.0.10/32", "10.244.9.64/27"]))],
        "{host:e1,red/b,blue/d} > red/a tcp 80",
        "{host:e2,red/c,blue/e} > red/a tcp 80",
    ),
    "nets need not have a selector's namespace": (
        [from_a(destination(nets=["10.244.9.67/32"]))],
        "red/a > blue/d tcp 80",
        "red/a > {red/b,blue/e,host:e1} tcp 80",
    ),
    "overlapping nets": (
        [on_a(source(nets=["10.244.9.0/24", "10.244.9.64/27", "10.244.9.66/32", "0.0.0.0/1"]))],
        "{red/b,red/c,blue/e} > red/a tcp 80",
        "{host:e1,host:e2} > red/a tcp 80",
    ),
    "nets of everything": ([on_a(source(nets=["0.0.0.0/0"]))], OTHERS, ""),
    "IPv6 nets match nothing of IPv4": (
        [
            on_a({"action": "Allow", "source": {"nets": ["::/0"]}}),
            from_a({"action": "Deny", "ipVersion": 6}, to_port(80)),
        ],
        "red/a > red/b tcp 80",
        OTHERS,
    ),
    "not an IPv6 net is every IPv4 address": ([on_a(source(notNets=["fd00::/8"]))], OTHERS, ""),
    "notNets": (
        [on_a(source(notNets=["172.30.0.10/32", "10.244.9.64/27"]))],
        "{host:e2,red/c,blue/e} > red/a tcp 80",
        "{host:e1,red/b,blue/d} > red/a tcp 80",
    ),
    "nets, notNets, selector and ports together": (
        [
            on_a(
                {
                    "action": "Allow",
                    "protocol": "TCP",
                    "source": {"nets": ["10.244.9.0/24"], "notNets": ["10.244.9.2/32"], "selector": "has(app)"},
                    "destination": {"ports": [80, "85:95"], "notPorts": [91], "nets": ["10.244.9.1/32"]},
                }
            )
        ],
        "red/b > red/a tcp {80,90}",
        "red/c > red/a tcp 80\nred/b > red/a tcp 8080\nblue/d > red/a tcp 80",
    ),
    "destination selector on egress": (
        [from_a(destination(selector="app == 'b'"))],
        "red/a > red/b tcp 80",
        "red/a > {red/c,blue/e,host:e1} tcp 80",
    ),
    "destination selector on ingress": (
        [np("red/p", selector="all()", types=["Ingress"], ingress=[destination(selector="app == 'a'")])],
        OTHERS,
        "red/a > {red/b,red/c} tcp 80",
    ),
    "source selector on egress": (
        [np("red/p", selector="all()", types=["Egress"], egress=[source(selector="app == 'a'")])],
        "red/a > {red/b,blue/d,host:e1} tcp 80",
        "{red/b,red/c} > blue/d tcp 80",
    ),
    "protocol without ports": (
        [on_a({"action": "Allow", "protocol": "UDP"})],
        "red/b > red/a udp {53,80}",
        "red/b > red/a tcp 80\nred/b > red/a icmp",
    ),
    "protocol by number": (
        [on_a({"action": "Allow", "protocol": 6}, {"action": "Allow", "protocol": "1"})],
        "red/b > red/a tcp 80\nred/b > red/a icmp",
        "red/b > red/a udp 53",
    ),
    "notProtocol": (
        [on_a({"action": "Allow", "notProtocol": "TCP"})],
        "red/b > red/a udp 53\nred/b > red/a icmp",
        "red/b > red/a tcp {80,90}",
    ),
    "protocol ICMPv6 is nothing in IPv4": (
        [on_a({"action": "Deny", "protocol": "ICMPv6"}, ALLOW)],
        "red/b > red/a icmp\nred/b > red/a tcp 80",
        "",
    ),
    "ICMP type": (
        [on_a({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8}})],
        "red/b > red/a icmp 8/0",
        "red/b > red/a icmp 13/0\nred/b > red/a tcp 80",
    ),
    "ICMP type and code": (
        [
            on_a(
                {"action": "Deny", "protocol": "ICMP", "icmp": {"type": 8, "code": 1}},
                {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 13, "code": 0}},
                {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8, "code": 0}},
            )
        ],
        "red/b > red/a icmp {8/0,13/0}",
        "red/b > red/a icmp 15/0\nred/b > red/a udp 53",
    ),
    "notICMP type": (
        [on_a({"action": "Allow", "protocol": "ICMP", "notICMP": {"type": 8}})],
        "red/b > red/a icmp 13/0",
        "red/b > red/a icmp 8/0\nred/b > red/a tcp 80",
    ),
    "notICMP type and code: only that pair is meant": (
        [on_a({"action": "Allow", "protocol": "ICMP", "notICMP": {"type": 8, "code": 1}})],
        "red/b > red/a icmp {8/0,13/0}",
        "red/b > red/a tcp 80",
    ),
    "ports": (
        [on_a(to_port(80, "8000:9000"))],
        "red/b > red/a tcp {80,8080}",
        "red/b > red/a tcp 90\nred/b > red/a udp 80",
    ),
    "touching, overlapping and reversed-looking ports": (
        [on_a(to_port("70:80", 81, "82:85", "75:90", 80))],
        "red/b > red/a tcp {80,90}",
        "red/b > red/a tcp 8080",
    ),
    "the edges of the port space": (
        [on_a(to_port("1:79", "91:65535"))],
        "red/b > red/a tcp 8080",
        "red/b > red/a tcp {80,90}",
    ),
    "more ports than one kernel rule of old could take": (
        [
            on_a(
                to_port(
                    *[1000 + 2 * n for n in range(20)], *[f"{3000 + 10 * n}:{3003 + 10 * n}" for n in range(20)], 90
                )
            )
        ],
        "red/b > red/a tcp 90",
        "red/b > red/a tcp {80,8080}",
    ),
    "notPorts": (
        [on_a({"action": "Allow", "protocol": "TCP", "destination": {"notPorts": [80, "8000:9000"]}})],
        "red/b > red/a tcp 90",
        "red/b > red/a tcp {80,8080}\nred/b > red/a udp 53",
    ),
    "a named port is the receiver's own": (
        [gnp("p", types=["Ingress"], ingress=[to_port("http")])],
        "red/a > red/b tcp 80\nred/a > red/c tcp 90\nred/a > blue/d tcp 8080\nred/a > blue/f tcp 80",
        "red/a > red/b tcp 90\nred/a > red/c tcp 80\nred/a > blue/d tcp 80\nred/a > blue/e tcp {80,90}",
    ),
    "a named port on egress": (
        [from_a(to_port("http"))],
        "red/a > red/b tcp 80\nred/a > red/c tcp 90\nred/a > blue/d tcp 8080",
        "red/a > red/c tcp 80\nred/a > host:e1 tcp 80\nred/a > red/b udp 53",
    ),
    "a named port with a selector": (
        [
            from_a(
                {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http"], "selector": "app == 'c'"}}
            )
        ],
        "red/a > red/c tcp 90",
        "red/a > red/b tcp 80\nred/a > red/c tcp 80\nred/a > blue/d tcp 8080",
    ),
    "a named port with a selector and a notSelector": (
        [
            gnp(
                "p",
                selector="app == 'a' && side == 'left'",
                types=["Egress"],
                egress=[
                    {
                        "action": "Allow",
                        "protocol": "TCP",
                        "destination": {"ports": ["http"], "selector": "has(app)", "notSelector": "app == 'c'"},
                    }
                ],
            )
        ],
        "red/a > red/b tcp 80\nred/a > blue/d tcp 8080",
        "red/a > red/c tcp 90\nred/a > blue/f tcp 80",
    ),
    "a named port of any protocol": (
        [on_a({"action": "Allow", "destination": {"ports": ["dns", "http"]}})],
        "red/b > red/a udp 53\nred/b > red/a tcp 80",
        "red/b > red/a tcp 90\nred/b > red/a udp 80\nred/b > red/a icmp",
    ),
    "a named port of another protocol": (
        [on_a({"action": "Allow", "protocol": "UDP", "destination": {"ports": ["http"]}})],
        "",
        "red/b > red/a {tcp,udp} 80",
    ),
    "named ports, numbers and ranges together": (
        [gnp("p", types=["Ingress"], ingress=[to_port("http", 90, "8000:8079")])],
        "red/b > red/a tcp {80,90}\nred/b > blue/d tcp {90,8080}\nred/b > blue/e tcp 90",
        "red/b > red/a tcp 8080\nred/b > blue/d tcp 80\nred/b > blue/e tcp {80,8080}",
    ),
    "named ports and numbers with a selector": (
        [
            from_a(
                {
                    "action": "Allow",
                    "protocol": "TCP",
                    "destination": {"ports": ["http", 8080], "selector": "app == 'c'"},
                }
            )
        ],
        "red/a > red/c tcp {90,8080}",
        "red/a > red/c tcp 80\nred/a > red/b tcp {80,8080}",
    ),
    "not a named port": (
        [
            gnp(
                "p",
                types=["Ingress"],
                ingress=[{"action": "Allow", "protocol": "TCP", "destination": {"notPorts": ["http"]}}],
            )
        ],
        "red/b > red/a tcp 90\nred/b > red/c tcp 80\nred/b > blue/e tcp {80,90}",
        "red/b > red/a tcp 80\nred/b > red/c tcp 90\nred/b > blue/d tcp 8080",
    ),
    "not a named port nor a number": (
        [on_a({"action": "Allow", "protocol": "TCP", "destination": {"notPorts": ["http", "8000:9000"]}})],
        "red/b > red/a tcp 90",
        "red/b > red/a tcp {80,8080}",
    ),
    "a named port that nobody has": ([on_a(to_port("nobody"))], "", "red/b > red/a tcp {80,90}"),
    "a deny of a named port that nobody has denies nothing": (
        [on_a(to_port("nobody", action="Deny"), ALLOW)],
        OTHERS,
        "",
    ),
    "selector of nobody": ([on_a(source(selector="app == 'nobody'"))], "", OTHERS),
    "a performance hint changes nothing": (
        [on_a(to_port(80), performanceHints=["AssumeNeededOnEveryNode"])],
        OTHERS,
        "red/b > red/a tcp 90",
    ),
    "the operators of selectors": (
        [
            gnp(
                "p",
                selector="app starts with 'a' && side contains 'ef' && !(app ends with 'b') || app == 'zzz'",
                types=["Ingress"],
                ingress=[source(selector="app not in {'b', 'c'} && has(app) || side != 'left'")],
            )
        ],
        "{blue/d,red/b,blue/f} > red/a tcp 80\nred/c > blue/d tcp 80",
        "{red/c,blue/e,host:e1} > red/a tcp 80",
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(world: World, name: str) -> None:
    documents, allowed, denied = SCENARIOS[name]
    with world.with_documents(*documents):
        world.check(allowed=[allowed], denied=[denied])
