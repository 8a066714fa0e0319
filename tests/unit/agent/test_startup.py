"""How a node chooses its address and the default pool (``node/pkg/lifecycle/startup``)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calico_node.datastores.client import Client
from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.names import resource_key
from calico_node.errors import SettingsError
from calico_node.health import HealthRegistry
from calico_node.resources import from_dict
from calico_node.settings import Settings
from calico_node.startup import (
    HostAddress,
    choose_address,
    default_pool_cidr,
    detect_address,
    ensure_configurations,
    parse_as_number,
    poll_interval,
    prepare_node,
    register_node,
    watch_own_node,
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


ADDRESSES = [
    HostAddress("169.254.9.9/16", "eth9", 9),
    HostAddress("10.244.0.1/32", "cali123", 8),
    HostAddress("172.17.0.1/16", "docker0", 7),
    HostAddress("192.168.7.5/24", "eth1", 3),
    HostAddress("10.0.0.5/24", "eth0", 2),
    HostAddress("fd00::5/64", "eth0", 2),
    HostAddress("127.0.0.1/8", "lo", 1),
]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("", "192.168.7.5/24"),
        ("first-found", "192.168.7.5/24"),
        ("interface=eth0", "10.0.0.5/24"),
        ("interface=docker.*", "172.17.0.1/16"),
        ("skip-interface=eth1", "10.0.0.5/24"),
        ("cidr=10.0.0.0/8", "10.244.0.1/32"),
        ("cidr=10.0.0.0/16,192.168.0.0/16", "192.168.7.5/24"),
    ],
)
def test_detection_methods(method: str, expected: str) -> None:
    assert detect_address(4, method, ADDRESSES) == expected


@pytest.mark.parametrize("method", ["interface=wlan0", "cidr=10.9.0.0/16", "fastest", "interface=(", "cidr=x"])
def test_a_method_that_finds_nothing_or_is_unknown_is_named(method: str) -> None:
    with pytest.raises(SettingsError) as caught:
        detect_address(4, method, ADDRESSES)
    assert method in str(caught.value)


@pytest.mark.parametrize(
    ("text", "present", "expected"),
    [
        ("", "", "192.168.7.5/24"),
        ("", "10.9.9.9/24", "10.9.9.9/24"),
        ("autodetect", "10.9.9.9/24", "192.168.7.5/24"),
        ("none", "10.9.9.9/24", "10.9.9.9/24"),
        ("none", "", None),
        ("10.0.0.5", "", "10.0.0.5/24"),
        ("10.0.0.6", "", "10.0.0.6/32"),
        ("10.0.0.6/20", "10.9.9.9/24", "10.0.0.6/20"),
    ],
)
def test_the_ip_variable(text: str, present: str, expected: str | None) -> None:
    assert choose_address(4, text, present, "", ADDRESSES) == expected


def test_ipv6_is_not_detected_unless_asked() -> None:
    assert choose_address(6, "", "", "", ADDRESSES) is None
    assert choose_address(6, "autodetect", "", "", ADDRESSES) == "fd00::5/64"


@pytest.mark.parametrize("text", ["10.0.0", "fd00::1", "eth0"])
def test_a_bad_address_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="IP = "):
        choose_address(4, text, "", "", ADDRESSES)


def test_as_numbers() -> None:
    assert parse_as_number("64512") == 64512
    assert parse_as_number("1.10") == 65546
    for bad in ("x", "1.70000", "4294967296", "-1", "1.2.3"):
        with pytest.raises(SettingsError, match="AS = "):
            parse_as_number(bad)


def test_the_default_pool_avoids_the_hosts_own_addresses() -> None:
    assert default_pool_cidr({}, ADDRESSES[-3:]) == "192.168.0.0/16"
    assert default_pool_cidr({}, ADDRESSES) == "172.16.0.0/16"
    assert default_pool_cidr({"CALICO_IPV4POOL_CIDR": "10.1.0.0/16"}, ADDRESSES) == "10.1.0.0/16"


def test_the_poll_interval_is_a_go_duration() -> None:
    assert poll_interval({}) == 60
    assert poll_interval({"AUTODETECT_POLL_INTERVAL": "1m30s"}) == 90
    assert poll_interval({"AUTODETECT_POLL_INTERVAL": "500ms"}) == 0.5
    for bad in ("60", "1x", "s", "0s", "0h0m"):
        with pytest.raises(SettingsError, match="AUTODETECT_POLL_INTERVAL"):
            poll_interval({"AUTODETECT_POLL_INTERVAL": bad})


@pytest.mark.anyio
async def test_configurations_that_cannot_be_read_do_not_hinder_the_start(tmp_path: Path) -> None:
    engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
    client = Client(engine)
    bad = b'{"metadata":{"name":"node.n1"},"spec":{"iptablesRefreshInterval":"banana"}}'
    for kind, name in (
        ("FelixConfiguration", "default"), ("FelixConfiguration", "node.n1"), ("BGPConfiguration", "default"),
    ):  # fmt: skip
        await engine.put(resource_key(kind, name), bad)
    await ensure_configurations(client, "n1")
    for kind, name in (("FelixConfiguration", "node.n1"), ("BGPConfiguration", "default")):
        stored, _ = await engine.get(resource_key(kind, name))
        assert stored is not None
        assert stored.value == bad
    await engine.close()


@pytest.mark.anyio
async def test_a_malformed_own_node_is_waited_for(tmp_path: Path) -> None:
    engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
    client, registry = Client(engine), HealthRegistry()
    await engine.put(resource_key("Node", "n1"), b"null")

    class Sink:
        async def watch(self) -> AsyncIterator[Any]:
            yield SimpleNamespace(addresses=[])

    settings = Settings.load({"NODENAME": "n1", "IP": "10.0.0.5/24", "CALICO_STATE_DIR": str(tmp_path)})
    context: Any = SimpleNamespace(settings=settings, client=client, health=registry, route_sink=Sink())
    starting = asyncio.create_task(prepare_node(context))
    async with asyncio.timeout(10):
        while not registry.states() or "not a JSON object" not in registry.states()[0].reason:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await engine.delete(resource_key("Node", "n1"))
        await starting
    assert (await client.get("Node", "n1")).spec.bgp.ipv4_address == "10.0.0.5/24"
    await engine.close()


@pytest.mark.anyio
async def test_a_datastore_made_anew_gets_this_node_again_but_a_deleted_node_stays_away(tmp_path: Path) -> None:
    engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
    client, registry = Client(engine), HealthRegistry()

    class Sink:
        async def watch(self) -> AsyncIterator[Any]:
            yield SimpleNamespace(addresses=[])

    settings = Settings.load(
        {
            "NODENAME": "n1", "IP": "10.0.0.5/24", "CALICO_STATE_DIR": str(tmp_path / "not" / "there"),
            "AUTODETECT_POLL_INTERVAL": "20ms",
        }
    )  # fmt: skip
    context: Any = SimpleNamespace(settings=settings, client=client, health=registry, route_sink=Sink())
    await prepare_node(context)
    watching = asyncio.create_task(watch_own_node(context))

    async def until(reason: str) -> None:
        async with asyncio.timeout(10):
            while not any(reason in state.reason for state in registry.states()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    await until("address 10.0.0.5/24")
    await client.delete("Node", "n1")
    await until("is not in the datastore")
    await prepare_node(context)
    await until("address 10.0.0.5/24")
    for stored in (await engine.range("/calico/")).kvs:
        await engine.delete(stored.key)
    await until("is not in the datastore")
    await client.ensure_initialized()  # another host
    await until("address 10.0.0.5/24")
    assert (tmp_path / "not" / "there" / "nodename").read_text() == "n1"
    assert not watching.done()
    watching.cancel()
    await engine.close()


@pytest.mark.anyio
async def test_members_of_a_newer_release_outlive_the_start(tmp_path: Path) -> None:
    engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
    client = Client(engine)
    await client.ensure_initialized()
    names = (("ClusterInformation", "default"), ("FelixConfiguration", "default"), ("Node", "n1"))
    for kind, name in names:
        if kind != "ClusterInformation":
            head = {"kind": kind, "apiVersion": "projectcalico.org/v3"}
            await client.create(from_dict({**head, "metadata": {"name": name}, "spec": {}}))
        stored, _ = await engine.get(resource_key(kind, name))
        assert stored is not None
        data = json.loads(stored.value)
        data["spec"]["fromTheFuture"] = data["metadata"]["fromTheFuture"] = 1
        await engine.put(resource_key(kind, name), json.dumps(data).encode())
    await client.ensure_initialized("v9.9.9", "k8s")
    await ensure_configurations(client, "n1")
    await register_node(client, "n1", {"IP": "10.0.0.5/24"}, [])
    changed = []
    for kind, name in names:
        stored, _ = await engine.get(resource_key(kind, name))
        assert stored is not None
        data = json.loads(stored.value)
        assert (data["spec"]["fromTheFuture"], data["metadata"]["fromTheFuture"]) == (1, 1)
        changed.append(data["spec"])
    assert changed[0]["calicoVersion"] == "v9.9.9"
    assert changed[1]["reportingInterval"] == "0s"
    assert changed[2]["bgp"] == {"ipv4Address": "10.0.0.5/24"}
    await engine.close()
