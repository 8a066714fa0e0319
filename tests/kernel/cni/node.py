"""A node for the tests: a network namespace, an embedded datastore, the CNI server, and pods' namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from attrs import define, field

from calico_node.dataplanes.contract import PolicyDataplane, Route
from calico_node.dataplanes.linux_adapters import LinuxPodWiring, LinuxRouteSink
from calico_node.datastores import Client, open_client
from calico_node.errors import ResourceDoesNotExist
from calico_node.hookspecs import AgentContext, WorkloadMetadata
from calico_node.ipam import IPAM, KVStore
from calico_node.linux.namespaces import call_in_netns, make_netns
from calico_node.linux.netlink import NETLINK_ROUTE, NetlinkSocket
from calico_node.linux.rtnetlink import get_link, read_link, set_link
from calico_node.linux.sysctl import prepare_kernel
from calico_node.plugins.cni.component import CNI
from calico_node.plugins.cni.install import install_executables
from calico_node.resources import from_dict
from calico_node.settings import Settings

CONFIG: Mapping[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "k8s-pod-network",
    "type": "calico",
    "ipam": {"type": "calico-ipam"},
    "policy": {"type": "k8s"},
}
POOL = {
    "apiVersion": "projectcalico.org/v3",
    "kind": "IPPool",
    "metadata": {"name": "default-ipv4-ippool"},
    "spec": {"cidr": "10.65.0.0/16", "blockSize": 26, "natOutgoing": True, "nodeSelector": "all()"},
}
NODE = {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "node-a"}, "spec": {}}


@define
class Answer:
    status: int
    output: str
    errors: str

    @property
    def json(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.output)
        return data


def no_dataplane() -> PolicyDataplane:
    raise AssertionError("the CNI server needs no policy dataplane")


def run_in(netns: int, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in a network namespace given by descriptor."""
    return subprocess.run(
        ["nsenter", f"--net=/proc/{os.getpid()}/fd/{netns}", *command],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def netns_path(netns: int) -> str:
    return f"/proc/{os.getpid()}/fd/{netns}"


def raise_loopback(netns: int) -> None:
    with NetlinkSocket(NETLINK_ROUTE, netns=netns) as sock:
        sock.execute_now(set_link(read_link(sock.query_now(get_link("lo"))[0]).ifindex, up=True), "raise lo")


@define
class NodeUnderTest:
    folder: Path
    netns: int
    settings: Settings
    client: Client
    routes: LinuxRouteSink
    metadata: dict[tuple[str, str], WorkloadMetadata] = field(factory=dict)
    server: asyncio.Task[None] | None = None
    namespaces: list[int] = field(factory=list)

    def context(self, report: Callable[..., None]) -> AgentContext:
        def workload_metadata(namespace: str, pod: str) -> WorkloadMetadata | None:
            return self.metadata.get((namespace, pod), WorkloadMetadata(service_account="default"))

        reporter = SimpleNamespace(report=report)
        return AgentContext(
            settings=self.settings,
            client=self.client,
            health=SimpleNamespace(reporter=lambda *_, **__: reporter),
            hooks=SimpleNamespace(workload_metadata=workload_metadata),
            route_sink=self.routes,
            pod_wiring=LinuxPodWiring(netns=self.netns),
            make_dataplane=no_dataplane,
        )

    async def start(self) -> None:
        listening = asyncio.Event()

        def report(*, ready: bool = True, **_: Any) -> None:
            if ready:
                listening.set()

        self.server = asyncio.create_task(CNI().run(self.context(report)))
        await listening.wait()

    async def stop(self) -> None:
        if self.server is not None:
            self.server.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.server
            self.server = None

    def new_pod(self) -> int:
        netns = make_netns()
        self.namespaces.append(netns)
        raise_loopback(netns)
        return netns

    async def cni(
        self,
        command: str,
        *,
        netns: int | None = None,
        container: str = "c1",
        pod: str = "p1",
        config: Mapping[str, Any] = CONFIG,
        role: str = "calico",
        interface: str = "eth0",
        kubernetes: bool = True,
        path: str = "",
        arguments: str = "",
    ) -> Answer:
        """One run of the client executable."""
        pod_arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}" if kubernetes else ""
        environment = {
            "PATH": os.environ["PATH"],
            "CALICO_RUN_DIR": str(self.settings.run_dir),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": interface,
            "CNI_PATH": path,
            "CNI_NETNS": netns_path(netns) if netns is not None else "",
            "CNI_ARGS": ";".join(part for part in (pod_arguments, arguments) if part),
        }
        process = await asyncio.create_subprocess_exec(
            str(self.folder / "bin" / role),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate(json.dumps(config).encode())
        return Answer(process.returncode or 0, output.decode(), errors.decode())

    async def endpoints(self) -> list[Any]:
        return list((await self.client.list("WorkloadEndpoint")).items)

    async def keys(self, prefix: str) -> list[str]:
        return [kv.key for kv in (await self.client.kv.range(prefix)).kvs]

    async def held(self, container: str) -> list[str]:
        """The addresses a container holds in IPAM."""
        try:
            return await IPAM(KVStore(self.client)).ips_by_handle(f"{CONFIG['name']}.{container}")
        except ResourceDoesNotExist:
            return []

    def links(self, netns: int | None = None) -> list[str]:
        output = run_in(self.netns if netns is None else netns, "ip", "-o", "link").stdout
        return [line.split(": ")[1].partition("@")[0] for line in output.splitlines()]

    def host_routes(self) -> list[str]:
        return run_in(self.netns, "ip", "-4", "route").stdout.splitlines()


def workload_route(address: str, device: str) -> Route:
    """A workload's route as Felix wants it."""
    return Route(address, device=device, scope_link=True, metric=1024)


@contextlib.asynccontextmanager
async def node_under_test(folder: Path) -> AsyncIterator[NodeUnderTest]:
    netns = make_netns()
    raise_loopback(netns)
    call_in_netns(netns, prepare_kernel)
    settings = Settings.load(
        {
            "NODENAME": "node-a",
            "CALICO_RUN_DIR": str(folder / "run"),
            "CALICO_STATE_DIR": str(folder / "lib"),
            "CALICO_DATASTORE_PATH": str(folder / "datastore.db"),
        }
    )
    async with open_client(settings) as client, LinuxRouteSink(netns=netns) as routes:
        await client.ensure_initialized()
        for resource in (POOL, NODE):
            await client.create(from_dict(resource))
        node = NodeUnderTest(folder, netns, settings, client, routes)
        install_executables(folder / "bin")
        await node.start()
        try:
            yield node
        finally:
            await node.stop()
            for fd in (*node.namespaces, netns):
                os.close(fd)
