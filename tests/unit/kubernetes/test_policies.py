from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calico_node.kubernetes import apply_api_defaults, convert_network_policy, network_policy_to_calico, validate
from calico_node.resources import to_dict
from calico_node.resources import validate as validate_resource

K8S = "projectcalico.org/orchestrator == 'k8s'"


def knp(text: str) -> dict[str, Any]:
    document = apply_api_defaults(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "p", "namespace": "prod"},
            "spec": yaml.safe_load(text) or {},
        }
    )
    validate(document)
    return document


def converted(text: str) -> dict[str, Any]:
    document, problems = convert_network_policy(knp(text))
    assert problems == []
    resource = network_policy_to_calico(knp(text))
    validate_resource(resource)
    assert to_dict(resource)["spec"] == document["spec"]
    assert document["metadata"] == {"name": "knp.default.p", "namespace": "prod"}
    spec: dict[str, Any] = document["spec"]
    assert (spec.pop("tier"), spec.pop("order")) == ("default", 1000)
    return spec


def test_deny_all() -> None:
    assert converted("podSelector: {}") == {"selector": K8S, "types": ["Ingress"]}
    both = converted("{podSelector: {}, policyTypes: [Egress, Ingress]}")
    assert both == {"selector": K8S, "types": ["Ingress", "Egress"]}


def test_egress_rules_without_types_govern_both_directions() -> None:
    spec = converted("{podSelector: {}, egress: [{}]}")
    assert spec["types"] == ["Ingress", "Egress"]
    assert spec["egress"] == [{"action": "Allow"}]
    assert "ingress" not in spec


def test_selectors() -> None:
    spec = converted(
        """
        podSelector:
          matchLabels: {role: db, app: shop}
          matchExpressions:
          - {key: tier, operator: In, values: [b, a]}
          - {key: env, operator: NotIn, values: [dev]}
          - {key: x, operator: Exists}
          - {key: y, operator: DoesNotExist}
        """
    )
    assert spec["selector"] == (
        f"{K8S} && app == 'shop' && role == 'db' && tier in {{ 'b', 'a' }} && env not in {{ 'dev' }}"
        " && has(x) && ! has(y)"
    )


def test_peers() -> None:
    spec = converted(
        """
        podSelector: {}
        ingress:
        - from:
          - podSelector: {matchLabels: {app: web}}
          - namespaceSelector: {}
          - namespaceSelector: {matchLabels: {team: blue}}
            podSelector: {matchLabels: {app: web}}
          - ipBlock: {cidr: 10.1.2.3/16, except: [10.1.2.3/24]}
        """
    )
    assert spec["ingress"] == [
        {"action": "Allow", "source": {"selector": f"{K8S} && app == 'web'"}},
        {"action": "Allow", "source": {"selector": K8S, "namespaceSelector": "all()"}},
        {"action": "Allow", "source": {"selector": f"{K8S} && app == 'web'", "namespaceSelector": "team == 'blue'"}},
        {"action": "Allow", "source": {"nets": ["10.1.0.0/16"], "notNets": ["10.1.2.0/24"]}},
    ]


def test_ports_are_grouped_by_protocol_and_joined() -> None:
    spec = converted(
        """
        podSelector: {}
        egress:
        - to: [{podSelector: {}}]
          ports:
          - {port: 82}
          - {port: 80, protocol: TCP}
          - {port: web}
          - {port: 81}
          - {port: 8000, endPort: 8010}
          - {port: 8005, endPort: 8020}
          - {port: 53, protocol: UDP}
          - {protocol: SCTP}
        """
    )
    peer = {"selector": K8S}
    assert spec["egress"] == [
        {"action": "Allow", "protocol": "SCTP", "destination": peer},
        {"action": "Allow", "protocol": "TCP", "destination": {**peer, "ports": ["web", "80:82", "8000:8020"]}},
        {"action": "Allow", "protocol": "UDP", "destination": {**peer, "ports": [53]}},
    ]


def test_a_port_entry_without_a_number_opens_the_whole_protocol() -> None:
    for ports in ("[{port: 80}, {protocol: TCP}]", "[{protocol: TCP}, {port: 80}]"):
        assert converted(f"{{podSelector: {{}}, ingress: [{{ports: {ports}}}]}}")["ingress"] == [
            {"action": "Allow", "protocol": "TCP"}
        ]


def test_many_ports_are_spread_over_rules() -> None:
    ports = ", ".join(f"{{port: {port}}}" for port in range(1, 241, 2))
    spec = converted(f"{{podSelector: {{}}, ingress: [{{ports: [{ports}]}}]}}")
    lists = [rule["destination"]["ports"] for rule in spec["ingress"]]
    assert [len(ports) for ports in lists] == [50, 50, 20]
    assert [port for ports in lists for port in ports] == list(range(1, 241, 2))


@pytest.mark.parametrize(
    "rule",
    [
        {"ports": [{"port": "web", "endPort": 90}]},
        {"ports": [{"port": 90, "endPort": 80}]},
        {"ports": [{"port": 70000}]},
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/40"}}]},
        {"from": [{}]},
        {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]},
    ],
)
def test_a_rule_that_cannot_be_converted_closes_and_says_so(rule: dict[str, Any]) -> None:
    policy = {"metadata": {"name": "p"}, "spec": {"podSelector": {}, "ingress": [rule, {"ports": [{"port": 80}]}]}}
    document, problems = convert_network_policy(policy)
    allowed = {"action": "Allow", "protocol": "TCP", "destination": {"ports": [80]}}
    assert document["spec"]["ingress"] == [allowed]
    assert document["spec"]["types"] == ["Ingress"]
    assert problems[0].startswith("spec.ingress[0] is left out: ")


numbers = st.integers(1, 40)
entries = st.one_of(
    st.builds(lambda a, b: {"port": min(a, b), "endPort": max(a, b)}, numbers, numbers),
    st.builds(lambda a: {"port": a}, numbers),
)


@given(st.lists(entries, min_size=1, max_size=12))
def test_joined_ports_are_the_same_ports(ports: list[dict[str, int]]) -> None:
    document, _ = convert_network_policy({"metadata": {"name": "p"}, "spec": {"ingress": [{"ports": ports}]}})
    opened: list[int] = []
    for port in document["spec"]["ingress"][0]["destination"]["ports"]:
        low, _, high = str(port).partition(":")
        opened += range(int(low), int(high or low) + 1)
    wanted = {n for port in ports for n in range(port["port"], port.get("endPort", port["port"]) + 1)}
    assert opened == sorted(wanted)
