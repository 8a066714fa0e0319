"""``calicoctl datastore migrate lock``: the cluster stays as it is until ``unlock``; and pools no node can serve."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.lab.conftest import LabCommand
from tests.kernel.lab.test_etcd import CALICOCTL, outside, until
from tests.kernel.lab.test_lab import APP, DENY

NOT_READY = "Calico is currently not ready to process requests"
CNI = """
import json, os, subprocess, sys
environ = {**os.environ, "CNI_COMMAND": sys.argv[1], "CNI_CONTAINERID": "c1", "CNI_NETNS": sys.argv[3],
           "CNI_IFNAME": "eth0", "CNI_ARGS": "", "CNI_PATH": sys.argv[2].rpartition("/")[0]}
conf = {"name": "net", "cniVersion": "1.0.0", "type": "calico", "nodename": os.environ["NODENAME"],
        "ipam": {"type": "calico-ipam"}}
done = subprocess.run([sys.argv[2]], env=environ, input=json.dumps(conf), capture_output=True, text=True)
print(done.stdout or done.stderr)
"""


@pytest.fixture(params=["embedded", "etcd"])
def up(lab: LabCommand, request: pytest.FixtureRequest) -> Iterator[LabCommand]:
    file = lab.runtime / "app.yaml"
    file.write_text(APP)
    lab.ok("up", "--datastore", request.param, "-f", str(file))
    yield lab
    lab.ok("down")


def calicoctl(lab: LabCommand, arguments: str) -> None:
    done = outside(lab, f"{CALICOCTL} {arguments}")
    assert done.returncode == 0, done.stderr


def readiness(lab: LabCommand, node: str) -> str:
    command = "curl -s -w '%{http_code}' localhost:9099/readiness"
    return lab.ok("node", node, "--", "sh", "-c", command)


def sessions(lab: LabCommand) -> list[tuple[str, str]]:
    status = json.loads(lab.ok("status", "--json"))
    return [(s["state"], s["since"]) for node in status["nodes"] for s in node["sessions"]]


def flag_is_false_on(lab: LabCommand, *nodes: str) -> bool:
    texts = [readiness(lab, node) for node in nodes]
    return all(text.count("datastoreReady is not true") >= 2 and text.endswith("200") for text in texts)


def test_a_locked_cluster_stays_as_it_is_until_it_is_unlocked(up: LabCommand, tmp_path: Path) -> None:
    file, pod = tmp_path / "deny.yaml", tmp_path / "pod.yaml"
    file.write_text(DENY)
    pod.write_text("{apiVersion: v1, kind: Pod, metadata: {name: late}, spec: {containers: [{name: c}]}}")
    before = sessions(up)
    calicoctl(up, "datastore migrate lock")
    until(lambda: flag_is_false_on(up, "n1", "n2"))

    began = time.monotonic()
    done = up.run("apply", "-f", str(file))
    assert (done.returncode, time.monotonic() - began < 10) == (0, True)
    assert "calicoctl datastore migrate unlock" in done.stderr.replace("\n", " ")
    done = up.run("apply", "-f", str(pod))
    assert done.returncode == 2
    assert "pods" in done.stderr
    time.sleep(0.5)
    assert up.allowed("dev1/client", "dev1/web", 8080), "what came after the lock is not in force"
    assert sessions(up) == before

    calico = str(Path(sys.executable).parent / "calico")
    for command in ("ADD", "DEL"):
        # Any network namespace but the node's own will do: nothing may be done to it.
        netns = str(up.folder() / "netns" / "pod-dev1_client")
        answer = up.ok("node", "n2", "--", sys.executable, "-c", CNI, command, calico, netns)
        assert json.loads(answer)["msg"] == NOT_READY

    up.ok("restart", "n1", "--kill")
    assert flag_is_false_on(up, "n1"), readiness(up, "n1")
    assert up.allowed("dev1/client", "dev1/web", 8080)
    assert up.allowed("dev1/client", "default/pinned", 80), "on n1, whose agent waits"

    calicoctl(up, "datastore migrate unlock")
    until(lambda: not up.allowed("dev1/client", "dev1/web", 8080))
    up.ok("delete", "-f", str(file))
    up.ok("apply", "-f", str(pod))
    assert up.allowed("dev1/client", "dev1/web", 8080)


@pytest.mark.parametrize("command", ["up", "run"])
def test_a_pool_that_needs_tunnels_is_named_at_once(lab: LabCommand, command: str, tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text(
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: far},"
        " spec: {cidr: 10.245.0.0/16, vxlanMode: Always}}\n---\n" + APP.replace('["10.244.7.7"]', '["10.245.7.7"]')
    )
    began = time.monotonic()
    done: subprocess.CompletedProcess[str] = lab.run(command, "-f", str(file))
    assert time.monotonic() - began < 15
    words = (done.stdout + done.stderr).replace("\n", " ")
    assert "IPPool(far): spec.vxlanMode = 'Always': encapsulation is not built" in words
    assert done.returncode == (0 if command == "up" else 2)
    if command == "up":
        lab.ok("down")
    lab.wait_gone()
