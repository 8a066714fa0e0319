"""What a node says of a datastore that goes away and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from calico_node.contact import watch_datastore
from calico_node.datastores.client import Client
from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.errors import DatastoreError
from calico_node.health import ComponentHealth, HealthRegistry

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
    yield Client(engine)
    await engine.close()


async def until(registry: HealthRegistry, *, ready: bool, reason: str) -> ComponentHealth:
    async with asyncio.timeout(5):
        while True:
            (state,) = registry.states()
            if state.ready is ready and reason in state.reason:
                return state
            await asyncio.sleep(0.01)


async def test_a_lost_datastore_is_said_then_unready_then_forgotten(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.ensure_initialized()
    registry = HealthRegistry()
    watching = asyncio.create_task(watch_datastore(client, registry.reporter("datastore"), period=0.05, patience=0.3))
    assert (await until(registry, ready=True, reason="")).reason == ""

    async def away(key: str) -> None:
        raise DatastoreError("the cable is out")

    async def hang(key: str) -> None:
        await asyncio.sleep(100)

    whole = client.kv.get
    for call, reason in ((away, "the cable is out"), (hang, "no answer within")):
        monkeypatch.setattr(client.kv, "get", call)
        await until(registry, ready=True, reason=reason)
        await until(registry, ready=False, reason=reason)
        monkeypatch.setattr(client.kv, "get", whole)
        await asyncio.sleep(0.1)
        assert (await until(registry, ready=True, reason="")).reason == ""
    watching.cancel()


async def test_an_emptied_datastore_is_not_taken_for_a_working_one(client: Client) -> None:
    registry = HealthRegistry()
    watching = asyncio.create_task(watch_datastore(client, registry.reporter("datastore"), period=0.05, patience=0.1))
    await until(registry, ready=False, reason="no ClusterInformation")
    watching.cancel()
