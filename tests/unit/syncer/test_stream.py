"""The stream as its consumer sees it: the whole state, then changes; through losses, compaction and slowness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from calico_node.datastores.client import Client
from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.kv import KVEngine, WatchBatch
from calico_node.errors import DatastoreError
from calico_node.model import IPPoolKey, Key, NetworkSetKey, SyncBatch, SyncStatus, TierKey, Update
from calico_node.resources import from_dict
from calico_node.syncer import SyncerKind, stream
from calico_node.syncer import stream as stream_function
from calico_node.syncer.stream import BATCH, Buffer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
    yield Client(engine)
    await engine.close()


def network_set(name: str, *nets: str) -> Any:
    document = {"kind": "GlobalNetworkSet", "metadata": {"name": name}, "spec": {"nets": list(nets)}}
    return from_dict({"apiVersion": "projectcalico.org/v3", **document})


class Consumer:
    """Applies batches, and notes statuses."""

    def __init__(self, source: AsyncIterator[SyncBatch]) -> None:
        self.source = source
        self.values: dict[Key, object] = {}
        self.statuses: list[SyncStatus] = []
        self.revision = 0

    async def until(self, revision: int) -> None:
        """Apply until in sync at ``revision``."""
        async with asyncio.timeout(10):
            while self.revision < revision or self.statuses[-1:] != [SyncStatus.IN_SYNC]:
                self.apply(await anext(self.source))

    def apply(self, batch: SyncBatch) -> None:
        assert len(batch.updates) <= BATCH
        assert len({update.key for update in batch.updates}) == len(batch.updates)
        if not self.statuses or self.statuses[-1] is not batch.status:
            self.statuses.append(batch.status)
        self.revision = batch.revision
        for update in batch.updates:
            if update.value is None:
                self.values.pop(update.key, None)
            else:
                self.values[update.key] = update.value


async def test_the_whole_state_then_in_sync_then_changes(client: Client) -> None:
    await client.ensure_initialized()
    async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(5)
        assert consumer.statuses == [
            SyncStatus.WAIT_FOR_DATASTORE, SyncStatus.RESYNC_IN_PROGRESS, SyncStatus.IN_SYNC,
        ]  # fmt: skip
        assert {key.name for key in consumer.values if isinstance(key, TierKey)} == {
            "default", "kube-admin", "kube-baseline",
        }  # fmt: skip
        made = await client.create(network_set("a", "10.0.0.0/8"))
        await consumer.until(int(made.metadata.resource_version))
        assert NetworkSetKey("a") in consumer.values
        await client.delete("GlobalNetworkSet", "a")
        await consumer.until(int(made.metadata.resource_version) + 1)
        assert NetworkSetKey("a") not in consumer.values


async def test_progress_arrives_when_nothing_relevant_changed(client: Client) -> None:
    async with aclosing(stream(client, SyncerKind.BGP, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(1)
        delays = []
        for _ in range(10):
            revision = await client.kv.put("/calico/elsewhere", b"x")
            started = time.monotonic()
            await consumer.until(revision)
            delays.append(time.monotonic() - started)
        assert sorted(delays)[5] < 0.05


async def test_a_slow_consumer_gets_the_last_value_only(client: Client) -> None:
    async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(1)
        for last in range(20):
            stored = await client.apply(network_set("a", f"10.{last}.0.0/16"))
            await client.apply(network_set("gone", "10.0.0.0/8"))
            await client.delete("GlobalNetworkSet", "gone")
        await asyncio.sleep(0.2)
        batch = await anext(source)
        assert [update.key for update in batch.updates] == [NetworkSetKey("a")]
        assert batch.updates[0].value.nets == ("10.19.0.0/16",)  # type: ignore[union-attr]
        assert batch.revision >= int(stored.metadata.resource_version)


async def test_large_states_come_in_slices(client: Client) -> None:
    await asyncio.gather(*(client.create(network_set(f"s{number}", "10.0.0.0/8")) for number in range(1500)))
    async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(1501)
        assert len([key for key in consumer.values if isinstance(key, NetworkSetKey)]) == 1500


async def test_compaction_while_away_leads_to_a_new_list(client: Client) -> None:
    flaky = Flaky(client.kv)
    kept, gone, new = (network_set(name, "10.0.0.0/8") for name in ("kept", "gone", "new"))
    await client.create(kept)
    await client.create(gone)
    async with aclosing(stream(Client(flaky), SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(3)
        flaky.fail()
        await client.delete("GlobalNetworkSet", "gone")
        made = await client.create(new)
        await client.kv.compact(int(made.metadata.resource_version))
        flaky.heal()
        await consumer.until(int(made.metadata.resource_version))
        assert {key.name for key in consumer.values if isinstance(key, NetworkSetKey)} == {"kept", "new"}


async def test_a_lost_datastore_is_waited_for_in_silence(client: Client) -> None:
    flaky = Flaky(client.kv)
    await client.create(network_set("a", "10.0.0.0/8"))
    async with aclosing(stream(Client(flaky), SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(2)
        flaky.fail()
        made = await client.create(network_set("b", "10.0.0.0/8"))
        await asyncio.sleep(0.3)
        flaky.heal()
        await consumer.until(int(made.metadata.resource_version))
        assert consumer.statuses[-1:] == [SyncStatus.IN_SYNC]
        assert consumer.statuses.count(SyncStatus.IN_SYNC) == 1  # never left it
        assert NetworkSetKey("b") in consumer.values


async def test_a_long_loss_shows_in_the_status_and_keeps_the_state(client: Client) -> None:
    flaky = Flaky(client.kv)
    now = [0.0]
    await client.create(network_set("a", "10.0.0.0/8"))
    source = stream_function(Client(flaky), SyncerKind.FELIX, node_name="n1", clock=lambda: now[0])
    async with aclosing(source):
        consumer = Consumer(source)
        await consumer.until(2)
        now[0] = 1000.0
        flaky.fail()
        while consumer.statuses[-1] is not SyncStatus.WAIT_FOR_DATASTORE:
            consumer.apply(await asyncio.wait_for(anext(source), 5))
        assert NetworkSetKey("a") in consumer.values
        flaky.heal()
        await consumer.until(2)


async def test_a_datastore_that_is_not_there_yet(client: Client) -> None:
    flaky = Flaky(client.kv)
    flaky.fail()
    await client.create(network_set("a", "10.0.0.0/8"))
    async with aclosing(stream(Client(flaky), SyncerKind.FELIX, node_name="n1")) as source:
        assert (await anext(source)).status is SyncStatus.WAIT_FOR_DATASTORE
        flaky.heal()
        consumer = Consumer(source)
        await consumer.until(2)
        assert NetworkSetKey("a") in consumer.values


async def test_an_invalid_object_is_reported_and_left_out(client: Client) -> None:
    rejected: dict[str, str | None] = {}
    key = "/calico/resources/v3/projectcalico.org/ippools/p"
    await client.kv.put(key, b'{"kind":"IPPool","metadata":{"name":"p"},"spec":{"cidr":"nonsense"}}')
    source = stream(client, SyncerKind.BGP, node_name="n1", on_rejected=rejected.__setitem__)
    async with aclosing(source):
        consumer = Consumer(source)
        await consumer.until(2)
        assert not [k for k in consumer.values if isinstance(k, IPPoolKey)]
        assert "nonsense" in str(rejected["IPPool(p)"])
        await client.kv.delete(key)
        await consumer.until(3)
        assert rejected == {"IPPool(p)": None}


async def test_another_datastore_in_the_place_of_the_first(client: Client, tmp_path: Path) -> None:
    """Same revisions, other contents: everything is read again."""
    other = Client(await EmbeddedEngine.open(tmp_path / "other.db"))
    for store, nets in ((client, "10.0.0.0/8"), (other, "10.1.0.0/16")):
        await store.ensure_initialized()
        await store.create(network_set("a", nets))
    made = await client.create(network_set("b", "10.0.0.0/8"))
    await other.create(network_set("c", "10.0.0.0/8"))
    flaky = Flaky(client.kv)
    async with aclosing(stream(Client(flaky), SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(int(made.metadata.resource_version))
        flaky.fail()
        await asyncio.sleep(0.05)
        flaky._engine, flaky.identity = other.kv, "two"
        flaky.heal()
        async with asyncio.timeout(10):
            while NetworkSetKey("b") in consumer.values or NetworkSetKey("c") not in consumer.values:
                consumer.apply(await anext(source))
        assert consumer.values[NetworkSetKey("a")].nets == ("10.1.0.0/16",)  # type: ignore[attr-defined]
    await other.kv.close()


async def test_the_revision_falls_when_an_older_copy_takes_the_place(client: Client, tmp_path: Path) -> None:
    """What a consumer reflects is said in the revisions of the store that it reflects."""
    older = Client(await EmbeddedEngine.open(tmp_path / "older.db"))
    await older.ensure_initialized()
    kept = await older.create(network_set("a", "10.1.0.0/16"))
    await client.ensure_initialized()
    for number in range(20):
        made = await client.create(network_set(f"n{number}", "10.0.0.0/8"))
    flaky = Flaky(client.kv)
    async with aclosing(stream(Client(flaky), SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(int(made.metadata.resource_version))
        flaky.fail()
        await asyncio.sleep(0.05)
        flaky._engine = older.kv
        flaky.heal()
        await asyncio.sleep(1)  # a consumer that is busy meanwhile sees nothing of the list being read
        async with asyncio.timeout(10):
            while consumer.revision != int(kept.metadata.resource_version):
                consumer.apply(await anext(source))
        assert [key for key in consumer.values if isinstance(key, NetworkSetKey)] == [NetworkSetKey("a")]
        assert consumer.statuses[-1] is SyncStatus.IN_SYNC
        changed = await older.create(network_set("b", "10.1.0.0/16"))
        await consumer.until(int(changed.metadata.resource_version))
        assert NetworkSetKey("b") in consumer.values
    await older.kv.close()


@pytest.mark.parametrize("deleted", [False, True])
async def test_an_older_copy_that_has_been_written_past_the_last_event(
    client: Client, tmp_path: Path, deleted: bool
) -> None:
    """The same identity and a higher revision: only what is stored tells that it is not the same history."""
    other = Client(await EmbeddedEngine.open(tmp_path / "other.db"))
    for store in (client, other):
        await store.ensure_initialized()
        await store.create(network_set("common", "10.0.0.0/8"))
    last = int((await client.create(network_set("lost", "10.0.0.0/8"))).metadata.resource_version)
    if deleted:
        await client.delete("GlobalNetworkSet", "common")
        last += 1
    flaky = Flaky(client.kv)
    async with aclosing(stream(Client(flaky), SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(last)
        flaky.fail()
        for number in range(10):
            made = await other.create(network_set(f"new{number}", "10.1.0.0/16"))
        await asyncio.sleep(0.05)
        flaky._engine = other.kv
        flaky.heal()
        await consumer.until(int(made.metadata.resource_version))
        sets = {key.name for key in consumer.values if isinstance(key, NetworkSetKey)}
        assert sets == {"common", *(f"new{number}" for number in range(10))}
    await other.kv.close()


@pytest.mark.parametrize("identity", ["one", "two"])
async def test_an_emptied_datastore_takes_nothing_away_until_it_is_initialised(
    client: Client, tmp_path: Path, identity: str
) -> None:
    """An etcd whose data were wiped comes back with the identity it had; a new file has another."""
    empty = Client(await EmbeddedEngine.open(tmp_path / "empty.db"))
    await client.ensure_initialized()
    made = await client.create(network_set("a", "10.0.0.0/8"))
    flaky = Flaky(client.kv)
    async with aclosing(stream(Client(flaky), SyncerKind.FELIX, node_name="n1")) as source:
        consumer = Consumer(source)
        await consumer.until(int(made.metadata.resource_version))
        flaky.fail()
        await asyncio.sleep(0.05)
        flaky._engine, flaky.identity = empty.kv, identity
        flaky.heal()
        waiting = asyncio.ensure_future(anext(source))
        done, _ = await asyncio.wait({waiting}, timeout=1.5)
        assert not done
        await empty.ensure_initialized()
        async with asyncio.timeout(10):
            consumer.apply(await waiting)
            while NetworkSetKey("a") in consumer.values:
                consumer.apply(await anext(source))
    await empty.kv.close()


async def test_a_source_that_fails_is_not_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours ends the stream, and so its component, which is started anew; it never hangs."""
    await client.ensure_initialized()

    async def broken(prefix: str, **more: Any) -> Any:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a fault nobody thought of")

    monkeypatch.setattr(client.kv, "range", broken)
    async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as source, asyncio.timeout(5):
        with pytest.raises(UnicodeDecodeError):
            async for _ in source:
                pass


class Flaky:
    """An engine whose calls and watches fail while it is told to."""

    identity = "one"

    def __init__(self, engine: KVEngine) -> None:
        self._engine = engine
        self._broken = asyncio.Event()
        self._whole = asyncio.Event()
        self._whole.set()

    def fail(self) -> None:
        self._whole.clear()
        self._broken.set()

    def heal(self) -> None:
        self._broken.clear()
        self._whole.set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            if self._broken.is_set():
                raise DatastoreError("away")
            return await method(*arguments, **named)

        return call

    async def watch(self, prefix: str, *, start_revision: int, previous: bool = True) -> AsyncIterator[WatchBatch]:
        watch = self._engine.watch(prefix, start_revision=start_revision, previous=previous)
        async with aclosing(watch) as inner:  # type: ignore[type-var]
            while True:
                following = asyncio.ensure_future(anext(inner))
                broken = asyncio.ensure_future(self._broken.wait())
                try:
                    await asyncio.wait({following, broken}, return_when=asyncio.FIRST_COMPLETED)
                    if broken.done():
                        raise DatastoreError("away")
                    batch = following.result()
                finally:
                    following.cancel()
                    broken.cancel()
                    await asyncio.gather(following, broken, return_exceptions=True)
                yield batch


def test_the_buffer_collapses_and_cancels() -> None:
    buffer = Buffer()
    a, b, c = (NetworkSetKey(name) for name in "abc")
    buffer.put(a, 1, 1)
    buffer.put(a, 2, 2)
    buffer.put(b, 1, 3)
    buffer.put(b, None, 4)  # never seen: nothing to say
    assert buffer.take(10) == (Update(a, 2, 2),)
    buffer.put(a, 3, 5)
    buffer.put(a, 2, 6)  # back to what was delivered
    assert buffer.take(10) == ()
    buffer.put(a, None, 7)
    buffer.put(c, None, 7)
    assert buffer.take(10) == (Update(a, None, 7),)
    buffer.put(a, 1, 8)
    buffer.put(b, 1, 8)
    assert [update.key for update in buffer.take(1)] == [a]
    assert len(buffer) == 1
