"""Several processes on one embedded datastore, one of them killed at work."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from calico_node.datastores.client import Client
from calico_node.datastores.embedded.engine import EmbeddedEngine
from calico_node.ipam import IPAM, KVStore
from tests.unit.ipam.test_component import node, pool

WORKER = """
import asyncio, sys
from pathlib import Path
from calico_node.datastores.client import Client
from calico_node.datastores.embedded.engine import EmbeddedEngine
from calico_node.ipam import IPAM, AssignRequest, KVStore

async def main(path, host, count):
    engine = await EmbeddedEngine.open(Path(path))
    ipam = IPAM(KVStore(Client(engine)))
    for number in range(count):
        handle = f"{host}.{number}"
        got = await ipam.auto_assign(AssignRequest(host, 1, handle_id=handle, attributes={"node": host}))
        print(handle, *got.addresses, got.explain(), flush=True)
        if number % 4 == 3:
            await ipam.release_by_handle(handle)
            print("released", handle, flush=True)
    await engine.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""
HOSTS = ("node-a", "node-b", "node-c")
COUNT = 24


def worker(path: Path, host: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(path), host, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_share_a_pool(tmp_path: Path) -> None:
    path = tmp_path / "datastore.db"
    asyncio.run(prepare(path))
    workers = [worker(path, host, COUNT) for host in HOSTS]
    victim = worker(path, "node-d", 10_000)
    assert victim.stdout is not None
    for _ in range(5):
        victim.stdout.readline()
    victim.kill()
    victim.communicate()
    held: dict[str, str] = {}
    for process in workers:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        for line in output.splitlines():
            first, second = line.split()
            if first == "released":
                held = {address: handle for address, handle in held.items() if handle != second}
            else:
                held[second.partition("/")[0]] = first
    assert len(held) == len(HOSTS) * COUNT * 3 // 4
    asyncio.run(compare(path, held))


async def prepare(path: Path) -> None:
    engine = await EmbeddedEngine.open(path)
    client = Client(engine)
    await client.ensure_initialized()
    await client.create(pool("p", "10.65.0.0/24"))
    for host in (*HOSTS, "node-d"):
        await client.create(node(host))
    await engine.close()


async def compare(path: Path, held: dict[str, str]) -> None:
    engine = await EmbeddedEngine.open(path)
    store = KVStore(Client(engine))
    stored: dict[str, str | None] = {}
    async for block in store.blocks():
        value = block.value
        for ordinal in range(len(value.allocations)):
            if (owner := value.owner(ordinal)) is not None:
                stored[value.address(ordinal)] = owner.handle
    assert {address: stored.get(address) for address in held} == held
    others = [handle for address, handle in stored.items() if address not in held]
    assert all(str(handle).startswith("node-d.") for handle in others)
    ipam = IPAM(store)
    for handle in {str(handle) for handle in others}:  # what the killed one held can be found by its handles
        await ipam.release_by_handle(handle)
    await engine.close()
