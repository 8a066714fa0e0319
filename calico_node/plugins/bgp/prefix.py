"""Prefixes as small tuples: quick to hash, compare and test for containment."""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import NamedTuple

from calico_node.addresses import parse_address, parse_network

BITS = {4: 32, 6: 128}


class Prefix(NamedTuple):
    """``version`` 4 or 6; ``value`` the masked address as a number."""

    version: int
    length: int
    value: int

    def __str__(self) -> str:
        return prefix_text(self)

    def within(self, outer: Prefix) -> bool:
        """Whether this prefix lies in, or equals, ``outer``."""
        return (
            self.version == outer.version
            and self.length >= outer.length
            and (self.value ^ outer.value) >> (BITS[self.version] - outer.length) == 0
        )

    @property
    def is_host(self) -> bool:
        return self.length == BITS[self.version]


_NOT_ROUTABLE = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/128", "::1/128", "fe80::/10", "ff00::/8")


@lru_cache(maxsize=65536)
def is_routable(prefix: Prefix) -> bool:
    """Whether a peer may announce ``prefix`` at all: the default route, or unicast beyond one host or link.

    BIRD ignores the rest as bogus routes.
    """
    if not prefix.length:
        return True
    return not any(prefix.within(outer) for outer in _not_routable())


@lru_cache(maxsize=1)
def _not_routable() -> tuple[Prefix, ...]:
    return tuple(map(parse_prefix, _NOT_ROUTABLE))


def mask(version: int, value: int, length: int) -> Prefix:
    """The prefix of ``length`` that holds address number ``value``."""
    shift = BITS[version] - length
    return Prefix(version, length, value >> shift << shift)


@lru_cache(maxsize=65536)
def parse_prefix(text: str) -> Prefix:
    """From CIDR text or a bare address; host bits are cleared.  Raises ``ValidationError``."""
    network = parse_network(text)
    return Prefix(network.version, network.prefixlen, int(network.network_address))


def prefix_text(prefix: Prefix) -> str:
    """Canonical CIDR text."""
    return f"{number_to_address(prefix.version, prefix.value)}/{prefix.length}"


@lru_cache(maxsize=65536)
def number_to_address(version: int, value: int) -> str:
    """Canonical text of an address number."""
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, value.to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, value.to_bytes(16, "big"))


@lru_cache(maxsize=65536)
def address_to_number(text: str) -> int:
    """The number of an address (``address/length`` is accepted).  Raises ``ValidationError``."""
    return int(parse_address(text))
