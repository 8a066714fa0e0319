"""Framing and the five BGP messages (RFC 4271 section 4, RFC 2918, RFC 7313)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from attrs import frozen

from calico_node.plugins.bgp.packet.attributes import (
    AFI,
    AS_PATH,
    EXTENDED,
    MP_REACH,
    MP_UNREACH,
    NEXT_HOP,
    OPTIONAL,
    ORIGIN,
    VERSION,
    Attributes,
    Context,
    decode_attributes,
    encode_attributes,
)
from calico_node.plugins.bgp.packet.errors import Code, Header, MessageError, UpdateError, describe
from calico_node.plugins.bgp.packet.nlri import NLRI, decode_nlri, pack_nlri
from calico_node.plugins.bgp.packet.open import Open, decode_open, encode_open
from calico_node.plugins.bgp.prefix import address_to_number

MARKER = b"\xff" * 16
HEADER_SIZE = 19
MAX_MESSAGE = 4096


class Type(enum.IntEnum):
    OPEN = 1
    UPDATE = 2
    NOTIFICATION = 3
    KEEPALIVE = 4
    ROUTE_REFRESH = 5


_MINIMUM = {Type.OPEN: 29, Type.UPDATE: 23, Type.NOTIFICATION: 21, Type.KEEPALIVE: 19, Type.ROUTE_REFRESH: 23}


@frozen
class Update:
    """``announced`` share ``attributes``.  ``end_of_rib`` is the version whose initial feed is complete, else 0.
    ``faults`` say what RFC 7606 made of a malformed message (routes counted as withdrawn, attributes discarded)."""

    announced: tuple[NLRI, ...] = ()
    withdrawn: tuple[NLRI, ...] = ()
    attributes: Attributes | None = None
    end_of_rib: int = 0
    faults: tuple[str, ...] = ()


@frozen
class Notification:
    code: int
    subcode: int
    data: bytes = b""

    def __str__(self) -> str:
        return describe(self.code, self.subcode)


@frozen
class Keepalive:
    pass


class Refresh(enum.IntEnum):
    """RFC 7313 message subtypes."""

    REQUEST = 0
    BEGIN = 1
    END = 2


@frozen
class RouteRefresh:
    """``version`` 0 for a family nobody here knows."""

    version: int
    subtype: int = Refresh.REQUEST


Message: TypeAlias = Open | Update | Notification | Keepalive | RouteRefresh


def frame(kind: int, body: bytes = b"") -> bytes:
    """``body`` with the 19-byte header."""
    return MARKER + (HEADER_SIZE + len(body)).to_bytes(2, "big") + bytes((kind,)) + body


def split(buffer: bytearray) -> tuple[int, bytes] | None:
    """Take one message off ``buffer``: (type, body), or None until one is complete.  Raises ``MessageError`` 1/x."""
    if len(buffer) < HEADER_SIZE:
        if buffer[:16] != MARKER[: len(buffer)]:
            raise MessageError(Code.HEADER, Header.NOT_SYNCHRONIZED)
        return None
    if buffer[:16] != MARKER:
        raise MessageError(Code.HEADER, Header.NOT_SYNCHRONIZED)
    length, kind = int.from_bytes(buffer[16:18], "big"), buffer[18]
    if length < HEADER_SIZE or length > MAX_MESSAGE:
        raise MessageError(Code.HEADER, Header.BAD_LENGTH, bytes(buffer[16:18]))
    if kind not in _MINIMUM:
        raise MessageError(Code.HEADER, Header.BAD_TYPE, bytes((kind,)))
    if length < _MINIMUM[Type(kind)] or (kind == Type.KEEPALIVE and length != HEADER_SIZE):
        raise MessageError(Code.HEADER, Header.BAD_LENGTH, bytes(buffer[16:18]))
    if len(buffer) < length:
        return None
    body = bytes(buffer[HEADER_SIZE:length])
    del buffer[:length]
    return kind, body


def decode(kind: int, body: bytes, context: Context) -> Message:
    """One message.  Raises ``MessageError``."""
    if kind == Type.UPDATE:
        return decode_update(body, context)
    if kind == Type.KEEPALIVE:
        return Keepalive()
    if kind == Type.OPEN:
        return decode_open(body)
    if kind == Type.NOTIFICATION:
        return Notification(body[0], body[1], body[2:])
    if len(body) != 4:
        raise MessageError(Code.ROUTE_REFRESH, 1, frame(kind, body), "invalid ROUTE-REFRESH length")
    version = VERSION.get(int.from_bytes(body[:2], "big"), 0) if body[3] == 1 else 0
    return RouteRefresh(version, body[2])


def encode(message: Message) -> bytes:
    """Any message but UPDATE (see ``announce`` and ``withdraw``), framed."""
    if isinstance(message, Open):
        return frame(Type.OPEN, encode_open(message))
    if isinstance(message, Keepalive):
        return frame(Type.KEEPALIVE)
    if isinstance(message, Notification):
        return frame(Type.NOTIFICATION, bytes((message.code, message.subcode)) + message.data)
    if isinstance(message, RouteRefresh):
        return frame(Type.ROUTE_REFRESH, AFI[message.version].to_bytes(2, "big") + bytes((message.subtype, 1)))
    raise TypeError(f"{type(message).__name__} has no single wire form")


def decode_update(body: bytes, context: Context) -> Update:
    """An UPDATE body, with RFC 7606's answers to malformed attributes.  Raises ``MessageError`` 3/x."""
    size = int.from_bytes(body[:2], "big")
    if 4 + size > len(body):
        raise MessageError(Code.UPDATE, UpdateError.MALFORMED_ATTRIBUTE_LIST, reason="withdrawn routes length")
    attributes_size = int.from_bytes(body[2 + size : 4 + size], "big")
    start = 4 + size
    if start + attributes_size > len(body):
        raise MessageError(Code.UPDATE, UpdateError.MALFORMED_ATTRIBUTE_LIST, reason="attributes length")
    add_path = 4 in context.add_path_receive
    withdrawn = tuple(decode_nlri(body[2 : 2 + size], 4, add_path))
    announced = tuple(decode_nlri(body[start + attributes_size :], 4, add_path))
    if not attributes_size:
        if announced:
            return Update(withdrawn=withdrawn + announced, faults=("UPDATE without attributes",))
        return Update(withdrawn=withdrawn, end_of_rib=0 if withdrawn else 4)
    decoded = decode_attributes(body[start : start + attributes_size], context)
    faults = decoded.discarded
    withdrawn += decoded.withdrawn
    missing = _missing(decoded.present, bool(announced))
    announced += decoded.announced
    reason = decoded.withdraw or (missing if announced else "")
    if reason:
        return Update(withdrawn=withdrawn + announced, faults=(*faults, f"treated as withdraw: {reason}"))
    end = decoded.end_of_rib if not announced and not withdrawn else 0
    return Update(announced, withdrawn, decoded.attributes if announced else None, end, faults)


def _missing(present: frozenset[int], classic: bool) -> str:
    """LOCAL_PREF is not asked for: without it an internal route counts as 100, as in BIRD."""
    needed = [(ORIGIN, "ORIGIN"), (AS_PATH, "AS_PATH")]
    if classic:
        needed.append((NEXT_HOP, "NEXT_HOP"))
    return ", ".join(f"{name} is missing" for kind, name in needed if kind not in present)


def announce(attributes: Attributes, routes: Sequence[NLRI], context: Context) -> Iterable[bytes]:
    """UPDATE messages, each at most 4096 bytes, that announce ``routes`` (of one family) with ``attributes``.

    Attributes that leave no room for a prefix cannot be passed on: ``routes`` are withdrawn instead, as RFC 8654
    section 4 asks of a speaker that may not send longer messages.
    """
    version = routes[0].prefix.version
    add_path = version in context.add_path_send
    common = encode_attributes(attributes, context.as4, version == 4)
    longest = (5 if version == 4 else 17) + (4 if add_path else 0)
    if version == 4:
        head = b"\x00\x00" + len(common).to_bytes(2, "big") + common
        room = MAX_MESSAGE - HEADER_SIZE - len(head)
        if room < longest:
            yield from withdraw(routes, context)
            return
        for piece in pack_nlri(routes, add_path, room):
            yield frame(Type.UPDATE, head + piece)
        return
    hop = address_to_number(attributes.next_hop).to_bytes(16, "big")
    prefix = AFI[version].to_bytes(2, "big") + bytes((1, len(hop))) + hop + b"\x00"
    room = MAX_MESSAGE - HEADER_SIZE - 8 - len(common) - len(prefix)
    if room < longest:
        yield from withdraw(routes, context)
        return
    for piece in pack_nlri(routes, add_path, room):
        value = prefix + piece
        reach = bytes((OPTIONAL | EXTENDED, MP_REACH)) + len(value).to_bytes(2, "big") + value
        yield frame(Type.UPDATE, b"\x00\x00" + (len(reach) + len(common)).to_bytes(2, "big") + reach + common)


def withdraw(routes: Sequence[NLRI], context: Context) -> Iterable[bytes]:
    """UPDATE messages that withdraw ``routes`` (of one family)."""
    version = routes[0].prefix.version
    add_path = version in context.add_path_send
    if version == 4:
        for piece in pack_nlri(routes, add_path, MAX_MESSAGE - HEADER_SIZE - 4):
            yield frame(Type.UPDATE, len(piece).to_bytes(2, "big") + piece + b"\x00\x00")
        return
    for piece in pack_nlri(routes, add_path, MAX_MESSAGE - HEADER_SIZE - 11):
        value = AFI[version].to_bytes(2, "big") + b"\x01" + piece
        unreach = bytes((OPTIONAL | EXTENDED, MP_UNREACH)) + len(value).to_bytes(2, "big") + value
        yield frame(Type.UPDATE, b"\x00\x00" + len(unreach).to_bytes(2, "big") + unreach)


def end_of_rib(version: int) -> bytes:
    """The End-of-RIB marker (RFC 4724 section 2)."""
    if version == 4:
        return frame(Type.UPDATE, b"\x00\x00\x00\x00")
    return frame(Type.UPDATE, b"\x00\x00\x00\x06\x80\x0f\x03\x00\x02\x01")
