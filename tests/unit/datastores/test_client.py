"""The v3 client: what is stored, what is refused, and how conflicts end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from calico_node.datastores import open_client
from calico_node.datastores.client import Client, ResourceEventType
from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.kv import Put
from calico_node.datastores.names import (
    ResourceName,
    parse_resource_key,
    resource_key,
)
from calico_node.datastores.paging import pages
from calico_node.errors import (
    Compacted,
    DatastoreError,
    OperationNotSupported,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    SettingsError,
    UpdateConflict,
    ValidationError,
)
from calico_node.resources import encode, from_dict
from calico_node.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
    client = Client(engine)
    await client.ensure_initialized()
    yield client
    await engine.close()


def resource(kind: str, name: str, spec: dict[str, Any], namespace: str = "", **metadata: Any) -> Any:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **metadata}
    return from_dict({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec})


async def stored(client: Client, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
    kv, _ = await client.kv.get(resource_key(kind, name, namespace))
    assert kv is not None
    document: dict[str, Any] = json.loads(kv.value)
    return document


async def test_create_stores_calicos_form(client: Client) -> None:
    spec = {"selector": "app == 'web' && has(x)", "ingress": [{"action": "Allow"}]}
    made = await client.create(resource("NetworkPolicy", "allow-web", spec, "prod"))
    kv, revision = await client.kv.get("/calico/resources/v3/projectcalico.org/networkpolicies/prod/allow-web")
    assert kv is not None
    assert b"\\u0026\\u0026" in kv.value
    document = json.loads(kv.value)
    assert list(document) == ["kind", "apiVersion", "metadata", "spec"]
    assert "resourceVersion" not in document["metadata"]
    assert document["metadata"]["labels"] == {"projectcalico.org/tier": "default"}
    assert document["metadata"]["annotations"] == {"projectcalico.org/metadata": '{"name":"allow-web"}'}
    assert document["spec"]["tier"] == "default"
    assert document["spec"]["types"] == ["Ingress"]
    assert made.metadata.resource_version == str(revision)
    assert len(made.metadata.uid) == 36
    assert made.metadata.creation_timestamp.endswith("Z")
    assert made.metadata.annotations == {}
    assert await client.get("NetworkPolicy", "allow-web", "prod") == made


async def test_create_twice_and_update_of_the_missing(client: Client) -> None:
    made = await client.create(resource("GlobalNetworkSet", "a", {}))
    with pytest.raises(ResourceAlreadyExists, match=r"GlobalNetworkSet\(a\)"):
        await client.create(resource("GlobalNetworkSet", "a", {}))
    await client.delete("GlobalNetworkSet", "a")
    with pytest.raises(ResourceDoesNotExist):
        await client.update(made)
    with pytest.raises(ResourceDoesNotExist):
        await client.delete("GlobalNetworkSet", "a")
    with pytest.raises(ResourceDoesNotExist):
        await client.get("GlobalNetworkSet", "a")


async def test_update_needs_the_present_version(client: Client) -> None:
    first = await client.create(resource("GlobalNetworkSet", "a", {"nets": ["10.0.0.0/8"]}))
    first.spec.nets = ["10.1.0.0/16"]
    second = await client.update(first)
    assert int(second.metadata.resource_version) > int(first.metadata.resource_version)
    with pytest.raises(UpdateConflict):
        await client.update(first)
    with pytest.raises(UpdateConflict):
        await client.delete("GlobalNetworkSet", "a", resource_version=first.metadata.resource_version)
    for field in ("uid", "creation_timestamp", "resource_version"):
        broken = await client.get("GlobalNetworkSet", "a")
        setattr(broken.metadata, field, None)
        with pytest.raises(ValidationError, match="must be set for an update"):
            await client.update(broken)
    removed = await client.delete("GlobalNetworkSet", "a", resource_version=second.metadata.resource_version)
    assert removed == second


async def test_apply_creates_then_keeps_identity(client: Client) -> None:
    first = await client.apply(resource("GlobalNetworkSet", "a", {"nets": ["10.0.0.0/8"]}, labels={"x": "1"}))
    second = await client.apply(resource("GlobalNetworkSet", "a", {"nets": ["10.1.0.0/16"]}, uid="other"))
    assert second.metadata.uid == first.metadata.uid
    assert second.metadata.creation_timestamp == first.metadata.creation_timestamp
    assert second.metadata.labels == {}
    assert second.spec.nets == ["10.1.0.0/16"]
    with pytest.raises(UpdateConflict):
        await client.apply(resource("GlobalNetworkSet", "a", {}, resourceVersion=first.metadata.resource_version))
    await asyncio.gather(
        *(client.apply(resource("GlobalNetworkSet", "a", {"nets": [f"10.{n}.0.0/16"]})) for n in range(3))
    )


async def test_a_policy_needs_its_tier(client: Client) -> None:
    policy = resource("GlobalNetworkPolicy", "p", {"tier": "security", "selector": "all()"})
    with pytest.raises(ValidationError, match=r"Policy\(p\): spec.tier = 'security': this tier does not"):
        await client.create(policy)
    await client.create(resource("Tier", "security", {"order": 100}))
    made = await client.create(policy)
    assert made.metadata.labels["projectcalico.org/tier"] == "security"
    with pytest.raises(ValidationError, match=r"still contains GlobalNetworkPolicy\(p\)"):
        await client.delete("Tier", "security")
    await client.delete("GlobalNetworkPolicy", "p")
    await client.delete("Tier", "security")
    with pytest.raises(ValidationError, match="built in"):
        await client.delete("Tier", "kube-admin")


async def test_policies_of_older_releases_lose_their_prefix_in_the_name(client: Client) -> None:
    document = {"kind": "GlobalNetworkPolicy", "metadata": {"name": "default.foo"}, "spec": {"selector": "all()"}}
    key = resource_key("GlobalNetworkPolicy", "default.foo")
    await client.kv.put(key, json.dumps(document).encode())
    found = await client.get("GlobalNetworkPolicy", "default.foo")
    assert found.metadata.name == "foo"
    assert found.metadata.labels == {"projectcalico.org/tier": "default"}
    with pytest.raises(ResourceDoesNotExist):
        await client.get("GlobalNetworkPolicy", "foo")
    document["spec"] = {"tier": "other", "selector": "all()"}
    await client.kv.put(key, json.dumps(document).encode())
    assert (await client.get("GlobalNetworkPolicy", "default.foo")).metadata.name == "default.foo"


async def test_pools_may_not_overlap_nor_change(client: Client) -> None:
    pool = await client.create(resource("IPPool", "a", {"cidr": "10.0.0.0/16"}))
    assert pool.spec.block_size == 26
    with pytest.raises(ValidationError, match=r"IPPool\(b\): spec.cidr = '10.0.1.0/24': overlaps with IPPool\(a\)"):
        await client.create(resource("IPPool", "b", {"cidr": "10.0.1.0/24"}))
    await client.create(resource("IPPool", "six", {"cidr": "fd00::/48"}))
    pool.spec.cidr = "10.1.0.0/16"
    with pytest.raises(ValidationError, match=r"spec.cidr = '10.1.0.0/16': cannot be changed"):
        await client.update(pool)
    await client.kv.put("/calico/ipam/v2/assignment/ipv4/block/10.9.0.0-26", b"{}")
    with pytest.raises(ValidationError, match=r"spec.blockSize = 28: block 10\.9\.0\.0/26 of another size"):
        await client.create(resource("IPPool", "c", {"cidr": "10.9.0.0/16", "blockSize": 28}))


async def test_unreadable_pools_and_blocks_stand_in_nobodys_way(client: Client) -> None:
    broken = resource("IPPool", "broken", {"cidr": "10.0.0.0/16"})
    broken.spec.cidr, broken.metadata.uid, broken.metadata.creation_timestamp = "ten", "u", "2026-08-01T10:00:00Z"
    await client.kv.put(resource_key("IPPool", "broken"), encode(broken))
    for name in ("nonsense", "10.0.0.0", "10.0.0.0-99"):
        await client.kv.put(f"/calico/ipam/v2/assignment/ipv4/block/{name}", b"{}")
    await client.create(resource("IPPool", "a", {"cidr": "10.0.0.0/16", "blockSize": 32}))
    broken = await client.get("IPPool", "broken")
    broken.spec.cidr = "10.1.0.0/16"
    with pytest.raises(ValidationError, match="cannot be changed, it is 'ten'"):
        await client.update(broken)
    await client.delete("IPPool", "broken")


async def test_a_load_balancer_pool_stays_one(client: Client) -> None:
    pool = await client.create(resource("IPPool", "a", {"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer"]}))
    pool.spec.allowed_uses = ["Workload"]
    with pytest.raises(ValidationError, match="cannot get another use"):
        await client.update(pool)


async def test_a_pool_is_closed_before_its_hooks_and_gone_after(client: Client) -> None:
    seen = []

    async def drain(given: Client, pool: Any) -> None:
        seen.append((pool.metadata.name, pool.spec.disabled, (await given.get("IPPool", "a")).spec.disabled))

    client.on_pool_delete[:] = [drain]
    await client.create(resource("IPPool", "a", {"cidr": "10.0.0.0/16"}))
    await client.delete("IPPool", "a")
    assert seen == [("a", True, True)]
    assert (await client.list("IPPool")).items == ()


async def test_workload_endpoints_are_named_and_labelled(client: Client) -> None:
    spec = {"orchestrator": "k8s", "node": "node-1", "pod": "web-0", "endpoint": "eth0", "interfaceName": "cali1"}
    made = await client.create(resource("WorkloadEndpoint", "", spec, "prod"))
    assert made.metadata.name == "node--1-k8s-web--0-eth0"
    assert made.metadata.labels == {
        "projectcalico.org/namespace": "prod", "projectcalico.org/orchestrator": "k8s",
    }  # fmt: skip
    with pytest.raises(ValidationError, match="must be 'node--1-k8s-web--0-eth0'"):
        await client.create(resource("WorkloadEndpoint", "other", spec, "prod"))


async def test_the_default_allow_profile_is_always_there(client: Client) -> None:
    name = "projectcalico-default-allow"
    profile = await client.get("Profile", name)
    assert profile.spec.ingress[0].action == "Allow"
    assert [item.metadata.name for item in (await client.list("Profile")).items] == [name]
    for change in (
        client.create(profile),
        client.update(profile),
        client.apply(profile),
        client.delete("Profile", name),
    ):
        with pytest.raises(OperationNotSupported):
            await change


async def test_deleting_a_node_takes_what_hangs_on_it(client: Client) -> None:
    called = []

    async def release(given: Client, node: Any) -> None:
        called.append((node.metadata.name, len((await given.list("WorkloadEndpoint")).items)))

    client.on_node_delete[:] = [release]
    wep = {"orchestrator": "k8s", "endpoint": "eth0", "interfaceName": "cali1", "pod": "p"}
    for node in ("a", "a-b"):
        await client.create(resource("Node", node, {}))
        await client.create(resource("WorkloadEndpoint", "", {**wep, "node": node}, "ns"))
        await client.create(resource("HostEndpoint", f"hep-{node}", {"node": node, "interfaceName": "eth0"}))
        await client.create(resource("BGPPeer", f"peer-{node}", {"node": node, "peerIP": "10.0.0.1", "asNumber": 1}))
        await client.create(resource("FelixConfiguration", f"node.{node}", {}))
    await client.delete("Node", "a")
    assert called == [("a", 2)]
    left = {}
    for kind in ("Node", "WorkloadEndpoint", "HostEndpoint", "BGPPeer", "FelixConfiguration"):
        left[kind] = [item.metadata.name for item in (await client.list(kind)).items]
    assert left == {
        "Node": ["a-b"], "WorkloadEndpoint": ["a--b-k8s-p-eth0"], "HostEndpoint": ["hep-a-b"],
        "BGPPeer": ["peer-a-b"], "FelixConfiguration": ["node.a-b"],
    }  # fmt: skip
    with pytest.raises(ResourceDoesNotExist):
        await client.delete("Node", "a")


async def test_initialisation_leaves_what_is_set(client: Client) -> None:
    info = await client.get("ClusterInformation", "default")
    assert len(info.spec.cluster_guid) == 32
    assert info.spec.datastore_ready is True
    info.spec.datastore_ready = False
    await client.update(info)
    await client.ensure_initialized(cluster_type="k8s,bgp")
    await client.ensure_initialized(cluster_type="bgp,kdd")
    after = await client.get("ClusterInformation", "default")
    assert (after.spec.datastore_ready, after.spec.cluster_type) == (False, "k8s,bgp,kdd")
    assert after.spec.cluster_guid == info.spec.cluster_guid
    revision = (await client.kv.get("/x"))[1]
    await client.ensure_initialized(cluster_type="bgp")
    assert (await client.kv.get("/x"))[1] == revision


async def test_lists_leave_out_what_cannot_be_read(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    await client.create(resource("NetworkSet", "a", {}, "one"))
    await client.create(resource("NetworkSet", "b", {}, "two"))
    await client.kv.put(resource_key("NetworkSet", "c", "one"), b"not json")
    listed = await client.list("NetworkSet")
    assert [item.metadata.name for item in listed.items] == ["a", "b"]
    assert [item.metadata.name for item in (await client.list("NetworkSet", "one")).items] == ["a"]
    assert "left out of the list" in caplog.text
    assert len(caplog.records) == 1  # once, however often it is listed
    await client.kv.put(resource_key("NetworkSet", "c", "one"), b"not json either")
    await client.list("NetworkSet")
    assert len(caplog.records) == 2
    with pytest.raises(ValidationError):
        await client.get("NetworkSet", "c", "one")


async def test_a_list_whose_revision_is_compacted_between_pages_starts_over(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calico_node.datastores.client.PAGE", 2)
    for name in "abc":
        await client.create(resource("GlobalNetworkSet", name, {}))
    read, compactions = client.kv.range, 0

    async def compacting(prefix: str, **more: Any) -> Any:
        nonlocal compactions
        if more["start_after"] and compactions < 2:
            compactions += 1
            await client.delete("GlobalNetworkSet", "abc"[compactions - 1])
            _, revision = await client.kv.get("/")
            await client.kv.compact(revision)
        return await read(prefix, **more)

    monkeypatch.setattr(client.kv, "range", compacting)
    found = await client.list("GlobalNetworkSet")
    assert compactions == 1  # what is left fits one page
    assert [item.metadata.name for item in found.items] == ["b", "c"]


async def test_watch(client: Client) -> None:
    await client.create(resource("GlobalNetworkSet", "a", {}))
    seen = []
    async with aclosing(client.watch("GlobalNetworkSet")) as watch:
        async for event in watch:
            if event.type is ResourceEventType.BOOKMARK:
                continue
            seen.append((event.type.value, event.name.name if event.name else ""))
            if len(seen) == 1:
                await client.apply(resource("GlobalNetworkSet", "a", {"nets": ["10.0.0.0/8"]}))
                await client.create(resource("GlobalNetworkSet", "b", {}))
                await client.kv.put(resource_key("GlobalNetworkSet", "c"), b"bad")
                await client.delete("GlobalNetworkSet", "a")
            if len(seen) == 5:
                break
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("ADDED", "b"), ("ERROR", "c"), ("DELETED", "a")]


async def test_unknown_stored_fields_survive_an_update(client: Client) -> None:
    key = resource_key("GlobalNetworkSet", "a")
    await client.create(resource("GlobalNetworkSet", "a", {}))
    document = await stored(client, "GlobalNetworkSet", "a")
    document["spec"]["fromTheFuture"] = 1
    await client.kv.put(key, json.dumps(document).encode())
    found = await client.get("GlobalNetworkSet", "a")
    found.spec.nets = ["10.0.0.0/8"]
    await client.update(found)
    assert (await stored(client, "GlobalNetworkSet", "a"))["spec"]["fromTheFuture"] == 1


async def test_open_client_by_settings(tmp_path: Path) -> None:
    environ = {"CALICO_DATASTORE_PATH": str(tmp_path / "new" / "datastore.db"), "NODENAME": "n"}
    async with open_client(Settings.load(environ)) as client:
        await client.ensure_initialized()
        assert len((await client.list("Tier")).items) == 3


async def test_durability_is_a_setting(tmp_path: Path) -> None:
    environ = {"CALICO_DATASTORE_PATH": str(tmp_path / "datastore.db"), "NODENAME": "n"}
    async with open_client(Settings.load({**environ, "CALICO_DATASTORE_DURABILITY": "process"})) as client:
        await client.ensure_initialized()
    with pytest.raises(SettingsError, match="CALICO_DATASTORE_DURABILITY = 'none': must be disk or process"):
        async with open_client(Settings.load({**environ, "CALICO_DATASTORE_DURABILITY": "none"})):
            pass


def test_resource_keys() -> None:
    key = resource_key("NetworkPolicy", "p", "ns")
    assert key == "/calico/resources/v3/projectcalico.org/networkpolicies/ns/p"
    assert parse_resource_key(key) == ResourceName("NetworkPolicy", "ns", "p")
    assert parse_resource_key(resource_key("Node", "n")) == ResourceName("Node", "", "n")
    for other in ("/calico/x", "/calico/resources/v3/projectcalico.org/networkpolicies/p", key + "/more"):
        assert parse_resource_key(other) is None
    with pytest.raises(ValidationError, match="namespace is required"):
        resource_key("NetworkPolicy", "p")
    with pytest.raises(ValidationError, match=r"metadata\.name"):
        resource_key("Node", "a/b")


@pytest.mark.parametrize("version", ["x", "²", "-1", "9" * 30])
async def test_a_revision_that_is_none_is_refused(client: Client, version: str) -> None:
    stored = await client.create(resource("GlobalNetworkSet", "a", {}))
    with pytest.raises(ValidationError, match="decimal revision"):
        await client.delete("GlobalNetworkSet", "a", resource_version=version)
    stored.metadata.resource_version = version
    with pytest.raises(ValidationError, match="decimal revision"):
        await client.update(stored)


@pytest.mark.parametrize("value", [b"", b"[]", b"{", b'{"metadata": {}, "spec": {"nets": 7}}'])
async def test_what_cannot_be_read_is_mended_by_applying_it_anew(client: Client, value: bytes) -> None:
    await client.kv.put("/calico/resources/v3/projectcalico.org/globalnetworksets/a", value)
    with pytest.raises(ValidationError):
        await client.get("GlobalNetworkSet", "a")
    applied = await client.apply(resource("GlobalNetworkSet", "a", {"nets": ["10.0.0.0/8"]}))
    assert applied.metadata.uid
    assert (await client.get("GlobalNetworkSet", "a")).spec.nets == ["10.0.0.0/8"]


async def test_whoever_finds_cluster_information_finds_the_tiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far the process came that filled an empty datastore."""
    for done in range(5):
        engine = await EmbeddedEngine.open(tmp_path / f"{done}.db")
        client = Client(engine)
        writes = [engine.txn] * done

        async def txn(*arguments: Any, writes: list[Any] = writes) -> Any:
            if not writes:
                raise DatastoreError("this process has been killed")
            return await writes.pop()(*arguments)

        with monkeypatch.context() as killed:
            killed.setattr(engine, "txn", txn)
            with suppress(DatastoreError):
                await client.ensure_initialized()
        try:
            await client.get("ClusterInformation", "default")
        except ResourceDoesNotExist:
            assert done < 4
        else:
            tiers = {tier.metadata.name for tier in (await client.list("Tier")).items}
            assert {"default", "kube-admin", "kube-baseline"} <= tiers
        await engine.close()


# Lists in pages


async def fill(client: Client) -> int:
    """Keys of two pages and a part; gives the revision."""
    return (await client.kv.txn([], [Put(f"/t/{number}", b"1") for number in range(8)])).revision


async def test_all_pages_are_of_the_first_ones_revision(client: Client) -> None:
    revision = await fill(client)
    found = []
    async with aclosing(pages(client.kv, "/t/", 3)) as listed:
        async for page in listed:
            assert page.revision == revision
            found.append([(kv.key, kv.value) for kv in page.kvs])
            await client.kv.put("/t/7", b"changed")
            await client.kv.put(f"/t/new{len(found)}", b"1")
    assert [len(page) for page in found] == [3, 3, 2]
    assert [pair for page in found for pair in page] == [(f"/t/{number}", b"1") for number in range(8)]


async def test_a_prefix_without_keys_is_one_empty_page(client: Client) -> None:
    async with aclosing(pages(client.kv, "/nothing/", 3)) as listed:
        assert [page.kvs async for page in listed] == [()]


async def test_the_next_page_is_under_way_and_goes_with_the_list(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(client)
    asked, read = [], client.kv.range

    async def slow(prefix: str, **more: Any) -> Any:
        asked.append(more["start_after"])
        if len(asked) > 1:
            await asyncio.sleep(60)
        return await read(prefix, **more)

    monkeypatch.setattr(client.kv, "range", slow)
    before = asyncio.all_tasks()
    async with aclosing(pages(client.kv, "/t/", 3)) as listed:
        await anext(listed)
        await asyncio.sleep(0)
        assert asked == ["", "/t/2"]
    assert asyncio.all_tasks() == before


async def test_a_page_whose_revision_is_gone_is_told_after_the_one_before(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(client)
    read = client.kv.range

    async def compacted(prefix: str, **more: Any) -> Any:
        if more["start_after"]:
            raise Compacted(5)
        return await read(prefix, **more)

    monkeypatch.setattr(client.kv, "range", compacted)
    async with aclosing(pages(client.kv, "/t/", 3)) as listed:
        page = await anext(listed)
        await asyncio.sleep(0)
        assert [kv.key for kv in page.kvs] == ["/t/0", "/t/1", "/t/2"]
        with pytest.raises(Compacted):
            await anext(listed)
