"""The members of one IP set, counted, and with covered prefixes held back.

Interval sets of nftables refuse overlapping elements, so a prefix that lies within another member is kept out of the
kernel until the broader one goes.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, bisect_right, insort
from functools import lru_cache
from typing import Protocol

from attrs import frozen


@frozen
class Change:
    """What must be added to and removed from the kernel's set."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


NO_CHANGE = Change()


class Members(Protocol):
    """Reference-counted members; the returned changes concern only what the kernel should hold."""

    def add(self, member: str) -> Change: ...

    def remove(self, member: str) -> Change: ...


class CountedMembers:
    """Members that cannot overlap: address and port."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, member: str) -> Change:
        count = self._counts.get(member, 0)
        self._counts[member] = count + 1
        return NO_CHANGE if count else Change(added=(member,))

    def remove(self, member: str) -> Change:
        count = self._counts[member] - 1
        if count:
            self._counts[member] = count
            return NO_CHANGE
        del self._counts[member]
        return Change(removed=(member,))


@lru_cache(maxsize=262144)
def _decode(net: str) -> tuple[int, int, int]:
    """(IP version, first address as a number, prefix length)."""
    network = ipaddress.ip_network(net)
    return network.version, int(network.network_address), network.prefixlen


class _Family:
    """The prefixes of one IP version, by length; sorted only once a broad prefix asks for its inside."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.by_length: dict[int, dict[int, str]] = {}
        self.order: list[tuple[int, int]] | None = None

    def insert(self, first: int, length: int, net: str) -> None:
        self.by_length.setdefault(length, {})[first] = net
        if self.order is not None:
            insort(self.order, (first, length))

    def delete(self, first: int, length: int) -> None:
        of_length = self.by_length[length]
        del of_length[first]
        if not of_length:
            del self.by_length[length]
        if self.order is not None:
            del self.order[bisect_left(self.order, (first, length))]

    def is_covered(self, first: int, length: int) -> bool:
        return any(
            shorter < length and (first >> (self.bits - shorter) << (self.bits - shorter)) in nets
            for shorter, nets in self.by_length.items()
        )

    def outermost_inside(self, first: int, length: int) -> tuple[str, ...]:
        """The members strictly inside the prefix that no other member inside it covers."""
        if all(other <= length for other in self.by_length):
            return ()
        if self.order is None:
            self.order = sorted((start, plen) for plen, nets in self.by_length.items() for start in nets)
        last = first + (1 << (self.bits - length)) - 1
        low = bisect_right(self.order, (first, length))
        high = bisect_right(self.order, (last, self.bits))
        found: list[str] = []
        covered_to = -1
        for start, plen in self.order[low:high]:
            if start > covered_to:
                found.append(self.by_length[plen][start])
                covered_to = start + (1 << (self.bits - plen)) - 1
        return tuple(found)


class NetMembers:
    """Prefixes, of both IP versions; of those that overlap only the broadest shows."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._families = {4: _Family(32), 6: _Family(128)}

    def add(self, member: str) -> Change:
        count = self._counts.get(member, 0)
        self._counts[member] = count + 1
        if count:
            return NO_CHANGE
        version, first, length = _decode(member)
        family = self._families[version]
        covered = family.is_covered(first, length)
        family.insert(first, length, member)
        if covered:
            return NO_CHANGE
        return Change(added=(member,), removed=family.outermost_inside(first, length))

    def remove(self, member: str) -> Change:
        count = self._counts[member] - 1
        if count:
            self._counts[member] = count
            return NO_CHANGE
        del self._counts[member]
        version, first, length = _decode(member)
        family = self._families[version]
        family.delete(first, length)
        if family.is_covered(first, length):
            return NO_CHANGE
        return Change(added=family.outermost_inside(first, length), removed=(member,))
