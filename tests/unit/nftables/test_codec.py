"""Expressions, comments, set members and intervals survive their way into netlink and back."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.dataplanes.contract import IPSetType
from calico_node.dataplanes.nftables import codec
from calico_node.dataplanes.nftables import expressions as e
from calico_node.dataplanes.nftables.layout import IPV4, IPV6, limited_name, policy_chain_name, set_name
from calico_node.dataplanes.nftables.members import delta_groups, parse_members, set_shape
from calico_node.dataplanes.nftables.nflog import parse_packet
from calico_node.errors import ValidationError
from calico_node.linux.netlink import iterate_attrs, message
from calico_node.model import PolicyKey

words = st.integers(0, 0xFFFFFFFF)
registers = st.sampled_from((1, 2, 3, 4, *range(8, 24)))
data = st.binary(min_size=1, max_size=16)
expressions = st.one_of(
    st.builds(e.Payload, st.integers(0, 2), st.integers(0, 40), st.integers(1, 16), registers),
    st.builds(e.Meta, st.integers(0, 30), registers),
    st.builds(e.MetaSet, st.integers(0, 30), registers),
    st.builds(e.Ct, st.integers(0, 20), registers),
    st.builds(e.Fib, st.integers(1, 3), st.integers(0, 63), registers),
    st.builds(e.Cmp, data, st.integers(0, 5), registers),
    st.builds(e.Range, data, data, st.integers(0, 1), registers),
    st.builds(e.Bitwise, data, data, st.integers(1, 16), registers, registers),
    st.builds(e.Lookup, st.text("abc-", min_size=1), st.booleans(), registers, st.booleans()),
    st.builds(e.Verdict, st.sampled_from((0, 1, -5))),
    st.builds(e.Verdict, st.sampled_from((-3, -4)), st.text("abc/.", min_size=1)),
    st.builds(e.Immediate, data, registers),
    st.builds(e.Counter, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    st.builds(e.Limit, st.integers(1, 2**40), st.integers(1, 2**40), words, st.integers(0, 1), st.integers(0, 1)),
    st.builds(e.ConnLimit, words, st.integers(0, 1)),
    st.builds(e.Log, st.text("log: ", max_size=20), st.integers(0, 65535), words, st.integers(0, 65535)),
    st.builds(e.Masquerade, words, registers, registers),
    st.builds(e.Nat, st.integers(0, 1), st.sampled_from((2, 10)), registers, registers, registers, registers, words),
    st.builds(e.Reject, st.integers(0, 2), st.integers(0, 255)),
    st.just(e.Notrack()),
)


@settings(max_examples=500, deadline=None)
@given(expressions)
def test_every_expression_comes_back_as_it_was(expression):
    ((_, element),) = iterate_attrs(e.encode(expression))
    assert e.decode(element) == expression


@given(st.text(max_size=200))
def test_comments_are_cut_to_what_nft_takes_and_come_back(text):
    text = text.replace("\0", "")
    userdata = codec.comment_userdata(text)
    assert len(userdata) <= codec.COMMENT_LIMIT + 3
    assert text.startswith(codec.parse_comment(userdata))


networks4 = st.builds(
    lambda address, length: ipaddress.IPv4Network((address, length), strict=False), words, st.integers(0, 32)
)
networks6 = st.builds(
    lambda address, length: ipaddress.IPv6Network((address, length), strict=False),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)


@given(st.lists(networks4, max_size=12), st.lists(networks6, max_size=12))
def test_interval_sets_come_back_from_any_order_of_elements(four, six):
    members = {str(net) for net in [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]}
    keys = parse_members(IPSetType.NET, members)
    for family in (IPV4, IPV6):
        shape = set_shape(family, IPSetType.NET)
        messages = codec.add_elements(family.number, "t", "s", shape.elements(sorted(keys[family.version])))
        elements = [x for msg in messages for x in codec.parse_members(msg[16:])]
        assert shape.keys_of_dump(reversed(elements)) == keys[family.version]


def test_touching_intervals_stay_apart():
    keys = parse_members(IPSetType.NET, {"10.0.0.0/25", "10.0.0.128/25", "255.255.255.255", "0.0.0.0/32"})[4]
    shape = set_shape(IPV4, IPSetType.NET)
    (msg,) = codec.add_elements(2, "t", "s", shape.elements(keys))
    assert shape.keys_of_dump(codec.parse_members(msg[16:])) == keys


def test_address_and_port_members():
    keys = parse_members(IPSetType.IP_AND_PORT, {"10.0.0.1,tcp:80", "fd00::1,sctp:65535"})
    assert keys[4] == {bytes.fromhex("0a0000010600000000500000")}
    assert keys[6] == {bytes.fromhex("fd00000000000000000000000000000184000000ffff0000")}


@pytest.mark.parametrize(
    ("kind", "member"),
    [
        (IPSetType.NET, "10.0.0.300/32"),
        (IPSetType.NET, "10.0.0.0/33"),
        (IPSetType.NET, ""),
        (IPSetType.NET, "10.0.0.1,tcp:80"),
        (IPSetType.IP_AND_PORT, "10.0.0.1"),
        (IPSetType.IP_AND_PORT, "10.0.0.1,tcp:http"),
        (IPSetType.IP_AND_PORT, "10.0.0.1,gre:80"),
        (IPSetType.IP_AND_PORT, "10.0.0.1,tcp:65536"),
        (IPSetType.IP_AND_PORT, "nowhere,tcp:80"),
    ],
)
def test_members_that_are_none_are_refused(kind, member):
    with pytest.raises(ValidationError, match="not a valid"):
        parse_members(kind, {member})


@given(st.sets(networks4, max_size=15), st.sets(networks4, max_size=15), st.integers(1, 4))
def test_delta_groups_keep_overlapping_intervals_together(old, new, limit):
    old_keys = parse_members(IPSetType.NET, {str(n) for n in ipaddress.collapse_addresses(old)})[4]
    new_keys = parse_members(IPSetType.NET, {str(n) for n in ipaddress.collapse_addresses(new)})[4]
    present = set(old_keys)
    shape = set_shape(IPV4, IPSetType.NET)
    for out, into in delta_groups(shape, old_keys - new_keys, new_keys - old_keys, limit):
        present.difference_update(out)
        for key in into:
            assert not any(key[:4] <= other[4:] and other[:4] <= key[4:] for other in present), (
                "the kernel would refuse"
            )
            present.add(key)
    assert present == new_keys


def test_names():
    assert set_name(IPV4, "s:5y5I3VdRZfDU01O--xXAPx2-more-than-fits") == "cali40s-5y5I3VdRZfDU01O--xXAPx2"
    assert policy_chain_name(PolicyKey("NetworkPolicy", "shop", "web"), inbound=True) == "filter-cali-pi-np/shop/web"
    assert policy_chain_name(PolicyKey("GlobalNetworkPolicy", "", "d"), inbound=False) == "filter-cali-po-gnp/d"
    long = limited_name("filter-cali-pi-", "x" * 300)
    assert len(long) < 255
    assert long.startswith("filter-cali-pi-_")


def test_a_logged_packet_cut_short_still_tells_what_it_can():
    assert parse_packet(message(4 << 8 | 0, 0, bytes(4))) is not None
    assert parse_packet(message(4 << 8 | 1, 0, bytes(4))) is None


def test_a_new_rule_counts_from_zero_whatever_counter_was_seen_before() -> None:
    zero = bytes(8)
    assert e.encode(e.Counter(bytes=1006368420155, packets=730)).count(zero) == 0
    assert e.encode(e.Counter()).count(zero) == 2
