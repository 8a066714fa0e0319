"""nf_tables expressions as values, and their netlink form.

Each class is one kernel expression (``NFTA_EXPR_NAME``); a field's metadata names its attribute and its kind, so that
one encoder and one decoder serve them all.  Registers are numbered as nft prints them: 1 to 4 of 16 bytes each, 8 to
23 of 4 bytes each (8 is the beginning of 1, 12 of 2).  ``enum nft_*_attributes`` of ``linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

import attrs
from attrs import field, frozen

from calico_node.linux.netlink import attr, nested, parse_attrs

NFTA_LIST_ELEM = 1
NFTA_EXPR_NAME = 1
NFTA_EXPR_DATA = 2
NFTA_DATA_VALUE = 1
NFTA_DATA_VERDICT = 2
NFTA_VERDICT_CODE = 1
NFTA_VERDICT_CHAIN = 2

NF_DROP = 0
NF_ACCEPT = 1
NFT_JUMP = -3
NFT_GOTO = -4
NFT_RETURN = -5

NETWORK_HEADER = 1
TRANSPORT_HEADER = 2

META_MARK = 3
META_IIFNAME = 6
META_OIFNAME = 7
META_L4PROTO = 16

CT_STATE = 0

CT_STATE_INVALID = 1
CT_STATE_ESTABLISHED = 2
CT_STATE_RELATED = 4
CT_STATE_NEW = 8

FIB_RESULT_OIF = 1
FIB_SADDR = 1
FIB_MARK = 4
FIB_IIF = 8

EQ = 0
NEQ = 1

NAT_RANGE_MAP_IPS = 1
NAT_RANGE_PROTO_SPECIFIED = 2
NAT_RANGE_PROTO_RANDOM_FULLY = 16


_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_INTEGERS = {"u8": struct.Struct(">B"), "u16": _U16, "u32": _U32, "u64": _U64}


def _number(attribute: int, default: int | None = None, *, kind: str = "u32", compared: bool = True) -> Any:
    metadata = {"attribute": attribute, "kind": kind}
    if default is None:
        return field(metadata=metadata, eq=compared)
    return field(default=default, metadata=metadata, eq=compared)


def _data(attribute: int, default: bytes | None = None) -> Any:
    metadata = {"attribute": attribute, "kind": "data"}
    return field(metadata=metadata) if default is None else field(default=default, metadata=metadata)


def _text(attribute: int) -> Any:
    return field(default="", metadata={"attribute": attribute, "kind": "text"})


@frozen
class Payload:
    """Load ``length`` bytes at ``offset`` of a header (0 link, 1 network, 2 transport)."""

    name: ClassVar[str] = "payload"
    base: int = _number(2)
    offset: int = _number(3)
    length: int = _number(4)
    dreg: int = _number(1, 1)


@frozen
class Meta:
    """Load ``META_*`` of the packet."""

    name: ClassVar[str] = "meta"
    key: int = _number(2)
    dreg: int = _number(1, 1)


@frozen
class MetaSet:
    """Set ``META_*`` of the packet from a register."""

    name: ClassVar[str] = "meta"
    key: int = _number(2)
    sreg: int = _number(3, 1)


@frozen
class Ct:
    """Load ``CT_*`` of the packet's connection."""

    name: ClassVar[str] = "ct"
    key: int = _number(2)
    dreg: int = _number(1, 1)


@frozen
class Fib:
    """Look an address up in the routing table: ``result`` FIB_RESULT_*, ``flags`` FIB_*."""

    name: ClassVar[str] = "fib"
    result: int = _number(2)
    flags: int = _number(3)
    dreg: int = _number(1, 1)


@frozen
class Cmp:
    """End the rule unless register ``op`` ``data``; op 0 eq, 1 neq, 2 lt, 3 lte, 4 gt, 5 gte."""

    name: ClassVar[str] = "cmp"
    data: bytes = _data(3)
    op: int = _number(2, EQ)
    sreg: int = _number(1, 1)


@frozen
class Range:
    """End the rule unless ``low`` <= register <= ``high`` (op 0), or unless outside (op 1)."""

    name: ClassVar[str] = "range"
    low: bytes = _data(3)
    high: bytes = _data(4)
    op: int = _number(2, EQ)
    sreg: int = _number(1, 1)


@frozen
class Bitwise:
    """``dreg = (sreg & mask) ^ xor``."""

    name: ClassVar[str] = "bitwise"
    mask: bytes = _data(4)
    xor: bytes = _data(5)
    length: int = _number(3, 4)
    sreg: int = _number(1, 1)
    dreg: int = _number(2, 1)


@frozen
class AnonymousSet:
    """A set that lives and dies with the rule that looks it up.

    ``elements`` are keys in network order; with ``interval`` they are (first, last) bounds joined, both inclusive,
    sorted and apart from one another.
    """

    key_type: int
    key_length: int
    elements: tuple[bytes, ...]
    interval: bool = False


@frozen
class Lookup:
    """Is the register's value in the set (or not, with ``inverted``)?  A verdict map's verdict is carried out."""

    name: ClassVar[str] = "lookup"
    set: str | AnonymousSet
    inverted: bool = False
    sreg: int = 1
    verdict_map: bool = False


@frozen
class Verdict:
    """``code`` NF_* or NFT_*; ``chain`` for jump and goto."""

    name: ClassVar[str] = "immediate"
    code: int
    chain: str = ""


@frozen
class Immediate:
    """Load a constant."""

    name: ClassVar[str] = "immediate"
    data: bytes = _data(2)
    dreg: int = _number(1, 1)


@frozen
class Counter:
    """Count packets and bytes; what it shows does not take part in comparisons."""

    name: ClassVar[str] = "counter"
    bytes: int = _number(1, 0, kind="u64", compared=False)
    packets: int = _number(2, 0, kind="u64", compared=False)


@frozen
class Limit:
    """``rate`` packets per ``unit`` seconds with ``burst``; flag 1 matches what is over the limit."""

    name: ClassVar[str] = "limit"
    rate: int = _number(1, kind="u64")
    unit: int = _number(2, 1, kind="u64")
    burst: int = _number(3, 5)
    type: int = _number(4, 0)
    flags: int = _number(5, 0)


@frozen
class ConnLimit:
    """``ct count``: with flag 1 matches when there are more than ``count`` connections."""

    name: ClassVar[str] = "connlimit"
    count: int = _number(1)
    flags: int = _number(2, 0)


@frozen
class Log:
    """Send the packet's first ``snaplen`` bytes to the NFLOG ``group`` with ``prefix``."""

    name: ClassVar[str] = "log"
    prefix: str = _text(2)
    group: int = _number(1, 0, kind="u16")
    snaplen: int = _number(3, 0)
    qthreshold: int = _number(4, 0, kind="u16")


@frozen
class Masquerade:
    """Source NAT to the outgoing interface's address; registers 0 mean no port range."""

    name: ClassVar[str] = "masq"
    flags: int = _number(1, 0)
    min_port_reg: int = _number(2, 0)
    max_port_reg: int = _number(3, 0)


@frozen
class Nat:
    """``type`` 0 source, 1 destination; ``family`` 2 or 10; addresses and ports from registers (0: none)."""

    name: ClassVar[str] = "nat"
    type: int = _number(1)
    family: int = _number(2)
    min_address_reg: int = _number(3, 0)
    max_address_reg: int = _number(4, 0)
    min_port_reg: int = _number(5, 0)
    max_port_reg: int = _number(6, 0)
    flags: int = _number(7, 0)


@frozen
class Reject:
    """``type`` 0 ICMP unreachable with ``code``, 1 TCP reset, 2 either family's unreachable."""

    name: ClassVar[str] = "reject"
    type: int = _number(1, 0)
    code: int = _number(2, 3, kind="u8")


@frozen
class Notrack:
    name: ClassVar[str] = "notrack"


Expression: TypeAlias = (
    Payload
    | Meta
    | MetaSet
    | Ct
    | Fib
    | Cmp
    | Range
    | Bitwise
    | Lookup
    | Verdict
    | Immediate
    | Counter
    | Limit
    | ConnLimit
    | Log
    | Masquerade
    | Nat
    | Reject
    | Notrack
)

_ZERO_IS_ABSENT = (Masquerade, Nat, Log)
"""Expressions whose zero numbers mean "not given" and are left out, as nft leaves them out."""


def _expression(name: str, body: bytes) -> bytes:
    return nested(NFTA_LIST_ELEM, attr(NFTA_EXPR_NAME, name.encode() + b"\0"), nested(NFTA_EXPR_DATA, body))


def verdict_data(attribute: int, verdict: Verdict) -> bytes:
    """The nested data attribute that holds ``verdict``, in an expression or a map element."""
    body = attr(NFTA_VERDICT_CODE, struct.pack(">i", verdict.code))
    if verdict.chain:
        body += attr(NFTA_VERDICT_CHAIN, verdict.chain.encode() + b"\0")
    return nested(attribute, nested(NFTA_DATA_VERDICT, body))


def parse_verdict(data: bytes) -> Verdict:
    """Of a data attribute's content.  Raises ``KeyError`` where it is not a verdict."""
    body = parse_attrs(parse_attrs(data)[NFTA_DATA_VERDICT])
    chain = body.get(NFTA_VERDICT_CHAIN, b"").rstrip(b"\0").decode(errors="replace")
    return Verdict(struct.unpack(">i", body[NFTA_VERDICT_CODE])[0], chain)


def encode_lookup(lookup: Lookup, set_name: str, set_id: int = 0) -> bytes:
    """``set_id`` ties it to a set made in the same batch."""
    body = attr(1, set_name.encode() + b"\0") + attr(2, _U32.pack(lookup.sreg))
    if lookup.verdict_map:
        body += attr(3, _U32.pack(0))
    if set_id:
        body += attr(4, _U32.pack(set_id))
    if lookup.inverted:
        body += attr(5, _U32.pack(1))
    return _expression("lookup", body)


def encode(expression: Expression) -> bytes:
    """One list element.  For a lookup in an anonymous set this is its identity (name empty, elements appended), which
    only the rule hash wants; the batch encodes it with ``encode_lookup``."""
    # Counters that show different numbers compare as equal, so the cache must see only those of new rules.
    if isinstance(expression, Counter) and (expression.bytes or expression.packets):
        return _encode(expression)
    return _encode_cached(expression)


def _encode(expression: Expression) -> bytes:
    if isinstance(expression, Lookup):
        if isinstance(expression.set, str):
            return encode_lookup(expression, expression.set)
        identity = repr((expression.set.key_type, expression.set.interval, expression.set.elements)).encode()
        return encode_lookup(expression, "") + identity
    if isinstance(expression, Verdict):
        return _expression("immediate", attr(1, _U32.pack(0)) + verdict_data(2, expression))
    body = []
    sparse = isinstance(expression, _ZERO_IS_ABSENT)
    for spec in attrs.fields(type(expression)):
        value = getattr(expression, spec.name)
        attribute, kind = spec.metadata["attribute"], spec.metadata["kind"]
        if kind == "data":
            body.append(nested(attribute, attr(NFTA_DATA_VALUE, value)))
        elif kind == "text":
            if value:
                body.append(attr(attribute, value.encode() + b"\0"))
        elif value or not sparse or spec.default is attrs.NOTHING or spec.name == "group":
            body.append(attr(attribute, _INTEGERS[kind].pack(value)))
    return _expression(expression.name, b"".join(body))


_encode_cached = lru_cache(maxsize=16384)(_encode)

_SIMPLE: dict[str, type[Any]] = {
    cls.name: cls
    for cls in (
        Payload,
        Ct,
        Fib,
        Cmp,
        Range,
        Bitwise,
        Counter,
        Limit,
        ConnLimit,
        Log,
        Masquerade,
        Nat,
        Reject,
        Notrack,
    )
}


@frozen
class Unknown:
    """An expression this codec does not speak: some other program's."""

    name: str
    body: bytes


def decode(element: bytes) -> Expression | Unknown:
    """One list element's content from a dump.  Anonymous sets come back by the name the kernel gave them."""
    top = parse_attrs(element)
    name = top.get(NFTA_EXPR_NAME, b"").rstrip(b"\0").decode(errors="replace")
    raw = top.get(NFTA_EXPR_DATA, b"")
    body = parse_attrs(raw)
    if name == "lookup":
        return Lookup(
            body[1].rstrip(b"\0").decode(),
            inverted=bool(_U32.unpack(body.get(5, bytes(4)))[0] & 1),
            sreg=_U32.unpack(body[2])[0],
            verdict_map=3 in body,
        )
    if name == "immediate":
        if NFTA_DATA_VERDICT in parse_attrs(body[2]):
            return parse_verdict(body[2])
        cls: type[Any] | None = Immediate
    elif name == "meta":
        cls = MetaSet if 3 in body else Meta
    else:
        cls = _SIMPLE.get(name)
    if cls is None:
        return Unknown(name, raw)
    expression: Expression = _decode_fields(cls, body)
    return expression


def _decode_fields(cls: type[Any], body: dict[int, bytes]) -> Any:
    values: dict[str, Any] = {}
    for spec in attrs.fields(cls):
        data = body.get(spec.metadata["attribute"])
        if data is None:
            continue
        kind = spec.metadata["kind"]
        if kind == "data":
            values[spec.name] = parse_attrs(data)[NFTA_DATA_VALUE]
        elif kind == "text":
            values[spec.name] = data.rstrip(b"\0").decode(errors="replace")
        else:
            values[spec.name] = _INTEGERS[kind].unpack(data)[0]
    return cls(**values)
