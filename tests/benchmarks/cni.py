"""Prints how long a pod's connection takes: ``python -m tests.benchmarks.cni [PODS]`` (as root)."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import structlog

from calico_node.dataplanes.contract import PodInterface
from calico_node.dataplanes.linux_adapters import LinuxPodWiring
from calico_node.plugins.cni.install import install_executables
from tests.kernel.cni.node import NodeUnderTest, node_under_test


def client_start(executable: Path) -> float:
    """Milliseconds of the client's VERSION, which needs no agent."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        subprocess.run(
            [executable],
            env={"CNI_COMMAND": "VERSION", "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


async def wiring(node: NodeUnderTest) -> float:
    """Milliseconds of a pod's wiring alone."""
    wiring = LinuxPodWiring(netns=node.netns)
    times = []
    for number in range(20):
        netns = node.new_pod()
        start = time.perf_counter()
        await wiring.add(netns, PodInterface(f"w{number}", "eth0", f"caliw{number}", (f"10.64.0.{number + 1}/32",)))
        times.append(time.perf_counter() - start)
        await wiring.delete(netns, "eth0", f"caliw{number}")
    return statistics.median(times) * 1000


async def main(count: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as folder:
        script, installed = Path(sys.executable).parent / "calico", install_executables(Path(folder) / "bin")[0]
        print(f"client's console script, VERSION {client_start(script):8.1f} ms")
        print(f"client as installed, VERSION     {client_start(installed):8.1f} ms")
        async with node_under_test(Path(folder)) as node:
            print(f"wiring of one pod                {await wiring(node):8.1f} ms")
            await node.cni("ADD", netns=node.new_pod(), container="first", pod="first")
            times = []
            for number in range(20):
                netns = node.new_pod()
                start = time.perf_counter()
                await node.cni("ADD", netns=netns, container=f"s{number}", pod=f"s{number}")
                times.append(time.perf_counter() - start)
            print(f"one ADD, executable included     {statistics.median(times) * 1000:8.1f} ms")
            pods = [node.new_pod() for _ in range(count)]
            start = time.perf_counter()
            answers = await asyncio.gather(
                *(node.cni("ADD", netns=netns, container=f"m{n}", pod=f"m{n}") for n, netns in enumerate(pods))
            )
            elapsed = time.perf_counter() - start
            failed = sum(answer.status != 0 for answer in answers)
            print(f"{count} ADDs at once               {elapsed * 1000:8.0f} ms, {failed} failed")
            start = time.perf_counter()
            answers = await asyncio.gather(
                *(node.cni("DEL", netns=netns, container=f"m{n}", pod=f"m{n}") for n, netns in enumerate(pods))
            )
            elapsed = time.perf_counter() - start
            failed = sum(answer.status != 0 for answer in answers)
            print(f"{count} DELs at once               {elapsed * 1000:8.0f} ms, {failed} failed")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
