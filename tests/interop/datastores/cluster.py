"""Three etcd members, each in a network namespace, that are partitioned, stopped, killed and defragmented.

Clients reach a member through a ``Forwarder`` and its Unix socket: a member that its peers cannot reach still answers
them, and one whose forwarder hangs is only lost to clients.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType

import pytest

from tests.interop.datastores.forwarder import Forwarder

_HEALTHY = 30.0


async def run(*command: str, check: bool = True) -> str:
    """What ``command`` prints; ``RuntimeError`` with its words when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ETCDCTL_API": "3"},
    )
    out, err = await process.communicate()
    if check and process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {err.decode()}")
    return out.decode()


class Member:
    def __init__(self, cluster: Cluster, number: int) -> None:
        self.number = number
        self.namespace = f"{cluster.name}-{number}"
        self.link = f"m{number}"
        self.folder = cluster.folder / str(number)
        self.folder.mkdir()
        # etcd 3.4 takes a name and a port, and makes a socket called so in its working directory.
        self.socket = self.folder / "sock:0"
        self.forwarder = Forwarder(str(self.socket))
        self.process: subprocess.Popen[bytes] | None = None
        address = f"http://10.77.0.{number}"
        peers = ",".join(f"{each}=http://10.77.0.{each}:2380" for each in range(1, cluster.size + 1))
        self._command = [
            "ip", "netns", "exec", self.namespace, cluster.program, "--name", str(number),
            "--data-dir", str(self.folder / "data"), "--listen-client-urls", f"unix://{self.socket.name}",
            "--advertise-client-urls", f"{address}:2379", "--listen-peer-urls", f"{address}:2380",
            "--initial-advertise-peer-urls", f"{address}:2380", "--initial-cluster", peers,
            "--heartbeat-interval", "50", "--election-timeout", "500",
        ]  # fmt: skip

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)  # what a killed etcd leaves keeps the next one from listening
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self.folder)

    async def kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


class Cluster:
    """An async context manager; needs root, ``etcd``, ``etcdctl`` and ``ip``."""

    size = 3

    def __init__(self, folder: Path) -> None:
        program = shutil.which("etcd")
        if program is None:
            pytest.fail("etcd is not installed: apt-get install etcd-server")
        self.program = program
        self.folder = folder
        self.name = f"etcd-{os.getpid()}"
        self._stack = AsyncExitStack()
        self.members = [Member(self, number) for number in range(1, self.size + 1)]

    @property
    def endpoints(self) -> list[str]:
        return [member.forwarder.address for member in self.members]

    async def __aenter__(self) -> Cluster:
        try:
            await self._link()
            for member in self.members:
                await self._stack.enter_async_context(member.forwarder)
                self._stack.push_async_callback(member.kill)
                member.start()
            await self.healthy()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _link(self) -> None:
        """One namespace for the bridge, one for each member; none touches the host's."""
        for name in (self.name, *(member.namespace for member in self.members)):
            self._stack.push_async_callback(run, "ip", "netns", "del", name, check=False)
            await run("ip", "netns", "add", name)
        await run("ip", "-n", self.name, "link", "add", "bridge0", "type", "bridge")
        await run("ip", "-n", self.name, "link", "set", "bridge0", "up")
        for member in self.members:
            peer = ("peer", "name", "eth0", "netns", member.namespace)
            await run("ip", "-n", self.name, "link", "add", member.link, "type", "veth", *peer)
            await run("ip", "-n", self.name, "link", "set", member.link, "master", "bridge0", "up")
            await run("ip", "-n", member.namespace, "address", "add", f"10.77.0.{member.number}/24", "dev", "eth0")
            await run("ip", "-n", member.namespace, "link", "set", "eth0", "up")
            await run("ip", "-n", member.namespace, "link", "set", "lo", "up")

    async def partition(self, member: Member, *, healed: bool = False) -> None:
        """Take ``member`` away from its peers; clients still reach it."""
        await run("ip", "-n", self.name, "link", "set", member.link, "up" if healed else "down")

    async def etcdctl(self, *arguments: str, member: Member | None = None) -> str:
        endpoints = member.forwarder.address if member else ",".join(self.endpoints)
        return await run("etcdctl", "--command-timeout=10s", "--endpoints", endpoints, *arguments)

    async def leader(self) -> tuple[Member | None, list[str]]:
        """Who leads, as far as members answer, and the ids of the others."""
        rows = json.loads(await self.etcdctl("endpoint", "status", "-w", "json"))
        found, others = None, []
        for row in rows:
            status = row["Status"]
            mine = status["header"]["member_id"]
            if status.get("leader") == mine:
                found = self.members[self.endpoints.index(row["Endpoint"])]
            else:
                others.append(f"{mine:x}")
        return found, others

    async def healthy(self) -> None:
        async with asyncio.timeout(_HEALTHY):
            while True:
                try:
                    await self.etcdctl("endpoint", "health")
                except RuntimeError:
                    await asyncio.sleep(0.2)
                else:
                    return
