"""The datastore's contents as of one revision, whatever is written meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from calico_node.datastores import Client
from calico_node.datastores.client import read_resource
from calico_node.datastores.kv import KeyValue, KVEngine
from calico_node.datastores.names import kind_prefix
from calico_node.datastores.paging import pages
from calico_node.errors import ValidationError

PAGE = 500


async def scan(kv: KVEngine, prefix: str, revision: int) -> AsyncIterator[KeyValue]:
    """Every key under ``prefix`` as of ``revision``."""
    async with aclosing(pages(kv, prefix, PAGE, revision)) as found:
        async for page in found:
            for stored in page.kvs:
                yield stored


async def resources(client: Client, kind: str, revision: int) -> tuple[list[Any], list[str]]:
    """The readable resources of a kind, and what is wrong with the others."""
    found, faults = [], []
    async for stored in scan(client.kv, kind_prefix(kind), revision):
        try:
            resource = read_resource(kind, stored)
        except ValidationError as error:
            faults.append(str(error))
            continue
        if resource.metadata.name:
            found.append(resource)
        else:
            faults.append(f"{kind} at {stored.key}: metadata.name: is missing")
    return found, faults
