"""The real executables against an agent's server: pods that reach each other, and nothing left after DEL."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from calico_node.hookspecs import WorkloadMetadata
from calico_node.linux.namespaces import call_in_netns
from calico_node.plugins.cni import operations
from calico_node.resources import from_dict
from tests.kernel.cni.node import CONFIG, POOL, NodeUnderTest, netns_path, node_under_test, run_in, workload_route

Body = Callable[[NodeUnderTest], Coroutine[Any, Any, None]]
IPAM_PREFIX = "/calico/ipam/v2/handle/"


def with_node(folder: Path, body: Body) -> None:
    async def main() -> None:
        async with node_under_test(folder) as node:
            await body(node)

    asyncio.run(main())


def reach(source: int, target: int, address: str) -> str:
    """Send over TCP from one pod to another; the address the target sees.  Raises ``OSError``."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = call_in_netns(target, lambda: socket.create_server((address, 8080), family=family))
    client = call_in_netns(source, lambda: socket.socket(family, socket.SOCK_STREAM))
    with listener, client:
        client.settimeout(2)
        client.connect((address, 8080))
        connection, peer = listener.accept()
        connection.close()
        return str(peer[0])


def address_of(answer: dict[str, Any]) -> str:
    return str(answer["ips"][0]["address"]).partition("/")[0]


def test_two_pods_reach_each_other_and_del_leaves_nothing(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        first, second = node.new_pod(), node.new_pod()
        one = await node.cni("ADD", netns=first, container="c1", pod="p1")
        two = await node.cni("ADD", netns=second, container="c2", pod="p2")
        assert (one.status, two.status) == (0, 0)
        assert [item["name"] for item in two.json["interfaces"]] == [node.links()[-1], "eth0"]
        assert two.json["ips"][0]["interface"] == 1
        assert await asyncio.to_thread(reach, first, second, address_of(two.json)) == address_of(one.json)
        assert await asyncio.to_thread(reach, second, first, address_of(one.json)) == address_of(two.json)
        device = one.json["interfaces"][0]["name"]
        assert f"{address_of(one.json)} dev {device} scope link metric 1024 " in node.host_routes()

        stored = {item.spec.pod: item for item in await node.endpoints()}
        assert stored["p1"].metadata.name == "node--a-k8s-p1-eth0"
        assert stored["p1"].spec.mac == one.json["interfaces"][1]["mac"]
        assert stored["p1"].spec.profiles == ["kns.default", "ksa.default.default"]
        assert stored["p1"].spec.ip_networks == [f"{address_of(one.json)}/32"]
        assert (await node.cni("CHECK", netns=first, container="c1", pod="p1")).status == 0

        for netns, container, pod in ((first, "c1", "p1"), (second, "c2", "p2")):
            for _ in range(2):
                answer = await node.cni("DEL", netns=netns, container=container, pod=pod)
                assert (answer.status, answer.output) == (0, "")
            assert node.links(netns) == ["lo"]
        assert node.links() == ["lo"]
        assert node.host_routes() == []
        assert await node.endpoints() == []
        assert await node.keys(IPAM_PREFIX) == []
        assert (await node.cni("CHECK", netns=first, container="c1", pod="p1")).status == 1

    with_node(tmp_path, body)


def test_felix_finds_the_pods_route_as_it_wants_it(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        answer = await node.cni("ADD", netns=node.new_pod())
        before = node.host_routes()
        await node.routes.set_routes(
            "felix", [workload_route(answer.json["ips"][0]["address"], answer.json["interfaces"][0]["name"])]
        )
        await node.routes.prune("felix")
        assert node.host_routes() == before

    with_node(tmp_path, body)


def test_a_repeated_add_gives_the_same_answer_and_repairs(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        netns = node.new_pod()
        first = await node.cni("ADD", netns=netns)
        again = await node.cni("ADD", netns=netns)
        assert again.json["ips"] == first.json["ips"]
        assert again.json["interfaces"] == first.json["interfaces"]
        run_in(netns, "ip", "addr", "flush", "dev", "eth0")
        assert (await node.cni("CHECK", netns=netns)).status == 1
        repaired = await node.cni("ADD", netns=netns)
        assert repaired.json["ips"][0]["address"] == first.json["ips"][0]["address"]
        assert (await node.cni("CHECK", netns=netns)).status == 0
        assert len(await node.keys(IPAM_PREFIX)) == 1

    with_node(tmp_path, body)


def test_an_old_sandboxs_del_leaves_the_new_one_alone(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        old, new = node.new_pod(), node.new_pod()
        await node.cni("ADD", netns=old, container="old")
        answer = await node.cni("ADD", netns=new, container="new")
        assert (await node.cni("DEL", netns=old, container="old")).status == 0
        assert (await node.cni("CHECK", netns=new, container="new")).status == 0
        assert [item.spec.container_id for item in await node.endpoints()] == ["new"]
        assert await node.keys(IPAM_PREFIX) == [f"{IPAM_PREFIX}k8s-pod-network.new"]
        assert address_of(answer.json)

    with_node(tmp_path, body)


@pytest.mark.parametrize("step", ["addresses", "wiring"])
def test_what_a_killed_agent_left_is_taken_up(tmp_path: Path, step: str) -> None:
    """kill -9 after a step of an ADD; then the same ADD works with the same address, and DEL clears all."""

    async def body(node: NodeUnderTest) -> None:
        netns = node.new_pod()
        await node.stop()
        agent = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.kernel.cni.stalling_agent",
            netns_path(node.netns),
            step,
            env={**os.environ, **node.settings.environ},
            stdout=asyncio.subprocess.PIPE,
        )
        assert agent.stdout is not None
        while b"listening" not in await agent.stdout.readline():
            assert agent.returncode is None
        call = asyncio.create_task(node.cni("ADD", netns=netns))
        while b"stalled" not in await agent.stdout.readline():
            assert not call.done()
        agent.kill()
        await agent.wait()
        answer = await call
        assert (answer.status, answer.json["code"]) == (1, 11)
        assert len(node.links()) == (2 if step == "wiring" else 1)
        (held,) = await node.keys(IPAM_PREFIX)
        await node.start()
        assert (await node.cni("ADD", netns=netns)).status == 0
        assert (await node.cni("CHECK", netns=netns)).status == 0
        assert await node.keys(IPAM_PREFIX) == [held]
        assert (await node.cni("DEL", netns=netns)).status == 0
        assert await node.keys(IPAM_PREFIX) == []
        assert node.links() == ["lo"]

    with_node(tmp_path, body)


def test_a_failed_add_leaves_nothing(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        netns = node.new_pod()
        run_in(netns, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
        answer = await node.cni("ADD", netns=netns)
        assert answer.status == 1
        assert "File exists" in answer.json["msg"]
        assert await node.endpoints() == []
        assert await node.keys(IPAM_PREFIX) == []
        assert node.links() == ["lo"]
        node.metadata["default", "p1"] = WorkloadMetadata(
            annotations={"cni.projectcalico.org/allowedSourcePrefixes": '["not a prefix"]'}
        )
        answer = await node.cni("ADD", netns=node.new_pod())
        assert "allowSpoofedSourcePrefixes[0]" in answer.json["msg"]
        assert node.links() == ["lo"]
        assert await node.keys(IPAM_PREFIX) == []

    with_node(tmp_path, body)


def test_annotations_choose_address_mac_and_pool(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        prefix = "cni.projectcalico.org/"
        node.metadata["default", "fixed"] = WorkloadMetadata(
            labels={"app": "web"},
            annotations={prefix + "ipAddrs": '["10.65.9.9"]', prefix + "hwAddr": "02:11:22:33:44:55"},
            service_account="web",
            ports=({"name": "http", "protocol": "TCP", "port": 80, "hostPort": 0, "hostIP": ""},),
        )
        answer = await node.cni("ADD", netns=node.new_pod(), container="c1", pod="fixed")
        assert answer.json["ips"][0]["address"] == "10.65.9.9/32"
        assert answer.json["interfaces"][1]["mac"] == "02:11:22:33:44:55"
        (stored,) = await node.endpoints()
        assert stored.metadata.labels == {
            "app": "web",
            "projectcalico.org/namespace": "default",
            "projectcalico.org/orchestrator": "k8s",
            "projectcalico.org/serviceaccount": "web",
        }
        assert (stored.spec.ports[0].name, stored.spec.ports[0].port) == ("http", 80)
        node.metadata["default", "twice"] = node.metadata["default", "fixed"]
        answer = await node.cni("ADD", netns=node.new_pod(), container="c2", pod="twice")
        assert answer.status == 1
        assert "10.65.9.9" in answer.json["msg"]
        node.metadata["default", "lost"] = WorkloadMetadata(annotations={prefix + "ipv4pools": '["absent"]'})
        answer = await node.cni("ADD", netns=node.new_pod(), container="c3", pod="lost")
        assert "'absent'" in answer.json["msg"]

    with_node(tmp_path, body)


def test_the_ipam_executable_prints_the_blocks_prefix(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        answer = await node.cni("ADD", role="calico-ipam")
        assert answer.json["ips"][0]["address"].endswith("/26")
        assert answer.json["routes"] == [{"dst": answer.json["ips"][0]["address"]}]
        assert len(await node.keys(IPAM_PREFIX)) == 1
        assert (await node.cni("DEL", role="calico-ipam")).status == 0
        assert await node.keys(IPAM_PREFIX) == []

    with_node(tmp_path, body)


def test_another_ipam_plugin_is_executed(tmp_path: Path) -> None:
    plugin = tmp_path / "other-ipam"
    plugin.write_text(
        "#!/bin/sh\necho $CNI_COMMAND >> $0.log\n"
        '[ $CNI_COMMAND = ADD ] && echo \'{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.99.0.7/24"}]}\'\n'
        "exit 0\n"
    )
    plugin.chmod(0o755)
    config = {**CONFIG, "ipam": {"type": "other-ipam"}}

    async def body(node: NodeUnderTest) -> None:
        netns = node.new_pod()
        answer = await node.cni("ADD", netns=netns, config=config, path=f"/absent:{tmp_path}")
        assert answer.json["ips"] == [{"interface": 1, "address": "10.99.0.7/32"}]
        assert (await node.cni("DEL", netns=netns, config=config, path=str(tmp_path))).status == 0
        answer = await node.cni("ADD", netns=netns, config=config, path="/absent")
        assert "failed to find plugin 'other-ipam'" in answer.json["msg"]

    with_node(tmp_path, body)
    assert Path(f"{plugin}.log").read_text().split() == ["ADD", "DEL"]


def test_a_container_without_kubernetes_gets_the_networks_profile(tmp_path: Path) -> None:
    config = {"cniVersion": "0.4.0", "name": "mynet", "type": "calico", "ipam": {"type": "calico-ipam"}}

    async def body(node: NodeUnderTest) -> None:
        netns = node.new_pod()
        answer = await node.cni("ADD", netns=netns, container="0123456789abcdef", config=config, kubernetes=False)
        assert answer.json["interfaces"][0]["name"] == "cali0123456789a"
        assert answer.json["ips"][0]["version"] == "4"
        (stored,) = await node.endpoints()
        assert stored.spec.profiles == ["mynet"]
        profile = await node.client.get("Profile", "mynet")
        assert profile.spec.labels_to_apply == {"mynet": ""}
        assert (
            await node.cni("DEL", netns=netns, container="0123456789abcdef", config=config, kubernetes=False)
        ).status == 0
        assert await node.endpoints() == []

    with_node(tmp_path, body)


def test_gc_removes_what_the_runtime_does_not_know(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        for name in ("keep", "drop"):
            assert (await node.cni("ADD", netns=node.new_pod(), container=name, pod=name)).status == 0
        config = {
            **CONFIG,
            "cniVersion": "1.1.0",
            "cni.dev/valid-attachments": [{"containerID": "keep", "ifname": "eth0"}],
        }
        assert (await node.cni("STATUS", config=config)).status == 0
        assert (await node.cni("GC", config=config)).status == 0
        assert [item.spec.pod for item in await node.endpoints()] == ["keep"]
        assert await node.keys(IPAM_PREFIX) == [f"{IPAM_PREFIX}k8s-pod-network.keep"]
        assert len(node.links()) == 2

    with_node(tmp_path, body)


def test_a_pod_of_both_families_reaches_the_host_over_ipv6(tmp_path: Path) -> None:
    config = {**CONFIG, "ipam": {"type": "calico-ipam", "assign_ipv6": "true"}}

    async def body(node: NodeUnderTest) -> None:
        await node.client.create(
            from_dict({**POOL, "metadata": {"name": "v6"}, "spec": {"cidr": "fd65::/112", "blockSize": 122}})
        )
        pods = [node.new_pod() for _ in range(2)]
        answers = [
            await node.cni("ADD", netns=pod, container=f"c{n}", pod=f"p{n}", config=config)
            for n, pod in enumerate(pods)
        ]
        addresses = [answer.json["ips"][1]["address"] for answer in answers]
        assert all(address.endswith("/128") for address in addresses)
        target = addresses[1].partition("/")[0]
        assert await asyncio.to_thread(reach, pods[0], pods[1], target) == addresses[0].partition("/")[0]
        for n, pod in enumerate(pods):
            assert (await node.cni("CHECK", netns=pod, container=f"c{n}", pod=f"p{n}", config=config)).status == 0
            assert (await node.cni("DEL", netns=pod, container=f"c{n}", pod=f"p{n}", config=config)).status == 0
        assert await node.keys(IPAM_PREFIX) == []

    with_node(tmp_path, body)


def test_many_adds_at_once_get_different_addresses(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        pods = [node.new_pod() for _ in range(30)]
        answers = await asyncio.gather(
            *(node.cni("ADD", netns=pod, container=f"c{n}", pod=f"p{n}") for n, pod in enumerate(pods))
        )
        assert {answer.status for answer in answers} == {0}
        assert len({address_of(answer.json) for answer in answers}) == 30
        assert len(node.host_routes()) == 30

    with_node(tmp_path, body)


def test_the_wait_for_policy_ends_with_felixs_file(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "endpoint-status"

    async def body(node: NodeUnderTest) -> None:
        folder.mkdir(parents=True)
        config = {**CONFIG, "policy_setup_timeout_seconds": 20}
        call = asyncio.create_task(node.cni("ADD", netns=node.new_pod(), config=config))
        await asyncio.sleep(0.5)
        assert len(await node.endpoints()) == 1
        assert not call.done()
        (folder / "k8s default%2Fp1 eth0").write_text("{}")
        assert (await asyncio.wait_for(call, 5)).status == 0

    with_node(tmp_path, body)


def test_the_console_scripts_are_the_same_client(tmp_path: Path) -> None:
    for name in ("calico", "calico-ipam"):
        answer = subprocess.run(
            [Path(sys.executable).parent / name],
            env={"CNI_COMMAND": "ADD", "CNI_NETNS": "/proc/self/ns/net", "CALICO_RUN_DIR": str(tmp_path)},
            input=b'{"cniVersion":"0.4.0","name":"net"}',
            capture_output=True,
            check=False,
        )
        assert answer.returncode == 1
        error = json.loads(answer.stdout)
        assert (error["cniVersion"], error["code"]) == ("0.4.0", 11)
        assert f"calico-node is not running on this host: {tmp_path}/cni.sock" in error["msg"]


def test_an_add_waits_for_the_readiness_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "GATE_INTERVAL", 0.05)
    monkeypatch.setattr(operations, "GATE_TIMEOUT", 1.0)
    answers = [b"503 Unavailable", b"200 OK"]

    async def gate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + answers.pop(0) + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async def body(node: NodeUnderTest) -> None:
        async with await asyncio.start_server(gate, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            config = {**CONFIG, "readiness_gates": [f"http://127.0.0.1:{port}/ready"]}
            assert (await node.cni("ADD", netns=node.new_pod(), config=config)).status == 0
            assert answers == []
        answer = await node.cni("ADD", netns=node.new_pod(), container="c2", pod="p2", config=config)
        assert answer.status == 1
        assert f"http://127.0.0.1:{port}/ready is not open" in answer.json["msg"]

    with_node(tmp_path, body)


def test_errors_are_printed_as_the_specification_says(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        netns = node.new_pod()
        bad = {**CONFIG, "cniVersion": "9.0.0"}
        answer = await node.cni("ADD", netns=netns, config=bad)
        assert (answer.status, answer.json["code"], answer.json["cniVersion"]) == (1, 1, "9.0.0")
        answer = await node.cni("ADD", config=CONFIG)
        assert (answer.status, answer.json["code"]) == (1, 4)
        answer = await node.cni("ADD", netns=99999)
        assert (answer.status, answer.json["code"]) == (1, 8)
        answer = await node.cni("ADD", netns=netns, config={**CONFIG, "nodename": "elsewhere"})
        assert "'elsewhere'" in answer.json["msg"]
        information = await node.client.get("ClusterInformation", "default")
        information.spec.datastore_ready = False
        await node.client.update(information)
        answer = await node.cni("ADD", netns=netns)
        assert (answer.json["code"], answer.json["msg"]) == (
            999,
            "Calico is currently not ready to process requests",
        )
        await node.stop()
        answer = await node.cni("ADD", netns=netns)
        assert answer.json["code"] == 11
        assert "calico-node is not running" in answer.json["msg"]
        answer = await node.cni("VERSION")
        assert "1.0.0" in answer.json["supportedVersions"]

    with_node(tmp_path, body)


def test_the_nodes_own_namespace_is_nobodys_pod(tmp_path: Path) -> None:
    """An ADD into it would take the node's default route, a DEL with CNI_IFNAME=eth0 its network card."""

    async def body(node: NodeUnderTest) -> None:
        run_in(node.netns, "ip", "link", "add", "eth0", "type", "dummy")
        before = node.links(), node.host_routes()
        answer = await node.cni("ADD", netns=node.netns, container="c1", pod="p1")
        assert (answer.status, answer.json["code"]) == (1, 8)
        assert "the node itself" in answer.json["msg"]
        answer = await node.cni("DEL", netns=node.netns, container="c1", pod="p1")
        assert answer.status == 0
        assert (node.links(), node.host_routes()) == before
        with (tmp_path / "file").open("w") as file:
            answer = await node.cni("ADD", netns=file.fileno(), container="c1", pod="p1")
            assert "is not a network namespace" in answer.json["msg"]

    with_node(tmp_path, body)


def test_a_client_that_goes_away_does_no_harm(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        for start in (b"", b"CNI1 calico 10 ", b"CNI1 calico 10 10\n"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(node.settings.cni_socket))
                connection.sendall(start)
        assert (await node.cni("ADD", netns=node.new_pod())).status == 0

    with_node(tmp_path, body)


def test_a_call_cut_off_by_the_agents_end_never_touches_another_namespace(tmp_path: Path) -> None:
    """The descriptor's number is free again as soon as the call is gone; the wiring under way keeps its own."""

    async def body(node: NodeUnderTest) -> None:
        for delay in range(10):
            call = asyncio.create_task(node.cni("ADD", netns=node.new_pod()))
            await asyncio.sleep(0.01 + 0.004 * delay)
            await node.stop()
            others = [node.new_pod() for _ in range(4)]
            await call
            await asyncio.sleep(0.05)
            assert [node.links(other) for other in others] == [["lo"]] * 4
            await node.start()
            assert (await node.cni("DEL", netns=None)).status == 0
            assert await node.held("c1") == []
            assert node.links() == ["lo"]

    with_node(tmp_path, body)


def test_only_root_is_served() -> None:
    script = (
        "import os, socket, sys\nos.setresuid(65534, 65534, 65534)\ns = socket.socket(socket.AF_UNIX)\n"
        "s.connect(sys.argv[1])\nprint(s.recv(100))"
    )

    async def body(node: NodeUnderTest) -> None:
        for path in (node.folder, node.settings.run_dir):
            path.chmod(0o755)
        node.settings.cni_socket.chmod(0o666)
        process = await asyncio.create_subprocess_exec(
            "/usr/bin/python3", "-c", script, str(node.settings.cni_socket), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert output.strip() == b"b''", "this needs a second user ID (65534): not a user namespace with one"

    with tempfile.TemporaryDirectory() as folder:
        with_node(Path(folder), body)


def test_an_address_asked_for_in_the_arguments_is_given(tmp_path: Path) -> None:
    async def body(node: NodeUnderTest) -> None:
        answer = await node.cni("ADD", netns=node.new_pod(), arguments="IP=10.65.3.3")
        assert answer.json["ips"][0]["address"] == "10.65.3.3/32"

    with_node(tmp_path, body)
