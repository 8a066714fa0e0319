"""Nodes and BIRDs on one Ethernet segment, each in a network namespace of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from calico_node.datastores import open_client
from calico_node.resources import from_dict
from calico_node.settings import Settings

SUBNET = "172.31.9"


def sh(*command: str, check: bool = True) -> str:
    """Run a command; its output.  Fails with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done.stdout


def until(condition: Callable[[], object], seconds: float, what: Callable[[], object]) -> None:
    """Wait until ``condition`` holds; fail with ``what()`` when it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"after {seconds} s: {what()}"
        time.sleep(0.05)


class Host:
    """A namespace with ``eth0`` at ``172.31.9.<number>/24``."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.address = f"{SUBNET}.{number}"
        self.netns = f"{cluster.prefix}-{number}"
        self.process: subprocess.Popen[bytes] | None = None
        self.dir = cluster.dir / str(number)
        self.dir.mkdir()
        sh("ip", "netns", "add", self.netns)
        sh("ip", "-n", self.netns, "link", "set", "lo", "up")
        sh("ip", "link", "add", "name", f"e{number}", "netns", cluster.fabric, "type", "veth", "peer", "name", "eth0",
           "netns", self.netns)  # fmt: skip
        sh("ip", "-n", cluster.fabric, "link", "set", f"e{number}", "master", "br0", "up")
        sh("ip", "-n", self.netns, "addr", "add", f"{self.address}/24", "dev", "eth0")
        sh("ip", "-n", self.netns, "link", "set", "eth0", "up")

    def ip(self, *arguments: str) -> str:
        return sh("ip", "-n", self.netns, *arguments)

    def routes(self) -> dict[str, dict[str, Any]]:
        """The routes of protocol ``bird`` by destination."""
        found = json.loads(self.ip("-j", "route", "show", "proto", "bird") or "[]")
        return {route["dst"]: route for route in found}

    def spawn(self, *command: str, **environ: str) -> None:
        with (self.dir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.netns, *command],
                env={**os.environ, **environ},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        return (self.dir / "log").read_text()[-3000:]

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process = None


class Node(Host):
    """A ``calico-node run`` with the BGP component alone."""

    @property
    def name(self) -> str:
        return f"node{self.number}"

    def start(self, **environ: str) -> None:
        self.spawn(
            str(Path(sys.executable).with_name("calico-node")),
            "run",
            CALICO_RUN_DIR=str(self.dir / "run"),
            CALICO_STATE_DIR=str(self.dir / "state"),
            CALICO_DATASTORE_PATH=str(self.cluster.store),
            CALICO_COMPONENTS="bgp",
            CALICO_IPV4POOL_CIDR="10.77.0.0/16",
            NODENAME=self.name,
            IP=f"{self.address}/24",
            AS="64512",
            **environ,
        )

    def status(self) -> dict[str, Any]:
        """The component's line in ``/status``; empty while the process does not answer."""
        text = sh("ip", "netns", "exec", self.netns, "curl", "-s", "http://localhost:9099/status", check=False)
        found: dict[str, Any] = json.loads(text)["components"].get("bgp", {}) if text else {}
        return found

    def session(self, address: str) -> dict[str, Any]:
        sessions = self.status().get("extra", {}).get("sessions", [])
        return next((session for session in sessions if session["peer"] == address), {})

    def wait_established(self, address: str, seconds: float = 15) -> None:
        until(
            lambda: self.session(address).get("state") == "Established", seconds, lambda: (self.status(), self.log())
        )


class Bird(Host):
    """BIRD 2 with a configuration of the test's."""

    def start(self, config: str, *flags: str) -> None:
        (self.dir / "bird.conf").write_text(config)
        self.spawn(
            "bird", "-f", "-c", str(self.dir / "bird.conf"), "-s", self.control, "-P", str(self.dir / "pid"), *flags
        )
        until(lambda: self.birdc("show status"), 5, self.log)

    @property
    def control(self) -> str:
        return str(self.dir / "ctl")

    def birdc(self, command: str) -> str:
        return sh("birdc", "-s", self.control, command, check=False)

    def route(self, prefix: str) -> str:
        """What BIRD says of all its paths to ``prefix``; "" when it has none."""
        text = self.birdc(f"show route for {prefix} all")
        return text if re.search(rf"^{re.escape(prefix)}\s", text, re.MULTILINE) else ""

    def wait_route(self, prefix: str, seconds: float = 15) -> str:
        until(
            lambda: self.route(prefix), seconds, lambda: self.birdc("show route") + self.birdc("show protocols all")
        )
        return self.route(prefix)

    def wait_gone(self, prefix: str, seconds: float = 15) -> None:
        until(lambda: not self.route(prefix), seconds, lambda: self.route(prefix))


class Cluster:
    """The segment, its hosts and the nodes' datastore."""

    def __init__(self, directory: Path, prefix: str) -> None:
        for program in ("bird", "birdc", "curl", "ip"):
            assert shutil.which(program), f"{program} is missing: apt-get install bird2 curl iproute2"
        self.dir = directory
        self.prefix = prefix
        self.fabric = f"{prefix}-fabric"
        self.store = directory / "datastore.db"
        self.hosts: list[Host] = []
        sh("ip", "netns", "add", self.fabric)
        sh("ip", "-n", self.fabric, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", self.fabric, "link", "set", "br0", "up")

    def node(self, number: int) -> Node:
        node = Node(self, number)
        self.hosts.append(node)
        return node

    def bird(self, number: int) -> Bird:
        bird = Bird(self, number)
        self.hosts.append(bird)
        return bird

    def close(self) -> None:
        for host in self.hosts:
            host.end()
            sh("ip", "netns", "del", host.netns, check=False)
        sh("ip", "netns", "del", self.fabric, check=False)

    # --- the datastore

    def apply(self, *documents: dict[str, Any]) -> None:
        async def work() -> None:
            async with open_client(self._settings()) as client:
                for document in documents:
                    await client.apply(from_dict({"apiVersion": "projectcalico.org/v3", **document}))

        asyncio.run(work())

    def delete(self, kind: str, name: str) -> None:
        async def work() -> None:
            async with open_client(self._settings()) as client:
                await client.delete(kind, name)

        asyncio.run(work())

    def affinity(self, node: Node, cidr: str, state: str | None = "confirmed") -> None:
        """Give ``node`` the block ``cidr``; with state None take it away."""
        version = 6 if ":" in cidr else 4
        key = f"/calico/ipam/v2/host/{node.name}/ipv{version}/block/{cidr.replace('/', '-')}"

        async def work() -> None:
            async with open_client(self._settings()) as client:
                if state is None:
                    await client.kv.delete(key)
                else:
                    await client.kv.put(key, orjson.dumps({"state": state}))

        asyncio.run(work())

    def _settings(self) -> Settings:
        return Settings.load(
            {
                "NODENAME": "test",
                "CALICO_DATASTORE_PATH": str(self.store),
                "CALICO_STATE_DIR": str(self.dir),
                "CALICO_RUN_DIR": str(self.dir),
                "PATH": os.environ["PATH"],
            }
        )
