"""What leases must do on every KV engine."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from calico_node.datastores.kv import Compare, CompareTarget, Get, KeyValue, KVEngine, Put
from calico_node.errors import DatastoreError
from tests.unit.datastores.suite_history import events_until, flat, seen


class LeaseSuite:
    async def test_a_lease_that_is_not_there_is_refused(self, engine: KVEngine) -> None:
        ended = await engine.grant(60)
        await engine.revoke(ended)
        revision = (await engine.get("/t/a"))[1]
        for lease in (ended, 4711, 0, -1):
            for call in (engine.keep_alive, engine.revoke):
                with pytest.raises(DatastoreError, match=f"lease {lease} does not exist, or has run out"):
                    await call(lease)
        assert (await engine.get("/t/a"))[1] == revision  # no key was touched

    async def test_every_lease_is_its_own(self, engine: KVEngine) -> None:
        leases = await asyncio.gather(*(engine.grant(60) for _ in range(50)))
        assert len(set(leases)) == 50
        assert min(leases) > 0
        await asyncio.gather(*(engine.put(f"/t/{lease}", b"", lease=lease) for lease in leases))
        await asyncio.gather(*(engine.revoke(lease) for lease in leases[:49]))
        assert [kv.key for kv in (await engine.range("/t/")).kvs] == [f"/t/{leases[49]}"]
        await engine.revoke(leases[49])

    async def test_the_keys_of_a_revoked_lease_go_together_in_order(self, engine: KVEngine) -> None:
        lease = await engine.grant(60)
        for key in ("/t/z", "/t/a", "/t/é", "/t/b"):
            last = await engine.put(key, b"1", lease=lease)
        await engine.revoke(lease)
        gone = last + 1
        assert await seen(engine, gone, gone) == [
            ("delete", key, b"", gone, b"1") for key in ("/t/a", "/t/b", "/t/z", "/t/é")
        ]
        assert (await engine.range("/t/")).revision == gone
        assert [kv.lease for kv in (await engine.range("/t/", revision=last)).kvs] == [lease] * 4

    async def test_a_key_belongs_to_the_lease_of_its_last_put(self, engine: KVEngine) -> None:
        first, second = await engine.grant(60), await engine.grant(60)
        for key in ("/t/freed", "/t/kept", "/t/moved", "/t/recreated"):
            await engine.put(key, b"1", lease=first)
        await engine.put("/t/freed", b"2")
        await engine.put("/t/moved", b"2", lease=second)
        await engine.delete("/t/recreated")
        await engine.put("/t/recreated", b"2")
        await engine.revoke(first)
        left = {kv.key: (kv.value, kv.lease) for kv in (await engine.range("/t/")).kvs}
        assert left == {"/t/freed": (b"2", 0), "/t/moved": (b"2", second), "/t/recreated": (b"2", 0)}
        await engine.revoke(second)
        assert [kv.key for kv in (await engine.range("/t/")).kvs] == ["/t/freed", "/t/recreated"]

    async def test_a_lease_without_keys_ends_without_a_change(self, engine: KVEngine) -> None:
        lease = await engine.grant(60)
        await engine.put("/t/a", b"1", lease=lease)
        last = (await engine.delete("/t/a"))[1]
        await engine.revoke(lease)
        assert (await engine.get("/t/a"))[1] == last

    async def test_leases_in_transactions(self, engine: KVEngine) -> None:
        lease = await engine.grant(60)
        puts = [Put("/t/a", b"1", lease), Get("/t/a"), Put("/t/b", b"1")]
        result = await engine.txn([Compare("/t/a", CompareTarget.VERSION, 0)], puts)
        assert result.responses[1] == KeyValue("/t/a", b"1", result.revision, result.revision, 1, lease)
        await engine.txn([], [Put("/t/b", b"2", lease)])
        await engine.revoke(lease)
        assert (await engine.range("/t/")).kvs == ()

    async def test_a_lease_lives_while_it_is_kept_alive_and_ends_at_one_revision(self, engine: KVEngine) -> None:
        lease = await engine.grant(3)
        for key in ("/t/c", "/t/a", "/t/freed", "/t/b"):
            await engine.put(key, b"1", lease=lease)
        last = await engine.put("/t/freed", b"2")
        for _ in range(6):
            await asyncio.sleep(0.6)
            await engine.keep_alive(lease)
        assert [kv.key for kv in (await engine.range("/t/")).kvs] == ["/t/a", "/t/b", "/t/c", "/t/freed"]
        async with aclosing(engine.watch("/t/", start_revision=last + 1)) as watch:
            events = flat(await events_until(watch, last + 1))
        assert events == [("delete", key, b"", last + 1, b"1") for key in ("/t/a", "/t/b", "/t/c")]
        for call in (engine.keep_alive, engine.revoke):
            with pytest.raises(DatastoreError, match=f"lease {lease} does not exist, or has run out"):
                await call(lease)
        assert await engine.get("/t/freed", revision=last + 1) == await engine.get("/t/freed")
        assert (await engine.get("/t/a"))[1] == last + 1
