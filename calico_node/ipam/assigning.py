"""Assigning addresses: automatically, or one that is named.

Source: Calico ``libcalico-go/lib/ipam/ipam.go``, AutoAssign and AssignIP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

import anyio
import anyio.lowlevel
import structlog
from attrs import field, frozen

from calico_node.addresses import parse_address
from calico_node.errors import CalicoError, IPAMError
from calico_node.ipam.blocks import AlreadyAssigned, Block, Reservations
from calico_node.ipam.claims import LOST_RACE, ClaimConflict, StaleAffinity
from calico_node.ipam.core import ATTEMPTS, Core
from calico_node.ipam.documents import HOST, LOAD_BALANCER, VIRTUAL, Affinity, AffinityKey, BlockKey, IPAMConfig
from calico_node.ipam.pools import (
    LOAD_BALANCER_USE,
    WORKLOAD,
    block_cidr_of,
    determine_pools,
    order_blocks,
    pool_of,
    selects,
    start_index,
    walk_blocks,
)
from calico_node.ipam.store import Pool, Stored

log = structlog.get_logger(__name__)

DEFAULT_MAX_BLOCKS = 20
RECLAIM_AFTER = 60  # seconds an empty block of another host is left alone after it was claimed


class BlockLimit(IPAMError):
    """The host holds as many blocks as it may."""


class NoFreeBlocks(IPAMError):
    """No pool has a block that the host could claim."""


@frozen
class AssignRequest:
    """What ``IPAM.auto_assign`` is asked for.

    ``pools4`` / ``pools6`` are CIDRs; given, they alone are drawn from, whatever their selectors say.
    ``namespace_labels`` None: no namespace is known.  ``use`` is Workload, Tunnel or LoadBalancer.
    ``attributes`` should hold ``node``: other nodes' routes to borrowed addresses hang on it; added when absent.
    """

    hostname: str
    num4: int = 0
    num6: int = 0
    handle_id: str | None = None
    attributes: Mapping[str, str] = field(factory=dict, hash=False)
    pools4: tuple[str, ...] = ()
    pools6: tuple[str, ...] = ()
    max_blocks_per_host: int = 0
    use: str = WORKLOAD
    namespace_labels: Mapping[str, str] | None = field(default=None, hash=False)


@frozen
class Assignment:
    """Addresses of one IP version, with their block's prefix length (``10.65.0.66/29``)."""

    version: int
    requested: int = 0
    addresses: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return len(self.addresses) >= self.requested

    def shortfall(self) -> str:
        """Why there are fewer addresses than requested."""
        text = f"Assigned {len(self.addresses)} out of {self.requested} requested IPv{self.version} addresses"
        return "; ".join([text, *self.messages])


@frozen
class AutoAssigned:
    """``error`` says why assignment stopped; what was assigned before that is still assigned."""

    ipv4: Assignment = Assignment(4)
    ipv6: Assignment = Assignment(6)
    error: CalicoError | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.ipv4.addresses + self.ipv6.addresses

    @property
    def complete(self) -> bool:
        return self.error is None and self.ipv4.complete and self.ipv6.complete

    def explain(self) -> str:
        """Why the request is not fulfilled; "" when it is."""
        if self.error is not None:
            return str(self.error)
        return "; ".join(part.shortfall() for part in (self.ipv4, self.ipv6) if not part.complete)


@frozen
class _Plan:
    """All that one automatic assignment of one IP version goes by."""

    request: AssignRequest
    version: int
    config: IPAMConfig
    reservations: Reservations
    pools: tuple[Pool, ...]
    type: str
    host: str
    node_labels: Mapping[str, str]

    @property
    def owner(self) -> str:
        return f"{self.type}:{self.host}"

    def key(self, cidr: str) -> AffinityKey:
        return AffinityKey(host=self.host, cidr=cidr, type=self.type)

    @property
    def block_limit(self) -> int:
        limits = [n for n in (self.request.max_blocks_per_host, self.config.max_blocks_per_host) if n > 0]
        return min(limits, default=DEFAULT_MAX_BLOCKS)


class Assigning(Core):
    """The half of the allocator that gives addresses out."""

    async def auto_assign(self, request: AssignRequest) -> AutoAssigned:
        """Assign addresses from whatever pools allow it: from the host's own blocks, then from a block newly claimed,
        then (unless affinity is strict) from other hosts' blocks.

        Never raises for a shortage: look at ``AutoAssigned.complete``.
        """
        parts = {4: Assignment(4), 6: Assignment(6)}
        try:
            async with self._bounded(f"assign addresses to {request.hostname}"):
                for version, count in ((4, request.num4), (6, request.num6)):
                    if count <= 0:
                        continue
                    addresses: list[str] = []
                    messages: list[str] = []
                    try:
                        await self._auto_assign(request, version, count, addresses, messages)
                    finally:
                        parts[version] = Assignment(version, count, tuple(addresses), tuple(messages))
        except CalicoError as error:
            return AutoAssigned(parts[4], parts[6], error)
        return AutoAssigned(parts[4], parts[6])

    async def _auto_assign(
        self, request: AssignRequest, version: int, count: int, got: list[str], messages: list[str]
    ) -> None:
        plan, all_pools = await self._plan(request, version)
        mine: list[AffinityKey] = []
        strangers: list[AffinityKey] = []
        async for item in self._store.affinities(plan.host, version=version, type=plan.type):
            (mine if pool_of(plan.pools, item.key.cidr) else strangers).append(item.key)
        await self._let_go(plan, all_pools, strangers)
        owned, remaining = len(mine), deque(mine)
        refused: set[str] = set()
        while len(got) < count:
            try:
                stored, new = await self._find_or_claim(plan, remaining, refused, owned < plan.block_limit)
            except NoFreeBlocks as error:
                messages.append(str(error))
                break
            owned += new
            got += await self._assign_retrying(
                plan, stored, count - len(got), plan.owner if plan.config.strict_affinity else None
            )
        if len(got) < count and not plan.config.strict_affinity:
            await self._borrow(plan, count, got)
        if len(got) < count:
            names = " ".join(f"{pool.name}({pool.cidr})" for pool in plan.pools)
            messages.append(f"No IPs available in pools: [{names}]")

    async def _plan(self, request: AssignRequest, version: int) -> tuple[_Plan, list[Pool]]:
        config = await self.get_config()
        reservations = Reservations(await self._store.reservations())
        if request.use == LOAD_BALANCER_USE:
            kind, host, labels = VIRTUAL, LOAD_BALANCER, dict[str, str]()
        else:
            kind, host, labels = HOST, request.hostname, dict(await self._store.node_labels(request.hostname))
        pools = await self._store.pools()
        chosen = determine_pools(
            pools,
            requested=request.pools4 if version == 4 else request.pools6,
            version=version,
            host=host,
            node_labels=labels,
            namespace_labels=request.namespace_labels,
            use=request.use,
        )
        return _Plan(request, version, config, reservations, tuple(chosen), kind, host, labels), pools

    async def _let_go(self, plan: _Plan, pools: Sequence[Pool], affinities: Sequence[AffinityKey]) -> None:
        """Release empty blocks of pools that no longer select this node; never mind when it fails."""
        for key in affinities:
            pool = pool_of((pool for pool in pools if pool.enabled), key.cidr)
            if pool is None:
                continue
            try:
                if not selects(pool, plan.node_labels):
                    await self._claims.release(key, must_be_empty=True, cooldown=plan.config.cooldown_seconds)
            except (IPAMError, *LOST_RACE) as error:
                log.debug("Kept a block of a pool that no longer selects the node", block=key.cidr, reason=str(error))

    async def _find_or_claim(
        self, plan: _Plan, remaining: deque[AffinityKey], refused: set[str], may_claim: bool
    ) -> tuple[Stored[Block], bool]:
        """A block of this host with a free address, and whether it was claimed just now."""
        while remaining:
            key = remaining.popleft()
            if plan.reservations.covers(key.cidr):
                continue
            try:
                stored = await self._retrying(partial(self._own_block, key))
            except IPAMError as error:
                log.debug("Passed over an affine block", block=key.cidr, reason=str(error))
                continue
            if stored is not None and self._free(plan, stored.value) > 0:
                return stored, False
        if not may_claim:
            raise BlockLimit(
                f"host {plan.host} may not claim another IPv{plan.version} block: the limit is {plan.block_limit}"
            )
        if not plan.config.auto_allocate_blocks:
            raise IPAMError(f"failed to find or claim a block for host {plan.host}: automatic allocation is disabled")
        for _ in range(ATTEMPTS):
            cidr = await self._find_usable_block(plan, refused)
            try:
                claimed = await self._retrying(partial(self._claims.claim, plan.key(cidr)))
            except (ClaimConflict, StaleAffinity):
                continue
            except IPAMError as error:
                log.warning("Could not claim a block", block=cidr, host=plan.host, reason=str(error))
                refused.add(cidr)
                continue
            if self._free(plan, claimed.value) > 0:
                return claimed, True
        raise IPAMError(f"Max retries hit - excessive concurrent IPAM requests (host {plan.host})")

    async def _own_block(self, key: AffinityKey) -> Stored[Block] | None:
        affinity: Stored[Affinity] | None = await self._store.get(key)
        return None if affinity is None else await self._claims.block_of(affinity)

    def _free(self, plan: _Plan, block: Block) -> int:
        ready = block.collected(self._now(), plan.config.cooldown_seconds)
        return ready.free(plan.reservations.ordinals(block.cidr))

    async def _find_usable_block(self, plan: _Plan, refused: set[str]) -> str:
        """A block CIDR to claim: one that does not exist, else an empty one of somebody who does not use it."""
        existing = {item.value.cidr: item async for item in self._store.blocks(plan.version)}
        empty: list[Stored[Block]] = []
        steps = 0
        for pool in plan.pools:
            for cidr in walk_blocks(pool, start_index(pool, plan.host, self._clock()), plan.reservations):
                steps += 1
                if steps % 1000 == 0:
                    await anyio.lowlevel.checkpoint()
                if cidr in refused:
                    continue
                stored = existing.get(cidr)
                if stored is None:
                    return cidr
                ready = stored.value.collected(self._now(), plan.config.cooldown_seconds)
                if ready.free(plan.reservations.ordinals(cidr)) == 0:
                    continue
                if ready.affinity == plan.owner:
                    return cidr
                if ready.empty:
                    empty.append(stored)
        for stored in empty:
            if (stored.value.claim_time or 0) > self._now() - RECLAIM_AFTER:
                continue
            try:
                await self._reclaim(plan, stored)
            except (IPAMError, *LOST_RACE) as error:
                log.debug("Could not reclaim an empty block", block=stored.value.cidr, reason=str(error))
                continue
            return stored.value.cidr
        raise NoFreeBlocks(f"no free IPv{plan.version} block for host {plan.host}")

    async def _reclaim(self, plan: _Plan, stored: Stored[Block]) -> None:
        """Take an empty block away from whoever holds it."""
        block = stored.value
        if block.affinity is None:
            await self._store.delete(stored)
            return
        kind, _, host = block.affinity.partition(":")
        await self._claims.release(
            AffinityKey(host=host, cidr=block.cidr, type=kind),
            must_be_empty=True,
            cooldown=plan.config.cooldown_seconds,
            required_sequence=block.sequence_number,
        )

    async def _assign_retrying(self, plan: _Plan, stored: Stored[Block], count: int, owner: str | None) -> list[str]:
        """Up to ``count`` addresses of one block; with ``owner`` only while the block is that owner's."""
        current: Stored[Block] | None = stored
        for attempt in range(ATTEMPTS):
            if current is None or (owner is not None and current.value.affinity != owner):
                return []
            try:
                return await self._assign_from_block(plan, current, count)
            except LOST_RACE:
                await self._pause(attempt)
                current = await self._store.get(stored.key)
        raise IPAMError(f"Max retries hit assigning from block {stored.value.cidr} for host {plan.host}")

    async def _assign_from_block(self, plan: _Plan, stored: Stored[Block], count: int) -> list[str]:
        block = stored.value.collected(self._now(), plan.config.cooldown_seconds)
        ordinals = block.next_free(count, plan.reservations.ordinals(block.cidr))
        if not ordinals:
            return []
        request = plan.request
        attributes = {"node": request.hostname, **request.attributes}
        after = block.assigned(ordinals, request.handle_id, attributes)
        await self._write_allocation(stored, after, request.handle_id, len(ordinals))
        length = block.network.prefixlen
        return [f"{block.address(ordinal)}/{length}" for ordinal in ordinals]

    async def _write_allocation(self, stored: Stored[Block], after: Block, handle_id: str | None, count: int) -> None:
        """The handle first, so that no address is ever held without its handle knowing; then the block."""
        if handle_id is not None:
            await self._count_handle(handle_id, after.cidr, count)
        try:
            await self._store.update(stored, after.following(stored.value))
        except LOST_RACE:
            # Only now is it certain that the block was not written; after any other failure the count stays too
            # high, which is harmless, where one too low would lose the address.
            if handle_id is not None:
                with anyio.CancelScope(shield=True), anyio.move_on_after(30):
                    await self._count_handle(handle_id, after.cidr, -count)
            raise

    async def _borrow(self, plan: _Plan, count: int, got: list[str]) -> None:
        """Take addresses from blocks that belong to other hosts."""
        cidrs = [item.value.cidr async for item in self._store.blocks(plan.version)]
        for pool in plan.pools:
            for cidr in order_blocks(pool, start_index(pool, plan.host, self._clock()), cidrs):
                if plan.reservations.covers(cidr):
                    continue
                stored: Stored[Block] | None = await self._store.get(BlockKey(cidr))
                if stored is not None:
                    got += await self._assign_retrying(plan, stored, count - len(got), None)
                if len(got) >= count:
                    return

    async def assign_ip(
        self,
        address: str,
        *,
        hostname: str,
        handle_id: str | None = None,
        attributes: Mapping[str, str] | None = None,
        use: str = "",
    ) -> str:
        """Assign one given address (returned bare).  Selectors, the assignment mode, reservations and the block limit
        do not apply, and no Node is needed.  Raises ``AlreadyAssigned`` when it is taken or cools down."""
        address = str(parse_address(address))
        async with self._bounded(f"assign {address} to {hostname}"):
            config = await self.get_config()
            pool = pool_of((pool for pool in await self._store.pools() if pool.enabled), address)
            if pool is None:
                raise IPAMError(f"The provided IP address {address} is not in a configured pool\n")
            if use and use not in pool.allowed_uses:
                raise IPAMError(f"IPPool({pool.name}) does not allow use {use} for address {address}")
            key = AffinityKey(host=hostname, cidr=block_cidr_of(pool, address))
            secondary = {"node": hostname, **(attributes or {})}
            for attempt in range(ATTEMPTS):
                try:
                    stored = await self._block_for(key)
                    if config.strict_affinity and stored.value.affinity != key.owner:
                        raise IPAMError(
                            f"Block host affinity does not match: {key.cidr} belongs to {stored.value.affinity}, "
                            f"not to {key.owner}"
                        )
                    block = stored.value.collected(self._now(), config.cooldown_seconds)
                    ordinal = block.ordinal(address)
                    after = block.assigned([ordinal], handle_id, secondary)
                    await self._write_allocation(stored, after, handle_id, 1)
                    return address
                except AlreadyAssigned:
                    raise
                except (ClaimConflict, StaleAffinity, *LOST_RACE):
                    await self._pause(attempt)
            raise IPAMError(f"Max retries hit assigning {address} in IPPool({pool.name}) to host {hostname}")

    async def _block_for(self, key: AffinityKey) -> Stored[Block]:
        stored: Stored[Block] | None = await self._store.get(BlockKey(key.cidr))
        return stored if stored is not None else await self._claims.claim(key)
