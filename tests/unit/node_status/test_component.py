"""The component with a datastore file and speakers that are given to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from calico_node.datastores import open_client
from calico_node.datastores.client import Client, write_resource
from calico_node.datastores.names import resource_key
from calico_node.datastores.readiness import WAITING
from calico_node.errors import DatastoreError
from calico_node.hookspecs import AgentContext, BGPRoute, BGPSession, BGPSpeaker
from calico_node.plugins.node_status import component as node_status
from calico_node.plugins.node_status.component import NodeStatus
from calico_node.resources import from_dict, to_dict
from calico_node.settings import Settings

ALL = ["Agent", "BGP", "Routes"]
BOOT = datetime(2026, 8, 22, 9, 0, 0, tzinfo=UTC)


class Hooks:
    """Answers ``bgp_speakers`` with one IPv4 speaker, whose session is in ``state``; None with ``state`` ""."""

    state = "Established"
    routes = 1
    asked = 0

    def bgp_speakers(self) -> Mapping[int, BGPSpeaker] | None:
        self.asked += 1
        if not self.state:
            return None
        sessions = (BGPSession("10.0.0.2", "mesh", self.state, BOOT),)

        def routes() -> Iterator[BGPRoute]:
            for number in range(self.routes):
                yield BGPRoute(f"10.{number >> 8}.{number & 255}.0/24", "mesh", True, "eth0", "10.0.0.2", "10.0.0.2")

        return {4: BGPSpeaker(True, "v1", "10.0.0.1", BOOT, BOOT, sessions, routes)}


class Reporter:
    """Health, and its only reporter."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}

    def reporter(self, name: str, *, timeout: float = 0.0) -> Reporter:
        return self

    def report(self, **state: Any) -> None:
        self.last = state


@attrs.define
class World:
    context: AgentContext
    client: Client
    hooks: Hooks
    health: Reporter

    async def apply(self, name: str = "s", *, node: str = "a", period: int = 1, classes: Any = ALL) -> None:
        spec = {"node": node, "classes": list(classes), "updatePeriodSeconds": period}
        await self.client.apply(resource("CalicoNodeStatus", name, spec))

    async def status(self, name: str = "s") -> dict[str, Any]:
        found: dict[str, Any] = to_dict(await self.client.get("CalicoNodeStatus", name))["status"]
        return found

    async def revision(self, name: str = "s") -> str:
        return str((await self.client.get("CalicoNodeStatus", name)).metadata.resource_version)

    async def reported(self, name: str = "s") -> dict[str, Any]:
        return await eventually(lambda: self._filled(name))

    async def _filled(self, name: str) -> dict[str, Any] | None:
        status = await self.status(name)
        return status if status["lastUpdated"] else None

    async def asked(self, more: int) -> None:
        """Until the speakers were asked ``more`` times again."""
        end = self.hooks.asked + more

        async def reached() -> bool:
            return self.hooks.asked >= end

        await eventually(reached)


def resource(kind: str, name: str, spec: dict[str, Any]) -> Any:
    return from_dict({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})


async def eventually(condition: Any) -> Any:
    async with asyncio.timeout(10):
        while not (found := await condition()):  # noqa: ASYNC110 (what is asked is not an event)
            await asyncio.sleep(0.02)
    return found


@contextlib.asynccontextmanager
async def world(path: Path, *, ready: bool = True) -> AsyncIterator[World]:
    settings = Settings.load(
        {
            "NODENAME": "a",
            "CALICO_STATE_DIR": str(path),
            "CALICO_RUN_DIR": str(path),
            "CALICO_DATASTORE_PATH": str(path / "ds.db"),
        }
    )
    hooks, health = Hooks(), Reporter()
    async with open_client(settings) as client:
        await client.ensure_initialized()
        await lock(client, not ready)
        context = AgentContext(
            settings=settings,
            client=client,
            health=health,
            hooks=hooks,
            route_sink=None,  # type: ignore[arg-type]
            pod_wiring=None,  # type: ignore[arg-type]
            make_dataplane=None,  # type: ignore[arg-type]
        )
        task = asyncio.create_task(NodeStatus().run(context))
        try:
            yield World(context, client, hooks, health)
            assert not task.done(), task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def lock(client: Client, locked: bool) -> None:
    information = await client.get("ClusterInformation", "default")
    information.spec.datastore_ready = not locked
    await client.update(information)


def test_an_object_of_this_node_is_filled_and_others_are_left_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as w:
            await w.apply("other", node="b")
            await w.apply()
            status = await w.reported()
            assert status["agent"]["birdV4"]["state"] == "Ready"
            assert status["agent"]["birdV6"]["state"] == "NotReady"
            assert status["bgp"]["numberEstablishedV4"] == 1
            assert [route["destination"] for route in status["routes"]["routesV4"]] == ["10.0.0.0/24"]
            assert (await w.status("other"))["lastUpdated"] is None
            assert w.health.last["extra"] == {"objects": ["s"]}

    asyncio.run(work())


def test_every_period_is_looked_at_and_only_a_change_written(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as w:
            await w.apply()
            await w.reported()
            revision = await w.revision()
            await w.asked(1)
            await asyncio.sleep(0.1)
            assert await w.revision() == revision
            w.hooks.state = "Active"

            async def changed() -> bool:
                return (await w.status())["bgp"]["numberEstablishedV4"] == 0

            await eventually(changed)
            assert (await w.status())["bgp"]["peersV4"][0]["state"] == "Active"

    asyncio.run(work())


def test_period_0_reports_once_for_each_spec(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as w:
            await w.apply(period=0, classes=["Agent"])
            status = await w.reported()
            assert "peersV4" not in status["bgp"]
            asked = w.hooks.asked
            await asyncio.sleep(1.3)
            assert w.hooks.asked == asked
            await w.apply(period=0, classes=["BGP"])

            async def has_peers() -> bool:
                return "peersV4" in (await w.status())["bgp"]

            await eventually(has_peers)

    asyncio.run(work())


def test_an_object_that_is_emptied_or_made_anew_is_filled_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as w:
            for _ in range(2):
                await w.apply(period=0)
                await w.reported()
            await w.client.delete("CalicoNodeStatus", "s")
            await w.apply(period=0)
            await w.reported()

    asyncio.run(work())


@pytest.mark.parametrize("to_other_node", [False, True])
def test_nothing_is_written_of_an_object_that_is_gone(tmp_path: Path, to_other_node: bool) -> None:
    async def work() -> None:
        async with world(tmp_path) as w:
            await w.apply()
            await w.reported()
            if to_other_node:
                await w.apply(node="b")
            else:
                await w.client.delete("CalicoNodeStatus", "s")

            async def left() -> bool:
                return w.health.last["extra"] == {"objects": []}

            await eventually(left)
            asked = w.hooks.asked
            await asyncio.sleep(1.3)
            assert w.hooks.asked == asked
            names = [item.metadata.name for item in (await w.client.list("CalicoNodeStatus")).items]
            assert names == (["s"] if to_other_node else [])

    asyncio.run(work())


def test_a_locked_datastore_is_not_written_to(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path, ready=False) as w:
            await w.apply()

            async def waits() -> bool:
                return w.health.last.get("reason") == WAITING and w.health.last["extra"] == {"objects": ["s"]}

            await eventually(waits)
            assert w.health.last["ready"]
            await asyncio.sleep(0.3)
            assert (await w.status())["lastUpdated"] is None
            await lock(w.client, False)
            await w.reported()
            await lock(w.client, True)
            await eventually(waits)
            revision = await w.revision()
            w.hooks.state = "Active"
            await asyncio.sleep(1.3)
            assert await w.revision() == revision

    asyncio.run(work())


def test_an_object_without_a_period_is_named_and_one_with_takes_its_place(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as w:
            spec = {"node": "a", "classes": list(ALL)}  # as another's client may have stored it
            stored = resource("CalicoNodeStatus", "s", spec)
            stored.metadata.uid, stored.metadata.creation_timestamp = "1f8e", "2026-08-22T09:00:00Z"
            await w.client.kv.put(resource_key("CalicoNodeStatus", "s"), write_resource(stored))

            async def named() -> bool:
                return "updatePeriodSeconds" in w.health.last.get("rejected", {}).get("CalicoNodeStatus(s)", "")

            await eventually(named)
            await w.apply()
            await w.reported()
            assert w.health.last["rejected"] == {}

    asyncio.run(work())


def test_a_datastore_that_refuses_is_tried_again_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_status, "FIRST_RETRY", 0.01)
    warned: list[str] = []
    monkeypatch.setattr(node_status.log, "warning", lambda text, **_: warned.append(text))

    async def work() -> None:
        async with world(tmp_path) as w:
            kv = w.client.kv
            txn, refused = kv.txn, 0

            async def refuse(compares: Any, then: Any, otherwise: Any = ()) -> Any:
                nonlocal refused
                if refused < 3 and "caliconodestatuses" in then[0].key and b'"lastUpdated":"' in then[0].value:
                    refused += 1
                    raise DatastoreError("away")
                return await txn(compares, then, otherwise)

            monkeypatch.setattr(type(kv), "txn", lambda _, *arguments: refuse(*arguments))
            await w.apply(period=0)
            await w.reported()
            assert refused == 3

    asyncio.run(work())
    assert len(warned) == 1


def test_a_change_by_others_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that comes between our reading and our writing survives."""

    async def work() -> None:
        async with world(tmp_path) as w:
            kv = w.client.kv
            txn, between = kv.txn, False

            async def interfere(compares: Any, then: Any, otherwise: Any = ()) -> Any:
                nonlocal between
                if not between and "caliconodestatuses" in then[0].key and b'"lastUpdated":"' in then[0].value:
                    between = True
                    labelled = await w.client.get("CalicoNodeStatus", "s")
                    labelled.metadata.labels["who"] = "me"
                    await w.client.update(labelled)
                return await txn(compares, then, otherwise)

            monkeypatch.setattr(type(kv), "txn", lambda _, *arguments: interfere(*arguments))
            await w.apply(period=0)
            await w.reported()
            assert (await w.client.get("CalicoNodeStatus", "s")).metadata.labels == {"who": "me"}

    asyncio.run(work())


def test_a_large_table_is_written_whole(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as w:
            w.hooks.routes = 5000
            await w.apply(period=0, classes=["Routes"])
            assert len((await w.reported())["routes"]["routesV4"]) == 5000

    asyncio.run(work())
