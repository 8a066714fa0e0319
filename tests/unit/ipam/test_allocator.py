"""What callers of the allocator see, one rule at a time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from attrs import evolve

from calico_node.datastores.kv import Put
from calico_node.errors import IPAMError, ResourceDoesNotExist
from calico_node.ipam import (
    AlreadyAssigned,
    AssignRequest,
    BlockLimit,
    BlockNotEmpty,
    IPAMConfig,
    KVStore,
    Pool,
    Release,
    ReleaseFailed,
)
from calico_node.ipam.blocks import Reservations
from calico_node.ipam.documents import PENDING, PENDING_DELETION, Affinity, AffinityKey, BlockKey, encode
from calico_node.ipam.pools import start_index, walk_blocks
from calico_node.ipam.store import key_path
from tests.unit.ipam.world import World, run

STRICT = IPAMConfig(strict_affinity=True)
TINY = Pool("tiny", "10.65.0.64/29", 29)


def bare(addresses: tuple[str, ...]) -> list[str]:
    return [address.partition("/")[0] for address in addresses]


def test_a_first_address_claims_a_block_and_names_its_owner() -> None:
    world = World(TINY)
    got = run(world.assign("node-a", handle="net.c0ffee", attributes={"pod": "nginx", "namespace": "default"}))
    assert got.complete
    assert got.ipv4.addresses == ("10.65.0.64/29",)
    block = world.block("10.65.0.64/29")
    assert block is not None
    assert block.affinity == "host:node-a"
    assert block.claim_time == world.now // 10**9
    owner = block.owner(0)
    assert owner is not None
    assert owner.secondary == {"node": "node-a", "pod": "nginx", "namespace": "default"}
    assert block.sequences == {0: world.now}
    assert block.sequence_number == world.now + 1
    assert world.affinities() == {("node-a", "10.65.0.64/29"): "confirmed"}
    assert world.handles() == {"net.c0ffee": {"10.65.0.64/29": 1}}


def test_released_addresses_go_to_the_end_of_the_queue() -> None:
    async def scenario() -> list[str]:
        world = World(TINY)
        await world.assign("node-a", 3)
        await world.ipam.release_ips(["10.65.0.64", "10.65.0.65"])
        return bare((await world.assign("node-a", 7)).ipv4.addresses)

    assert run(scenario()) == [f"10.65.0.{n}" for n in (67, 68, 69, 70, 71, 64, 65)]


def test_a_released_address_cools_down() -> None:
    async def scenario() -> None:
        world = World(TINY)
        await world.ipam.set_config(IPAMConfig(cooldown_seconds=60))
        got = await world.assign("node-a", 8, "h")
        await world.ipam.release_ips(["10.65.0.66"])
        assert (await world.ipam.release_ips(["10.65.0.66"])).unallocated == ("10.65.0.66",)
        assert not (await world.assign("node-a")).complete
        with pytest.raises(IPAMError, match="cools down"):
            await world.ipam.assignment("10.65.0.66")
        with pytest.raises(AlreadyAssigned):
            await world.ipam.assign_ip("10.65.0.66", hostname="node-a")
        world.pass_time(61)
        assert bare((await world.assign("node-a")).ipv4.addresses) == ["10.65.0.66"]
        assert len(got.addresses) == 8

    run(scenario())


def test_a_shortage_is_told_not_raised() -> None:
    world = World(TINY)
    got = run(world.assign("node-a", 9))
    assert not got.complete
    assert len(got.addresses) == 8
    assert got.explain().startswith("Assigned 8 out of 9 requested IPv4 addresses")
    assert "tiny(10.65.0.64/29)" in got.explain()


def test_borrowing_and_strict_affinity() -> None:
    async def scenario(strict: bool) -> World:
        world = World(TINY)
        if strict:
            await world.ipam.set_config(STRICT)
        await world.assign("node-a", 1)
        got = await world.assign("node-b", 2)
        assert len(got.addresses) == (0 if strict else 2)
        return world

    block = run(scenario(strict=False)).block("10.65.0.64/29")
    assert block is not None
    owner = block.owner(1)
    assert block.affinity == "host:node-a"
    assert owner is not None
    assert owner.secondary["node"] == "node-b"
    run(scenario(strict=True))


def test_the_block_limit_stops_before_borrowing() -> None:
    async def scenario() -> None:
        world = World(Pool("pool", "10.65.0.0/24", 29))
        await world.assign("node-b", 1)
        got = await world.assign("node-a", 17, max_blocks_per_host=2)
        assert len(got.addresses) == 16
        assert isinstance(got.error, BlockLimit)
        assert "node-a" in got.explain()

    run(scenario())


def test_the_default_limit_is_twenty_blocks() -> None:
    world = World(Pool("pool", "10.65.0.0/16", 30))
    got = run(world.assign("node-a", 1000))
    assert len(got.addresses) == 20 * 4
    assert isinstance(got.error, BlockLimit)


def test_an_empty_block_of_another_host_is_taken_after_a_minute() -> None:
    async def scenario() -> None:
        world = World(TINY)
        await world.ipam.set_config(STRICT)
        await world.assign("node-a", 1)
        await world.ipam.release_ips(["10.65.0.64"])
        assert not (await world.assign("node-b")).addresses
        world.pass_time(61)
        assert (await world.assign("node-b")).complete
        assert world.affinities() == {("node-b", "10.65.0.64/29"): "confirmed"}

    run(scenario())


def test_pools_are_chosen_by_selectors_use_and_name() -> None:
    pools = [
        Pool("a-manual", "10.1.0.0/24", 29, automatic=False),
        Pool("b-disabled", "10.2.0.0/24", 29, enabled=False),
        Pool("c-tunnels", "10.3.0.0/24", 29, allowed_uses=("Tunnel",)),
        Pool("d-rack", "10.4.0.0/24", 29, node_selector="rack == 'r1'"),
        Pool("e-team", "10.5.0.0/24", 29, namespace_selector="team == 'blue'"),
        Pool("f-all", "10.6.0.0/24", 29),
        Pool("v6", "fd00::/64", 122),
    ]
    world = World(*pools, nodes={"node-a": {"rack": "r1"}, "node-b": {}, "node-c": {}, "node-d": {}})

    async def pool_for(host: str, **more: Any) -> str:
        got = await world.assign(host, **more)
        return got.addresses[0].split(".")[1] if got.addresses else got.explain()

    async def scenario() -> None:
        assert await pool_for("node-a") == "4"
        assert await pool_for("node-b") == "6"
        assert await pool_for("node-c", namespace_labels={"team": "blue"}) == "5"
        assert await pool_for("node-d", use="Tunnel") == "3"
        assert await pool_for("node-b", pools4=("10.1.0.0/24",)) == "1"
        assert await pool_for("node-b", pools4=("10.4.0.0/24",)) == "4"
        assert "(10.2.0.0/24) does not exist, or is not enabled" in await pool_for("node-b", pools4=("10.2.0.0/24",))
        wrong_use = await pool_for("node-b", pools4=("10.3.0.0/24",))
        assert "no pools match the required use (Workload): c-tunnels" in wrong_use
        both = await world.ipam.auto_assign(AssignRequest(hostname="node-b", num4=1, num6=1))
        assert [address.rpartition("/")[2] for address in both.addresses] == ["29", "122"]
        missing = await world.assign("nobody")
        assert "Node(nobody)" in missing.explain()

    run(scenario())
    only = World(Pool("rack", "10.4.0.0/24", 29, node_selector="rack == 'r1'"))
    assert "no configured Calico pools for node node-a" in run(only.assign("node-a")).explain()
    broken = World(Pool("broken", "10.4.0.0/24", 29, node_selector="rack = 'r1'"))
    assert "IPPool(broken): spec.nodeSelector" in run(broken.assign("node-a")).explain()


def test_reservations_are_stepped_over_but_not_for_a_named_address() -> None:
    async def scenario() -> None:
        world = World(Pool("pool", "10.65.0.0/28", 29))
        world.reserved = ["10.65.0.0/31", "10.65.0.2/32", "10.65.0.8/29"]
        got = await world.assign("node-a", 20)
        assert bare(got.ipv4.addresses) == [f"10.65.0.{n}" for n in range(3, 8)]
        assert list(world.blocks()) == ["10.65.0.0/29"]
        assert await world.ipam.assign_ip("10.65.0.9", hostname="node-a") == "10.65.0.9"

    run(scenario())


def test_a_reserved_range_of_any_size_costs_nothing() -> None:
    world = World(Pool("big", "fd00::/16", 122))
    world.reserved = ["fd00::/17"]
    got = run(world.ipam.auto_assign(AssignRequest(hostname="node-a", num6=1)))
    assert got.complete
    assert int(got.addresses[0].split(":")[1] or "0", 16) >= 0x8000


@pytest.mark.parametrize(
    "pool", [Pool("p", "10.0.0.0/24", 28), Pool("p", "10.0.0.0/30", 32), Pool("p", "fd00::/120", 122)]
)
def test_a_walk_meets_every_block_once(pool: Pool) -> None:
    blocks = list(walk_blocks(pool, start_index(pool, "node-a", 1), Reservations()))
    assert len(blocks) == len(set(blocks)) == 2 ** (pool.block_size - int(pool.cidr.rpartition("/")[2]))
    assert all(pool.contains(block) for block in blocks)


def test_an_address_by_name() -> None:
    async def scenario() -> None:
        world = World(TINY, nodes={})
        assert await world.ipam.assign_ip("10.65.0.70", hostname="node-x", handle_id="h") == "10.65.0.70"
        block = world.block("10.65.0.64/29")
        assert block is not None
        assert (owner := block.owner(6)) is not None
        assert owner.secondary == {"node": "node-x"}
        with pytest.raises(AlreadyAssigned, match=r"10\.65\.0\.70"):
            await world.ipam.assign_ip("10.65.0.70", hostname="node-x")
        with pytest.raises(IPAMError, match="not in a configured pool"):
            await world.ipam.assign_ip("10.66.0.70", hostname="node-x")
        with pytest.raises(IPAMError, match="does not allow use LoadBalancer"):
            await world.ipam.assign_ip("10.65.0.71", hostname="node-x", use="LoadBalancer")
        await world.ipam.set_config(STRICT)
        with pytest.raises(IPAMError, match="Block host affinity does not match"):
            await world.ipam.assign_ip("10.65.0.71", hostname="node-y")

    run(scenario())


def test_release_by_handle() -> None:
    async def scenario() -> None:
        world = World(Pool("pool", "10.65.0.0/27", 29))
        got = await world.assign("node-a", 12, "net.c1")
        await world.assign("node-a", 1, "net.c2")
        assert sorted(await world.ipam.ips_by_handle("net.c1")) == sorted(bare(got.addresses))
        assert sorted(await world.ipam.release_by_handle("net.c1")) == sorted(bare(got.addresses))
        assert list(world.handles()) == ["net.c2"]
        with pytest.raises(ResourceDoesNotExist, match=r"net\.c1"):
            await world.ipam.release_by_handle("net.c1")

    run(scenario())


def test_handles_are_cut_at_a_carriage_return() -> None:
    async def scenario() -> None:
        world = World(TINY)
        await world.assign("node-a", 1, "net.c1\r\neth0")
        assert await world.ipam.assignment("10.65.0.64") is not None
        assert (await world.ipam.release_ips([Release("10.65.0.64", handle="net.c1")])).released == ("10.65.0.64",)

    run(scenario())


def test_a_release_that_does_not_match_is_refused_for_its_whole_block() -> None:
    async def scenario() -> None:
        world = World(Pool("pool", "10.65.0.0/27", 29))
        got = bare((await world.assign("node-a", 9, "h")).addresses)
        wrong = [Release(got[0], handle="h"), Release(got[1], handle="other"), Release(got[8], handle="h")]
        with pytest.raises(ReleaseFailed, match="held by handle 'h'") as caught:
            await world.ipam.release_ips(wrong)
        assert caught.value.result.released == (got[8],)
        assert got[0] in world.held()
        block = next(b for b in world.blocks().values() if b.in_use == 8)
        number = block.sequences[block.ordinal(got[0])]
        with pytest.raises(ReleaseFailed, match="sequence number"):
            await world.ipam.release_ips([Release(got[0], sequence=number - 1)])
        assert (await world.ipam.release_ips([Release(got[0], sequence=number)])).released == (got[0],)

    run(scenario())


def test_addresses_outside_every_pool_can_still_be_released() -> None:
    async def scenario() -> None:
        world = World(TINY)
        await world.assign("node-a", 1, "h")
        world.pool_list = [Pool("other", "10.99.0.0/24", 26)]
        result = await world.ipam.release_ips(["10.65.0.64", "192.0.2.1"])
        assert result.released == ("10.65.0.64",)
        assert result.unallocated == ("192.0.2.1",)
        assert world.handles() == {}

    run(scenario())


def test_affinities_given_up() -> None:
    async def scenario() -> None:
        world = World(TINY)
        await world.assign("node-a", 1, "h")
        with pytest.raises(BlockNotEmpty, match=r"10\.65\.0\.64/29"):
            await world.ipam.release_host_affinities("node-a", must_be_empty=True)
        await world.ipam.release_pool_affinities("10.65.0.64/29")
        block = world.block("10.65.0.64/29")
        assert block is not None
        assert (block.affinity, block.claim_time) == (None, None)
        assert world.affinities() == {}
        await world.ipam.release_by_handle("h")
        assert world.blocks() == {}  # the last address of a block without owner takes the block with it

    run(scenario())


def test_claiming_by_hand() -> None:
    async def scenario() -> None:
        world = World(Pool("pool", "10.65.0.0/24", 26))
        assert await world.ipam.claim_affinity("10.65.0.64/26", "node-b") == (["10.65.0.64/26"], [])
        claimed, failed = await world.ipam.claim_affinity("10.65.0.0/24", "node-a")
        assert (len(claimed), failed) == (3, ["10.65.0.64/26"])
        await world.ipam.release_affinity("10.65.0.0/25", "node-a")
        assert sorted(cidr for host, cidr in world.affinities() if host == "node-a") == [
            "10.65.0.128/26",
            "10.65.0.192/26",
        ]
        with pytest.raises(IPAMError, match="smaller than a block"):
            await world.ipam.claim_affinity("10.65.0.0/28", "node-a")

    run(scenario())


def test_ensure_block_is_idempotent() -> None:
    async def scenario() -> None:
        world = World()
        first = await world.ipam.ensure_block("node-a")
        assert await world.ipam.ensure_block("node-a") == first
        assert len(world.blocks()) == 1

    run(scenario())


def test_a_block_of_a_pool_that_no_longer_selects_the_node_is_let_go() -> None:
    async def scenario() -> None:
        world = World(Pool("one", "10.1.0.0/24", 29), Pool("two", "10.2.0.0/24", 29))
        await world.assign("node-a", 1)
        world.pool_list[0] = evolve(world.pool_list[0], node_selector="never == 'true'")
        assert (await world.assign("node-a")).addresses[0].startswith("10.2.")
        (old,) = [b for b in world.blocks().values() if b.cidr.startswith("10.1.")]
        assert old.affinity == "host:node-a"  # it still holds an address
        await world.ipam.release_ips([next(a for a in world.held() if a.startswith("10.1."))])
        assert all(b.cidr.startswith("10.2.") for b in world.blocks().values())

    run(scenario())


@pytest.mark.parametrize("state", [PENDING, PENDING_DELETION])
def test_a_claim_cut_short_is_finished_or_forgotten(state: str) -> None:
    async def scenario(step: str) -> World:
        world = World(TINY)
        if step != "no block":
            await world.ipam.ensure_block("node-a" if step == "ours" else "node-b")
        key = key_path(AffinityKey("node-a", "10.65.0.64/29"))
        await world.engine.put(key, encode(Affinity(state)))
        assert await world.ipam.repair_affinities("node-a") == ["10.65.0.64/29"]
        return world

    assert run(scenario("ours")).affinities() == {("node-a", "10.65.0.64/29"): "confirmed"}
    assert ("node-a", "10.65.0.64/29") not in run(scenario("theirs")).affinities()
    assert run(scenario("no block")).affinities() == {}


def test_one_malformed_block_does_not_stop_the_others() -> None:
    async def scenario() -> None:
        world = World(Pool("pool", "10.65.0.0/28", 29))
        for cidr in ("10.65.0.0/29", "10.65.0.8/29"):
            await world.engine.put(key_path(BlockKey(cidr)), b'{"cidr":"nonsense"}')
            got = await world.assign("node-a")
            if cidr.startswith("10.65.0.0"):
                assert got.complete
                assert got.addresses[0] == "10.65.0.8/29"
            else:
                assert not got.complete

    run(scenario())


def test_the_configuration() -> None:
    async def scenario() -> None:
        world = World()
        assert await world.ipam.get_config() == IPAMConfig()
        assert key_path(BlockKey("10.0.0.0/26")) not in world.engine.data
        with pytest.raises(IPAMError, match="Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks'"):
            await world.ipam.set_config(IPAMConfig(auto_allocate_blocks=False))
        with pytest.raises(IPAMError, match="MaxBlocksPerHost requires StrictAffinity"):
            await world.ipam.set_config(IPAMConfig(max_blocks_per_host=3))
        await world.ipam.set_config(IPAMConfig(strict_affinity=True, auto_allocate_blocks=False))
        got = await world.assign("node-a")
        assert "failed to find or claim a block for host node-a" in got.explain()

    run(scenario())


def test_a_datastore_that_hangs_ends_in_an_error_that_says_so() -> None:
    async def scenario() -> None:
        world = World()

        async def hang(*_: Any, **__: Any) -> Any:
            await asyncio.sleep(3600)

        world.engine.get = hang  # type: ignore[method-assign]
        world.ipam._timeout = 0.05
        got = await world.assign("node-a")
        assert got.explain() == "could not assign addresses to node-a within 0.05 s"

    run(scenario())


def test_a_malformed_pool_is_left_out_and_a_malformed_reservation_is_named() -> None:
    def resource(name: str, **spec: Any) -> Any:
        members = dict.fromkeys(
            ["block_size", "node_selector", "namespace_selector", "allowed_uses", "assignment_mode", "disabled"]
        )
        members |= {"ipip_mode": None, "vxlan_mode": None, **spec}
        return SimpleNamespace(
            metadata=SimpleNamespace(name=name, resource_version="7"), spec=SimpleNamespace(**members), status=None
        )

    stored = {
        "IPPool": [
            resource("c", cidr="10.0.0.0/24"),
            resource("b", cidr="10.0.0.0/40"),
            resource("a", cidr="10.1.0.0/28", block_size=26),
            resource("9", cidr="fd00::/64", disabled=True),
        ],
        "IPReservation": [resource("mine", reserved_cidrs=["10.0.0.1/32", "10.0.0.0/99"])],
    }

    async def list_kind(kind: str) -> Any:
        return SimpleNamespace(items=stored[kind])

    async def scenario() -> None:
        store = KVStore(SimpleNamespace(list=list_kind))
        pools = await store.pools()
        assert [(pool.name, pool.block_size, pool.enabled) for pool in pools] == [("9", 122, False), ("c", 26, True)]
        with pytest.raises(IPAMError, match=r"IPReservation\(mine\): spec.reservedCIDRs: .*10\.0\.0\.0/99"):
            await store.reservations()

    run(scenario())


def test_members_of_a_newer_release_outlive_assigning_and_releasing() -> None:
    world = World()

    async def scenario() -> None:
        await world.assign("node-a", handle="h")
        world.pass_time(1)
        for key, kv in list(world.engine.data.items()):
            data = {**orjson.loads(kv.value), "fromTheFuture": 1}
            await world.engine.txn([], [Put(key, orjson.dumps(data))])
        await world.assign("node-a", handle="h")
        await world.assign("node-a", handle="other")
        await world.ipam.release_by_handle("other")
        await world.ipam.release_host_affinities("node-a")

    run(scenario())
    newer = [key for key, kv in world.engine.data.items() if b'"fromTheFuture":1' in kv.value]
    assert {key.split("/")[4] for key in newer} >= {"assignment", "handle"}
    assert any("/block/" in key and len(world.held()) == 2 for key in newer)
