"""The etcd engine passes the suite against a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.datastores.etcd.plugin import open_etcd
from calico_node.datastores.kv import KeyValue
from calico_node.errors import DatastoreError, SettingsError
from calico_node.settings import Settings
from tests.interop.datastores.conftest import Etcd, etcdctl, free_port
from tests.unit.datastores.engine_suite import EngineSuite
from tests.unit.datastores.suite_history import Restart


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> None:
    """gRPC's poller belongs to one event loop: a fixture of the module's scope keeps that loop."""


class TestEtcdEngine(EngineSuite):
    @pytest.fixture
    async def engine(self, etcd: str) -> AsyncIterator[EtcdEngine]:
        engine = EtcdEngine([etcd])
        for kv in (await engine.range("/")).kvs:
            await engine.delete(kv.key)
        yield engine
        await engine.close()

    @pytest.fixture
    def restart(self, engine: EtcdEngine, etcd_server: Etcd) -> Restart:
        async def restart() -> EtcdEngine:
            await asyncio.to_thread(etcd_server.stop)
            await asyncio.to_thread(etcd_server.start)
            return engine

        return restart

    async def test_a_server_that_is_away_is_a_datastore_error(self) -> None:
        engine = EtcdEngine([f"127.0.0.1:{free_port()}"])
        with pytest.raises(DatastoreError):
            await engine.get("/t/a")
        with pytest.raises(DatastoreError):
            async for _ in engine.watch("/t/", start_revision=1):
                pass
        await engine.close()

    async def test_answers_larger_than_four_megabytes(self, engine: EtcdEngine) -> None:
        """A page of large objects, and what a watch has to catch up with, come in one message each."""
        _, revision = await engine.get("/t/")
        for number in range(6):
            await engine.put(f"/t/{number}", b"x" * 1_000_000)
        assert len((await engine.range("/t/")).kvs) == 6
        seen = 0
        async with asyncio.timeout(10), aclosing(engine.watch("/t/", start_revision=revision + 1)) as watch:
            async for batch in watch:
                seen += len(batch.events)
                if seen == 6:
                    break

    async def test_keys_that_are_no_text_are_passed_over(self, engine: EtcdEngine, etcd: str) -> None:
        """Whoever may write to etcd could otherwise keep every node from reading it."""
        await engine.put("/t/b", b"1")
        for key in (b"/t/a\xff\xfe", b"/t/a\xff\xff", b"/t/c\xff"):
            etcdctl(etcd, "put", key, "x")
        assert [kv.key for kv in (await engine.range("/t/")).kvs] == ["/t/b"]
        first = await engine.range("/t/", limit=1)
        assert [kv.key for kv in first.kvs] == ["/t/b"]
        assert [kv.key for kv in (await engine.range("/t/", start_after="/t/b", limit=1)).kvs] == []
        start = first.revision + 1
        etcdctl(etcd, "put", b"/t/\xfe", "x")
        await engine.put("/t/d", b"1")
        async with asyncio.timeout(5), aclosing(engine.watch("/t/", start_revision=start)) as watch:
            keys: list[str] = []
            async for batch in watch:
                keys += [event.kv.key for event in batch.events]
                if keys:
                    break
        assert keys == ["/t/d"]
        etcdctl(etcd, "del", "/t/", "--prefix")

    async def test_opened_by_settings(self, etcd: str) -> None:
        settings = Settings.load({"ETCD_ENDPOINTS": f"http://localhost:{etcd.rpartition(':')[2]}", "NODENAME": "n"})
        engine = await open_etcd(settings)
        await engine.put("/t/a", b"1")
        await engine.close()

    @pytest.mark.parametrize(
        "endpoints", ["", "ftp://x:1", "http://", "http://a:1,https://a:2", "http://u:geheim@a:1"]
    )
    async def test_unusable_endpoints_are_named(self, endpoints: str) -> None:
        with pytest.raises(SettingsError, match="ETCD_") as caught:
            await open_etcd(Settings.load({"ETCD_ENDPOINTS": endpoints, "NODENAME": "n"}))
        assert "geheim" not in str(caught.value)


async def test_a_unix_socket(etcd_server: Etcd) -> None:
    for endpoint in (f"unix://{etcd_server.socket}", f"unix:{etcd_server.socket}"):
        engine = await open_etcd(Settings.load({"ETCD_ENDPOINTS": endpoint, "NODENAME": "n"}))
        revision = await engine.put("/t/socket", b"1")
        assert await engine.get("/t/socket") == (KeyValue("/t/socket", b"1", revision, revision), revision)
        await engine.delete("/t/socket")
        await engine.close()


@pytest.mark.parametrize(
    "endpoints", ["unix://relative", "unix:///run/a,unix:///run/b", "http://10.0.0.1:1,unix:///a"]
)
async def test_a_unix_socket_stands_alone_with_its_whole_path(endpoints: str) -> None:
    with pytest.raises(SettingsError, match="unix:///path/to/socket"):
        await open_etcd(Settings.load({"ETCD_ENDPOINTS": endpoints, "NODENAME": "n"}))
