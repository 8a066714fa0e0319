"""The etcd engine passes the suite against a real etcd."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.datastores.etcd.plugin import open_etcd
from calico_node.errors import DatastoreError, SettingsError
from calico_node.settings import Settings
from tests.unit.datastores.engine_suite import EngineSuite


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fresh etcd on loopback."""
    program = shutil.which("etcd")
    if program is None:
        pytest.fail("etcd is not installed: apt-get install etcd-server")
    client, peer = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    folder: Path = tmp_path_factory.mktemp("etcd")
    command = [
        program, "--name", "test", "--data-dir", str(folder / "data"),
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"test={peer}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_healthy(client, process, folder / "log")
        yield client.removeprefix("http://")
    finally:
        process.terminate()
        process.wait(10)


def _wait_healthy(client: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{client}/health", timeout=1) as answer:
                if b"true" in answer.read():
                    return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"etcd did not start: {log.read_text()[-2000:]}")


class TestEtcdEngine(EngineSuite):
    @pytest.fixture(scope="class")
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture(scope="class", autouse=True)
    async def one_loop(self, anyio_backend: str) -> None:
        """gRPC's poller belongs to one event loop: a fixture of the class's scope keeps that loop."""

    @pytest.fixture
    async def engine(self, etcd: str) -> AsyncIterator[EtcdEngine]:
        engine = EtcdEngine([etcd])
        for kv in (await engine.range("/")).kvs:
            await engine.delete(kv.key)
        yield engine
        await engine.close()

    async def test_a_server_that_is_away_is_a_datastore_error(self) -> None:
        engine = EtcdEngine([f"127.0.0.1:{_free_port()}"])
        with pytest.raises(DatastoreError):
            await engine.get("/t/a")
        with pytest.raises(DatastoreError):
            async for _ in engine.watch("/t/", start_revision=1):
                pass
        await engine.close()

    async def test_opened_by_settings(self, etcd: str) -> None:
        settings = Settings.load({"ETCD_ENDPOINTS": f"http://localhost:{etcd.rpartition(':')[2]}", "NODENAME": "n"})
        engine = await open_etcd(settings)
        await engine.put("/t/a", b"1")
        await engine.close()

    @pytest.mark.parametrize("endpoints", ["", "ftp://x:1", "http://", "http://a:1,https://a:2", "https://a:2379"])
    async def test_unusable_endpoints_are_named(self, endpoints: str) -> None:
        with pytest.raises(SettingsError, match="ETCD_"):
            await open_etcd(Settings.load({"ETCD_ENDPOINTS": endpoints, "NODENAME": "n"}))
