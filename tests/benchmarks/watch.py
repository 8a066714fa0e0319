"""Prints what a busy watch costs: ``python -m tests.benchmarks.watch [RATE] [SECONDS] [ENDPOINTS] [A_COMMIT]``.

A real etcd on loopback; another process changes WorkloadEndpoints (and every hundredth time a policy) at RATE changes
a second, A_COMMIT of them in one transaction, which etcd tells a watch in one message.  Two readers follow it in
processes of their own, one after the other: a bare one that only takes the events from ``EtcdEngine.watch`` (the
reference), and the Felix syncer stream with everything decoded, validated and converted.  For each: the lag from the
commit's answer in the writer to the reader (p50, p99, most), the changes handled a second, the reader's processor
time in percent of a core and for each change, and the longest time its loop was held.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any

from calico_node.datastores.client import Client
from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.datastores.kv import Put
from calico_node.datastores.names import RESOURCES_PREFIX, resource_key
from calico_node.model import SyncStatus
from calico_node.syncer import SyncerKind, stream
from tests.interop.datastores.conftest import Etcd

STAMP = "bench.example.org/stamp"
_IN_EVENT = re.compile(rb'"bench\.example\.org/stamp": ?"([0-9.]+)"')


def _object(kind: str, name: str, spec: dict[str, Any]) -> bytes:
    namespace = {"namespace": "prod"} if kind != "GlobalNetworkPolicy" else {}
    metadata = {
        "name": name, **namespace, "uid": "a7b0f3c8-94b8-4e66-9b4a-0a1b2c3d4e5f",
        "creationTimestamp": "2026-08-01T10:00:00Z", "labels": {f"label{number}": "value" for number in range(6)},
        "annotations": {STAMP: f"{time.time():.6f}"},
    }  # fmt: skip
    document = {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec}
    return json.dumps(document, separators=(",", ":")).encode()


def _change(number: int, endpoints: int) -> Put:
    if number % 100 == 99:
        spec = {
            "selector": "label1 == 'value'", "types": ["Ingress"], "order": number % 1000,
            "ingress": [{"action": "Allow", "source": {"selector": f"label2 == 'v{number % 7}'"}}],
        }  # fmt: skip
        return Put(
            resource_key("GlobalNetworkPolicy", f"p{number % 1000}"), _object("GlobalNetworkPolicy", "p", spec)
        )
    which = number % endpoints
    name = f"n{which % 100}-k8s-web{which}-eth0"
    spec = {
        "orchestrator": "k8s", "node": f"n{which % 100}", "pod": f"web{which}", "endpoint": "eth0",
        "ipNetworks": [f"10.{which >> 8 & 255}.{which & 255}.{number // endpoints % 250}/32"],
        "interfaceName": f"cali{which}", "mac": "ee:ee:ee:ee:ee:ee", "profiles": ["kns.prod", "ksa.prod.default"],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80 + number % 9}],
    }  # fmt: skip
    return Put(resource_key("WorkloadEndpoint", name, "prod"), _object("WorkloadEndpoint", name, spec))


async def write(endpoint: str, rate: int, seconds: int, endpoints: int, a_commit: int) -> None:
    """Paced changes; a late transaction is not skipped.  Prints what was reached."""
    engine = EtcdEngine([endpoint])
    started, number, running = time.monotonic(), 0, set[asyncio.Task[Any]]()
    while number < rate * seconds:
        await asyncio.sleep(max(started + number / rate - time.monotonic(), 0))
        puts = [_change(number + step, endpoints) for step in range(a_commit)]
        running.add(task := asyncio.ensure_future(engine.txn([], puts)))
        task.add_done_callback(running.discard)
        number += a_commit
        if len(running) > 50:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*running)
    elapsed = time.monotonic() - started
    await engine.put("/calico/end", b"")
    await engine.put(
        resource_key("GlobalNetworkSet", "end"), b'{"kind":"GlobalNetworkSet","metadata":{"name":"end"}}'
    )
    print(f"written: {number} changes in {elapsed:.1f} s, {number / elapsed:.0f} a second, {a_commit} a commit")
    await engine.close()


class Reader:
    """What one reader saw; prints itself."""

    def __init__(self) -> None:
        self.lags: list[float] = []
        self.held = 0.0
        self.first = self.processor = 0.0

    def note(self, stamp: str | bytes) -> None:
        if not self.lags:
            self.first, self.processor = time.monotonic(), time.process_time()
        self.lags.append(time.time() - float(stamp))

    async def measure_loop(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.held = max(self.held, time.perf_counter() - before - 0.001)

    def report(self, name: str) -> None:
        elapsed = time.monotonic() - self.first
        processor = time.process_time() - self.processor
        lags = sorted(self.lags)
        p50, p99, most = (lags[int((len(lags) - 1) * part)] * 1e3 for part in (0.5, 0.99, 1))
        print(
            f"{name:8} {len(lags) / elapsed:7.0f} changes/s, lag p50 {p50:7.1f} p99 {p99:7.1f} most {most:7.1f} ms, "
            f"{processor / elapsed * 100:4.0f} % of a core, {processor / len(lags) * 1e6:4.0f} µs a change, "
            f"loop held {self.held * 1e3:.1f} ms at most"
        )


async def read_bare(endpoint: str) -> None:
    engine, reader = EtcdEngine([endpoint]), Reader()
    _, revision = await engine.get("/")
    loop = asyncio.ensure_future(reader.measure_loop())
    print("ready", flush=True)
    async with aclosing(engine.watch(RESOURCES_PREFIX, start_revision=revision + 1, previous=False)) as watch:
        async for batch in watch:
            for event in batch.events:
                if found := _IN_EVENT.search(event.kv.value):
                    reader.note(found[1])
            if any(event.kv.key.endswith("/end") for event in batch.events):
                break
    loop.cancel()
    reader.report("bare")
    await engine.close()


async def read_stream(endpoint: str) -> None:
    """The stamp of a policy does not reach the consumer; endpoints stand for all."""
    engine, reader = EtcdEngine([endpoint]), Reader()
    kinds: Counter[str] = Counter()
    loop = asyncio.ensure_future(reader.measure_loop())
    ready = False
    async with aclosing(stream(Client(engine), SyncerKind.FELIX, node_name="n1")) as batches:
        async for batch in batches:
            if ready:
                for update in batch.updates:
                    kinds[type(update.key).__name__] += 1
                    if stamp := getattr(update.value, "annotations", {}).get(STAMP):
                        reader.note(stamp)
            if not ready and batch.status is SyncStatus.IN_SYNC:
                ready, reader.held = True, 0.0
                print("ready", flush=True)
            if any(getattr(update.key, "name", "") == "end" and update.value for update in batch.updates) and ready:
                break
    loop.cancel()
    reader.report("stream")
    print(f"         delivered: {dict(kinds)}")
    await engine.close()


def main(rate: int, seconds: int, endpoints: int, a_commit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        etcd = Etcd("etcd", Path(folder))
        etcd.start()
        command = [sys.executable, "-m", "tests.benchmarks.watch"]
        load = [str(rate), str(seconds), str(endpoints), str(a_commit)]
        try:
            for reader in ("read_bare", "read_stream"):
                with subprocess.Popen(
                    [*command, reader, etcd.endpoint], stdout=subprocess.PIPE, text=True
                ) as process:
                    assert process.stdout is not None
                    process.stdout.readline()
                    subprocess.run([*command, "write", etcd.endpoint, *load], check=True)
                    print(process.communicate(timeout=120)[0], end="")
                asyncio.run(_remove_end(etcd.endpoint))
        finally:
            etcd.stop()


async def _remove_end(endpoint: str) -> None:
    engine = EtcdEngine([endpoint])
    await engine.delete(resource_key("GlobalNetworkSet", "end"))
    await engine.close()


if __name__ == "__main__":
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    if role == "write":
        asyncio.run(write(sys.argv[2], *map(int, sys.argv[3:7])))
    elif role in ("read_bare", "read_stream"):
        gc.set_threshold(5_000, 5, 1_000_000)  # as the agent does
        asyncio.run(globals()[role](sys.argv[2]))
    else:
        given = [int(text) for text in sys.argv[1:]]
        main(*[*given, *(5000, 10, 5000, 25)[len(given) :]])
