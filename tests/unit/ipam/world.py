"""A small cluster for IPAM tests: pools, nodes and a clock, over the engine in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

from calico_node.errors import ResourceDoesNotExist
from calico_node.ipam import IPAM, AssignRequest, AutoAssigned, Block, KVStore, Pool
from calico_node.ipam.documents import BlockKey, decode_block, decode_handle
from calico_node.ipam.store import key_path, parse_affinity_path
from tests.unit.ipam.memory import MemoryEngine

START = 1_785_578_400_000_000_000  # 2026-08-01T10:00:00Z
T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


class WorldStore(KVStore):
    """Pools, reservations and nodes come from the world, documents from the engine."""

    async def pools(self) -> list[Pool]:
        return sorted(self.client.world.pool_list, key=lambda pool: pool.name)

    async def reservations(self) -> list[str]:
        return list(self.client.world.reserved)

    async def node_labels(self, name: str) -> Mapping[str, str]:
        if name not in self.client.world.nodes:
            raise ResourceDoesNotExist(f"Node({name})")
        return self.client.world.nodes[name]


class World:
    def __init__(self, *pools: Pool, nodes: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.pool_list = list(pools) or [Pool("pool", "10.65.0.0/26", 29)]
        self.reserved: list[str] = []
        self.nodes = dict(nodes if nodes is not None else {"node-a": {}, "node-b": {}, "node-c": {}})
        self.engine = MemoryEngine()
        self.now = START
        self.ipam = self.allocator()

    def allocator(self, engine: Any = None) -> IPAM:
        client = SimpleNamespace(kv=engine or self.engine, world=self)
        return IPAM(WorldStore(client), clock=lambda: self.now, backoff=0.0)

    def pass_time(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000_000)

    async def assign(self, host: str, count: int = 1, handle: str | None = None, **more: Any) -> AutoAssigned:
        more.setdefault("attributes", {"node": host})
        return await self.ipam.auto_assign(AssignRequest(hostname=host, num4=count, handle_id=handle, **more))

    # -- looking at what is stored --------------------------------------------------------------------------------

    def block(self, cidr: str) -> Block | None:
        kv = self.engine.data.get(key_path(BlockKey(cidr)))
        return decode_block(kv.value) if kv else None

    def blocks(self) -> dict[str, Block]:
        prefix = "/calico/ipam/v2/assignment/"
        stored = [decode_block(kv.value) for key, kv in self.engine.data.items() if key.startswith(prefix)]
        return {block.cidr: block for block in stored}

    def affinities(self) -> dict[tuple[str, str], str]:
        found = {}
        for key, kv in self.engine.data.items():
            parsed = parse_affinity_path(key) if key.startswith("/calico/ipam/v2/host/") else None
            if parsed is not None:
                found[parsed.host, parsed.cidr] = kv.value.decode().split('"')[3]
        return found

    def handles(self) -> dict[str, Mapping[str, int]]:
        prefix = "/calico/ipam/v2/handle/"
        return {
            key.removeprefix(prefix): decode_handle(kv.value).blocks
            for key, kv in self.engine.data.items()
            if key.startswith(prefix)
        }

    def held(self) -> dict[str, str | None]:
        """Every address that is allocated (not merely cooling), and its handle."""
        return {
            block.address(ordinal): owner.handle
            for block in self.blocks().values()
            for ordinal in range(len(block.allocations))
            if (owner := block.owner(ordinal)) is not None and owner.released_at is None
        }
