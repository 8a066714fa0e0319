"""Client and syncer over a real etcd: changes, progress, and a server that goes away and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from calico_node.datastores.client import Client
from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.errors import DatastoreError
from calico_node.model import NetworkSetKey, SyncStatus
from calico_node.syncer import SyncerKind, stream
from tests.interop.datastores.conftest import Etcd, etcdctl
from tests.interop.datastores.forwarder import Forwarder
from tests.unit.syncer.test_stream import Consumer, network_set

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def client(etcd: str, anyio_backend: str) -> AsyncIterator[Client]:
    engine = EtcdEngine([etcd])
    client = Client(engine)
    await client.ensure_initialized()
    yield client
    await engine.close()


async def follow(consumer: Consumer) -> None:
    async for batch in consumer.source:
        consumer.apply(batch)


async def test_changes_and_progress(client: Client) -> None:
    async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(1)
        made = await client.apply(network_set("a", "10.0.0.0/8"))
        started = time.monotonic()
        await consumer.until(int(made.metadata.resource_version))
        assert NetworkSetKey("a") in consumer.values
        for _ in range(3):
            revision = await client.kv.put("/calico/elsewhere", b"x")
            await consumer.until(revision)
        assert time.monotonic() - started < 4.0
        await client.delete("GlobalNetworkSet", "a")
        await consumer.until(revision + 1)
        assert NetworkSetKey("a") not in consumer.values


async def test_a_server_that_comes_back(client: Client, etcd_server: Etcd) -> None:
    async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(1)
        await asyncio.to_thread(etcd_server.stop)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(etcd_server.start)
        writer = Client(EtcdEngine([etcd_server.endpoint]))
        made = await writer.apply(network_set("b", "10.0.0.0/8"))
        async with asyncio.timeout(20):
            while consumer.revision < int(made.metadata.resource_version):
                consumer.apply(await anext(source))
        assert NetworkSetKey("b") in consumer.values
        assert consumer.statuses[-1] is SyncStatus.IN_SYNC
        await writer.kv.close()


async def test_a_server_whose_data_are_lost(etcd_server: Etcd, anyio_backend: str) -> None:
    """What is in force stays until somebody has set the new datastore up; then the new one counts."""
    client = Client(EtcdEngine([etcd_server.endpoint]))
    await client.ensure_initialized()
    await client.apply(network_set("old", "10.0.0.0/8"))
    async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(1)
        assert NetworkSetKey("old") in consumer.values
        await asyncio.to_thread(etcd_server.stop)
        etcd_server.wipe()
        await asyncio.to_thread(etcd_server.start)
        following = asyncio.create_task(follow(consumer))
        await asyncio.sleep(1.5)
        assert NetworkSetKey("old") in consumer.values
        await client.ensure_initialized()
        await client.apply(network_set("new", "10.0.0.0/8"))
        async with asyncio.timeout(10):
            while NetworkSetKey("new") not in consumer.values:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert NetworkSetKey("old") not in consumer.values
        following.cancel()
        await asyncio.wait({following})
    await client.kv.close()


async def test_a_snapshot_that_has_been_written_to_before_anybody_looks(
    etcd_server: Etcd, anyio_backend: str, tmp_path: Path
) -> None:
    """The cluster's id is the old one, the revision a higher one; yet not all of its past is what was watched."""
    writer = Client(EtcdEngine([etcd_server.endpoint]))
    await writer.ensure_initialized()
    await writer.apply(network_set("kept", "10.0.0.0/8"))
    etcdctl(etcd_server.endpoint, "snapshot", "save", str(tmp_path / "snapshot"))
    lost = await writer.apply(network_set("lost", "10.0.0.0/8"))
    async with Forwarder(etcd_server.endpoint) as forwarder:
        client = Client(EtcdEngine([forwarder.address]))
        async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as source:
            consumer = Consumer(source)
            await consumer.until(int(lost.metadata.resource_version))
            assert NetworkSetKey("lost") in consumer.values
            forwarder.hang()
            forwarder.cut()
            await asyncio.to_thread(etcd_server.stop)
            await asyncio.to_thread(etcd_server.restore, tmp_path / "snapshot")
            await asyncio.to_thread(etcd_server.start)
            for number in range(5):
                made = await writer.apply(network_set(f"new{number}", "10.0.0.0/8"))
            assert int(made.metadata.resource_version) > int(lost.metadata.resource_version)
            forwarder.flow()
            async with asyncio.timeout(20):
                while NetworkSetKey("lost") in consumer.values or consumer.revision < int(
                    made.metadata.resource_version
                ):
                    consumer.apply(await anext(source))
            names = {f"new{number}" for number in range(5)} | {"kept"}
            assert {key.name for key in consumer.values if isinstance(key, NetworkSetKey)} >= names
        await client.kv.close()
    await writer.kv.close()


async def test_a_server_that_was_away_for_long_is_found_at_once(client: Client, etcd_server: Etcd) -> None:
    """gRPC waits longer and longer between attempts to connect."""
    await client.kv.get("/x")
    await asyncio.to_thread(etcd_server.stop)
    ended = time.monotonic() + 25
    while time.monotonic() < ended:
        with pytest.raises(DatastoreError):
            await client.kv.get("/x")
        await asyncio.sleep(1.0)
    await asyncio.to_thread(etcd_server.start)
    async with asyncio.timeout(4):
        while True:
            try:
                await client.kv.get("/x")
                return
            except DatastoreError:
                await asyncio.sleep(0.1)
