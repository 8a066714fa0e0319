"""One small lab: what every command of it does."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.kernel.lab.conftest import COMMAND, LabCommand

APP = """
apiVersion: v1
kind: Namespace
metadata: {name: dev1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: dev1}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          ports: [{name: http, containerPort: 8080}, {containerPort: 5353, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: dev1}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: dev1, labels: {app: client}}
spec: {nodeName: n2, containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: pinned
  annotations: {cni.projectcalico.org/ipAddrs: '["10.244.7.7"]'}
spec: {nodeName: n1, containers: [{name: c, ports: [{containerPort: 80}]}]}
---
apiVersion: lab.calico-node/v1
kind: Lab
spec:
  nodes: [{name: n1, labels: {rack: a}}, {name: n2, listen: [{port: 81}]}]
  hosts: [{name: e1, listen: [{port: 80}, {port: 80, protocol: UDP}]}]
"""

DENY = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: deny-web}
spec: {selector: "app == 'web'", types: [Ingress]}
"""


@pytest.fixture(scope="module")
def up(shared: LabCommand) -> LabCommand:
    file = shared.runtime / "app.yaml"
    file.write_text(APP)
    shared.ok("up", "-f", str(file))
    return shared


def test_status_shows_ready_nodes_and_established_sessions(up: LabCommand) -> None:
    status = json.loads(up.ok("status", "--json"))
    assert [node["name"] for node in status["nodes"]] == ["n1", "n2"]
    for node in status["nodes"]:
        assert all(component["ready"] for component in node["components"].values())
        assert [session["state"] for session in node["sessions"]] == ["Established"]
    nodes = {pod["name"]: pod["node"] for pod in status["pods"]}
    assert nodes["dev1/client"] == "n2"
    assert "established" in up.ok("status")


def test_everyone_reaches_everyone(up: LabCommand) -> None:
    answers = json.loads(up.ok("probe", "--json"))
    asked = [(answer["from"], answer["to"]) for answer in answers]
    assert ("dev1/client", "node:n2") in asked, "pods ask their own node, too"
    assert len(answers) > 20
    assert [answer for answer in answers if not answer["allowed"]] == []


def test_answers_come_in_the_order_of_the_list(up: LabCommand) -> None:
    probes = [
        {"from": "dev1/client", "to": "service:dev1/web", "port": 80, "protocol": "TCP"},
        {"from": "dev1/client", "to": "service:dev1/web", "port": 81, "protocol": "TCP"},
        {"from": "host:e1", "to": "dev1/web", "port": 5353, "protocol": "UDP"},
        {"from": "dev1/client", "to": "host:e1", "port": 80, "protocol": "UDP"},
        {"from": "dev1/client", "to": "dev1/web", "protocol": "ICMP"},
        {"from": "dev1/client", "to": "dev1/web", "protocol": "ICMP", "type": 13},
        {"from": "node:n1", "to": "dev1/client", "protocol": "ICMP"},
        {"from": "node:n1", "to": "service:dev1/web", "port": 80},
        {"from": "dev1/web", "to": "service:dev1/web", "port": 80},
        {"from": "dev1/client", "to": "dev1/web", "port": 9, "protocol": "TCP"},
        {"from": "dev1/client", "to": "10.244.7.7", "port": 80},
        {"from": "dev1/client", "to": "198.51.100.1", "port": 80},
    ]
    answers = up.probe(probes)
    assert [(answer["from"], answer["to"]) for answer in answers] == [(p["from"], p["to"]) for p in probes]
    expected = [True, False, True, True, True, True, True, True, True, False, True, False]
    assert [answer["allowed"] for answer in answers] == expected, answers
    assert answers[9]["error"] == "connection refused"


def test_an_address_can_be_pinned(up: LabCommand) -> None:
    status = json.loads(up.ok("status", "--json"))
    assert next(pod["ip"] for pod in status["pods"] if pod["name"] == "default/pinned") == "10.244.7.7"


def test_a_policy_is_in_force_when_apply_returns_and_gone_when_delete_does(up: LabCommand, tmp_path: Path) -> None:
    file = tmp_path / "deny.yaml"
    file.write_text(DENY)
    assert up.allowed("dev1/client", "dev1/web", 8080)
    for _ in range(3):
        up.ok("apply", "-f", str(file))
        assert not up.allowed("dev1/client", "dev1/web", 8080)
        assert not up.allowed("host:e1", "dev1/web", 8080)
        assert up.allowed("dev1/client", "default/pinned", 80)
        up.ok("delete", "-f", str(file))
        assert up.allowed("dev1/client", "dev1/web", 8080)


def test_a_bad_document_changes_nothing(up: LabCommand, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(DENY + "---\n" + DENY.replace("deny-web", "second").replace("types:", "typos:"))
    done = up.run("apply", "-f", str(file))
    assert done.returncode == 2
    for word in ("bad.yaml, document 2", "GlobalNetworkPolicy(second)", "spec.typos"):
        assert word in done.stderr
    assert up.allowed("dev1/client", "dev1/web", 8080)


def test_labels_follow_the_documents(up: LabCommand, tmp_path: Path) -> None:
    """A pod that gets the policy's label is under the policy; one that loses it is free again."""
    deny, pod = tmp_path / "deny.yaml", tmp_path / "pod.yaml"
    deny.write_text(DENY.replace("'web'", "'closed'"))
    labelled = APP.split("---\n")[4]
    pod.write_text(labelled.replace("name: pinned", "name: pinned\n  labels: {app: closed}"))
    up.ok("apply", "-f", str(deny))
    up.ok("apply", "-f", str(pod))
    assert not up.allowed("dev1/client", "default/pinned", 80)
    pod.write_text(labelled)
    up.ok("apply", "-f", str(pod))
    assert up.allowed("dev1/client", "default/pinned", 80)
    up.ok("delete", "-f", str(deny))


def test_pods_come_and_go(up: LabCommand, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    container = "{name: c, ports: [{containerPort: 7}]}"
    file.write_text(f"{{apiVersion: v1, kind: Pod, metadata: {{name: late}}, spec: {{containers: [{container}]}}}}")
    up.ok("apply", "-f", str(file))
    assert up.allowed("dev1/client", "default/late", 7)
    assert up.allowed("host:e1", "default/late", 7)
    up.ok("delete", "-f", str(file))
    done = up.run("exec", "default/late", "--", "true")
    assert done.returncode == 2
    assert "there is no 'default/late'" in done.stderr


def test_commands_run_inside(up: LabCommand) -> None:
    assert up.run("exec", "dev1/client", "--", "sh", "-c", "exit 7").returncode == 7
    assert "nameserver 10.96.0.10" in up.ok("exec", "dev1/client", "--", "cat", "/etc/resolv.conf")
    assert os.listdir("/sys/class/net") != up.ok("exec", "dev1/client", "--", "ls", "/sys/class/net").split()
    assert up.ok("exec", "dev1/client", "--", "ls", "/sys/class/net").split() == ["eth0", "lo"]
    assert up.run("exec", "dev1/client", "--", "no-such-program").returncode == 127
    assert "n1" in up.ok("node", "n1", "--", "calicoctl", "get", "nodes")
    assert up.ok("node", "n2", "--", "sh", "-c", "echo $NODENAME $IP").split() == ["n2", "172.30.0.2/24"]


RESOLVE = """
import dns.message, dns.query, sys
query = dns.message.make_query(sys.argv[1], "A")
for ask in (dns.query.udp, dns.query.tcp):
    print([str(item) for rrset in ask(query, "10.96.0.10", timeout=3).answer for item in rrset])
"""


def test_names_resolve_by_the_name_server_and_the_hosts_file(up: LabCommand) -> None:
    import sys

    name = "web.dev1.svc.cluster.local."
    lines = up.ok("exec", "dev1/client", "--", sys.executable, "-c", RESOLVE, name).splitlines()
    assert lines[0] == lines[1] != "[]"
    address = lines[0].strip("[']")
    assert up.ok("exec", "dev1/client", "--", "getent", "hosts", "web").split()[0] == address


def test_ports_answer_with_who_and_where(up: LabCommand) -> None:
    import sys

    code = "import urllib.request as u; print(u.urlopen('http://web', timeout=3).read().decode())"
    answer = json.loads(up.ok("exec", "dev1/client", "--", sys.executable, "-c", code))
    status = json.loads(up.ok("status", "--json"))
    pods = {pod["name"]: pod for pod in status["pods"]}
    assert answer["ip"] == pods[answer["pod"]]["ip"]
    assert answer["node"] == pods[answer["pod"]]["node"]
    assert answer["peer"] == pods["dev1/client"]["ip"]


def test_env_points_calicoctl_at_the_lab(up: LabCommand) -> None:
    import sys

    calicoctl = Path(sys.executable).parent / "calicoctl"
    script = f'eval "$({sys.executable} -m calico_node.lab env)"; {calicoctl} get workloadendpoints -A'
    done = subprocess.run(["sh", "-c", script], env=up.environ, capture_output=True, text=True, check=False)
    assert "client" in done.stdout, done.stderr


def test_a_restart_keeps_the_policy_and_the_connections(up: LabCommand, tmp_path: Path) -> None:
    file = tmp_path / "deny.yaml"
    file.write_text(DENY)
    up.ok("apply", "-f", str(file))
    for option in ([], ["--kill"]):
        up.ok("restart", "n1", *option)
        assert not up.allowed("dev1/client", "dev1/web", 8080)
        assert up.allowed("dev1/client", "default/pinned", 80)
    up.ok("delete", "-f", str(file))
    assert up.allowed("dev1/client", "dev1/web", 8080)


def test_output_that_cannot_be_written_is_said_in_one_line(up: LabCommand) -> None:
    for environ, target, status in (({}, "/dev/full", 2), ({"PYTHONIOENCODING": "ascii"}, "/dev/null", 0)):
        with open(target, "w") as output:
            done = subprocess.run(
                [*COMMAND, "probe"],
                env={**up.environ, **environ},
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == status
        assert len(done.stderr.splitlines()) == (status == 2), done.stderr


def test_unknown_names_are_refused(up: LabCommand, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("[{from: dev1/clinet, to: dev1/web, port: 1}]")
    done = up.run("probe", "--probes", str(file))
    assert done.returncode == 2
    assert "did you mean 'dev1/client'?" in done.stderr
    assert up.run("restart", "n9").returncode == 2


def test_a_second_lab_of_the_same_name_is_refused_and_of_another_is_not(up: LabCommand) -> None:
    done = up.run("up", "--nodes", "1")
    assert done.returncode == 2
    assert "up already" in done.stderr
    up.ok("up", "--nodes", "1", "--name", "other")
    assert up.ok("list").split() == ["lab", "other"]
    assert up.allowed("host:e1", "dev1/web", 8080)
    up.ok("down", "--name", "other")
    assert up.ok("list").split() == ["lab"]
