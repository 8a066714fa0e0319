"""What the deletion of a Node or an IPPool means to IPAM; for ``Client.on_node_delete`` and ``on_pool_delete``.

Source: Calico ``libcalico-go/lib/clientv3/{node,ippool}.go``.
"""

from __future__ import annotations

from typing import Any

from calico_node.datastores.client import Client
from calico_node.errors import ResourceDoesNotExist
from calico_node.ipam.allocator import IPAM
from calico_node.ipam.releasing import ReleaseFailed
from calico_node.ipam.store import KVStore

TUNNEL_HANDLES = (
    "ipip-tunnel-addr-",
    "vxlan-tunnel-addr-",
    "vxlan-v6-tunnel-addr-",
    "wireguard-tunnel-addr-",
    "wireguard-v6-tunnel-addr-",
)


def register(client: Client) -> None:
    """Let deletions through ``client`` release what they must; doing it twice does no harm."""
    if node_deleted not in client.on_node_delete:
        client.on_node_delete.append(node_deleted)
    if pool_deleted not in client.on_pool_delete:
        client.on_pool_delete.append(pool_deleted)


async def node_deleted(client: Client, node: Any) -> None:
    """Release the addresses of the node's workloads and tunnels, then its blocks."""
    ipam, name = IPAM(KVStore(client)), node.metadata.name
    addresses = [
        network
        for endpoint in (await client.list("WorkloadEndpoint")).items
        if endpoint.spec.node == name
        for network in endpoint.spec.ip_networks
    ]
    if addresses:
        try:
            await ipam.release_ips(addresses)
        except ReleaseFailed:
            pass  # somebody released them first; what is left keeps its block
    for prefix in TUNNEL_HANDLES:
        try:
            await ipam.release_by_handle(prefix + name)
        except ResourceDoesNotExist:
            pass
    await ipam.release_host_affinities(name)


async def pool_deleted(client: Client, pool: Any) -> None:
    """Leave the pool's blocks without owners (the empty ones go)."""
    await IPAM(KVStore(client)).release_pool_affinities(pool.spec.cidr)
