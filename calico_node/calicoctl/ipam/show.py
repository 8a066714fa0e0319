"""``calicoctl ipam show``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from calico_node.addresses import canonical_cidr, parse_address
from calico_node.calicoctl.boxes import box
from calico_node.calicoctl.connect import complete, connect
from calico_node.calicoctl.errors import InputError
from calico_node.calicoctl.ipam.inventory import Inventory, take_inventory
from calico_node.calicoctl.ipam.usage import Usage, usage
from calico_node.calicoctl.snapshot import resources
from calico_node.datastores import Client
from calico_node.errors import ValidationError
from calico_node.ipam.allocator import IPAM
from calico_node.ipam.blocks import Attribute
from calico_node.ipam.documents import IPAMConfig
from calico_node.ipam.store import KVStore

_COUNTS = ("IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE")


def show(options: dict[str, Any]) -> int:
    """Print the view asked for; the pools' use where none is."""
    views = ("ip", "show_blocks", "show_borrowed", "show_configuration")
    if sum(bool(options[view]) for view in views) > 1:
        raise InputError("give one of --ip, --show-blocks, --show-borrowed and --show-configuration")
    address = ""
    if options["ip"]:
        address = checked_address(options["ip"])
        if not address:
            return 1

    async def read() -> str:
        async with connect(options) as client:
            if address:
                return _assignment(address, await IPAM(KVStore(client)).assignment(address))
            inventory = await take_inventory(client)
            if options["show_configuration"]:
                return _configuration(inventory.config)
            if options["show_borrowed"]:
                return _borrowed(inventory)
            return await _usage(client, inventory, blocks=options["show_blocks"])

    sys.stdout.write(complete(read()))
    return 0


def checked_address(text: str) -> str:
    """The canonical address, or "" after saying on standard output (where Calico says it) that there is none."""
    try:
        if "/" in text:
            raise ValidationError("an address has no length")
        return str(parse_address(text))
    except ValidationError:
        print(f"Error executing command: invalid IP address specified: {text}")
        return ""


def _assignment(address: str, attribute: Attribute | None) -> str:
    if attribute is None:
        return f"{address} is not assigned\n"
    lines = [f"IP {address} is in use", f"Handle ID: {attribute.handle_id or '<none>'}"]
    lines += _attributes("Active Owner Attributes", attribute.secondary) or ["No Active Owner attributes defined"]
    lines += _attributes("Alternate Owner Attributes", attribute.alternate)
    return "".join(f"{line}\n" for line in lines)


def _attributes(title: str, attributes: Mapping[str, str]) -> list[str]:
    if not attributes:
        return []
    return [f"{title}:", *(f"  {key}: {value}" for key, value in sorted(attributes.items()))]


async def _usage(client: Client, inventory: Inventory, *, blocks: bool) -> str:
    reservations, faults = await resources(client, "IPReservation", inventory.revision)
    reserved = []
    for reservation in reservations:
        for cidr in reservation.spec.reserved_cidrs:
            try:
                reserved.append(canonical_cidr(cidr.strip()))
            except ValidationError as error:
                faults.append(f"IPReservation({reservation.metadata.name}): spec.reservedCIDRs: {error}")
    for fault in (*inventory.faults, *faults):
        print(f"not counted: {fault}", file=sys.stderr)
    now, cooldown = int(time.time()), inventory.config.cooldown_seconds
    current = [block.collected(now, cooldown) for block in inventory.blocks]
    rows = []
    for group in usage(inventory.pools, current, reserved):
        if group.pool is not None:
            rows.append(_row("IP Pool", group.pool))
        if blocks:
            rows += [_row("Block", block) for block in group.blocks]
    return box(("GROUPING", "CIDR", *_COUNTS), rows, right=_COUNTS)


def _row(grouping: str, counts: Usage) -> list[str]:
    parts = (counts.in_use, counts.reserved, counts.free)
    shares = [f"{part:.5g} ({100 * part / counts.total:.0f}%)" for part in parts]
    return [grouping, counts.cidr, f"{counts.total:.5g}", *shares]


def _borrowed(inventory: Inventory) -> str:
    rows, unknown = [], 0
    for block in inventory.blocks:
        owner = (block.affinity or "").rpartition(":")[2]
        for ordinal in range(len(block.allocations)):
            attribute = block.owner(ordinal)
            if attribute is None or attribute.released_at is not None:
                continue
            node = attribute.secondary.get("node")
            if node is None:
                unknown += 1
            elif node != owner:
                rows.append([block.address(ordinal), node, block.cidr, owner, *_holder(attribute.secondary)])
    text = box(("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"), rows)
    if unknown:
        text += f"\n{unknown} addresses name no node: whether they are borrowed cannot be told.\n"
    return text


def _holder(attributes: Mapping[str, str]) -> tuple[str, str]:
    """TYPE and ALLOCATED-TO."""
    for kind, key in (("vmi", "vmi-name"), ("pod", "pod")):
        if key in attributes:
            return kind, f"{attributes.get('namespace', '')}/{attributes[key]}"
    return attributes.get("type", ""), ""


def _configuration(config: IPAMConfig) -> str:
    values = (
        ("StrictAffinity", str(config.strict_affinity).lower()),
        ("AutoAllocateBlocks", str(config.auto_allocate_blocks).lower()),
        ("MaxBlocksPerHost", str(config.max_blocks_per_host)),
        ("KubeVirtVMAddressPersistence", config.kubevirt_persistence or IPAMConfig().kubevirt_persistence),
        ("IPCooldownSeconds", str(config.cooldown_seconds)),
    )
    return box(("PROPERTY", "VALUE"), values)
