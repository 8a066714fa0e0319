"""What changes while packets flow: labels, sets, configuration, and what is there without any policy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from calico_node.datastores import open_client
from calico_node.settings import Settings
from tests.kernel.lab.conftest import COMMAND
from tests.kernel.policy.test_policy import ALLOW, DENY, OTHERS, network_set, on_a, source, to_port
from tests.kernel.policy.world import NODES, PODS, World, document, gnp, namespace, np, pod, tier

TIER_KEY = "/calico/resources/v3/projectcalico.org/tiers/t"
PROFILE_KEY = "/calico/resources/v3/projectcalico.org/profiles/kns.red"
NUDGE = document("GlobalNetworkSet", "nudge", spec={"nets": []})
"""Its write is what everybody acknowledges."""


@contextmanager
def lost(world: World, key: str) -> Iterator[None]:
    """What is stored at ``key`` is not there, whatever the client's checks would say of that."""
    environ = dict(re.findall(r"^export (\w+)=(\S+);$", world.command.ok("env"), re.MULTILINE))

    async def swap(value: bytes | None) -> bytes | None:
        async with open_client(Settings.load(environ)) as client:
            stored, _ = await client.kv.get(key)
            if value is None:
                await client.kv.delete(key)
            else:
                await client.kv.put(key, value)
            return None if stored is None else stored.value

    kept = anyio.run(swap, None)
    assert kept is not None
    try:
        world.apply(NUDGE)
        yield
    finally:
        anyio.run(swap, kept)
        world.delete(NUDGE)


def test_a_namespace_gets_other_labels(world: World) -> None:
    selected = on_a(source(namespaceSelector="team == 'blue'"))
    with world.with_documents(selected):
        world.check(allowed=["{blue/d,blue/f} > red/a tcp 80"], denied=["{red/b,host:e1} > red/a tcp 80"])
        try:
            world.apply(namespace("blue", {"team": "green"}), namespace("red", {"team": "blue"}))
            world.check(allowed=["{red/b,red/c} > red/a tcp 80"], denied=["{blue/d,blue/f} > red/a tcp 80"])
        finally:
            world.apply(namespace("blue"), namespace("red"))
        world.check(allowed=["{blue/d,blue/f} > red/a tcp 80"], denied=["{red/b,host:e1} > red/a tcp 80"])


def test_a_pod_gets_other_labels_as_sender_and_as_receiver(world: World) -> None:
    with world.with_documents(on_a(source(selector="app == 'b'"))):
        world.check(allowed=["red/b > red/a tcp 80"], denied=["red/c > red/a tcp 80"])
        try:
            world.apply(pod("red/b", {"app": "x"}), pod("red/c", {"app": "b"}))
            world.check(allowed=["red/c > red/a tcp 80"], denied=["red/b > red/a tcp 80"])
            world.apply(pod("red/a", {"app": "free"}))
            world.check(allowed=[OTHERS])
            world.apply(pod("red/c", {"app": "a"}))
            world.check(allowed=[OTHERS], denied=["red/a > red/c tcp 80"])
        finally:
            world.apply(*map(pod, ("red/a", "red/b", "red/c")))
        world.check(allowed=["red/b > red/a tcp 80"], denied=["red/c > red/a tcp 80"])


def test_a_service_account_gets_other_labels(world: World) -> None:
    def account(role: str) -> dict[str, Any]:
        metadata = {"name": "reader", "namespace": "blue", "labels": {"role": role}}
        return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}

    accounts = {"selector": "role == 'reader'"}
    with world.with_documents(on_a(source(serviceAccounts=accounts, namespaceSelector="all()"))):
        world.check(allowed=["blue/f > red/a tcp 80"])
        try:
            world.apply(account("writer"))
            world.check(denied=["blue/f > red/a tcp 80"])
        finally:
            world.apply(account("reader"))
        world.check(allowed=["blue/f > red/a tcp 80"])


def test_overlapping_members_of_a_set_come_and_go(world: World) -> None:
    """Of members that overlap the kernel has only the broadest; the others must come back when it goes."""
    everybody = "host:e1", "host:e2", "red/b", "blue/d", "red/c"
    steps = [
        (("172.30.0.10/32",), {"host:e1"}),
        (("172.30.0.10/32", "172.30.0.0/24"), {"host:e1", "host:e2"}),
        (("172.30.0.10/32", "172.30.0.0/24", "10.244.9.64/27"), {"host:e1", "host:e2", "red/b", "blue/d"}),
        (("172.30.0.10/32", "172.30.0.200/32", "10.244.9.66/32"), {"host:e1", "host:e2", "red/b"}),
        (("0.0.0.0/0",), set(everybody)),
        (("0.0.0.0/0", "10.244.9.66/32"), set(everybody)),
        (("128.0.0.0/1", "10.244.9.66/32"), {"red/b", "host:e1", "host:e2"}),
        (("10.244.9.64/30", "10.244.9.64/29", "10.244.9.64/31"), {"red/b", "blue/d"}),
        (("10.244.9.64/31",), set()),
        (("0.0.0.0/1", "128.0.0.0/1"), set(everybody)),
        ((), set()),
        (("10.244.9.2", "172.30.0.128/25"), {"red/c", "host:e2"}),
    ]
    zone = "zone == 'near'"
    with world.with_documents(
        network_set("near", zone="near"),
        gnp("p", selector="app == 'a'", types=["Ingress"], ingress=[source(selector=zone)]),
    ):
        for nets, inside in steps:
            world.apply(network_set("near", *nets, zone="near"))
            allowed = [f"{who} > red/a tcp 80" for who in everybody if who in inside]
            denied = [f"{who} > red/a tcp 80" for who in everybody if who not in inside]
            world.check(allowed=allowed, denied=denied)


def test_sets_that_overlap_each_other_and_pods(world: World) -> None:
    """One address that is in a set for several reasons stays there until the last of them goes."""
    same = network_set("same", PODS["red/b"]["ip"], zone="near")
    broad = network_set("broad", "10.244.9.64/27", zone="near")
    rule = source(selector="zone == 'near' || app == 'b'")
    with world.with_documents(same, broad, gnp("p", selector="app == 'a'", types=["Ingress"], ingress=[rule])):
        world.check(allowed=["{red/b,blue/d,blue/e} > red/a tcp 80"], denied=["red/c > red/a tcp 80"])
        world.delete(broad)
        world.check(allowed=["{red/b,blue/e} > red/a tcp 80"], denied=["{red/c,blue/d} > red/a tcp 80"])
        world.delete(same)
        world.check(allowed=["{red/b,blue/e} > red/a tcp 80"], denied=["{red/c,blue/d} > red/a tcp 80"])
        try:
            world.apply(pod("red/b", {}))
            world.check(allowed=["blue/e > red/a tcp 80"], denied=["{red/b,red/c,blue/d} > red/a tcp 80"])
        finally:
            world.apply(pod("red/b"))


def test_a_tier_changes_order_and_default_action(world: World) -> None:
    documents = [
        tier("t", 10),
        tier("u", 20),
        gnp("t.p", tier="t", selector="app == 'a'", types=["Ingress"], ingress=[to_port(80, action="Deny")]),
        gnp("u.p", tier="u", selector="app == 'a'", types=["Ingress"], ingress=[to_port(80)]),
    ]
    with world.with_documents(*documents):
        world.check(denied=["red/b > red/a tcp {80,90}"])
        world.apply(tier("t", 30))
        world.check(allowed=["red/b > red/a tcp 80"], denied=["red/b > red/a tcp 90"])
        world.apply(tier("u", 20, "Pass"))
        world.check(allowed=["red/b > red/a tcp 80"], denied=["red/b > red/a tcp 90"])
        world.apply(tier("t", 30, "Pass"))
        world.check(allowed=["red/b > red/a tcp {80,90}"])


def test_the_policies_of_a_tier_that_is_gone_are_enforced_last_and_deny(world: World) -> None:
    documents = [
        tier("t", 10, "Pass"),
        gnp("t.p", tier="t", selector="app == 'a'", types=["Ingress"], ingress=[to_port(80)]),
        np(
            "red/last",
            selector="app == 'a'",
            types=["Ingress"],
            ingress=[to_port(90, action="Deny"), to_port(8080), {"action": "Pass"}],
        ),
    ]
    with world.with_documents(*documents):
        world.check(allowed=["red/b > red/a tcp {80,8080}", "red/b > red/a icmp"], denied=["red/b > red/a tcp 90"])

        with lost(world, TIER_KEY):
            world.check(
                allowed=["red/b > red/a tcp {80,8080}"], denied=["red/b > red/a icmp", "red/b > red/a tcp 90"]
            )


def test_a_profile_that_is_missing_denies_and_comes_back(world: World) -> None:
    with world.with_documents(np("red/c", selector="app == 'c'", types=["Ingress"], ingress=[ALLOW])):
        with lost(world, PROFILE_KEY):
            world.check(
                allowed=["blue/d > {red/c,blue/e} tcp 80"], denied=["blue/d > red/a tcp 80", "red/a > blue/d tcp 80"]
            )
        world.check(allowed=["blue/d > {red/a,red/c} tcp 80"])


def test_a_log_rule_is_seen_in_the_nodes_log(world: World) -> None:
    log = world.command.folder() / "nodes" / "n1" / "log"
    before = len(log.read_text())
    rules = [{"action": "Log", "protocol": "TCP", "destination": {"ports": [8080]}}, ALLOW]
    with world.with_documents(on_a(*rules, name="logged")):
        world.check(allowed=["red/b > red/a tcp {80,8080}"])
        world.wait(lambda: "calico-packet" in log.read_text()[before:], "a line about the packet")
        packets = [line for line in log.read_text()[before:].splitlines() if "calico-packet" in line]
        assert all(PODS["red/b"]["ip"] in line and PODS["red/a"]["ip"] in line and "8080" in line for line in packets)


def host_action(world: World, action: str, **more: str) -> None:
    """The nodes have configurations of their own from their start-up, which the cluster's does not override."""
    spec = {"defaultEndpointToHostAction": action, **more}
    world.apply(*(document("FelixConfiguration", f"node.{name}", spec=spec) for name in NODES))


def test_default_endpoint_to_host_action(world: World) -> None:
    """The workload's own egress policy is asked first."""
    to_hosts = ["red/a > node:n1 tcp {80,90}", "red/b > node:n2 tcp 80"]
    try:
        for action in ("Drop", "Accept", "Return"):
            host_action(world, action)
            world.check(
                allowed=["red/a > node:n2 tcp 80", "red/b > node:n1 tcp 80", *(to_hosts if action != "Drop" else ())],
                denied=to_hosts if action == "Drop" else (),
            )
            with world.with_documents(np("red/p", selector="app == 'a'", types=["Egress"], egress=[to_port(80)])):
                world.check(
                    allowed=["red/a > node:n2 tcp 80", *(["red/a > node:n1 tcp 80"] if action != "Drop" else ())],
                    denied=["red/a > node:{n1,n2} tcp 90", "red/a > node:n1 icmp"],
                )
    finally:
        host_action(world, "Return")


def test_a_host_hears_its_own_workloads_answers_whatever_is_configured(world: World) -> None:
    try:
        for allow in ("Accept", "Return"):
            host_action(world, "Drop", nftablesFilterAllowAction=allow)
            with world.with_documents(on_a(DENY)):
                world.check(
                    allowed=[
                        "node:n1 > red/a tcp 80",
                        "node:n1 > red/a icmp",
                        "red/b > red/c tcp 80",
                        "red/c > red/b tcp 80",
                    ],
                    denied=["red/b > red/a tcp 80", "red/c > red/a tcp 80", "red/a > node:n1 tcp 80"],
                )
    finally:
        host_action(world, "Return")


def test_policy_sees_the_pod_behind_a_service(world: World) -> None:
    def service(name: str, target: int | str, **labels: str) -> dict[str, Any]:
        spec = {"selector": labels, "ports": [{"port": 81, "targetPort": target}]}
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "red"}, "spec": spec}

    documents = [service("a", 8080, app="a"), service("b", "http", app="b")]
    with world.with_documents(*documents):
        world.check(allowed=["{red/a,red/c,blue/d,blue/e} > service:red/b tcp 81", "red/a > service:red/a tcp 81"])
        with world.with_documents(
            np("red/b", selector="app == 'b'", types=["Ingress"], ingress=[to_port(80)]),
            np("red/c", selector="app == 'c'", types=["Egress"], egress=[to_port(81)]),
            on_a(to_port(81)),
        ):
            world.check(
                allowed=["{red/a,blue/d,blue/e,node:n1} > service:red/b tcp 81"],
                denied=["red/c > service:red/b tcp 81", "{red/b,blue/d,blue/e} > service:red/a tcp 81"],
            )


PEER = """
import json, urllib.request
print(json.load(urllib.request.urlopen("http://{}:80", timeout=3))["peer"])
"""


def test_the_pool_is_masqueraded_outside_only(world: World) -> None:
    def peer(source: str, target: str) -> str:
        return world.exec(source, "python3", "-c", PEER.format(target)).strip()

    assert peer("red/a", "172.30.0.10") == "172.30.0.1"
    assert peer("red/b", "172.30.0.10") == "172.30.0.2"
    assert peer("red/a", PODS["red/b"]["ip"]) == PODS["red/a"]["ip"]
    assert peer("red/a", PODS["red/c"]["ip"]) == PODS["red/a"]["ip"]
    assert peer("host:e1", PODS["red/c"]["ip"]) == "172.30.0.10"


SPOOF = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
sock.bind(("{source}", 0))
for _ in range(3):
    sock.sendto(b"{token}", ("{target}", 5353))
"""
LISTEN = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 5353))
print("ready", flush=True)
while True:
    data, peer = sock.recvfrom(100)
    print(data.decode(), peer[0], flush=True)
    if data == b"end":
        break
"""


def test_a_workload_sends_with_its_own_address_only(world: World) -> None:
    listener = world.command.start("exec", "red/b", "--", "python3", "-c", LISTEN)
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline().strip() == "ready"
        target = PODS["red/b"]["ip"]
        for address in ("172.30.0.10", PODS["red/c"]["ip"], PODS["blue/d"]["ip"], "198.51.100.7", "172.30.0.1"):
            world.exec("red/a", "python3", "-c", SPOOF.format(source=address, token="forged", target=target))
        own = PODS["red/a"]["ip"]
        world.exec("red/a", "python3", "-c", SPOOF.format(source=own, token="own", target=target))
        world.exec("red/a", "python3", "-c", SPOOF.format(source=own, token="end", target=target))
        heard = listener.communicate(timeout=10)[0].splitlines()
        assert {tuple(line.split()) for line in heard} == {("own", own), ("end", own)}
    finally:
        listener.kill()


STEADY = """
import socket, sys
sock = socket.create_connection(("{target}", 7000), timeout=3)
for line in sys.stdin:
    sock.sendall(b"x")
    print(sock.recv(1).decode(), flush=True)
"""
ECHO = """
import socket
server = socket.create_server(("", 7000))
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    while data := connection.recv(100):
        connection.sendall(data)
"""


def test_established_flows_outlive_the_policy_that_allowed_them(world: World) -> None:
    server = world.command.start("exec", "red/a", "--", "python3", "-c", ECHO)
    client = None
    try:
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "ready"
        client = subprocess.Popen(
            [*COMMAND, "exec", "red/b", "--", sys.executable, "-c", STEADY.format(target=PODS["red/a"]["ip"])],
            env=world.command.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        speak, hear = client.stdin, client.stdout
        assert speak is not None
        assert hear is not None

        def ask() -> str:
            speak.write("\n")
            speak.flush()
            return hear.readline().strip()

        assert ask() == "x"
        with world.with_documents(on_a(DENY)):
            world.check(denied=["red/b > red/a tcp 80"])
            assert ask() == "x"
        assert ask() == "x"
    finally:
        if client is not None:
            client.kill()
        server.kill()


def test_what_is_not_enforced_as_written_is_said(world: World) -> None:
    services = {"action": "Allow", "destination": {"services": {"name": "web", "namespace": "red"}}}
    policy = np("red/p", selector="app == 'a'", types=["Egress"], egress=[services])
    with world.with_documents(policy, rejected=["NetworkPolicy(red/p)"]) as result:
        assert any("NetworkPolicy(red/p)" in item for item in result["rejected"])
        world.check(denied=["red/a > red/b tcp 80"])
    assert json.loads(world.command.ok("status", "--json"))["nodes"][0]["components"]["felix"]["rejected"] == {}
