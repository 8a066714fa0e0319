"""Prints how long the route sink takes: ``python -m tests.benchmarks.routes [ROUTES]`` (as root)."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from calico_node.dataplanes.contract import Route
from calico_node.dataplanes.linux_adapters import LinuxRouteSink
from calico_node.linux.namespaces import make_netns
from calico_node.linux.netlink import NetlinkSocket
from calico_node.linux.rtnetlink import RTN_UNICAST, NextHop, Path, encoder, pack_address, pack_prefix
from tests.kernel.linux.helpers import ip


def destinations(count: int) -> list[str]:
    return [f"{100 + (n >> 16)}.{n >> 8 & 255}.{n & 255}.0/24" for n in range(count)]


def make() -> int:
    netns = make_netns()
    ip(
        netns,
        "link add eth0 type veth peer name far0;link set far0 up;link set eth0 up;addr add 10.0.0.1/24 dev eth0",
    )
    return netns


def raw(count: int) -> float:
    """Seconds for the same routes sent without any bookkeeping."""
    netns = make()
    with NetlinkSocket(netns=netns) as sock:
        start = time.perf_counter()
        packer = encoder(2, Path(RTN_UNICAST, 0, 12, 1024, (NextHop(pack_address("10.0.0.2"), 3),)))
        sock.request_now([packer.add(pack_prefix(dst)) for dst in destinations(count)])
        elapsed = time.perf_counter() - start
    os.close(netns)
    return elapsed


async def main(count: int) -> None:
    print(f"{count} routes")

    def line(what: str, start: float) -> str:
        return f"{what:32} {time.perf_counter() - start:6.3f} s, longest hold {longest * 1000:.0f} ms"

    print(f"packed and sent, no bookkeeping  {raw(count):6.3f} s")
    netns = make()
    routes = [
        Route(dst, device="eth0", gateways=("10.0.0.2",), protocol=12, metric=1024) for dst in destinations(count)
    ]
    longest = 0.0

    async def measure() -> None:
        nonlocal longest
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - start)

    async with LinuxRouteSink(netns=netns) as sink:
        await sink.prune("bgp")
        task = asyncio.create_task(measure())
        start = time.perf_counter()
        await sink.set_routes("bgp", routes)
        print(line("set by the sink", start))

        times = []
        for n in range(50):
            one = Route(f"10.9.{n}.0/24", device="eth0", gateways=("10.0.0.2",), protocol=12, metric=1024)
            start = time.perf_counter()
            await sink.set_routes("bgp", [one])
            times.append(time.perf_counter() - start)
        print(f"one more                         {sorted(times)[25] * 1000:6.3f} ms")
        task.cancel()
    async with LinuxRouteSink(netns=netns) as sink:
        task, longest = asyncio.create_task(measure()), 0.0
        start = time.perf_counter()
        await sink.set_routes("bgp", routes)
        await sink.prune("bgp")
        print(line("adopted after a restart", start))

        start, longest = time.perf_counter(), 0.0
        await sink.set_routes("bgp", [], [route.dst for route in routes])
        print(line("removed", start))

        task.cancel()
    os.close(netns)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000))
