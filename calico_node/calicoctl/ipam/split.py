"""``calicoctl ipam split``: one pool becomes several, and the addresses in use stay where they are."""

from __future__ import annotations

import copy
import uuid
from datetime import UTC, datetime
from typing import Any

from calico_node.addresses import canonical_cidr, parse_network
from calico_node.calicoctl.connect import complete, connect
from calico_node.calicoctl.datastore.lock import require_lock
from calico_node.calicoctl.errors import InputError
from calico_node.datastores import Client
from calico_node.datastores.client import write_resource
from calico_node.datastores.kv import Compare, CompareTarget, Delete, Get, Put
from calico_node.datastores.names import resource_key
from calico_node.errors import CalicoError, ResourceAlreadyExists, UpdateConflict
from calico_node.resources import validate

MOST_PARTS = 64
"""All of it is one transaction, and etcd takes 128 operations in one (``--max-txn-ops``), the deletion included."""
NAME_LENGTH = 253


def split(options: dict[str, Any]) -> int:
    """Replace the pool by its parts, in one step; the datastore must be locked."""
    parts = _parts(options["number"])
    if bool(options["cidr"]) == bool(options["name"]):
        raise InputError("give either --name or --cidr of the pool to split")

    async def run() -> tuple[Any, list[Any]]:
        async with connect(options) as client:
            await require_lock(client, "a pool is split")
            pool = await _find(client, options["name"], options["cidr"])
            children = _children(pool, parts)
            await _replace(client, pool, children)
            return pool, children

    pool, children = complete(run())
    print(f"IP pool {pool.metadata.name} was split into {parts} pools:")
    for child in children:
        print(f"  {child.metadata.name} {child.spec.cidr}")
    return 0


def _parts(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if number < 2 or number & (number - 1) or number > MOST_PARTS:
        raise InputError(f"{text!r} is not a number to split into: a power of two from 2 to {MOST_PARTS}")
    return number


async def _find(client: Client, name: str, cidr: str) -> Any:
    if name:
        return await client.get("IPPool", name)
    wanted = canonical_cidr(cidr)
    for pool in (await client.list("IPPool")).items:
        if canonical_cidr(pool.spec.cidr) == wanted:
            return pool
    raise CalicoError(f"no IP pool has the CIDR {cidr}")


def _children(pool: Any, parts: int) -> list[Any]:
    network = parse_network(pool.spec.cidr)
    length, size = network.prefixlen + parts.bit_length() - 1, pool.spec.block_size
    if length > (size or network.max_prefixlen):
        raise CalicoError(
            f"IPPool({pool.metadata.name}): {network} is too small for {parts} pools with blocks of /{size}"
        )
    children = []
    for index, subnet in enumerate(network.subnets(new_prefix=length)):
        child = copy.deepcopy(pool)
        suffix = f"-{index}"
        metadata = child.metadata
        metadata.name = f"split-{pool.metadata.name}"[: NAME_LENGTH - len(suffix)] + suffix
        metadata.uid, metadata.resource_version = str(uuid.uuid4()), None
        metadata.creation_timestamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        child.spec.cidr = str(subnet)
        validate(child)
        children.append(child)
    return children


async def _replace(client: Client, pool: Any, children: list[Any]) -> None:
    """Nobody ever sees the pool beside its parts, nor neither."""
    old = resource_key("IPPool", pool.metadata.name)
    keys = [resource_key("IPPool", child.metadata.name) for child in children]
    result = await client.kv.txn(
        [
            Compare(old, CompareTarget.MOD_REVISION, int(pool.metadata.resource_version)),
            *(Compare(key, CompareTarget.VERSION, 0) for key in keys),
        ],
        [Delete(old), *(Put(key, write_resource(child)) for key, child in zip(keys, children, strict=True))],
        [Get(key) for key in keys],
    )
    if result.succeeded:
        return
    for child, stored in zip(children, result.responses, strict=True):
        if stored is not None:
            raise ResourceAlreadyExists(f"IPPool({child.metadata.name})")
    raise UpdateConflict(f"IPPool({pool.metadata.name})")
