"""How full pools and blocks are.  Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from attrs import define, field, frozen

from calico_node.addresses import IPNetwork, parse_network
from calico_node.ipam.blocks import Block, Reservations
from calico_node.ipam.pools import pool_of
from calico_node.ipam.store import Pool


@frozen
class Usage:
    """Counts of addresses.  One that was assigned before it was reserved counts as both, so ``in_use``, ``reserved``
    and ``free`` may be more than ``total``.  Addresses that cool down are in use."""

    cidr: str
    total: int
    in_use: int
    reserved: int
    free: int


@define
class PoolUsage:
    """``pool`` is None for the blocks that lie in no pool any more."""

    pool: Usage | None
    blocks: list[Usage] = field(factory=list)


def usage(pools: Sequence[Pool], blocks: Iterable[Block], reserved: Iterable[str]) -> list[PoolUsage]:
    """Every pool in the order given, then the blocks without one."""
    reserved = list(reserved)
    reservations, networks = Reservations(reserved), _collapse(reserved)
    inside: dict[str, list[Usage]] = {pool.cidr: [] for pool in pools}
    taken_twice = dict.fromkeys(inside, 0)
    orphans: list[Usage] = []
    for block in sorted(blocks, key=lambda block: (block.network.version, int(block.network.network_address))):
        ordinals = reservations.ordinals(block.cidr)
        counted = Usage(block.cidr, len(block.allocations), block.in_use, len(ordinals), block.free(ordinals))
        pool = pool_of(pools, block.cidr)
        if pool is None:
            orphans.append(counted)
        else:
            inside[pool.cidr].append(counted)
            taken_twice[pool.cidr] += sum(1 for ordinal in ordinals if block.allocations[ordinal] is not None)
    result = []
    for pool in pools:
        total, held = parse_network(pool.cidr).num_addresses, _overlap(pool.cidr, networks)
        in_use = sum(block.in_use for block in inside[pool.cidr])
        free = total - in_use - held + taken_twice[pool.cidr]
        result.append(PoolUsage(Usage(pool.cidr, total, in_use, held, free), inside[pool.cidr]))
    if orphans:
        result.append(PoolUsage(None, orphans))
    return result


def _collapse(cidrs: Iterable[str]) -> list[IPNetwork]:
    networks = [parse_network(cidr) for cidr in cidrs]
    v4 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv6Network))
    return [*v4, *v6]


def _overlap(cidr: str, networks: Iterable[IPNetwork]) -> int:
    """How many addresses of ``cidr`` lie in ``networks``, no two of which overlap."""
    outer = parse_network(cidr)
    # Two CIDRs that overlap are one inside the other.
    return sum(
        min(outer.num_addresses, network.num_addresses)
        for network in networks
        if network.version == outer.version and network.overlaps(outer)
    )
