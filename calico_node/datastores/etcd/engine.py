"""A ``KVEngine`` over etcd v3, with watches of our own on etcd3aio's messages.

etcd3aio's ``watch()`` resumes at ``header.revision + 1`` even after the mere "created" answer, steps over a
compaction without a word, and returns when the server ends the stream; each of these can lose events.  Here a watch
is one stream from a known revision: it ends in ``Compacted`` or ``DatastoreError``, and its caller, who knows the
last revision it was given, starts another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from attrs import frozen
from etcd3aio.auth import AuthService
from etcd3aio.connections import ConnectionManager
from etcd3aio.errors import EtcdError, EtcdUnauthenticatedError
from etcd3aio.kv import KVService, prefix_range_end
from etcd3aio.lease import LeaseService
from etcd3aio.proto.etcd.api.etcdserverpb import rpc_pb2, rpc_pb2_grpc

from calico_node.datastores.kv import (
    Compare,
    CompareTarget,
    Event,
    EventType,
    Get,
    KeyValue,
    Operation,
    Put,
    RangeResult,
    TxnResult,
    WatchBatch,
)
from calico_node.errors import Compacted, DatastoreError

T = TypeVar("T")

CALL_TIMEOUT = 10.0
PROGRESS_PERIOD = 0.3
"""Seconds between progress requests on a watch; longer than etcd's period for watches that catch up."""
_READ_ATTEMPTS = 3
# A write that is sent twice would take its own first copy for a conflict.
_WRITE_ATTEMPTS = 1
_DELETE_EVENT = 1
# gRPC's own pause between attempts to connect grows to two minutes: a node would stay without its datastore that long
# after etcd is back.
_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
# gRPC refuses answers above 4 MiB, and asking again brings the same one again: a page of large objects, or what a
# watch has to catch up with after a burst, would never get through.  Calico's etcd client has no limit either.
_ANSWERS = [("grpc.max_receive_message_length", -1)]


@frozen
class Credentials:
    """``ca_cert``, ``cert_chain`` and ``cert_key`` are PEM; a user name counts only together with its password."""

    ca_cert: bytes | None = None
    cert_chain: bytes | None = None
    cert_key: bytes | None = None
    server_name: str | None = None
    username: str = ""
    password: str = ""


def _key_value(stored: Any) -> KeyValue:
    return KeyValue(
        stored.key.decode(), stored.value, stored.create_revision, stored.mod_revision, stored.version, stored.lease
    )


def _is_text(key: bytes) -> bool:
    """Keys of bytes that are no text are nobody's here: they are passed over."""
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


class EtcdEngine:
    """``endpoints`` are ``address:port``, all members of one cluster; or one is ``unix:/path``."""

    name = "etcdv3"

    def __init__(self, endpoints: Sequence[str], credentials: Credentials | None = None) -> None:
        self._endpoints = ", ".join(endpoints)
        self._credentials = credentials or Credentials()
        tls = self._credentials
        manager = ConnectionManager(list(endpoints))
        manager.grpc_options += [*_RECONNECT, *_ANSWERS]
        if endpoints[0].startswith("unix:"):
            manager.target = endpoints[0]
        self._channel = manager.get_channel(
            ca_cert=tls.ca_cert, cert_key=tls.cert_key, cert_chain=tls.cert_chain, tls_server_name=tls.server_name
        )
        self._kv = KVService(self._channel)
        self._lease = LeaseService(self._channel)
        self._auth = AuthService(self._channel)
        self._watch_stub = rpc_pb2_grpc.WatchStub(self._channel)
        self._token: str | None = None
        self.identity = ""
        """The cluster's id, once it has answered a ``get``; differs when another cluster is behind the endpoints."""

    async def connect(self) -> None:
        """Log in, where there is a user.  Raises ``DatastoreError``."""
        if not (self._credentials.username and self._credentials.password):
            return
        try:
            answer = await self._auth.authenticate(
                self._credentials.username, self._credentials.password, timeout=CALL_TIMEOUT
            )
        except (EtcdError, grpc.aio.AioRpcError, TimeoutError) as error:
            raise self._error(error) from error
        self._token = answer.token
        self._kv.set_token(self._token)
        self._lease.set_token(self._token)

    def _error(self, error: BaseException) -> DatastoreError:
        if isinstance(error, grpc.aio.AioRpcError):
            details = error.details() or error.code().name
            if "compacted" in details:
                return Compacted(0)
            return DatastoreError(f"etcd at {self._endpoints}: {details}")
        text = str(error) or "no answer in time"
        return DatastoreError(f"etcd at {self._endpoints}: {text}")

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            try:
                return await call()
            except EtcdUnauthenticatedError:
                # Tokens run out; log in again and repeat: the refused call has done nothing.
                await self.connect()
                return await call()
        except (EtcdError, grpc.aio.AioRpcError, TimeoutError) as error:
            raise self._error(error) from error

    async def get(self, key: str, *, revision: int = 0) -> tuple[KeyValue | None, int]:
        answer: Any = await self._call(
            lambda: self._kv.get(key, revision=revision, timeout=CALL_TIMEOUT, max_attempts=_READ_ATTEMPTS)
        )
        self.identity = str(answer.header.cluster_id)
        return (_key_value(answer.kvs[0]) if answer.kvs else None), answer.header.revision

    async def range(self, prefix: str, *, start_after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        low = prefix.encode()
        end = prefix_range_end(low) if low else b"\0"
        if start_after:
            low = max(low, start_after.encode() + b"\0")
        while True:
            answer = await self._range(low, end, limit, revision)
            found = tuple(_key_value(stored) for stored in answer.kvs if _is_text(stored.key))
            if found or not answer.more:
                return RangeResult(found, answer.header.revision, answer.more)
            low, revision = answer.kvs[-1].key + b"\0", answer.header.revision

    async def _range(self, low: bytes, end: bytes, limit: int, revision: int) -> Any:
        return await self._call(
            lambda: self._kv.get(
                low or b"\0",
                range_end=end,
                revision=revision,
                limit=limit,
                timeout=CALL_TIMEOUT,
                max_attempts=_READ_ATTEMPTS,
            )
        )

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        conditions = [_compare(compare) for compare in compares]
        branches = [[_operation(operation) for operation in branch] for branch in (success, failure)]
        answer: Any = await self._call(
            lambda: self._kv.txn(conditions, *branches, timeout=CALL_TIMEOUT, max_attempts=_WRITE_ATTEMPTS)
        )
        return TxnResult(answer.succeeded, answer.header.revision, tuple(map(_response, answer.responses)))

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return (await self.txn((), [Put(key, value, lease)])).revision

    async def delete(self, key: str) -> tuple[KeyValue | None, int]:
        answer: Any = await self._call(
            lambda: self._kv.delete(key, prev_kv=True, timeout=CALL_TIMEOUT, max_attempts=_WRITE_ATTEMPTS)
        )
        return (_key_value(answer.prev_kvs[0]) if answer.prev_kvs else None), answer.header.revision

    async def watch(self, prefix: str, *, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
        key = prefix.encode()
        request = rpc_pb2.WatchCreateRequest(
            key=key or b"\0",
            range_end=prefix_range_end(key) if key else b"\0",
            # One early: compaction at exactly start_revision may have dropped a deletion made there, and etcd would
            # not say so; a start before the compaction it refuses.
            start_revision=max(start_revision - 1, 1),
            prev_kv=True,
        )
        metadata = [("hasleader", "true")]
        if self._token:
            metadata.append(("token", self._token))
        stream = self._watch_stub.Watch(metadata=metadata)
        try:
            await stream.write(rpc_pb2.WatchRequest(create_request=request))
            async for batch in self._read_watch(stream, start_revision - 1):
                yield batch
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error
        except asyncio.InvalidStateError as error:
            raise self._error(error) from error
        finally:
            stream.cancel()

    async def _read_watch(self, stream: Any, revision: int) -> AsyncGenerator[WatchBatch, None]:
        """Batches with a revision above ``revision``, and progress answers when nothing else comes.

        etcd before 3.4.25 and 3.5.8 answers a progress request with the store's revision at once, ahead of events
        that are still to be sent: those queued, and those of a watch that is still catching up (every 100 ms).  So
        an answer is believed only when another, asked for ``PROGRESS_PERIOD`` later, arrives without an event in
        between.
        """
        start = revision + 1
        unconfirmed = 0
        next_request = time.monotonic() + PROGRESS_PERIOD
        reading: asyncio.Task[Any] = asyncio.ensure_future(stream.read())
        try:
            while True:
                done, _ = await asyncio.wait({reading}, timeout=max(next_request - time.monotonic(), 0.0))
                if not done:
                    await stream.write(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
                    next_request = time.monotonic() + PROGRESS_PERIOD
                    continue
                answer = reading.result()
                reading = asyncio.ensure_future(stream.read())
                self._check_answer(answer)
                if answer.created:
                    continue
                if answer.events:
                    unconfirmed = 0
                    new = [item for item in answer.events if item.kv.mod_revision >= start]
                    if new:
                        revision = max(revision, new[-1].kv.mod_revision)
                        yield WatchBatch(revision, tuple(_event(item) for item in new if _is_text(item.kv.key)))
                else:
                    if unconfirmed > revision:
                        revision = unconfirmed
                        yield WatchBatch(revision)
                    unconfirmed = answer.header.revision
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _check_answer(self, answer: Any) -> None:
        if answer is grpc.aio.EOF:
            raise DatastoreError(f"etcd at {self._endpoints}: the watch was ended by the server")
        if answer.compact_revision:
            raise Compacted(answer.compact_revision)
        if answer.canceled:
            raise DatastoreError(f"etcd at {self._endpoints}: watch refused: {answer.cancel_reason}")

    async def grant(self, ttl: int) -> int:
        answer: Any = await self._call(
            lambda: self._lease.grant(ttl, timeout=CALL_TIMEOUT, max_attempts=_WRITE_ATTEMPTS)
        )
        return int(answer.ID)

    async def keep_alive(self, lease: int) -> None:
        stream = self._lease.keep_alive(lease)
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                async for answer in stream:
                    if answer.TTL <= 0:
                        raise DatastoreError(f"lease {lease} does not exist, or has run out")
                    return
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            raise self._error(error) from error
        finally:
            stream.cancel()
        raise DatastoreError(f"etcd at {self._endpoints}: no answer to a lease's keep-alive")

    async def revoke(self, lease: int) -> None:
        await self._call(lambda: self._lease.revoke(lease, timeout=CALL_TIMEOUT, max_attempts=_WRITE_ATTEMPTS))

    async def compact(self, revision: int) -> None:
        await self._call(lambda: self._kv.compact(revision, timeout=CALL_TIMEOUT, max_attempts=_WRITE_ATTEMPTS))

    async def close(self) -> None:
        await self._channel.close()


def _compare(compare: Compare) -> Any:
    target = rpc_pb2.Compare
    if compare.target is CompareTarget.VERSION:
        return target(result=target.EQUAL, target=target.VERSION, key=compare.key.encode(), version=compare.value)
    return target(result=target.EQUAL, target=target.MOD, key=compare.key.encode(), mod_revision=compare.value)


def _operation(operation: Operation) -> Any:
    if isinstance(operation, Put):
        return KVService.txn_op_put(operation.key, operation.value, lease=operation.lease)
    if isinstance(operation, Get):
        return KVService.txn_op_get(operation.key)
    return KVService.txn_op_delete(operation.key, prev_kv=True)


def _response(response: Any) -> KeyValue | None:
    which = response.WhichOneof("response")
    if which == "response_range":
        found = response.response_range.kvs
    elif which == "response_delete_range":
        found = response.response_delete_range.prev_kvs
    else:
        return None
    return _key_value(found[0]) if found else None


def _event(item: Any) -> Event:
    previous = _key_value(item.prev_kv) if item.prev_kv.mod_revision else None
    kind = EventType.DELETE if item.type == _DELETE_EVENT else EventType.PUT
    return Event(kind, _key_value(item.kv), previous)
