"""Between etcd's protocol messages and the values of the KV engine interface."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from etcd3aio.proto.etcd.api.etcdserverpb import rpc_pb2

from calico_node.datastores.kv import (
    Compare,
    CompareTarget,
    Event,
    EventType,
    Get,
    KeyValue,
    Operation,
    Put,
)
from calico_node.datastores.limits import key_bytes

_DELETE_EVENT = 1


def is_text(key: bytes) -> bool:
    """Keys of bytes that are no text are nobody's here: they are passed over."""
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


def key_value(stored: Any) -> KeyValue:
    return KeyValue(
        stored.key.decode(), stored.value, stored.create_revision, stored.mod_revision, stored.version, stored.lease
    )


def events(items: Iterable[Any], since: int) -> tuple[Event, ...]:
    """The events of texts from revision ``since`` on."""
    found = []
    for item in items:
        stored = item.kv
        if stored.mod_revision >= since and is_text(stored.key):
            previous = key_value(item.prev_kv) if item.HasField("prev_kv") else None
            kind = EventType.DELETE if item.type == _DELETE_EVENT else EventType.PUT
            found.append(Event(kind, key_value(stored), previous))
    return tuple(found)


def compare_message(compare: Compare) -> Any:
    target, key = rpc_pb2.Compare, key_bytes(compare.key)
    if compare.target is CompareTarget.VERSION:
        return target(result=target.EQUAL, target=target.VERSION, key=key, version=compare.value)
    return target(result=target.EQUAL, target=target.MOD, key=key, mod_revision=compare.value)


def operation_message(operation: Operation) -> Any:
    key = key_bytes(operation.key)
    if isinstance(operation, Put):
        put = rpc_pb2.PutRequest(key=key, value=operation.value, lease=operation.lease)
        return rpc_pb2.RequestOp(request_put=put)
    if isinstance(operation, Get):
        return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
    return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key, prev_kv=True))


def response(message: Any) -> KeyValue | None:
    which = message.WhichOneof("response")
    if which == "response_range":
        found = message.response_range.kvs
    elif which == "response_delete_range":
        found = message.response_delete_range.prev_kvs
    else:
        return None
    return key_value(found[0]) if found else None
