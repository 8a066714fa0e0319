"""Matches and actions as expressions: the vocabulary that rules are written in."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Sequence

from calico_node.addresses import IPNetwork, parse_network
from calico_node.dataplanes.nftables import expressions as e
from calico_node.dataplanes.nftables.codec import IFNAME_LENGTH, TYPE_INET_SERVICE
from calico_node.dataplanes.nftables.config import RenderConfig
from calico_node.dataplanes.nftables.layout import Family
from calico_node.model import Port

Expressions = tuple[e.Expression, ...]

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136}
TCP = 6
UDP = 17
IPIP = 4

ACCEPT: Expressions = (e.Counter(), e.Verdict(e.NF_ACCEPT))
DROP: Expressions = (e.Counter(), e.Verdict(e.NF_DROP))
RETURN: Expressions = (e.Counter(), e.Verdict(e.NFT_RETURN))


def host_u32(value: int) -> bytes:
    """A register value in the machine's byte order: marks, conntrack states, interface indexes."""
    return value.to_bytes(4, sys.byteorder)


def jump(chain: str) -> Expressions:
    return (e.Counter(), e.Verdict(e.NFT_JUMP, chain))


def goto(chain: str) -> Expressions:
    return (e.Counter(), e.Verdict(e.NFT_GOTO, chain))


def deny(config: RenderConfig) -> Expressions:
    return (e.Counter(), e.Reject()) if config.deny_rejects else DROP


def allow(config: RenderConfig) -> Expressions:
    """The final word for a packet of ours in the filter chains."""
    return RETURN if config.accept_returns else ACCEPT


def mark_is(bits: int, value: int | None = None) -> Expressions:
    """The packet's mark, masked with ``bits``, equals ``value`` (default all of them set)."""
    value = bits if value is None else value
    return (
        e.Meta(e.META_MARK),
        e.Bitwise(host_u32(bits), bytes(4)),
        e.Cmp(host_u32(value)),
    )


def mark_set(bits: int, clear: int = 0) -> Expressions:
    """Set ``bits`` and clear ``clear`` in the packet's mark."""
    keep = 0xFFFFFFFF & ~(bits | clear)
    return (e.Meta(e.META_MARK), e.Bitwise(host_u32(keep), host_u32(bits)), e.MetaSet(e.META_MARK))


def interface_name(name: str) -> bytes:
    return name.encode().ljust(IFNAME_LENGTH, b"\0")


def interface(key: int, name: str) -> Expressions:
    """``key`` META_IIFNAME or META_OIFNAME; a ``name`` that ends in ``*`` is a prefix."""
    data = name[:-1].encode() if name.endswith("*") else interface_name(name)
    return (e.Meta(key), e.Cmp(data))


def ct_state(states: int) -> Expressions:
    return (e.Ct(e.CT_STATE), e.Bitwise(host_u32(states), bytes(4)), e.Cmp(bytes(4), e.NEQ))


def protocol(number: int, *, negated: bool = False) -> Expressions:
    return (e.Meta(e.META_L4PROTO), e.Cmp(bytes((number,)), e.NEQ if negated else e.EQ))


def _address(family: Family, *, source: bool, dreg: int = 1) -> e.Payload:
    offset = family.source_offset if source else family.destination_offset
    return e.Payload(e.NETWORK_HEADER, offset, family.address_length, dreg)


def _port(*, source: bool, dreg: int = 1) -> e.Payload:
    return e.Payload(e.TRANSPORT_HEADER, 0 if source else 2, 2, dreg)


def in_set(family: Family, name: str, *, source: bool, negated: bool = False) -> Expressions:
    return (_address(family, source=source), e.Lookup(name, negated))


def in_address_and_port_set(family: Family, name: str, *, source: bool, negated: bool = False) -> Expressions:
    """Address, protocol and port side by side in 4-byte registers."""
    after = 8 + family.address_length // 4
    return (
        _address(family, source=source),
        e.Meta(e.META_L4PROTO, after if after % 4 else after // 4 - 1),
        _port(source=source, dreg=after + 1),
        e.Lookup(name, negated),
    )


def collapse(nets: Iterable[str], family: Family) -> list[IPNetwork]:
    """The nets of ``family``, sorted, no two of them touching the same address.  Raises ``ValidationError``."""
    parsed = [net for net in map(parse_network, nets) if net.version == family.version]
    return list(ipaddress.collapse_addresses(parsed))  # type: ignore[type-var]


def nets(family: Family, networks: Sequence[IPNetwork], *, source: bool, negated: bool = False) -> Expressions:
    """The address is (not) in one of the collapsed ``networks``."""
    load = _address(family, source=source)
    if len(networks) == 1:
        network = networks[0]
        base = network.network_address.packed
        op = e.NEQ if negated else e.EQ
        if network.prefixlen == network.max_prefixlen:
            return (load, e.Cmp(base, op))
        mask = e.Bitwise(network.netmask.packed, bytes(len(base)), len(base))
        return (load, mask, e.Cmp(base, op))
    elements = tuple(net.network_address.packed + net.broadcast_address.packed for net in networks)
    return (load, e.Lookup(e.AnonymousSet(family.address_type, family.address_length, elements, True), negated))


def merge_ports(ports: Iterable[Port]) -> list[tuple[int, int]]:
    """Sorted ranges, overlapping and adjacent ones joined."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted((port.low, port.high or port.low) for port in ports):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def ports(ranges: Sequence[tuple[int, int]], *, source: bool, negated: bool = False) -> Expressions:
    """The port is (not) in one of ``ranges``; the rule must already have fixed a protocol that has ports."""
    load = _port(source=source)
    op = e.NEQ if negated else e.EQ
    packed = [(low.to_bytes(2), high.to_bytes(2)) for low, high in ranges]
    if len(packed) == 1:
        low, high = packed[0]
        return (load, e.Cmp(low, op) if low == high else e.Range(low, high, op))
    if all(low == high for low, high in packed):
        elements = tuple(low for low, _ in packed)
        return (load, e.Lookup(e.AnonymousSet(TYPE_INET_SERVICE, 2, elements), negated))
    elements = tuple(low + high for low, high in packed)
    return (load, e.Lookup(e.AnonymousSet(TYPE_INET_SERVICE, 2, elements, True), negated))


def icmp(type_: int, code: int | None, *, negated: bool = False) -> Expressions:
    """ICMP type, or type and code as one two-byte value, so that the negation is of both together."""
    op = e.NEQ if negated else e.EQ
    if code is None:
        return (e.Payload(e.TRANSPORT_HEADER, 0, 1), e.Cmp(bytes((type_,)), op))
    return (e.Payload(e.TRANSPORT_HEADER, 0, 2), e.Cmp(bytes((type_, code)), op))


def reverse_path_fails() -> Expressions:
    """No route leads back to the source out of the interface the packet came in by."""
    return (e.Fib(e.FIB_RESULT_OIF, e.FIB_SADDR | e.FIB_MARK | e.FIB_IIF), e.Cmp(bytes(4)))
