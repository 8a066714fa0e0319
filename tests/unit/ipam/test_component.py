"""The node's side of IPAM: tunnel addresses follow the pools, and what crashes left is put right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from calico_node.datastores.client import Client
from calico_node.datastores.names import resource_key
from calico_node.datastores.readiness import READY_KEY
from calico_node.errors import ResourceDoesNotExist
from calico_node.ipam import IPAM, AssignRequest, KVStore, Release
from calico_node.ipam.documents import Affinity, AffinityKey, encode
from calico_node.ipam.store import key_path
from calico_node.plugins.ipam import component
from calico_node.resources import from_dict
from tests.unit.ipam.memory import MemoryEngine


def pool(name: str, cidr: str, **spec: Any) -> Any:
    block_size = 122 if ":" in cidr else 29
    document = {"kind": "IPPool", "metadata": {"name": name}, "spec": {"cidr": cidr, "blockSize": block_size, **spec}}
    return from_dict({"apiVersion": "projectcalico.org/v3", **document})


def node(name: str, **labels: str) -> Any:
    spec = {"bgp": {"ipv4Address": "172.30.0.1/24"}}
    metadata = {"name": name, "labels": labels}
    return from_dict({"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": metadata, "spec": spec})


class Cluster:
    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.client = Client(self.engine)
        self.ipam = IPAM(KVStore(self.client), backoff=0.0)
        self.health: dict[str, Any] = {}

    def context(self) -> Any:
        reporter = SimpleNamespace(report=lambda **what: self.health.update({"ready": True, **what}))
        return SimpleNamespace(
            client=self.client,
            settings=SimpleNamespace(node_name="node-a"),
            health=SimpleNamespace(reporter=lambda name: reporter),
        )

    async def node(self) -> Any:
        return await self.client.get("Node", "node-a")

    async def until(self, holds: Callable[[Any], Any]) -> Any:
        """The Node, once ``holds(node)``."""
        for _ in range(2000):
            found = await self.node()
            if holds(found) and self.health.get("ready"):
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(f"not reached: {found.spec}, health {self.health}")

    async def change(self, name: str, **spec: Any) -> None:
        found = await self.client.get("IPPool", name)
        for member, value in spec.items():
            setattr(found.spec, member, value)
        await self.client.update(found)


@asynccontextmanager
async def running(*pools: Any, prepare: Callable[[Cluster], Any] | None = None) -> AsyncIterator[Cluster]:
    cluster = Cluster()
    await cluster.client.ensure_initialized()
    await cluster.client.create(node("node-a", rack="r1"))
    for item in pools:
        await cluster.client.create(item)
    if prepare is not None:
        await prepare(cluster)
    task = asyncio.create_task(component.IPAM().run(cluster.context()))
    try:
        yield cluster
    finally:
        assert not task.done(), task.exception()
        task.cancel()


def test_no_tunnel_no_address() -> None:
    async def scenario() -> None:
        async with running(pool("p", "10.65.0.0/24")) as cluster:
            found = await cluster.until(lambda _: cluster.health.get("revision"))
            assert found.spec.ipv4_vxlan_tunnel_addr is None
            assert cluster.health["reason"] == "no tunnel addresses needed"
            revision = await cluster.engine.put("/calico/something/else", b"{}")
            await cluster.until(lambda _: cluster.health.get("revision", 0) >= revision)

    asyncio.run(scenario())


def test_tunnel_addresses_come_move_and_go() -> None:
    async def scenario() -> None:
        pools = (pool("p", "10.65.0.0/24", vxlanMode="CrossSubnet"), pool("q", "10.66.0.0/24", ipipMode="Always"))
        async with running(*pools, pool("s", "fd00::/64", vxlanMode="Always")) as cluster:
            found = await cluster.until(lambda n: n.spec.ipv6_vxlan_tunnel_addr)
            vxlan, ipip = found.spec.ipv4_vxlan_tunnel_addr, found.spec.bgp.ipv4_ipip_tunnel_addr
            assert vxlan.startswith("10.65.0.")
            assert ipip.startswith("10.66.0.")
            owner = await cluster.ipam.assignment(vxlan)
            assert owner is not None
            assert owner.handle == "vxlan-tunnel-addr-node-a"
            assert owner.secondary == {"node": "node-a", "type": "vxlanTunnelAddress"}

            await cluster.change("q", ipip_mode="Never", vxlan_mode="Always")
            found = await cluster.until(lambda n: n.spec.bgp.ipv4_ipip_tunnel_addr is None)
            assert found.spec.ipv4_vxlan_tunnel_addr == vxlan  # still within a pool that needs it
            assert await cluster.ipam.assignment(ipip) is None

            await cluster.change("p", vxlan_mode="Never")
            found = await cluster.until(lambda n: (n.spec.ipv4_vxlan_tunnel_addr or "").startswith("10.66."))
            assert await cluster.ipam.assignment(vxlan) is None
            await cluster.change("q", node_selector="rack == 'other'")
            await cluster.until(lambda n: n.spec.ipv4_vxlan_tunnel_addr is None)

            await cluster.client.delete("IPPool", "s")
            await cluster.until(lambda n: n.spec.ipv6_vxlan_tunnel_addr is None)

    asyncio.run(scenario())


def test_malformed_objects_do_not_hinder_the_rest() -> None:
    async def prepare(cluster: Cluster) -> None:
        bad = b'{"metadata":{"name":"node.node-a"},"spec":{"iptablesRefreshInterval":"banana"}}'
        await cluster.engine.put(resource_key("FelixConfiguration", "node.node-a"), bad)
        await cluster.engine.put(resource_key("IPPool", "bad"), b'{"metadata":{"name":"bad"},"spec":{"cidr":"x"}}')
        await cluster.engine.put(resource_key("IPPool", "worse"), b"null")
        for text in ("zzz", "10.65.0.0-99", "10.65.0.8-29"):
            await cluster.engine.put(f"/calico/ipam/v2/host/node-a/ipv4/block/{text}", b"nonsense")
        for text in ("10.65.0.8-29", "garbage", "10.65.0.0-99"):
            await cluster.engine.put(f"/calico/ipam/v2/assignment/ipv4/block/{text}", b'{"cidr":"10.65.0.8/29"}')

    async def scenario() -> None:
        pools = (pool("p", "10.65.0.0/24", vxlanMode="CrossSubnet"),)
        async with running(*pools, prepare=prepare) as cluster:
            found = await cluster.until(lambda n: n.spec.ipv4_vxlan_tunnel_addr)
            assert found.spec.ipv4_vxlan_tunnel_addr.startswith("10.65.0.")

    asyncio.run(scenario())


def test_what_is_left_out_is_named_once_and_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    keys = {
        "IPPool(bad)": (resource_key("IPPool", "bad"), b'{"metadata":{"name":"bad"},"spec":7}'),
        "IPPool(huge)": (
            resource_key("IPPool", "huge"),
            b'{"metadata":{"name":"huge"},"spec":{"cidr":"10.9.0.0/29","blockSize":26}}',
        ),
        "IPPool(who)": (
            resource_key("IPPool", "who"),
            b'{"metadata":{"name":"who"},"spec":{"cidr":"10.8.0.0/24","nodeSelector":"a =="}}',
        ),
        "BlockAffinity(node-a, 10.77.0.8/29)": (key_path(AffinityKey("node-a", "10.77.0.8/29")), b"nonsense"),
    }

    async def prepare(cluster: Cluster) -> None:
        for key, value in keys.values():
            await cluster.engine.put(key, value)

    async def scenario() -> None:
        async with running(pool("p", "10.65.0.0/24", vxlanMode="CrossSubnet"), prepare=prepare) as cluster:
            await cluster.until(lambda n: n.spec.ipv4_vxlan_tunnel_addr)
            assert cluster.health["rejected"].keys() == keys.keys()
            for mode in ("Never", "Always"):  # more rounds say nothing more
                await cluster.change("p", vxlan_mode=mode)
                await cluster.until(lambda n, wanted=mode == "Always": bool(n.spec.ipv4_vxlan_tunnel_addr) is wanted)
            for key, _ in keys.values():
                await cluster.engine.delete(key)
            await cluster.change("p", vxlan_mode="Never")
            await cluster.until(lambda n: not n.spec.ipv4_vxlan_tunnel_addr)
            assert cluster.health["rejected"] == {}

    with capture_logs() as logs:
        asyncio.run(scenario())
    said = [entry["name"] for entry in logs if entry["log_level"] == "warning" and "name" in entry]
    said += ["IPPool(bad)" for record in caplog.records if resource_key("IPPool", "bad") in record.getMessage()]
    assert sorted(said) == sorted(keys)


def test_a_restart_keeps_the_address() -> None:
    async def prepare(cluster: Cluster) -> None:
        found = await cluster.node()
        request = AssignRequest(
            "node-a",
            1,
            handle_id="vxlan-tunnel-addr-node-a",
            attributes={"node": "node-a", "type": "vxlanTunnelAddress"},
        )
        found.spec.ipv4_vxlan_tunnel_addr = (await cluster.ipam.auto_assign(request)).addresses[0].partition("/")[0]
        await cluster.client.update(found)

    async def scenario() -> None:
        async with running(pool("p", "10.65.0.0/24", vxlanMode="Always"), prepare=prepare) as cluster:
            before = (await cluster.node()).spec.ipv4_vxlan_tunnel_addr
            found = await cluster.until(lambda _: cluster.health.get("revision"))
            assert found.spec.ipv4_vxlan_tunnel_addr == before
            assert await cluster.ipam.ips_by_handle("vxlan-tunnel-addr-node-a") == [before]

    asyncio.run(scenario())


def test_an_address_of_somebody_else_is_left_to_them() -> None:
    async def prepare(cluster: Cluster) -> None:
        await cluster.ipam.assign_ip("10.65.0.9", hostname="node-a", handle_id="net.pod")
        found = await cluster.node()
        found.spec.ipv4_vxlan_tunnel_addr = "10.65.0.9"
        await cluster.client.update(found)

    async def scenario() -> None:
        async with running(pool("p", "10.65.0.0/24", vxlanMode="Always"), prepare=prepare) as cluster:
            await cluster.until(lambda n: n.spec.ipv4_vxlan_tunnel_addr != "10.65.0.9")
            owner = await cluster.ipam.assignment("10.65.0.9")
            assert owner is not None
            assert owner.handle == "net.pod"

    asyncio.run(scenario())


def test_an_address_without_a_trace_gets_one() -> None:
    """Assigned by an ancient release, with neither handle nor attributes: the same address, now with both."""

    async def prepare(cluster: Cluster) -> None:
        key = "/calico/ipam/v2/assignment/ipv4/block/10.65.0.8-29"
        await cluster.ipam.assign_ip("10.65.0.9", hostname="node-a")
        kv, _ = await cluster.engine.get(key)
        assert kv is not None
        bare = kv.value.replace(b'{"secondary":{"node":"node-a"}}', b"{}")
        assert bare != kv.value
        await cluster.engine.put(key, bare)
        found = await cluster.node()
        found.spec.ipv4_vxlan_tunnel_addr = "10.65.0.9"
        await cluster.client.update(found)

    async def scenario() -> None:
        async with running(pool("p", "10.65.0.0/24", vxlanMode="Always"), prepare=prepare) as cluster:
            found = await cluster.until(lambda _: cluster.health.get("revision"))
            assert found.spec.ipv4_vxlan_tunnel_addr == "10.65.0.9"
            assert await cluster.ipam.ips_by_handle("vxlan-tunnel-addr-node-a") == ["10.65.0.9"]

    asyncio.run(scenario())


def test_a_full_pool_is_said_and_tried_again() -> None:
    async def prepare(cluster: Cluster) -> None:
        for last in range(8):
            await cluster.ipam.assign_ip(f"10.65.0.{last}", hostname="node-b", handle_id=f"pod{last}")

    async def scenario() -> None:
        async with running(pool("p", "10.65.0.0/29", vxlanMode="Always"), prepare=prepare) as cluster:
            for _ in range(200):
                if "no vxlanTunnelAddress for node node-a" in cluster.health.get("reason", ""):
                    break
                await asyncio.sleep(0.01)
            assert cluster.health["ready"] is False
            assert "p(10.65.0.0/29)" in cluster.health["reason"]
            await cluster.ipam.release_ips([Release("10.65.0.3")])
            found = await cluster.until(lambda n: n.spec.ipv4_vxlan_tunnel_addr)
            assert found.spec.ipv4_vxlan_tunnel_addr == "10.65.0.3"

    asyncio.run(scenario())


def test_claims_left_half_done_are_finished_at_start() -> None:
    key = AffinityKey("node-a", "10.65.0.0/29")

    async def prepare(cluster: Cluster) -> None:
        await cluster.engine.put(key_path(key), encode(Affinity("pending")))

    async def scenario() -> None:
        async with running(pool("p", "10.65.0.0/24"), prepare=prepare) as cluster:
            await cluster.until(lambda _: cluster.health.get("revision"))
            assert key_path(key) not in cluster.engine.data

    asyncio.run(scenario())


def test_deleting_a_node_or_a_pool_gives_everything_back() -> None:
    async def scenario() -> None:
        async with running(pool("p", "10.65.0.0/24", vxlanMode="Always")) as cluster:
            await cluster.until(lambda n: n.spec.ipv4_vxlan_tunnel_addr)
            await cluster.client.create(node("node-b"))
            await cluster.ipam.auto_assign(AssignRequest("node-b", 1, handle_id="vxlan-tunnel-addr-node-b"))
            await cluster.client.delete("Node", "node-b")
            assert not [key for key in cluster.engine.data if "node-b" in key]
            await cluster.client.delete("IPPool", "p")
            await cluster.until(lambda n: n.spec.ipv4_vxlan_tunnel_addr is None)
            for _ in range(100):
                if not [key for key in cluster.engine.data if key.startswith("/calico/ipam/v2/")]:
                    break
                await asyncio.sleep(0.01)
            assert not [key for key in cluster.engine.data if key.startswith("/calico/ipam/v2/")]

    asyncio.run(scenario())


def test_a_node_that_is_not_registered_yet_is_waited_for() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        await cluster.client.ensure_initialized()
        await cluster.client.create(pool("p", "10.65.0.0/24", vxlanMode="Always"))
        task = asyncio.create_task(component.IPAM().run(cluster.context()))
        await asyncio.sleep(0.1)
        assert cluster.health["reason"] == f"waiting: {ResourceDoesNotExist('Node(node-a)')}"
        await cluster.client.create(node("node-a"))
        await cluster.until(lambda n: n.spec.ipv4_vxlan_tunnel_addr)
        task.cancel()

    asyncio.run(scenario())


def test_a_locked_datastore_is_left_as_it_is() -> None:
    """The flag false, null, or ClusterInformation gone: nothing is assigned or released until it is true."""

    async def scenario() -> None:
        async with running(pool("p", "10.65.0.0/24")) as cluster:
            await cluster.until(lambda _: "no tunnel addresses" in cluster.health.get("reason", ""))
            information = await cluster.client.get("ClusterInformation", "default")
            for value in (False, None):
                information.spec.datastore_ready = value
                information = await cluster.client.update(information)
                await cluster.until(lambda _: "datastoreReady" in cluster.health.get("reason", ""))
                await cluster.change("p", vxlan_mode="Always")
                await asyncio.sleep(0.1)
                assert (await cluster.node()).spec.ipv4_vxlan_tunnel_addr is None
                information.spec.datastore_ready = True
                information = await cluster.client.update(information)
                await cluster.until(lambda n: n.spec.ipv4_vxlan_tunnel_addr)
                await cluster.change("p", vxlan_mode="Never")
                await cluster.until(lambda n: not n.spec.ipv4_vxlan_tunnel_addr)
            stored, _ = await cluster.engine.delete(READY_KEY)
            await cluster.until(lambda _: "datastoreReady" in cluster.health.get("reason", ""))
            await cluster.change("p", vxlan_mode="Always")
            await asyncio.sleep(0.1)
            assert (await cluster.node()).spec.ipv4_vxlan_tunnel_addr is None
            assert stored is not None
            await cluster.engine.put(READY_KEY, stored.value)
            await cluster.until(lambda n: n.spec.ipv4_vxlan_tunnel_addr)

    asyncio.run(scenario())
