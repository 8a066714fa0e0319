"""IP set members as element keys.

A NET member is its first and last address joined, an IP_AND_PORT member the concatenated key nft would build:
address, protocol, port, each filled up to four bytes.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Iterator

from attrs import frozen

from calico_node.addresses import parse_network
from calico_node.dataplanes.contract import IPSetType
from calico_node.dataplanes.nftables import codec
from calico_node.dataplanes.nftables.layout import Family
from calico_node.dataplanes.nftables.matches import PROTOCOLS
from calico_node.errors import ValidationError


@frozen
class SetShape:
    """What a set is made for; two of one name and different shapes are different sets to the kernel."""

    key_type: int
    key_length: int
    interval: bool

    def elements(self, keys: Iterable[bytes]) -> list[bytes]:
        if not self.interval:
            return [codec.key_element(key) for key in keys]
        return codec.interval_elements(keys, self.key_length)

    def keys_of_dump(self, elements: Iterable[bytes]) -> set[bytes]:
        """Back from a dump's elements (``codec.parse_members``), in any order, to keys."""
        if not self.interval:
            return {element[:-1] for element in elements}
        found: set[bytes] = set()
        start: bytes | None = None
        # An end sorts before a start at the same place: intervals may touch.
        for element in sorted(elements):
            key = element[:-1]
            if start is not None:
                last = int.from_bytes(key) - 1
                found.add(start + last.to_bytes(self.key_length))
            start = None if element[-1] == codec.END else key
        if start is not None:
            found.add(start + b"\xff" * self.key_length)
        return found


def set_shape(family: Family, kind: IPSetType) -> SetShape:
    if kind is IPSetType.NET:
        return SetShape(family.address_type, family.address_length, True)
    return SetShape(family.address_and_port_type, family.address_length + 8, False)


def parse_net(member: str) -> tuple[int, bytes]:
    """IP version and key of ``10.0.0.0/8``, ``fd00::1/128`` or a bare address.  Raises ``ValidationError``."""
    address, _, length = member.partition("/")
    if length in ("", "32") and ":" not in address:
        try:
            packed = socket.inet_pton(socket.AF_INET, address)
        except OSError:
            raise ValidationError(f"{member!r} is not a valid CIDR", value=member) from None
        return 4, packed + packed
    network = parse_network(member)
    return network.version, network.network_address.packed + network.broadcast_address.packed


def parse_address_and_port(member: str) -> tuple[int, bytes]:
    """IP version and key of ``10.0.0.1,tcp:80``.  Raises ``ValidationError``."""
    address, _, rest = member.partition(",")
    protocol, _, port = rest.partition(":")
    number = PROTOCOLS.get(protocol.lower())
    if number is None or not port.isdigit() or int(port) > 65535:
        raise ValidationError(f"{member!r} is not a valid address and port (like 10.0.0.1,tcp:80)", value=member)
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        packed = socket.inet_pton(family, address)
    except OSError:
        raise ValidationError(f"{member!r} is not a valid address and port (like 10.0.0.1,tcp:80)") from None
    version = 6 if family is socket.AF_INET6 else 4
    return version, packed + bytes((number, 0, 0, 0)) + int(port).to_bytes(2) + bytes(2)


def parse_members(kind: IPSetType, members: Collection[str]) -> dict[int, set[bytes]]:
    """Keys by IP version.  Raises ``ValidationError`` for the first member that is none."""
    parse = parse_net if kind is IPSetType.NET else parse_address_and_port
    found: dict[int, set[bytes]] = {4: set(), 6: set()}
    for member in members:
        version, key = parse(member)
        found[version].add(key)
    return found


def delta_groups(
    shape: SetShape, removed: Iterable[bytes], added: Iterable[bytes], limit: int
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Cut a change into (removed, added) groups of about ``limit`` keys, each a valid transaction of its own.

    Intervals that overlap stay in one group, because the kernel takes the new only after the old is gone.
    """
    half = shape.key_length
    # Plain byte strings sort fast, and give the garbage collector nothing to follow.
    changes = sorted([key + b"\0" for key in removed] + [key + b"\1" for key in added])
    out: list[bytes] = []
    into: list[bytes] = []
    top = b""
    for change in changes:
        key = change[:-1]
        if len(out) + len(into) >= limit and (not shape.interval or key[:half] > top):
            yield out, into
            out, into = [], []
        (into if change[-1] else out).append(key)
        if shape.interval:
            top = max(top, key[half:])
    if out or into:
        yield out, into
