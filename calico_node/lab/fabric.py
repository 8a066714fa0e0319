"""The lab's network: one bridged segment with the nodes and the outside hosts on it.

The supervisor's own network namespace holds the bridge.  A node's namespace forwards; a host's has one route per
address block through the node that owns it, kept current from the datastore.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping

import structlog
from attrs import define, field

from calico_node.datastores import Client
from calico_node.errors import CalicoError, Compacted
from calico_node.lab.control import Progress
from calico_node.lab.paths import LabPaths
from calico_node.lab.spec import CLUSTER_NETWORK, LabSpec
from calico_node.linux.namespaces import call_in_netns, make_named_netns, remove_named_netns
from calico_node.linux.sandbox import raise_loopback
from calico_node.linux.segment import StaticRoutes, add_device_route, make_bridge, plug, route_prefixes, write_sysctls

log = structlog.get_logger("lab")

BRIDGE = "fabric"
DEVICE = "eth0"
_AFFINITIES = "/calico/ipam/v2/host/"
_NODE_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
}
_HOST_SYSCTLS = {
    "net/ipv4/ip_forward": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
}
_RETRY = 0.5
_ROUTES_TIMEOUT = 10.0
_POLL = 0.03


@define(eq=False)
class Fabric:
    """Builds the segment, and keeps the hosts' routes."""

    paths: LabPaths
    blocks: dict[str, str] = field(factory=dict, init=False)
    """Each address block (CIDR) and the node that owns it, as last seen in the datastore."""
    _routes: dict[str, StaticRoutes] = field(factory=dict, init=False)

    def build(self, spec: LabSpec, datastore: str = "", address: str = "") -> None:
        """Make bridge, namespaces and devices.  Blocks for some milliseconds per machine.

        ``datastore`` is the namespace of a machine for the datastore, with ``address``; "" for none.
        """
        (self.paths.root / "netns").mkdir()
        make_bridge(BRIDGE)
        machines = [("node", node) for node in spec.nodes] + [("host", host) for host in spec.hosts]
        for number, (kind, machine) in enumerate(machines):
            netns = str(self.paths.netns(kind, machine.name))
            self.make_netns(netns)
            write_sysctls(netns, _NODE_SYSCTLS if kind == "node" else _HOST_SYSCTLS)
            plug(BRIDGE, f"{kind}{number}", netns, DEVICE, machine.address)
            if kind == "node":
                for folder in (self.paths.run_dir(machine.name), self.paths.state_dir(machine.name)):
                    folder.mkdir(parents=True)
                # A connection to a cluster IP needs some route before kube-proxy's table can redirect it.
                add_device_route(netns, str(CLUSTER_NETWORK), DEVICE)
            else:
                self._routes[machine.name] = StaticRoutes(netns)
        if datastore:
            self.make_netns(datastore)
            write_sysctls(datastore, _HOST_SYSCTLS)
            plug(BRIDGE, "datastore", datastore, DEVICE, address)

    def make_netns(self, path: str) -> None:
        """A network namespace with ``lo`` up, named inside the lab alone."""
        os.close(make_named_netns(path))
        call_in_netns(path, raise_loopback)

    def drop_netns(self, path: str) -> None:
        remove_named_netns(path)

    async def follow_blocks(self, client: Client, spec: LabSpec) -> None:
        """Keep ``blocks`` and the hosts' routes as the block affinities say; ends only with its task."""
        addresses = {node.name: node.ip for node in spec.nodes}
        while True:
            with contextlib.suppress(Compacted):
                try:
                    revision = await self._list(client)
                    await self._set_routes(addresses)
                    async for batch in client.kv.watch(_AFFINITIES, start_revision=revision + 1, previous=False):
                        if batch.events:
                            await self._list(client)
                            await self._set_routes(addresses)
                except Compacted:
                    continue
                except CalicoError as error:
                    log.warning("hosts' routes are not kept current", error=str(error))
            await asyncio.sleep(_RETRY)

    async def wait_routes(
        self, client: Client, spec: LabSpec, progress: Progress, *, without: Callable[[str], bool]
    ) -> None:
        """Until every node has a route to each block of the others (but those ``without``), and the hosts theirs.

        Gives up after ten seconds: a cluster whose documents peer its nodes otherwise may never have them all.
        """
        await self._list(client)
        await self._set_routes({node.name: node.ip for node in spec.nodes})
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ROUTES_TIMEOUT
        waiting = list(spec.nodes)
        while waiting and loop.time() < deadline:
            for node in list(waiting):
                needed = {cidr for cidr, owner in self.blocks.items() if owner != node.name and not without(cidr)}
                netns = str(self.paths.netns("node", node.name))
                if needed <= await asyncio.to_thread(route_prefixes, netns):
                    waiting.remove(node)
            progress("routes", len(spec.nodes) - len(waiting), len(spec.nodes))
            if waiting:
                await asyncio.sleep(_POLL)
        if waiting:
            log.warning("nodes without routes to all blocks", nodes=[node.name for node in waiting])

    async def _list(self, client: Client) -> int:
        found = await client.kv.range(_AFFINITIES)
        blocks: dict[str, str] = {}
        for item in found.kvs:
            # …/<node>/ipv4/block/10.244.0.0-26
            parts = item.key.removeprefix(_AFFINITIES).split("/")
            if len(parts) == 4 and parts[1:3] == ["ipv4", "block"] and b'"confirmed"' in item.value:
                blocks[parts[3].replace("-", "/")] = parts[0]
        self.blocks = blocks
        return found.revision

    async def _set_routes(self, addresses: Mapping[str, str]) -> None:
        wanted = {cidr: addresses[node] for cidr, node in self.blocks.items() if node in addresses}
        for routes in self._routes.values():
            await asyncio.to_thread(routes.set, wanted)
