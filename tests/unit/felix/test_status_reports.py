"""What Felix writes to the datastore of itself and of its endpoints, in the keys and documents of Calico's."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from attrs import evolve

from calico_node.dataplanes.contract import Applied, Batch, WorkloadEndpointID
from calico_node.dataplanes.recorder.plugin import Recorder
from calico_node.datastores.embedded.engine import EmbeddedEngine
from calico_node.plugins.felix import component, status_reports
from tests.unit.felix.test_component import NODE, READY, TIER, World, document, pod, world

pytestmark = pytest.mark.anyio

HOST = "/calico/felix/v2/no-region/host/node1"
WEB = f"{HOST}/workload/k8s/default%2fweb/endpoint/eth0"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_reports, "FIRST_REPORT", 0.01)
    monkeypatch.setattr(component, "HEARTBEAT", 0.05)


def configuration(**spec: Any) -> Any:
    return document("FelixConfiguration", "default", **spec)


@asynccontextmanager
async def running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *documents: Any, recorder: Recorder | None = None
) -> AsyncIterator[tuple[World, EmbeddedEngine]]:
    async with world(tmp_path, monkeypatch, "cali1", recorder=recorder) as one:
        # The documents first: felix takes nothing up before ClusterInformation, which a Node brings along too.
        await one.reached(await one.apply(*documents, READY, TIER, NODE))
        yield one, one.client.kv


async def value(kv: EmbeddedEngine, key: str, wanted: bytes | None) -> None:
    """Wait until ``key`` has the ``wanted`` value."""
    with anyio.fail_after(5):
        while (stored.value if (stored := (await kv.get(key))[0]) else None) != wanted:  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def test_the_heartbeat_runs_out_with_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configuration(reportingInterval="1s", reportingTTL="2s")
    async with running(tmp_path, monkeypatch, settings) as (_, kv):
        with anyio.fail_after(5):
            while (stored := (await kv.get(f"{HOST}/status"))[0]) is None:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            assert stored.lease
            report = orjson.loads(stored.value)
            assert list(report) == ["time", "uptime", "first_update"]
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report["time"])
            assert 0 < report["uptime"] < 5
            assert report["first_update"] is True
            again = stored
            while again is None or again.value == stored.value:
                await anyio.sleep(0.01)
                again, _ = await kv.get(f"{HOST}/status")
        assert orjson.loads(again.value)["first_update"] is False
        assert again.lease != stored.lease
    engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
    last, _ = await engine.get(f"{HOST}/last_reported_status")
    assert last is not None
    assert last.lease == 0
    assert orjson.loads(last.value)["uptime"] >= orjson.loads(again.value)["uptime"]
    await value(engine, f"{HOST}/status", None)
    await engine.close()


async def test_no_heartbeat_with_an_interval_of_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_reports, "FIRST_REPORT", 0.3)
    async with running(tmp_path, monkeypatch, configuration(reportingInterval="0s")) as (_, kv):
        await anyio.sleep(0.5)
        assert (await kv.range("/calico/felix/")).kvs == ()


async def test_endpoints_are_reported_where_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = pod("web", "10.0.0.1", "cali1", "web")
    async with running(tmp_path, monkeypatch, web) as (one, kv):
        await anyio.sleep(0.2)
        assert (await kv.get(WEB))[0] is None
        stale = f"{HOST}/workload/k8s/default%2fgone/endpoint/eth0"
        others = "/calico/felix/v2/no-region/host/node10/workload/k8s/default%2fx/endpoint/eth0"
        for key in (stale, others):
            await kv.put(key, b'{"status":"up"}')
        await one.apply(configuration(endpointReportingEnabled=True, endpointReportingDelay="0s"))
        await value(kv, WEB, b'{"status":"up"}')
        await value(kv, stale, None)
        one.interfaces.set()
        await value(kv, WEB, b'{"status":"down"}')
        await one.client.delete("WorkloadEndpoint", "node1-k8s-web-eth0", "default")
        await value(kv, WEB, None)
        await value(kv, others, b'{"status":"up"}')


class ForWorkloadsAlone(Recorder):
    """Says nothing about host endpoints."""

    async def apply(self, batch: Batch) -> Applied:
        applied = await super().apply(batch)
        status = {key: one for key, one in applied.status.items() if isinstance(key, WorkloadEndpointID)}
        return evolve(applied, status=status)


@pytest.mark.parametrize(("recorder", "state"), [(Recorder, b"up"), (ForWorkloadsAlone, b"error")])
async def test_host_endpoints_are_in_error_where_nothing_enforces_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: type[Recorder], state: bytes
) -> None:
    settings = configuration(endpointReportingEnabled=True, endpointReportingDelay="0s")
    endpoint = document("HostEndpoint", "uplink", node="node1", interfaceName="eth0")
    key = "/calico/felix/v1/host/node1/endpoint/uplink"
    async with running(tmp_path, monkeypatch, settings, endpoint, recorder=recorder()) as (one, kv):
        await value(kv, key, b'{"status":"%s"}' % state)
        await one.client.delete("HostEndpoint", "uplink")
        await value(kv, key, None)


async def test_nothing_is_reported_while_the_datastore_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configuration(endpointReportingEnabled=True, endpointReportingDelay="0s", reportingInterval="1s")
    async with running(tmp_path, monkeypatch, settings, pod("web", "10.0.0.1", "cali1", "web")) as (one, kv):
        await value(kv, WEB, b'{"status":"up"}')
        await one.apply(document("ClusterInformation", "default", datastoreReady=False))
        await one.until(lambda: "datastoreReady" in one.felix().reason)
        before = (await kv.get(f"{HOST}/status"))[0]
        one.interfaces.set()
        await anyio.sleep(1.3)
        assert (await kv.get(WEB))[0].value == b'{"status":"up"}'
        assert (await kv.get(f"{HOST}/status"))[0] == before
        await one.apply(READY)
        await value(kv, WEB, b'{"status":"down"}')
