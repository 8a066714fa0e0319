"""Prints what calicoctl costs: ``python -m tests.benchmarks.calicoctl [POLICIES]``.

Start to exit of ``version`` beside ``python3 -c pass``, then ``get`` of 10,000 policies as a table and as YAML beside
reading the same values straight from the datastore's file; ``ipam show`` and ``check`` of 20,000 addresses beside
reading those.  Each figure is the median of several runs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from calico_node.datastores.client import Client, write_resource
from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.kv import Put
from calico_node.datastores.names import resource_key
from calico_node.resources import API_VERSION, from_dict

COMMAND = (sys.executable, "-m", "calico_node.calicoctl")


def _median(call: Callable[[], object], runs: int) -> float:
    took = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def _process(*command: str, environ: dict[str, str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)


async def _fill(path: Path, policies: int) -> None:
    engine = await EmbeddedEngine.open(path)
    try:
        client = Client(engine)
        await client.ensure_initialized()
        puts = []
        for number in range(policies):
            document = {
                "apiVersion": "projectcalico.org/v3",
                "kind": "NetworkPolicy",
                "metadata": {
                    "name": f"policy-{number}",
                    "namespace": f"ns-{number % 50}",
                    "uid": f"00000000-0000-0000-0000-{number:012}",
                    "creationTimestamp": "2026-08-01T10:00:00Z",
                    "labels": {"projectcalico.org/tier": "default"},
                },
                "spec": {
                    "tier": "default",
                    "selector": f"app == 'a{number}' && has(role)",
                    "types": ["Ingress"],
                    "ingress": [
                        {
                            "action": "Allow",
                            "protocol": "TCP",
                            "source": {"selector": f"role == 'client-{number}'"},
                            "destination": {"ports": [80, 443, "8000:8100"]},
                        }
                    ],
                },
            }
            resource = from_dict(document)
            key = resource_key("NetworkPolicy", resource.metadata.name, resource.metadata.namespace)
            puts.append(Put(key, write_resource(resource)))
        for start in range(0, len(puts), 100):
            await engine.txn((), puts[start : start + 100])
    finally:
        await engine.close()


async def _fill_ipam(path: Path, addresses: int) -> None:
    """A pool with full blocks of 64, each of a node of its own; every address has its handle and its endpoint."""
    engine = await EmbeddedEngine.open(path)
    try:
        client = Client(engine)
        await client.ensure_initialized()
        pool = {
            "kind": "IPPool",
            "apiVersion": API_VERSION,
            "metadata": {"name": "p"},
            "spec": {"cidr": "10.0.0.0/8"},
        }
        await client.create(from_dict(pool))
        puts = []
        first = int(ipaddress.ip_address("10.0.0.0"))
        for block in range(addresses // 64):
            cidr, node = f"{ipaddress.ip_address(first + 64 * block)}/26", f"n{block}"
            attributes = []
            for ordinal in range(64):
                pod = f"p{64 * block + ordinal}"
                address = str(ipaddress.ip_address(first + 64 * block + ordinal))
                owner = {"node": node, "namespace": "ns", "pod": pod}
                attributes.append({"handle_id": f"net.{pod}", "secondary": owner})
                handle = {"block": {cidr: 1}, "deleted": False}
                puts.append(Put(f"/calico/ipam/v2/handle/net.{pod}", orjson.dumps(handle)))
                puts.append(_endpoint(node, pod, address))
            value = {
                "cidr": cidr,
                "affinity": f"host:{node}",
                "allocations": list(range(64)),
                "unallocated": [],
                "attributes": attributes,
                "sequenceNumber": 1785578400000000004,
                "deleted": False,
            }
            key = f"/calico/ipam/v2/assignment/ipv4/block/{cidr.replace('/', '-')}"
            puts.append(Put(key, orjson.dumps(value)))
        for start in range(0, len(puts), 100):
            await engine.txn((), puts[start : start + 100])
    finally:
        await engine.close()


def _endpoint(node: str, pod: str, address: str) -> Put:
    document = {
        "apiVersion": API_VERSION,
        "kind": "WorkloadEndpoint",
        "metadata": {"name": f"{node}-k8s-{pod}-eth0", "namespace": "ns"},
        "spec": {
            "node": node,
            "orchestrator": "k8s",
            "pod": pod,
            "endpoint": "eth0",
            "interfaceName": f"cali{pod}",
            "ipNetworks": [f"{address}/32"],
        },
    }
    resource = from_dict(document)
    return Put(resource_key("WorkloadEndpoint", resource.metadata.name, "ns"), write_resource(resource))


def _ipam(addresses: int, bare: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "datastore.db"
        environ = {"PATH": os.environ["PATH"], "CALICO_DATASTORE_PATH": str(path)}
        asyncio.run(_fill_ipam(path, addresses))
        raw = _median(lambda: _read_all(path), 3)
        print(f"{'the values from the file':42} {raw * 1e3:8.0f} ms")
        for arguments in (("show",), ("show", "--show-blocks"), ("check",)):
            took = _median(_process(*COMMAND, "ipam", *arguments, environ=environ), 3)
            each = f"{took / addresses * 1e6:.0f} µs each, {took / bare:.0f} times python3 -c pass"
            print(f"calicoctl ipam {' '.join(arguments):27} {took * 1e3:8.0f} ms   ({addresses} addresses: {each})")


def main() -> None:
    policies = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "datastore.db"
        environ = {"PATH": os.environ["PATH"], "CALICO_DATASTORE_PATH": str(path)}
        asyncio.run(_fill(path, policies))
        bare = _median(_process(sys.executable, "-c", "pass", environ=environ), 15)
        print(f"{'python3 -c pass':42} {bare * 1e3:8.0f} ms")
        for arguments in (("version", "--client"), ("version",), ("get", "networkpolicy", "-n", "none")):
            took = _median(_process(*COMMAND, *arguments, environ=environ), 15)
            print(
                f"calicoctl {' '.join(arguments):32} {took * 1e3:8.0f} ms   ({took / bare:.1f} times python3 -c pass)"
            )
        raw = _median(lambda: _read_all(path), 3)
        print(f"{'the values from the file':42} {raw * 1e3:8.0f} ms")
        for form in ("ps", "yaml", "json"):
            took = _median(_process(*COMMAND, "get", "networkpolicy", "-A", "-o", form, environ=environ), 3)
            each = f"{took / policies * 1e6:.0f} µs each, {took / bare:.0f} times python3 -c pass"
            print(f"calicoctl get {policies} policies as {form:10} {took * 1e3:8.0f} ms   ({each})")
    _ipam(20_000, bare)


def _read_all(path: Path) -> None:
    connection = sqlite3.connect(path)
    tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
    for table in tables:
        connection.execute(f"select * from {table}").fetchall()
    connection.close()


if __name__ == "__main__":
    main()
