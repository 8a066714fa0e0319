"""All that IPAM and its users have in the datastore, read at one revision: nothing can change between two reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen

from calico_node.calicoctl.snapshot import resources, scan
from calico_node.datastores import Client
from calico_node.errors import ResourceDoesNotExist, ValidationError
from calico_node.ipam.blocks import Block, MalformedDocument
from calico_node.ipam.documents import ConfigKey, IPAMConfig, decode_block, decode_config, decode_handle
from calico_node.ipam.store import PREFIX, Pool, key_path

BLOCKS = f"{PREFIX}assignment/"
HANDLES = f"{PREFIX}handle/"


@frozen
class HandleRecord:
    """A stored handle; ``revision`` is that of its last change, ``counts`` its addresses by block, None where that
    cannot be read."""

    id: str
    revision: int
    counts: Mapping[str, int] | None = field(hash=False)


@define
class Inventory:
    """``faults`` name each stored document that cannot be used, with the reason."""

    cluster: Any
    revision: int
    config: IPAMConfig = field(factory=IPAMConfig)
    blocks: list[Block] = field(factory=list)
    pools: list[Pool] = field(factory=list)
    handles: list[HandleRecord] = field(factory=list)
    faults: list[str] = field(factory=list)

    @property
    def locked(self) -> bool:
        """Whether the cluster is told to leave the datastore alone (``calicoctl datastore migrate lock``)."""
        return self.cluster is not None and self.cluster.spec.datastore_ready is False


async def take_inventory(client: Client) -> Inventory:
    """Blocks, pools, handles and configuration; ``cluster`` is None in a datastore nobody has prepared."""
    try:
        cluster = await client.get("ClusterInformation", "default")
    except ResourceDoesNotExist:
        cluster = None
    stored, revision = await client.kv.get(key_path(ConfigKey()))
    inventory = Inventory(cluster, revision)
    if stored is not None:
        try:
            inventory.config = decode_config(stored.value)
        except MalformedDocument as error:
            inventory.faults.append(str(error))
    async for block in scan(client.kv, BLOCKS, revision):
        try:
            inventory.blocks.append(decode_block(block.value, block.key.rpartition("/")[2]))
        except MalformedDocument as error:
            inventory.faults.append(str(error))
    pools, faults = await resources(client, "IPPool", revision)
    for pool in pools:
        try:
            inventory.pools.append(Pool.from_resource(pool))
        except ValidationError as error:
            faults.append(f"IPPool({pool.metadata.name}): {error}")
    inventory.faults += faults
    async for handle in scan(client.kv, HANDLES, revision):
        name, counts = handle.key.removeprefix(HANDLES), None
        try:
            counts = decode_handle(handle.value, name).blocks
        except MalformedDocument as error:
            inventory.faults.append(str(error))
        inventory.handles.append(HandleRecord(name, handle.mod_revision, counts))
    return inventory
