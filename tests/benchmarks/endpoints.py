"""Prints what many endpoints cost: ``python -m tests.benchmarks.endpoints [ENDPOINTS] [SELECTORS]``.

First, on a real etcd on loopback: all WorkloadEndpoints listed, decoded and indexed by their labels, in seconds and
peak memory, beside ``etcdctl get --prefix`` of the same keys.  Then the label index alone: the load, one endpoint's
label change and one new selector, beside the brute force that is also the oracle of the matches.  "Best of three" is
what remains of the same work where other processes do not disturb it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from calico_node.datastores.client import Client
from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.datastores.kv import Put
from calico_node.datastores.names import kind_prefix
from calico_node.plugins.felix.calc.labelindex import LabelIndex
from calico_node.resources import encode, from_dict
from calico_node.selectors import Selector, parse
from tests.interop.datastores.conftest import Etcd

NAMESPACES = 500
APPS = 20
CHANGES = 5_000
NEW_SELECTORS = 300
LABELS = dict[str, str]


def own_labels(number: int) -> LABELS:
    namespace = number % NAMESPACES
    return {
        "app": f"a{number // NAMESPACES % APPS}",
        "role": f"r{number % 7}",
        "track": "canary" if number % 13 == 0 else "stable",
        "pod-template-hash": f"{number // 10:x}",
        "projectcalico.org/namespace": f"ns{namespace}",
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "default",
    }


def profile_labels(namespace: int) -> LABELS:
    return {"pcns.team": f"t{namespace % 100}", "pcns.projectcalico.org/name": f"ns{namespace}"}


def selector_text(number: int) -> str:
    """Mostly policies of a namespace, some for a team, some for the cluster, a few that most endpoints match."""
    local = f"projectcalico.org/namespace == 'ns{number % NAMESPACES}'"
    kind = number * 7919 % 1000
    if kind < 700:
        return f"(app == 'a{number // NAMESPACES % APPS}') && {local}"
    if kind < 800:
        return f"(role in {{'r{number % 7}', 'r{number % 5}'}}) && {local}"
    if kind < 900:
        return f"(has(track) && track != 'canary' && !has(x{number})) && {local}"
    if kind < 950:
        return f"pcns.team == 't{number % 100}' && app starts with 'a1'"
    if kind < 998:
        return f"pod-template-hash == '{number:x}' || app == 'a{number}'"
    return f"!has(x{number})"


def workload_endpoint(number: int) -> tuple[str, bytes]:
    """Key and value as Calico's CNI plugin stores them."""
    namespace, name = f"ns{number % NAMESPACES}", f"node--{number % 100}-k8s-web--{number}-eth0"
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    spec: dict[str, Any] = {
        "orchestrator": "k8s",
        "node": f"node-{number % 100}",
        "containerID": f"{number:064x}",
        "pod": f"web-{number}",
        "endpoint": "eth0",
        "serviceAccountName": "default",
        "ipNetworks": [f"{address}/32"],
        "profiles": [f"kns.{namespace}", f"ksa.{namespace}.default"],
        "interfaceName": f"cali{number:011x}",
        "mac": "ee:ee:ee:ee:ee:ee",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080, "hostPort": 0, "hostIP": ""}],
    }
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": f"0d9cfa07-6d3f-4d3c-9a55-{number:012x}",
        "creationTimestamp": "2026-08-01T10:00:00Z",
        "labels": own_labels(number),
    }
    document = {"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": metadata, "spec": spec}
    return f"{kind_prefix('WorkloadEndpoint')}{namespace}/{name}", encode(from_dict(document))


async def fill(endpoint: str, count: int) -> int:
    """Store the endpoints; gives the bytes of all values."""
    engine = EtcdEngine([endpoint])
    size = 0
    for first in range(0, count, 1000):
        pairs = [workload_endpoint(number) for number in range(first, min(first + 1000, count))]
        size += sum(len(value) for _, value in pairs)
        parts = [pairs[at : at + 100] for at in range(0, len(pairs), 100)]
        await asyncio.gather(*(engine.txn([], [Put(key, value) for key, value in part]) for part in parts))
    await engine.close()
    return size


def peak_mb(process: int | str = "self") -> float:
    """The most memory that the program has had resident; rusage would count what it was forked from."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


async def list_and_index(endpoint: str) -> dict[str, float]:
    """What a child process measures of itself."""
    before = peak_mb()
    client = Client(EtcdEngine([endpoint]))
    start, cpu = time.perf_counter(), time.process_time()
    listed = await client.list("WorkloadEndpoint")
    decoded = time.perf_counter() - start
    index: LabelIndex[int, str] = LabelIndex(lambda *_: None, lambda *_: None)
    for namespace in range(NAMESPACES):
        index.set_parent_labels(f"kns.ns{namespace}", profile_labels(namespace))
    for item in listed.items:
        index.set_item(item.metadata.name, item.metadata.labels, tuple(item.spec.profiles))
    while index.step(1000):
        pass
    total = time.perf_counter() - start
    return {
        "count": len(listed.items),
        "listed": decoded,
        "total": total,
        "cpu": time.process_time() - cpu,
        "peak": peak_mb(),
        "before": before,
    }


def etcdctl(endpoint: str) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak MB of ``etcdctl get --prefix``."""
    program = shutil.which("etcdctl")
    if program is None:
        sys.exit("etcdctl is not installed: apt-get install etcd-client")
    start = time.perf_counter()
    command = [program, "--endpoints", endpoint, "get", "--prefix", kind_prefix("WorkloadEndpoint")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "ETCDCTL_API": "3"})
    peak, ended = 0.0, 0
    while not ended:
        peak = max(peak, peak_mb(process.pid))
        time.sleep(0.005)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    if status:
        sys.exit("etcdctl failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, peak


def against_etcd(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Etcd(shutil.which("etcd") or "etcd", Path(folder))
        server.start()
        try:
            size = asyncio.run(fill(server.endpoint, count))
            print(f"{count} WorkloadEndpoints in etcd, {size / 1e6:.0f} MB of JSON")
            for _ in range(2):  # the first also warms etcd's own cache
                seconds, cpu, peak = etcdctl(server.endpoint)
                print(f"  etcdctl get --prefix:        {seconds:6.2f} s ({cpu:.2f} s CPU), peak {peak:.0f} MB")
            command = [sys.executable, "-m", __spec__.name, "--child", server.endpoint]
            ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            assert ours["count"] == count
            print(f"  listed and decoded:          {ours['listed']:6.2f} s")
            print(
                f"  listed, decoded and indexed: {ours['total']:6.2f} s ({ours['cpu']:.2f} s CPU), peak"
                f" {ours['peak']:.0f} MB ({ours['before']:.0f} MB of it before)"
            )
            print(
                f"  ratio: {ours['total'] / seconds:.1f} of the time, {ours['cpu'] / cpu:.1f} of the CPU,"
                f" {ours['peak'] / peak:.1f} of the memory"
            )
        finally:
            server.stop()


class Matches:
    """The membership that the index has announced, to hold against the oracle."""

    def __init__(self) -> None:
        self.of: dict[int, set[int]] = {}

    def started(self, selector: int, item: int) -> None:
        self.of.setdefault(selector, set()).add(item)

    def stopped(self, selector: int, item: int) -> None:
        self.of[selector].remove(item)


def percentiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = statistics.median(ordered), ordered[len(ordered) * 99 // 100]
    return f"p50 {p50 * 1e6:6.0f} µs, p99 {p99 * 1e6:6.0f} µs, most {ordered[-1] * 1e6:6.0f} µs"


def settle(index: LabelIndex[int, int]) -> None:
    while index.step(1000):
        pass


def label_index(count: int, selectors: int) -> None:
    dice = random.Random(1)
    matches = Matches()
    index: LabelIndex[int, int] = LabelIndex(matches.started, matches.stopped)
    parsed = [parse(selector_text(number)) for number in range(selectors)]
    own = [own_labels(number) for number in range(count)]
    start = time.perf_counter()
    for namespace in range(NAMESPACES):
        index.set_parent_labels(f"kns.ns{namespace}", profile_labels(namespace))
    for number, labels in enumerate(own):
        index.set_item(number, labels, (f"kns.ns{number % NAMESPACES}",))
    for number, selector in enumerate(parsed):
        index.set_selector(number, selector)
    settle(index)
    loaded = time.perf_counter() - start
    announced = sum(map(len, matches.of.values()))
    gc.collect()
    gc.freeze()
    effective = [{**profile_labels(number % NAMESPACES), **labels} for number, labels in enumerate(own)]
    sample = dice.sample(range(selectors), 30)
    start = time.perf_counter()
    for number in sample:
        check(matches, number, parsed[number], effective)
    brute = (time.perf_counter() - start) / len(sample)
    print(f"label index, {count} endpoints, {selectors} selectors, {announced} matches")
    print(f"  load: {loaded:.2f} s; brute force: {brute * selectors:.0f} s, {brute * 1e3:.1f} ms a selector")
    one_change(index, matches, parsed, own, effective, dice)
    for number in sample:
        check(matches, number, parsed[number], effective)
    new_selectors(index, matches, effective, brute)


def check(matches: Matches, number: int, selector: Selector, effective: list[LABELS]) -> None:
    wanted = {item for item, labels in enumerate(effective) if selector.matches(labels)}
    assert matches.of.get(number, set()) == wanted, f"{selector} has other matches than the brute force finds"


def one_change(
    index: LabelIndex[int, int],
    matches: Matches,
    parsed: list[Selector],
    own: list[LABELS],
    effective: list[LABELS],
    dice: random.Random,
) -> None:
    """Endpoints get another app, role and track, one after another."""
    took, undisturbed = [], []
    for _ in range(CHANGES):
        number = dice.randrange(len(own))
        label, value = dice.choice(
            (("app", f"a{dice.randrange(APPS)}"), ("role", f"r{dice.randrange(7)}"), ("track", "x"))
        )
        labels = {**own[number], label: value}
        rounds = []
        for state in (labels, own[number], labels, own[number], labels):
            start = time.perf_counter()
            index.set_item(number, state, (f"kns.ns{number % NAMESPACES}",))
            index.step(1000)
            rounds.append(time.perf_counter() - start)
        took.append(rounds[0])
        undisturbed.append(min(rounds[::2]))
        own[number] = labels
        effective[number][label] = value
    brute = []
    for number in dice.sample(range(len(own)), 30):
        start = time.perf_counter()
        wanted = {key for key, selector in enumerate(parsed) if selector.matches(effective[number])}
        brute.append(time.perf_counter() - start)
        assert set(index.matching(number)) == wanted
    print(f"  one endpoint's label change: {percentiles(took)}; brute force {statistics.median(brute) * 1e6:.0f} µs")
    print(f"    best of three of each:     {percentiles(undisturbed)}")


def new_selectors(index: LabelIndex[int, int], matches: Matches, effective: list[LABELS], brute: float) -> None:
    asked, announced, undisturbed = [], [], []
    first = index.selector_count
    for number in range(first, first + NEW_SELECTORS):
        selector = parse(selector_text(number).replace("track", "role"))
        start = time.perf_counter()
        index.set_selector(number, selector)
        asked.append(time.perf_counter() - start)
        settle(index)
        announced.append(time.perf_counter() - start)
        rounds = [asked[-1]]
        for key in (-1, -2):
            start = time.perf_counter()
            index.set_selector(key, selector)
            rounds.append(time.perf_counter() - start)
            index.delete_selector(key)
        undisturbed.append(min(rounds))
        if number % 30 == 0:
            check(matches, number, selector, effective)
    print(f"  one new selector:            {percentiles(asked)}; brute force {brute * 1e6:.0f} µs")
    print(f"    best of three of each:     {percentiles(undisturbed)}")
    print(f"    and all its matches told:  {percentiles(announced)}")


def main(count: int, selectors: int) -> None:
    against_etcd(count)
    label_index(count, selectors)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        gc.set_threshold(5_000, 5, 1_000_000)  # as the agent does
        print(json.dumps(asyncio.run(list_and_index(sys.argv[2]))))
    else:
        sizes = [int(text) for text in sys.argv[1:]]
        main(*(sizes + [100_000, 10_000][len(sizes) :]))
