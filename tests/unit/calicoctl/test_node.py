"""``calicoctl node`` and ``cluster``: what is shown of an agent, a kernel and a datastore, and what is kept back."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_node.calicoctl.node import bird
from calico_node.calicoctl.node.checksystem import NEEDS, Kernel
from calico_node.calicoctl.node.status import render
from calico_node.calicoctl.secrets import MASK, mask_text, without_secrets
from calico_node.errors import CalicoError
from tests.unit.calicoctl.conftest import Run

NOW = datetime.fromisoformat("2026-08-22T10:00:00+00:00")


def session(name: str, peer: str, state: str, since: str) -> dict[str, Any]:
    return {"name": name, "peer": peer, "as": 64512, "state": state, "since": since}


SESSIONS = [
    session("Mesh_10_192_0_3", "10.192.0.3", "Established", "2026-08-22T09:00:05+00:00"),
    session("Global_10_192_0_9", "10.192.0.9", "Active", "2026-08-20T09:00:05+00:00"),
    session("Node_10_192_0_10_port_1790", "10.192.0.10", "Down", "2026-08-22T11:59:59+02:00"),
    session("Local_Workload_10_65_0_1", "10.65.0.1", "Established", "2026-08-22T09:00:05+00:00"),
]


def test_status_is_the_table_that_calico_prints() -> None:
    assert render({"bgp": {"extra": {"sessions": SESSIONS}}}, NOW) == (
        "Calico process is running.\n"
        "\n"
        "IPv4 BGP status\n"
        "+--------------+-------------------+-------+------------+-------------+\n"
        "| PEER ADDRESS | PEER TYPE         | STATE | SINCE      | INFO        |\n"
        "+--------------+-------------------+-------+------------+-------------+\n"
        "| 10.192.0.3   | node-to-node mesh | up    | 09:00:05   | Established |\n"
        "| 10.192.0.9   | global            | start | 2026-08-20 | Active      |\n"
        "| 10.192.0.10  | node specific     | down  | 09:59:59   | Down        |\n"
        "+--------------+-------------------+-------+------------+-------------+\n"
        "\n"
        "IPv6 BGP status\n"
        "No IPv6 peers found.\n"
        "\n"
    )
    six = render({"bgp": {"extra": {"sessions": [session("Mesh_fd00__1", "fd00::1", "Idle", "?")]}}}, NOW)
    assert "IPv4 BGP status\nNo IPv4 peers found.\n\nIPv6 BGP status\n+--" in six
    assert "| fd00::1      | node-to-node mesh | start | ?     | Idle |" in six
    assert render({"felix": {}}, NOW).endswith("\nThe BGP backend process (BIRD) is not running.\n\n")


class _Agent(BaseHTTPRequestHandler):
    answer = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer if self.path == "/status" else b"fine\n")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Agent]]:
    """Something at the health listener's address, and what it answers to ``/status``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Agent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("FELIX_HEALTHHOST", "127.0.0.1")
    monkeypatch.setenv("FELIX_HEALTHPORT", str(server.server_port))
    yield _Agent
    server.shutdown()
    thread.join()
    server.server_close()


def test_status_asks_the_agent(run: Run, agent: type[_Agent]) -> None:
    agent.answer = json.dumps({"components": {"bgp": {"extra": {"sessions": SESSIONS}}}}).encode()
    shown = run("node", "status")
    assert (shown.status, shown.err) == (0, "")
    assert "| 10.192.0.3   | node-to-node mesh | up    |" in shown.out
    for wrong in (b"", b"[]", b'{"components": []}', b'{"components": {"bgp": 5}}', b"\xff"):
        agent.answer = wrong
        refused = run("node", "status")
        assert (refused.status, refused.out) == (1, "")
        assert "is not calico-node" in refused.err


def test_status_without_an_agent(run: Run, agent: type[_Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FELIX_HEALTHPORT", "1")
    refused = run("node", "status")
    assert (refused.out, refused.err, refused.status) == ("", "Calico process is not running.\n", 1)
    monkeypatch.setenv("FELIX_HEALTHPORT", "x")
    assert "FELIX_HEALTHPORT = 'x': must be a port number" in run("node", "status").err


# checksystem

MODULES = "kernel/net/netfilter/{0}.ko.zst: kernel/x.ko\n"


def test_a_module_is_found_wherever_it_may_be(tmp_path: Path) -> None:
    release = "6.1.0-9-amd64"
    folder = tmp_path / "lib/modules" / release
    folder.mkdir(parents=True)
    (tmp_path / "sys/module/veth").mkdir(parents=True)
    (folder / "modules.dep").write_text("kernel/net/netfilter/nft_ct.ko.zst: kernel/x.ko\nkernel/nf-nat.ko:\n")
    (folder / "modules.builtin").write_text("kernel/net/nf_tables.ko\n")
    (tmp_path / "boot").mkdir()
    (tmp_path / f"boot/config-{release}").write_text(
        "# CONFIG_VXLAN is not set\nCONFIG_NFT_LOG=m\nCONFIG_NFT_NAT=n\n"
    )
    kernel = Kernel.of_host(tmp_path, release)
    found = {need.module for need in NEEDS if kernel.has(need)}
    assert found == {"veth", "nft_ct", "nf_nat", "nf_tables", "nft_log"}
    assert kernel.new_enough
    assert not Kernel("5.9.1", set(), {}).new_enough
    assert not Kernel("odd", set(), {}).new_enough


def test_checksystem_takes_a_kernel_configuration(run: Run) -> None:
    whole = "".join(f"{need.option}=y\n" for need in NEEDS)
    Path("config.gz").write_bytes(gzip.compress(whole.encode()))
    good = run("node", "checksystem", "-f", "config.gz")
    assert (good.status, good.err) == (0, "")
    assert good.out.startswith("Checking kernel version...\n\t\t")
    assert "\t\tnf_tables           \t\t\t\t\tOK\n" in good.out
    assert good.out.endswith("System meets minimum system requirements to run Calico!\n")
    missing = run("node", "checksystem", "-f", "none")
    assert (missing.status, missing.err) == (1, "cannot read none: [Errno 2] No such file or directory: 'none'\n")


def test_checksystem_fails_for_what_is_needed_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {need.option: "y" for need in NEEDS if not need.use}
    monkeypatch.setattr(Kernel, "of_host", classmethod(lambda cls, *_: cls("6.1.0", set(), needed)))
    good = run("node", "checksystem")
    assert good.status == 0
    assert "WARNING: no wireguard: encryption will not work\n\t\twireguard           \t\t\t\t\tSKIP\n" in good.out
    del needed["CONFIG_NFT_MASQ"]
    bad = run("node", "checksystem")
    assert (bad.status, bad.err) == (
        1, "system doesn't meet one or more minimum systems requirements to run Calico\n"
    )  # fmt: skip
    assert "\t\tnft_masq            \t\t\t\t\tFAIL\n" in bad.out


# run


def test_run_prints_its_command(run: Run) -> None:
    shown = run(
        "node", "run", "--dryrun", "--name=n 1", "--ip=10.0.0.1/24", "--ip6=autodetect", "--as=64512.1",
        "--ip-autodetection-method=interface=eth.*", "--backend=none", "--no-default-ippools",
    )  # fmt: skip
    assert shown.out == (
        "AS=64512.1 CALICO_COMPONENTS=felix,ipam,cni,node_status CALICO_NETWORKING_BACKEND=none "
        "IP=10.0.0.1/24 IP6=autodetect IP_AUTODETECTION_METHOD='interface=eth.*' NODENAME='n 1' "
        "NO_DEFAULT_POOLS=true calico-node run\n"
    )
    spec = "{etcdEndpoints: 'http://h:1', etcdPassword: pw}"
    config = f"kind: CalicoAPIConfig\napiVersion: projectcalico.org/v3\nspec: {spec}"
    masked = run("node", "run", "--dryrun", "-c", "c.cfg", files={"c.cfg": config}).out
    assert "ETCD_ENDPOINTS=http://h:1 ETCD_PASSWORD='***' calico-node run" in masked


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ip=10.0.0.300",), "invalid IP address specified: 10.0.0.300"),
        (("--ip=fd00::1",), "invalid IP address specified: fd00::1"),
        (("--ip6=10.0.0.1",), "invalid IP address specified: 10.0.0.1"),
        (("--as=0",), "invalid AS Number specified: 0"),
        (("--as=4294967296",), "invalid AS Number specified: 4294967296"),
        (("--as=1.65536",), "invalid AS Number specified: 1.65536"),
        (("--as=1.2.3",), "invalid AS Number specified: 1.2.3"),
    ],
)
def test_run_refuses(run: Run, arguments: tuple[str, ...], said: str) -> None:
    refused = run("node", "run", *arguments)
    assert (refused.out, refused.status) == (f"Error executing command: {said}\n", 1)


def test_run_becomes_the_node(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: seen.append(arguments))
    assert run("node", "run", "--name=n1").status == 0
    ((program, command, environ),) = seen
    assert Path(program).name == "calico-node"
    assert command == ("calico-node", "run")
    assert environ["NODENAME"] == "n1"
    assert environ["CALICO_DATASTORE_PATH"] == os.environ["CALICO_DATASTORE_PATH"]


def test_run_takes_the_options_of_a_container(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FELIX_LOGSEVERITYSCREEN", "error")
    felix = "# ours\n[global]\nLogSeverityScreen = debug\nMetadataAddr: none\nRate = 5%\n"
    arguments = ("--node-image=quay.io/x", "--init-system", "--log-dir=my logs", "--felix-config=felix.cfg")
    shown = run("node", "run", "--dryrun", *arguments, files={"felix.cfg": felix})
    assert shown.out == (
        "CALICO_NETWORKING_BACKEND=bird FELIX_METADATAADDR=none FELIX_RATE=5% "
        "calico-node run >>'my logs/calico-node.log' 2>&1\n"
    )
    assert shown.err.startswith("--node-image is passed over")
    for text, said in (("x = 5", "no section headers"), ("[g]\nx", "parsing errors")):
        refused = run("node", "run", "--felix-config=bad.cfg", files={"bad.cfg": text})
        assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 1)
        assert said in refused.err
    assert "cannot read none.cfg: No such file" in run("node", "run", "--felix-config=none.cfg").err
    assert run("node", "run", "--backend=gobgp").err == "Error executing command: unknown backend 'gobgp'\n"
    assert "--log-dir: cannot write" in run("node", "run", "--log-dir=felix.cfg").err


def test_run_wants_privileges(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused = run("node", "run")
    assert (refused.err, refused.status) == ("Need super user privileges: Operation not permitted\n", 1)


# diagnostics

WORLD = """\
kind: BGPPeer
apiVersion: projectcalico.org/v3
metadata: {name: tor, annotations: {note: "http://me:hidden1@host/", api-token: hidden2}}
spec: {peerIP: 10.0.0.9, asNumber: 65000, password: {secretKeyRef: {name: bgp, key: tor-password}}}
"""


def unpack(out: str, into: Path) -> dict[str, str]:
    """The files of the archive that the command said it made, which is removed."""
    archive = Path(out.rpartition("Diags saved to ")[2].strip())
    assert archive.stat().st_mode & 0o077 == 0 or archive.parent.stat().st_mode & 0o077 == 0
    with tarfile.open(archive) as tar:
        tar.extractall(into)
    archive.unlink()
    archive.parent.rmdir()
    root = into / "diagnostics"
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_node_diags(run: Run, agent: type[_Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.answer = json.dumps({"components": {"felix": {"reason": "well"}}}).encode()
    run("apply", "-f", "w.yaml", files={"w.yaml": WORLD, "logs/deep/a.log": "password=hidden3 and so on\n"})
    monkeypatch.setenv("ETCD_PASSWORD", "hidden4")
    done = run("node", "diags", "--log-dir=logs")
    assert (done.status, done.err) == (0, "")
    found = unpack(done.out, tmp_path / "out")
    assert {"date", "hostname", "system", "settings.json", "network/nft_ruleset", "network/ipv4_route"} <= set(found)
    assert json.loads(found["agent/status.json"]) == {"components": {"felix": {"reason": "well"}}}
    assert found["agent/readiness"] == "fine\n"
    assert found["logs/files/deep/a.log"] == f"password={MASK} and so on\n"
    assert json.loads(found["settings.json"])["environment"]["ETCD_PASSWORD"] == MASK
    peers = found["datastore/bgppeers.yaml"]
    assert "name: tor" in peers
    assert "key: tor-password" in peers
    assert "Check complete; found 0 problems." in found["datastore/ipam_check"]
    assert not [name for name, text in found.items() if "hidden" in text]


def test_diags_of_a_node_that_is_down_say_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FELIX_HEALTHPORT", "1")
    monkeypatch.setenv("CALICO_DATASTORE_PATH", "/proc/none/db")
    done = run("node", "diags", "--log-dir=none")
    assert done.status == 0
    found = unpack(done.out, tmp_path / "out")
    assert "nothing answers at" in found["agent/unavailable"]
    assert "/proc/none" in found["datastore/unavailable"]


def test_cluster_diags(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("apply", "-f", "w.yaml", files={"w.yaml": WORLD})
    found = unpack(run("cluster", "diags").out, tmp_path / "out")
    assert "clusterGUID" in found["datastore/clusterinformations.yaml"]
    assert "kube-admin" in found["datastore/tiers.yaml"]
    assert not [name for name, text in found.items() if "hidden" in text]
    monkeypatch.setenv("CALICO_DATASTORE_PATH", "/proc/none/db")
    refused = run("cluster", "diags")
    assert refused.status == 1
    assert "/proc/none" in refused.err


def test_cluster_diags_takes_the_options_about_logs(run: Run, tmp_path: Path) -> None:
    run("apply", "-f", "w.yaml", files={"w.yaml": WORLD})
    done = run("cluster", "diags", "--since=2h", "--max-logs=3", "--focus-nodes=n1", "--skip-temp-dir-cleanup")
    assert done.status == 0
    assert done.err.startswith("--since, --max-logs, --focus-nodes: no host's logs are collected here")
    folder = Path(done.out.rpartition("Diags saved to ")[2].strip()).parent
    assert (folder / "diagnostics/datastore/bgppeers.yaml").is_file()
    shutil.rmtree(folder)
    for wrong in ("--since=2", "--max-logs=x", "--max-parallelism=-1"):
        refused = run("cluster", "diags", wrong)
        assert (refused.status, refused.out) == (1, "")
        assert "must be a " in refused.err


def test_secrets_are_masked_and_what_points_to_them_is_not() -> None:
    data = {"password": {"secretKeyRef": {"name": "s", "key": "k"}}, "etcdPassword": "x", "tokenFile": "/t", "n": [1]}
    assert without_secrets(data) == {**data, "etcdPassword": MASK}
    assert mask_text("etcd http://u:p@h:1/ and http://h/@x") == f"etcd http://{MASK}@h:1/ and http://h/@x"
    key = "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"
    assert mask_text(f"a {key} b") == f"a -----BEGIN RSA PRIVATE KEY-----{MASK} b"
    assert mask_text('"api_token": "abc", "x": 1') == f'"api_token": "{MASK}", "x": 1'
    assert mask_text("secretKeyRef:\n  name: a\n") == "secretKeyRef:\n  name: a\n"
    assert mask_text("token:\n  name: a\n") == "token:\n  name: a\n"
    assert mask_text("ETCD_KEY_FILE=/etc/key.pem") == "ETCD_KEY_FILE=/etc/key.pem"


@given(st.text(min_size=1, alphabet=st.characters(exclude_characters="/@", exclude_categories=["Z", "C"])))
def test_no_password_of_an_address_is_left(password: str) -> None:
    assert mask_text(f"see http://me:{password}@host/path") == f"see http://{MASK}@host/path"


BIRD = """\
0001 BIRD v0.3.3+birdv1.6.8 ready.
2002-name     proto    table    state  since       info
1002-static1  Static   master   up     2016-11-21
 kernel1  Kernel   master   up     2016-11-21
 Mesh_172_17_8_102 BGP      master   up     2016-11-21  Established
 Node_172_17_8_103 BGP      master   start  10:01:02    Connect       Socket: Connection refused
 Global_172_17_8_104 BGP    master   down   10:01:03
0000
"""


def test_the_answer_of_a_bird() -> None:
    assert bird.parse(BIRD.splitlines(keepends=True), 4) == [
        ("172.17.8.102", "node-to-node mesh", "up", "2016-11-21", "Established"),
        ("172.17.8.103", "node specific", "start", "10:01:02", "Connect Socket: Connection refused"),
        ("172.17.8.104", "global", "down", "10:01:03", ""),
    ]
    six = [" Mesh_fd80_24e2_f998_72d7__2 BGP master up 10:00 Established\n", "0000\n"]
    assert bird.parse(six, 6)[0][0] == "fd80:24e2:f998:72d7::2"
    for wrong in ("", "0001 ready\n", "2002-name x\n0000\n", "9001 syntax error\n"):
        with pytest.raises(CalicoError, match="Error executing command: "):
            bird.parse(wrong.splitlines(keepends=True), 4)


@given(st.lists(st.text(max_size=40)))
def test_any_answer_of_a_bird_is_read_or_refused(lines: list[str]) -> None:
    with suppress(CalicoError):
        bird.parse((f"{line}\n" for line in lines), 6)


def test_what_runs_of_the_original(tmp_path: Path) -> None:
    commands = (b"calico-node\0-felix\0", b"/x/bird6\0-s\0", b"calico-node\0run\0", b"", b"grep\0bird\0")
    for pid, command in enumerate(commands):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(command)
    (tmp_path / "99").mkdir()
    assert bird.running(tmp_path) == {"felix", "bird6"}
