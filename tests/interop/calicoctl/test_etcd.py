"""calicoctl on a real etcd, and a cluster that moves from the embedded datastore into it and back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.calicoctl.conftest import Run
from tests.unit.calicoctl.test_datastore import KILLED, WORLD, everything, fill, other_store
from tests.unit.calicoctl.test_ipam import with_client

POLICY = """\
kind: NetworkPolicy
apiVersion: projectcalico.org/v3
metadata: {name: many-%d, namespace: prod}
spec: {selector: has(x%d)}
"""


@pytest.fixture
def empty_etcd(etcd: str) -> Iterator[str]:
    """The endpoint of an etcd without keys."""
    command = ["etcdctl", f"--endpoints={etcd}", "del", "--prefix", "/"]
    environ = {**os.environ, "ETCDCTL_API": "3"}
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    yield f"http://{etcd}"
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)


def test_a_cluster_moves_to_etcd_and_back(run: Run, empty_etcd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = "".join(f"---\n{POLICY % (number, number)}" for number in range(250))
    assert run("apply", "-f", "w.yaml", files={"w.yaml": WORLD + policies}).status == 0
    with_client(fill)
    run("datastore", "migrate", "lock")
    before = everything()
    Path("there").write_text(run("datastore", "migrate", "export", "--all").out)

    monkeypatch.setenv("ETCD_ENDPOINTS", empty_etcd)
    done = run("datastore", "migrate", "import", "-f", "there")
    assert (done.err, done.status) == ("", 0)
    assert everything() == before
    again = run("datastore", "migrate", "import", "-f", "there")
    assert again.status == 1
    assert "is not empty" in again.err
    assert run("ipam", "check").out.endswith("Check complete; found 0 problems.\n")
    assert len(run("get", "np", "-n", "prod", "-o", "name").out.split()) == 251
    Path("back").write_text(run("datastore", "migrate", "export", "--all").out)

    monkeypatch.delenv("ETCD_ENDPOINTS")
    other_store(monkeypatch, "new")
    assert run("datastore", "migrate", "import", "-f", "back").status == 0
    assert everything() == before
    assert run("datastore", "migrate", "unlock").out == "Datastore unlocked.\n"


def test_an_import_into_etcd_that_was_killed_is_completed(
    run: Run, empty_etcd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = "".join(f"---\n{POLICY % (number, number)}" for number in range(250))
    run("apply", "-f", "w.yaml", files={"w.yaml": WORLD + policies})
    with_client(fill)
    run("datastore", "migrate", "lock")
    before = everything()
    Path("export").write_text(run("datastore", "migrate", "export", "--all").out)
    monkeypatch.setenv("ETCD_ENDPOINTS", empty_etcd)
    for _ in range(4):
        killed = subprocess.run([sys.executable, "-c", KILLED, "2"], check=False, capture_output=True)
        assert killed.returncode == -signal.SIGKILL
    assert 100 < len(everything()) < len(before)
    done = run("datastore", "migrate", "import", "-f", "export")
    assert done.status == 0
    assert "are there from an import of this file that did not end" in done.err
    assert everything() == before


def test_the_ipam_commands(run: Run, empty_etcd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_ENDPOINTS", empty_etcd)
    assert run("apply", "-f", "w.yaml", files={"w.yaml": WORLD.replace("10.65.0.0/24", "10.64.0.0/12")}).status == 0
    with_client(fill)
    assert run("ipam", "configure", "--strictaffinity=true").status == 0
    used = run("ipam", "show", "--ip=10.65.0.0")
    assert "type: vxlanTunnelAddress" in used.out
    run("datastore", "migrate", "lock")
    assert run("ipam", "split", "64", "--name=pool").status == 0
    assert len(run("get", "ippools", "-o", "name").out.split()) == 64
    assert run("ipam", "show", "--ip=10.65.0.0").out == used.out
    run("delete", "wep", "n1-k8s-web-eth0", "-n", "prod")
    assert run("ipam", "check", "-o", "report").status == 0
    held = [
        address
        for address, (allocation,) in json.loads(Path("report").read_text())["allocations"].items()
        if not allocation["inUse"]
    ]
    assert len(held) == 1
    assert run("ipam", "release", "--from-report=report").out.startswith("Released 1 IPs; 0 were released before\n")
    assert run("ipam", "show", "--ip", held[0]).out == f"{held[0]} is not assigned\n"
