"""The route resolver: which routes to blocks are Felix's, and which way they go.

Local blocks get a blackhole, so that an address nobody holds loops nowhere.  Blocks of other nodes get a route
through that node where the pool needs no tunnel to it (mode CrossSubnet, and the node's address within our subnet);
where it would need one, the reason is kept, for health.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TypeAlias

from attrs import field, frozen

from calico_node.addresses import IPNetwork
from calico_node.model import AllocationBlock, IPPool


@frozen
class BlockRoute:
    """A route to ``dst``: through the node address ``gateway``, or a blackhole where there is none."""

    dst: str
    gateway: str = ""


@frozen
class NodeAddresses:
    """A node's addresses as CIDR text, "" where unknown."""

    ipv4: str = ""
    ipv6: str = ""


@frozen
class RouteChange:
    """What changed, by destination (None: no route any more)."""

    routes: Mapping[str, BlockRoute | None] = field(factory=dict)


_Result: TypeAlias = tuple[tuple[BlockRoute, ...], tuple[str, ...]]
"""A block's routes, and the reasons for those that cannot be."""

_NOTHING: _Result = ((), ())


class RouteResolver:
    """Holds pools, blocks and nodes, and works out anew only the blocks that a change can concern."""

    def __init__(self, node_name: str) -> None:
        self._node = node_name
        self._pools: dict[str, tuple[IPNetwork, IPPool]] = {}
        self._blocks: dict[str, AllocationBlock] = {}
        self._nodes: dict[str, NodeAddresses] = {}
        self._of_node: dict[str, set[str]] = {}  # node -> blocks with an address of it
        self._mode = "EnabledIPIPOnly"
        self._results: dict[str, _Result] = {}
        self._dirty: dict[str, None] = {}
        self._changes: dict[str, BlockRoute | None] = {}
        self._missing: dict[str, tuple[str, ...]] = {}

    @property
    def missing(self) -> tuple[str, ...]:
        """Pool and peer for which the needed encapsulation is not built, and why, one sentence each."""
        return tuple(sorted({reason for reasons in self._missing.values() for reason in reasons}))

    def set_program_cluster_routes(self, mode: str) -> None:
        if mode != self._mode:
            self._mode = mode
            self._dirty.update(dict.fromkeys(self._blocks))

    def set_pool(self, cidr: str, pool: IPPool | None) -> None:
        if pool is None:
            self._pools.pop(cidr, None)
        else:
            self._pools[cidr] = (ipaddress.ip_network(cidr), pool)
        self._dirty.update(dict.fromkeys(self._blocks))

    def set_block(self, cidr: str, block: AllocationBlock | None) -> None:
        old = self._blocks.pop(cidr, None)
        if old is not None:
            for node in _holders(old):
                blocks = self._of_node[node]
                blocks.discard(cidr)
                if not blocks:
                    del self._of_node[node]
        if block is not None:
            self._blocks[cidr] = block
            for node in _holders(block):
                self._of_node.setdefault(node, set()).add(cidr)
        self._dirty[cidr] = None

    def set_node(self, name: str, addresses: NodeAddresses | None) -> None:
        if self._nodes.get(name) == addresses:
            return
        if addresses is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = addresses
        self._dirty.update(dict.fromkeys(self._blocks if name == self._node else self._of_node.get(name, ())))

    def step(self, budget: int) -> int:
        """Work out at most ``budget`` blocks; returns how many."""
        done = 0
        while self._dirty and done < budget:
            cidr = next(iter(self._dirty))
            del self._dirty[cidr]
            done += 1
            block = self._blocks.get(cidr)
            self._settle(cidr, self._resolve(cidr, block) if block is not None else _NOTHING)
        return done

    def take(self) -> RouteChange:
        """What changed since the last call."""
        change = RouteChange(self._changes)
        self._changes = {}
        return change

    def _settle(self, cidr: str, new: _Result) -> None:
        old = self._results.get(cidr, _NOTHING)
        if new == old:
            return
        self._results.pop(cidr, None)
        if new != _NOTHING:
            self._results[cidr] = new
        for route in old[0]:
            self._changes[route.dst] = None
        for route in new[0]:
            self._changes[route.dst] = route
        self._missing.pop(cidr, None)
        if new[1]:
            self._missing[cidr] = new[1]

    def _resolve(self, cidr: str, block: AllocationBlock) -> _Result:
        network = ipaddress.ip_network(cidr)
        pool = self._pool_of(network)
        owner = _owner(block)
        if pool is None or not self._is_ours(pool):
            return _NOTHING
        routes: list[BlockRoute] = []
        reasons: list[str] = []
        if owner == self._node:
            if network.prefixlen < network.max_prefixlen:
                routes.append(BlockRoute(cidr))
        elif owner:
            self._towards(cidr, owner, pool, routes, reasons)
        for address, holder in _borrowed(block, network):
            if holder != self._node:
                self._towards(address, holder, pool, routes, reasons)
        return tuple(routes), tuple(reasons)

    def _towards(self, dst: str, peer: str, pool: IPPool, routes: list[BlockRoute], reasons: list[str]) -> None:
        """Add the route to ``dst`` on node ``peer``, or the reason why there can be none."""
        v6 = ":" in dst
        ours, theirs = self._address(self._node, v6), self._address(peer, v6)
        if not theirs:
            return  # that node is not known (yet)
        encapsulation = "VXLAN" if pool.vxlan_mode else "IPIP"
        mode = pool.vxlan_mode or pool.ipip_mode
        if not mode:
            routes.append(BlockRoute(dst, _bare(theirs)))
        elif mode != "cross-subnet":
            reasons.append(
                f"encapsulation not built: pool {pool.cidr} has {encapsulation} mode Always, "
                f"so node {peer} ({_bare(theirs)}) cannot be reached"
            )
        elif not ours or ipaddress.ip_address(_bare(theirs)) not in ipaddress.ip_network(ours, strict=False):
            reasons.append(
                f"encapsulation not built: pool {pool.cidr} needs {encapsulation} to node {peer} "
                f"({_bare(theirs)}), which is not on the subnet of {ours or 'this node (no address)'}"
            )
        else:
            routes.append(BlockRoute(dst, _bare(theirs)))

    def _address(self, node: str, v6: bool) -> str:
        addresses = self._nodes.get(node, NodeAddresses())
        return addresses.ipv6 if v6 else addresses.ipv4

    def _pool_of(self, network: IPNetwork) -> IPPool | None:
        """The pool that holds the block (the longest, were there several)."""
        holding = [
            (pool_network.prefixlen, pool)
            for pool_network, pool in self._pools.values()
            if pool_network.version == network.version
            and pool_network.prefixlen <= network.prefixlen
            and network.network_address in pool_network
        ]
        return max(holding, key=lambda one: one[0])[1] if holding else None

    def _is_ours(self, pool: IPPool) -> bool:
        """Whether Felix, not the BGP speaker, writes the routes of this pool (``programClusterRoutes``)."""
        if pool.vxlan_mode:
            return True
        if pool.ipip_mode:
            return self._mode in ("EnabledIPIPOnly", "Enabled")
        return self._mode in ("EnabledNoEncapOnly", "Enabled")


def _bare(address: str) -> str:
    return address.partition("/")[0]


def _owner(block: AllocationBlock) -> str:
    kind, _, name = (block.affinity or "").partition(":")
    return name if kind == "host" else ""


def _borrowed(block: AllocationBlock, network: IPNetwork) -> list[tuple[str, str]]:
    """(address with length, node) of every allocation whose node is not the block's."""
    owner = _owner(block)
    found: list[tuple[str, str]] = []
    for ordinal, index in enumerate(block.allocations[: network.num_addresses]):
        if index is None or not 0 <= index < len(block.attributes):
            continue
        holder = block.attributes[index].secondary.get("node", "")
        if holder and holder != owner:
            found.append((f"{network.network_address + ordinal}/{network.max_prefixlen}", holder))
    return found


def _holders(block: AllocationBlock) -> set[str]:
    return {_owner(block)} | {attribute.secondary.get("node", "") for attribute in block.attributes}
