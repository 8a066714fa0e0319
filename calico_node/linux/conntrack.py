"""Removing connection-tracking entries by address over ctnetlink."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable

from calico_node.linux.netlink import NETLINK_NETFILTER, NetlinkSocket, attr, attr_u32, message, nested, parse_attrs

_CT_GET = 1 << 8 | 1
_CT_DELETE = 1 << 8 | 2
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_ID, _CTA_ZONE, _CTA_FILTER = 1, 2, 12, 18, 25
_CTA_TUPLE_IP = 1
_CTA_FILTER_ORIG_FLAGS, _CTA_FILTER_REPLY_FLAGS = 1, 2
_FILTER_IP_SRC = 1
_NFGEN = struct.Struct("=BBH")
_FILTERED_DUMPS = 16
"""Up to so many addresses one filtered dump each; beyond that one dump of everything is less work."""


def flush_conntrack(addresses: Iterable[bytes], *, netns: int | str | None = None) -> int:
    """Remove the entries that have one of the packed ``addresses`` as original or reply source; how many there were.

    Blocks for as long as the kernel walks its table: call it from a worker thread.  Raises ``NetlinkError``.
    """
    wanted = set(addresses)
    if not wanted:
        return 0
    with NetlinkSocket(NETLINK_NETFILTER, netns=netns) as sock:
        found: dict[bytes, bytes] = {}
        for family, width in ((2, 4), (10, 16)):
            own = {address for address in wanted if len(address) == width}
            if not own:
                continue
            entries: list[bytes] = []
            if len(own) <= _FILTERED_DUMPS:
                for address in own:
                    entries += sock.dump_now(_filtered(family, address, reply=False), "conntrack")
                    entries += sock.dump_now(_filtered(family, address, reply=True), "conntrack")
            else:
                entries = sock.dump_now(message(_CT_GET, 0, _NFGEN.pack(family, 0, 0)), "conntrack")
            for entry in entries:
                attrs = parse_attrs(entry, _NFGEN.size)
                if _source(attrs.get(_CTA_TUPLE_ORIG)) in own or _source(attrs.get(_CTA_TUPLE_REPLY)) in own:
                    found[attrs.get(_CTA_ID, b"") + attrs[_CTA_TUPLE_ORIG]] = _delete(family, attrs)
        for error in sock.request_now(list(found.values()), what="conntrack delete"):
            if error is not None and error.errno != errno.ENOENT:
                raise error
        return len(found)


def _source(packed: bytes | None) -> bytes | None:
    """The source address of a tuple: attribute CTA_IP_V4_SRC (1) or CTA_IP_V6_SRC (3)."""
    if packed is None:
        return None
    addresses = parse_attrs(parse_attrs(packed).get(_CTA_TUPLE_IP, b""))
    return addresses.get(1) or addresses.get(3)


def _filtered(family: int, address: bytes, *, reply: bool) -> bytes:
    source = attr(1 if family == 2 else 3, address)
    return message(
        _CT_GET,
        0,
        _NFGEN.pack(family, 0, 0)
        + nested(_CTA_TUPLE_REPLY if reply else _CTA_TUPLE_ORIG, nested(_CTA_TUPLE_IP, source))
        + nested(_CTA_FILTER, attr_u32(_CTA_FILTER_REPLY_FLAGS if reply else _CTA_FILTER_ORIG_FLAGS, _FILTER_IP_SRC)),
    )


def _delete(family: int, attrs: dict[int, bytes]) -> bytes:
    payload = _NFGEN.pack(family, 0, 0) + nested(_CTA_TUPLE_ORIG, attrs[_CTA_TUPLE_ORIG])
    for kind in (_CTA_ID, _CTA_ZONE):
        if kind in attrs:
            payload += attr(kind, attrs[kind])
    return message(_CT_DELETE, 0, payload)
