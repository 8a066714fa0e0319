"""IPAM as a library: the allocator, its documents and its block algebra.

``IPAM(KVStore(client))`` is the usual way in.
"""

from calico_node.ipam.allocator import IPAM
from calico_node.ipam.assigning import Assignment, AssignRequest, AutoAssigned, BlockLimit, NoFreeBlocks
from calico_node.ipam.blocks import AlreadyAssigned, Attribute, BadHandle, BadSequenceNumber, Block, Release
from calico_node.ipam.claims import BlockNotEmpty, ClaimConflict, StaleAffinity
from calico_node.ipam.documents import IPAMConfig, timestamp_attribute
from calico_node.ipam.releasing import Released, ReleaseFailed
from calico_node.ipam.store import KVStore, Pool, Store

__all__ = [
    "IPAM",
    "AlreadyAssigned",
    "AssignRequest",
    "Assignment",
    "Attribute",
    "AutoAssigned",
    "BadHandle",
    "BadSequenceNumber",
    "Block",
    "BlockLimit",
    "BlockNotEmpty",
    "ClaimConflict",
    "IPAMConfig",
    "KVStore",
    "NoFreeBlocks",
    "Pool",
    "Release",
    "ReleaseFailed",
    "Released",
    "StaleAffinity",
    "Store",
    "timestamp_attribute",
]
