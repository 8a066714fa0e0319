from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from calico_node.errors import DatastoreError, ValidationError
from calico_node.kubernetes import Acknowledgement, KubernetesStore, Ref, StoreReader


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "prod", "labels": labels}}


NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod"}}


def test_objects_come_back_with_their_identity(tmp_path: Path) -> None:
    store = KubernetesStore(tmp_path / "store")
    assert store.generation() == 0
    assert store.apply([pod("a"), pod("b"), NAMESPACE]) == 1
    first = store.get("Pod", "a", "prod")
    assert first is not None
    assert store.apply([pod("a", app="x")]) == 2
    second = store.get("Pod", "a", "prod")
    assert second is not None
    assert second["metadata"]["labels"] == {"app": "x"}
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    assert (first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]) == ("1", "2")
    assert [item["metadata"]["name"] for item in store.list("Pod")] == ["a", "b"]
    assert [item["metadata"]["name"] for item in store.list("Pod", "other")] == []
    assert store.get("Namespace", "prod") is not None
    assert store.delete([Ref("Pod", "prod", "a"), Ref("Pod", "prod", "never")]) == 3
    assert store.get("Pod", "a", "prod") is None


def test_nothing_is_written_when_one_object_cannot_be(tmp_path: Path) -> None:
    store = KubernetesStore(tmp_path)
    with pytest.raises(ValidationError, match="no kind 'Ingress'"):
        store.apply([pod("a"), {"kind": "Ingress", "metadata": {"name": "x"}}])
    with pytest.raises(ValidationError):
        store.apply([pod("../../etc/passwd")])
    assert store.generation() == 0
    assert store.list("Pod") == []


def test_a_reader_sees_what_changed(tmp_path: Path) -> None:
    store = KubernetesStore(tmp_path)
    reader = StoreReader(store, ("Pod", "Namespace"))
    assert reader.refresh() == (0, {})
    store.apply([pod("a"), pod("b"), NAMESPACE])
    generation, changed = reader.refresh()
    assert generation == 1
    assert {str(ref) for ref in changed} == {"Pod(prod/a)", "Pod(prod/b)", "Namespace(prod)"}
    store.apply([pod("a", app="x")], delete=[Ref("Pod", "prod", "b")])
    generation, changed = reader.refresh()
    assert generation == 2
    assert {str(ref): item and item["metadata"]["labels"] for ref, item in changed.items()} == {
        "Pod(prod/a)": {"app": "x"},
        "Pod(prod/b)": None,
    }
    assert reader.refresh() == (2, {})


def test_watch_and_acknowledge(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = KubernetesStore(tmp_path)
        seen: list[int] = []

        async def controller() -> None:
            async for generation in store.watch(poll=0.001):
                seen.append(generation)
                store.acknowledge(Acknowledgement(generation, revision=10 + generation, rejected={"a": "b"}))

        task = asyncio.create_task(controller())
        for name in ("a", "b"):
            generation = store.apply([pod(name)])
            done = await store.wait_acknowledged(generation, 5, poll=0.001)
            assert done == Acknowledgement(generation, 10 + generation, {"a": "b"})
        assert seen == [1, 2]
        task.cancel()
        with pytest.raises(DatastoreError, match="generation 2 of 9"):
            await store.wait_acknowledged(9, 0.01, poll=0.001)

    asyncio.run(scenario())


def test_the_environment_names_the_store(tmp_path: Path) -> None:
    assert KubernetesStore.from_environ({}) is None
    store = KubernetesStore.from_environ({"CALICO_KUBERNETES_STORE": str(tmp_path)})
    assert store is not None
    assert store.root == tmp_path
