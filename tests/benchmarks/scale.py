"""Prints how a lab of many pods fares: ``python -m tests.benchmarks.scale [PODS] [NODES]`` (default 200 on 4).

How long it takes to come up, whether a sample of all pairs is right under a policy that lets half of it through, and
the memory of each agent (proportional set size).  Reference: the same number of namespaces and veth pairs made by
``ip -batch``, unconnected and without addresses.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

import yaml

from tests.benchmarks.labs import BIN, lab, pod

SAMPLE = 400
MEMORY = """
import glob
for folder in glob.glob('/proc/[0-9]*'):
    try:
        words = open(folder + '/cmdline', 'rb').read().split(b'\\0')
        if b'run' in words and any(w.endswith(b'calico-node') for w in words):
            environ = dict(e.partition(b'=')[::2] for e in open(folder + '/environ', 'rb').read().split(b'\\0'))
            pss = [int(l.split()[1]) for l in open(folder + '/smaps_rollup') if l.startswith('Pss:')][0]
            print(environ[b'NODENAME'].decode(), pss // 1024)
    except (OSError, KeyError):
        pass
"""

POLICY: dict[str, Any] = {
    "apiVersion": "projectcalico.org/v3",
    "kind": "NetworkPolicy",
    "metadata": {"name": "even-only", "namespace": "default"},
    "spec": {
        "selector": "parity == 'even'",
        "ingress": [{"action": "Allow", "source": {"selector": "parity == 'even'"}}],
    },
}


def reference(pods: int) -> float:
    """Seconds of ``ip -batch`` for as many namespaces, each with one veth pair."""
    names = [f"bench-scale-{number}" for number in range(pods)]
    start = time.monotonic()
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    for name in names:
        subprocess.run(["ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "far0"], check=True)
    elapsed = time.monotonic() - start
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return elapsed


def main(pods: int, nodes: int) -> None:
    bare = reference(pods)
    parity = ["even", "odd"]
    documents = [
        pod(f"pod{number}", f"node{number % nodes + 1}", parity=parity[number // nodes % 2]) for number in range(pods)
    ]
    with lab("bench-scale", documents, "--nodes", str(nodes)) as running:
        print(f"{pods} pods on {nodes} nodes: up in {running.seconds:.1f} s")
        print(f"reference, ip(8) making {pods} namespaces with a veth pair: {bare:.1f} s, "
              f"ratio {running.seconds / bare:.1f}")  # fmt: skip
        apply = [str(BIN / "calico-node"), "lab", "apply", "--name", running.name, "-f", "/dev/stdin"]
        start = time.monotonic()
        subprocess.run(apply, input=yaml.safe_dump(POLICY), text=True, check=True, capture_output=True)
        print(f"a policy for half the pods, in force on all nodes: {time.monotonic() - start:.2f} s")
        choose = random.Random(1)
        probes, expected = [], []
        for _ in range(SAMPLE):
            source, target = choose.sample(range(pods), 2)
            probes.append(
                {"from": f"default/pod{source}", "to": f"default/pod{target}", "protocol": "UDP", "port": 7}
            )
            expected.append(target // nodes % 2 == 1 or source // nodes % 2 == 0)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(probes, file)
            file.flush()
            start = time.monotonic()
            output = running.run("probe", "--json", "--probes", file.name, stdout=subprocess.PIPE).stdout
        wrong = sum(
            answer["allowed"] is not right for answer, right in zip(json.loads(output), expected, strict=True)
        )
        print(f"{SAMPLE} sampled pairs in {time.monotonic() - start:.1f} s: {wrong} wrong")
        memory = running.run("node", "node1", "--", sys.executable, "-c", MEMORY, stdout=subprocess.PIPE).stdout
        for line in sorted(memory.splitlines()):
            name, megabytes = line.split()
            print(f"agent of {name}: {megabytes} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, int(sys.argv[2]) if len(sys.argv) > 2 else 4)
