"""The process as its operator meets it: start, refusal, restart of a component, end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
NETNS = f"agent-{os.getpid()}"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module", autouse=True)
def netns() -> Iterator[None]:
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    for words in (
        "link set lo up",
        "link add eth0 type veth peer name eth1",
        "address add 172.30.0.1/24 dev eth0",
        "link set eth0 up",
    ):
        subprocess.run(["ip", "-n", NETNS, *words.split()], check=True)
    yield
    subprocess.run(["ip", "netns", "del", NETNS], check=True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts ``calico-node run`` in the namespace with the given environment; ends what is left."""
    running: list[subprocess.Popen[str]] = []

    def begin(**environ: str) -> subprocess.Popen[str]:
        settings = {
            "NODENAME": "agent1",
            "CALICO_RUN_DIR": str(tmp_path / "run"),
            "CALICO_STATE_DIR": str(tmp_path / "state"),
            "DATASTORE_TYPE": "embedded",
            "CALICO_COMPONENTS": "health",
            "CALICO_DATAPLANE": "recorder",
        }
        process = subprocess.Popen(
            ["ip", "netns", "exec", NETNS, str(BIN / "calico-node"), "run"],
            env={**os.environ, **settings, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def fetch(path: str, port: int = 9099) -> tuple[int, str]:
    """A listener's answer from inside the namespace: status code and body; (0, "") when nothing answers."""
    script = (
        "import sys, urllib.request as u, urllib.error as e\n"
        f"try: a = u.urlopen('http://localhost:{port}' + sys.argv[1], timeout=3)\n"
        "except e.HTTPError as error: a = error\n"
        "except OSError: print(0); raise SystemExit\n"
        "print(a.status); print(a.read().decode())"
    )
    command = ["ip", "netns", "exec", NETNS, sys.executable, "-c", script, path]
    code, _, body = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("\n")
    return int(code), body


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


def test_it_answers_its_probes_and_ends_on_sigterm(start: Start) -> None:
    process = start()
    until(lambda: fetch("/readiness")[0] == 200)
    assert fetch("/liveness")[0] == 200
    assert "python_info" in fetch("/metrics")[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert fetch("/liveness")[0] == 0


def test_a_second_process_of_the_same_name_is_refused(start: Start) -> None:
    start()
    until(lambda: fetch("/readiness")[0] == 200)
    second = start()
    output, _ = second.communicate(timeout=20)
    assert second.returncode == 1
    assert "another calico-node runs as 'agent1'" in output
    assert "Traceback" not in output
    assert fetch("/readiness")[0] == 200


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"CALICO_COMPONENTS": "felix,fleix"}, "no component plugin is named 'fleix'; installed: "),
        ({"CALICO_DATAPLANE": "ebpf"}, "no dataplane plugin is named 'ebpf'; installed: "),
        ({"IP": "10.0.0.300"}, "IP = '10.0.0.300'"),
        ({"AS": "many"}, "AS = 'many'"),
        ({"CALICO_IPV4POOL_CIDR": "10.0.0.0/99"}, "CALICO_IPV4POOL_"),
        ({"FELIX_HEALTHPORT": "x"}, "FELIX_HEALTHPORT = 'x'"),
    ],
)
def test_a_bad_setting_ends_it_with_one_line(start: Start, environ: dict[str, str], message: str) -> None:
    process = start(**environ)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert message in output.splitlines()[-1]
    assert "Traceback" not in output


def test_a_failing_component_is_restarted_while_the_others_go_on(start: Start, tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "flaky-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flaky\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[calico_node]\ncomponent.flaky = flaky:Flaky\n")
    (site / "flaky.py").write_text(
        "import anyio\n"
        "class Flaky:\n"
        "    name = 'flaky'\n"
        "    runs = 0\n"
        "    async def run(self, context):\n"
        "        self.runs += 1\n"
        "        if self.runs < 3:\n"
        "            raise RuntimeError(f'failure {self.runs}')\n"
        "        context.health.reporter(self.name).report(reason=f'run {self.runs}')\n"
        "        await anyio.sleep_forever()\n"
    )
    start(PYTHONPATH=str(site), CALICO_COMPONENTS="flaky")
    until(lambda: "failure 1" in fetch("/readiness")[1])
    code, _ = fetch("/readiness")
    assert code == 503
    until(lambda: fetch("/readiness")[0] == 200)
    components = json.loads(fetch("/status")[1])["components"]
    assert components["flaky"]["reason"] == "run 3"


def test_another_host_with_this_nodes_name_is_reported_and_not_fought(start: Start, tmp_path: Path) -> None:
    database = str(tmp_path / "state" / "datastore.db")
    start(AUTODETECT_POLL_INTERVAL="200ms")
    until(lambda: "address 172.30.0.1/24" in fetch("/readiness")[1])
    script = (
        "import anyio, attrs\n"
        "from calico_node.datastores import open_client\n"
        "from calico_node.settings import Settings\n"
        "async def main():\n"
        "    async with open_client(Settings.load()) as client:\n"
        "        node = await client.get('Node', 'agent1')\n"
        "        bgp = attrs.evolve(node.spec.bgp, ipv4_address='172.30.0.9/24')\n"
        "        await client.update(attrs.evolve(node, spec=attrs.evolve(node.spec, bgp=bgp)))\n"
        "anyio.run(main)\n"
    )
    environ = {**os.environ, "DATASTORE_TYPE": "embedded", "CALICO_DATASTORE_PATH": database}
    subprocess.run([sys.executable, "-c", script], env=environ, check=True)
    until(lambda: "172.30.0.9/24, which another host wrote" in fetch("/readiness")[1])
    time.sleep(0.5)
    assert "172.30.0.9/24, which another host wrote" in fetch("/readiness")[1]


def stored(tmp_path: Path, kind: str, name: str) -> dict[str, object]:
    command = [str(BIN / "calicoctl"), "get", kind, name, "-o", "json"]
    environ = {
        **os.environ,
        "DATASTORE_TYPE": "embedded",
        "CALICO_DATASTORE_PATH": str(tmp_path / "state" / "datastore.db"),
    }
    document: dict[str, object] = json.loads(
        subprocess.run(command, env=environ, check=True, capture_output=True).stdout
    )
    spec = document["spec"]
    assert isinstance(spec, dict)
    return spec


def test_it_leaves_the_resources_that_calico_nodes_start_with(start: Start, tmp_path: Path) -> None:
    start(CLUSTER_TYPE="lab,bgp", AS="64777", CALICO_IPV4POOL_CIDR="10.9.0.0/16", CALICO_IPV4POOL_VXLAN="CrossSubnet")
    until(lambda: fetch("/readiness")[0] == 200)
    assert stored(tmp_path, "node", "agent1")["bgp"] == {"asNumber": 64777, "ipv4Address": "172.30.0.1/24"}
    assert stored(tmp_path, "clusterinformation", "default")["clusterType"] == "lab,bgp"
    pool = stored(tmp_path, "ippool", "default-ipv4-ippool")
    assert (pool["cidr"], pool["vxlanMode"], pool["natOutgoing"]) == ("10.9.0.0/16", "CrossSubnet", True)
    assert stored(tmp_path, "felixconfiguration", "default")["logSeverityScreen"] == "Info"
    assert stored(tmp_path, "felixconfiguration", "node.agent1")["defaultEndpointToHostAction"] == "Return"
    assert stored(tmp_path, "ipamconfiguration", "default")["autoAllocateBlocks"] is True


def test_prometheus_has_a_listener_of_its_own_where_it_is_asked_for(start: Start) -> None:
    process = start()
    until(lambda: fetch("/readiness")[0] == 200)
    assert fetch("/metrics", 9091)[0] == 0
    process.terminate()
    process.wait(timeout=10)
    start(FELIX_PROMETHEUSMETRICSENABLED="true", FELIX_HEALTHENABLED="true")
    until(lambda: fetch("/metrics", 9091)[0] == 200)
    assert "python_info" in fetch("/metrics", 9091)[1]
    assert fetch("/readiness", 9091)[0] == 404


def test_ctrl_c_ends_a_command_without_a_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [str(BIN / "calico-node"), "lab", "up", "--name", f"ctrl-c-{os.getpid()}"],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "Traceback" not in output
    assert "Aborted" not in output


def test_the_health_listener_can_be_turned_off(start: Start, tmp_path: Path) -> None:
    process = start(FELIX_HEALTHENABLED="false", CALICO_COMPONENTS="ipam")
    until((tmp_path / "state" / "nodename").is_file)
    assert fetch("/liveness")[0] == 0
    process.terminate()
    assert process.wait(timeout=10) == 0
