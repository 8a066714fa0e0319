"""The client over an etcd whose answers, or whose requests, are lost on the way: what a caller is told is true."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from calico_node.datastores.client import Client
from calico_node.datastores.etcd import connection
from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.errors import OutcomeUnknown, ResourceAlreadyExists, ResourceDoesNotExist, UpdateConflict
from tests.interop.datastores.forwarder import Forwarder
from tests.unit.syncer.test_stream import network_set

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> None:
    """gRPC's poller belongs to one event loop: a fixture of the module's scope keeps that loop."""


class Path:
    """A client whose requests go through ``forwarder`` first, and by another way when that fails."""

    def __init__(self, forwarder: Forwarder, etcd: str) -> None:
        self.forwarder = forwarder
        self.engine = EtcdEngine([forwarder.address, etcd])
        self.client = Client(self.engine)

    async def lose(self, *, requests: bool = False) -> None:
        """From now on what is sent through the forwarder gets no answer, or does not even arrive."""
        self.forwarder.flow()
        self.engine._connections._current = 0
        await self.engine.get("/x")
        if requests:
            self.forwarder.hang()
        else:
            self.forwarder.hold_answers()


@pytest.fixture
async def path(etcd: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    monkeypatch.setattr(connection, "CALL_TIMEOUT", 0.6)
    monkeypatch.setattr(connection, "ATTEMPT_TIMEOUT", 0.3)
    monkeypatch.setattr(connection, "_GRACE", 0.1)
    async with Forwarder(etcd) as forwarder:
        path = Path(forwarder, etcd)
        await path.client.ensure_initialized()
        for item in (await path.client.list("GlobalNetworkSet")).items:
            await path.client.delete("GlobalNetworkSet", item.metadata.name)
        yield path
        await path.engine.close()


async def test_what_was_carried_out_is_reported_as_done(path: Path) -> None:
    await path.lose()
    made = await path.client.create(network_set("a", "10.0.0.0/8"))
    stored = await path.client.get("GlobalNetworkSet", "a")
    assert stored.metadata.resource_version == made.metadata.resource_version
    assert stored.metadata.uid == made.metadata.uid

    made.spec.nets = ["11.0.0.0/8"]
    await path.lose()
    changed = await path.client.update(made)
    stored = await path.client.get("GlobalNetworkSet", "a")
    assert stored.spec.nets == ["11.0.0.0/8"]
    assert stored.metadata.resource_version == changed.metadata.resource_version

    await path.lose()
    await path.client.delete("GlobalNetworkSet", "a")
    with pytest.raises(ResourceDoesNotExist):
        await path.client.get("GlobalNetworkSet", "a")


async def test_a_create_of_what_others_have_made_is_refused(path: Path) -> None:
    await path.client.create(network_set("a", "10.0.0.0/8"))
    await path.lose()
    with pytest.raises(ResourceAlreadyExists):
        await path.client.create(network_set("a", "11.0.0.0/8"))
    assert (await path.client.get("GlobalNetworkSet", "a")).spec.nets == ["10.0.0.0/8"]


async def test_a_swap_that_cannot_be_told_is_unknown_and_overwrites_nothing(path: Path) -> None:
    made = await path.client.create(network_set("a", "10.0.0.0/8"))
    await path.client.apply(network_set("a", "12.0.0.0/8"))
    made.spec.nets = ["11.0.0.0/8"]
    await path.lose()
    with pytest.raises(OutcomeUnknown):
        await path.client.update(made)
    assert (await path.client.get("GlobalNetworkSet", "a")).spec.nets == ["12.0.0.0/8"]
    with pytest.raises(UpdateConflict):
        await path.client.update(made)


@pytest.mark.parametrize("requests", [False, True])
async def test_apply_gets_there(path: Path, requests: bool) -> None:
    await path.lose(requests=requests)
    await path.client.apply(network_set("a", "10.0.0.0/8"))
    assert (await path.client.get("GlobalNetworkSet", "a")).spec.nets == ["10.0.0.0/8"]
    await path.lose(requests=requests)
    await path.client.apply(network_set("a", "11.0.0.0/8"))
    assert (await path.client.get("GlobalNetworkSet", "a")).spec.nets == ["11.0.0.0/8"]
