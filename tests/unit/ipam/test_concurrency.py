"""Many hosts, one datastore, every interleaving and crash that hypothesis thinks of.

Whatever happens, no address is ever held twice, blocks stay consistent, an affinity is confirmed only where the block
names the host, and handles never count too little.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.datastores.kv import Compare, KeyValue, Operation, RangeResult, TxnResult
from calico_node.errors import CalicoError, ResourceDoesNotExist
from calico_node.ipam import IPAM, AssignRequest, IPAMConfig, Pool, ReleaseFailed
from tests.unit.ipam.world import World, run

HOSTS = ("node-a", "node-b", "node-c")
POOL = Pool("pool", "10.65.0.0/28", 30)  # four blocks of four: contention everywhere


class Crash(BaseException):
    """The host dies between two steps."""


class Flaky:
    """An engine that lets others go first as a seed says, and dies after so many operations, just before or just
    after the last one."""

    def __init__(self, world: World, seed: int, die_after: int | None) -> None:
        self._engine = world.engine
        self._random = random.Random(seed)
        self._left = die_after

    async def _step(self) -> bool:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)
        if self._left is None:
            return False
        self._left -= 1
        if self._left < 0 and self._random.random() < 0.5:
            raise Crash
        return self._left < 0

    async def get(self, key: str, *, revision: int = 0) -> tuple[KeyValue | None, int]:
        await self._step()
        return await self._engine.get(key)

    async def range(self, prefix: str, *, start_after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        await self._step()
        return await self._engine.range(prefix, start_after=start_after, limit=2)

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        dying = await self._step()
        result = await self._engine.txn(compares, success, failure)
        if dying:
            raise Crash
        return result


class Host:
    """One host's calls, and what it knows to hold.  ``held`` is shared by all hosts."""

    def __init__(self, world: World, name: str, held: dict[str, str], seed: int, die_after: int | None) -> None:
        self.world = world
        self.name = name
        self.held = held
        self.random = random.Random(seed)
        self.ipam: IPAM = world.allocator(Flaky(world, seed, die_after))
        self.counter = 0
        self.unsure: set[str] = set()

    def _take(self, addresses: Sequence[str], handle: str) -> None:
        for address in addresses:
            address = address.partition("/")[0]
            assert address not in self.held, f"{address} was given to {self.held[address]} and to {handle}"
            self.held[address] = handle

    async def run(self, operations: Sequence[str]) -> None:
        for operation in operations:
            try:
                await getattr(self, operation)()
            except (Crash, BaseExceptionGroup) as error:
                if isinstance(error, BaseExceptionGroup) and error.split(Crash)[1] is not None:
                    raise
                return
            except (ReleaseFailed, ResourceDoesNotExist, CalicoError):
                pass

    async def assign(self) -> None:
        self.counter += 1
        handle = f"{self.name}.{self.counter}"
        count = self.random.randint(1, 5)
        self.unsure.add(handle)
        request = AssignRequest(self.name, count, handle_id=handle, attributes={"node": self.name})
        got = await self.ipam.auto_assign(request)
        self._take(got.addresses, handle)
        self.unsure.discard(handle)

    async def assign_named(self) -> None:
        self.counter += 1
        handle = f"{self.name}.{self.counter}"
        address = f"10.65.0.{self.random.randrange(16)}"
        self.unsure.add(handle)
        self._take([await self.ipam.assign_ip(address, hostname=self.name, handle_id=handle)], handle)
        self.unsure.discard(handle)

    def _mine(self) -> list[str]:
        return [address for address, handle in self.held.items() if handle.startswith(self.name + ".")]

    async def release(self) -> None:
        mine = self._mine()
        if not mine:
            return
        chosen = self.random.sample(mine, self.random.randint(1, len(mine)))
        for address in chosen:
            self.unsure.add(self.held.pop(address))
        await self.ipam.release_ips(chosen)

    async def release_handle(self) -> None:
        mine = self._mine()
        if not mine:
            return
        handle = self.held[self.random.choice(mine)]
        for address in [address for address, owner in self.held.items() if owner == handle]:
            del self.held[address]
        self.unsure.add(handle)
        await self.ipam.release_by_handle(handle)

    async def give_up_blocks(self) -> None:
        await self.ipam.release_host_affinities(self.name, must_be_empty=self.random.random() < 0.5)

    async def steal(self) -> None:
        self.world.pass_time(61)

    async def repair(self) -> None:
        await self.ipam.repair_affinities(self.name)


OPERATIONS = ("assign", "assign", "assign_named", "release", "release_handle", "give_up_blocks", "steal", "repair")


def check_affinities(world: World) -> None:
    blocks = world.blocks()  # decoding checks each block's own invariants
    for (host, cidr), state in world.affinities().items():
        if state == "confirmed":
            assert cidr in blocks, f"{host} is confirmed for {cidr}, which is not there"
            assert blocks[cidr].affinity == f"host:{host}"


def check_at_rest(world: World, held: dict[str, str], unsure: set[str]) -> None:
    stored = world.held()
    for address, handle in held.items():
        assert stored.get(address) == handle
    for address, handle in stored.items():
        assert address in held or handle in unsure, f"{address} of {handle} is held by nobody"
    counts: dict[tuple[str | None, str], int] = {}
    for block in world.blocks().values():
        for ordinal, index in enumerate(block.allocations):
            assert (index is None) == (ordinal in block.unallocated)
            if index is not None:
                key = (block.attributes[index].handle, block.cidr)
                counts[key] = counts.get(key, 0) + 1
    for (handle, cidr), count in counts.items():
        assert world.handles()[str(handle)].get(cidr, 0) >= count


@settings(max_examples=150, deadline=None)
@given(
    plans=st.lists(
        st.tuples(
            st.sampled_from(HOSTS),
            st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=8),
            st.integers(0, 2**32),
            st.none() | st.integers(0, 60),
        ),
        min_size=1,
        max_size=6,
    ),
    strict=st.booleans(),
)
def test_no_address_is_ever_held_twice(plans: list[tuple[str, list[str], int, int | None]], strict: bool) -> None:
    async def scenario() -> None:
        world = World(POOL, nodes={name: {} for name in HOSTS})
        await world.ipam.set_config(IPAMConfig(strict_affinity=strict))
        world.engine.on_write = lambda: check_affinities(world)
        held: dict[str, str] = {}
        # Each actor is one process: two of one host name are an old and a new incarnation, or CNI and agent.
        hosts = [
            Host(world, name, held, seed + index, die_after) for index, (name, _, seed, die_after) in enumerate(plans)
        ]
        for index, host in enumerate(hosts):
            host.counter = index * 1000
        await asyncio.gather(
            *(host.run(operations) for host, (_, operations, _, _) in zip(hosts, plans, strict=True))
        )
        unsure = set[str]().union(*(host.unsure for host in hosts))
        check_at_rest(world, held, unsure)
        await everything_can_be_released(world, held, unsure)

    run(scenario())


async def everything_can_be_released(world: World, held: dict[str, str], unsure: set[str]) -> None:
    """After all crashes: by handle every address comes back, and the blocks with them."""
    await world.ipam.set_config(IPAMConfig())
    for handle in {*held.values(), *unsure}:
        try:
            await world.ipam.release_by_handle(handle)
        except ResourceDoesNotExist:
            pass
    assert world.held() == {}
    for name in HOSTS:
        await world.ipam.release_host_affinities(name, must_be_empty=True)
    assert world.affinities() == {}
    world.pass_time(61)
    world.engine.on_write = lambda: None
    got = await world.assign("node-a", 16)
    assert len(got.addresses) == 16


def test_hosts_share_a_full_pool_fairly_enough() -> None:
    """Sixteen addresses, twelve concurrent wishes of one: all are fulfilled, though most must borrow or race."""

    async def scenario() -> None:
        world = World(POOL, nodes={name: {} for name in HOSTS})
        actors: list[Any] = [world.allocator(Flaky(world, seed, None)) for seed in range(12)]
        requests = [
            AssignRequest(HOSTS[n % 3], 1, handle_id=f"h{n}", attributes={"node": HOSTS[n % 3]}) for n in range(12)
        ]
        results = await asyncio.gather(*(a.auto_assign(r) for a, r in zip(actors, requests, strict=True)))
        assert [result.explain() for result in results] == [""] * 12
        assert len({result.addresses[0] for result in results}) == 12

    run(scenario())
