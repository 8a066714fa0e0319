"""From Kubernetes objects to pods on nodes and services with endpoints."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_node.errors import ValidationError
from calico_node.lab import cluster
from calico_node.lab.intake import Source, read
from calico_node.lab.services import (
    CLUSTER_NETWORK,
    Endpoint,
    Service,
    ServicePort,
    assign_addresses,
    table_messages,
)
from calico_node.lab.spec import LabNode, LabSpec, Listen

LAB = LabSpec((LabNode("n1", "172.30.0.1/24"), LabNode("n2", "172.30.0.2/24", labels={"disk": "ssd"})))

APP = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}, {containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"""


def plan(text: str, placed: dict[str, str] | None = None) -> cluster.Plan:
    intake = read([Source("app.yaml", text)])
    return cluster.make_plan(intake.kubernetes, LAB, placed or {}, intake.origins)


def pod(name: str, spec: str = "") -> str:
    extra = f"{spec}, " if spec else ""
    return f"{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{extra}containers: [{{name: c}}]}}}}"


def test_pods_spread_over_the_nodes_and_the_name_server_is_among_them() -> None:
    made = plan(APP)
    assert len(made.pods) == 5
    assert "kube-system/kube-dns" in made.pods
    loads = [sum(pod.node == name for pod in made.pods.values()) for name in ("n1", "n2")]
    assert sorted(loads) == [2, 3]
    assert plan(APP).pods == made.pods, "the same every time"


def test_a_workloads_name_stands_for_its_first_pod() -> None:
    aliases = [pod.alias for pod in plan(APP).pods.values() if pod.alias]
    assert aliases == ["default/web"]


def test_pods_stay_where_they_are() -> None:
    first = plan(APP)
    placed = dict.fromkeys(first.pods, "n2")
    assert {pod.node for pod in plan(APP, placed).pods.values()} == {"n2"}


def test_node_names_and_selectors_are_honoured() -> None:
    made = plan("\n---\n".join([pod("a", "nodeName: n2"), pod("b", "nodeSelector: {disk: ssd}")]))
    assert (made.pods["default/a"].node, made.pods["default/b"].node) == ("n2", "n2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (pod("a", "nodeName: n9"), ["Pod(default/a)", "spec.nodeName = 'n9'", "n1, n2"]),
        (pod("a", "nodeSelector: {disk: tape}"), ["Pod(default/a)", "spec.nodeSelector"]),
        (pod("a").replace("name: a", "name: a, namespace: other"), ["other", "does not exist", "app.yaml"]),
    ],
)
def test_what_cannot_be_placed_is_refused(text: str, words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        plan(text)
    for word in words:
        assert word in str(caught.value)


def test_every_declared_port_answers() -> None:
    made = next(pod for pod in plan(APP).pods.values() if pod.alias)
    assert made.listen == (Listen(8080, "TCP"), Listen(53, "UDP"))


def test_services_resolve_named_ports() -> None:
    made = plan(APP)
    addresses = {key: f"10.244.0.{index}" for index, key in enumerate(made.pods, 1)}
    web = next(item for item in cluster.services(made, addresses, {}) if item.name == "web")
    assert len(web.ports[0].endpoints) == 4
    assert {endpoint.port for endpoint in web.ports[0].endpoints} == {8080}
    assert ipaddress.ip_address(web.address) in CLUSTER_NETWORK


def test_a_pod_without_an_address_is_no_endpoint() -> None:
    web = next(item for item in cluster.services(plan(APP), {}, {}) if item.name == "web")
    assert web.ports[0].endpoints == ()


def test_cluster_addresses_are_kept_and_asked_for() -> None:
    first = assign_addresses({"a/x": "", "a/y": "10.96.0.7"}, {})
    assert first["a/y"] == "10.96.0.7"
    assert assign_addresses({"a/x": "", "b/z": ""}, first)["a/x"] == first["a/x"]
    for wanted in ({"a/x": "192.168.0.1"}, {"a/x": "10.96.0.7", "a/y": "10.96.0.7"}, {"a/x": "fd00::1"}):
        with pytest.raises(ValidationError, match=r"Service\(a/"):
            assign_addresses(wanted, {})


@given(st.sets(st.from_regex(r"\A[a-z]{1,5}/[a-z]{1,5}\Z"), max_size=60))
def test_cluster_addresses_are_distinct_and_follow_from_the_names(keys: set[str]) -> None:
    wanted = dict.fromkeys(keys, "")
    assigned = assign_addresses(wanted, {})
    assert len(set(assigned.values())) == len(keys)
    assert all(ipaddress.ip_address(address) in CLUSTER_NETWORK for address in assigned.values())
    assert assign_addresses(dict.fromkeys(sorted(keys, reverse=True), ""), {}) == assigned


def test_a_service_without_endpoints_adds_nothing_to_the_table() -> None:
    empty = Service("a", "b", "10.96.0.9", (ServicePort("", "TCP", 80),))
    assert len(table_messages([empty])) == len(table_messages([]))
    full = Service("a", "b", "10.96.0.9", (ServicePort("", "TCP", 80, (Endpoint("10.244.0.1", 80),)),))
    assert len(table_messages([full])) > len(table_messages([]))


def test_more_pods_than_a_lab_takes_are_refused_before_anything_is_made() -> None:
    with pytest.raises(ValidationError, match=r"Deployment\(default/web\): spec.replicas = 10000: a lab takes 2000"):
        plan(APP.replace("replicas: 4", "replicas: 10000"))


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [('["10.244.9.9"]', "asks for 10.244.9.9 too"), ("[10.244.9.9", "JSON list"), ('["10.244.9"]', "JSON list")],
)
def test_a_pinned_address_is_one_pods_and_an_address(annotation: str, reason: str) -> None:
    pinned = pod("a").replace("{name: a}", f"{{name: a, annotations: {{{cluster.PINNED}: '{annotation}'}}}}")
    with pytest.raises(ValidationError, match=reason) as caught:
        plan(f"{pinned}\n---\n{pinned.replace('name: a', 'name: b')}")
    assert "app.yaml, document" in str(caught.value)
    assert caught.value.value == annotation
