"""A lab whose datastore is a real etcd: the same answers, and what happens when it goes away and comes back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.lab.conftest import COMMAND, EXAMPLES, LabCommand
from tests.kernel.lab.test_ends import wait_for_nodes
from tests.kernel.lab.test_lab import APP, DENY

BOOKINFO = EXAMPLES / "bookinfo"
CALICOCTL = str(Path(sys.executable).parent / "calicoctl")


def until(holds: Callable[[], object], timeout: float = 15) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def datastore(lab: LabCommand, name: str = "lab") -> dict[str, Any]:
    status: dict[str, Any] = json.loads(lab.ok("status", "--name", name, "--json"))
    return dict(status["datastore"])


def outside(lab: LabCommand, script: str, name: str = "lab", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in a shell of the host that was pointed at the lab as README says, unquoted."""
    return subprocess.run(
        ["sh", "-c", f"eval $({' '.join(COMMAND)} env --name {name}); {script}"],
        env={**lab.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def up(shared: LabCommand) -> Iterator[LabCommand]:
    file = shared.runtime / "app.yaml"
    file.write_text(APP)
    shared.ok("up", "--datastore", "etcd", "-f", str(file))
    yield shared
    shared.ok("down")
    shared.wait_gone()


def test_the_matrix_is_the_same_as_with_the_embedded_one(lab: LabCommand) -> None:
    outputs = [
        lab.ok("run", "--datastore", kind, "-f", str(BOOKINFO), "--expect", str(BOOKINFO / "expect.yaml"), "--json")
        for kind in ("embedded", "etcd")
    ]
    answers = [
        {(a["from"], a["to"], a["protocol"], a.get("port")): a["allowed"] for a in json.loads(output)}
        for output in outputs
    ]
    assert answers[0] == answers[1]
    assert set(answers[0].values()) == {True, False}
    lab.wait_gone()


def test_commands_outside_and_inside_are_led_to_it(up: LabCommand) -> None:
    stale = {
        "CALICO_DATASTORE_TYPE": "embedded",
        "CALICO_DATASTORE_PATH": "/nowhere",
        "CALICO_ETCD_ENDPOINTS": "http://127.0.0.1:1",
        "ETCD_DISCOVERY_SRV": "nowhere.example",
        "ETCD_USERNAME": "nobody",
        "ETCD_PASSWORD": "nothing",
    }
    done = outside(up, f"{CALICOCTL} get nodes; etcdctl endpoint health; env", **stale)
    assert "n1" in done.stdout, done.stderr
    assert "is healthy" in done.stdout + done.stderr
    assert not any(f"{name}=" in done.stdout for name in stale if name != "ETCD_ENDPOINTS")
    for target in (["node", "n2"], ["exec", "datastore"]):
        inside = up.ok(*target, "--", "sh", "-c", f"echo $ETCD_ENDPOINTS; {CALICOCTL} get nodes")
        assert inside.splitlines()[0] == "http://172.30.0.254:2379"
        assert "n2" in inside


def test_nothing_of_it_is_on_the_hosts_network(up: LabCommand) -> None:
    spaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in ("self", datastore(up)["pid"])}
    assert len(spaces) == 2
    assert (up.folder() / "etcd.sock").is_socket()
    assert up.folder().stat().st_mode & 0o077 == 0, "nobody else on the machine reaches it"


def test_it_goes_away_and_comes_back(up: LabCommand, tmp_path: Path) -> None:
    """Enforcement and forwarding go on; what is written when it is back arrives."""
    file = tmp_path / "deny.yaml"
    file.write_text(DENY)
    up.ok("apply", "-f", str(file))
    assert "away" in up.ok("datastore", "stop")
    assert not up.allowed("dev1/client", "dev1/web", 8080)
    assert up.allowed("dev1/client", "default/pinned", 80)
    done = up.run("delete", "-f", str(file))
    assert (done.returncode, done.stderr) == (
        2,
        "calico-node lab: the lab's datastore is away: it was stopped (lab datastore start)\n",
    )
    up.ok("datastore", "start")
    up.ok("delete", "-f", str(file))
    assert up.allowed("dev1/client", "dev1/web", 8080)
    assert up.run("datastore", "start").returncode == 2


def test_etcd_and_an_agent_are_killed(up: LabCommand, tmp_path: Path) -> None:
    file = tmp_path / "deny.yaml"
    file.write_text(DENY)
    up.ok("apply", "-f", str(file))
    before = datastore(up)
    os.kill(before["pid"], signal.SIGKILL)
    up.ok("restart", "n1", "--kill", "--no-wait")
    assert not up.allowed("dev1/client", "dev1/web", 8080)
    until(lambda: (now := datastore(up))["pid"] not in (None, before["pid"]) and not now["away"])
    up.ok("restart", "n1", "--kill")
    assert not up.allowed("dev1/client", "dev1/web", 8080)
    up.ok("datastore", "kill")
    up.ok("delete", "-f", str(file))
    assert up.allowed("dev1/client", "dev1/web", 8080)


def test_a_network_that_fails_between_nodes_and_datastore(up: LabCommand, tmp_path: Path) -> None:
    file = tmp_path / "deny.yaml"
    file.write_text(DENY)
    up.ok("exec", "datastore", "--", "ip", "link", "set", "eth0", "down")
    up.ok("apply", "--no-wait", "-f", str(file))
    time.sleep(0.5)
    assert up.allowed("dev1/client", "dev1/web", 8080), "nodes cannot know yet"
    up.ok("exec", "datastore", "--", "ip", "link", "set", "eth0", "up")
    until(lambda: not up.allowed("dev1/client", "dev1/web", 8080), 30)
    up.ok("delete", "-f", str(file))
    assert up.allowed("dev1/client", "dev1/web", 8080)


def test_two_labs_side_by_side(up: LabCommand, tmp_path: Path) -> None:
    up.ok("up", "--datastore", "etcd", "--nodes", "1", "--name", "other")
    names = outside(up, f"{CALICOCTL} get nodes", "other").stdout.split()
    assert "node1" in names
    assert "n1" not in names
    up.ok("down", "--name", "other")
    assert outside(up, f"{CALICOCTL} get nodes").stdout.count("n1") == 1


def test_the_command_is_killed_while_it_starts(lab: LabCommand) -> None:
    process = lab.start("up", "--datastore", "etcd", "-f", str(BOOKINFO))
    wait_for_nodes(lab)
    process.kill()
    process.communicate(timeout=30)
    lab.wait_gone()


def test_the_supervisor_is_killed(lab: LabCommand) -> None:
    lab.ok("up", "--datastore", "etcd", "--nodes", "1")
    etcd = datastore(lab)["pid"]
    supervisor = int(Path(f"/proc/{etcd}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    lab.wait_gone()
    assert not Path(f"/proc/{etcd}").exists()


def test_without_etcd_one_sentence_says_what_to_install(lab: LabCommand, tmp_path: Path) -> None:
    hidden = [path for path in ("/usr/bin/etcd", "/usr/sbin/etcd", "/usr/local/bin/etcd") if os.path.exists(path)]
    script = "".join(f"mount --bind /dev/null {os.path.realpath(path)}; " for path in hidden)
    command = f"{script}exec {' '.join(COMMAND)} up --datastore etcd --nodes 1"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        env={**lab.environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "etcd is not installed" in done.stderr
    assert "etcd-server" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    lab.wait_gone()


def test_the_embedded_one_has_nothing_to_stop(lab: LabCommand) -> None:
    lab.ok("up", "--nodes", "1")
    done = lab.run("datastore", "stop")
    assert done.returncode == 2
    assert "--datastore etcd has one" in done.stderr
    done = outside(lab, f"{CALICOCTL} get nodes", ETCD_ENDPOINTS="http://127.0.0.1:1", DATASTORE_TYPE="etcdv3")
    assert "node1" in done.stdout, done.stderr
    lab.ok("down")
    lab.wait_gone()
