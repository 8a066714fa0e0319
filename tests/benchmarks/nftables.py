"""Prints what the nftables dataplane costs: ``python -m tests.benchmarks.nftables [ENDPOINTS]`` (as root)."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import sys
import time

from calico_node.dataplanes.contract import (
    ActivePolicyUpdate,
    ActiveProfileUpdate,
    Batch,
    DataplaneRule,
    InSync,
    IPSetDeltaUpdate,
    IPSetType,
    IPSetUpdate,
    Message,
    TierInfo,
    WorkloadEndpointID,
    WorkloadEndpointUpdate,
)
from calico_node.dataplanes.nftables.plugin import NFTables
from calico_node.linux.namespaces import make_netns
from calico_node.model import PolicyKey, Port

POLICIES = 20
ROUNDS = 50


class Bench:
    """Applies batches and notes wall time, the kernel's part and how long the event loop was kept waiting."""

    def __init__(self, dataplane: NFTables) -> None:
        self.dataplane = dataplane
        self.revision = 0

    async def once(self, what: str, *messages: Message) -> None:
        await self.many(what, [messages])

    async def many(self, what: str, batches: list[tuple[Message, ...]]) -> None:
        whole, kernel, lag = [], [], [0.0]
        watcher = asyncio.create_task(_watch(lag))
        await asyncio.sleep(0.01)
        for messages in batches:
            self.revision += 1
            began = time.perf_counter()
            applied = await self.dataplane.apply(Batch(self.revision, messages))
            whole.append(time.perf_counter() - began)
            kernel.append(applied.kernel_seconds)
            await asyncio.sleep(0.002)
        watcher.cancel()
        print(
            f"{what:<46} {statistics.median(whole) * 1e3:9.3f} ms  kernel {statistics.median(kernel) * 1e3:8.3f} ms"
            f"  event loop held {max(lag) * 1e3:6.1f} ms"
        )


async def _watch(lag: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        lag.append(time.perf_counter() - began - 0.001)


def key(number: int) -> PolicyKey:
    return PolicyKey("NetworkPolicy", "default", f"p{number % POLICIES}")


def policy(number: int, *first: DataplaneRule) -> ActivePolicyUpdate:
    ingress = tuple(
        DataplaneRule("allow", protocol="tcp", dst_ports=(Port(low, low + 5),), src_ip_set_ids=(f"s:{number}",))
        for low in range(1, 6)
    )
    egress = tuple(DataplaneRule("allow", dst_nets=(f"10.{low}.0.0/16",)) for low in range(5))
    return ActivePolicyUpdate(key(number), "default", (*first, *ingress), egress)


def endpoint(number: int) -> WorkloadEndpointUpdate:
    keys = tuple(key(number + offset) for offset in range(5))
    return WorkloadEndpointUpdate(
        WorkloadEndpointID("k8s", f"default/e{number}", "eth0"),
        f"cali{number:08x}",
        profile_ids=("kns.default",),
        tiers=(TierInfo("default", "Deny", keys, keys),),
    )


async def main(endpoints: int) -> None:
    netns = make_netns()
    dataplane = NFTables(netns=netns)
    await dataplane.start()
    bench = Bench(dataplane)
    sets = [
        IPSetUpdate(f"s:{number}", IPSetType.NET, frozenset(f"10.{number}.{x}.1/32" for x in range(50)))
        for number in range(POLICIES)
    ]
    everything = ActiveProfileUpdate("kns.default", (DataplaneRule("allow"),), (DataplaneRule("allow"),))
    state = (*sets, *map(policy, range(POLICIES)), everything, *map(endpoint, range(endpoints)), InSync())
    await bench.once(f"{endpoints} endpoints, {POLICIES} policies, from nothing", *state)
    gc.freeze()
    gc.disable()
    changes = [
        (policy(3, DataplaneRule("deny", protocol="udp", dst_ports=(Port(number, number),))),)
        for number in range(1, ROUNDS)
    ]
    await bench.many("one policy changes", changes)
    await bench.many("one endpoint comes", [(endpoint(endpoints + number),) for number in range(ROUNDS)])
    members = [(IPSetDeltaUpdate("s:1", frozenset({f"10.200.{number}.1/32"})),) for number in range(ROUNDS)]
    await bench.many("one member into a set of 50", members)
    big = frozenset(f"10.{x}.{y}.{z}/32" for x in (1, 2) for y in range(250) for z in range(100))
    await bench.once("a set of 50,000 members", IPSetUpdate("s:big", IPSetType.NET, big))
    members = [(IPSetDeltaUpdate("s:big", frozenset({f"10.200.{number}.1/32"})),) for number in range(ROUNDS)]
    await bench.many("one member into a set of 50,000", members)
    began = time.perf_counter()
    await dataplane.stop()
    adopting = NFTables(netns=netns)
    await adopting.start()
    print(f"{'reading it all back at a start':<46} {(time.perf_counter() - began) * 1e3:9.3f} ms")
    await adopting.stop()
    os.close(netns)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
