"""Which pools an assignment may draw from, and in which order their blocks are tried.  Pure.

Source: Calico ``libcalico-go/lib/ipam/{pools,ipam,ipam_block_reader_writer}.go``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from calico_node.addresses import parse_network
from calico_node.errors import IPAMError, SelectorError
from calico_node.ipam.blocks import Reservations
from calico_node.ipam.store import Pool
from calico_node.selectors import parse

WORKLOAD = "Workload"
TUNNEL = "Tunnel"
LOAD_BALANCER_USE = "LoadBalancer"


def selects(pool: Pool, node_labels: Mapping[str, str]) -> bool:
    """Whether the pool's nodeSelector takes a node with these labels.  Raises ``IPAMError`` naming the pool."""
    return _matches(pool, "nodeSelector", pool.node_selector, node_labels)


def _matches(pool: Pool, field: str, selector: str, labels: Mapping[str, str]) -> bool:
    try:
        return parse(selector).matches(labels)
    except SelectorError as error:
        raise IPAMError(f"IPPool({pool.name}): spec.{field}: {error}") from None


def determine_pools(
    pools: Iterable[Pool],
    *,
    requested: Sequence[str],
    version: int,
    host: str,
    node_labels: Mapping[str, str],
    namespace_labels: Mapping[str, str] | None,
    use: str,
) -> list[Pool]:
    """The pools to draw from, in order.

    ``requested`` CIDRs skip the selectors and the assignment mode, but not ``use``.  A namespace that is not known
    has no labels.  Raises ``IPAMError`` when nothing is left, with the reason.
    """
    enabled = [pool for pool in pools if pool.enabled and pool.version == version]
    if requested:
        by_cidr = {pool.cidr: pool for pool in enabled}
        selected = []
        for cidr in requested:
            pool = by_cidr.get(str(parse_network(cidr)))
            if pool is None:
                raise IPAMError(f"the given pool ({cidr}) does not exist, or is not enabled")
            selected.append(pool)
    else:
        selected, broken = [], []
        for pool in enabled:
            try:
                if (
                    pool.automatic
                    and selects(pool, node_labels)
                    and _matches(pool, "namespaceSelector", pool.namespace_selector, namespace_labels or {})
                ):
                    selected.append(pool)
            except IPAMError as error:
                broken.append(str(error))
        if not selected:
            raise IPAMError("; ".join([f"no configured Calico pools for node {host} (IPv{version})", *broken]))
    allowed = [pool for pool in selected if use in pool.allowed_uses]
    if not allowed:
        names = ", ".join(pool.name for pool in selected)
        raise IPAMError(
            f"cannot find a qualified ippool for node {host}, no pools match the required use ({use}): {names}"
        )
    return allowed


def pool_of(pools: Iterable[Pool], cidr: str) -> Pool | None:
    """The pool that contains an address or block."""
    return next((pool for pool in pools if pool.contains(cidr)), None)


def block_cidr_of(pool: Pool, address: str) -> str:
    """The block of ``pool`` that an address falls into."""
    bits = 32 if pool.version == 4 else 128
    value = int(parse_network(address).network_address)
    first = value >> (bits - pool.block_size) << (bits - pool.block_size)
    return f"{type(parse_network(pool.cidr).network_address)(first)}/{pool.block_size}"


def _fnv1(data: bytes) -> int:
    """FNV-1, 32 bits (multiply, then xor)."""
    value = 0x811C9DC5
    for byte in data:
        value = (value * 0x01000193) & 0xFFFFFFFF ^ byte
    return value


def start_index(pool: Pool, host: str, now_ns: int) -> int:
    """Where a host starts to look in a pool: spread over hosts, and the same for one host each time (single-address
    blocks: spread over time, too).  Any choice is safe; this one keeps hosts out of each other's way."""
    bits = 32 if pool.version == 4 else 128
    count = 1 << max(0, pool.block_size - parse_network(pool.cidr).prefixlen)
    seed = now_ns if pool.block_size == bits else _fnv1(host.encode())
    return random.Random(seed).randrange(count)


def walk_blocks(pool: Pool, start: int, reservations: Reservations) -> Iterator[str]:
    """Every block CIDR of ``pool`` once, from index ``start`` on with wrap-around; wholly reserved ones are left out
    (a reserved range is stepped over at once, however large)."""
    network = parse_network(pool.cidr)
    if not network.prefixlen <= pool.block_size <= network.max_prefixlen:
        return
    step = 1 << (network.max_prefixlen - pool.block_size)
    make, base = type(network.network_address), int(network.network_address)
    count = network.num_addresses // step
    for low, high in ((start, count), (0, start)):
        index = low
        while index < high:
            first = base + index * step
            reserved_until = reservations.covering(pool.version, first, first + step - 1)
            if reserved_until is not None:
                index = (reserved_until + 1 - base) // step
                continue
            yield f"{make(first)}/{pool.block_size}"
            index += 1


def order_blocks(pool: Pool, start: int, cidrs: Iterable[str]) -> list[str]:
    """Those of ``cidrs`` that are blocks in ``pool``, in the order ``walk_blocks`` would meet them."""
    network = parse_network(pool.cidr)
    base, step = int(network.network_address), 1 << (network.max_prefixlen - pool.block_size)
    count = max(1, network.num_addresses // step)
    inside = [cidr for cidr in cidrs if pool.contains(cidr)]
    return sorted(inside, key=lambda c: ((int(parse_network(c).network_address) - base) // step - start) % count)
