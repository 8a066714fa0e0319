"""Random histories through the SQLite store and the oracle must look the same from every side."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.datastores.embedded import store as store_module
from calico_node.datastores.embedded.store import Store
from calico_node.datastores.kv import Compare, CompareTarget, Delete, Event, Get, Operation, Put
from calico_node.errors import Compacted
from tests.unit.datastores.oracle import Oracle

KEYS = ["/a", "/a/b", "/a/b/c", "/a0", "/b", "/é", "/\U0010ffff"]
keys = st.sampled_from(KEYS)
operations = st.one_of(st.builds(Put, keys, st.binary(max_size=3)), st.builds(Delete, keys), st.builds(Get, keys))


def _writes_once(branch: list[Operation]) -> bool:
    written = [operation.key for operation in branch if not isinstance(operation, Get)]
    return len(written) == len(set(written))


branches = st.lists(operations, max_size=4).filter(_writes_once)
compares = st.lists(st.builds(Compare, keys, st.sampled_from(CompareTarget), st.integers(0, 6)), max_size=2)
steps = st.one_of(
    st.tuples(st.just("txn"), compares, branches, branches),
    st.tuples(st.just("compact"), st.floats(0, 1)),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("reopen")),
)


class Clock:
    boot = "boot"

    def now(self) -> float:
        return 0.0


def _open(path: Path, writable: bool = True) -> Store:
    return Store(path, writable=writable, clock=Clock())  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, min_size=8, max_size=40), st.sampled_from(["", "/", "/a", "/a/", "/é", "/\U0010ffff"]))
def test_any_history_reads_like_the_oracle(history: list[tuple], prefix: str) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder, patch.object(store_module, "_SWEEP_REVISIONS", 2):
        path = Path(folder) / "db"
        path.touch()
        store, oracle = _open(path), Oracle()
        for step in history:
            if step[0] == "txn":
                with store.writing():
                    result = store.txn(*step[1:])
                assert result == oracle.txn(*step[1:])
            elif step[0] == "compact":
                revision = 1 + int(step[1] * (oracle.revision - 1))
                if revision > oracle.compacted:
                    with store.writing():
                        store.compact(revision)
                    oracle.compacted = revision
            elif step[0] == "sweep":
                with store.writing():
                    store.maintain()
            else:
                store.close()
                store = _open(path)
        _same_view(store, oracle, prefix)
        store.close()


def _same_view(store: Store, oracle: Oracle, prefix: str) -> None:
    now = store.range(prefix, "", 0, 0)
    assert now.revision == oracle.revision
    assert now.kvs == oracle.range(prefix, oracle.revision)
    for key in KEYS:
        assert store.get(key, 0) == (oracle.state.get(key), oracle.revision)
    for revision in oracle.states:
        if revision < oracle.compacted:
            with pytest.raises(Compacted):
                store.range(prefix, "", 0, revision)
            with pytest.raises(Compacted):
                store.get("/a", revision)
            with pytest.raises(Compacted):
                store.events(prefix, revision, 10)
            continue
        expected = oracle.range(prefix, revision)
        assert store.range(prefix, "", 0, revision).kvs == expected
        paged, after = [], ""
        while True:
            page = store.range(prefix, after, 2, revision)
            paged += page.kvs
            if not page.more:
                break
            after = page.kvs[-1].key
        assert tuple(paged) == expected
        if 1 < revision == oracle.compacted:
            with pytest.raises(Compacted):
                store.events(prefix, revision, 10)
            continue
        for limit in (1, 1000):
            assert _watched(store, prefix, revision, limit) == oracle.watch(prefix, revision)


def _watched(store: Store, prefix: str, start: int, limit: int) -> list[Event]:
    events: list[Event] = []
    while True:
        batch = store.events(prefix, start, limit)
        events += batch.events
        if batch.revision < start or not batch.events:
            return events
        start = batch.revision + 1
