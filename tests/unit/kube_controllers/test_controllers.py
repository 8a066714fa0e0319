"""Kubernetes objects in a directory become Calico's in the datastore, and the CNI learns of pods from it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from calico_node.datastores.client import Client
from calico_node.datastores.kv import Put, TxnResult
from calico_node.errors import DatastoreError, ResourceDoesNotExist
from calico_node.kubernetes import Acknowledgement, KubernetesStore, Ref, apply_api_defaults, network_policy_to_calico
from calico_node.plugins.kube_controllers import component, hooks
from calico_node.plugins.kube_controllers.reconcile import Reconciler
from calico_node.plugins.kube_controllers.source import FileSource
from calico_node.resources import from_dict, to_dict
from tests.unit.ipam.memory import MemoryEngine


def k8s(kind: str, name: str, namespace: str = "", spec: Any = None, **labels: str) -> dict[str, Any]:
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "v1"
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    if namespace:
        metadata["namespace"] = namespace
    document = {"apiVersion": version, "kind": kind, "metadata": metadata}
    return apply_api_defaults(document if spec is None else {**document, "spec": spec})


def pod(name: str, **labels: str) -> dict[str, Any]:
    return k8s("Pod", name, "prod", {"nodeName": "node-1", "containers": [{"name": "c"}]}, **labels)


def endpoint(name: str, **labels: str) -> Any:
    return from_dict(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "WorkloadEndpoint",
            "metadata": {"name": f"node--1-k8s-{name}-eth0", "namespace": "prod", "labels": labels},
            "spec": {
                "orchestrator": "k8s",
                "node": "node-1",
                "pod": name,
                "endpoint": "eth0",
                "ipNetworks": ["10.0.0.1/32"],
                "interfaceName": "cali0",
            },
        }
    )


class Reporter:
    def __init__(self) -> None:
        self.last: dict[str, Any] = {}
        self.reasons: list[str] = []

    def report(self, **what: Any) -> None:
        self.last = what
        self.reasons.append(what.get("reason", ""))


class Cluster:
    def __init__(self, root: Path) -> None:
        self.store = KubernetesStore(root)
        self.engine = MemoryEngine()
        self.client = Client(self.engine)
        self.reporter = Reporter()

    async def apply(self, *objects: Mapping[str, Any], delete: tuple[Ref, ...] = ()) -> Acknowledgement:
        return await self.store.wait_acknowledged(self.store.apply(objects, delete), 10, poll=0.001)

    async def names(self, kind: str) -> list[str]:
        return sorted(item.metadata.name for item in (await self.client.list(kind)).items)

    async def labels(self, name: str) -> Any:
        return (await self.client.get("WorkloadEndpoint", f"node--1-k8s-{name}-eth0", "prod")).metadata.labels


@asynccontextmanager
async def running(root: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(root)
    await cluster.client.ensure_initialized()
    controller = component.Controller(cluster.client, FileSource(cluster.store), cluster.reporter)  # type: ignore[arg-type]
    task = asyncio.create_task(controller.run())
    try:
        yield cluster
    finally:
        assert not task.done(), task.exception()
        task.cancel()


def test_profiles_and_policies_come_and_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            policy = k8s("NetworkPolicy", "deny", "prod", {"podSelector": {}})
            objects = [k8s("Namespace", "prod", team="blue"), k8s("ServiceAccount", "default", "prod"), policy]
            done = await cluster.apply(*objects)
            assert done.rejected == {}
            assert await cluster.names("Profile") == ["kns.prod", "ksa.prod.default", "projectcalico-default-allow"]
            stored = await cluster.client.get("NetworkPolicy", "knp.default.deny", "prod")
            assert to_dict(stored)["spec"] == to_dict(network_policy_to_calico(policy))["spec"]
            assert int(stored.metadata.resource_version) <= done.revision <= cluster.reporter.last["revision"]
            assert cluster.reporter.last["reason"] == "generation 1 of the Kubernetes objects is in the datastore"

            await cluster.apply(k8s("Namespace", "prod", team="red"))
            profile = await cluster.client.get("Profile", "kns.prod")
            assert profile.spec.labels_to_apply["pcns.team"] == "red"

            await cluster.apply(delete=(Ref("NetworkPolicy", "prod", "deny"), Ref("Namespace", "", "prod")))
            assert await cluster.names("NetworkPolicy") == []
            assert await cluster.names("Profile") == ["ksa.prod.default", "projectcalico-default-allow"]

    asyncio.run(scenario())


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            objects = [k8s("Namespace", "prod"), k8s("NetworkPolicy", "deny", "prod", {"podSelector": {}})]
            await cluster.apply(*objects)
            writes = cluster.engine.writes
            await cluster.apply(*objects)
            assert cluster.engine.writes == writes

    asyncio.run(scenario())


def test_what_is_ours_and_stale_goes_at_start_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path)
        await cluster.client.ensure_initialized()
        for kind, name in (("Profile", "kns.old"), ("Profile", "ksa.old.default"), ("Profile", "mine")):
            await cluster.client.create(_bare(kind, name))
        for name in ("knp.default.old", "by-hand"):
            await cluster.client.create(_bare("NetworkPolicy", name, "prod"))
        stale = _bare("Profile", "kns.prod")
        stale.spec.labels_to_apply = {"pcns.projectcalico.org/name": "wrong"}
        await cluster.client.create(stale)
        controller = component.Controller(cluster.client, FileSource(cluster.store), cluster.reporter)  # type: ignore[arg-type]
        task = asyncio.create_task(controller.run())
        await asyncio.sleep(0.1)
        assert "kns.old" in await cluster.names("Profile")  # a store never written says nothing about the cluster
        await cluster.apply(k8s("Namespace", "prod"))
        assert await cluster.names("Profile") == ["kns.prod", "mine", "projectcalico-default-allow"]
        assert await cluster.names("NetworkPolicy") == ["by-hand"]
        profile = await cluster.client.get("Profile", "kns.prod")
        assert profile.spec.labels_to_apply["pcns.projectcalico.org/name"] == "prod"
        task.cancel()

    asyncio.run(scenario())


def _bare(kind: str, name: str, namespace: str = "") -> Any:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return from_dict({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": {}})


def test_endpoint_labels_follow_the_pod(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            await cluster.apply(pod("web", app="web"))
            await cluster.client.create(endpoint("web", stale="yes"))
            wanted = {
                "app": "web",
                "projectcalico.org/namespace": "prod",
                "projectcalico.org/orchestrator": "k8s",
                "projectcalico.org/serviceaccount": "default",
            }
            for _ in range(500):  # the watch brings it in line
                if await cluster.labels("web") == wanted:
                    break
                await asyncio.sleep(0.01)
            assert await cluster.labels("web") == wanted
            await cluster.apply(pod("web", app="db"))
            assert await cluster.labels("web") == {**wanted, "app": "db"}
            await cluster.apply(delete=(Ref("Pod", "prod", "web"),))
            assert await cluster.labels("web") == {**wanted, "app": "db"}  # endpoints are the CNI's to delete

    asyncio.run(scenario())


def test_an_endpoint_written_a_moment_before_a_change_is_not_missed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            await cluster.apply(pod("web", app="web"))
            await cluster.client.create(endpoint("web", app="web"))
            done = await cluster.apply(pod("web", app="db"))
            assert (await cluster.labels("web"))["app"] == "db"
            stored = await cluster.client.get("WorkloadEndpoint", "node--1-k8s-web-eth0", "prod")
            assert int(stored.metadata.resource_version) <= done.revision

    asyncio.run(scenario())


def test_a_policy_that_cannot_be_carried_out_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            half = k8s(
                "NetworkPolicy", "half", "prod", {"podSelector": {}, "ingress": [{"ports": [{"port": 99999}]}]}
            )
            bad = k8s("NetworkPolicy", "bad", "prod", {"podSelector": {"matchLabels": {"x y": "z"}}})
            done = await cluster.apply(half, bad, k8s("Namespace", "prod"))
            assert set(done.rejected) == {"NetworkPolicy(prod/half)", "NetworkPolicy(prod/bad)"}
            assert done.rejected["NetworkPolicy(prod/half)"].startswith("spec.ingress[0] is left out: port 99999")
            assert cluster.reporter.last["rejected"] == done.rejected
            assert await cluster.names("NetworkPolicy") == ["knp.default.half"]
            assert "kns.prod" in await cluster.names("Profile")
            done = await cluster.apply(
                delete=(Ref("NetworkPolicy", "prod", "half"), Ref("NetworkPolicy", "prod", "bad"))
            )
            assert done.rejected == {}

    asyncio.run(scenario())


def test_a_datastore_that_comes_back_gets_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component, "RETRY", 0.02)

    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            await cluster.apply(k8s("Namespace", "prod"))
            real = cluster.engine.txn

            async def down(*_: Any, **__: Any) -> TxnResult:
                raise DatastoreError("connection refused")

            cluster.engine.txn = down  # type: ignore[method-assign, assignment]
            generation = cluster.store.apply([k8s("Namespace", "test")])
            await asyncio.sleep(0.1)
            assert cluster.reporter.last["ready"] is False
            assert cluster.reporter.last["reason"] == "datastore: connection refused"
            with pytest.raises(ResourceDoesNotExist):
                await cluster.client.get("Profile", "kns.test")
            cluster.engine.txn = real  # type: ignore[method-assign]
            await cluster.store.wait_acknowledged(generation, 5)
            assert await cluster.client.get("Profile", "kns.test")

    asyncio.run(scenario())


def test_a_conflicting_write_is_overwritten(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            await cluster.apply(k8s("Namespace", "prod"))
            profile = await cluster.client.get("Profile", "kns.prod")
            profile.spec.labels_to_apply = {"a": "b"}
            await cluster.client.update(profile)
            await cluster.apply(k8s("Namespace", "prod", team="blue"))
            profile = await cluster.client.get("Profile", "kns.prod")
            assert profile.spec.labels_to_apply["pcns.team"] == "blue"
            await cluster.client.delete("Profile", "kns.prod")
            await cluster.apply(k8s("Namespace", "prod", team="red"))
            profile = await cluster.client.get("Profile", "kns.prod")
            assert profile.spec.labels_to_apply["pcns.team"] == "red"

    asyncio.run(scenario())


def test_the_cni_hook_answers_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALICO_KUBERNETES_STORE", raising=False)
    assert hooks.workload_metadata("prod", "web") is None
    monkeypatch.setenv("CALICO_KUBERNETES_STORE", str(tmp_path))
    assert hooks.workload_metadata("prod", "web") is None
    assert hooks.workload_metadata("prod", "../x") is None
    KubernetesStore(tmp_path).apply([pod("web", app="web"), k8s("Namespace", "prod", team="blue")])
    metadata = hooks.workload_metadata("prod", "web")
    assert metadata is not None
    assert metadata.labels["app"] == "web"
    assert metadata.service_account == "default"
    assert metadata.namespace_labels == {"kubernetes.io/metadata.name": "prod", "team": "blue"}


def test_an_endpoint_that_cannot_be_read_hinders_nothing_but_its_pod(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            await cluster.apply(k8s("Namespace", "prod"))
            key = "/calico/resources/v3/projectcalico.org/workloadendpoints/prod/node--1-k8s-web-eth0"
            await cluster.engine.put(key, b"[]")
            await cluster.client.create(endpoint("db"))
            done = await cluster.apply(pod("web", app="web"), pod("db", app="db"))
            assert list(done.rejected) == [str(Ref("Pod", "prod", "web"))]
            assert (await cluster.labels("db"))["app"] == "db"

            await cluster.engine.delete(key)
            await cluster.client.create(endpoint("web"))
            async with asyncio.timeout(5):
                while (await cluster.labels("web")).get("app") != "web":  # noqa: ASYNC110 (polls the datastore)
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_an_endpoint_that_goes_is_forgotten_and_one_that_comes_anew_is_followed(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = Client(MemoryEngine())
        reconciler = Reconciler(client)
        web = pod("web", app="web")
        for _ in range(3):
            await reconciler.endpoint_changed(await client.create(endpoint("web")))
            await reconciler.update({Ref("Pod", "prod", "web"): web})
            name = "node--1-k8s-web-eth0"
            assert (await client.get("WorkloadEndpoint", name, "prod")).metadata.labels["app"] == "web"
            await client.delete("WorkloadEndpoint", name, "prod")
            reconciler.endpoint_deleted("prod", name)
            reconciler.endpoint_deleted("prod", name)  # twice is once

    asyncio.run(scenario())


def test_a_locked_datastore_is_not_written_to_and_gets_everything_afterwards(tmp_path: Path) -> None:
    async def flag(cluster: Cluster, value: bool) -> None:
        information = await cluster.client.get("ClusterInformation", "default")
        information.spec.datastore_ready = value
        await cluster.client.update(information)

    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            await cluster.apply(k8s("Namespace", "prod"), pod("a", app="old"))
            await flag(cluster, False)
            async with asyncio.timeout(5):
                while "datastoreReady" not in cluster.reporter.last["reason"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert cluster.reporter.last.get("ready", True), "a rollout must not be held up"
            await cluster.client.create(endpoint("a", app="from-the-cni"))
            before = await cluster.names("Profile")
            generation = cluster.store.apply([k8s("Namespace", "test"), pod("a", app="new")], ())
            await asyncio.sleep(0.3)
            assert await cluster.names("Profile") == before
            assert (await cluster.labels("a"))["app"] == "from-the-cni"
            await flag(cluster, True)
            await cluster.store.wait_acknowledged(generation, 10, poll=0.001)
            assert "kns.test" in await cluster.names("Profile")
            assert (await cluster.labels("a"))["app"] == "new"

    asyncio.run(scenario())


@pytest.mark.anyio
async def test_members_of_a_newer_release_outlive_what_the_controllers_write(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.client.create(endpoint("web", app="old"))
        await cluster.apply(k8s("Namespace", "prod", team="a"))
        keys = [key for key in cluster.engine.data if "/profiles/kns.prod" in key or "/workloadendpoints/" in key]
        assert len(keys) == 2
        for key in keys:
            data = json.loads(cluster.engine.data[key].value)
            data["spec"]["fromTheFuture"] = data["metadata"]["fromTheFuture"] = 1
            await cluster.engine.txn([], [Put(key, json.dumps(data).encode())])
        await cluster.apply(k8s("Namespace", "prod", team="b"), pod("web", app="new"))
        for key in keys:
            raw = cluster.engine.data[key].value
            assert b'"b"' in raw or b'"new"' in raw
            assert raw.count(b'"fromTheFuture":1') == 2
