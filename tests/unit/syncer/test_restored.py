"""What a node's components see of a restored datastore, while they run."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from calico_node.datastores.client import Client
from calico_node.datastores.embedded import EmbeddedEngine, copies
from calico_node.model import NetworkSetKey
from calico_node.syncer import SyncerKind, stream
from tests.unit.syncer.test_stream import Consumer, anyio_backend, client, network_set  # noqa: F401

pytestmark = pytest.mark.anyio


def sets(consumer: Consumer) -> dict[str, object]:
    return {key.name: value for key, value in consumer.values.items() if isinstance(key, NetworkSetKey)}


async def revision_of(client: Client) -> int:  # noqa: F811
    return (await client.kv.get("/"))[1]


def damage(path: Path) -> None:
    path.write_bytes(b"rubbish" * 10_000)


def lose(path: Path) -> None:
    for end in ("", "-wal", "-shm", "-lock"):
        path.with_name(path.name + end).unlink()


@pytest.mark.parametrize("before", [lambda path: None, damage, lose], ids=["in use", "damaged", "lost"])
async def test_the_stream_turns_to_what_was_restored(client: Client, tmp_path: Path, before: object) -> None:  # noqa: F811
    path, copy = tmp_path / "datastore.db", tmp_path / "copy"
    await client.ensure_initialized()
    first = await client.create(network_set("changed", "10.0.0.0/8"))
    await client.create(network_set("deleted", "10.0.0.0/8"))
    copies.backup(path, copy)
    async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(await revision_of(client))
        then = sets(consumer)
        first.spec.nets = ["10.1.0.0/16"]
        await client.update(first)
        await client.delete("GlobalNetworkSet", "deleted")
        await client.create(network_set("late", "10.0.0.0/8"))
        await consumer.until(await revision_of(client))
        assert set(sets(consumer)) == {"changed", "late"}
        before(path)  # type: ignore[operator]
        restored = copies.restore(path, copy, replace=True)
        await consumer.until(restored.revision)
        assert sets(consumer) == then
        made = await client.create(network_set("new", "10.0.0.0/8"))
        await consumer.until(int(made.metadata.resource_version))
        assert set(sets(consumer)) == {"changed", "deleted", "new"}


async def test_a_copy_of_an_empty_datastore_takes_nothing_away(client: Client, tmp_path: Path) -> None:  # noqa: F811
    empty, copy = tmp_path / "empty.db", tmp_path / "copy"
    await (await EmbeddedEngine.open(empty)).close()
    copies.backup(empty, copy)
    await client.ensure_initialized()
    await client.create(network_set("a", "10.0.0.0/8"))
    async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(await revision_of(client))
        copies.restore(tmp_path / "datastore.db", copy, replace=True)
        reading = asyncio.create_task(_apply_until_empty(consumer))
        await asyncio.sleep(1.5)
        assert set(sets(consumer)) == {"a"}
        await client.ensure_initialized()
        await asyncio.wait_for(reading, 10)


async def _apply_until_empty(consumer: Consumer) -> None:
    while sets(consumer):
        consumer.apply(await anext(consumer.source))
