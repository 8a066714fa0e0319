"""What a user waits for: a lab of 3 nodes and 12 pods until all is up, and the whole bookinfo demonstration.

Run as root or where user namespaces are allowed, with the packages installed::

    .venv/bin/python -m tests.benchmarks.start [ROUNDS] [etcd]

With ``etcd`` also a lab whose datastore is a real etcd.  Beside each stands a reference measured in the same run:
starting as many interpreters as a lab of three nodes has processes, one after the other, each importing what an agent
imports.  The ratio compares across machines.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.labs import BIN, lab, pod

BOOKINFO = Path(__file__).parents[2] / "examples" / "bookinfo"
IMPORT = (
    "import calico_node.agent, calico_node.plugins.felix.component, calico_node.plugins.bgp.component, "
    "calico_node.plugins.cni.component, calico_node.dataplanes.nftables.plugin, "
    "calico_node.datastores.embedded.plugin"
)
PROCESSES = 6
"""What a lab of three nodes starts: three agents, the supervisor, the responder and the prober."""


def imports() -> float:
    """Seconds to start the lab's number of interpreters and import an agent's modules in each."""
    start = time.monotonic()
    for _ in range(PROCESSES):
        subprocess.run([sys.executable, "-c", IMPORT], check=True)
    return time.monotonic() - start


def bring_up(*options: str) -> float:
    """Seconds of ``lab up`` (with ``options``) with 12 pods on 3 nodes, all ready and all sessions established."""
    documents: list[dict[str, Any]] = [pod(f"p{number}", f"node{number % 3 + 1}") for number in range(12)]
    with lab(f"bench-{os.getpid()}", documents, *options) as running:
        status = json.loads(running.run("status", "--json", stdout=subprocess.PIPE).stdout)
        pods = [item for item in status["pods"] if item["name"].startswith("default/p")]
        states = [session["state"] for node in status["nodes"] for session in node["sessions"]]
        unready = [c for node in status["nodes"] for c in node["components"].values() if not c["ready"]]
        if len(pods) != 12 or states != ["Established"] * 6 or unready:
            raise SystemExit(f"the lab is not up: {len(pods)} pods, sessions {states}, unready {unready}")
        return running.seconds


def demonstration() -> float:
    """Seconds of ``lab run`` of bookinfo: up, probed, policies applied, probed, compared, down."""
    command = [str(BIN / "calico-node"), "lab", "run", "--name", f"bench-{os.getpid()}", "-f", str(BOOKINFO)]
    start = time.monotonic()
    subprocess.run([*command, "--expect", str(BOOKINFO / "expect.yaml")], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def report(what: str, measure: Callable[[], float], aim: float, rounds: int) -> None:
    """Print the median of ``rounds``, beside the reference measured between them."""
    figures, references = [], []
    for _ in range(rounds):
        references.append(imports())
        figures.append(measure())
    figure, reference = statistics.median(figures), statistics.median(references)
    print(
        f"{what:<58} median {figure:5.2f} s, worst {max(figures):5.2f} s (aim {aim:g} s); "
        f"reference {reference:5.2f} s; ratio {figure / reference:4.2f}"
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="cn") as runtime:
        os.environ["XDG_RUNTIME_DIR"] = runtime
        print(f"reference: {PROCESSES} interpreters in a row that import what an agent imports")
        report("lab up, 3 nodes and 12 pods: ready and BGP established", bring_up, 10, rounds)
        if "etcd" in sys.argv[2:]:
            report("the same with --datastore etcd", lambda: bring_up("--datastore", "etcd"), 10, rounds)
        report("bookinfo before and after the policies, to the end", demonstration, 30, rounds)


if __name__ == "__main__":
    main()
