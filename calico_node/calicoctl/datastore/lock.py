"""``calicoctl datastore migrate lock`` and ``unlock``: ClusterInformation's ``spec.datastoreReady``."""

from __future__ import annotations

from typing import Any

from calico_node.calicoctl.connect import complete, connect
from calico_node.datastores import Client
from calico_node.errors import CalicoError, ResourceDoesNotExist, UpdateConflict

TRIES = 10


def lock(options: dict[str, Any]) -> int:
    return _set_ready(options, ready=False)


def unlock(options: dict[str, Any]) -> int:
    return _set_ready(options, ready=True)


def _set_ready(options: dict[str, Any], *, ready: bool) -> int:
    async def run() -> None:
        async with connect(options, writing=True) as client:
            await set_ready(client, ready=ready)

    complete(run())
    print(f"Datastore {'unlocked' if ready else 'locked'}.")
    return 0


async def set_ready(client: Client, *, ready: bool) -> None:
    """Lock (``ready`` False) or unlock.  Raises ``UpdateConflict`` when others keep changing ClusterInformation."""
    for _ in range(TRIES):
        cluster = await client.get("ClusterInformation", "default")
        cluster.spec.datastore_ready = ready
        try:
            await client.update(cluster)
            return
        except UpdateConflict:
            continue
    raise UpdateConflict("ClusterInformation(default)")


async def require_lock(client: Client, purpose: str) -> Any:
    """The ClusterInformation; raises ``CalicoError`` unless the datastore is locked for ``purpose``."""
    try:
        cluster = await client.get("ClusterInformation", "default")
    except ResourceDoesNotExist:
        cluster = None
    if cluster is None or cluster.spec.datastore_ready is not False:
        raise CalicoError(f"the datastore is not locked: run 'calicoctl datastore migrate lock' before {purpose}")
    return cluster
