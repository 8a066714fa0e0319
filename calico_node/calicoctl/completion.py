"""Names of stored resources, for a shell that completes them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from calico_node.calicoctl.config import load_settings
from calico_node.datastores import open_client
from calico_node.errors import CalicoError
from calico_node.resources import kind_by_name

PATIENCE = 3.0
"""Seconds until a shell's user gets no names rather than none yet."""
DEFAULT_NAMESPACE = "default"


def resource_names(options: Mapping[str, Any], incomplete: str) -> list[str]:
    """Those of the kind on the command line that start with ``incomplete`` and are not on it yet.

    None where the datastore cannot say: a completion has nowhere to show an error.
    """
    info = kind_by_name(options.get("kind") or "")
    if info is None:
        return []
    namespace = (options.get("namespace") or DEFAULT_NAMESPACE) if info.namespaced else ""

    async def read() -> list[str]:
        settings = load_settings(options.get("config") or "", options.get("context") or "")
        async with asyncio.timeout(PATIENCE), open_client(settings) as client:
            found = (await client.list(info.kind, namespace)).items
            return [resource.metadata.name for resource in found]

    try:
        names = asyncio.run(read())
    except (CalicoError, OSError, TimeoutError):
        return []
    return sorted({name for name in names if name.startswith(incomplete)} - set(options.get("names") or ()))
