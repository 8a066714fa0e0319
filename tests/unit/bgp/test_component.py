"""The component with a datastore file and a sink that only remembers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from calico_node.dataplanes.contract import ConnectedPrefix, KernelView, Route
from calico_node.datastores import open_client
from calico_node.datastores.client import Client
from calico_node.hookspecs import AgentContext
from calico_node.plugins.bgp import component as bgp_component
from calico_node.plugins.bgp.component import BGP
from calico_node.resources import from_dict
from calico_node.settings import Settings


class Sink:
    """A ``RouteSink`` in memory."""

    def __init__(self, *routes: Route) -> None:
        self.view = KernelView(routes, (ConnectedPrefix("127.0.0.1/8", "eth0"),))
        self.routes: dict[str, Route] = {}
        self.pruned = 0

    async def set_routes(self, owner: str, add: Sequence[Route], remove: Sequence[str] = ()) -> None:
        assert owner == "bgp"
        self.routes.update({route.dst: route for route in add})
        for dst in remove:
            self.routes.pop(dst, None)

    async def prune(self, owner: str) -> None:
        self.pruned += 1

    async def watch(self) -> AsyncIterator[KernelView]:
        yield self.view
        await asyncio.Event().wait()


class Reporter:
    """Health, and its only reporter."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}

    def reporter(self, name: str, *, timeout: float = 0.0) -> Reporter:
        assert name == "bgp"
        return self

    def report(self, **state: Any) -> None:
        self.last = {"ready": True, **state}


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (what is asked is not an event)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(component: BGP, context: AgentContext) -> AsyncIterator[None]:
    task = asyncio.create_task(component.run(context))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def resource(kind: str, name: str, **spec: Any) -> Any:
    return from_dict({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def context_for(path: Path, sink: Sink, health: Reporter) -> AsyncIterator[tuple[AgentContext, Client]]:
    settings = Settings.load(
        {
            "NODENAME": "a",
            "CALICO_STATE_DIR": str(path),
            "CALICO_RUN_DIR": str(path),
            "CALICO_DATASTORE_PATH": str(path / "ds.db"),
        }
    )
    async with open_client(settings) as client:
        await client.apply(resource("BGPConfiguration", "default", listenPort=free_port()))
        await client.apply(resource("Node", "a", bgp={"ipv4Address": "127.0.0.1/8"}))
        await client.apply(resource("IPPool", "pool", cidr="10.77.0.0/16"))
        yield (
            AgentContext(
                settings=settings,
                client=client,
                health=health,
                hooks=None,
                route_sink=sink,
                pod_wiring=None,  # type: ignore[arg-type]
                make_dataplane=None,
            ),
            client,
        )


async def give(client: Client, cidr: str, state: str | None = "confirmed") -> int:
    key = f"/calico/ipam/v2/host/a/ipv4/block/{cidr.replace('/', '-')}"
    if state is None:
        _, revision = await client.kv.delete(key)
        return revision
    return await client.kv.put(key, orjson.dumps({"state": state}))


def test_blocks_become_routes_and_the_revision_follows(tmp_path: Path) -> None:
    async def work() -> None:
        sink, health = Sink(), Reporter()
        async with context_for(tmp_path, sink, health) as (context, client), running(BGP(), context):
            revision = await give(client, "10.77.1.0/26")
            await eventually(lambda: "10.77.1.0/26" in sink.routes)
            await eventually(lambda: (health.last.get("revision") or 0) >= revision)
            assert health.last["ready"], health.last
            assert sink.pruned == 1
            revision = await give(client, "10.77.1.0/26", None)
            await eventually(lambda: (health.last.get("revision") or 0) >= revision)
            assert sink.routes == {}

    asyncio.run(work())


def test_a_component_that_is_run_again_takes_back_what_it_gave(tmp_path: Path) -> None:
    async def work() -> None:
        sink, health, component = Sink(), Reporter(), BGP()
        async with context_for(tmp_path, sink, health) as (context, client):
            async with running(component, context):
                await give(client, "10.77.1.0/26")
                await give(client, "10.77.2.0/26")
                await eventually(lambda: len(sink.routes) == 2)
            await give(client, "10.77.2.0/26", None)
            assert len(sink.routes) == 2
            async with running(component, context):
                await eventually(lambda: list(sink.routes) == ["10.77.1.0/26"])

    asyncio.run(work())


def test_a_filter_that_becomes_unreadable_closes_its_peers_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bgp_component, "FILTER_GRACE", 0.05)

    async def work() -> None:
        sink, health = Sink(), Reporter()
        async with context_for(tmp_path, sink, health) as (context, client):
            key = "/calico/resources/v3/projectcalico.org/bgpfilters/f"
            await client.kv.put(key, b'{"metadata":{"name":"f"},"spec":{"importV4":7}}')
            life = bgp_component._Run(context, set())
            task = asyncio.create_task(life.run())

            def rules() -> Any:
                configuration = life._families[4].configuration
                return None if configuration is None else configuration.speaker.filters.get("f")

            await eventually(lambda: rules() is not None and "BGPFilter(f)" in health.last.get("rejected", ()))
            assert not rules().imports[0].accept
            assert not rules().exports[0].accept
            await client.delete("BGPFilter", "f")
            await client.create(resource("BGPFilter", "f", importV4=[{"action": "Accept"}]))
            await eventually(lambda: rules().exports == () and rules().imports[0].accept)
            await client.kv.put(key, b"[]")
            await eventually(lambda: not rules().imports[0].accept)
            await client.kv.delete(key)
            await eventually(lambda: rules() is None)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(work())


def test_a_neighbour_that_does_not_answer_is_named_and_delays_only_the_removal(tmp_path: Path) -> None:
    async def work() -> None:
        sink, health = Sink(Route("10.77.9.0/26", gateways=("127.0.0.9",), protocol=12)), Reporter()
        async with context_for(tmp_path, sink, health) as (context, client), running(BGP(), context):
            await client.apply(resource("BGPPeer", "gone", peerIP="127.9.9.9:1", asNumber=65000))
            await give(client, "10.77.1.0/26")
            await eventually(lambda: "10.77.1.0/26" in sink.routes)
            await eventually(lambda: "127.9.9.9" in health.last.get("reason", ""))
            assert not health.last["ready"]
            (session,) = health.last["extra"]["sessions"]
            assert (session["peer"], session["as"], session["prefixes_received"]) == ("127.9.9.9", 65000, 0)

    asyncio.run(work())


def test_a_port_in_use_is_reported_and_tried_again(tmp_path: Path) -> None:
    async def work() -> None:
        sink, health = Sink(), Reporter()
        async with context_for(tmp_path, sink, health) as (context, client):
            with socket.socket() as other:
                other.bind(("0.0.0.0", 0))
                other.listen()
                port = other.getsockname()[1]
                await client.apply(resource("BGPConfiguration", "default", listenPort=port))
                task = running(BGP(), context)
                await task.__aenter__()
                await eventually(lambda: f"port {port}" in health.last.get("reason", ""))
            await eventually(lambda: health.last["ready"])
            await task.__aexit__(None, None, None)

    asyncio.run(work())


def test_the_speakers_are_told_of_while_the_component_runs(tmp_path: Path) -> None:
    async def work() -> None:
        sink, health, component = Sink(), Reporter(), BGP()
        async with context_for(tmp_path, sink, health) as (context, client):
            assert component.bgp_speakers() is None
            async with running(component, context):
                await give(client, "10.77.1.0/26")
                await eventually(lambda: "10.77.1.0/26" in sink.routes)
                speakers = component.bgp_speakers()
                assert speakers is not None
                assert {version: speaker.router_id for version, speaker in speakers.items()} == {
                    4: "127.0.0.1",
                    6: "127.0.0.1",
                }
                assert speakers[4].ready
                assert speakers[4].booted <= speakers[4].reconfigured
                own = [route for route in speakers[4].routes() if route.destination == "10.77.1.0/26"]
                assert [(route.source, route.device, route.best) for route in own] == [("static", "blackhole", True)]
            assert component.bgp_speakers() is None

    asyncio.run(work())
