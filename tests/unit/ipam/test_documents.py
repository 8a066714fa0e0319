"""The stored form: byte for byte Calico's, and nothing malformed gets in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_node.errors import IPAMError
from calico_node.ipam import Block, IPAMConfig, Release, timestamp_attribute
from calico_node.ipam.blocks import Attribute, MalformedDocument
from calico_node.ipam.documents import (
    Affinity,
    AffinityKey,
    BlockKey,
    ConfigKey,
    Handle,
    HandleKey,
    decode_affinity,
    decode_block,
    decode_config,
    decode_handle,
    encode,
)
from calico_node.ipam.store import key_path, parse_affinity_path
from tests.unit.ipam.world import START

POD = "k8s-pod-network.0f3a6c1e9d7b45aa8c2e11d0b6f7e3c4a5968778695a4b3c2d1e0f9a8b7c6d5e"
BLOCK = (
    '{"cidr":"10.65.0.64/29","affinity":"host:node-a","affinity_claim_time":"2026-08-01T10:00:00Z",'
    '"allocations":[0,2,1,null,null,null,null,null],"unallocated":[3,4,5,6,7],"attributes":['
    '{"handle_id":"vxlan-tunnel-addr-node-a","secondary":{"node":"node-a","type":"vxlanTunnelAddress"}},'
    f'{{"handle_id":"{POD}","secondary":{{"namespace":"default","node":"node-a","pod":"nginx",'
    '"timestamp":"2026-08-01 10:03:11.123456789 +0000 UTC"}},'
    '{"releasedAt":"2026-08-01T10:05:00Z"}],"sequenceNumber":1785578400000000004,'
    '"sequenceNumberForAllocation":{"0":1785578400000000000,"1":1785578400000000003,"2":1785578400000000002},'
    '"deleted":false}'
).encode()


def test_the_block_of_the_reference_survives_byte_for_byte() -> None:
    block = decode_block(BLOCK)
    assert encode(block) == BLOCK
    assert block.address(2) == "10.65.0.66"
    assert block.owner(2) == Attribute(
        POD,
        {
            "namespace": "default",
            "node": "node-a",
            "pod": "nginx",
            "timestamp": "2026-08-01 10:03:11.123456789 +0000 UTC",
        },
    )


def test_the_history_of_the_reference_block_gives_its_bytes() -> None:
    """Tunnel, then a pod, then another, then the first pod released: the block as Calico has it."""
    at = START // 10**9
    new = Block.new("10.65.0.64/29", "host:node-a", START)
    tunnel = {"node": "node-a", "type": "vxlanTunnelAddress"}
    pod = {"namespace": "default", "node": "node-a", "pod": "nginx"}
    stamped = {**pod, "timestamp": timestamp_attribute(START + 191_123_456_789)}
    one = new.assigned(new.next_free(1), "vxlan-tunnel-addr-node-a", tunnel).following(new)
    two = one.assigned(one.next_free(1), "old", {"node": "node-a"}).following(one)
    three = two.assigned(two.next_free(1), POD, stamped).following(two)
    released, done, missing, lost = three.released([Release("10.65.0.65")], at + 300, cooldown=60)
    assert (done, missing, lost) == ([Release("10.65.0.65")], [], {"old": 1})
    assert encode(released.following(three)) == BLOCK


def test_large_sequence_numbers_are_exact() -> None:
    number = 2**64 - 1
    raw = BLOCK.replace(b"1785578400000000004", str(number).encode())
    assert decode_block(raw).sequence_number == number
    assert decode_block(raw).following(decode_block(raw)).sequence_number == 0


def test_null_lists_of_a_new_block_are_empty() -> None:
    raw = encode(Block.new("10.65.0.64/29", None, START)).replace(b'"attributes":[]', b'"attributes":null')
    assert decode_block(raw).attributes == ()
    assert b'"affinity":null' in raw
    assert b"affinity_claim_time" not in raw


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"[0,2,1,null", b"[0,2,1", "7 allocations in a block of 8"),
        (b"[0,2,1,null", b"[0,9,1,null", "points to attribute 9 of 3"),
        (b"[3,4,5,6,7]", b"[2,3,4]", "ordinal 2 is both allocated and unallocated"),
        (b"[3,4,5,6,7]", b"[3,3]", "stands there twice"),
        (b"10.65.0.64/29", b"10.65.0.65/29", "host bits"),
        (b'"cidr"', b'"dirc"', "cidr"),
        (b"1785578400000000004", b"-1", "unsigned 64-bit"),
        (b"2026-08-01T10:05:00Z", b"yesterday", "yesterday"),
        (b"}", b"", "not JSON"),
    ],
)
def test_a_malformed_block_is_refused_with_the_reason(old: bytes, new: bytes, reason: str) -> None:
    with pytest.raises(MalformedDocument, match=reason) as caught:
        decode_block(BLOCK.replace(old, new), "10.65.0.64/29")
    assert "10.65.0.64/29" in str(caught.value)


@given(st.binary(max_size=200))
def test_garbage_never_escapes_as_another_error(raw: bytes) -> None:
    for decode in (decode_block, decode_affinity, decode_handle, decode_config):
        try:
            decode(raw)
        except IPAMError:
            pass


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda c: st.lists(c, max_size=3), max_leaves=5))
def test_a_member_of_any_type_never_escapes_as_another_error(value: object) -> None:
    document = orjson.loads(BLOCK)
    for member in document:
        try:
            raw = orjson.dumps({**document, member: value})
        except TypeError:  # an integer beyond 64 bits
            continue
        try:
            decode_block(raw)
        except IPAMError:
            pass


def test_keys() -> None:
    assert key_path(BlockKey("10.65.0.64/29")) == "/calico/ipam/v2/assignment/ipv4/block/10.65.0.64-29"
    assert key_path(BlockKey("fd00:65::40/122")) == "/calico/ipam/v2/assignment/ipv6/block/fd00:65::40-122"
    affinity = AffinityKey("node-a", "10.65.0.64/29")
    assert key_path(affinity) == "/calico/ipam/v2/host/node-a/ipv4/block/10.65.0.64-29"
    assert parse_affinity_path(key_path(affinity)) == affinity
    virtual = AffinityKey("load-balancer", "fd00:65::40/122", "virtual")
    assert key_path(virtual) == "/calico/ipam/v2/virtual/load-balancer/ipv6/block/fd00:65::40-122"
    assert parse_affinity_path(key_path(virtual)) == virtual
    assert parse_affinity_path("/calico/ipam/v2/host/node-a") is None
    assert key_path(HandleKey("k8s-pod-network.C0FFEE")) == "/calico/ipam/v2/handle/k8s-pod-network.C0FFEE"
    assert key_path(ConfigKey()) == "/calico/ipam/v2/config"


def test_small_documents() -> None:
    assert encode(Affinity("confirmed")) == b'{"state":"confirmed","deleted":false}'
    assert decode_affinity(b"").confirmed
    assert decode_affinity(b"{}").confirmed
    assert not decode_affinity(b'{"state":"pending"}').confirmed
    handle = b'{"block":{"10.65.0.64/29":1},"deleted":false}'
    assert decode_handle(handle) == Handle({"10.65.0.64/29": 1})
    assert encode(Handle({"10.65.0.64/29": 1})) == handle


def test_config_leaves_out_what_is_false() -> None:
    raw = (
        b'{"auto_allocate_blocks":true,"maxBlocksPerHost":4,"strict_affinity":true,'
        b'"kubeVirtVMAddressPersistence":"Enabled","ipCooldownSeconds":60}'
    )
    assert decode_config(raw) == IPAMConfig(True, True, 4, "Enabled", 60)
    assert encode(decode_config(raw)) == raw
    assert decode_config(b'{"strict_affinity":true}').auto_allocate_blocks is False
    assert encode(IPAMConfig(True, False, 0, "", 0)) == b'{"strict_affinity":true}'


def test_timestamps_are_gos() -> None:
    assert timestamp_attribute(START) == "2026-08-01 10:00:00 +0000 UTC"
    assert timestamp_attribute(START + 191_123_456_789) == "2026-08-01 10:03:11.123456789 +0000 UTC"
    assert timestamp_attribute(START + 120_000_000) == "2026-08-01 10:00:00.12 +0000 UTC"


FUTURE = {"x": [1, None]}


@pytest.mark.parametrize(
    ("decoder", "raw"),
    [
        (decode_block, BLOCK),
        (decode_affinity, b'{"state":"confirmed","deleted":false}'),
        (decode_handle, b'{"block":{"10.65.0.64/29":1},"deleted":false}'),
        (decode_config, b'{"auto_allocate_blocks":true,"maxBlocksPerHost":3,"strict_affinity":true}'),
    ],
)
def test_members_of_a_newer_release_are_written_back(decoder: Callable[[bytes], Any], raw: bytes) -> None:
    newer = {**orjson.loads(raw), "fromTheFuture": FUTURE}
    if decoder is decode_block:
        newer["attributes"][1]["fromTheFuture"] = FUTURE
    assert encode(decoder(orjson.dumps(newer))) == orjson.dumps(newer)
