"""An agent that stops in the middle of an ADD, for a test to kill: ``stalling_agent.py NETNS addresses|wiring``."""

from __future__ import annotations

import asyncio
import os
import sys
from types import SimpleNamespace
from typing import Any

from calico_node.dataplanes.contract import PodInterface
from calico_node.dataplanes.linux_adapters import LinuxPodWiring
from calico_node.datastores import open_client
from calico_node.hookspecs import AgentContext, WorkloadMetadata
from calico_node.linux.namespaces import open_netns
from calico_node.plugins.cni.component import CNI
from calico_node.settings import Settings


class StallingWiring(LinuxPodWiring):
    """Stops before the wiring, or after it."""

    def __init__(self, netns: int, after: bool) -> None:
        super().__init__(netns=netns)
        self._after = after

    async def add(self, netns_fd: int, pod: PodInterface) -> str:
        if self._after:
            await super().add(netns_fd, pod)
        print("stalled", flush=True)
        await asyncio.Event().wait()
        raise AssertionError("it is killed before")


async def main(netns: str, step: str) -> None:
    settings = Settings.load(os.environ)
    metadata = SimpleNamespace(workload_metadata=lambda **_: WorkloadMetadata(service_account="default"))
    reporter = SimpleNamespace(report=lambda **_: print("listening", flush=True))
    anything: Any = None
    async with open_client(settings) as client:
        context = AgentContext(
            settings=settings,
            client=client,
            health=SimpleNamespace(reporter=lambda *_, **__: reporter),
            hooks=metadata,
            route_sink=anything,
            pod_wiring=StallingWiring(open_netns(netns), step == "wiring"),
            make_dataplane=anything,
        )
        await CNI().run(context)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
