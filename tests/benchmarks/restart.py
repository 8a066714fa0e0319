"""Prints what a killed and restarted agent costs: ``python -m tests.benchmarks.restart [ROUNDS]``.

While the agent of a node is ended with SIGKILL and started again, 1,000 probes a second run each way: within the
node, to the other node and back into it; a third of them on one established flow, a third on a new flow each, a third
on flows that policy denies.  Printed: allowed probes lost (should be 0) and denied ones answered (must be 0).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import yaml

from tests.benchmarks.labs import BIN, Lab, lab, pod

RATE = 1000.0
SECONDS = 8.0

POLICIES = [
    {
        "apiVersion": "projectcalico.org/v3",
        "kind": "NetworkPolicy",
        "metadata": {"name": "allow-eight", "namespace": "default"},
        "spec": {
            "selector": "app == 'server'",
            "ingress": [
                {
                    "action": "Allow",
                    "protocol": "UDP",
                    "source": {"selector": "app == 'client'"},
                    "destination": {"ports": [8]},
                }
            ],
        },
    }
]

WAYS = [
    ("within the node", "default/client1", "default/near"),
    ("to the other node", "default/client1", "default/far"),
    ("from the other node", "default/client2", "default/near"),
]
KINDS = [("established", 8, "established"), ("new", 8, "new"), ("denied", 7, "new")]


def one_round(running: Lab, addresses: dict[str, str]) -> dict[tuple[str, str], tuple[int, int]]:
    """For each way and kind: probes sent and probes answered, during one kill and restart."""
    flows: dict[tuple[str, str], subprocess.Popen[str]] = {}
    for way, source, target in WAYS:
        for kind, port, mode in KINDS:
            flows[way, kind] = running.flow(source, addresses[target], port, SECONDS, RATE / 3, mode)
    time.sleep(1)
    running.run("restart", "--kill", "node1", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    counts = {}
    for key, flow in flows.items():
        probes = json.loads(flow.communicate()[0])
        counts[key] = (len(probes), sum(answer is not None for _, answer in probes))
    return counts


def main(rounds: int) -> None:
    pods = [
        pod("client1", "node1", app="client"),
        pod("client2", "node2", app="client"),
        pod("near", "node1", app="server"),
        pod("far", "node2", app="server"),
    ]
    totals: dict[tuple[str, str], list[int]] = {}
    with lab("bench-restart", pods, "--nodes", "2") as running:
        addresses = running.pod_addresses(["default/client1", "default/near", "default/far"])
        apply = [str(BIN / "calico-node"), "lab", "apply", "--name", running.name, "-f", "/dev/stdin"]
        subprocess.run(apply, input=yaml.safe_dump_all(POLICIES), text=True, check=True, capture_output=True)
        for _ in range(rounds):
            for key, (sent, answered) in one_round(running, addresses).items():
                total = totals.setdefault(key, [0, 0])
                total[0] += sent
                total[1] += answered
    print(f"agent killed with SIGKILL and restarted {rounds} time(s)")
    for (way, kind), (sent, answered) in totals.items():
        if kind == "denied":
            print(f"{way:20} {kind:12} {sent:7} sent, {answered:5} let through")
        else:
            print(f"{way:20} {kind:12} {sent:7} sent, {sent - answered:5} lost")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
