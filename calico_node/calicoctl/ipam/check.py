"""``calicoctl ipam check``: what IPAM has assigned beside what is in use."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from calico_node.addresses import parse_address
from calico_node.calicoctl.connect import complete, connect
from calico_node.calicoctl.ipam.inventory import HandleRecord, Inventory, take_inventory
from calico_node.calicoctl.snapshot import resources
from calico_node.errors import ResourceDoesNotExist, ValidationError
from calico_node.ipam.blocks import WINDOWS_RESERVED_HANDLE, Attribute, Block
from calico_node.ipam.pools import pool_of
from calico_node.settings import CALICO_VERSION

TOP_NODES = 20


def check(options: dict[str, Any]) -> int:
    """Print what was found and how many problems; finding some is no failure."""

    async def read() -> tuple[Inventory, list[Any], list[Any]]:
        async with connect(options) as client:
            inventory = await take_inventory(client)
            if inventory.cluster is None:
                raise ResourceDoesNotExist("ClusterInformation(default)")
            nodes, node_faults = await resources(client, "Node", inventory.revision)
            endpoints, endpoint_faults = await resources(client, "WorkloadEndpoint", inventory.revision)
            inventory.faults += node_faults + endpoint_faults
            return inventory, nodes, endpoints

    inventory, nodes, endpoints = complete(read())
    findings = examine(inventory, nodes, endpoints, now=int(time.time()))
    show_all = options["show_all_ips"]
    for line in narrate(findings, every=show_all, problems=show_all or options["show_problem_ips"]):
        print(line)
    if options["output"]:
        Path(options["output"]).write_text(json.dumps(report(inventory, findings), indent=2))
    return 0


@define
class Allocation:
    """An allocated address; ``owners`` are the resources that use it, in words."""

    ip: str
    attribute: Attribute
    sequence: int
    node: str
    borrowed: bool
    owners: list[str] = field(factory=list)

    @property
    def cooling(self) -> bool:
        return self.attribute.released_at is not None

    @property
    def leaked(self) -> bool:
        return not self.owners and not self.cooling

    @property
    def described(self) -> str:
        """``Main:<handle> Extra:<attributes>``, as Calico names them."""
        extra = ",".join(f"{key}={value}" for key, value in sorted(self.attribute.secondary.items()))
        return f"Main:{self.attribute.handle_id or '<none>'} Extra:{extra}"


@define
class Findings:
    """``used`` maps an address to the resources that use it, ``unknown`` counts load-balancer addresses, whose
    services only the Kubernetes API knows.  ``overcounted`` is no problem: handles are written before blocks."""

    blocks: list[Block]
    pools: list[str]
    allocations: dict[str, list[Allocation]] = field(factory=dict)
    used: dict[str, list[str]] = field(factory=dict)
    outside: list[str] = field(factory=list)
    unallocated: list[str] = field(factory=list)
    leaked_handles: list[HandleRecord] = field(factory=list)
    missing_handles: list[str] = field(factory=list)
    undercounted: list[str] = field(factory=list)
    overcounted: list[str] = field(factory=list)
    handles: int = 0
    unknown: int = 0
    faults: list[str] = field(factory=list)

    def each(self) -> Iterator[Allocation]:
        for allocations in self.allocations.values():
            yield from allocations

    @property
    def leaked(self) -> list[Allocation]:
        return [allocation for allocation in self.each() if allocation.leaked]

    @property
    def problems(self) -> int:
        leaked = sum(1 for group in self.allocations.values() if any(allocation.leaked for allocation in group))
        handles = (self.leaked_handles, self.missing_handles, self.undercounted)
        return leaked + sum(len(found) for found in (self.outside, self.unallocated, *handles, self.faults))


def examine(inventory: Inventory, nodes: Iterable[Any], endpoints: Iterable[Any], *, now: int) -> Findings:
    """Compare; ``now`` (Unix seconds) decides what still cools down.  Pure."""
    pools = [pool for pool in inventory.pools if pool.enabled]
    blocks = [block.collected(now, inventory.config.cooldown_seconds) for block in inventory.blocks]
    findings = Findings(blocks, [pool.cidr for pool in pools], faults=list(inventory.faults))
    for user, addresses in (*map(_node, nodes), *map(_endpoint, endpoints)):
        for text in addresses:
            try:
                findings.used.setdefault(str(parse_address(text)), []).append(user)
            except ValidationError as error:
                findings.faults.append(f"{user}: {error}")
    named: dict[str, dict[str, int]] = {}
    for block in blocks:
        for allocation in _allocations(block):
            findings.allocations.setdefault(allocation.ip, []).append(allocation)
            allocation.owners += findings.used.get(allocation.ip, [])
            handle = allocation.attribute.handle
            if handle == WINDOWS_RESERVED_HANDLE:
                allocation.owners.append("Reserved for Windows")
            elif handle:
                counts = named.setdefault(handle, {})
                counts[block.cidr] = counts.get(block.cidr, 0) + 1
            if allocation.attribute.secondary.get("type") == "LoadBalancer" and not allocation.owners:
                allocation.owners.append("a LoadBalancer service (not checked)")
                findings.unknown += 1
    for block in inventory.blocks:
        findings.faults += faults_of(block, now)
    for address in findings.used:
        if address not in findings.allocations:
            (findings.unallocated if pool_of(pools, address) else findings.outside).append(address)
    _compare_handles(findings, inventory.handles, named)
    return findings


def _compare_handles(
    findings: Findings, handles: Iterable[HandleRecord], named: Mapping[str, Mapping[str, int]]
) -> None:
    """``named``: how many addresses in which block name a handle."""
    stored = set()
    for handle in handles:
        findings.handles += 1
        name = handle.id.partition("\r")[0]
        stored.add(name)
        held = named.get(name)
        if held is None:
            findings.leaked_handles.append(handle)
            continue
        for cidr in sorted({*held, *(handle.counts or {})} if handle.counts is not None else ()):
            counted, real = (handle.counts or {}).get(cidr, 0), held.get(cidr, 0)
            if counted != real:
                found = findings.overcounted if counted > real else findings.undercounted
                found.append(f"{handle.id} counts {counted} in {cidr}, where {real} name it")
    findings.missing_handles = sorted(set(named) - stored)


def faults_of(block: Block, now: int) -> list[str]:
    """The rules of a block that reading it does not check.  ``now`` is in Unix seconds."""
    faults = []
    pointed = {index for index in block.allocations if index is not None}
    for index, attribute in enumerate(block.attributes):
        if index not in pointed:
            faults.append(f"IPAM block {block.cidr}: no allocation points to attribute {index}")
        if attribute.released_at is not None and attribute.released_at > now + 60:
            faults.append(f"IPAM block {block.cidr}: attribute {index} was released in the future")
    free = set(block.unallocated)
    for ordinal, allocation in enumerate(block.allocations):
        if allocation is None and ordinal not in free:
            faults.append(f"IPAM block {block.cidr}: {block.address(ordinal)} is neither allocated nor unallocated")
    return faults


def _allocations(block: Block) -> Iterator[Allocation]:
    kind, _, host = (block.affinity or "").partition(":")
    owner = host if kind == "host" else ""
    for ordinal in range(len(block.allocations)):
        attribute = block.owner(ordinal)
        if attribute is None:
            continue
        node = attribute.secondary.get("node") or owner
        sequence = block.sequences.get(ordinal, block.sequence_number)
        yield Allocation(block.address(ordinal), attribute, sequence, node, node != owner)


def _node(node: Any) -> tuple[str, list[str]]:
    spec = node.spec
    addresses = [spec.ipv4_vxlan_tunnel_addr, spec.ipv6_vxlan_tunnel_addr]
    if spec.bgp is not None:
        addresses.append(spec.bgp.ipv4_ipip_tunnel_addr)
    if spec.wireguard is not None:
        addresses += [spec.wireguard.interface_ipv4_address, spec.wireguard.interface_ipv6_address]
    return f"Node({node.metadata.name})", [address for address in addresses if address]


def _endpoint(endpoint: Any) -> tuple[str, list[str]]:
    metadata = endpoint.metadata
    return f"Workload({metadata.namespace}/{metadata.name})", list(endpoint.spec.ip_networks)


def narrate(findings: Findings, *, every: bool, problems: bool) -> Iterator[str]:
    """The lines to print: counts, and the single addresses that are asked for."""
    allocations = list(findings.each())
    cooling = sum(allocation.cooling for allocation in allocations)
    yield "Checking IPAM for inconsistencies..."
    yield ""
    yield f"IPAM blocks: {len(findings.blocks)}, with {len(allocations)} allocations ({cooling} cooling down)"
    for block in findings.blocks:
        yield f"  {block.cidr} affinity={block.affinity or '<none>'}"
    if every:
        for allocation in allocations:
            state = "cooling down" if allocation.cooling else f"allocated; attrs {allocation.described}"
            yield f"  {allocation.ip} {state}"
    yield f"Active IP pools: {', '.join(findings.pools) or 'none'}"
    users = sum(len(owners) for owners in findings.used.values())
    yield f"Workloads and nodes use {len(findings.used)} IPs ({users} references)"
    if every:
        for address, owners in findings.used.items():
            yield f"  {address} belongs to {', '.join(owners)}"
    if findings.unknown:
        yield f"Not checked: {findings.unknown} IPs of LoadBalancer services, which this datastore does not hold"
    yield f"IPAM handles: {findings.handles}"
    yield from _nodes(allocations)
    yield ""
    yield from _section(
        "IPs allocated but not in use",
        [f"{allocation.ip} leaked; attrs {allocation.described}" for allocation in findings.leaked],
        problems,
    )
    used = findings.used
    yield from _section(
        "IPs in use outside every active IP pool",
        [f"{address} in use by {', '.join(used[address])}" for address in findings.outside],
        problems,
    )
    yield from _section(
        "IPs in use inside an active IP pool, but not allocated",
        [f"{address} in use by {', '.join(used[address])}" for address in findings.unallocated],
        problems,
    )
    yield from _section("handles without an IP", [handle.id for handle in findings.leaked_handles], problems)
    yield from _section("handles named by blocks but not stored", findings.missing_handles, problems)
    yield from _section(
        "handles that count too few IPs, the rest of which a release passes by", findings.undercounted, problems
    )
    yield from _section("documents that break their rules", findings.faults, True)
    if problems and findings.overcounted:
        yield from _section("handles that count too many IPs (no problem by itself)", findings.overcounted, True)
    shared = [f"{address} in use by {', '.join(owners)}" for address, owners in used.items() if len(owners) > 1]
    if problems and shared:
        yield from _section("IPs with several users (no problem while a machine migrates)", shared, True)
    yield f"Check complete; found {findings.problems} problems."


def _nodes(allocations: Iterable[Allocation]) -> Iterator[str]:
    counts: dict[str, int] = {}
    for allocation in allocations:
        counts[allocation.node] = counts.get(allocation.node, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if ranked:
        median = ranked[len(ranked) // 2][1]
        yield f"Nodes by allocations (at most {TOP_NODES} shown; most {ranked[0][1]}, median {median}):"
    for node, count in ranked[:TOP_NODES]:
        yield f"  {node or '<none>'} {count}"


def _section(title: str, lines: list[str], shown: bool) -> Iterator[str]:
    yield f"Found {len(lines)} {title}."
    if shown:
        for line in lines:
            yield f"  {line}"


def report(inventory: Inventory, findings: Findings) -> dict[str, Any]:
    """What ``-o`` writes: Calico's report, so that either tool can release from it."""
    spec = inventory.cluster.spec
    data: dict[str, Any] = {
        "version": CALICO_VERSION,
        "clusterGUID": spec.cluster_guid or "",
        "datastoreLocked": inventory.locked,
        "clusterInformationRevision": inventory.cluster.metadata.resource_version,
        "clusterType": spec.cluster_type or "",
        "allocations": {
            address: [_report_allocation(allocation) for allocation in allocations]
            for address, allocations in sorted(findings.allocations.items())
        },
    }
    if findings.leaked_handles:
        data["leakedHandles"] = [
            {"ID": handle.id, "UID": None, "Revision": str(handle.revision)} for handle in findings.leaked_handles
        ]
    return data


def _report_allocation(allocation: Allocation) -> dict[str, Any]:
    secondary = allocation.attribute.secondary
    members: dict[str, Any] = {
        "ip": allocation.ip,
        "handle": allocation.attribute.handle_id or "",
        "sequenceNumber": allocation.sequence,
        "pod": secondary.get("pod", ""),
        "namespace": secondary.get("namespace", ""),
        "node": allocation.node,
        "type": secondary.get("type", ""),
        "creationTimestamp": secondary.get("timestamp", ""),
        "inUse": bool(allocation.owners),
        "borrowed": allocation.borrowed and not allocation.cooling,
        "coolingDown": allocation.cooling,
        "owners": allocation.owners or None,
    }
    always = ("ip", "sequenceNumber", "inUse", "owners")
    return {name: value for name, value in members.items() if value or name in always}
