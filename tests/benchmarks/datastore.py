"""Prints what the datastore costs: ``python -m tests.benchmarks.datastore [OBJECTS]``.

Commits a second, one after another and many at once; the time from a commit to the event in another process; the
syncer's time for each workload endpoint of a first list, and from a commit to its batch.  Beside the commit stands a
bare write and fsync of the same disk, since that is what durability costs here.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from calico_node.datastores.client import Client, write_resource
from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.kv import Put
from calico_node.datastores.names import kind_prefix
from calico_node.model import SyncStatus
from calico_node.resources import from_dict
from calico_node.syncer import SyncerKind, stream

COMMITS = 500
VALUE = b"x" * 800


def _fsync_cost(folder: Path) -> float:
    with (folder / "fsync").open("wb") as file:
        started = time.perf_counter()
        for _ in range(COMMITS):
            file.write(VALUE * 5)
            file.flush()
            os.fsync(file.fileno())
        return (time.perf_counter() - started) / COMMITS


def _median_and_most(delays: list[float]) -> str:
    return f"{statistics.median(delays) * 1e3:8.3f} ms median, {max(delays) * 1e3:.3f} ms most"


async def _commits(engine: EmbeddedEngine, folder: Path) -> None:
    bare = await asyncio.to_thread(_fsync_cost, folder)
    started = time.perf_counter()
    for number in range(COMMITS):
        await engine.put(f"/one/{number}", VALUE)
    single = (time.perf_counter() - started) / COMMITS
    started = time.perf_counter()
    await asyncio.gather(*(engine.put(f"/many/{number}", VALUE) for number in range(COMMITS)))
    many = (time.perf_counter() - started) / COMMITS
    print(f"commit, one after another   {single * 1e3:8.3f} ms   ({single / bare:.1f} of a bare fsync)")
    print(f"commit, {COMMITS} at once         {many * 1e3:8.3f} ms each")


async def _event_in_another_process(engine: EmbeddedEngine, path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.datastores.other_process", str(path), "stamp", "100"]
    _, revision = await engine.get("/stamp")
    writer = await asyncio.create_subprocess_exec(*command)
    delays: list[float] = []
    async with aclosing(engine.watch("/stamp", start_revision=revision + 1)) as watch:
        async for batch in watch:
            delays += [time.monotonic() - float(event.kv.value) for event in batch.events]
            if len(delays) >= 100:
                break
    await writer.wait()
    print(f"put to event elsewhere      {_median_and_most(delays)}")


async def _syncer(engine: EmbeddedEngine, objects: int) -> None:
    client = Client(engine)
    await client.ensure_initialized()
    spec = {
        "orchestrator": "k8s", "node": "n1", "pod": "web", "endpoint": "eth0", "ipNetworks": ["192.168.0.5/32"],
        "interfaceName": "cali123", "mac": "ee:ee:ee:ee:ee:ee", "profiles": ["kns.prod", "ksa.prod.default"],
    }  # fmt: skip
    metadata = {"namespace": "prod", "labels": {f"label{number}": "value" for number in range(6)}}
    document = {"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": metadata, "spec": spec}
    value = write_resource(await client.create(from_dict(document)))
    prefix = f"{kind_prefix('WorkloadEndpoint')}prod/n1-k8s-web"
    for first in range(0, objects, 100):
        numbers = range(first, min(first + 100, objects))
        await engine.txn([], [Put(f"{prefix}{number}-eth0", value) for number in numbers])
    started = time.perf_counter()
    async with aclosing(stream(client, SyncerKind.FELIX, node_name="n1")) as batches:
        async for batch in batches:
            if batch.status is SyncStatus.IN_SYNC:
                break
        print(f"first list                  {(time.perf_counter() - started) / objects * 1e6:8.1f} µs an endpoint")
        delays = []
        for number in range(200):
            started = time.perf_counter()
            changed = value.replace(b"192.168.0.5/32", b"192.168.1.%d/32" % number)
            revision = await engine.put(f"{prefix}1-eth0", changed)
            async for batch in batches:
                if batch.revision >= revision:
                    break
            delays.append(time.perf_counter() - started)
    print(f"put to the syncer's batch   {_median_and_most(delays)}")


async def main(objects: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "datastore.db"
        engine = await EmbeddedEngine.open(path)
        await _commits(engine, Path(folder))
        await _event_in_another_process(engine, path)
        await _syncer(engine, objects)
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000))
