"""``calicoctl node`` beside real agents: two nodes in network namespaces, and their BGP session."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
NAMES = [f"ctl-{os.getpid()}-{number}" for number in (1, 2)]
Calicoctl = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def calicoctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calicoctl]:
    """calicoctl beside the first of two nodes that share a datastore."""
    folder = tmp_path_factory.mktemp("nodes")
    agents: list[subprocess.Popen[bytes]] = []
    settings = {
        **os.environ,
        "CALICO_DATASTORE_PATH": str(folder / "datastore.db"),
        "CALICO_COMPONENTS": "health,bgp",
        "CALICO_DATAPLANE": "recorder",
        "CALICO_IPV4POOL_CIDR": "10.65.0.0/16",
    }
    try:
        for name in NAMES:
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        link = ["link", "add", "eth0", "netns", NAMES[0], "type", "veth", "peer", "name", "eth0", "netns", NAMES[1]]
        subprocess.run(["ip", *link], check=True)
        for number, name in enumerate(NAMES, 1):
            for words in (f"address add 172.30.0.{number}/24 dev eth0", "link set eth0 up"):
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
            own = {"CALICO_RUN_DIR": str(folder / name), "CALICO_STATE_DIR": str(folder / name), "NODENAME": name}
            command = ["ip", "netns", "exec", name, str(BIN / "calico-node"), "run"]
            with (folder / f"{name}.log").open("wb") as log:
                agents.append(subprocess.Popen(command, env={**settings, **own}, stdout=log, stderr=log))

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = ["ip", "netns", "exec", NAMES[0], str(BIN / "calicoctl"), *arguments]
            return subprocess.run(command, env=settings, text=True, capture_output=True, timeout=60, check=False)

        yield run
    finally:
        for agent in agents:
            agent.terminate()
            agent.wait(20)
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False)


def test_status_shows_the_session(calicoctl: Calicoctl) -> None:
    deadline = time.monotonic() + 60
    while "Established" not in (shown := calicoctl("node", "status")).stdout and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[:3] == ["Calico process is running.", "", "IPv4 BGP status"]
    cells = [cell.strip() for cell in lines[6].strip("|").split("|")]
    assert cells[:3] == ["172.30.0.2", "node-to-node mesh", "up"]
    assert cells[4] == "Established"
    assert lines[8:] == ["", "IPv6 BGP status", "No IPv6 peers found.", ""]


def test_diagnostics_hold_the_kernel_and_the_agent(calicoctl: Calicoctl, tmp_path: Path) -> None:
    done = calicoctl("node", "diags", "--log-dir", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    archive = Path(done.stdout.rpartition("Diags saved to ")[2].strip())
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path)
    archive.unlink()
    archive.parent.rmdir()
    found = tmp_path / "diagnostics"
    assert "172.30.0.0/24 dev eth0" in (found / "network/ipv4_route").read_text()
    assert '"bgp"' in (found / "agent/status.json").read_text()
    assert "python_info" in (found / "agent/metrics").read_text()
    assert NAMES[1] in (found / "datastore/nodes.yaml").read_text()
