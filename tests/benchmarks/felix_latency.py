"""Datastore commit of a policy change to packets that obey.  ``python -m tests.benchmarks.felix_latency`` (root)

One node process in a namespace, two pods; a datagram is sent every millisecond until one arrives.
"""

from __future__ import annotations

import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from calico_node.linux.namespaces import call_in_netns
from tests.kernel.felix.node import Node, document

ROUNDS = 40
PORT = 7


def policy(app: str) -> Any:
    rule = {"action": "Allow", "protocol": "UDP", "source": {"selector": f"app == '{app}'"}}
    return document("GlobalNetworkPolicy", "web", selector="app == 'web'", types=["Ingress"], ingress=[rule])


def udp(space: str) -> socket.socket:
    return call_in_netns(space, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def arrival(sender: socket.socket, receiver: socket.socket, arrived: list[float]) -> None:
    while not arrived:
        sender.send(b"x")
        try:
            receiver.recv(1)
            arrived.append(time.perf_counter())
        except (TimeoutError, BlockingIOError):
            continue


def measure(node: Node) -> tuple[list[float], list[float]]:
    """Milliseconds from the commit, and from the call that wrote it."""
    allow = [{"action": "Allow"}]
    node.write(document("Profile", "kns.default", ingress=allow, egress=allow))
    web, client = node.pod("web", "10.65.0.2", app="web"), node.pod("client", "10.65.0.3", app="client")
    from_commit, from_call = [], []
    with udp(web) as receiver:
        receiver.bind(("", PORT))
        receiver.settimeout(0.001)
        for _ in range(ROUNDS):
            node.write(policy("nobody"))
            with udp(client) as sender:  # a new port each time: no established flow
                sender.connect(("10.65.0.2", PORT))
                arrived: list[float] = []
                prober = threading.Thread(target=arrival, args=(sender, receiver, arrived))
                prober.start()
                time.sleep(0.05)
                called = time.perf_counter()
                node.write(policy("client"), wait=False)
                committed = time.perf_counter()
                prober.join()
            from_commit.append((arrived[0] - committed) * 1e3)
            from_call.append((arrived[0] - called) * 1e3)
    return from_commit, from_call


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, Node(Path(folder)) as one:
        one.start()
        commit, call = measure(one)
        middle, tail = statistics.median(commit), sorted(commit)[ROUNDS * 9 // 10]
        print(f"commit to packets obey: median {middle:.1f} ms, p90 {tail:.1f}, max {max(commit):.1f}")
        print(f"whole write to packets obey: median {statistics.median(call):.1f} ms")
