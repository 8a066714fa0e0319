"""Path attributes (RFC 4271 section 5 and the RFCs that add to it) and the error handling of RFC 7606.

Decoding never repairs silently: what was discarded, or why the routes count as withdrawn, is in ``Decoded``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from functools import lru_cache

from attrs import evolve, field, frozen

from calico_node.plugins.bgp.packet.errors import Code, MessageError, UpdateError
from calico_node.plugins.bgp.packet.nlri import NLRI, decode_nlri
from calico_node.plugins.bgp.prefix import address_to_number, number_to_address

AS_TRANS = 23456
AS_SET, AS_SEQUENCE = 1, 2
CONFED_SEQUENCE, CONFED_SET = 3, 4

ORIGIN, AS_PATH, NEXT_HOP, MED, LOCAL_PREF, ATOMIC_AGGREGATE, AGGREGATOR = 1, 2, 3, 4, 5, 6, 7
COMMUNITIES, ORIGINATOR_ID, CLUSTER_LIST = 8, 9, 10
MP_REACH, MP_UNREACH, EXT_COMMUNITIES, AS4_PATH, AS4_AGGREGATOR, LARGE_COMMUNITIES = 14, 15, 16, 17, 18, 32

OPTIONAL, TRANSITIVE, PARTIAL, EXTENDED = 0x80, 0x40, 0x20, 0x10

WELL_KNOWN = TRANSITIVE
OPTIONAL_TRANSITIVE = OPTIONAL | TRANSITIVE
_FLAGS = {
    ORIGIN: WELL_KNOWN,
    AS_PATH: WELL_KNOWN,
    NEXT_HOP: WELL_KNOWN,
    MED: OPTIONAL,
    LOCAL_PREF: WELL_KNOWN,
    ATOMIC_AGGREGATE: WELL_KNOWN,
    AGGREGATOR: OPTIONAL_TRANSITIVE,
    COMMUNITIES: OPTIONAL_TRANSITIVE,
    ORIGINATOR_ID: OPTIONAL,
    CLUSTER_LIST: OPTIONAL,
    MP_REACH: OPTIONAL,
    MP_UNREACH: OPTIONAL,
    EXT_COMMUNITIES: OPTIONAL_TRANSITIVE,
    AS4_PATH: OPTIONAL_TRANSITIVE,
    AS4_AGGREGATOR: OPTIONAL_TRANSITIVE,
    LARGE_COMMUNITIES: OPTIONAL_TRANSITIVE,
}

NO_EXPORT, NO_ADVERTISE, NO_EXPORT_SUBCONFED = 0xFFFFFF01, 0xFFFFFF02, 0xFFFFFF03
LLGR_STALE, NO_LLGR = 0xFFFF0006, 0xFFFF0007

AFI = {4: 1, 6: 2}
VERSION = {1: 4, 2: 6}


@frozen(slots=True)
class Segment:
    """One AS_PATH segment: ``type`` AS_SEQUENCE, AS_SET or a confederation kind."""

    type: int
    asns: tuple[int, ...]


@frozen(slots=True, cache_hash=True)
class Attributes:
    """The attributes of a path; equal values mean the same path attributes.

    Addresses are canonical text, router ids numbers.  ``med``, ``local_pref`` and ``originator_id`` None when absent.
    ``unknown`` holds optional transitive attributes nobody here knows: (type, value), passed on with the partial bit.
    """

    origin: int = 0
    as_path: tuple[Segment, ...] = ()
    next_hop: str = ""
    med: int | None = None
    local_pref: int | None = None
    atomic_aggregate: bool = False
    aggregator: tuple[int, int] | None = None
    communities: tuple[int, ...] = ()
    originator_id: int | None = None
    cluster_list: tuple[int, ...] = ()
    ext_communities: tuple[int, ...] = ()
    large_communities: tuple[tuple[int, int, int], ...] = ()
    unknown: tuple[tuple[int, bytes], ...] = ()

    @property
    def path_length(self) -> int:
        """AS_PATH length as RFC 4271 9.1.2.2 counts: a set is one, confederation segments none."""
        return sum(
            len(segment.asns) if segment.type == AS_SEQUENCE else (1 if segment.type == AS_SET else 0)
            for segment in self.as_path
        )

    @property
    def neighbor_as(self) -> int:
        """The first AS of the path, 0 where it is empty."""
        for segment in self.as_path:
            if segment.type == AS_SEQUENCE and segment.asns:
                return segment.asns[0]
        return 0

    def as_count(self, asn: int) -> int:
        """How often ``asn`` stands in the path."""
        return sum(segment.asns.count(asn) for segment in self.as_path)

    def prepend(self, asns: Iterable[int]) -> Attributes:
        """This with ``asns`` put in front of the AS_PATH, in their order."""
        new = tuple(asns)
        path = self.as_path
        if path and path[0].type == AS_SEQUENCE and len(path[0].asns) + len(new) <= 255:
            return evolve(self, as_path=(Segment(AS_SEQUENCE, new + path[0].asns), *path[1:]))
        return evolve(self, as_path=(Segment(AS_SEQUENCE, new), *path))


@frozen
class Context:
    """What the two speakers agreed on, as far as the codec must know it."""

    as4: bool = True
    ibgp: bool = True
    add_path_receive: frozenset[int] = frozenset()
    add_path_send: frozenset[int] = frozenset()


@frozen
class Decoded:
    """``withdraw`` is the reason why the routes count as withdrawn, "" when all is well; ``discarded`` names what
    was ignored (RFC 7606 section 2)."""

    attributes: Attributes
    present: frozenset[int]
    announced: tuple[NLRI, ...] = ()
    withdrawn: tuple[NLRI, ...] = ()
    end_of_rib: int = 0
    withdraw: str = ""
    discarded: tuple[str, ...] = ()


class _Withdraw(Exception):
    """Treat as withdraw."""


class _Discard(Exception):
    """Discard the attribute."""


@frozen
class _Raw:
    """Values gathered from one attribute list before they are put together."""

    values: dict[str, object] = field(factory=dict)
    announced: list[NLRI] = field(factory=list)
    withdrawn: list[NLRI] = field(factory=list)
    end_of_rib: list[int] = field(factory=list)
    unknown: list[tuple[int, bytes]] = field(factory=list)


def decode_attributes(data: bytes, context: Context) -> Decoded:
    """The path attributes of an UPDATE.  Raises ``MessageError`` where RFC 7606 asks for a session reset."""
    raw = _Raw()
    present: set[int] = set()
    discarded: list[str] = []
    withdraw = ""
    position, end = 0, len(data)
    while position < end:
        header = _header(data, position)
        if header is None:
            withdraw = withdraw or "attribute list is truncated"
            break
        flags, kind, start, stop = header
        value = data[start:stop]
        position = stop
        if kind in present:
            if kind in (MP_REACH, MP_UNREACH):
                raise MessageError(Code.UPDATE, UpdateError.MALFORMED_ATTRIBUTE_LIST, reason="duplicate MP attribute")
            discarded.append(f"duplicate attribute {kind}")
            continue
        present.add(kind)
        try:
            _check_flags(flags, kind, data[start - (4 if flags & EXTENDED else 3) : stop])
            if kind in _DECODERS:
                _DECODERS[kind](value, context, raw)
            elif flags & TRANSITIVE:
                raw.unknown.append((kind, value))
        except _Withdraw as error:
            withdraw = withdraw or str(error)
        except _Discard as error:
            discarded.append(str(error))
            present.discard(kind)
    return Decoded(
        attributes=_assemble(raw, context),
        present=frozenset(present),
        announced=tuple(raw.announced),
        withdrawn=tuple(raw.withdrawn),
        end_of_rib=raw.end_of_rib[0] if raw.end_of_rib and not raw.announced else 0,
        withdraw=withdraw,
        discarded=tuple(discarded),
    )


def _header(data: bytes, position: int) -> tuple[int, int, int, int] | None:
    """(flags, type, start, stop) of the attribute at ``position``; None when it overruns the list."""
    if position + 3 > len(data):
        return None
    flags, kind = data[position], data[position + 1]
    if flags & EXTENDED:
        if position + 4 > len(data):
            return None
        start = position + 4
        stop = start + int.from_bytes(data[position + 2 : position + 4], "big")
    else:
        start = position + 3
        stop = start + data[position + 2]
    return None if stop > len(data) else (flags, kind, start, stop)


def _check_flags(flags: int, kind: int, whole: bytes) -> None:
    expected = _FLAGS.get(kind)
    if expected is None:
        if not flags & OPTIONAL:
            raise MessageError(Code.UPDATE, UpdateError.UNRECOGNIZED_WELL_KNOWN, whole)
    elif flags & (OPTIONAL | TRANSITIVE) != expected:
        if kind in (MP_REACH, MP_UNREACH):
            raise MessageError(Code.UPDATE, UpdateError.ATTRIBUTE_FLAGS, whole)
        raise _Withdraw(f"attribute {kind} has flags {flags:#x}")


def _origin(value: bytes, context: Context, raw: _Raw) -> None:
    if len(value) != 1 or value[0] > 2:
        raise _Withdraw("invalid ORIGIN")
    raw.values["origin"] = value[0]


def _segments(value: bytes, width: int) -> tuple[Segment, ...]:
    """AS_PATH segments with AS numbers of ``width`` bytes.  Raises ``_Withdraw``."""
    segments = []
    position = 0
    while position < len(value):
        if position + 2 > len(value):
            raise _Withdraw("AS_PATH is truncated")
        kind, count = value[position], value[position + 1]
        stop = position + 2 + count * width
        if kind not in (AS_SET, AS_SEQUENCE, CONFED_SEQUENCE, CONFED_SET) or not count or stop > len(value):
            raise _Withdraw("malformed AS_PATH")
        segments.append(
            Segment(kind, struct.unpack(f">{count}{'I' if width == 4 else 'H'}", value[position + 2 : stop]))
        )
        position = stop
    return tuple(segments)


def _as_path(value: bytes, context: Context, raw: _Raw) -> None:
    segments = _segments(value, 4 if context.as4 else 2)
    if any(segment.type in (CONFED_SEQUENCE, CONFED_SET) for segment in segments):
        raise _Withdraw("confederation segment in AS_PATH")
    raw.values["as_path"] = segments


def _as4_path(value: bytes, context: Context, raw: _Raw) -> None:
    if context.as4:
        raise _Discard("AS4_PATH from a four-octet speaker")
    try:
        segments = _segments(value, 4)
    except _Withdraw as error:
        raise _Discard(f"AS4_PATH: {error}") from None
    raw.values["as4_path"] = tuple(s for s in segments if s.type in (AS_SET, AS_SEQUENCE))


def _usable_ipv4(number: int) -> bool:
    """Not 0/8, 127/8, multicast or reserved."""
    first = number >> 24
    return 0 < first < 224 and first != 127


def _next_hop(value: bytes, context: Context, raw: _Raw) -> None:
    number = int.from_bytes(value, "big")
    if len(value) != 4 or not _usable_ipv4(number):
        raise _Withdraw("invalid NEXT_HOP")
    raw.values["next_hop"] = number_to_address(4, number)


def _number(name: str, label: str) -> Callable[[bytes, Context, _Raw], None]:
    def decode(value: bytes, context: Context, raw: _Raw) -> None:
        if len(value) != 4:
            raise _Withdraw(f"invalid {label} length")
        raw.values[name] = int.from_bytes(value, "big")

    return decode


def _internal_only(
    label: str, inner: Callable[[bytes, Context, _Raw], None]
) -> Callable[[bytes, Context, _Raw], None]:
    def decode(value: bytes, context: Context, raw: _Raw) -> None:
        if not context.ibgp:
            raise _Discard(f"{label} from an external peer")
        inner(value, context, raw)

    return decode


def _atomic(value: bytes, context: Context, raw: _Raw) -> None:
    if value:
        raise _Discard("ATOMIC_AGGREGATE with a value")
    raw.values["atomic_aggregate"] = True


def _aggregator(value: bytes, context: Context, raw: _Raw) -> None:
    width = 4 if context.as4 else 2
    if len(value) != width + 4:
        raise _Discard("invalid AGGREGATOR length")
    raw.values["aggregator"] = (int.from_bytes(value[:width], "big"), int.from_bytes(value[width:], "big"))


def _as4_aggregator(value: bytes, context: Context, raw: _Raw) -> None:
    if context.as4 or len(value) != 8:
        raise _Discard("AS4_AGGREGATOR not applicable")
    raw.values["as4_aggregator"] = (int.from_bytes(value[:4], "big"), int.from_bytes(value[4:], "big"))


def _list(name: str, label: str, width: int) -> Callable[[bytes, Context, _Raw], None]:
    def decode(value: bytes, context: Context, raw: _Raw) -> None:
        if not value or len(value) % width:
            raise _Withdraw(f"invalid {label} length {len(value)}")
        raw.values[name] = struct.unpack(f">{len(value) // width}{'I' if width == 4 else 'Q'}", value)

    return decode


def _large(value: bytes, context: Context, raw: _Raw) -> None:
    if not value or len(value) % 12:
        raise _Withdraw(f"invalid LARGE_COMMUNITIES length {len(value)}")
    raw.values["large_communities"] = tuple(struct.iter_unpack(">III", value))


def _mp_reach(value: bytes, context: Context, raw: _Raw) -> None:
    if len(value) < 5 or len(value) < 5 + value[3]:
        raise MessageError(Code.UPDATE, UpdateError.OPTIONAL_ATTRIBUTE, reason="truncated MP_REACH_NLRI")
    afi, safi, size = int.from_bytes(value[:2], "big"), value[2], value[3]
    version = VERSION.get(afi)
    if version is None or safi != 1:
        return
    raw.announced.extend(decode_nlri(value[5 + size :], version, version in context.add_path_receive))
    hop = value[4 : 4 + size]
    if (version == 4 and size != 4) or (version == 6 and size not in (16, 32)):
        raise _Withdraw(f"next hop of {size} bytes in MP_REACH_NLRI")
    number = int.from_bytes(hop[: 4 if version == 4 else 16], "big")
    if version == 4 and not _usable_ipv4(number):
        raise _Withdraw("invalid next hop in MP_REACH_NLRI")
    if version == 6 and (number <= 1 or number >> 120 == 0xFF or number >> 118 == 0x3FA):
        raise _Withdraw("invalid next hop in MP_REACH_NLRI")
    raw.values["next_hop"] = number_to_address(version, number)


def _mp_unreach(value: bytes, context: Context, raw: _Raw) -> None:
    if len(value) < 3:
        raise MessageError(Code.UPDATE, UpdateError.OPTIONAL_ATTRIBUTE, reason="truncated MP_UNREACH_NLRI")
    version = VERSION.get(int.from_bytes(value[:2], "big"))
    if version is None or value[2] != 1:
        return
    if len(value) == 3:
        raw.end_of_rib.append(version)
    raw.withdrawn.extend(decode_nlri(value[3:], version, version in context.add_path_receive))


_DECODERS: dict[int, Callable[[bytes, Context, _Raw], None]] = {
    ORIGIN: _origin,
    AS_PATH: _as_path,
    NEXT_HOP: _next_hop,
    MED: _number("med", "MULTI_EXIT_DISC"),
    LOCAL_PREF: _internal_only("LOCAL_PREF", _number("local_pref", "LOCAL_PREF")),
    ATOMIC_AGGREGATE: _atomic,
    AGGREGATOR: _aggregator,
    COMMUNITIES: _list("communities", "COMMUNITIES", 4),
    ORIGINATOR_ID: _internal_only("ORIGINATOR_ID", _number("originator_id", "ORIGINATOR_ID")),
    CLUSTER_LIST: _internal_only("CLUSTER_LIST", _list("cluster_list", "CLUSTER_LIST", 4)),
    MP_REACH: _mp_reach,
    MP_UNREACH: _mp_unreach,
    EXT_COMMUNITIES: _list("ext_communities", "EXTENDED_COMMUNITIES", 8),
    AS4_PATH: _as4_path,
    AS4_AGGREGATOR: _as4_aggregator,
    LARGE_COMMUNITIES: _large,
}


def _assemble(raw: _Raw, context: Context) -> Attributes:
    """One value of all that was read; AS4_PATH and AS4_AGGREGATOR merged (RFC 6793 section 4.2.3)."""
    values = dict(raw.values)
    as4_path = values.pop("as4_path", None)
    as4_aggregator = values.pop("as4_aggregator", None)
    if not context.as4:
        aggregator = values.get("aggregator")
        if as4_aggregator is not None and isinstance(aggregator, tuple) and aggregator[0] != AS_TRANS:
            as4_path = None  # an old speaker has aggregated since: both are out of date
        elif as4_aggregator is not None:
            values["aggregator"] = as4_aggregator
        if isinstance(as4_path, tuple):
            values["as_path"] = _merge_paths(values.get("as_path", ()), as4_path)  # type: ignore[arg-type]
    return Attributes(**values, unknown=tuple(raw.unknown))  # type: ignore[arg-type]


def _merge_paths(old: tuple[Segment, ...], new: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """The leading part of ``old`` that ``new`` does not cover, then ``new``."""
    surplus = Attributes(as_path=old).path_length - Attributes(as_path=new).path_length
    if surplus < 0:
        return old
    lead: list[Segment] = []
    for segment in old:
        if surplus <= 0:
            break
        taken = segment.asns[:surplus] if segment.type == AS_SEQUENCE else segment.asns
        lead.append(Segment(segment.type, taken))
        surplus -= len(taken) if segment.type == AS_SEQUENCE else 1
    if lead and new and lead[-1].type == new[0].type == AS_SEQUENCE and len(lead[-1].asns) + len(new[0].asns) <= 255:
        return (*lead[:-1], Segment(AS_SEQUENCE, lead[-1].asns + new[0].asns), *new[1:])
    return (*lead, *new)


def _attribute(flags: int, kind: int, value: bytes) -> bytes:
    if len(value) > 255:
        return bytes((flags | EXTENDED, kind)) + len(value).to_bytes(2, "big") + value
    return bytes((flags, kind, len(value))) + value


def _encode_segments(path: tuple[Segment, ...], width: int) -> bytes:
    out = bytearray()
    for segment in path:
        asns = segment.asns if width == 4 else tuple(asn if asn < 65536 else AS_TRANS for asn in segment.asns)
        out += struct.pack(f">BB{len(asns)}{'I' if width == 4 else 'H'}", segment.type, len(asns), *asns)
    return bytes(out)


@lru_cache(maxsize=4096)
def encode_attributes(attributes: Attributes, as4: bool, next_hop: bool) -> bytes:
    """All attributes but MP_REACH, in order of type.  ``next_hop`` False leaves NEXT_HOP to MP_REACH_NLRI."""
    a = attributes
    parts = [_attribute(WELL_KNOWN, ORIGIN, bytes((a.origin,)))]
    parts.append(_attribute(WELL_KNOWN, AS_PATH, _encode_segments(a.as_path, 4 if as4 else 2)))
    if next_hop:
        parts.append(_attribute(WELL_KNOWN, NEXT_HOP, address_to_number(a.next_hop).to_bytes(4, "big")))
    if a.med is not None:
        parts.append(_attribute(OPTIONAL, MED, a.med.to_bytes(4, "big")))
    if a.local_pref is not None:
        parts.append(_attribute(WELL_KNOWN, LOCAL_PREF, a.local_pref.to_bytes(4, "big")))
    if a.atomic_aggregate:
        parts.append(_attribute(WELL_KNOWN, ATOMIC_AGGREGATE, b""))
    if a.aggregator is not None:
        asn = a.aggregator[0] if as4 or a.aggregator[0] < 65536 else AS_TRANS
        value = asn.to_bytes(4 if as4 else 2, "big") + a.aggregator[1].to_bytes(4, "big")
        parts.append(_attribute(OPTIONAL_TRANSITIVE, AGGREGATOR, value))
    if a.communities:
        parts.append(_attribute(OPTIONAL_TRANSITIVE, COMMUNITIES, _pack("I", a.communities)))
    if a.originator_id is not None:
        parts.append(_attribute(OPTIONAL, ORIGINATOR_ID, a.originator_id.to_bytes(4, "big")))
    if a.cluster_list:
        parts.append(_attribute(OPTIONAL, CLUSTER_LIST, _pack("I", a.cluster_list)))
    if a.ext_communities:
        parts.append(_attribute(OPTIONAL_TRANSITIVE, EXT_COMMUNITIES, _pack("Q", a.ext_communities)))
    if not as4:
        parts.extend(_as4_attributes(a))
    if a.large_communities:
        value = b"".join(struct.pack(">III", *community) for community in a.large_communities)
        parts.append(_attribute(OPTIONAL_TRANSITIVE, LARGE_COMMUNITIES, value))
    parts.extend(_attribute(OPTIONAL_TRANSITIVE | PARTIAL, kind, value) for kind, value in a.unknown)
    return b"".join(parts)


def _pack(code: str, values: tuple[int, ...]) -> bytes:
    """Community lists are sent sorted, cluster lists in their order (they are not sorted by their callers)."""
    return struct.pack(f">{len(values)}{code}", *values)


def _as4_attributes(a: Attributes) -> Iterable[bytes]:
    """AS4_PATH and AS4_AGGREGATOR for a peer that speaks two-octet AS numbers (RFC 6793 section 4.2.2)."""
    if any(asn > 65535 for segment in a.as_path for asn in segment.asns):
        yield _attribute(OPTIONAL_TRANSITIVE, AS4_PATH, _encode_segments(a.as_path, 4))
    if a.aggregator is not None and a.aggregator[0] > 65535:
        value = a.aggregator[0].to_bytes(4, "big") + a.aggregator[1].to_bytes(4, "big")
        yield _attribute(OPTIONAL_TRANSITIVE, AS4_AGGREGATOR, value)
