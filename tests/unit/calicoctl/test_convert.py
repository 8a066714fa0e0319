"""``calicoctl convert``: manifests of Calico's v1 API and of Kubernetes become v3 resources that can be applied."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calico_node.calicoctl.convert.names import node_name, plain_name, policy_name
from calico_node.calicoctl.convert.v1 import convert_v1
from calico_node.errors import ValidationError
from calico_node.resources import apply_defaults, from_dict, validate
from tests.unit.calicoctl.conftest import Run

POLICY = """\
apiVersion: v1
kind: policy
metadata: {name: Allow.Web, annotations: {a: b}}
spec:
  order: 10
  selector: calico/k8s_ns == 'prod'
  ingress:
  - action: allow
    protocol: tcp
    source: {tag: web, selector: a == 'b' || c == 'd', "!nets": [10.1.2.3/8], net: 192.168.1.1/16}
    destination: {ports: [80, "1:2"]}
  - {action: deny, protocol: icmp, icmp: {type: 8}}
  - {action: pass, "!protocol": 17}
"""
OTHERS = """\
- {apiVersion: v1, kind: bgpPeer, metadata: {scope: node, node: Node_1, peerIP: "fd00::1"}, spec: {asNumber: 64512}}
- {apiVersion: v1, kind: bgpPeer, metadata: {scope: global, peerIP: 10.0.0.9}, spec: {asNumber: 64513}}
- apiVersion: v1
  kind: ipPool
  metadata: {cidr: 10.1.0.0/16}
  spec: {ipip: {enabled: true, mode: cross-subnet}, nat-outgoing: true}
- {apiVersion: v1, kind: ipPool, metadata: {cidr: "fd80:24e2:f998:72d6::/64"}, spec: {disabled: true}}
- {apiVersion: v1, kind: node, metadata: {name: n1}, spec: {bgp: {ipv4Address: 10.0.0.1/24, asNumber: 65001}}}
- {apiVersion: v1, kind: profile, metadata: {name: k8s_ns.prod, tags: [x], labels: {y: z}},
   spec: {egress: [{action: allow}]}}
- {apiVersion: v1, kind: hostEndpoint, metadata: {name: eth0, node: n1, labels: {t: w}},
   spec: {interfaceName: eth0, profiles: [k8s_ns.prod], expectedIPs: ["fd00::5", 10.0.0.1]}}
- apiVersion: v1
  kind: workloadEndpoint
  metadata: {name: eth0, node: n1, orchestrator: k8s, workload: prod.web-1, activeInstanceID: abc,
             labels: {calico/k8s_ns: prod}}
  spec: {ipNetworks: [10.1.0.1/32], interfaceName: cali1, profiles: [k8s_ns.prod], mac: "ca:fe:00:00:00:01"}
"""


def documents(text: str) -> list[dict[str, Any]]:
    data = yaml.safe_load(text)
    return data if isinstance(data, list) else [data]


def test_a_policy(run: Run) -> None:
    done = run("convert", "-f", "p.yaml", files={"p.yaml": POLICY})
    assert (done.err, done.status) == ("policy Allow.Web is called allow-web-48b69621 in v3\n", 0)
    assert yaml.safe_load(done.out) == {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "allow-web-48b69621", "annotations": {"a": "b"}},
        "spec": {
            "order": 10,
            "selector": "projectcalico.org/namespace == 'prod'",
            "types": ["Ingress"],
            "ingress": [
                {
                    "action": "Allow",
                    "protocol": "TCP",
                    "source": {
                        "nets": ["192.168.0.0/16"],
                        "notNets": ["10.0.0.0/8"],
                        "selector": "(a == 'b' || c == 'd') && web == ''",
                    },
                    "destination": {"ports": [80, "1:2"]},
                },
                {"action": "Deny", "protocol": "ICMP", "icmp": {"type": 8}},
                {"action": "Pass", "notProtocol": 17},
            ],
        },
    }


def test_every_other_kind(run: Run) -> None:
    done = run("convert", "-f", "o.yaml", "-o", "json", files={"o.yaml": OTHERS})
    assert done.status == 0
    assert done.err.splitlines() == [
        "profile k8s_ns.prod is called kns.prod in v3",
        "hostEndpoint eth0 is called n1.eth0 in v3",
        "workloadEndpoint eth0 is called n1-k8s-web--1-eth0 in v3",
    ]
    found = [(item["kind"], item["metadata"], item["spec"]) for item in documents(done.out)]
    assert found[0] == (
        "BGPPeer",
        {"name": "node-1.fd00-0000-0000-0000-0000-0000-0000-0001"},
        {"node": "node-1", "peerIP": "fd00::1", "asNumber": 64512},
    )
    assert found[1][1:] == ({"name": "10-0-0-9"}, {"peerIP": "10.0.0.9", "asNumber": 64513})
    assert found[2][1] == {"name": "10-1-0-0-16"}
    assert (found[2][2]["ipipMode"], found[2][2]["natOutgoing"]) == ("CrossSubnet", True)
    assert found[3][1] == {"name": "fd80-24e2-f998-72d6---64"}
    assert (found[3][2]["blockSize"], found[3][2]["disabled"]) == (122, True)
    assert found[4][1:] == ({"name": "n1"}, {"bgp": {"ipv4Address": "10.0.0.1/24", "asNumber": 65001}})
    assert found[5] == (
        "Profile",
        {"name": "kns.prod"},
        {"egress": [{"action": "Allow"}], "labelsToApply": {"x": "", "y": "z"}},
    )
    assert found[6][1:] == (
        {"name": "n1.eth0", "labels": {"t": "w"}},
        {
            "node": "n1",
            "interfaceName": "eth0",
            "expectedIPs": ["10.0.0.1", "fd00::5"],
            "profiles": ["kns.prod"],
        },
    )
    assert found[7][1] == {
        "name": "n1-k8s-web--1-eth0",
        "namespace": "prod",
        "labels": {"projectcalico.org/namespace": "prod"},
    }
    assert (found[7][2]["pod"], found[7][2]["containerID"]) == ("web-1", "abc")


def test_what_was_converted_can_be_applied(run: Run) -> None:
    done = run("convert", "-f", "in", files={"in/a.yaml": POLICY, "in/b.yaml": OTHERS})
    applied = run("apply", "-f", "out.yaml", files={"out.yaml": done.out})
    assert (applied.out, applied.err) == ("Successfully applied 9 resource(s)\n", "")


def test_kubernetes_policies_and_v3_documents(run: Run) -> None:
    text = (
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np, namespace: x},"
        " spec: {podSelector: {matchLabels: {a: b}}, ingress: [{ports: [{port: 80}]}]}}\n---\n"
        "{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: t}, spec: {order: 5}}\n"
    )
    policy, tier = documents(run("convert", "-f", "k.yaml", files={"k.yaml": text}).out)
    assert policy["metadata"] == {"name": "knp.default.np", "namespace": "x"}
    assert policy["spec"]["selector"] == "projectcalico.org/orchestrator == 'k8s' && a == 'b'"
    assert (tier["kind"], tier["spec"]) == ("Tier", {"order": 5})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{apiVersion: v1, kind: pod}", "kind = 'pod': must be one of bgpPeer"),
        ("{apiVersion: v1, kind: node, metadata: {}}", "metadata.name: is missing"),
        ("{apiVersion: v1, kind: node, metadata: {name: n}, spec: {bgp: {}}}", "spec.bgp: needs ipv4Address"),
        ("{apiVersion: v1, kind: ipPool, metadata: {cidr: 10.0.0.0/99}}", "metadata.cidr = '10.0.0.0/99'"),
        ("{apiVersion: v1, kind: bgpPeer, metadata: {scope: node, peerIP: 1.1.1.1}}", "metadata.node: is missing"),
        ("{apiVersion: v1, kind: profile, metadata: {name: p, tags: [a], labels: {a: b}}}", "metadata.tags[0] = 'a'"),
        (
            "{apiVersion: v1, kind: policy, metadata: {name: p}, spec: {ingress: 5}}",
            "spec.ingress = 5: must be a list",
        ),
        ("{apiVersion: v1, kind: policy, metadata: {name: p}, spec: {tier: x}}", "spec.tier: is not a field of"),
        ("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: 5}", "NetworkPolicy"),
        ("5", "must be an object"),
    ],
)
def test_one_bad_document_and_nothing_is_printed(run: Run, text: str, reason: str) -> None:
    refused = run("convert", "-f", "x.yaml", files={"x.yaml": f"{POLICY}---\n{text}\n"})
    assert (refused.status, refused.out) == (1, "")
    assert "x.yaml, document 2, line" in refused.err
    assert reason in refused.err


def test_the_line_of_a_bad_field_is_named(run: Run) -> None:
    refused = run("convert", "-f", "x.yaml", files={"x.yaml": POLICY.replace("deny", "drop")})
    assert "x.yaml, document 1, line 12: spec.ingress[1].action = 'drop': must be allow" in refused.err
    # What only v3 refuses.
    files = {"x.yaml": POLICY.replace('"1:2"', '"2:1"')}
    refused = run("convert", "-f", "x.yaml", files=files)
    assert (refused.status, refused.out) == (1, "")
    assert "spec.ingress[0].destination.ports[1]" in refused.err


def test_ignore_validation_prints_what_v3_refuses(run: Run) -> None:
    text = POLICY.replace("order: 10", "order: 10\n  types: [egress]\n  preDNAT: true")
    assert run("convert", "-f", "x.yaml", files={"x.yaml": text}).status == 1
    done = run("convert", "-f", "x.yaml", "--ignore-validation")
    assert (done.status, yaml.safe_load(done.out)["spec"]["applyOnForward"]) == (0, True)


def test_two_documents_that_become_one_are_refused(run: Run) -> None:
    node = "- {apiVersion: v1, kind: node, metadata: {name: %s}}\n"
    refused = run("convert", "-f", "x.yaml", files={"x.yaml": node % "N1" + node % "n1"})
    assert (refused.status, refused.out) == (1, "")
    assert "Node(n1): another document has become this one" in refused.err
    assert run("convert", "-f", "x.yaml", "-o", "wide").err.endswith("must be yaml or json\n")


NAME = st.text(st.sampled_from("aB9.-_/ é"), min_size=1, max_size=30)


@given(NAME, NAME)
def test_names_stay_apart(one: str, other: str) -> None:
    for function in (plain_name, policy_name):
        assert (function(one) == function(other)) == (one == other)
    assert node_name(node_name(one)) == node_name(one)
    assert "." not in policy_name(one)


LABEL = st.from_regex(r"[a-z]{1,5}", fullmatch=True)
NET = st.sampled_from(("10.1.2.3/8", "192.168.0.0/16", "0.0.0.0/0"))
PORTS = st.lists(st.integers(1, 65535) | st.just("1:2"), max_size=3)
# Port 0 and "all but 0.0.0.0/0" are left out: v3 refuses them, so convert does.
ENTITY = st.fixed_dictionaries(
    {},
    optional={
        "net": NET, "nets": st.lists(NET, max_size=2), "tag": LABEL, "notTag": LABEL, "ports": PORTS,
        "selector": LABEL.map(lambda label: f"{label} == 'x' || has(y)"), "!ports": PORTS,
        "!nets": st.lists(st.just("10.1.2.3/9")),
    },
)  # fmt: skip
RULE = st.fixed_dictionaries(
    {
        "action": st.sampled_from(("allow", "deny", "log", "pass", "Allow")),
        "protocol": st.sampled_from(("tcp", "udp")),
    },
    optional={"source": ENTITY, "destination": ENTITY},
)
RULES = st.lists(RULE, max_size=3)


@given(st.sampled_from(("policy", "profile")), LABEL, RULES, RULES)
def test_converted_rules_are_valid_in_v3(kind: str, name: str, ingress: list[Any], egress: list[Any]) -> None:
    document = {
        "apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": {"ingress": ingress, "egress": egress}
    }  # fmt: skip
    resource: Any = from_dict(convert_v1(document))
    apply_defaults(resource)
    validate(resource)
    assert (len(resource.spec.ingress or ()), len(resource.spec.egress or ())) == (len(ingress), len(egress))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(("1.1.1.1", "10.0.0.0/8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("name", "node", "cidr", "ipip", "bgp", "tags", "ports")), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(("bgpPeer", "hostEndpoint", "ipPool", "node", "policy", "profile", "workloadEndpoint")),
    JSON,
    JSON,
)
def test_a_damaged_document_is_converted_or_refused_in_words(kind: str, metadata: Any, spec: Any) -> None:
    with suppress(ValidationError):
        from_dict(convert_v1({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}))


def test_a_list_of_an_api_server_and_changed_names(run: Run) -> None:
    items = [
        {"metadata": {"name": name, "namespace": "prod"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
        for name in ("web", "db")
    ]
    policies = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList", "items": items}
    converted = run("convert", "-f", "x", files={"x": yaml.safe_dump(policies)})
    assert (converted.status, converted.err) == (
        0,
        "NetworkPolicy web is called knp.default.web in v3\nNetworkPolicy db is called knp.default.db in v3\n",
    )
    assert [item["metadata"]["name"] for item in yaml.safe_load(converted.out)] == [
        "knp.default.web",
        "knp.default.db",
    ]
    named = run("convert", "-f", "x", files={"x": POLICY})
    new = yaml.safe_load(named.out)["metadata"]["name"]
    assert named.err == f"policy Allow.Web is called {new} in v3\n"
    same = run("convert", "-f", "x", files={"x": POLICY.replace("Allow.Web", "web")})
    assert (same.status, same.err) == (0, "")
