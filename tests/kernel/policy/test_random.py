"""Random policies that come, go and change, against the plain reading of them in ``oracle``."""

from __future__ import annotations

import random
from typing import Any, TypeVar

import pytest

from tests.kernel.policy.oracle import Entity, Oracle, Packet, PolicyOf, RuleOf, Sel, Side, TierOf
from tests.kernel.policy.world import (
    ACCOUNTS,
    HOSTS,
    NAMESPACES,
    NODE_IPS,
    PODS,
    Document,
    World,
    document,
    namespace,
    pod,
    tier,
)

ROUNDS = 7
PROBES = 130
KINDS = ("tcp 80", "tcp 90", "tcp 8080", "udp 53", "udp 80", "icmp 8/0", "icmp 13/0")
ADDRESSES = {**HOSTS, **NODE_IPS, **{key: about["ip"] for key, about in PODS.items()}}
NETS = (
    "10.244.9.0/24",
    "10.244.9.0/27",
    "10.244.9.64/27",
    "10.244.9.64/30",
    "10.244.9.66/32",
    "10.244.9.2/31",
    "10.244.9.1/32",
    "172.30.0.0/24",
    "172.30.0.10/32",
    "172.30.0.128/25",
    "172.30.0.0/30",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "203.0.113.0/24",
)
PORTS: tuple[int | str, ...] = (80, 90, 8080, "80:90", "1:79", "81:9000", "http", "dns", "nobody")
T = TypeVar("T")


class Generator:
    """Random documents of all that decides about a packet; valid ones only."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def some(self, values: tuple[T, ...], low: int, high: int) -> tuple[T, ...]:
        return tuple(self.random.sample(values, self.random.randint(low, min(high, len(values)))))

    def selector(self, labels: dict[str, tuple[str, ...]], depth: int = 2) -> Sel:
        kind = self.random.choice(("==", "==", "in", "has", "not", "and", "or") if depth else ("==", "in", "has"))
        label = self.random.choice(list(labels))
        if kind == "==":
            return ("==", label, self.random.choice(labels[label]))
        if kind == "in":
            return ("in", label, self.some(labels[label], 1, 2))
        if kind == "has":
            return ("has", label)
        if kind == "not":
            return ("not", self.selector(labels, depth - 1))
        return (kind, self.selector(labels, depth - 1), self.selector(labels, depth - 1))

    def of_pods(self) -> Sel:
        return self.selector({"app": ("a", "b", "c"), "side": ("left",), "zone": ("near", "far")})

    def of_namespaces(self) -> Sel:
        if self.maybe(0.3):
            return self.random.choice([("all",), ("global",)])
        return self.selector({"team": ("red", "blue"), "env": ("prod",), "projectcalico.org/name": ("red", "blue")})

    def of_accounts(self) -> Sel:
        return self.selector({"role": ("admin", "reader", "none"), "projectcalico.org/name": ("admin", "reader")})

    def side(self, protocol: str, *, ports: bool) -> Side:
        with_ports = ports and self.maybe(0.5)
        usable = PORTS if protocol else tuple(port for port in PORTS if port in ("http", "dns", "nobody"))
        return Side(
            selector=self.of_pods() if self.maybe(0.35) else None,
            not_selector=self.of_pods() if self.maybe(0.15) else None,
            namespace_selector=self.of_namespaces() if self.maybe(0.3) else None,
            account_names=self.some(("admin", "reader", "default"), 1, 2) if self.maybe(0.08) else (),
            account_selector=self.of_accounts() if self.maybe(0.08) else None,
            nets=self.some(NETS, 1, 4) if self.maybe(0.2) else (),
            not_nets=self.some(NETS, 1, 3) if self.maybe(0.12) else (),
            ports=self.some(usable, 1, 4) if with_ports and self.maybe(0.8) else (),
            not_ports=self.some(usable, 1, 2) if with_ports and self.maybe(0.3) else (),
        )

    def rule(self) -> RuleOf:
        action = self.random.choice(("Allow", "Allow", "Allow", "Deny", "Pass", "Log"))
        protocol = self.random.choice(("", "TCP", "TCP", "UDP", "ICMP"))
        icmp = (self.random.choice((8, 13)), self.random.choice((None, 0, 1)))
        ported = protocol in ("TCP", "UDP", "")
        return RuleOf(
            action,
            protocol=protocol,
            not_protocol=self.random.choice(("TCP", "UDP", "ICMP")) if not protocol and self.maybe(0.3) else "",
            icmp=icmp if protocol == "ICMP" and self.maybe(0.4) else None,
            not_icmp=icmp if protocol == "ICMP" and self.maybe(0.3) else None,
            source=self.side(protocol, ports=False) if self.maybe(0.6) else Side(),
            destination=self.side(protocol, ports=ported) if self.maybe(0.6) else Side(),
        )

    def rules(self) -> tuple[RuleOf, ...]:
        return tuple(self.rule() for _ in range(self.random.randint(0, 4)))

    def policy(self, name: str, home: str, tiers: tuple[str, ...]) -> PolicyOf:
        return PolicyOf(
            name=name,
            namespace=home,
            tier=self.random.choice(tiers),
            order=self.random.choice((None, 1, 2, 2, 3.5)),
            types=self.random.choice((("Ingress",), ("Egress",), ("Ingress", "Egress"))),
            applies=Side(
                selector=self.of_pods() if self.maybe(0.5) else None,
                namespace_selector=(
                    self.selector({"team": ("red", "blue"), "env": ("prod",)})
                    if not home and self.maybe(0.3)
                    else None
                ),
                account_selector=self.of_accounts() if self.maybe(0.1) else None,
            ),
            ingress=self.rules(),
            egress=self.rules(),
        )


class State:
    """What is in force, and how it changes from round to round."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.make = Generator(seed)
        self.labels: dict[str, dict[str, str]] = {key: dict(about["labels"]) for key, about in PODS.items()}
        self.namespaces: dict[str, dict[str, str]] = {name: dict(labels) for name, labels in NAMESPACES.items()}
        self.tiers: dict[str, TierOf] = {}
        self.sets: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {}
        self.policies: dict[str, PolicyOf] = {}

    def change(self) -> None:
        """Change about half of everything, in one apply and one delete."""
        make, apply, delete = self.make, list[Document](), list[Document]()
        for name in ("t1", "t2"):
            if name not in self.tiers or make.maybe(0.3):
                one = TierOf(name, make.random.choice((5, 10, 10, None)), make.random.choice(("Deny", "Pass")))
                self.tiers[name] = one
                apply.append(tier(one.name, one.order, one.default_action))
        for name in ("near", "far", "red/mine", "blue/theirs"):
            if name not in self.sets or make.maybe(0.5):
                self.sets[name] = (make.some(NETS, 0, 4), {"zone": make.random.choice(("near", "far"))})
                apply.append(_set_document(name, *self.sets[name]))
        for key in PODS:
            if make.maybe(0.2):
                labels = {"app": make.random.choice(("a", "b", "c")), "side": "left"}
                self.labels[key] = dict(make.some(tuple(labels.items()), 0, 2))
                apply.append(pod(key, self.labels[key]))
        for name in NAMESPACES:
            if make.maybe(0.15):
                labels = {"team": make.random.choice(("red", "blue")), "env": "prod"}
                self.namespaces[name] = dict(make.some(tuple(labels.items()), 0, 2))
                apply.append(namespace(name, self.namespaces[name]))
        for name in ("p1", "p2", "p3", "p4"):
            for home in ("", "red", "blue"):
                key = f"{home}/{name}"
                fate = make.random.random()
                if key in self.policies and fate < 0.3:
                    delete.append(self.policies.pop(key).document())
                elif fate < 0.6:
                    policy = make.policy(name, home, ("default", "t1", "t2"))
                    self.policies[key] = policy
                    apply.append(policy.document())
        make.random.shuffle(delete)
        if delete:
            self.world.delete(*delete)
        rejected = self.world.apply(*apply)["rejected"]
        assert rejected == {}

    def undo(self) -> None:
        policies = [policy.document() for policy in self.policies.values()]
        sets = [_set_document(name, *about) for name, about in self.sets.items()]
        self.world.delete(*[tier(one.name, one.order) for one in self.tiers.values()], *sets, *policies)
        self.world.apply(*map(pod, PODS), *map(namespace, NAMESPACES))

    def oracle(self) -> tuple[Oracle, dict[str, Entity]]:
        pods = {key: self._pod(key) for key in PODS}
        sets = [
            Entity(nets, labels, home, self._namespace_labels(home))
            for name, (nets, labels) in self.sets.items()
            for home in [name.rpartition("/")[0]]
        ]
        tiers = [*self.tiers.values(), TierOf("default", 1_000_000)]
        return Oracle([*pods.values(), *sets], tiers, list(self.policies.values())), pods

    def _namespace_labels(self, home: str) -> dict[str, str]:
        return {"projectcalico.org/name": home, **self.namespaces[home]} if home else {}

    def _pod(self, key: str) -> Entity:
        about = PODS[key]
        home = key.partition("/")[0]
        account = about.get("account", "default")
        return Entity(
            nets=(about["ip"] + "/32",),
            labels=self.labels[key],
            namespace=home,
            namespace_labels=self._namespace_labels(home),
            account=account,
            account_labels={"projectcalico.org/name": account, **ACCOUNTS.get((home, account), {})},
            ports={"dns": ("UDP", 53), **({"http": ("TCP", about["http"])} if "http" in about else {})},
        )

    def expected(self, probes: list[str]) -> dict[str, bool]:
        oracle, pods = self.oracle()
        found = {}
        for probe in probes:
            source, _, target, protocol, what = probe.split()
            packet = _packet(ADDRESSES[source], ADDRESSES[target], protocol.upper(), what)
            allowed = source not in pods or oracle.allows(pods[source], packet, "egress")
            if target in pods and source != f"node:{PODS[target]['node']}":
                allowed = allowed and oracle.allows(pods[target], packet, "ingress")
            found[probe] = allowed
        return found


def _set_document(name: str, nets: tuple[str, ...], labels: dict[str, str]) -> Document:
    home, slash, short = name.rpartition("/")
    return document("NetworkSet" if slash else "GlobalNetworkSet", short, home, {"nets": list(nets)}, labels=labels)


def _packet(source: str, target: str, protocol: str, what: str) -> Packet:
    if protocol == "ICMP":
        kind, _, code = what.partition("/")
        return Packet(source, target, protocol, icmp=(int(kind), int(code)))
    return Packet(source, target, protocol, int(what))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_packets_obey_what_the_documents_say(world: World, seed: int) -> None:
    state = State(world, seed)
    everything = [
        f"{source} > {target} {kind}"
        for source in ADDRESSES
        for target in ADDRESSES
        if source != target and (source in PODS or target in PODS)
        for kind in KINDS
    ]
    wrong: dict[str, Any] = {}
    try:
        for number in range(ROUNDS):
            state.change()
            probes = state.make.random.sample(everything, PROBES)
            found = world.probe(probes)
            for probe, wanted in state.expected(probes).items():
                if wanted == bool(found[probe]):
                    wrong[f"round {number}: {probe}"] = found[probe] or "allowed"
            assert not wrong, (wrong, [policy.document() for policy in state.policies.values()], state.sets)
    finally:
        state.undo()
