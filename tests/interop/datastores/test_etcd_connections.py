"""The etcd engine's connections: members that are dead, hang or come back, and what becomes of calls under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from calico_node.datastores.etcd import connection, watch
from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.datastores.kv import WatchBatch
from calico_node.errors import DatastoreError, OutcomeUnknown
from tests.interop.datastores.conftest import free_port
from tests.interop.datastores.forwarder import Forwarder

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> None:
    """gRPC's poller belongs to one event loop: a fixture of the module's scope keeps that loop."""


@pytest.fixture
async def forwarder(etcd: str) -> AsyncIterator[Forwarder]:
    async with Forwarder(etcd) as forwarder:
        yield forwarder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of time, a tenth of what they are."""
    monkeypatch.setattr(connection, "CALL_TIMEOUT", 1.0)
    monkeypatch.setattr(connection, "ATTEMPT_TIMEOUT", 0.3)
    monkeypatch.setattr(connection, "_GRACE", 0.2)
    monkeypatch.setattr(watch, "ATTEMPT_TIMEOUT", 0.3)
    monkeypatch.setattr(watch, "SILENCE", 0.5)
    monkeypatch.setattr(watch, "SILENCE_AT_START", 0.5)
    monkeypatch.setattr(watch, "IDLE_PERIOD", 0.2)


async def exhaust(batches: AsyncIterator[WatchBatch]) -> None:
    async for _ in batches:
        pass


async def test_dead_members_are_passed_over(etcd: str) -> None:
    for _ in range(4):  # which member is asked first is left to chance
        engine = EtcdEngine([f"127.0.0.1:{free_port()}", etcd, f"127.0.0.1:{free_port()}"])
        revision = await engine.put("/t/a", b"1")
        stored, _ = await engine.get("/t/a")
        assert stored is not None
        assert stored.mod_revision == revision
        async with asyncio.timeout(5), aclosing(engine.watch("/t/", start_revision=revision)) as batches:
            assert (await anext(batches)).revision == revision
        lease = await engine.grant(5)
        await engine.keep_alive(lease)
        await engine.revoke(lease)
        await engine.close()


async def test_a_member_that_hangs_costs_reads_one_attempt(etcd: str, forwarder: Forwarder, impatient: None) -> None:
    engine = EtcdEngine([forwarder.address, etcd])
    engine._connections._current = 0
    revision = await engine.put("/t/a", b"1")
    forwarder.hang()
    started = time.monotonic()
    stored, _ = await engine.get("/t/a")
    assert stored is not None
    assert stored.mod_revision == revision
    assert time.monotonic() - started < 3.0
    await engine.close()


async def test_a_write_that_gets_no_answer_has_an_unknown_outcome(forwarder: Forwarder, impatient: None) -> None:
    engine = EtcdEngine([forwarder.address])
    before = await engine.put("/t/a", b"1")
    forwarder.hang()
    with pytest.raises(OutcomeUnknown, match="not known whether the change was carried out"):
        await engine.put("/t/a", b"2")
    forwarder.flow()
    async with asyncio.timeout(5):
        stored = (await engine.get("/t/a"))[0]
    assert stored is not None
    assert (stored.value, stored.mod_revision) in ((b"1", before), (b"2", before + 1))
    await engine.close()


async def test_a_write_that_was_not_sent_has_failed(impatient: None) -> None:
    engine = EtcdEngine([f"127.0.0.1:{free_port()}"])
    with pytest.raises(DatastoreError, match="connection refused") as caught:
        await engine.put("/t/a", b"1")
    assert not isinstance(caught.value, OutcomeUnknown)
    await engine.close()


async def test_a_silent_watch_ends(forwarder: Forwarder, impatient: None) -> None:
    engine = EtcdEngine([forwarder.address])
    revision = await engine.put("/t/a", b"1")
    async with aclosing(engine.watch("/t/", start_revision=revision)) as batches:
        assert (await anext(batches)).events
        forwarder.hang()
        async with asyncio.timeout(5):
            with pytest.raises(DatastoreError, match="silent"):
                await exhaust(batches)
    await engine.close()


async def test_a_watch_where_nobody_answers_is_not_begun(forwarder: Forwarder, impatient: None) -> None:
    forwarder.hang()
    engine = EtcdEngine([forwarder.address])
    async with asyncio.timeout(5):
        with pytest.raises(DatastoreError, match="no answer"):
            await anext(engine.watch("/t/", start_revision=1))
    await engine.close()


async def test_a_consumer_that_is_slow_loses_no_watch(forwarder: Forwarder, impatient: None) -> None:
    engine = EtcdEngine([forwarder.address])
    revision = await engine.put("/t/a", b"1")
    async with asyncio.timeout(10), aclosing(engine.watch("/t/", start_revision=revision)) as batches:
        assert (await anext(batches)).revision == revision
        await asyncio.sleep(1.5)
        last = await engine.put("/t/a", b"2")
        while (await anext(batches)).revision < last:
            pass
    await engine.close()


async def test_a_watch_whose_connection_another_call_gives_up_is_an_error(
    etcd: str, forwarder: Forwarder, impatient: None
) -> None:
    """Not a cancellation: that would end the watching task without a word."""
    engine = EtcdEngine([forwarder.address])
    revision = await engine.put("/t/a", b"1")
    async with asyncio.timeout(5), aclosing(engine.watch("/t/", start_revision=revision)) as batches:
        assert (await anext(batches)).revision == revision
        engine._connections.current.renew()
        with pytest.raises(DatastoreError, match="the connection was closed"):
            await exhaust(batches)
    await engine.close()


async def test_a_call_that_the_connection_is_closed_under_is_an_error(forwarder: Forwarder, impatient: None) -> None:
    engine = EtcdEngine([forwarder.address])
    await engine.put("/t/a", b"1")
    forwarder.hang()
    write = asyncio.ensure_future(engine.put("/t/a", b"2"))
    await asyncio.sleep(0.1)
    await engine.close()
    async with asyncio.timeout(5):
        with pytest.raises(OutcomeUnknown):
            await write


async def test_a_connection_that_is_cut_is_made_anew(forwarder: Forwarder) -> None:
    engine = EtcdEngine([forwarder.address])
    revision = await engine.put("/t/a", b"1")
    async with aclosing(engine.watch("/t/", start_revision=revision)) as batches:
        assert (await anext(batches)).revision == revision
        forwarder.cut()
        async with asyncio.timeout(5):
            with pytest.raises(DatastoreError, match=forwarder.address):
                await exhaust(batches)
    async with asyncio.timeout(5):
        assert await engine.put("/t/a", b"3") == revision + 1
    await engine.close()


async def test_a_lease_lives_on_over_another_member(etcd: str, forwarder: Forwarder, impatient: None) -> None:
    engine = EtcdEngine([forwarder.address, etcd])
    engine._connections._current = 0
    lease = await engine.grant(2)
    await engine.put("/t/leased", b"1", lease=lease)
    forwarder.hang()
    for _ in range(6):
        await asyncio.sleep(0.5)
        await engine.keep_alive(lease)
    assert (await engine.get("/t/leased"))[0] is not None
    await engine.revoke(lease)
    assert (await engine.get("/t/leased"))[0] is None
    await engine.close()
