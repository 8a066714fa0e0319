"""Leases of the embedded store that hold more keys than one revision has places."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest

from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.embedded.store import Store
from calico_node.datastores.kv import Event, EventType, Put
from tests.unit.datastores.engine_suite import events_until

pytestmark = pytest.mark.anyio

KEYS = 66_000
"""More than the 65,536 places of a revision."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def fill(store: Store, lease: int) -> None:
    """``KEYS`` keys on one lease, in transactions as large as the engine takes them."""
    for start in range(0, KEYS, 1000):
        store.txn((), [Put(f"/leased/{number}", b"x", lease) for number in range(start, start + 1000)], ())


async def test_a_lease_with_more_keys_than_a_revision_has_places(tmp_path: Path) -> None:
    engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
    lease = await engine.grant(600)
    await engine._write(lambda store: fill(store, lease))
    before = await engine.put("/other", b"1")
    async with aclosing(engine.watch("/", start_revision=before + 1)) as watch:
        await engine.revoke(lease)
        left = await engine.range("/")
        assert [kv.key for kv in left.kvs] == ["/other"]
        after = await engine.put("/other", b"2")
        assert after == left.revision + 1
        _all_deleted_once(await events_until(watch, after), before, after)
    # As of a revision: none before, all after.
    assert len((await engine.range("/leased/", revision=before)).kvs) == KEYS
    assert (await engine.range("/leased/", revision=after - 1)).kvs == ()
    assert (await engine.get("/leased/65999", revision=after - 1))[0] is None
    await engine.compact(after)
    while await engine._read(lambda store: store.maintenance_due()):
        await engine._write(lambda store: store.maintain())
    assert [(kv.key, kv.value) for kv in (await engine.range("/")).kvs] == [("/other", b"2")]
    await engine.close()


def _all_deleted_once(events: list[Event], before: int, after: int) -> None:
    *deleted, last = events
    assert {event.type for event in deleted} == {EventType.DELETE}
    assert sorted(event.kv.key for event in deleted) == sorted(f"/leased/{number}" for number in range(KEYS))
    revisions = [event.kv.mod_revision for event in deleted]
    assert revisions == sorted(revisions)
    assert set(revisions) == set(range(before + 1, after))
    assert (last.kv.key, last.kv.value, last.kv.mod_revision) == ("/other", b"2", after)
    assert last.prev is not None
    assert last.prev.mod_revision == before
