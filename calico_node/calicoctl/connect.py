"""The way into the datastore that every command takes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from calico_node.calicoctl.config import load_settings
from calico_node.errors import ResourceDoesNotExist

if TYPE_CHECKING:
    from calico_node.datastores import Client


T = TypeVar("T")
_LEVELS = {"panic": "none", "warn": "warning"}


@asynccontextmanager
async def connect(options: dict[str, Any], *, writing: bool = False, check: bool = True) -> AsyncIterator[Client]:
    """The client of the chosen datastore, after the ``check`` that cluster and tool are of one version.

    Before the first write an empty datastore gets its ClusterInformation and tiers, without which no policy could be
    created.
    """
    from calico_node.calicoctl.version import check_version
    from calico_node.datastores import open_client

    if "structlog" in sys.modules:
        from calico_node.logs import configure

        configure(_LEVELS.get(options["log_level"].lower(), options["log_level"]))
    settings = load_settings(options["config"], options["context"])
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


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end, in an event loop of its own.

    ``asyncio.run`` forms the repr of what it returns, which takes longer than reading a list of thousands.
    """
    results: list[T] = []

    async def run() -> None:
        results.append(await work)

    asyncio.run(run())
    return results[0]
