"""The allocator: addresses for workloads, tunnels and services, shared safely by every host of a cluster.

All state is in the datastore; a call that dies half-way leaves at worst a handle that counts too much or an affinity
that is pending, and both are put right by whoever comes next.  No loop runs more than ``ATTEMPTS`` times, no call
longer than its deadline.

Source: Calico ``libcalico-go/lib/ipam/ipam.go``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

import structlog

from calico_node.addresses import parse_network
from calico_node.errors import IPAMError
from calico_node.ipam.assigning import Assigning, AssignRequest
from calico_node.ipam.blocks import Reservations
from calico_node.ipam.claims import LOST_RACE, BlockNotEmpty, ClaimConflict, StaleAffinity
from calico_node.ipam.documents import AffinityKey, BlockKey, ConfigKey, IPAMConfig
from calico_node.ipam.pools import pool_of, selects, walk_blocks
from calico_node.ipam.releasing import Releasing
from calico_node.ipam.store import Pool, Stored

log = structlog.get_logger(__name__)


class IPAM(Assigning, Releasing):
    """The allocator over one ``Store``: assignment, release, and here affinities and configuration.

    Every method raises ``IPAMError`` with the host, pool or address in the text, ``DatastoreError`` when the
    datastore fails.
    """

    async def ensure_block(self, hostname: str, version: int = 4) -> str:
        """Make sure that a host owns a block with a free address; returns its CIDR."""
        async with self._bounded(f"find a block for {hostname}"):
            plan, _ = await self._plan(AssignRequest(hostname=hostname), version)
            mine: deque[AffinityKey] = deque()
            async for item in self._store.affinities(hostname, version=version):
                if pool_of(plan.pools, item.key.cidr):
                    mine.append(item.key)
            stored, _ = await self._find_or_claim(plan, mine, set(), len(mine) < plan.block_limit)
            return stored.value.cidr

    async def claim_affinity(self, cidr: str, hostname: str) -> tuple[list[str], list[str]]:
        """Claim every block of ``cidr`` (a block or more, inside one pool) for a host: those claimed, and those that
        belong to others."""
        async with self._bounded(f"claim {cidr} for {hostname}"):
            claimed, failed = [], []
            for block in await self._blocks_in(cidr):
                try:
                    await self._retrying(partial(self._claims.claim, AffinityKey(host=hostname, cidr=block)))
                except (ClaimConflict, StaleAffinity):
                    failed.append(block)
                else:
                    claimed.append(block)
            return claimed, failed

    async def release_affinity(self, cidr: str, hostname: str, *, must_be_empty: bool = False) -> None:
        """Give up every block of ``cidr`` that the host owns.  Raises ``BlockNotEmpty`` where that forbids it."""
        async with self._bounded(f"release {cidr} of {hostname}"):
            for block in await self._blocks_in(cidr):
                await self._release_affinity(AffinityKey(host=hostname, cidr=block), must_be_empty)

    async def release_host_affinities(self, hostname: str, *, must_be_empty: bool = False) -> None:
        """Give up every block of a host.  Raises ``BlockNotEmpty`` (after trying all) where that forbids it."""
        async with self._bounded(f"release the blocks of {hostname}"):
            await self._release_affinities(
                [item.key async for item in self._store.affinities(hostname)], must_be_empty
            )

    async def release_pool_affinities(self, pool_cidr: str) -> None:
        """Leave every block of a pool without an owner (or delete it, when empty)."""
        pool = Pool(name=pool_cidr, cidr=str(parse_network(pool_cidr)), block_size=26)
        async with self._bounded(f"release the blocks of pool {pool_cidr}"):
            keys = [item.key async for item in self._store.affinities(version=pool.version)]
            await self._release_affinities([key for key in keys if pool.contains(key.cidr)], must_be_empty=False)

    async def repair_affinities(self, hostname: str) -> list[str]:
        """Finish what a crash of ``hostname`` left half-done: an affinity not confirmed is confirmed where the block
        names the host, else removed.  Returns the blocks concerned."""
        async with self._bounded(f"repair the affinities of {hostname}"):
            repaired = []
            for item in [item async for item in self._store.affinities(hostname)]:
                if item.value.confirmed:
                    continue
                repaired.append(item.key.cidr)
                try:
                    if await self._store.get(BlockKey(item.key.cidr)) is None:
                        await self._store.delete(item)
                    else:
                        await self._claims.block_of(item)
                except (IPAMError, *LOST_RACE) as error:
                    log.debug("Left an affinity to whoever changed it", block=item.key.cidr, reason=str(error))
            return repaired

    async def release_unselected(self, hostname: str) -> list[str]:
        """Give up the empty blocks of a host in pools that no longer select it; returns them."""
        async with self._bounded(f"release unwanted blocks of {hostname}"):
            labels = await self._store.node_labels(hostname)
            pools = [pool for pool in await self._store.pools() if pool.enabled]
            cooldown = (await self.get_config()).cooldown_seconds
            released = []
            for key in [item.key async for item in self._store.affinities(hostname)]:
                pool = pool_of(pools, key.cidr)
                try:
                    if pool is not None and not selects(pool, labels):
                        await self._claims.release(key, must_be_empty=True, cooldown=cooldown)
                        released.append(key.cidr)
                except (IPAMError, *LOST_RACE) as error:
                    log.debug(
                        "Kept a block of a pool that does not select the node", block=key.cidr, reason=str(error)
                    )
            return released

    async def _release_affinities(self, keys: Sequence[AffinityKey], must_be_empty: bool) -> None:
        not_empty: list[str] = []
        for key in keys:
            try:
                await self._release_affinity(key, must_be_empty)
            except BlockNotEmpty as error:
                not_empty.append(str(error))
        if not_empty:
            raise BlockNotEmpty("; ".join(not_empty))

    async def _release_affinity(self, key: AffinityKey, must_be_empty: bool) -> None:
        cooldown = (await self.get_config()).cooldown_seconds
        try:
            await self._retrying(lambda: self._claims.release(key, must_be_empty=must_be_empty, cooldown=cooldown))
        except ClaimConflict as error:
            log.debug("Removed a stale affinity", block=key.cidr, host=key.host, reason=str(error))

    async def _blocks_in(self, cidr: str) -> list[str]:
        pool = pool_of(await self._store.pools(), cidr)
        if pool is None:
            raise IPAMError(f"{cidr} is not within a configured pool")
        part = Pool(name=pool.name, cidr=str(parse_network(cidr)), block_size=pool.block_size)
        blocks = list(walk_blocks(part, 0, Reservations()))
        if not blocks:
            raise IPAMError(f"{cidr} is smaller than a block of IPPool({pool.name}), /{pool.block_size}")
        return blocks

    async def set_config(self, config: IPAMConfig) -> None:
        """Store the configuration.  Raises ``IPAMError`` for a combination that Calico refuses."""
        config.validate()

        async def write() -> None:
            stored: Stored[IPAMConfig] | None = await self._store.get(ConfigKey())
            if stored is None:
                await self._store.create(ConfigKey(), config)
            elif stored.value != config:
                await self._store.update(stored, config)

        async with self._bounded("store the IPAM configuration"):
            await self._retrying(write)
