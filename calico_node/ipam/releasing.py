"""Releasing addresses, and asking who holds them.

Source: Calico ``libcalico-go/lib/ipam/ipam.go``, ReleaseIPs and ReleaseByHandle.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import structlog
from attrs import frozen

from calico_node.addresses import parse_address, parse_network
from calico_node.errors import CalicoError, IPAMError, ResourceDoesNotExist
from calico_node.ipam.blocks import Attribute, Block, Release
from calico_node.ipam.claims import LOST_RACE
from calico_node.ipam.core import ATTEMPTS, Core
from calico_node.ipam.documents import HOST, AffinityKey, BlockKey, Handle, HandleKey, IPAMConfig
from calico_node.ipam.pools import block_cidr_of, pool_of, selects
from calico_node.ipam.store import Pool, Stored

log = structlog.get_logger(__name__)


class ReleaseFailed(IPAMError):
    """Some blocks refused their releases; ``result`` says what was released all the same."""

    def __init__(self, text: str, result: Released) -> None:
        super().__init__(text)
        self.result = result


@frozen
class Released:
    """``unallocated`` were not allocated, or already cool down."""

    released: tuple[str, ...] = ()
    unallocated: tuple[str, ...] = ()


class Releasing(Core):
    """The half of the allocator that takes addresses back."""

    async def release_ips(self, requests: Sequence[Release | str]) -> Released:
        """Release addresses.  Raises ``ReleaseFailed`` when a block refused (wrong handle or sequence number: then
        none of that block's is released); the other blocks' are released all the same."""
        wanted = [Release(r.partition("/")[0]) if isinstance(r, str) else r for r in requests]
        async with self._bounded(f"release {len(wanted)} addresses"):
            config, pools = await self.get_config(), await self._store.pools()
            groups, lost = await self._group(wanted, pools)
            released: list[str] = []
            unallocated: list[str] = [request.address for request in lost]
            errors: list[str] = []
            limiter = anyio.CapacityLimiter(8)

            async def one(cidr: str, items: list[Release]) -> None:
                async with limiter:
                    try:
                        done, free = await self._release_in(cidr, items, config, pools)
                    except CalicoError as error:
                        errors.append(str(error))
                    else:
                        released.extend(done)
                        unallocated.extend(free)

            async with anyio.create_task_group() as group:
                for cidr, items in groups.items():
                    group.start_soon(one, cidr, items)
            result = Released(tuple(released), tuple(unallocated))
            if errors:
                raise ReleaseFailed("; ".join(errors), result)
            return result

    async def _group(
        self, requests: Sequence[Release], pools: Sequence[Pool]
    ) -> tuple[dict[str, list[Release]], list[Release]]:
        """Requests by the block that holds them, and those that no block holds."""
        groups: dict[str, list[Release]] = {}
        homeless: list[Release] = []
        for request in requests:
            pool = pool_of(pools, request.address)
            if pool is None:
                homeless.append(request)
            else:
                groups.setdefault(block_cidr_of(pool, request.address), []).append(request)
        if homeless:
            networks = [parse_network(item.value.cidr) async for item in self._store.blocks()]
            rest = []
            for request in homeless:
                ip = parse_address(request.address)
                cidr = next((str(net) for net in networks if ip in net), None)
                if cidr is None:
                    rest.append(request)
                else:
                    groups.setdefault(cidr, []).append(request)
            homeless = rest
        return groups, homeless

    async def _release_in(
        self, cidr: str, requests: list[Release], config: IPAMConfig, pools: Sequence[Pool]
    ) -> tuple[list[str], list[str]]:
        for attempt in range(ATTEMPTS):
            found = await self._claims.read_block(cidr, config.cooldown_seconds)
            if found is None:
                return [], [request.address for request in requests]
            stored, block = found
            after, done, unallocated, lost = block.released(requests, self._now(), config.cooldown_seconds)
            if done:
                try:
                    await self._write_release(stored, after)
                except LOST_RACE:
                    await self._pause(attempt)
                    continue
                for handle, count in lost.items():
                    await self._count_handle(handle, cidr, -count)
                await self._settle(after, config, pools)
            return [request.address for request in done], unallocated
        raise IPAMError(f"Max retries hit releasing addresses of block {cidr}")

    async def _write_release(self, stored: Stored[Block], after: Block) -> None:
        if after.affinity is None and after.empty:
            await self._store.delete(stored)
        else:
            await self._store.update(stored, after.following(stored.value))

    async def _settle(self, block: Block, config: IPAMConfig, pools: Sequence[Pool]) -> None:
        """Give up an emptied block whose pool no longer selects its owner; never mind when it fails."""
        kind, _, host = (block.affinity or "").partition(":")
        if not block.empty or kind != HOST:
            return
        try:
            pool = pool_of(pools, block.cidr)
            if pool is not None and not selects(pool, await self._store.node_labels(host)):
                key = AffinityKey(host=host, cidr=block.cidr)
                await self._claims.release(key, must_be_empty=True, cooldown=config.cooldown_seconds)
        except (IPAMError, *LOST_RACE) as error:
            log.debug("Kept an empty block", block=block.cidr, reason=str(error))

    async def release_by_handle(self, handle_id: str) -> list[str]:
        """Release all that a handle holds; returns the addresses.  Raises ``ResourceDoesNotExist`` when there is no
        such handle (callers usually take that as success)."""
        async with self._bounded(f"release handle {handle_id}"):
            config, pools = await self.get_config(), await self._store.pools()
            handle: Stored[Handle] | None = await self._store.get(HandleKey(handle_id))
            if handle is None:
                raise ResourceDoesNotExist(f"IPAMHandle({handle_id})")
            released: list[str] = []
            for cidr in handle.value.blocks:
                released += await self._release_handle_in(handle_id, cidr, config, pools)
            return released

    async def _release_handle_in(
        self, handle_id: str, cidr: str, config: IPAMConfig, pools: Sequence[Pool]
    ) -> list[str]:
        for attempt in range(ATTEMPTS):
            found = await self._claims.read_block(cidr, config.cooldown_seconds)
            if found is None:
                return []
            stored, block = found
            after, addresses = block.released_handle(handle_id, self._now(), config.cooldown_seconds)
            if not addresses:
                return []
            try:
                await self._write_release(stored, after)
            except LOST_RACE:
                await self._pause(attempt)
                continue
            await self._count_handle(handle_id, cidr, -len(addresses))
            await self._settle(after, config, pools)
            return addresses
        raise IPAMError(f"Max retries hit releasing handle {handle_id} in block {cidr}")

    async def ips_by_handle(self, handle_id: str) -> list[str]:
        """The bare addresses that a handle holds.  Raises ``ResourceDoesNotExist`` when there is no such handle."""
        handle: Stored[Handle] | None = await self._store.get(HandleKey(handle_id))
        if handle is None:
            raise ResourceDoesNotExist(f"IPAMHandle({handle_id})")
        held: list[str] = []
        for cidr in handle.value.blocks:
            stored: Stored[Block] | None = await self._store.get(BlockKey(cidr))
            if stored is not None:
                held += [stored.value.address(ordinal) for ordinal in stored.value.ordinals_of(handle_id)]
        return held

    async def assignment(self, address: str) -> Attribute | None:
        """Who holds an address; None when nobody does.  Raises ``IPAMError`` while it cools down."""
        config, pools = await self.get_config(), await self._store.pools()
        groups, _ = await self._group([Release(str(parse_address(address)))], pools)
        for cidr, requests in groups.items():
            found = await self._claims.read_block(cidr, config.cooldown_seconds)
            if found is None:
                continue
            attribute = found[1].owner(found[1].ordinal(requests[0].address))
            if attribute is not None and attribute.released_at is not None:
                raise IPAMError(f"address {address} in block {cidr} was released and still cools down")
            return attribute
        return None
