"""``calicoctl node status`` beside the original: a real BIRD's control socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CONFIG = """\
router id 127.0.0.9;
protocol device {}
template bgp peer { local 127.0.0.9 as 64512; ipv4 {}; }
protocol bgp Mesh_127_0_0_2 from peer { neighbor 127.0.0.2 as 64512; connect delay time 900; }
protocol bgp Global_127_0_0_3 from peer { neighbor 127.0.0.3 as 64512; disabled; }
protocol bgp mine from peer { neighbor 127.0.0.4 as 64512; disabled; }
"""


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Path]:
    """The run directory of a BIRD, beside a process that is called as the original's felix is."""
    assert shutil.which("bird"), "bird is missing: apt-get install bird2"
    (tmp_path / "bird.conf").write_text(CONFIG)
    control = tmp_path / "bird.ctl"
    isolated = ["unshare", "--net"]
    bird = subprocess.Popen([*isolated, "bird", "-f", "-c", str(tmp_path / "bird.conf"), "-s", str(control)])
    felix = subprocess.Popen(["calico-felix", "600"], executable="/bin/sleep")
    try:
        until = time.monotonic() + 10
        while not control.exists() and time.monotonic() < until:
            time.sleep(0.02)
        yield tmp_path
    finally:
        for process in (felix, bird):
            process.terminate()
            process.wait()


def status(run_dir: Path) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "CALICO_RUN_DIR": str(run_dir), "FELIX_HEALTHPORT": "1"}
    command = (sys.executable, "-m", "calico_node.calicoctl", "node", "status")
    return subprocess.run(command, env=environ, text=True, capture_output=True, timeout=60, check=False)


def test_the_sessions_of_a_bird(original: Path) -> None:
    shown = status(original)
    assert (shown.stderr, shown.returncode) == ("", 0)
    head, _, rest = shown.stdout.partition("| PEER ADDRESS | PEER TYPE         | STATE | SINCE ")
    assert head.startswith("Calico process is running.\n\nIPv4 BGP status\n+----")
    split = [[cell.strip() for cell in row.split("|")] for row in rest.splitlines()]
    rows = {cells[1]: cells for cells in split if len(cells) > 5}
    assert rows["127.0.0.2"][2:4] == ["node-to-node mesh", "start"]
    assert rows["127.0.0.3"][2:4] == ["global", "down"]
    assert "127.0.0.4" not in rest
    assert rest.endswith("+\n\nINFO: BIRDv6 process: 'bird6' is not running.\n\n")


def test_a_bird_without_its_socket(original: Path) -> None:
    (original / "bird.ctl").unlink()
    refused = status(original)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error querying BIRD: unable to connect to BIRDv4 socket: ")
