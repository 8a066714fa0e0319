"""A stranger's package is installed with pip, and selected by settings alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "examples/plugins/printing-dataplane"
NETNS = f"plugin-{os.getpid()}"


@pytest.fixture
def netns() -> Iterator[str]:
    """A namespace with one address, so that the node needs nothing of the host."""
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    inside = ["ip", "-n", NETNS]
    subprocess.run([*inside, "link", "set", "lo", "up"], check=True)
    subprocess.run([*inside, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"], check=True)
    subprocess.run([*inside, "address", "add", "172.30.0.1/24", "dev", "eth0"], check=True)
    subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)
    yield NETNS
    subprocess.run(["ip", "netns", "del", NETNS], check=True)


def _status(netns: str) -> dict[str, dict[str, object]]:
    script = "import urllib.request as u; print(u.urlopen('http://localhost:9099/status', timeout=2).read().decode())"
    result = subprocess.run(
        ["ip", "netns", "exec", netns, sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        return {}
    components: dict[str, dict[str, object]] = json.loads(result.stdout)["components"]
    return components


def test_the_example_package_is_installed_and_selected_by_settings(netns: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(PACKAGE)]
    subprocess.run(install, check=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "NODENAME": "plug1",
        "CALICO_RUN_DIR": str(tmp_path / "run"),
        "CALICO_STATE_DIR": str(tmp_path / "state"),
        "DATASTORE_TYPE": "embedded",
        "CALICO_COMPONENTS": "felix,heartbeat",
        "CALICO_DATAPLANE": "printer",
    }
    command = ["ip", "netns", "exec", netns, str(Path(sys.executable).parent / "calico-node"), "run"]
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 30
        components: dict[str, dict[str, object]] = {}
        while time.monotonic() < deadline and not components.get("heartbeat", {}).get("ready"):
            assert process.poll() is None, output.read_text()
            time.sleep(0.2)
            components = _status(netns)
        assert components["heartbeat"]["reason"] == "sees 1 node(s)", output.read_text()
        while time.monotonic() < deadline and "InSync" not in output.read_text():
            time.sleep(0.2)
        assert "printer on plug1: starts" in output.read_text()
        assert "printer on plug1: InSync" in output.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    assert "printer on plug1: stops" in output.read_text()
