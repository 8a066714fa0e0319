"""The calculation graph at scale: load, one change, longest slice.

``python -m tests.benchmarks.felix_graph [N] [P]``: N endpoints (10,000), 200 of them on this node, and P policies
(1,000) with a named port and two selectors each.
"""

from __future__ import annotations

import gc
import random
import resource
import sys
import time

import attrs

from calico_node.model import (
    EndpointPort,
    Policy,
    PolicyKey,
    Port,
    ProfileLabelsKey,
    ProfileRules,
    ProfileRulesKey,
    Rule,
    SyncStatus,
    Tier,
    TierKey,
    Update,
    WorkloadEndpoint,
    WorkloadEndpointKey,
)
from calico_node.plugins.felix.calc import CalcGraph
from calico_node.plugins.felix.calc.labelindex import LabelIndex
from calico_node.selectors import parse

SLICE = 256


def cluster(endpoints: int, policies: int) -> list[Update]:
    namespaces = max(50, policies // 10)
    allow = (Rule("allow"),)
    updates = [Update(TierKey("default"), Tier())]
    for number in range(endpoints):
        node = "node1" if number < 200 else f"node{2 + number % 500}"
        namespace = f"ns{number % namespaces}"
        endpoint = WorkloadEndpoint(
            f"cali{number:08x}",
            ipv4_nets=(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32",),
            labels={
                "projectcalico.org/namespace": namespace,
                "projectcalico.org/orchestrator": "k8s",
                "app": f"app{number % 97}",
                "tier": random.choice(("fe", "be", "db")),
            },
            profile_ids=(f"kns.{namespace}",),
            ports=(EndpointPort("http", "tcp", 8080),),
        )
        updates.append(Update(WorkloadEndpointKey(node, "k8s", f"{namespace}/pod{number}", "eth0"), endpoint))
    for number in range(namespaces):
        updates.append(Update(ProfileRulesKey(f"kns.ns{number}"), ProfileRules(allow, allow)))
        labels = {"pcns.kubernetes.io/metadata.name": f"ns{number}", "pcns.team": f"t{number % 10}"}
        updates.append(Update(ProfileLabelsKey(f"kns.ns{number}"), labels))
    for number in range(policies):
        namespace = f"ns{number % namespaces}"
        home = f"projectcalico.org/namespace == '{namespace}'"
        rules = (
            Rule("allow", protocol="tcp", src_selector=f"({home}) && (tier == 'fe')", dst_ports=(Port(name="http"),)),
            Rule("allow", src_selector=f"pcns.team == 't{number % 10}'"),
        )
        selector = f"(app == 'app{number % 97}') && {home}" if number % 5 else home
        policy = Policy(namespace=namespace, selector=selector, types=("ingress",), inbound_rules=rules)
        updates.append(Update(PolicyKey("NetworkPolicy", namespace, f"p{number}"), policy))
    random.shuffle(updates)
    return updates


def work(graph: CalcGraph) -> float:
    """Everything there is to do; the longest slice in seconds."""
    longest, more = 0.0, True
    while more:
        began = time.perf_counter()
        more = graph.step(SLICE)
        longest = max(longest, time.perf_counter() - began)
    return longest


def graph_load(endpoints: int, policies: int) -> None:
    updates = cluster(endpoints, policies)
    graph = CalcGraph("node1")
    graph.set_status(SyncStatus.IN_SYNC)
    longest = 0.0
    began = time.perf_counter()
    for start in range(0, len(updates), 1000):
        graph.feed(updates[start : start + 1000])
        longest = max(longest, work(graph))
    messages = graph.flush()
    loaded = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"graph, {endpoints} endpoints, {policies} policies: loaded in {loaded:.2f} s ({len(messages)} messages),")
    print(f"  longest slice {longest * 1e3:.1f} ms, {memory} MB")
    pods = [update for update in updates if isinstance(update.value, WorkloadEndpoint)][:2000]
    began = time.perf_counter()
    for update in pods:
        endpoint = update.value
        assert isinstance(endpoint, WorkloadEndpoint)
        labels = {**endpoint.labels, "tier": "db" if endpoint.labels["tier"] == "fe" else "fe"}
        graph.feed([Update(update.key, attrs.evolve(endpoint, labels=labels))])
        work(graph)
        graph.flush()
    print(f"  one pod's label change to messages: {(time.perf_counter() - began) / len(pods) * 1e6:.0f} µs")


def index_load(items: int, selectors: int) -> None:
    index: LabelIndex[int, int] = LabelIndex(lambda *_: None, lambda *_: None)
    texts = [
        f"orchestrator == 'k8s' && ns == 'n{number % 50}' && app == 'a{number % 100}' && v != '{number}'"
        for number in range(selectors)
    ]
    parsed = [parse(text) for text in texts]
    labels = [
        {
            "projectcalico.org/orchestrator": "k8s",
            "ns": f"n{number % 50}",
            "app": f"a{number % 100}",
            "v": str(number % 7),
        }
        for number in range(items)
    ]
    began = time.perf_counter()
    for number, selector in enumerate(parsed):
        index.set_selector(number, selector)
    for number, own in enumerate(labels):
        index.set_item(number, own, ())
    while index.step(1000):
        pass
    loaded = time.perf_counter() - began
    began = time.perf_counter()
    for number in range(1000):
        index.set_item(number, {**labels[number], "v": "x"}, ())
    change = (time.perf_counter() - began) * 1e3
    print(
        f"label index, {items} endpoints, {selectors} selectors: loaded in {loaded:.2f} s, one change {change:.0f} µs"
    )


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]]
    count, rules = (*numbers, 10_000, 1_000)[:2] if len(numbers) != 1 else (numbers[0], 1_000)
    random.seed(1)
    gc.set_threshold(5_000, 5, 1_000_000)  # as the agent does
    index_load(count, rules)
    graph_load(count, rules)
