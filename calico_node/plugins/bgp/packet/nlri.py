"""Network layer reachability information: prefixes, with path identifiers where ADD-PATH is on (RFC 7911)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from calico_node.plugins.bgp.packet.errors import Code, MessageError, UpdateError
from calico_node.plugins.bgp.prefix import BITS, Prefix


class NLRI(NamedTuple):
    """``path_id`` is 0 where ADD-PATH is not in use."""

    prefix: Prefix
    path_id: int = 0


def decode_nlri(data: bytes, version: int, add_path: bool) -> list[NLRI]:
    """All prefixes of ``data``, host bits cleared.  Raises ``MessageError`` 3/10."""
    found: list[NLRI] = []
    bits = BITS[version]
    position, end, path_id = 0, len(data), 0
    while position < end:
        if add_path:
            if position + 5 > end:
                raise _invalid("truncated path identifier")
            path_id = int.from_bytes(data[position : position + 4], "big")
            position += 4
        length = data[position]
        size = (length + 7) >> 3
        position += 1
        if length > bits:
            raise _invalid(f"prefix length {length}")
        if position + size > end:
            raise _invalid("truncated prefix")
        shift = bits - length
        value = int.from_bytes(data[position : position + size], "big") << (bits - 8 * size) >> shift << shift
        found.append(NLRI(Prefix(version, length, value), path_id))
        position += size
    return found


def _invalid(reason: str) -> MessageError:
    return MessageError(Code.UPDATE, UpdateError.INVALID_NETWORK, reason=reason)


def encode_nlri(nlri: NLRI, add_path: bool) -> bytes:
    """The wire form of one prefix."""
    (version, length, value), path_id = nlri
    size = (length + 7) >> 3
    body = bytes((length,)) + (value >> (BITS[version] - 8 * size)).to_bytes(size, "big")
    return path_id.to_bytes(4, "big") + body if add_path else body


def pack_nlri(routes: Iterable[NLRI], add_path: bool, room: int) -> Iterable[bytes]:
    """Encoded prefixes in pieces of at most ``room`` bytes; ``room`` for the longest of them is required."""
    piece: list[bytes] = []
    used = 0
    for nlri in routes:
        encoded = encode_nlri(nlri, add_path)
        if used + len(encoded) > room:
            yield b"".join(piece)
            piece, used = [], 0
        piece.append(encoded)
        used += len(encoded)
    if piece:
        yield b"".join(piece)
