"""Datastores: the KV engines (embedded, etcd) and the client of the v3 API on top of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from calico_node.datastores.client import Client
from calico_node.entrypoints import find
from calico_node.settings import Settings

__all__ = ["Client", "open_client"]


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[Client]:
    """The v3 client over the datastore that ``settings`` select (entry point ``datastore.<type>``).

    Raises ``PluginError`` when no package offers that type, ``DatastoreError`` when it cannot be opened.
    """
    engine = await find("datastore", settings.datastore_type).load()(settings)
    try:
        yield Client(engine)
    finally:
        await engine.close()
