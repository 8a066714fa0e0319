"""Entry point ``datastore.embedded``."""

from __future__ import annotations

from calico_node.datastores.embedded.engine import EmbeddedEngine
from calico_node.datastores.kv import KVEngine
from calico_node.settings import Settings


async def open_embedded(settings: Settings) -> KVEngine:
    """Open the file at ``settings.datastore_path``.  Raises ``DatastoreError``, saying what to do."""
    return await EmbeddedEngine.open(settings.datastore_path)
