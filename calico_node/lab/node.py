"""One node of the lab: its namespace, its ``calico-node run`` process, and the CNI calls on it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from calico_node.errors import LabError
from calico_node.lab.children import Child, Children, Restarting
from calico_node.lab.datastore import Datastore
from calico_node.lab.paths import LabPaths
from calico_node.lab.spec import LabNode
from calico_node.linux.namespaces import run_in_netns

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
_PASSED_PREFIXES = (
    "FELIX_", "BGP_", "CALICO_IPV4POOL_", "CALICO_IPV6POOL_", "CALICO_DATAPLANE", "CALICO_LOG_LEVEL",
)  # fmt: skip
_DEFAULTS = {
    "CALICO_IPV4POOL_CIDR": "10.244.0.0/16",
    "CALICO_IPV4POOL_IPIP": "Never",
    "CALICO_IPV4POOL_VXLAN": "Never",
}
COMPONENTS = "felix,bgp,ipam,cni,node_status"
HEALTH_PORT = 9099


def base_environ() -> dict[str, str]:
    """The user's environment without what would point an agent somewhere else than at the lab."""
    return {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_PREFIXES)
    }


def program(name: str) -> str:
    """A console script of this installation.  Raises ``LabError`` when it is not installed."""
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise LabError(f"{path} is missing: install calico-node into this Python (pip install)")
    return str(path)


def agent_environ(node: LabNode, paths: LabPaths, datastore: Datastore, *, controllers: bool) -> dict[str, str]:
    """The settings of a node's agent; ``lab node`` shows the same to its commands."""
    environ = {**_DEFAULTS, **base_environ()}
    components = os.environ.get("CALICO_COMPONENTS") or COMPONENTS
    environ.update(
        NODENAME=node.name,
        IP=node.address,
        CALICO_RUN_DIR=str(paths.run_dir(node.name)),
        CALICO_STATE_DIR=str(paths.state_dir(node.name)),
        CALICO_KUBERNETES_STORE=str(paths.kubernetes_store),
        **datastore.inside,
        CALICO_COMPONENTS=f"{components},kube_controllers" if controllers else components,
        PYTHONUNBUFFERED="1",
    )
    if node.as_number is not None:
        environ["AS"] = str(node.as_number)
    return environ


@define(eq=False)
class NodeRunner:
    """Keeps a node's agent running."""

    node: LabNode
    paths: LabPaths
    children: Children
    environ: dict[str, str]
    process: Restarting = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.process = Restarting(f"agent of {self.node.name}", self._launch)

    @property
    def netns(self) -> str:
        return str(self.paths.netns("node", self.node.name))

    async def _launch(self) -> Child:
        log_fd = os.open(
            self.paths.node_log(self.node.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            inside = [sys.executable, "-m", "calico_node.lab.inside", "-", "--"]
            return await self.children.start(
                [*inside, program("calico-node"), "run"],
                environ=self.environ,
                netns=self.netns,
                stdout=log_fd,
                stderr=log_fd,
            )
        finally:
            os.close(log_fd)

    async def status(self) -> dict[str, Any]:
        """The components of ``/status``; empty while the agent does not answer."""
        try:
            async with asyncio.timeout(5):
                return await self._status()
        except (OSError, ValueError, TimeoutError):
            return {}

    async def _status(self) -> dict[str, Any]:
        sock = await run_in_netns(self.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        with sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", HEALTH_PORT))
            await loop.sock_sendall(sock, b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n")
            data = b""
            while part := await loop.sock_recv(sock, 1 << 16):
                data += part
        head, _, body = data.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            return {}
        components: dict[str, Any] = json.loads(body)["components"]
        return components

    def log_tail(self, lines: int = 12) -> str:
        """The end of the agent's log."""
        try:
            text = self.paths.node_log(self.node.name).read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    async def cni(self, command: str, *, container: str, netns: str, namespace: str, pod: str) -> Mapping[str, Any]:
        """Call the CNI plugin as a kubelet does; its result.  Raises ``LabError`` with the plugin's own words."""
        configuration = {
            "name": "k8s-pod-network",
            "cniVersion": "1.0.0",
            "type": "calico",
            "log_level": "info",
            "nodename": self.node.name,
            "mtu": 0,
            "ipam": {"type": "calico-ipam"},
            "policy": {"type": "k8s"},
        }
        executable = program("calico")
        environ = {
            **self.environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};"
            f"K8S_POD_INFRA_CONTAINER_ID={container}",
            "CNI_PATH": str(Path(executable).parent),
        }
        status, output, errors = await self.children.output(
            [executable], environ=environ, netns=self.netns, stdin=json.dumps(configuration).encode()
        )
        try:
            answer = json.loads(output) if output.strip() else {}
        except ValueError:
            answer = {"msg": output.decode(errors="replace").strip()}
        if status != 0:
            text = " ".join(str(answer.get(name) or "") for name in ("msg", "details")).strip()
            text = text or errors.decode(errors="replace").strip() or f"exit status {status}"
            raise LabError(f"CNI {command} of pod {namespace}/{pod} on {self.node.name}: {text}")
        return answer if isinstance(answer, dict) else {}
