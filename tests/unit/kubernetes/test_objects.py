"""Profiles, pods, defaults, workloads and the API server's checks."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from calico_node.errors import ValidationError
from calico_node.kubernetes import (
    apply_api_defaults,
    expand_to_pods,
    implied_objects,
    is_kubernetes,
    missing_namespaces,
    namespace_to_profile,
    pod_networks,
    pod_to_workload_metadata,
    ref_of,
    service_account_to_profile,
    validate,
    workload_profiles,
)
from calico_node.resources import to_dict
from calico_node.resources import validate as validate_resource


def document(text: str) -> dict[str, Any]:
    return apply_api_defaults(yaml.safe_load(text))


POD = """
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  labels: {app: web}
  generateName: web-
  annotations: {cni.projectcalico.org/ipAddrs: '["10.0.0.9"]'}
spec:
  nodeName: node-1
  containers:
  - name: web
    ports:
    - {name: http, containerPort: 8080}
    - {containerPort: 9090}
    - {containerPort: 53, protocol: UDP, hostPort: 5353}
  initContainers:
  - {name: init, ports: [{name: setup, containerPort: 1000}]}
"""


def test_a_namespace_lends_its_labels() -> None:
    profile = namespace_to_profile(
        document("{apiVersion: v1, kind: Namespace, metadata: {name: prod, labels: {team: blue}}}")
    )
    validate_resource(profile)
    assert profile.metadata.name == "kns.prod"
    assert to_dict(profile)["spec"] == {
        "ingress": [{"action": "Allow"}],
        "egress": [{"action": "Allow"}],
        "labelsToApply": {
            "pcns.kubernetes.io/metadata.name": "prod",
            "pcns.projectcalico.org/name": "prod",
            "pcns.team": "blue",
        },
    }


def test_a_service_account_lends_its_labels() -> None:
    account = document(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a.b, namespace: prod, labels: {role: x}}}"
    )
    profile = service_account_to_profile(account)
    validate_resource(profile)
    assert profile.metadata.name == "ksa.prod.a.b"
    assert to_dict(profile)["spec"] == {"labelsToApply": {"pcsa.projectcalico.org/name": "a.b", "pcsa.role": "x"}}


def test_what_a_pod_means() -> None:
    namespace = document("{apiVersion: v1, kind: Namespace, metadata: {name: default, annotations: {a: b}}}")
    pod = document(POD)
    metadata = pod_to_workload_metadata(pod, namespace)
    assert metadata.labels == {
        "app": "web",
        "projectcalico.org/namespace": "default",
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "default",
    }
    assert metadata.service_account == "default"
    assert metadata.generate_name == "web-"
    assert metadata.namespace_annotations == {"a": "b"}
    assert metadata.namespace_labels == {"kubernetes.io/metadata.name": "default"}
    assert metadata.annotations == {"cni.projectcalico.org/ipAddrs": '["10.0.0.9"]'}
    assert metadata.ports == (
        {"name": "http", "protocol": "TCP", "port": 8080, "hostPort": 0, "hostIP": ""},
        {"name": "", "protocol": "UDP", "port": 53, "hostPort": 5353, "hostIP": ""},
        {"name": "setup", "protocol": "TCP", "port": 1000, "hostPort": 0, "hostIP": ""},
    )
    assert workload_profiles(pod) == ["kns.default", "ksa.default.default"]


def test_a_long_service_account_has_no_label() -> None:
    pod = document(POD)
    pod["spec"]["serviceAccountName"] = "a" * 63
    assert "projectcalico.org/serviceaccount" not in pod_to_workload_metadata(pod).labels
    assert workload_profiles(pod)[1] == "ksa.default." + "a" * 63


@pytest.mark.parametrize(
    ("status", "annotations", "deleted", "networks"),
    [
        (
            {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "podIP": "10.0.0.2"},
            {},
            False,
            ["10.0.0.1/32", "fd00::1/128"],
        ),
        ({"podIP": "10.0.0.2"}, {"podIP": "10.0.0.3/32"}, False, ["10.0.0.2/32"]),
        ({}, {"podIPs": "10.0.0.3/32,fd00::3/128", "podIP": "10.0.0.4/32"}, False, ["10.0.0.3/32", "fd00::3/128"]),
        ({}, {"podIP": "10.0.0.4/32"}, True, ["10.0.0.4/32"]),
        ({"podIP": "10.0.0.2"}, {"podIP": ""}, True, []),
        ({"podIP": "10.0.0.2", "phase": "Succeeded"}, {}, False, []),
        ({}, {}, False, []),
    ],
)
def test_a_pods_addresses(
    status: dict[str, Any], annotations: dict[str, str], deleted: bool, networks: list[str]
) -> None:
    metadata: dict[str, Any] = {
        "name": "p",
        "annotations": {f"cni.projectcalico.org/{name}": value for name, value in annotations.items()},
    }
    if deleted:
        metadata["deletionTimestamp"] = "2026-08-01T10:00:00Z"
    assert pod_networks({"metadata": metadata, "status": status}) == networks


def test_a_pod_address_that_is_none() -> None:
    for address in ("10.0.0.0/8", "ten"):
        with pytest.raises(ValidationError):
            pod_networks({"status": {"podIP": address}})


def test_kinds_are_told_apart_by_their_group() -> None:
    assert is_kubernetes({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"})
    assert not is_kubernetes({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy"})
    assert not is_kubernetes({"kind": "Node", "apiVersion": "v1"})


def test_defaults_do_not_touch_the_original() -> None:
    original = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    service = apply_api_defaults(original)
    assert original["spec"] == {"ports": [{"port": 80}]}
    assert service["metadata"]["namespace"] == "default"
    assert service["spec"] == {"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}


def test_what_every_cluster_has() -> None:
    given = [document("{apiVersion: v1, kind: Namespace, metadata: {name: prod}}")]
    given.append(document("{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: prod}}"))
    assert [str(ref_of(item)) for item in implied_objects(given)] == [
        "Namespace(default)",
        "ServiceAccount(default/default)",
    ]
    given.append(document("{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: typo}, spec: {}}"))
    assert missing_namespaces(given) == {"typo": ["Pod(typo/p)"]}


WORKLOAD = """
apiVersion: {version}
kind: {kind}
metadata: {{name: web, namespace: prod}}
spec:
  {extra}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: web}}]}}
"""


def workload(kind: str, extra: str, version: str = "apps/v1") -> dict[str, Any]:
    made = document(WORKLOAD.format(kind=kind, extra=extra, version=version))
    validate(made)
    return made


def names(pods: list[dict[str, Any]]) -> list[str]:
    for pod in pods:
        validate(apply_api_defaults(pod))
        assert pod["metadata"]["namespace"] == "prod"
        assert pod["metadata"]["labels"]["app"] == "web"
    return [pod["metadata"]["name"] for pod in pods]


def test_a_stateful_set() -> None:
    pods = expand_to_pods(workload("StatefulSet", "replicas: 2\n  serviceName: svc"))
    assert names(pods) == ["web-0", "web-1"]
    assert pods[1]["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == "web-1"
    assert (pods[1]["spec"]["hostname"], pods[1]["spec"]["subdomain"]) == ("web-1", "svc")
    assert pods[1]["spec"]["serviceAccountName"] == "default"


def test_a_deployment_is_the_same_every_time() -> None:
    pods = expand_to_pods(workload("Deployment", "replicas: 3"))
    assert len(set(names(pods))) == 3
    assert all(re.fullmatch(r"web-[a-z0-9]{10}-[a-z0-9]{5}", name) for name in names(pods))
    assert names(expand_to_pods(workload("Deployment", "replicas: 5")))[:3] == names(pods)
    assert pods[0]["metadata"]["name"].startswith(pods[0]["metadata"]["generateName"])
    assert pods[0]["metadata"]["labels"]["pod-template-hash"] == pods[0]["metadata"]["name"].split("-")[1]
    assert expand_to_pods(workload("Deployment", "replicas: 0")) == []
    assert len(names(expand_to_pods(workload("ReplicaSet", "replicas: 2")))) == 2


def test_a_daemon_set_has_a_pod_on_every_node_it_selects() -> None:
    nodes = {"node2": {"rack": "b"}, "node1": {"rack": "a"}}
    daemon_set = workload("DaemonSet", "minReadySeconds: 0")
    pods = expand_to_pods(daemon_set, nodes)
    assert [pod["spec"]["nodeName"] for pod in pods] == ["node1", "node2"]
    assert len(set(names(pods))) == 2
    daemon_set["spec"]["template"]["spec"]["nodeSelector"] = {"rack": "b"}
    assert [pod["spec"]["nodeName"] for pod in expand_to_pods(daemon_set, nodes)] == ["node2"]


def test_jobs() -> None:
    job = workload("Job", "parallelism: 3\n  completions: 2", "batch/v1")
    pods = expand_to_pods(job)
    assert len(names(pods)) == 2
    assert pods[0]["metadata"]["labels"]["job-name"] == "web"
    cron = document(
        "{apiVersion: batch/v1, kind: CronJob, metadata: {name: web, namespace: prod}, spec: {schedule: '* * * * *'}}"
    )
    cron["spec"]["jobTemplate"] = {"spec": job["spec"]}
    validate(cron)
    assert names(expand_to_pods(cron))[0].startswith("web-")


def test_names_of_pods_stay_within_a_label() -> None:
    deployment = workload("Deployment", "replicas: 1")
    deployment["metadata"]["name"] = "a" * 60
    (pod,) = expand_to_pods(deployment)
    assert len(pod["metadata"]["name"]) <= 63


BAD = [
    ("kind: Pod, metadata: {name: Web}, spec: {containers: [{name: a}]}", "v1", "metadata.name"),
    ("kind: Pod, metadata: {name: a, labels: {x: 1}}, spec: {containers: [{name: a}]}", "v1", "metadata.labels[x]"),
    ("kind: Pod, metadata: {name: a, labels: {'/x': y}}, spec: {containers: [{name: a}]}", "v1", "metadata.labels"),
    ("kind: Pod, metadata: {name: a}, spec: {}", "v1", "spec.containers"),
    (
        "kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, ports: [{containerPort: 70000}]}]}",
        "v1",
        "spec.containers[0].ports[0].containerPort",
    ),
    (
        "kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, ports: [{containerPort: 1, protocol: tcp}]}]}",
        "v1",
        "spec.containers[0].ports[0].protocol",
    ),
    ("kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}, {port: 81}]}", "v1", "spec.ports[0].name"),
    ("kind: Service, metadata: {name: a}, spec: {ports: [{name: {a: 1}, port: 80}]}", "v1", "spec.ports[0].name"),
    ("kind: Service, metadata: {name: a}, spec: {clusterIP: 10.0.0.256}", "v1", "spec.clusterIP"),
    ("kind: Pod, metadata: {name: a}, spec: {containers: [{name: a}]}", "apps/v1", "apiVersion"),
    (
        "kind: Deployment, metadata: {name: a}, spec: {selector: {matchLabels: {a: b}}, "
        "template: {spec: {containers: [{name: a}]}}}",
        "apps/v1",
        "spec.template.metadata.labels",
    ),
]
BAD_POLICY = [
    ("podSelectors: {}", "spec.podSelectors"),
    ("podSelector: {matchLabel: {a: b}}", "spec.podSelector.matchLabel"),
    (
        "podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}",
        "spec.podSelector.matchExpressions[0].operator",
    ),
    (
        "podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
        "spec.podSelector.matchExpressions[0].values",
    ),
    ("policyTypes: [ingress]", "spec.policyTypes[0]"),
    ("ingress: [{to: []}]", "spec.ingress[0].to"),
    ("ingress: [{ports: [{port: 0}]}]", "spec.ingress[0].ports[0].port"),
    ("ingress: [{ports: [{port: '80'}]}]", "spec.ingress[0].ports[0].port"),
    ("ingress: [{ports: [{port: http, endPort: 90}]}]", "spec.ingress[0].ports[0].endPort"),
    ("ingress: [{from: [{}]}]", "spec.ingress[0].from[0]"),
    ("ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]", "spec.ingress[0].from[0].ipBlock.cidr"),
    ("ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]", "spec.ingress[0].from[0].ipBlock.cidr"),
    (
        "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]",
        "spec.ingress[0].from[0].ipBlock.except[0]",
    ),
    ("ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]", "spec.ingress[0].from[0]"),
    ("egress: {}", "spec.egress"),
]
BAD += [
    (f"kind: NetworkPolicy, metadata: {{name: a}}, spec: {{{spec}}}", "networking.k8s.io/v1", field)
    for spec, field in BAD_POLICY
]


@pytest.mark.parametrize(("text", "version", "field"), BAD)
def test_what_an_api_server_refuses(text: str, version: str, field: str) -> None:
    bad = document(f"{{apiVersion: {version}, {text}}}")
    with pytest.raises(ValidationError) as caught:
        validate(bad, origin="shop.yaml, document 2")
    assert caught.value.field == field
    assert str(caught.value).startswith(f"shop.yaml, document 2: {ref_of(bad)}: {field}")


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [None], {"a": None}, [{"a": 1}]])
def test_members_of_a_wrong_type_are_refused_not_stumbled_over(value: Any) -> None:
    for base in (POD, WORKLOAD.format(kind="Deployment", extra="replicas: 1", version="apps/v1")):
        for path in (("metadata",), ("spec",), ("spec", "containers"), ("spec", "template"), ("spec", "selector")):
            broken = yaml.safe_load(base)
            holder = broken
            for member in path[:-1]:
                holder = holder[member]
            holder[path[-1]] = value
            try:
                validate(apply_api_defaults(broken))
            except ValidationError:
                pass


def test_pods_of_a_large_workload_have_different_names_and_keep_them() -> None:
    template = "{metadata: {labels: {a: b}}, spec: {containers: [{name: c}]}}"
    text = "apiVersion: apps/v1, kind: Deployment, metadata: {name: web}"

    def pod_names(replicas: int) -> list[str]:
        spec = f"{{replicas: {replicas}, selector: {{matchLabels: {{a: b}}}}, template: {template}}}"
        return [pod["metadata"]["name"] for pod in expand_to_pods(document(f"{{{text}, spec: {spec}}}"))]

    many = pod_names(12_000)
    assert len(set(many)) == 12_000
    assert pod_names(100) == many[:100]
