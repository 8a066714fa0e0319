"""Syncers: what is stored, converted to the v1 model, as one deduplicated stream per consumer."""

from calico_node.syncer.processors import OnRejected, SyncerKind
from calico_node.syncer.stream import stream

__all__ = ["OnRejected", "SyncerKind", "stream"]
