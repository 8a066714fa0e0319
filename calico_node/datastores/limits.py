"""What every KV engine refuses alike: etcd's own limits, so that what works on one works on the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from calico_node.datastores.kv import Compare, Delete, Operation, Put
from calico_node.errors import DatastoreError, shown

MAX_OPERATIONS = 128
"""Comparisons, and operations of each branch, in one transaction: etcd's ``--max-txn-ops``."""
MAX_REQUEST_BYTES = 1536 << 10
"""Bytes of a transaction, both branches together: etcd's ``--max-request-bytes``."""
LONGEST_LEASE = 9_000_000_000
"""Seconds that etcd grants a lease at most."""
_FRAME = 32


def key_bytes(key: str) -> bytes:
    """The key as it is stored.  Raises ``DatastoreError`` for one that is empty or holds a lone surrogate."""
    if not key:
        raise DatastoreError("a key is empty")
    return prefix_bytes(key)


def prefix_bytes(prefix: str) -> bytes:
    """The start of keys as it is stored; may be empty.  Raises ``DatastoreError`` for a lone surrogate."""
    try:
        return prefix.encode()
    except UnicodeEncodeError:
        raise DatastoreError(f"key {shown(prefix)} is not Unicode text") from None


def lease_seconds(ttl: int) -> int:
    """What is asked of an engine for a lease of ``ttl`` seconds; as in etcd, too little is not an error.

    Raises ``DatastoreError`` for more than ``LONGEST_LEASE``.
    """
    if ttl > LONGEST_LEASE:
        raise DatastoreError(f"a lease of {ttl} s: too large lease TTL, the longest is {LONGEST_LEASE} s")
    return max(ttl, 0)


def check_transaction(
    compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]
) -> None:
    """Raises ``DatastoreError`` for a transaction that etcd refuses before it looks at what is stored."""
    if max(len(compares), len(success), len(failure)) > MAX_OPERATIONS:
        raise DatastoreError(f"a transaction may have at most {MAX_OPERATIONS} operations, and comparisons")
    size = sum(len(key_bytes(compare.key)) + _FRAME for compare in compares)
    for branch in (success, failure):
        size += sum(len(key_bytes(each.key)) + _value_size(each) + _FRAME for each in branch)
        _check_written_once(branch)
    if size > MAX_REQUEST_BYTES:
        raise DatastoreError(
            f"a request of {size} bytes is too large, etcd takes 1.5 MiB: {largest(success, failure)}"
        )


def largest(success: Sequence[Operation], failure: Sequence[Operation]) -> str:
    """Of a transaction that is too large: which part, and its bytes."""
    operation = max(chain(success, failure), key=lambda each: len(each.key) + _value_size(each), default=None)
    if operation is None:
        return "its comparisons"
    key, value = len(key_bytes(operation.key)), _value_size(operation)
    what, size = ("value of", value) if value > key else ("key", key)
    return f"the {what} {shown(operation.key)} has {size} bytes"


def lease_missing(*leases: int) -> DatastoreError:
    """What a put with a lease that is not there, or its renewal, ends in; of several it is not known which."""
    return DatastoreError(f"lease {' or '.join(map(str, leases))} does not exist, or has run out")


def _value_size(operation: Operation) -> int:
    return len(operation.value) if isinstance(operation, Put) else 0


def _check_written_once(branch: Sequence[Operation]) -> None:
    """etcd lets a key be deleted twice, but nothing else beside a put."""
    put: set[str] = set()
    deleted = {operation.key for operation in branch if isinstance(operation, Delete)}
    for operation in branch:
        if isinstance(operation, Put):
            if operation.key in put or operation.key in deleted:
                raise DatastoreError(f"a transaction may write each key only once: {shown(operation.key)}")
            put.add(operation.key)
