"""The component between a real (embedded) datastore and a dataplane that records; the kernel's edge is faked."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import orjson
import pytest

from calico_node.dataplanes.contract import (
    Applied,
    Batch,
    ObjectState,
    ObjectStatus,
    Route,
    RouteOwnership,
    RouteType,
    WorkloadEndpointUpdate,
)
from calico_node.dataplanes.recorder.plugin import Recorder
from calico_node.datastores import open_client
from calico_node.errors import DataplaneError
from calico_node.health import HealthRegistry
from calico_node.hookspecs import AgentContext
from calico_node.linux.links import LinksView
from calico_node.plugins.felix import component, endpoints
from calico_node.resources import from_dict
from calico_node.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Hooks:
    def __init__(self) -> None:
        self.statuses: list[tuple[str, str]] = []

    def endpoint_status(self, *, endpoint: str, state: str, reason: str) -> None:
        self.statuses.append((endpoint, state))


class Sink:
    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.adopted: dict[str, Route] = {}
        self.pruned: list[str] = []
        self.ownership = RouteOwnership()
        self.refusals: dict[str, str] = {}

    def configure(self, ownership: RouteOwnership) -> None:
        self.ownership = ownership

    def refused(self, owner: str) -> dict[str, str]:
        return self.refusals

    async def adopt(self, owner: str) -> None:
        self.adopted, self.routes = {**self.adopted, **self.routes}, {}

    async def set_routes(self, owner: str, add: Sequence[Route], remove: Sequence[str] = ()) -> None:
        assert owner == "felix"
        for dst in remove:
            del self.routes[dst]
        self.routes.update((route.dst, route) for route in add)

    async def prune(self, owner: str) -> None:
        self.pruned.append(owner)
        self.adopted = {}


class Interfaces:
    """What the kernel says of its interfaces."""

    def __init__(self, *up: str) -> None:
        self.up = frozenset(up)
        self.configured: list[str] = []
        self._change = anyio.Event()

    def set(self, *up: str) -> None:
        self.up = frozenset(up)
        change, self._change = self._change, anyio.Event()
        change.set()

    async def watch(self) -> AsyncIterator[LinksView]:
        seen: frozenset[str] = frozenset()
        while True:
            links: dict[str, Any] = {name: type("Up", (), {"running": True}) for name in self.up}
            yield LinksView(links, self.up ^ seen)
            seen = self.up
            await self._change.wait()


class World:
    def __init__(self, client: Any, recorder: Recorder, interfaces: Interfaces, run_dir: Path) -> None:
        self.client = client
        self.recorder = recorder
        self.interfaces = interfaces
        self.run_dir = run_dir
        self.context: Any = None
        self.sink = Sink()
        self.hooks = Hooks()
        self.health = HealthRegistry()

    async def apply(self, *documents: dict[str, Any]) -> int:
        revision = 0
        for document in documents:
            stored = await self.client.apply(from_dict(document))
            revision = int(stored.metadata.resource_version)
        return revision

    def felix(self) -> Any:
        return next(state for state in self.health.states() if state.name == "felix")

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(5):
            while not condition():  # noqa: ASYNC110 (polls state that has no event)
                await anyio.sleep(0.001)

    async def reached(self, revision: int) -> None:
        await self.until(lambda: self.felix().revision >= revision)


def document(kind: str, name: str, namespace: str = "", labels: dict[str, str] | None = None, **spec: Any) -> Any:
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}


READY = document("ClusterInformation", "default", datastoreReady=True)
TIER = document("Tier", "default", order=1000000, defaultAction="Deny")
NODE = document("Node", "node1", bgp={"ipv4Address": "172.30.0.1/24"})
POLICY = document(
    "GlobalNetworkPolicy",
    "web",
    selector="app == 'web'",
    types=["Ingress"],
    ingress=[
        {
            "action": "Allow",
            "protocol": "TCP",
            "source": {"selector": "app == 'client'"},
            "destination": {"ports": [80]},
        }
    ],
)


def pod(name: str, address: str, interface: str, app: str, node: str = "node1") -> Any:
    return document(
        "WorkloadEndpoint",
        f"{node}-k8s-{name}-eth0",
        "default",
        labels={"app": app, "projectcalico.org/namespace": "default", "projectcalico.org/orchestrator": "k8s"},
        orchestrator="k8s",
        node=node,
        pod=name,
        endpoint="eth0",
        interfaceName=interface,
        ipNetworks=[f"{address}/32"],
        profiles=["kns.default"],
    )


@asynccontextmanager
async def world(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *up: str,
    recorder: Recorder | None = None,
    sink: Sink | None = None,
) -> AsyncIterator[World]:
    interfaces = Interfaces(*up)
    monkeypatch.setattr(component, "watch_links", interfaces.watch)
    monkeypatch.setattr(component, "prepare_kernel", lambda **_: None)
    monkeypatch.setattr(component, "CONFIG_FILE", tmp_path / "felix.cfg")
    monkeypatch.setattr(
        endpoints, "configure_workload_interface", lambda name, **_: interfaces.configured.append(name)
    )
    settings = Settings.load(
        {"NODENAME": "node1", "CALICO_STATE_DIR": str(tmp_path), "CALICO_RUN_DIR": str(tmp_path / "run")}
    )
    async with open_client(settings) as client:
        one = World(client, recorder or Recorder(), interfaces, tmp_path / "run")
        one.sink = sink or one.sink
        one.context = AgentContext(
            settings=settings,
            client=client,
            health=one.health,
            hooks=one.hooks,
            route_sink=one.sink,  # type: ignore[arg-type]
            pod_wiring=None,  # type: ignore[arg-type]
            make_dataplane=lambda: one.recorder,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(component.Felix().run, one.context)
            yield one
            tasks.cancel_scope.cancel()


async def test_policy_reaches_the_dataplane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, monkeypatch, "cali1") as one:
        revision = await one.apply(
            READY,
            TIER,
            NODE,
            POLICY,
            pod("web", "10.0.0.1", "cali1", "web"),
            pod("c", "10.0.9.9", "cali9", "client", "node2"),
        )
        await one.reached(revision)
        state = one.recorder.state
        (endpoint,) = state.workload_endpoints.values()
        assert [tier.name for tier in endpoint.tiers] == ["default"]
        (policy,) = state.policies.values()
        (rule,) = policy.inbound_rules
        assert state.ip_sets[rule.src_ip_set_ids[0]].members == {"10.0.9.9/32"}
        assert state.in_sync
        assert one.felix().ready, one.felix().reason
        assert one.sink.pruned == ["felix"]

        began = time.perf_counter()
        revision = await one.apply(pod("d", "10.0.9.8", "cali8", "client", "node2"))
        await one.reached(revision)
        assert state.ip_sets[rule.src_ip_set_ids[0]].members == {"10.0.9.8/32", "10.0.9.9/32"}
        assert time.perf_counter() - began < 1


async def test_routes_and_status_files_follow_the_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, monkeypatch) as one:
        await one.reached(await one.apply(READY, TIER, NODE, pod("web", "10.0.0.1", "cali1", "web")))
        assert not one.sink.routes
        folder = one.run_dir / "endpoint-status"
        assert not list(folder.iterdir())

        one.interfaces.set("cali1")
        await one.until(lambda: bool(one.sink.routes) and any(folder.iterdir()))
        route = one.sink.routes["10.0.0.1/32"]
        assert (route.device, route.scope_link, route.protocol, route.metric) == ("cali1", True, 3, 1024)
        (file,) = folder.iterdir()
        assert file.name == "k8s default%2Fweb eth0"
        assert file.read_text() == '{"ifaceName":"cali1","ipv4Nets":["10.0.0.1/32"]}'
        assert one.interfaces.configured == ["cali1"]
        assert one.hooks.statuses[-1] == ("WorkloadEndpoint(default/web/eth0)", "up")

        one.interfaces.set()
        await one.until(lambda: not one.sink.routes and not any(folder.iterdir()))
        assert one.hooks.statuses[-1][1] == "down"


class Refusing(Recorder):
    """Cannot enforce the endpoints of ``eth0``."""

    async def apply(self, batch: Batch) -> Applied:
        applied = await super().apply(batch)
        error = ObjectStatus(ObjectState.ERROR, "not a workload's interface")
        refused = {
            message.id: error
            for message in batch.messages
            if isinstance(message, WorkloadEndpointUpdate) and message.name == "eth0"
        }
        return attrs.evolve(applied, status={**applied.status, **refused})


async def test_an_endpoint_that_is_not_enforced_gets_neither_routes_nor_kernel_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's own interface in a stored endpoint, for one."""
    async with world(tmp_path, monkeypatch, "eth0", "cali1", recorder=Refusing()) as one:
        await one.apply(READY, TIER, NODE, pod("bad", "10.0.0.9", "eth0", "web"))
        await one.reached(await one.apply(pod("web", "10.0.0.1", "cali1", "web")))
        await one.until(lambda: bool(one.sink.routes))
        assert set(one.sink.routes) == {"10.0.0.1/32"}
        assert one.interfaces.configured == ["cali1"]
        assert "WorkloadEndpoint(default/bad/eth0)" in one.felix().rejected
        await one.reached(await one.apply(pod("bad", "10.0.0.9", "cali1", "web")))
        await one.until(lambda: set(one.sink.routes) == {"10.0.0.1/32", "10.0.0.9/32"})


async def test_nothing_is_touched_until_the_datastore_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch, "cali1") as one:
        await one.apply(document("ClusterInformation", "default", datastoreReady=False))
        await one.apply(TIER, NODE, pod("web", "10.0.0.1", "cali1", "web"))
        await one.until(lambda: "datastoreReady" in one.felix().reason)
        assert one.felix().ready
        assert one.felix().live
        assert not one.recorder.batches
        await one.reached(await one.apply(READY))
        assert one.recorder.state.workload_endpoints

        await one.apply(document("ClusterInformation", "default", datastoreReady=False))
        await one.until(lambda: "datastoreReady" in one.felix().reason)
        before = len(one.recorder.batches)
        await one.apply(POLICY)
        await anyio.sleep(0.1)
        assert len(one.recorder.batches) == before
        await one.reached(await one.apply(READY))
        assert one.recorder.state.policies


async def test_block_routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, monkeypatch) as one:
        await one.apply(READY, TIER, NODE)
        pool = document("IPPool", "p", cidr="10.0.0.0/16", vxlanMode="CrossSubnet", blockSize=26)
        peers = [
            document("Node", "near", bgp={"ipv4Address": "172.30.0.2/24"}),
            document("Node", "far", bgp={"ipv4Address": "172.31.0.2/24"}),
        ]
        await one.apply(pool, *peers)
        revision = 0
        for cidr, node in (("10.0.1.0-26", "node1"), ("10.0.2.0-26", "near")):
            revision = await put_block(one, cidr, node)
        await one.reached(revision)
        assert one.felix().ready, one.felix().reason
        assert one.sink.routes["10.0.1.0/26"].type is RouteType.BLACKHOLE
        assert one.sink.routes["10.0.2.0/26"].gateways == ("172.30.0.2",)
        assert {route.protocol for route in one.sink.routes.values()} == {80}

        await one.reached(await put_block(one, "10.0.3.0-26", "far"))
        assert not one.felix().ready
        assert "10.0.0.0/16" in one.felix().reason
        assert "far" in one.felix().reason


async def put_block(one: World, cidr: str, node: str) -> int:
    block = {
        "cidr": cidr.replace("-", "/"),
        "affinity": f"host:{node}",
        "allocations": [None] * 64,
        "unallocated": list(range(64)),
        "attributes": [],
        "deleted": False,
    }
    key = f"/calico/ipam/v2/assignment/ipv4/block/{cidr}"
    revision: int = await one.client.kv.put(key, orjson.dumps(block))
    return revision


class Failing(Recorder):
    """Refuses the first ``failures`` batches."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def apply(self, batch: Batch) -> Applied:
        if self.failures:
            self.failures -= 1
            raise DataplaneError("table is on fire")
        return await super().apply(batch)


async def test_a_refused_batch_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component, "FIRST_RETRY", 0.001)
    async with world(tmp_path, monkeypatch, "cali1", recorder=Failing(2)) as one:
        await one.reached(await one.apply(READY, TIER, NODE, pod("web", "10.0.0.1", "cali1", "web")))
        assert one.recorder.state.workload_endpoints
        assert one.felix().ready


async def test_a_dataplane_that_keeps_refusing_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component, "FIRST_RETRY", 0.001)
    async with world(tmp_path, monkeypatch) as one:
        await one.apply(READY)
        context = attrs.evolve(one.context, make_dataplane=lambda: Failing(10_000))
        with pytest.raises(DataplaneError, match="on fire"):
            await component.Felix().run(context)


async def test_a_new_life_takes_away_the_routes_that_only_the_last_one_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink()
    sink.routes["10.0.0.1/32"] = Route("10.0.0.1/32", device="cali1")
    async with world(tmp_path, monkeypatch, sink=sink) as one:
        await one.until(lambda: bool(sink.adopted))
        assert not sink.pruned
        await one.reached(await one.apply(READY, TIER, NODE))
        assert not sink.routes
        assert not sink.adopted


async def test_rejected_objects_are_named_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, monkeypatch, "cali1") as one:
        endpoint = pod("web", "10.0.0.1", "cali1", "web")
        endpoint["spec"]["allowSpoofedSourcePrefixes"] = ["8.8.8.0/24"]
        await one.reached(await one.apply(READY, TIER, NODE, endpoint))
        (name,) = one.felix().rejected
        assert name.startswith("WorkloadEndpoint(default/web")
        assert not one.recorder.state.workload_endpoints
        await one.reached(await one.apply(document("FelixConfiguration", "default", workloadSourceSpoofing="Any")))
        assert not one.felix().rejected
        assert one.recorder.state.workload_endpoints


async def test_a_failing_hook_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("third party")

    async with world(tmp_path, monkeypatch, "cali1") as one:
        one.hooks.endpoint_status = fail  # type: ignore[method-assign]
        await one.reached(await one.apply(READY, TIER, NODE, pod("web", "10.0.0.1", "cali1", "web")))
        assert "10.0.0.1/32" in one.sink.routes


async def test_the_route_sink_is_told_whose_the_routes_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, monkeypatch) as one:
        await one.reached(await one.apply(READY, TIER, NODE))
        assert one.sink.ownership == RouteOwnership()
        spec = {"removeExternalRoutes": False, "deviceRouteProtocol": 77, "routeRefreshInterval": "45s"}
        await one.reached(
            await one.apply(document("FelixConfiguration", "default", **spec, interfacePrefix="tap,cali"))
        )
        assert one.sink.ownership == RouteOwnership(("tap", "cali"), 77, False, 45.0)
        await one.reached(await one.apply(document("FelixConfiguration", "default", deviceRouteProtocol=4)))
        assert one.sink.ownership.protocol == 80, "what the administrator's routes carry is not ours alone"


async def test_refused_routes_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, monkeypatch, "cali1") as one:
        one.sink.refusals = {"10.0.0.1/32": "Invalid argument"}
        await one.reached(await one.apply(READY, TIER, NODE, pod("web", "10.0.0.1", "cali1", "web")))
        assert one.felix().rejected == {"route to 10.0.0.1/32": "Invalid argument"}
        assert one.felix().ready
        pool = document("IPPool", "p", cidr="10.0.0.0/16", vxlanMode="CrossSubnet", blockSize=26)
        await one.apply(pool, document("Node", "near", bgp={"ipv4Address": "172.30.0.2/24"}))
        one.sink.refusals = {"10.0.2.0/26": "Network is unreachable"}
        await one.reached(await put_block(one, "10.0.2.0-26", "near"))
        assert not one.felix().ready
        assert "route to 10.0.2.0/26: Network is unreachable" in one.felix().reason
