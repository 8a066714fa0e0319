"""Attributes and messages: what is packed reads back, and no bytes can break the readers."""

from __future__ import annotations

import contextlib
import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.errors import NetlinkError
from calico_node.linux import netlink, rtnetlink

ATTRIBUTES = st.lists(st.tuples(st.integers(0, netlink.NLA_TYPE_MASK), st.binary(max_size=60)), max_size=8)
IPV4 = st.binary(min_size=4, max_size=4)
IPV6 = st.binary(min_size=16, max_size=16)


@given(ATTRIBUTES)
def test_attributes_read_back_in_order(items: list[tuple[int, bytes]]) -> None:
    buffer = b"".join(netlink.attr(kind, payload) for kind, payload in items)
    assert len(buffer) % 4 == 0
    assert list(netlink.iterate_attrs(buffer)) == items


@given(ATTRIBUTES)
def test_nested_attributes_keep_their_content_and_lose_the_flag(items: list[tuple[int, bytes]]) -> None:
    inner = [netlink.attr(kind, payload) for kind, payload in items]
    assert netlink.parse_attrs(netlink.nested(7, *inner)) == {7: b"".join(inner)}


@given(st.binary(max_size=200))
def test_arbitrary_bytes_end_or_are_refused(buffer: bytes) -> None:
    with contextlib.suppress(NetlinkError):
        netlink.parse_attrs(buffer)
    for msg in netlink.split_messages(buffer):
        assert len(msg) >= netlink.HEADER_LENGTH


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_messages_of_a_datagram_are_told_apart(payloads: list[bytes]) -> None:
    messages = [netlink.message(16, 0, payload) for payload in payloads]
    datagram = b"".join(msg + bytes(-len(msg) % 4) for msg in messages)
    assert list(netlink.split_messages(datagram)) == messages


def test_an_error_carries_the_kernels_sentence() -> None:
    original = netlink.message(24, netlink.NLM_F_ACK, b"")
    text = netlink.attr(netlink.NLMSGERR_ATTR_MSG, b"Nexthop has invalid gateway\0")
    payload = struct.pack("=i", -errno.EINVAL) + original + text
    header = netlink.HEADER.pack(
        16 + len(payload), netlink.NLMSG_ERROR, netlink.NLM_F_CAPPED | netlink.NLM_F_ACK_TLVS, 1, 0
    )
    error = netlink.parse_error(header + payload, "route 10.0.0.0/24")
    assert error is not None
    assert error.errno == errno.EINVAL
    assert str(error) == "route 10.0.0.0/24: Invalid argument: Nexthop has invalid gateway (errno 22)"


def test_an_acknowledgement_is_no_error() -> None:
    header = netlink.HEADER.pack(36, netlink.NLMSG_ERROR, netlink.NLM_F_CAPPED, 1, 0)
    assert netlink.parse_error(header + bytes(20)) is None


@st.composite
def _routes(draw: st.DrawFn) -> tuple[bytes, rtnetlink.Path]:
    address = draw(st.one_of(IPV4, IPV6))
    bits = draw(st.integers(0, len(address) * 8))
    masked = (int.from_bytes(address, "big") >> (len(address) * 8 - bits)) << (len(address) * 8 - bits)
    prefix = bytes((bits,)) + masked.to_bytes(len(address), "big")
    gateways = st.one_of(st.just(b""), IPV4 if len(address) == 4 else IPV6)
    hop = st.builds(rtnetlink.NextHop, gateways, st.integers(1, 1000))
    kind = draw(st.sampled_from([rtnetlink.RTN_UNICAST, rtnetlink.RTN_BLACKHOLE, rtnetlink.RTN_UNREACHABLE]))
    hops = tuple(sorted(draw(st.lists(hop, min_size=1, max_size=4)))) if kind == rtnetlink.RTN_UNICAST else ()
    path = rtnetlink.Path(
        kind,
        draw(st.sampled_from([0, 253])),
        draw(st.integers(0, 255)),
        draw(st.integers(0, 2**32 - 1)),
        hops,
        kind == rtnetlink.RTN_UNICAST and draw(st.booleans()),
        draw(st.one_of(st.just(b""), IPV4)),
        draw(st.integers(0, 9000)),
    )
    return prefix, path


@settings(max_examples=200)
@given(_routes())
def test_a_packed_route_reads_back(route: tuple[bytes, rtnetlink.Path]) -> None:
    prefix, path = route
    msg = rtnetlink.PathEncoder(rtnetlink.family_of(prefix), path).replace(prefix)
    assert rtnetlink.read_route(msg[netlink.HEADER_LENGTH :]) == (prefix, path)


@pytest.mark.parametrize("text", ["10.0.0.0/24", "0.0.0.0/0", "10.1.2.3/32", "fd00::/64", "::/0", "fd00::1/128"])
def test_prefix_text_reads_back(text: str) -> None:
    assert rtnetlink.unpack_prefix(rtnetlink.pack_prefix(text)) == text


@pytest.mark.parametrize("text", ["10.0.0/24", "10.0.0.0/33", "fd00::/129", "", "host", "10.0.0.0/x"])
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        rtnetlink.pack_prefix(text)
