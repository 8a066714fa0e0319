"""The lab's datastore: the embedded one, a file that every node opens itself, or a real etcd on the lab's segment.

etcd is a machine of its own (network namespace ``datastore``) with the segment's last free address, where the nodes
reach it as in a cluster of real ones; and it listens on a Unix socket in the lab's folder, which is the way from
outside of the lab's namespaces: nothing of it is on the host's network.  Its data are in the lab's folder, too.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from attrs import define, field

from calico_node.errors import LabError
from calico_node.lab.children import Child, Children, Restarting
from calico_node.lab.paths import LabPaths
from calico_node.lab.spec import LabSpec, spare_address

KINDS = ("embedded", "etcd")
MACHINE = "datastore"
"""What the namespace of a datastore that is a machine is called, and the target of ``lab exec``."""
STALE = (
    "CALICO_DATASTORE_TYPE",
    *(
        prefix + name
        for prefix in ("", "CALICO_")
        for name in (
            "ETCD_ENDPOINTS", "ETCD_DISCOVERY_SRV", "ETCD_USERNAME", "ETCD_PASSWORD",
            "ETCD_KEY_FILE", "ETCD_CERT_FILE", "ETCD_CA_CERT_FILE",
        )
    ),
    "ETCDCTL_ENDPOINTS",
    "CALICO_DATASTORE_PATH",
    "CALICO_DATASTORE_DURABILITY",
)  # fmt: skip
"""Variables that would lead a command to another datastore, or to another one's credentials."""
DURABILITY = "CALICO_DATASTORE_DURABILITY"
_DEFAULT_DURABILITY = "process"
"""A lab does not outlive its machine: nothing waits for the disk."""
_SOCKET = "etcd:0"
"""The socket's name in etcd's folder."""
_CLIENT_PORT, _PEER_PORT = 2379, 2380
_START_TIMEOUT = 20.0
_PROBE_TIMEOUT = 2.0
_POLL = 0.02


def durability() -> str:
    """What a commit to the lab's datastore survives: ``process`` or ``disk``."""
    return os.environ.get(DURABILITY) or _DEFAULT_DURABILITY


class Datastore(Protocol):
    """``inside`` are the settings of whoever is on a node, ``outside`` of whoever is on the host, the supervisor for
    one."""

    @property
    def inside(self) -> Mapping[str, str]: ...

    @property
    def outside(self) -> Mapping[str, str]: ...

    @property
    def machine(self) -> str:
        """The datastore's own network namespace; "" where it needs none."""

    @property
    def address(self) -> str:
        """That machine's on the segment, with its length."""

    @property
    def away(self) -> str:
        """Why it cannot answer; "" as long as it should."""

    async def start(self) -> None:
        """Raises ``LabError`` when it cannot be started."""

    async def operate(self, action: str) -> None:
        """``stop``, ``start``, ``restart`` or ``kill``.  Raises ``LabError``."""

    def status(self) -> dict[str, Any]: ...


@define
class Embedded:
    """One SQLite file in the lab's folder."""

    paths: LabPaths

    @property
    def inside(self) -> Mapping[str, str]:
        return {
            "DATASTORE_TYPE": "embedded",
            "CALICO_DATASTORE_PATH": str(self.paths.datastore),
            DURABILITY: durability(),
        }

    @property
    def outside(self) -> Mapping[str, str]:
        return self.inside

    machine = address = away = ""

    async def start(self) -> None:
        """There is nothing to start."""

    async def operate(self, action: str) -> None:
        raise LabError(
            f"nothing to {action}: this lab's datastore is the embedded one, a file ({self.paths.datastore}) that "
            "every node opens itself, without a server between; lab up --datastore etcd has one"
        )

    def status(self) -> dict[str, Any]:
        return {"type": "embedded", "endpoint": str(self.paths.datastore), "away": ""}


def find_etcd() -> str:
    """The program.  Raises ``LabError`` naming the package where it is not installed."""
    path = os.environ.get("PATH") or os.defpath
    program = shutil.which("etcd", path=f"{path}:/usr/sbin:/sbin")
    if program is None:
        raise LabError(
            "--datastore etcd: etcd is not installed (Debian and Ubuntu have it in the package etcd-server)"
        )
    return program


@define(eq=False)
class Etcd:
    """One member.  It is started again when it ends by itself; one that was stopped stays so until it is started."""

    paths: LabPaths
    children: Children
    address: str
    _program: str = field(factory=find_etcd, init=False)
    _server: Restarting = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._server = Restarting("etcd", self._launch)

    @property
    def url(self) -> str:
        return f"http://{self.address.partition('/')[0]}:{_CLIENT_PORT}"

    @property
    def inside(self) -> Mapping[str, str]:
        return {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": self.url, "ETCDCTL_ENDPOINTS": self.url}

    @property
    def outside(self) -> Mapping[str, str]:
        url = f"unix://{self.paths.etcd_socket}"
        return {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": url, "ETCDCTL_ENDPOINTS": url}

    @property
    def machine(self) -> str:
        return str(self.paths.netns("datastore", "etcd"))

    @property
    def away(self) -> str:
        if self._server.wanted and self._server.running:
            return ""
        return "it was stopped (lab datastore start)" if not self._server.wanted else "it ended and is started anew"

    async def start(self) -> None:
        self.paths.etcd.mkdir(exist_ok=True)
        if not self.paths.etcd_socket.is_symlink():
            self.paths.etcd_socket.symlink_to(self.paths.etcd / _SOCKET)
        try:
            await self._server.start()
        except OSError as error:
            raise LabError(f"{self._program} cannot be started: {error.strerror or error}") from None
        await self._until_it_answers()

    async def operate(self, action: str) -> None:
        if action in ("stop", "restart", "kill"):
            await self._server.stop(signal.SIGKILL if action == "kill" else signal.SIGTERM)
        elif self._server.wanted:
            raise LabError("the datastore is running already")
        if action in ("start", "restart", "kill"):
            await self.start()

    def status(self) -> dict[str, Any]:
        return {
            "type": "etcd",
            "endpoint": self.url,
            "away": self.away,
            "pid": self._server.pid,
            "starts": self._server.starts,
        }

    async def _launch(self) -> Child:
        peers = f"http://127.0.0.1:{_PEER_PORT}"
        command = [
            self._program, "--name", "lab", "--data-dir", str(self.paths.etcd / "data"),
            # A relative path alone is understood by every release; 3.4 wants it to look like a name and a port.
            "--listen-client-urls", f"{self.url},unix://{_SOCKET}", "--advertise-client-urls", self.url,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"lab={peers}",
            # Alone, it need not wait for others before it leads.
            "--heartbeat-interval", "50", "--election-timeout", "500",
            "--logger", "zap", "--log-outputs", "stderr", "--log-level", "warn",
        ]  # fmt: skip
        if durability() == "process":
            command.append("--unsafe-no-fsync")
        environ = {"PATH": os.environ.get("PATH") or os.defpath}
        if platform.machine() == "aarch64":
            environ["ETCD_UNSUPPORTED_ARCH"] = "arm64"  # etcd 3.4 refuses to start there without
        # What SIGKILL leaves behind would be in the way.
        (self.paths.etcd / _SOCKET).unlink(missing_ok=True)
        log = os.open(self.paths.etcd_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return await self.children.start(
                command, environ=environ, netns=self.machine, cwd=str(self.paths.etcd), stdout=log, stderr=log
            )
        finally:
            os.close(log)

    async def _until_it_answers(self) -> None:
        """Raises ``LabError`` with the end of its log when it does not within 20 s, or ends again and again."""
        first = self._server.starts
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT
        while not await _answers(self.paths.etcd_socket):
            if asyncio.get_running_loop().time() > deadline or self._server.starts > first + 1:
                await self._server.stop(signal.SIGKILL)
                raise LabError(f"etcd does not start; {self.paths.etcd_log.name} ends with\n{self._log_tail()}")
            await asyncio.sleep(_POLL)

    def _log_tail(self) -> str:
        try:
            return "\n".join(self.paths.etcd_log.read_text(errors="replace").splitlines()[-4:])
        except OSError:
            return ""


def make(kind: str, spec: LabSpec, paths: LabPaths, children: Children) -> Datastore:
    """The datastore ``kind`` (of ``KINDS``) for the complete lab ``spec``.  Raises ``LabError``, ``ValidationError``
    for an etcd that has no address left."""
    if kind == "embedded":
        return Embedded(paths)
    if kind == "etcd":
        return Etcd(paths, children, spare_address(spec))
    raise LabError(f"--datastore = {kind!r}: must be {' or '.join(KINDS)}")


async def _answers(socket: Path) -> bool:
    """Whether etcd has a leader and serves clients: its own ``/health``."""
    writer = None
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return b'"true"' in await reader.read()
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()
