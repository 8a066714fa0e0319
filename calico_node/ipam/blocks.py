"""The algebra of IPAM blocks: assign, release, cool down, collect.

A block is one aligned sub-range of a pool and holds every allocation in it; it is the authority, and handles and
affinities are only helpers.  Everything here is pure: values go in, new values come out, time is an argument.  The
write that follows an operation bumps the sequence number (``Block.following``).

Source: Calico ``libcalico-go/lib/backend/model/block.go`` and ``lib/ipam/ipam_block.go``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from calico_node.addresses import IPNetwork, parse_address, parse_network
from calico_node.errors import IPAMError, ResourceAlreadyExists

SEQUENCE_MASK = (1 << 64) - 1
WINDOWS_RESERVED_HANDLE = "windows-reserved-ipam-handle"


class MalformedDocument(IPAMError):
    """A stored IPAM document that breaks its own rules; the text names the document and the rule."""


class AlreadyAssigned(IPAMError, ResourceAlreadyExists):
    """The wanted address is held by somebody, or still cools down."""

    def __init__(self, address: str, block: str) -> None:
        Exception.__init__(self, f"Address already assigned in block: {address} in {block}")
        self.resource = address


class BadHandle(IPAMError):
    """A release named a handle that does not hold the address."""


class BadSequenceNumber(IPAMError):
    """A release named an allocation that has been replaced since."""


@frozen
class Attribute:
    """Who holds an address.

    ``handle_id`` is None for none; ``secondary`` are the owner's attributes (``node``, ``pod``, ``namespace``,
    ``type``, …); ``alternate`` those of a second owner (KubeVirt migration); ``released_at`` (Unix seconds) is set,
    and all else empty, while the address cools down.  ``extra`` are stored members that are not known here.
    """

    handle_id: str | None = None
    secondary: Mapping[str, str] = field(factory=dict, hash=False)
    alternate: Mapping[str, str] = field(factory=dict, hash=False)
    released_at: int | None = None
    extra: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    @property
    def handle(self) -> str | None:
        """The handle id, cut at the first carriage return (left there by an old host-local migration)."""
        return None if self.handle_id is None else self.handle_id.partition("\r")[0]


@frozen
class Release:
    """One address to release, optionally only when ``handle`` holds it, or only the allocation ``sequence``."""

    address: str
    handle: str = ""
    sequence: int | None = None


@frozen
class Block:
    """One allocation block.

    ``affinity`` is ``host:<node>``, ``virtual:<name>`` or None; ``claim_time`` Unix seconds.  ``allocations[o]`` is
    None or an index into ``attributes``; ``unallocated`` is a FIFO of ordinals (take from the head, append to the
    tail).  ``sequences`` maps an ordinal to the block's sequence number when it was allocated.  ``extra`` are stored
    members that are not known here.
    """

    cidr: str
    affinity: str | None
    claim_time: int | None
    allocations: tuple[int | None, ...] = field(repr=False)
    unallocated: tuple[int, ...] = field(repr=False)
    attributes: tuple[Attribute, ...]
    sequence_number: int
    sequences: Mapping[int, int] = field(factory=dict, hash=False, repr=False)
    deleted: bool = False
    extra: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    @classmethod
    def new(cls, cidr: str, affinity: str | None, now_ns: int) -> Block:
        """An empty block; ``now_ns`` (Unix nanoseconds) starts its sequence numbers and dates the claim."""
        size = parse_network(cidr).num_addresses
        return cls(
            cidr=cidr,
            affinity=affinity,
            claim_time=now_ns // 1_000_000_000 if affinity else None,
            allocations=(None,) * size,
            unallocated=tuple(range(size)),
            attributes=(),
            sequence_number=now_ns & SEQUENCE_MASK,
        )

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def network(self) -> IPNetwork:
        return parse_network(self.cidr)

    def address(self, ordinal: int) -> str:
        """The bare address of ``ordinal``."""
        net = self.network
        return str(type(net.network_address)(int(net.network_address) + ordinal))

    def ordinal(self, address: str) -> int:
        """The ordinal of ``address``; raises ``IPAMError`` when it is not in this block."""
        ip, net = parse_address(address), self.network
        if ip not in net:
            raise IPAMError(f"address {address} is not in block {self.cidr}")
        return int(ip) - int(net.network_address)

    def owner(self, ordinal: int) -> Attribute | None:
        """The attribute of an allocated (or cooling) ordinal, None for a free one."""
        index = self.allocations[ordinal]
        return None if index is None else self.attributes[index]

    @property
    def empty(self) -> bool:
        """No allocation but Windows' reserved ones; cooling addresses count as allocations."""
        return all(
            index is None or self.attributes[index].handle == WINDOWS_RESERVED_HANDLE for index in self.allocations
        )

    def free(self, reserved: Collection[int] = ()) -> int:
        """How many addresses an automatic assignment could take, ``reserved`` ordinals left out."""
        if not reserved:
            return len(self.unallocated)
        return sum(1 for ordinal in self.unallocated if ordinal not in reserved)

    @property
    def in_use(self) -> int:
        """Capacity less unallocated: cooling addresses count."""
        return len(self.allocations) - len(self.unallocated)

    def ordinals_of(self, handle: str) -> list[int]:
        """Ordinals held by ``handle``, ascending."""
        held = {index for index, attribute in enumerate(self.attributes) if attribute.handle == handle}
        return [ordinal for ordinal, index in enumerate(self.allocations) if index in held]

    # -- changing -----------------------------------------------------------------------------------------------

    def following(self, before: Block) -> Block:
        """This content as the write that follows ``before``: its sequence number is the next one."""
        return evolve(self, sequence_number=(before.sequence_number + 1) & SEQUENCE_MASK)

    def collected(self, now: int, cooldown: int) -> Block:
        """Addresses released ``cooldown`` seconds ago or longer become free, at the tail of the FIFO; attributes that
        no allocation points to are dropped and the rest renumbered.  ``now`` is Unix seconds."""
        due = {
            index
            for index, attribute in enumerate(self.attributes)
            if attribute.released_at is not None and attribute.released_at <= now - cooldown
        }
        freed = [ordinal for ordinal, index in enumerate(self.allocations) if index is not None and index in due]
        used = {index for index in self.allocations if index is not None and index not in due}
        if not freed and len(used) == len(self.attributes):
            return self
        renumbered = {old: new for new, old in enumerate(sorted(used))}
        gone = set(freed)
        return evolve(
            self,
            allocations=tuple(renumbered.get(index) if index is not None else None for index in self.allocations),
            unallocated=self.unallocated + tuple(freed),
            attributes=tuple(self.attributes[old] for old in sorted(used)),
            sequences={ordinal: number for ordinal, number in self.sequences.items() if ordinal not in gone},
        )

    def assigned(self, ordinals: Iterable[int], handle_id: str | None, secondary: Mapping[str, str]) -> Block:
        """``ordinals`` allocated to ``handle_id``; raises ``AlreadyAssigned`` when one is not free."""
        wanted = Attribute(handle_id=handle_id, secondary=dict(secondary))
        attributes = self.attributes
        try:
            index = attributes.index(wanted)
        except ValueError:
            index = len(attributes)
            attributes = (*attributes, wanted)
        allocations, sequences, taken = list(self.allocations), dict(self.sequences), set()
        for ordinal in ordinals:
            if allocations[ordinal] is not None:
                raise AlreadyAssigned(self.address(ordinal), self.cidr)
            allocations[ordinal] = index
            sequences[ordinal] = self.sequence_number
            taken.add(ordinal)
        if not taken:
            return self
        return evolve(
            self,
            allocations=tuple(allocations),
            unallocated=tuple(ordinal for ordinal in self.unallocated if ordinal not in taken),
            attributes=attributes,
            sequences=sequences,
        )

    def next_free(self, count: int, reserved: Collection[int] = ()) -> list[int]:
        """Up to ``count`` ordinals from the head of the FIFO; ``reserved`` ones keep their place."""
        found: list[int] = []
        for ordinal in self.unallocated:
            if len(found) >= count:
                break
            if ordinal not in reserved:
                found.append(ordinal)
        return found

    def released(
        self, requests: Sequence[Release], now: int, cooldown: int
    ) -> tuple[Block, list[Release], list[str], dict[str, int]]:
        """Release addresses: the new block, the requests fulfilled, the addresses that were not allocated (or
        already cool down), and how many each handle lost.

        Raises ``BadSequenceNumber`` / ``BadHandle`` when one request does not match; nothing is released then.
        """
        done: list[Release] = []
        ordinals: list[int] = []
        unallocated: list[str] = []
        lost: dict[str, int] = {}
        for request in requests:
            ordinal = self.ordinal(request.address)
            attribute = self.owner(ordinal)
            if attribute is None or attribute.released_at is not None or ordinal in ordinals:
                unallocated.append(request.address)
                continue
            number = self.sequences.get(ordinal)
            if request.sequence is not None and number is not None and number != request.sequence:
                raise BadSequenceNumber(
                    f"address {request.address} in block {self.cidr} was allocated with sequence number {number}, "
                    f"the release names {request.sequence}"
                )
            if request.handle and attribute.handle != request.handle.partition("\r")[0]:
                raise BadHandle(
                    f"address {request.address} in block {self.cidr} is held by handle {attribute.handle!r}, "
                    f"the release names {request.handle!r}"
                )
            done.append(request)
            ordinals.append(ordinal)
            if attribute.handle is not None:
                lost[attribute.handle] = lost.get(attribute.handle, 0) + 1
        sequences = {**self.sequences, **dict.fromkeys(ordinals, self.sequence_number)}
        return self._cooling(ordinals, sequences, now).collected(now, cooldown), done, unallocated, lost

    def released_handle(self, handle: str, now: int, cooldown: int) -> tuple[Block, list[str]]:
        """Release all that ``handle`` holds: the new block and the addresses.  Sequence numbers stay as they are."""
        ordinals = self.ordinals_of(handle)
        addresses = [self.address(ordinal) for ordinal in ordinals]
        return self._cooling(ordinals, self.sequences, now).collected(now, cooldown), addresses

    def _cooling(self, ordinals: Sequence[int], sequences: Mapping[int, int], now: int) -> Block:
        if not ordinals:
            return self
        allocations = list(self.allocations)
        for ordinal in ordinals:
            allocations[ordinal] = len(self.attributes)
        return evolve(
            self,
            allocations=tuple(allocations),
            attributes=(*self.attributes, Attribute(released_at=now)),
            sequences=sequences,
        )

    def abandoned(self) -> Block:
        """Without an owner."""
        return evolve(self, affinity=None, claim_time=None)


class Reservations:
    """The union of all IPReservations: addresses that automatic assignment must leave alone."""

    def __init__(self, cidrs: Iterable[str] = ()) -> None:
        nets = [parse_network(cidr) for cidr in cidrs]
        v4 = ipaddress.collapse_addresses(n for n in nets if isinstance(n, ipaddress.IPv4Network))
        v6 = ipaddress.collapse_addresses(n for n in nets if isinstance(n, ipaddress.IPv6Network))
        # After collapsing, an aligned range is wholly reserved exactly when one network contains it.
        self._ranges: dict[int, list[tuple[int, int]]] = {
            4: [(int(n.network_address), int(n.broadcast_address)) for n in v4],
            6: [(int(n.network_address), int(n.broadcast_address)) for n in v6],
        }

    def __bool__(self) -> bool:
        return any(self._ranges.values())

    def ordinals(self, cidr: str) -> frozenset[int]:
        """The reserved ordinals of block ``cidr``."""
        net = parse_network(cidr)
        first, last = int(net.network_address), int(net.broadcast_address)
        found: set[int] = set()
        for low, high in self._ranges[net.version]:
            if low <= last and high >= first:
                found.update(range(max(low, first) - first, min(high, last) - first + 1))
        return frozenset(found)

    def covering(self, version: int, first: int, last: int) -> int | None:
        """The end of the reserved range that contains ``first``..``last`` wholly, else None."""
        for low, high in self._ranges[version]:
            if low <= first and last <= high:
                return high
        return None

    def covers(self, cidr: str) -> bool:
        """Whether every address of ``cidr`` is reserved."""
        net = parse_network(cidr)
        return self.covering(net.version, int(net.network_address), int(net.broadcast_address)) is not None
