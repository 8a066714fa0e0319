"""Who owns a block: the protocol by which hosts claim blocks and let them go.

A claim is three writes: affinity ``pending``, the block, affinity ``confirmed``.  A release is three as well:
affinity ``pendingDeletion``, the block deleted (or, when not empty, left without owner), the affinity deleted.  Each
is a compare-and-swap, so whatever a crash leaves behind, the next one to come finishes or undoes.  A host may use a
block, and advertise a route to it, only where the block names the host AND the affinity is confirmed.

Source: Calico ``libcalico-go/lib/ipam/ipam_block_reader_writer.go`` and ``design/ipam/``.
"""

from __future__ import annotations

from collections.abc import Callable

from calico_node.errors import IPAMError, ResourceAlreadyExists, ResourceDoesNotExist, UpdateConflict
from calico_node.ipam.blocks import Block
from calico_node.ipam.documents import CONFIRMED, PENDING, PENDING_DELETION, Affinity, AffinityKey, BlockKey
from calico_node.ipam.store import Store, Stored, describe

LOST_RACE = (UpdateConflict, ResourceDoesNotExist, ResourceAlreadyExists)
"""What a write raises when somebody else was faster: read again and retry."""


class ClaimConflict(IPAMError):
    """The block belongs to another host."""


class StaleAffinity(IPAMError):
    """The affinity names a block that belongs to another host, or to nobody; it has been removed."""


class BlockNotEmpty(IPAMError):
    """The block still holds addresses."""


class Claims:
    """``clock`` gives Unix nanoseconds."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock

    async def read_block(self, cidr: str, cooldown: int) -> tuple[Stored[Block], Block] | None:
        """The block as stored, and with its cooled-down addresses freed; None when there is none."""
        stored: Stored[Block] | None = await self._store.get(BlockKey(cidr))
        if stored is None:
            return None
        return stored, stored.value.collected(self._clock() // 1_000_000_000, cooldown)

    async def pending_affinity(self, key: AffinityKey) -> Stored[Affinity]:
        """State the intent to own the block; an affinity confirmed already stays so.  Raises ``UpdateConflict``."""
        try:
            return await self._store.create(key, Affinity(PENDING))
        except ResourceAlreadyExists:
            stored: Stored[Affinity] | None = await self._store.get(key)
            if stored is None:
                raise UpdateConflict(describe(key)) from None
            if stored.value.confirmed:
                return stored
            return await self._store.update(stored, Affinity(PENDING))

    async def block_of(self, affinity: Stored[Affinity]) -> Stored[Block]:
        """The block that ``affinity`` stands for, created when absent, with the affinity confirmed.

        Raises ``ClaimConflict`` or ``StaleAffinity`` (the affinity is removed then), and any of ``LOST_RACE``.
        """
        key: AffinityKey = affinity.key
        stored: Stored[Block] | None = await self._store.get(BlockKey(key.cidr))
        if stored is None:
            affinity = await self._store.update(affinity, Affinity(PENDING))
            try:
                stored = await self._store.create(BlockKey(key.cidr), Block.new(key.cidr, key.owner, self._clock()))
            except ResourceAlreadyExists:
                stored = await self._store.get(BlockKey(key.cidr))
                if stored is None:
                    raise UpdateConflict(describe(key)) from None
                if stored.value.affinity != key.owner:
                    await self._store.delete(affinity)
                    raise ClaimConflict(
                        f"block {key.cidr} was claimed by {stored.value.affinity} before {key.owner}"
                    ) from None
            await self._confirm(affinity)
            return stored
        if stored.value.affinity != key.owner:
            await self._store.delete(affinity)
            raise StaleAffinity(f"block {key.cidr} belongs to {stored.value.affinity}, not to {key.owner}")
        if not affinity.value.confirmed:
            affinity = await self._store.update(affinity, Affinity(PENDING))
            # The rewrite makes a release that is under way fail on its own compare-and-swap.
            stored = await self._store.update(stored, stored.value.following(stored.value))
            await self._confirm(affinity)
        return stored

    async def _confirm(self, affinity: Stored[Affinity]) -> None:
        try:
            await self._store.update(affinity, Affinity(CONFIRMED))
        except UpdateConflict:
            now: Stored[Affinity] | None = await self._store.get(affinity.key)
            if now is None or not now.value.confirmed:
                raise

    async def claim(self, key: AffinityKey) -> Stored[Block]:
        """Both halves of a claim, once.  Raises as ``pending_affinity`` and ``block_of``."""
        return await self.block_of(await self.pending_affinity(key))

    async def release(
        self, key: AffinityKey, *, must_be_empty: bool, cooldown: int, required_sequence: int | None = None
    ) -> None:
        """Let a block go: delete it when empty, else leave it without an owner.

        Raises ``BlockNotEmpty``, ``ClaimConflict`` when it belongs to another, and any of ``LOST_RACE``
        (``UpdateConflict`` also when the block's sequence number is not ``required_sequence``).
        """
        affinity: Stored[Affinity] | None = await self._store.get(key)
        found = await self.read_block(key.cidr, cooldown)
        if found is not None:
            stored, block = found
            if required_sequence is not None and stored.value.sequence_number != required_sequence:
                raise UpdateConflict(describe(stored.key))
            if block.affinity != key.owner:
                if affinity is not None:
                    await self._store.delete(affinity)
                raise ClaimConflict(f"block {key.cidr} belongs to {block.affinity}, not to {key.owner}")
            if must_be_empty and not block.empty:
                raise BlockNotEmpty(f"block {key.cidr} of {key.owner} still holds {block.in_use} addresses")
        if affinity is not None:
            affinity = await self._store.update(affinity, Affinity(PENDING_DELETION))
        if found is not None:
            if block.empty:
                await self._store.delete(stored)
            else:
                await self._store.update(stored, block.abandoned().following(stored.value))
        if affinity is not None:
            try:
                await self._store.delete(affinity)
            except ResourceDoesNotExist:
                pass
