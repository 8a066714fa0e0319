"""One node: a network namespace with a running ``calico-node``, and pods whose interfaces nobody has prepared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from calico_node.datastores import open_client
from calico_node.linux.namespaces import call_in_netns
from calico_node.resources import from_dict
from calico_node.settings import Settings

BIN = Path(sys.executable).parent
GATEWAY = "169.254.1.1"


def run(command: str) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def document(kind: str, name: str, namespace: str = "", labels: dict[str, str] | None = None, **spec: Any) -> Any:
    metadata: dict[str, Any] = {"name": name, "labels": labels or {}}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}


class Node:
    """``with`` makes the namespace; ``start`` runs Felix in it alone; writes go straight to the shared datastore."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"felix-{os.getpid()}"
        self.spaces = [self.name]
        self.environ = {
            "NODENAME": "node1",
            "IP": "172.30.0.1/24",
            "CALICO_RUN_DIR": str(folder / "run"),
            "CALICO_STATE_DIR": str(folder / "state"),
            "CALICO_COMPONENTS": "felix",
            "CALICO_DATAPLANE": "nftables",
            "DATASTORE_TYPE": "embedded",
        }
        self.process: subprocess.Popen[str] | None = None
        self.runner = asyncio.Runner()
        self._client: Any = None
        self._exit = contextlib.AsyncExitStack()

    def __enter__(self) -> Node:
        run(f"ip netns add {self.name}")
        for command in (
            "link set lo up",
            "link add eth0 type veth peer name eth1",
            "address add 172.30.0.1/24 dev eth0",
            "link set eth0 up",
            "link set eth1 up",
            "route add default via 172.30.0.2",
        ):
            run(f"ip -n {self.name} {command}")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.runner.run(self._exit.aclose())
        self.runner.close()
        for name in reversed(self.spaces):
            run(f"ip netns del {name}")

    def start(self) -> None:
        log = (self.folder / "log").open("a")
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, str(BIN / "calico-node"), "run"],
            env={**os.environ, **self.environ},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.until(lambda: self.felix().get("ready", False))

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None and self.process.poll() is None:
            (self.process.kill if kill else self.process.terminate)()
            self.process.wait(10)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def felix(self) -> dict[str, Any]:
        """Felix's line of the health listener; {} while nothing answers."""

        def fetch() -> bytes:
            with socket.create_connection(("127.0.0.1", 9099), timeout=2) as sock:
                sock.sendall(b"GET /status HTTP/1.0\r\n\r\n")
                return b"".join(iter(lambda: sock.recv(65536), b""))

        try:
            answer = call_in_netns(f"/run/netns/{self.name}", fetch)
        except OSError:
            return {}
        felix: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["components"].get("felix", {})
        return felix

    def until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {self.felix()}\n{self.log()[-3000:]}"
            time.sleep(0.02)

    # The datastore

    async def _open(self) -> Any:
        if self._client is None:
            self._client = await self._exit.enter_async_context(open_client(Settings.load(self.environ)))
        return self._client

    def write(self, *documents: Any, wait: bool = True) -> None:
        """Apply, and wait until Felix has the last one in force."""

        async def apply() -> int:
            client = await self._open()
            for one in documents:
                stored = await client.apply(from_dict(one))
            return int(stored.metadata.resource_version)

        revision = self.runner.run(apply())
        if wait:
            self.until(lambda: self.felix().get("revision", 0) >= revision)

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        async def delete() -> None:
            await (await self._open()).delete(kind, name, namespace)

        self.runner.run(delete())

    def block(self, cidr: str, node: str) -> None:
        """An IPAM block of 64 addresses, affine to ``node``."""
        block = {
            "cidr": cidr,
            "affinity": f"host:{node}",
            "allocations": [None] * 64,
            "unallocated": list(range(64)),
            "attributes": [],
            "deleted": False,
        }

        async def put() -> None:
            key = f"/calico/ipam/v2/assignment/ipv4/block/{cidr.replace('/', '-')}"
            await (await self._open()).kv.put(key, json.dumps(block).encode())

        self.runner.run(put())

    # Pods

    def pod(self, name: str, address: str, **labels: str) -> str:
        """A pod's namespace with its veth, and its endpoint in the datastore; returns the namespace's path."""
        space = f"{self.name}-{name}"
        run(f"ip netns add {space}")
        self.spaces.append(space)
        run(f"ip -n {self.name} link add cali{name} type veth peer name eth0 netns {space}")
        run(f"ip -n {self.name} link set cali{name} up")
        for command in (
            "link set lo up",
            "link set eth0 up",
            f"address add {address}/32 dev eth0",
            f"route add {GATEWAY} dev eth0 scope link",
            f"route add default via {GATEWAY}",
        ):
            run(f"ip -n {space} {command}")
        self.write(self.endpoint(name, address, **labels))
        return f"/run/netns/{space}"

    def endpoint(self, name: str, address: str, **labels: str) -> Any:
        own = {"projectcalico.org/namespace": "default", "projectcalico.org/orchestrator": "k8s"}
        return document(
            "WorkloadEndpoint",
            f"node1-k8s-{name}-eth0",
            "default",
            {**own, **labels},
            orchestrator="k8s",
            node="node1",
            pod=name,
            endpoint="eth0",
            interfaceName=f"cali{name}",
            ipNetworks=[f"{address}/32"],
            profiles=["kns.default"],
        )


@contextlib.contextmanager
def listener(space: str, port: int) -> Iterator[None]:
    sock = call_in_netns(space, lambda: socket.create_server(("", port), backlog=64))
    with sock:
        yield


def connects(space: str, address: str, port: int, timeout: float = 0.3) -> bool:
    """Whether a TCP connection comes about."""
    sock = call_in_netns(space, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with sock:
        sock.settimeout(timeout)
        try:
            sock.connect((address, port))
        except OSError:
            return False
        return True
