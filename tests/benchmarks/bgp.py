"""One speaker fed by many peers in memory: how fast it decides, announces and hands routes to the kernel.

Run: ``python -m tests.benchmarks.bgp``.  Prints a line for each shape; fails nothing.
"""

from __future__ import annotations

import gc
import time

from calico_node.plugins.bgp.packet import (
    NLRI,
    Attributes,
    Capabilities,
    Context,
    GracefulRestart,
    Keepalive,
    Open,
    Segment,
    announce,
    encode,
)
from calico_node.plugins.bgp.prefix import Prefix, parse_prefix
from calico_node.plugins.bgp.transport import READ_SIZE
from tests.unit.bgp.simulator import Network, mesh_peer

SLICE = 200
OWN = "10.0.0.1"


def feed(peers: int, routes: int, *, external: bool) -> str:
    """``peers`` neighbours with ``routes`` each: the same prefixes from external ones, distinct from internal."""
    network = Network()
    asn = 65001 if external else 64512
    configs = [mesh_peer(OWN, f"10.0.{1 + i // 200}.{i % 200 + 1}", asn=asn) for i in range(peers)]
    node = network.add(OWN, *configs, pools=("20.0.0.0/6",))
    context = Context(add_path_send=frozenset((4,)))
    base = parse_prefix("20.0.0.0/24").value
    inputs = []
    for index, config in enumerate(configs):
        key = node.speaker.incoming(config.address, OWN, 0.0)
        assert key is not None
        capabilities = Capabilities(
            frozenset((4,)), True, GracefulRestart(False, 120, {4: True}), asn, {4: 3}, True, {}
        )
        hello = encode(Open(asn, 240, 1000 + index, capabilities)) + encode(Keepalive())
        node.speaker.receive(*key, hello, 0.0)
        start = 0 if external else index * routes
        prefixes = [NLRI(Prefix(4, 24, base + 256 * (start + number)), 1) for number in range(routes)]
        path = (Segment(2, (asn,)),) if external else ()
        attributes = Attributes(next_hop=config.address, as_path=path, local_pref=None if external else 2147482623)
        inputs.append((key, b"".join(announce(attributes, prefixes, context))))
    network.settle(node)
    started, worst, programmed = time.process_time(), 0.0, 0
    for key, data in inputs:
        for offset in range(0, len(data), READ_SIZE):
            before = time.process_time()
            node.speaker.receive(*key, data[offset : offset + READ_SIZE], 0.0)
            worst = max(worst, time.process_time() - before)
            more = True
            while more:
                before = time.process_time()
                more = node.speaker.step(SLICE, 0.0)
                worst = max(worst, time.process_time() - before)
                programmed += len(node.speaker.take_routes()[0])
                node.speaker.take_commands()
    seconds = time.process_time() - started
    kind = "external" if external else "internal"
    return (
        f"{peers} {kind} peers x {routes} routes: {seconds:.2f} s, {peers * routes / seconds:,.0f} routes/s, "
        f"{programmed:,} to the kernel, longest slice {worst * 1000:.1f} ms"
    )


def main() -> None:
    gc.disable()  # as in the agent: no full collection while it works
    print(feed(300, 100, external=False))
    print(feed(4, 50_000, external=True))


if __name__ == "__main__":
    main()
