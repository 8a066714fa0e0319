"""``calicoctl datastore migrate-policy-names``: policies of the default tier under the key of their own name.

Calico before v3.32 stored them under ``default.<name>``; both are read, so this may run at any time, and again.
"""

from __future__ import annotations

from typing import Any

from calico_node.calicoctl.connect import complete, connect
from calico_node.calicoctl.snapshot import scan
from calico_node.datastores import Client
from calico_node.datastores.client import read_resource
from calico_node.datastores.kv import Compare, CompareTarget, Delete, KeyValue, Put
from calico_node.datastores.names import kind_prefix, resource_key
from calico_node.errors import UpdateConflict, ValidationError
from calico_node.resources import TIERED_KINDS


def migrate_policy_names(options: dict[str, Any]) -> int:
    async def run() -> int:
        async with connect(options) as client:
            _, revision = await client.kv.get("/")
            moved = 0
            for kind in sorted(TIERED_KINDS):
                async for stored in scan(client.kv, kind_prefix(kind), revision):
                    moved += await _move(client, kind, stored)
            return moved

    print(f"Policy name migration complete, migrated {complete(run())} policies.")
    return 0


async def _move(client: Client, kind: str, stored: KeyValue) -> bool:
    """Whether the policy had to move.  A policy that exists under its own name already is the newer one."""
    try:
        metadata = read_resource(kind, stored).metadata
    except ValidationError:
        return False
    key = resource_key(kind, metadata.name, metadata.namespace or "")
    if key == stored.key:
        return False
    unchanged = Compare(stored.key, CompareTarget.MOD_REVISION, stored.mod_revision)
    moved = await client.kv.txn(
        [unchanged, Compare(key, CompareTarget.VERSION, 0)], [Put(key, stored.value), Delete(stored.key)]
    )
    if not moved.succeeded and not (await client.kv.txn([unchanged], [Delete(stored.key)])).succeeded:
        raise UpdateConflict(f"{kind}({metadata.name})")
    return True
