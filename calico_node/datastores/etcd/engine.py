"""A ``KVEngine`` over etcd v3: etcd3aio's messages, with connections (``connection``) and watches (``watch``) of our
own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import grpc  # type: ignore[import-untyped]
from etcd3aio.kv import prefix_range_end
from etcd3aio.proto.etcd.api.etcdserverpb import rpc_pb2

from calico_node.datastores.etcd import connection
from calico_node.datastores.etcd.connection import Connections, Method, Refused
from calico_node.datastores.etcd.credentials import Credentials
from calico_node.datastores.etcd.endpoints import Endpoint, parse_endpoint
from calico_node.datastores.etcd.messages import compare_message, is_text, key_value, operation_message, response
from calico_node.datastores.etcd.watch import watch
from calico_node.datastores.kv import Compare, Get, KeyValue, Operation, Put, RangeResult, TxnResult, WatchBatch
from calico_node.datastores.limits import (
    check_transaction,
    key_bytes,
    largest,
    lease_missing,
    lease_seconds,
    prefix_bytes,
)
from calico_node.errors import Compacted, DatastoreError

PAGE = 1000
"""Keys that are asked for at once, at most …"""
PAGE_BYTES = 4 << 20
"""… and bytes, by what the page before of the same prefix had; values may have 1.5 MB each."""
_FIRST_PAGE = 64
_PREFIXES_KEPT = 256
_RANGE_TRIES = 3
_TOO_LARGE = ("request is too large", "received message larger than max")
_AGAINST_RULES = ("too many operations", "duplicate key")


class EtcdEngine:
    """``endpoints`` are the members of one cluster, as ``host:port`` or URLs.

    ``reload`` reads the credentials again when a connection could not be made.  Nothing is connected before the first
    call.
    """

    name = "etcdv3"

    def __init__(
        self,
        endpoints: Sequence[str | Endpoint],
        credentials: Credentials | None = None,
        reload: Callable[[], Credentials] | None = None,
    ) -> None:
        parsed = [item if isinstance(item, Endpoint) else parse_endpoint(item) for item in endpoints]
        self._connections = Connections(parsed, credentials or Credentials(), reload)
        self._page_of: dict[str, int] = {}
        self.identity = ""
        """The cluster's id, once it has answered a ``get``; differs when another cluster is behind the endpoints."""

    async def _call(self, method: Method, request: Any, *, repeat: bool = True) -> Any:
        try:
            return await self._connections.call(method, request, repeat=repeat)
        except Refused as error:
            if "has been compacted" in error.details:
                raise Compacted(0) from error
            raise

    async def get(self, key: str, *, revision: int = 0) -> tuple[KeyValue | None, int]:
        answer = await self._call(connection.RANGE, rpc_pb2.RangeRequest(key=key_bytes(key), revision=revision))
        self.identity = str(answer.header.cluster_id)
        return (key_value(answer.kvs[0]) if answer.kvs else None), answer.header.revision

    async def range(self, prefix: str, *, start_after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        for _ in range(_RANGE_TRIES - 1):
            try:
                return await self._range(prefix, start_after, limit, revision)
            except Compacted:
                if revision:
                    raise
                # The first page's revision went away before the last page: begin again.
        return await self._range(prefix, start_after, limit, revision)

    async def _range(self, prefix: str, start_after: str, limit: int, revision: int) -> RangeResult:
        low = prefix_bytes(prefix)
        end = prefix_range_end(low) if low else b"\0"
        if start_after:
            low = max(low, prefix_bytes(start_after) + b"\0")
        found: list[KeyValue] = []
        store_revision = 0
        while True:
            page = self._page_of.get(prefix, _FIRST_PAGE)
            request = rpc_pb2.RangeRequest(
                key=low or b"\0",
                range_end=end,
                limit=min(page, limit - len(found)) if limit else page,
                revision=revision,
            )
            answer = await self._call(connection.RANGE, request)
            store_revision = store_revision or answer.header.revision
            revision = revision or store_revision
            found += [key_value(stored) for stored in answer.kvs if is_text(stored.key)]
            self._learn(prefix, answer)
            if not answer.more or (limit and len(found) >= limit):
                return RangeResult(tuple(found), store_revision, answer.more)
            low = answer.kvs[-1].key + b"\0"
            await asyncio.sleep(0)

    def _learn(self, prefix: str, answer: Any) -> None:
        if len(answer.kvs) < _FIRST_PAGE and answer.ByteSize() < PAGE_BYTES:
            return
        if len(self._page_of) >= _PREFIXES_KEPT:
            self._page_of.clear()
        fitting = PAGE_BYTES * len(answer.kvs) // answer.ByteSize()
        self._page_of[prefix] = max(1, min(fitting, PAGE))

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        request = rpc_pb2.TxnRequest(
            compare=[compare_message(compare) for compare in compares],
            success=[operation_message(operation) for operation in success],
            failure=[operation_message(operation) for operation in failure],
        )
        reads = all(isinstance(operation, Get) for operation in (*success, *failure))
        try:
            answer = await self._call(connection.TXN, request, repeat=reads)
        except Refused as error:
            raise _named(error, compares, success, failure) from error
        return TxnResult(answer.succeeded, answer.header.revision, tuple(map(response, answer.responses)))

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return (await self.txn((), [Put(key, value, lease)])).revision

    async def delete(self, key: str) -> tuple[KeyValue | None, int]:
        request = rpc_pb2.DeleteRangeRequest(key=key_bytes(key), prev_kv=True)
        answer = await self._call(connection.DELETE_RANGE, request, repeat=False)
        return (key_value(answer.prev_kvs[0]) if answer.prev_kvs else None), answer.header.revision

    async def watch(
        self, prefix: str, *, start_revision: int, previous: bool = True
    ) -> AsyncGenerator[WatchBatch, None]:
        async with aclosing(watch(self._connections, prefix, start_revision, previous)) as batches:
            async for batch in batches:
                yield batch

    async def grant(self, ttl: int) -> int:
        # A copy whose answer was lost is a lease without keys, that runs out by itself.
        answer = await self._call(connection.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(TTL=lease_seconds(ttl)))
        return int(answer.ID)

    async def keep_alive(self, lease: int) -> None:
        answer = await self._connections.exchange(
            connection.LEASE_KEEP_ALIVE, rpc_pb2.LeaseKeepAliveRequest(ID=lease)
        )
        if answer.TTL <= 0:
            raise lease_missing(lease)

    async def revoke(self, lease: int) -> None:
        try:
            await self._call(connection.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease))
        except Refused as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            if not error.repeated:
                raise lease_missing(lease) from error

    async def compact(self, revision: int) -> None:
        if revision < 1:
            raise Compacted(0)  # etcd takes a first compaction at 0
        try:
            await self._connections.call(
                connection.COMPACT, rpc_pb2.CompactionRequest(revision=revision), repeat=True
            )
        except Refused as error:
            if "has been compacted" not in error.details:
                raise
            if not error.repeated:
                raise Compacted(0) from error

    async def close(self) -> None:
        await self._connections.close()


def _named(
    error: Refused, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]
) -> DatastoreError:
    """The refusal of a transaction with what etcd does not say: which key, which lease, how many bytes."""
    if any(words in error.details for words in _TOO_LARGE):
        return DatastoreError(f"{error}, etcd takes 1.5 MiB or its --max-request-bytes: {largest(success, failure)}")
    if any(words in error.details for words in _AGAINST_RULES):
        try:
            check_transaction(compares, success, failure)
        except DatastoreError as reason:
            return reason
    if "lease not found" in error.details:
        leases = {each.lease for each in (*success, *failure) if isinstance(each, Put) and each.lease}
        return lease_missing(*sorted(leases))
    return error
