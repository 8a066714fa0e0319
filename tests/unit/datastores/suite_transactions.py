"""What transactions must do on every KV engine, their limits included."""

from __future__ import annotations

import pytest

from calico_node.datastores.kv import Compare, CompareTarget, Delete, Get, KeyValue, KVEngine, Operation, Put
from calico_node.errors import DatastoreError

MOST_OPERATIONS = 128
LARGEST_REQUEST = 1536 << 10
NO_TEXT = "/t/\ud800"


def puts(count: int) -> list[Put]:
    return [Put(f"/t/{number:03}", b"1") for number in range(count)]


def values(responses: tuple[KeyValue | None, ...]) -> list[bytes | None]:
    return [response.value if response else None for response in responses]


class TransactionSuite:
    async def test_operations_see_those_before_them(self, engine: KVEngine) -> None:
        first = await engine.put("/t/a", b"1")
        result = await engine.txn(
            [], [Get("/t/a"), Put("/t/a", b"2"), Get("/t/a"), Get("/t/b"), Put("/t/b", b"3"), Get("/t/b")]
        )
        assert values(result.responses) == [b"1", None, b"2", None, None, b"3"]
        seen = result.responses[2]
        assert seen is not None
        assert (seen.create_revision, seen.mod_revision, seen.version) == (first, first + 1, 2)
        gone = await engine.txn([], [Delete("/t/a"), Get("/t/a"), Delete("/t/none")])
        assert values(gone.responses) == [b"2", None, None]
        assert gone.revision == result.revision + 1

    async def test_without_operations_a_transaction_only_compares(self, engine: KVEngine) -> None:
        revision = await engine.put("/t/a", b"1")
        for target, value, holds in [
            (CompareTarget.VERSION, 0, False),
            (CompareTarget.VERSION, 1, True),
            (CompareTarget.MOD_REVISION, revision, True),
            (CompareTarget.MOD_REVISION, revision - 1, False),
        ]:
            result = await engine.txn([Compare("/t/a", target, value)], [])
            assert (result.succeeded, result.revision, result.responses) == (holds, revision, ())
        assert (await engine.txn([], [])).succeeded

    async def test_an_absent_key_compares_as_zero(self, engine: KVEngine) -> None:
        await engine.put("/t/a", b"1")
        await engine.delete("/t/a")
        for key in ("/t/a", "/t/none"):
            for target in CompareTarget:
                assert (await engine.txn([Compare(key, target, 0)], [])).succeeded
                assert not (await engine.txn([Compare(key, target, 1)], [])).succeeded
        both = [Compare("/t/none", CompareTarget.VERSION, 0), Compare("/t/none", CompareTarget.VERSION, 1)]
        assert not (await engine.txn(both, [])).succeeded

    async def test_versions_start_anew_with_a_key(self, engine: KVEngine) -> None:
        await engine.put("/t/a", b"1")
        await engine.put("/t/a", b"1")
        previous, _ = await engine.delete("/t/a")
        assert previous is not None
        assert previous.version == 2
        again = await engine.put("/t/a", b"1")
        assert await engine.get("/t/a") == (KeyValue("/t/a", b"1", again, again, 1), again)

    @pytest.mark.parametrize(
        "operations",
        [
            [Put("/t/a", b"1"), Put("/t/a", b"2")],
            [Put("/t/a", b"1"), Delete("/t/a")],
            [Delete("/t/a"), Put("/t/a", b"")],
        ],
    )
    async def test_a_key_put_and_written_again_is_refused(
        self, engine: KVEngine, operations: list[Operation]
    ) -> None:
        revision = await engine.put("/t/a", b"0")
        for branches in ((operations, []), ([], operations)):
            with pytest.raises(DatastoreError, match="only once: '/t/a'"):
                await engine.txn([], *branches)
        assert await engine.get("/t/a") == (KeyValue("/t/a", b"0", revision, revision), revision)

    async def test_a_key_may_be_deleted_twice_and_written_in_either_branch(self, engine: KVEngine) -> None:
        revision = await engine.put("/t/a", b"0")
        twice = await engine.txn([], [Delete("/t/a"), Delete("/t/a")])
        assert values(twice.responses) == [b"0", None]
        assert twice.revision == revision + 1
        either = await engine.txn([], [Put("/t/a", b"1")], [Put("/t/a", b"2")])
        assert either.succeeded
        assert either.revision == revision + 2

    async def test_more_than_128_operations_are_refused(self, engine: KVEngine) -> None:
        """etcd's own limit (``--max-txn-ops``): what works on a laptop works on a cluster."""
        absent = [Compare(f"/t/none/{number}", CompareTarget.VERSION, 0) for number in range(MOST_OPERATIONS + 1)]
        most = puts(MOST_OPERATIONS)
        result = await engine.txn(absent[:-1], most, most)
        assert result.succeeded
        assert len(result.responses) == MOST_OPERATIONS
        more = puts(MOST_OPERATIONS + 1)
        gets = [Get(put.key) for put in more]
        for compares, success, failure in [([], more, []), ([], [], more), ([], gets, []), (absent, [], [])]:
            with pytest.raises(DatastoreError, match="at most 128"):
                await engine.txn(compares, success, failure)
        assert (await engine.get("/t/000"))[1] == result.revision

    async def test_a_request_too_large_is_refused_by_name_and_size(self, engine: KVEngine) -> None:
        """etcd's own limit (``--max-request-bytes``), of both branches together."""
        small, half = Put("/t/small", b"x"), b"x" * (LARGEST_REQUEST // 2)
        revision = await engine.put("/t/large", b"x" * (LARGEST_REQUEST - 1024))
        with pytest.raises(DatastoreError, match=r"/t/large.* 1572864 bytes"):
            await engine.put("/t/large", b"x" * LARGEST_REQUEST)
        with pytest.raises(DatastoreError, match=r"/t/huge.* 5000000 bytes"):
            await engine.txn([], [small, Put("/t/huge", b"x" * 5_000_000)])
        with pytest.raises(DatastoreError, match=r"/t/a.* 786432 bytes"):
            await engine.txn([], [small, Put("/t/a", half), Put("/t/b", half)])
        with pytest.raises(DatastoreError, match=r"/t/b.* 1572864 bytes"):
            await engine.txn([], [small], [Put("/t/b", b"x" * LARGEST_REQUEST)])
        with pytest.raises(DatastoreError, match="1600003 bytes"):
            await engine.put("/t/" + "k" * 1_600_000, b"")
        assert [kv.key for kv in (await engine.range("/t/")).kvs] == ["/t/large"]
        assert (await engine.get("/t/large"))[1] == revision

    @pytest.mark.parametrize(("key", "words"), [("", "empty"), (NO_TEXT, "not Unicode")])
    async def test_an_empty_key_and_one_that_is_no_text_are_refused(
        self, engine: KVEngine, key: str, words: str
    ) -> None:
        revision = await engine.put("/t/a", b"1")
        absent = Compare(key, CompareTarget.VERSION, 0)
        for call in (
            lambda: engine.put(key, b""),
            lambda: engine.get(key),
            lambda: engine.delete(key),
            lambda: engine.txn([absent], []),
            lambda: engine.txn([], [Put("/t/b", b""), Get(key)]),
            lambda: engine.txn([], [], [Delete(key)]),
        ):
            with pytest.raises(DatastoreError, match=words):
                await call()
        assert (await engine.get("/t/b")) == (None, revision)

    async def test_a_prefix_that_is_no_text_is_refused(self, engine: KVEngine) -> None:
        for prefix, after in ((NO_TEXT, ""), ("/t/", NO_TEXT)):
            with pytest.raises(DatastoreError, match="not Unicode"):
                await engine.range(prefix, start_after=after)
        with pytest.raises(DatastoreError, match="not Unicode"):
            await anext(aiter(engine.watch(NO_TEXT, start_revision=1)))

    @pytest.mark.parametrize("key", ["/t/\0", "/t/a\0b", "/t/\x7f", "/t/é", "/t/\uffff", "/t/\U0010ffff", "\0", "t"])
    async def test_any_other_text_is_a_key(self, engine: KVEngine, key: str) -> None:
        revision = await engine.put(key, b"1")
        stored = KeyValue(key, b"1", revision, revision)
        assert await engine.get(key) == (stored, revision)
        assert (await engine.range(key)).kvs == (stored,)
        assert (await engine.txn([Compare(key, CompareTarget.VERSION, 1)], [Get(key)])).responses == (stored,)
        assert await engine.delete(key) == (stored, revision + 1)

    async def test_a_lease_that_is_not_there_refuses_the_whole_transaction(self, engine: KVEngine) -> None:
        revision = await engine.put("/t/a", b"1")
        unknown = [Put("/t/a", b"2"), Put("/t/b", b"2", lease=4711)]
        for branches in ((unknown, []), ([], unknown)):
            compares = [Compare("/t/a", CompareTarget.VERSION, 1 if branches[0] else 0)]
            with pytest.raises(DatastoreError, match="lease 4711 does not exist"):
                await engine.txn(compares, *branches)
        assert (await engine.txn([], [Get("/t/a")], unknown)).revision == revision
        assert (await engine.range("/t/")).kvs == (KeyValue("/t/a", b"1", revision, revision),)
