"""The way into the datastore that every command takes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from calico_node.calicoctl.config import load_settings
from calico_node.errors import DatastoreError, ResourceDoesNotExist

if TYPE_CHECKING:
    from calico_node.datastores import Client
    from calico_node.settings import Settings


T = TypeVar("T")
_LEVELS = {"panic": "none", "warn": "warning"}


@asynccontextmanager
async def connect(
    options: dict[str, Any], *, writing: bool = False, making: bool = False, check: bool = True
) -> AsyncIterator[Client]:
    """The client of the chosen datastore, after the ``check`` that cluster and tool are of one version.

    Before the first write an empty datastore gets its ClusterInformation and tiers, without which no policy could be
    created.  An embedded one that is not there is made for ``writing`` and ``making`` alone.  Raises
    ``DatastoreError``.
    """
    from calico_node.calicoctl.version import check_version
    from calico_node.datastores import open_client

    if "structlog" in sys.modules:
        from calico_node.logs import configure

        configure(_LEVELS.get(options["log_level"].lower(), options["log_level"]))
    settings = load_settings(options["config"], options["context"])
    if not (writing or making):
        require_datastore(settings)
    async with open_client(settings) as client:
        try:
            cluster = await client.get("ClusterInformation", "default")
        except ResourceDoesNotExist:
            if writing:
                await client.ensure_initialized()
        else:
            if check and not options["allow_version_mismatch"]:
                check_version(cluster.spec.calico_version or "")
        yield client


def require_datastore(settings: Settings) -> None:
    """Whoever only looks makes no embedded datastore: the path may be a wrong one.  Raises ``DatastoreError``."""
    path = settings.datastore_path
    lock = path.with_name(f"{path.name}-lock")  # remembers a file that was lost: opening says what to do
    if settings.datastore_type == "embedded" and not (path.exists() or lock.exists()):
        raise DatastoreError(
            f"{path}: there is no datastore here; a calico-node that starts makes one, and so does the first "
            "'calicoctl apply' (CALICO_DATASTORE_PATH, CALICO_STATE_DIR or ETCD_ENDPOINTS say where it is)"
        )


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end, in an event loop of its own.

    ``asyncio.run`` forms the repr of what it returns, which takes longer than reading a list of thousands.
    """
    results: list[T] = []

    async def run() -> None:
        results.append(await work)

    asyncio.run(run())
    return results[0]
