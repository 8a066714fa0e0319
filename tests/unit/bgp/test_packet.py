"""The codec: byte vectors, round trips, malformed input (RFC 4271, 4724, 4760, 5492, 6793, 7606, 7911)."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.errors import BGPError
from calico_node.plugins.bgp.packet import (
    NLRI,
    Attributes,
    Capabilities,
    Context,
    GracefulRestart,
    Keepalive,
    MessageError,
    Notification,
    Open,
    RouteRefresh,
    Segment,
    Update,
    announce,
    decode,
    encode,
    end_of_rib,
    split,
    withdraw,
)
from calico_node.plugins.bgp.packet.messages import frame
from calico_node.plugins.bgp.prefix import BITS, Prefix, mask, number_to_address, parse_prefix

BOTH = frozenset((4, 6))
ADD_PATH = Context(add_path_receive=BOTH, add_path_send=BOTH)


def read(data: bytes, context: Context | None = None) -> list[object]:
    buffer = bytearray(data)
    found: list[object] = []
    while (message := split(buffer)) is not None:
        found.append(decode(*message, context or Context()))
    assert not buffer
    return found


def hexed(data: bytes) -> str:
    assert data[:16] == b"\xff" * 16
    return data[16:].hex()


def calico_open(version: int, restarting: bool = False) -> Open:
    return Open(
        64512,
        240,
        0x0AC00002,
        Capabilities(
            frozenset((version,)),
            True,
            GracefulRestart(restarting, 120, {version: restarting}),
            64512,
            {version: 3},
            True,
            {},
        ),
    )


class TestVectors:
    def test_open_ipv4(self) -> None:
        data = encode(calico_open(4))
        assert len(data) == 63
        assert hexed(data) == (
            "003f01" "04fc0000f00ac0000222" "0220" "010400010001" "0200" "4006007800010100"
            "41040000fc00" "450400010103" "4600" "4700"
        )  # fmt: skip
        assert read(data) == [calico_open(4)]

    def test_open_ipv6_while_restarting(self) -> None:
        data = encode(calico_open(6, restarting=True))
        assert "4006807800020180" in hexed(data)
        assert read(data) == [calico_open(6, restarting=True)]

    def test_a_large_as_number_is_announced_as_23456(self) -> None:
        message = Open(4200000000, 90, 1, Capabilities(as4=4200000000))
        assert encode(message)[20:22] == (23456).to_bytes(2, "big")
        assert read(encode(message)) == [message]

    def test_update_for_a_block(self) -> None:
        attributes = Attributes(next_hop="10.192.0.2", local_pref=2147482623)
        routes = [NLRI(parse_prefix("192.168.221.192/26"), 1)]
        (data,) = announce(attributes, routes, ADD_PATH)
        assert hexed(data) == (
            "003502" "0000" "0015" "40010100" "400200" "4003040ac00002" "4005047ffffbff" "000000011ac0a8ddc0"
        )  # fmt: skip
        assert read(data, ADD_PATH) == [Update(tuple(routes), (), attributes)]

    def test_end_of_rib(self) -> None:
        assert hexed(end_of_rib(4)) == "00170200000000"
        assert hexed(end_of_rib(6)) == "001d0200000006800f03000201"
        assert read(end_of_rib(4)) == [Update(end_of_rib=4)]
        assert read(end_of_rib(6)) == [Update(end_of_rib=6)]

    def test_keepalive_notification_refresh(self) -> None:
        assert hexed(encode(Keepalive())) == "001304"
        assert hexed(encode(Notification(6, 2, b"x"))) == "001603060278"
        assert hexed(encode(RouteRefresh(6, 1))) == "00170500020101"
        assert read(encode(RouteRefresh(6, 1))) == [RouteRefresh(6, 1)]


# --- round trips

asns = st.integers(1, 2**32 - 1)
u32 = st.integers(0, 2**32 - 1)
segments = st.builds(Segment, st.sampled_from((1, 2)), st.lists(asns, min_size=1, max_size=5).map(tuple))
hops = {
    4: st.integers(0x01000000, 0x7EFFFFFF).map(lambda n: number_to_address(4, n)),
    6: st.integers(0x2000 << 112, (0x3FFF << 112)).map(lambda n: number_to_address(6, n)),
}


@st.composite
def prefixes(draw: st.DrawFn, version: int) -> Prefix:
    length = draw(st.integers(0, BITS[version]))
    return mask(version, draw(st.integers(0, 2 ** BITS[version] - 1)), length)


@st.composite
def attribute_sets(draw: st.DrawFn, version: int) -> Attributes:
    return Attributes(
        origin=draw(st.integers(0, 2)),
        as_path=tuple(draw(st.lists(segments, max_size=3))),
        next_hop=draw(hops[version]),
        med=draw(st.none() | u32),
        local_pref=draw(st.none() | u32),
        atomic_aggregate=draw(st.booleans()),
        aggregator=draw(st.none() | st.tuples(asns, u32)),
        communities=tuple(draw(st.lists(u32, max_size=70))),
        originator_id=draw(st.none() | u32),
        cluster_list=tuple(draw(st.lists(u32, max_size=4))),
        ext_communities=tuple(draw(st.lists(st.integers(0, 2**64 - 1), max_size=4))),
        large_communities=tuple(draw(st.lists(st.tuples(u32, u32, u32), max_size=4))),
        unknown=tuple(draw(st.lists(st.tuples(st.just(200), st.binary(max_size=9)), max_size=1))),
    )


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from((4, 6)), st.booleans())
def test_updates_survive_the_wire(data: st.DataObject, version: int, add_path: bool) -> None:
    context = ADD_PATH if add_path else Context()
    attributes = data.draw(attribute_sets(version))
    ids = st.integers(0, 2**32 - 1) if add_path else st.just(0)
    routes = data.draw(st.lists(st.builds(NLRI, prefixes(version), ids), min_size=1, max_size=20))
    updates = [u for message in announce(attributes, routes, context) for u in read(message, context)]
    assert all(isinstance(u, Update) and u.attributes == attributes and not u.faults for u in updates)
    assert [n for u in updates if isinstance(u, Update) for n in u.announced] == routes
    gone = [u for message in withdraw(routes, context) for u in read(message, context)]
    assert [n for u in gone if isinstance(u, Update) for n in u.withdrawn] == routes


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("context", [Context(), ADD_PATH])
def test_attributes_that_fill_a_message_have_their_routes_withdrawn(version: int, context: Context) -> None:
    texts = ("10.0.0.0/8", "10.1.0.1/32") if version == 4 else ("fd00::/64", "fd00::1/128")
    routes = [NLRI(parse_prefix(text), 7 if context.add_path_send else 0) for text in texts]
    announced = set()
    for size in range(3900, 4100):
        attributes = Attributes(next_hop="10.0.0.1" if version == 4 else "fd00::9", unknown=((200, bytes(size)),))
        messages = list(announce(attributes, routes, context))
        assert all(len(message) <= 4096 for message in messages)
        updates = [update for message in messages for update in read(message, context)]
        assert all(isinstance(update, Update) and not update.faults for update in updates)
        told = [nlri for update in updates if isinstance(update, Update) for nlri in update.announced]
        gone = [nlri for update in updates if isinstance(update, Update) for nlri in update.withdrawn]
        assert (told, gone) in ((routes, []), ([], routes))
        announced.add(bool(told))
    assert announced == {True, False}


@settings(max_examples=100, deadline=None)
@given(attribute_sets(4))
def test_an_old_speaker_gets_the_whole_path_through_as4_path(attributes: Attributes) -> None:
    context = Context(as4=False)
    (message,) = announce(attributes, [NLRI(parse_prefix("10.0.0.0/8"))], context)
    (update,) = read(message, context)
    assert isinstance(update, Update)
    assert update.attributes is not None
    flat = [asn for segment in update.attributes.as_path for asn in segment.asns]
    if all(segment.type == 2 for segment in attributes.as_path):
        assert flat == [asn for segment in attributes.as_path for asn in segment.asns]
    if attributes.aggregator is not None and attributes.aggregator[0] > 65535:
        assert update.attributes.aggregator == attributes.aggregator


def test_many_routes_are_split_into_messages_of_4096_bytes() -> None:
    for version, base in ((4, "10.0.0.0/32"), (6, "fd00::/128")):
        start = parse_prefix(base)
        routes = [NLRI(Prefix(version, start.length, start.value + i), i) for i in range(5000)]
        hop = "10.1.1.1" if version == 4 else "fd00::1"
        messages = [*announce(Attributes(next_hop=hop), routes, ADD_PATH), *withdraw(routes, ADD_PATH)]
        assert max(len(message) for message in messages) <= 4096
        found = [u for message in messages for u in read(message, ADD_PATH)]
        assert [n for u in found if isinstance(u, Update) for n in u.announced] == routes
        assert [n for u in found if isinstance(u, Update) for n in u.withdrawn] == routes


opens = st.builds(
    Open,
    asns,
    st.sampled_from((0, 3, 240, 65535)),
    st.integers(1, 2**32 - 1),
    st.builds(
        Capabilities,
        families=st.frozensets(st.sampled_from((4, 6))),
        route_refresh=st.booleans(),
        graceful_restart=st.none()
        | st.builds(
            GracefulRestart,
            st.booleans(),
            st.integers(0, 4095),
            st.dictionaries(st.sampled_from((4, 6)), st.booleans()),
        ),
        as4=asns,
        add_path=st.dictionaries(st.sampled_from((4, 6)), st.integers(1, 3)),
        enhanced_refresh=st.booleans(),
        long_lived=st.none() | st.dictionaries(st.sampled_from((4, 6)), st.integers(0, 2**24 - 1)),
    ),
)


@given(opens)
def test_opens_survive_the_wire(message: Open) -> None:
    message = Open(message.capabilities.as4 or 1, message.hold_time, message.identifier, message.capabilities)
    assert read(encode(message)) == [message]


# --- malformed input


def refusal(action: Callable[[], object]) -> MessageError | None:
    """The error that ``action`` raised, None where it raised nothing."""
    try:
        action()
    except BGPError as error:
        assert isinstance(error, MessageError)  # noqa: PT017
        return error
    return None


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 6), st.binary(max_size=120), st.booleans(), st.booleans())
def test_noise_raises_only_errors_that_name_a_notification(kind: int, body: bytes, as4: bool, ibgp: bool) -> None:
    context = Context(as4=as4, ibgp=ibgp, add_path_receive=frozenset((4,)))
    error = refusal(lambda: read(frame(kind, body), context))
    assert error is None or (1 <= error.code <= 7 and 0 <= error.subcode <= 255)


@settings(max_examples=400, deadline=None)
@given(st.data(), st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_update_never_escapes(data: st.DataObject, where: int, value: int) -> None:
    attributes = data.draw(attribute_sets(4))
    (message,) = announce(attributes, [NLRI(parse_prefix("10.0.0.0/8"), 7)], ADD_PATH)
    body = bytearray(message[19:])
    body[where % len(body)] = value
    error = refusal(lambda: read(frame(2, bytes(body)), ADD_PATH))
    assert error is None or error.code == 3


@given(st.binary(max_size=60))
def test_noise_in_place_of_a_header_is_refused(noise: bytes) -> None:
    error = refusal(lambda: split(bytearray(noise)))
    assert error is None or error.code == 1


@pytest.mark.parametrize(
    ("header", "subcode"),
    [
        (b"\x00" * 16 + b"\x00\x13\x04", 1),
        (b"\xff" * 16 + b"\x00\x12\x04", 2),
        (b"\xff" * 16 + b"\x10\x01\x02", 2),
        (b"\xff" * 16 + b"\x00\x14\x04", 2),
        (b"\xff" * 16 + b"\x00\x13\x09", 3),
    ],
)
def test_bad_headers(header: bytes, subcode: int) -> None:
    with pytest.raises(MessageError) as caught:
        split(bytearray(header))
    assert (caught.value.code, caught.value.subcode) == (1, subcode)


def open_body(version: int = 4, asn: int = 1, hold: int = 90, identifier: int = 1, rest: bytes = b"\0") -> bytes:
    return struct.pack(">BHHI", version, asn, hold, identifier) + rest


@pytest.mark.parametrize(
    ("body", "subcode"),
    [
        (open_body(version=3), 1),
        (open_body(asn=0), 2),
        (open_body(identifier=0), 3),
        (open_body(rest=bytes((3, 1, 1, 0))), 4),
        (open_body(hold=2), 6),
        (open_body(rest=bytes((5, 2, 3, 1, 4, 0))), 0),
        (open_body(rest=bytes((7, 2, 5, 65, 3, 0, 0, 1))), 0),
    ],
)
def test_bad_opens(body: bytes, subcode: int) -> None:
    with pytest.raises(MessageError) as caught:
        read(frame(1, body))
    assert (caught.value.code, caught.value.subcode) == (2, subcode)


GOOD = {
    1: b"\x40\x01\x01\x00",
    2: b"\x40\x02\x00",
    3: b"\x40\x03\x04\x0a\x00\x00\x01",
    5: b"\x40\x05\x04\x00\x00\x00\x64",
}
ROUTE = b"\x08\x0a"


def update(*attributes: bytes, route: bytes = ROUTE, context: Context | None = None) -> Update:
    joined = b"".join(attributes)
    (found,) = read(frame(2, b"\0\0" + len(joined).to_bytes(2, "big") + joined + route), context)
    assert isinstance(found, Update)
    return found


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (1, b"\x40\x01\x01\x03"),
        (1, b"\x40\x01\x02\x00\x00"),
        (1, b"\x80\x01\x01\x00"),
        (2, b"\x40\x02\x03\x02\x02\x00"),
        (2, b"\x40\x02\x02\x02\x00"),
        (2, b"\x40\x02\x06\x09\x01\x00\x00\x00\x01"),
        (3, b"\x40\x03\x03\x0a\x00\x00"),
        (3, b"\x40\x03\x04\x7f\x00\x00\x01"),
        (4, b"\x80\x04\x03\x00\x00\x00"),
        (5, b"\x40\x05\x02\x00\x00"),
        (8, b"\xc0\x08\x03\x00\x00\x00"),
        (8, b"\xc0\x08\x00"),
        (9, b"\x80\x09\x03\x00\x00\x00"),
        (10, b"\x80\x0a\x03\x00\x00\x00"),
        (16, b"\xc0\x10\x07\x00\x00\x00\x00\x00\x00\x00"),
        (32, b"\xc0\x20\x0b" + b"\x00" * 11),
    ],
)
def test_malformed_attributes_withdraw_the_routes(kind: int, bad: bytes) -> None:
    found = update(*(value for number, value in GOOD.items() if number != kind), bad)
    assert found.announced == ()
    assert found.withdrawn == (NLRI(parse_prefix("10.0.0.0/8")),)
    assert found.faults


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_missing_mandatory_attributes_withdraw_the_routes(missing: int) -> None:
    found = update(*(value for number, value in GOOD.items() if number != missing))
    assert found.withdrawn == (NLRI(parse_prefix("10.0.0.0/8")),)


@pytest.mark.parametrize(
    "extra",
    [
        b"\x40\x06\x01\x00",
        b"\xc0\x07\x05" + b"\x00" * 5,
        b"\x40\x01\x01\x02",
        b"\xc0\x11\x06\x02\x01\x00\x00\x00\x05",
    ],
)
def test_attributes_that_do_no_harm_are_discarded(extra: bytes) -> None:
    found = update(*GOOD.values(), extra)
    assert found.announced == (NLRI(parse_prefix("10.0.0.0/8")),)
    assert found.faults
    assert found.attributes == Attributes(next_hop="10.0.0.1", local_pref=100)


def test_internal_attributes_from_outside_are_discarded() -> None:
    found = update(*GOOD.values(), b"\x80\x09\x04\x00\x00\x00\x01", context=Context(ibgp=False))
    assert found.attributes == Attributes(next_hop="10.0.0.1")


@pytest.mark.parametrize(
    ("body", "subcode"),
    [
        (b"\x00\x09\x00\x00", 1),
        (b"\x00\x00\x00\x09", 1),
        (b"\x00\x02\x21\x0a\x00\x00", 10),
        (b"\x00\x02\x10\x0a\x00\x00", 10),
        (b"\x00\x00\x00\x03\x00\xc8\x00", 2),
        (b"\x00\x00\x00\x06\x80\x0f\x03\x00\x02\x01"[:4] + b"\x80\x0f\x03\x00\x02", 1),
        (b"\x00\x00\x00\x05\x80\x0f\x02\x00\x02", 9),
        (b"\x00\x00\x00\x0c" + b"\x80\x0f\x03\x00\x02\x01" * 2, 1),
    ],
)
def test_updates_that_end_the_session(body: bytes, subcode: int) -> None:
    with pytest.raises(MessageError) as caught:
        read(frame(2, body))
    assert (caught.value.code, caught.value.subcode) == (3, subcode)
