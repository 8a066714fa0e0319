"""Documents: sorted, checked, refused with file, document, resource, field, value and reason."""

from pathlib import Path

import pytest

from calico_node.errors import LabError, ValidationError
from calico_node.kubernetes import Ref
from calico_node.lab.intake import Source, read, read_sources, refuse_nothing

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  volumes: []
  containers: [{name: c, image: nginx, ports: [{containerPort: 80}]}]
"""


def docs(*texts: str) -> list[Source]:
    return [Source("app.yaml", "\n---\n".join(texts))]


def test_documents_are_sorted_by_what_they_are() -> None:
    policy = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: p, namespace: default}
spec: {tier: mine, selector: all()}
"""
    tier = "{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: mine}, spec: {order: 10}}"
    lab = "{apiVersion: lab.calico-node/v1, kind: Lab, spec: {nodes: [{name: a}]}}"
    config_map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}"
    kubernetes_policy = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: k}
spec: {podSelector: {}}
"""
    intake = read(docs(policy, POD, tier, lab, config_map, kubernetes_policy))
    assert [resource.kind for resource in intake.calico] == ["Tier", "NetworkPolicy"], "a tier before its policies"
    assert set(intake.kubernetes) == {Ref("Pod", "default", "web"), Ref("NetworkPolicy", "default", "k")}
    assert [node.name for node in intake.lab.nodes] == ["a"]
    assert [resource.kind for resource in intake.policies.calico] == ["NetworkPolicy"]
    assert set(intake.policies.kubernetes) == {Ref("NetworkPolicy", "default", "k")}
    assert set(intake.without_policies.kubernetes) == {Ref("Pod", "default", "web")}


def test_what_means_nothing_to_the_network_is_named_once() -> None:
    other = POD.replace("name: web,", "name: web2,")
    summary = read(docs(POD, other, "{apiVersion: v1, kind: Secret, metadata: {name: s}}")).summary
    assert summary.count("Pod spec.volumes") == 1
    assert summary.count("Pod spec.containers.image") == 1
    assert "Secret" in summary
    assert read(docs()).summary == ""


def calico(body: str) -> str:
    return "apiVersion: projectcalico.org/v3\n" + body


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", ["app.yaml", "malformed YAML"]),
        ("- 1", ["must be a map"]),
        ("just text", ["must be a map"]),
        ("{kind: Pod}", ["apiVersion", "is required"]),
        ("{apiVersion: v1}", ["kind", "is required"]),
        (calico("{kind: Nonsense}").replace("{kind: Nonsense}", "kind: Nonsense"), ["Nonsense"]),
        ("{apiVersion: lab.calico-node/v1, kind: Laboratory}", ["kind = 'Laboratory'", "must be Lab"]),
        ("{apiVersion: lab.calico-node/v2, kind: Lab}", ["apiVersion", "lab.calico-node/v1"]),
        ("{apiVersion: projectcalico/v3, kind: Tier}", ["apiVersion", "unknown API group"]),
        (
            calico("kind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: {selectr: all()}"),
            ["app.yaml, document 1", "GlobalNetworkPolicy(p)", "spec.selectr"],
        ),
        (
            calico("kind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: {selector: 'a =='}"),
            ["GlobalNetworkPolicy(p)", "spec.selector", "a =="],
        ),
        (
            calico(
                "kind: GlobalNetworkPolicy\nmetadata: {name: p}\n"
                "spec: {ingress: [{action: Allow, source: {nets: [10.0.0.0/33]}}]}"
            ),
            ["spec.ingress[0].source.nets[0]", "10.0.0.0/33"],
        ),
        (
            calico(
                "kind: GlobalNetworkPolicy\nmetadata: {name: p}\n"
                "spec: {ingress: [{action: Allow, protocol: TCP, destination: {ports: [70000]}}]}"
            ),
            ["spec.ingress[0].destination.ports[0]", "70000"],
        ),
        (
            calico("kind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: {tier: missing}"),
            ["GlobalNetworkPolicy(p)", "spec.tier = 'missing'", "no such tier"],
        ),
        (
            "{apiVersion: lab.calico-node/v1, kind: Lab, spec: {nodes: [{name: a, adress: x}]}}",
            ["app.yaml, document 1", "Lab", "spec.nodes[0].adress"],
        ),
        (POD.replace("80", "80000"), ["Pod(default/web)", "containerPort", "80000"]),
    ],
)
def test_what_is_refused_is_named(text: str, words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        read(docs(text))
    for word in words:
        assert word in str(caught.value)


def test_the_second_document_is_named_as_such() -> None:
    with pytest.raises(ValidationError, match=r"app\.yaml, document 2, line"):
        read(docs(POD, "{apiVersion: lab.calico-node/v1, kind: Lab, spec: {x: 1}}"))


def test_a_tier_that_exists_in_the_cluster_will_do() -> None:
    policy = calico("kind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: {tier: theirs}")
    assert len(read(docs(policy), tiers=["theirs"]).calico) == 1


def test_folders_are_read_in_order_and_without_their_sub_folders(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "notes.txt"):
        (tmp_path / name).write_text("[]")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.yaml").write_text("[")
    names = [Path(source.name).name for source in read_sources([str(tmp_path)])]
    assert names == ["a.yml", "b.yaml", "c.json"]
    with pytest.raises(LabError, match="No such file"):
        read_sources([str(tmp_path / "none.yaml")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match="in this folder"):
        read_sources([str(tmp_path / "empty")])


def test_expectations_may_lie_beside_the_documents() -> None:
    assert read([Source("expect.yaml", "[{from: a/b, to: c/d, port: 1, allowed: true}]")]).calico == []


def test_two_different_documents_of_one_name_are_refused_and_the_same_one_twice_is_not() -> None:
    with pytest.raises(ValidationError, match=r"document 2, line .*Pod\(default/web\).*another one .* document 1"):
        read(docs(POD, POD.replace("app: web", "app: other")))
    policy = calico("kind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: {selector: all()}")
    with pytest.raises(ValidationError, match=r"GlobalNetworkPolicy\(p\).*another one"):
        read(docs(policy, policy.replace("all()", "has(a)")))
    assert len(read(docs(policy, policy, POD, POD)).calico) == 1
    kubernetes = (
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {}}}"
    )
    calicos = calico("kind: NetworkPolicy\nmetadata: {name: p, namespace: default}")
    assert len(read(docs(kubernetes, calicos)).calico) == 1, "Kubernetes' policies have names of their own"


def test_files_without_any_document_are_refused() -> None:
    refuse_nothing([], read([]))
    refuse_nothing(docs(POD), read(docs(POD)))
    with pytest.raises(LabError, match=r"app\.yaml: no documents"):
        refuse_nothing(docs(""), read(docs("")))
