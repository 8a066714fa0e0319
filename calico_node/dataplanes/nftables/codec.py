"""nf_tables netlink messages: what a batch is made of, and what dumps say.

Messages are ``bytes`` with the netlink header, as ``calico_node.linux.netlink`` sends them.  ``linux/netfilter/
nfnetlink.h`` and ``nf_tables.h`` give the numbers; integers inside attributes are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from attrs import frozen

from calico_node.dataplanes.nftables.expressions import (
    AnonymousSet,
    Expression,
    Lookup,
    Unknown,
    Verdict,
    decode,
    encode,
    encode_lookup,
    parse_verdict,
    verdict_data,
)
from calico_node.linux.netlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    attr,
    iterate_attrs,
    message,
    nested,
    parse_attrs,
)

SUBSYSTEM = 10 << 8
BATCH_BEGIN = 0x10
BATCH_END = 0x11

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
GETGEN = 16

SET_ANONYMOUS = 1
SET_CONSTANT = 2
SET_INTERVAL = 4
SET_MAP = 8

ELEMENT_INTERVAL_END = 1

VERDICT_TYPE = 0xFFFFFF00
TYPE_IPADDR = 7
TYPE_IP6ADDR = 8
TYPE_INET_PROTOCOL = 12
TYPE_INET_SERVICE = 13
TYPE_ICMP_TYPE = 14
TYPE_ICMP6_TYPE = 29
TYPE_IFNAME = 41
IFNAME_LENGTH = 16

COMMENT_LIMIT = 128
_USERDATA_COMMENT = 0
_HOST_ORDER_KEY = struct.pack("=BBI", 0, 4, 1)
"""Set user data by which nft knows that keys are in the machine's byte order, as interface names are to it."""
_ELEMENT_BYTES = 60_000
"""Of elements in one message: a nested attribute's length has 16 bits."""

_U32 = struct.Struct(">I")
_ANONYMOUS_NAME = b"__set%d\0"


def concatenated(*types: int) -> int:
    """nft's number of a concatenated key type: six bits a part."""
    number = 0
    for part in types:
        number = number << 6 | part
    return number


def _generic(family: int, resource: int = 0) -> bytes:
    return struct.pack(">BBH", family, 0, resource)


def _message(kind: int, flags: int, family: int, *attributes: bytes) -> bytes:
    return message(SUBSYSTEM | kind, flags, _generic(family) + b"".join(attributes))


def _name(kind: int, text: str) -> bytes:
    return attr(kind, text.encode() + b"\0")


def _u32(kind: int, value: int) -> bytes:
    return attr(kind, _U32.pack(value & 0xFFFFFFFF))


_END_FLAG = _u32(3, ELEMENT_INTERVAL_END)


def batch(messages: Sequence[bytes]) -> list[bytes]:
    """``messages`` as one transaction; its last one is acknowledged."""
    begin = message(BATCH_BEGIN, 0, _generic(0, 10))
    end = message(BATCH_END, 0, _generic(0, 10))
    last = bytearray(messages[-1])
    struct.pack_into("=H", last, 6, struct.unpack_from("=H", last, 6)[0] | NLM_F_ACK)
    return [begin, *messages[:-1], bytes(last), end]


def new_table(family: int, table: str) -> bytes:
    return _message(NEWTABLE, NLM_F_CREATE, family, _name(1, table), _u32(2, 0))


def delete_table(family: int, table: str) -> bytes:
    return _message(DELTABLE, 0, family, _name(1, table))


@frozen
class Hook:
    """Where a base chain hangs: ``type`` filter, nat or route, ``number`` NF_INET_*, ``priority``; policy accept."""

    type: str
    number: int
    priority: int


def new_chain(family: int, table: str, chain: str, hook: Hook | None = None) -> bytes:
    parts = [_name(1, table), _name(3, chain)]
    if hook is not None:
        parts.append(nested(4, _u32(1, hook.number), _u32(2, hook.priority)))
        parts.append(_u32(5, 1))
        parts.append(_name(7, hook.type))
    return _message(NEWCHAIN, NLM_F_CREATE, family, *parts)


def delete_chain(family: int, table: str, chain: str) -> bytes:
    return _message(DELCHAIN, 0, family, _name(1, table), _name(3, chain))


def flush_chain(family: int, table: str, chain: str) -> bytes:
    """Delete all rules of a chain."""
    return _message(DELRULE, 0, family, _name(1, table), _name(2, chain))


def comment_userdata(text: str) -> bytes:
    """A rule comment as nft keeps it in the rule's user data."""
    data = text.encode()[:COMMENT_LIMIT].decode(errors="ignore").encode() + b"\0"
    return bytes((_USERDATA_COMMENT, len(data))) + data


def parse_comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _USERDATA_COMMENT:
            return userdata[offset + 2 : offset + 2 + length].rstrip(b"\0").decode(errors="replace")
        offset += 2 + length
    return ""


def new_rule(
    family: int,
    table: str,
    chain: str,
    expressions: Sequence[Expression],
    comment: str,
    next_set_id: Callable[[], int],
) -> list[bytes]:
    """Append a rule: first the anonymous sets it looks up, then itself."""
    messages: list[bytes] = []
    body: list[bytes] = []
    for expression in expressions:
        if isinstance(expression, Lookup) and isinstance(expression.set, AnonymousSet):
            set_id = next_set_id()
            messages += _anonymous_set(family, table, expression.set, set_id)
            body.append(encode_lookup(expression, "__set%d", set_id))
        else:
            body.append(encode(expression))
    parts = [_name(1, table), _name(2, chain), nested(4, *body)]
    if comment:
        parts.append(attr(7, comment_userdata(comment)))
    messages.append(_message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, *parts))
    return messages


def _anonymous_set(family: int, table: str, content: AnonymousSet, set_id: int) -> list[bytes]:
    flags = SET_ANONYMOUS | SET_CONSTANT | (SET_INTERVAL if content.interval else 0)
    create = _message(
        NEWSET,
        NLM_F_CREATE,
        family,
        _name(1, table),
        attr(2, _ANONYMOUS_NAME),
        _u32(3, flags),
        _u32(4, content.key_type),
        _u32(5, content.key_length),
        _u32(10, set_id),
    )
    if content.interval:
        elements = interval_elements(content.elements, content.key_length)
    else:
        elements = [key_element(key) for key in content.elements]
    return [create, *_elements(NEWSETELEM, NLM_F_CREATE, family, table, "__set%d", elements, set_id)]


def new_set(
    family: int, table: str, name: str, key_type: int, key_length: int, *, interval: bool = False, set_id: int = 1
) -> bytes:
    return _message(
        NEWSET,
        NLM_F_CREATE,
        family,
        _name(1, table),
        _name(2, name),
        _u32(3, SET_INTERVAL if interval else 0),
        _u32(4, key_type),
        _u32(5, key_length),
        _u32(10, set_id),
    )


def new_verdict_map(family: int, table: str, name: str, key_type: int, key_length: int, *, set_id: int = 1) -> bytes:
    return _message(
        NEWSET,
        NLM_F_CREATE,
        family,
        _name(1, table),
        _name(2, name),
        _u32(3, SET_MAP),
        _u32(4, key_type),
        _u32(5, key_length),
        _u32(6, VERDICT_TYPE),
        _u32(7, 0),
        _u32(10, set_id),
        attr(13, _HOST_ORDER_KEY if key_type == TYPE_IFNAME else b""),
    )


def delete_set(family: int, table: str, name: str) -> bytes:
    return _message(DELSET, 0, family, _name(1, table), _name(2, name))


def key_element(key: bytes) -> bytes:
    return nested(1, nested(1, attr(1, key)))


def verdict_element(key: bytes, verdict: Verdict) -> bytes:
    return nested(1, nested(1, attr(1, key)), verdict_data(2, verdict))


def interval_elements(intervals: Iterable[bytes], length: int) -> list[bytes]:
    """Elements for closed intervals, each its first and last key of ``length`` bytes joined.

    The kernel keeps a start and, one behind the last address, an end; an interval that reaches the top of the address
    space has no end.
    """
    elements = []
    beyond = 1 << 8 * length
    for interval in intervals:
        elements.append(key_element(interval[:length]))
        end = int.from_bytes(interval[length:]) + 1
        if end < beyond:
            elements.append(nested(1, _END_FLAG, nested(1, attr(1, end.to_bytes(length)))))
    return elements


def _elements(
    kind: int, flags: int, family: int, table: str, name: str, elements: Sequence[bytes], set_id: int = 0
) -> list[bytes]:
    head = [_name(1, table), _name(2, name)]
    if set_id:
        head.append(_u32(4, set_id))
    messages: list[bytes] = []
    chunk: list[bytes] = []
    size = 0
    for element in elements:
        if size + len(element) > _ELEMENT_BYTES:
            messages.append(_message(kind, flags, family, *head, nested(3, *chunk)))
            chunk, size = [], 0
        chunk.append(element)
        size += len(element)
    if chunk:
        messages.append(_message(kind, flags, family, *head, nested(3, *chunk)))
    return messages


def add_elements(family: int, table: str, name: str, elements: Sequence[bytes]) -> list[bytes]:
    return _elements(NEWSETELEM, NLM_F_CREATE, family, table, name, elements)


def delete_elements(family: int, table: str, name: str, elements: Sequence[bytes]) -> list[bytes]:
    return _elements(DELSETELEM, 0, family, table, name, elements)


# What dumps say


@frozen
class KernelChain:
    name: str
    hook: Hook | None = None
    handle: int = 0


@frozen
class KernelRule:
    chain: str
    handle: int
    comment: str
    expressions: tuple[Expression | Unknown, ...] = ()


@frozen
class KernelSet:
    name: str
    flags: int
    key_type: int
    key_length: int

    @property
    def anonymous(self) -> bool:
        return bool(self.flags & SET_ANONYMOUS)


def get_tables(family: int) -> bytes:
    return _message(GETTABLE, 0, family)


def get_chains(family: int) -> bytes:
    return _message(GETCHAIN, 0, family)


def get_rules(family: int, table: str) -> bytes:
    return _message(GETRULE, 0, family, _name(1, table))


def get_sets(family: int, table: str) -> bytes:
    return _message(GETSET, 0, family, _name(1, table))


def get_elements(family: int, table: str, name: str) -> bytes:
    return _message(GETSETELEM, 0, family, _name(1, table), _name(2, name))


def get_generation() -> bytes:
    return _message(GETGEN, 0, 0)


def parse_generation(payload: bytes) -> int:
    return _integer(parse_attrs(payload, 4).get(1))


def _string(data: bytes | None) -> str:
    return (data or b"").rstrip(b"\0").decode(errors="replace")


def _integer(data: bytes | None) -> int:
    return int.from_bytes(data or b"")


def parse_table(payload: bytes) -> str:
    """The table's name; ``payload`` is a dump's message without ``nlmsghdr``, as below."""
    return _string(parse_attrs(payload, 4).get(1))


def parse_chain(payload: bytes) -> tuple[str, KernelChain]:
    """The table and the chain."""
    body = parse_attrs(payload, 4)
    hook = None
    if 4 in body:
        where = parse_attrs(body[4])
        hook = Hook(_string(body.get(7)), _integer(where.get(1)), struct.unpack(">i", where[2])[0])
    return _string(body.get(1)), KernelChain(_string(body.get(3)), hook, _integer(body.get(2)))


def parse_rule(payload: bytes, *, full: bool = False) -> tuple[str, KernelRule]:
    """The table and the rule; its expressions only where ``full`` asks for them."""
    body = parse_attrs(payload, 4)
    expressions: tuple[Expression | Unknown, ...] = ()
    if full and 4 in body:
        expressions = tuple(decode(element) for _, element in iterate_attrs(body[4]))
    rule = KernelRule(_string(body.get(2)), _integer(body.get(3)), parse_comment(body.get(7, b"")), expressions)
    return _string(body.get(1)), rule


def parse_set(payload: bytes) -> tuple[str, KernelSet]:
    body = parse_attrs(payload, 4)
    return _string(body.get(1)), KernelSet(
        _string(body.get(2)), _integer(body.get(3)), _integer(body.get(4)), _integer(body.get(5))
    )


END, START = 0, 1


def parse_members(payload: bytes) -> Iterator[bytes]:
    """The elements in one message of a set's dump: each its key and a byte, ``END`` for an interval's open upper
    bound and ``START`` for all others."""
    for fields in _elements_of(payload):
        flags = _integer(fields.get(3))
        yield parse_attrs(fields[1])[1] + (b"\0" if flags & ELEMENT_INTERVAL_END else b"\1")


def parse_verdicts(payload: bytes) -> Iterator[tuple[bytes, Verdict]]:
    """The elements in one message of a verdict map's dump."""
    for fields in _elements_of(payload):
        if 2 in fields:
            yield parse_attrs(fields[1])[1], parse_verdict(fields[2])


def _elements_of(payload: bytes) -> Iterator[dict[int, bytes]]:
    for _, element in iterate_attrs(parse_attrs(payload, 4).get(3, b"")):
        fields = parse_attrs(element)
        if 1 in fields:
            yield fields
