"""Prints how soon packets obey a policy: ``python -m tests.benchmarks.policy [ROUNDS]`` (as root or not).

A pod sends 2,000 new UDP flows a second to a pod on the same node and to one on another node, while a policy is put
into the datastore and taken out again.  A round's figure is the time from the commit to the first packet that shows
the new verdict.  Beside it: a whole ``calicoctl apply`` of the same policy, from its start to that packet.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import yaml

from calico_node.datastores import open_client
from calico_node.resources import from_dict
from calico_node.settings import Settings
from tests.benchmarks.labs import BIN, Lab, lab, pod

RATE = 2000.0
PAUSE = 0.7

POLICY: dict[str, Any] = {
    "apiVersion": "projectcalico.org/v3",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny-echo", "namespace": "default"},
    "spec": {
        "selector": "app == 'server'",
        "ingress": [{"action": "Allow", "protocol": "UDP", "destination": {"ports": [8]}}],
    },
}


async def toggle(environ: dict[str, str], rounds: int) -> list[tuple[float, bool]]:
    """Put the policy and take it out again; returns when each was committed and whether it then denies."""
    done = []
    async with open_client(Settings.load(environ)) as client:
        for _ in range(rounds):
            await anyio.sleep(PAUSE)
            await client.create(from_dict(POLICY))
            done.append((time.monotonic(), True))
            await anyio.sleep(PAUSE)
            await client.delete("NetworkPolicy", "deny-echo", "default")
            done.append((time.monotonic(), False))
    return done


def by_calicoctl(environ: dict[str, str], rounds: int) -> list[tuple[float, bool]]:
    """The same with the hand tool; each time is that of its start."""
    done = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        path.write_text(yaml.safe_dump(POLICY))
        for _ in range(rounds):
            for word, denies in (("apply", True), ("delete", False)):
                time.sleep(PAUSE)
                done.append((time.monotonic(), denies))
                command = [str(BIN / "calicoctl"), word, "-f", str(path)]
                subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    return done


def delays(probes: list[list[float | None]], changes: list[tuple[float, bool]]) -> list[float]:
    """Milliseconds from each change to the first probe sent after it that met the new verdict."""
    found = []
    for when, denies in changes:
        for sent, answer in probes:
            assert sent is not None
            if sent >= when and (answer is None) is denies:
                found.append((sent - when) * 1000)
                break
    return found


def show(what: str, milliseconds: list[float]) -> None:
    ordered = sorted(milliseconds)
    print(
        f"{what:44} median {statistics.median(ordered):7.1f} ms, p90 {ordered[int(len(ordered) * 0.9)]:7.1f} ms, "
        f"longest {ordered[-1]:7.1f} ms ({len(ordered)} changes)"
    )


def measure(name: str, running: Lab, address: str, rounds: int) -> None:
    environ = running.environ()
    seconds = rounds * 2 * PAUSE + 2
    flow = running.flow("default/client", address, 7, seconds + 1, RATE, "new")
    changes = anyio.run(toggle, environ, rounds)
    show(f"commit -> packets obey, {name}", delays(json.loads(flow.communicate()[0]), changes))
    flow = running.flow("default/client", address, 7, seconds + rounds * 1.5, RATE, "new")
    changes = by_calicoctl(environ, rounds)
    show(f"calicoctl started -> packets obey, {name}", delays(json.loads(flow.communicate()[0]), changes))


def main(rounds: int) -> None:
    pods = [
        pod("client", "node1"),
        pod("near", "node1", app="server"),
        pod("far", "node2", app="server"),
    ]
    with lab("bench-policy", pods, "--nodes", "2") as running:
        addresses = running.pod_addresses(["default/client", "default/near", "default/far"])
        measure("same node", running, addresses["default/near"], rounds)
        measure("other node", running, addresses["default/far"], rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
