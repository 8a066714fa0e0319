"""v3 policies to v1: the composed selectors are Calico's, letter for letter."""

from __future__ import annotations

from typing import Any

import pytest

from calico_node.model import Port, Rule, Tier
from calico_node.resources import apply_defaults, from_dict
from calico_node.syncer import policy_conversion


def resource(kind: str, spec: dict[str, Any], *, namespace: str = "", name: str = "x") -> Any:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    made = from_dict({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec})
    apply_defaults(made)
    return made


@pytest.mark.parametrize(
    ("kind", "namespace", "spec", "expected"),
    [
        (
            "NetworkPolicy",
            "prod",
            {"selector": "app == 'web'"},
            "(app == 'web') && projectcalico.org/namespace == 'prod'",
        ),
        ("NetworkPolicy", "prod", {}, "projectcalico.org/namespace == 'prod'"),
        (
            "NetworkPolicy",
            "prod",
            {"selector": "app == 'web'", "serviceAccountSelector": "role == 'dev'"},
            "((app == 'web') && projectcalico.org/namespace == 'prod') && pcsa.role == \"dev\"",
        ),
        (
            "NetworkPolicy",
            "default",
            {"selector": "projectcalico.org/orchestrator == 'k8s'"},
            "(projectcalico.org/orchestrator == 'k8s') && projectcalico.org/namespace == 'default'",
        ),
        (
            "GlobalNetworkPolicy",
            "",
            {
                "selector": "mylabel == 'x'",
                "namespaceSelector": "name == 't'",
                "serviceAccountSelector": "role == 'd'",
            },
            '((mylabel == \'x\') && pcns.name == "t") && pcsa.role == "d"',
        ),
        (
            "GlobalNetworkPolicy",
            "",
            {"selector": "", "namespaceSelector": "all()"},
            "has(projectcalico.org/namespace)",
        ),
        (
            "GlobalNetworkPolicy",
            "",
            {"selector": "all()", "namespaceSelector": "all()"},
            "(has(projectcalico.org/namespace)) && has(projectcalico.org/namespace)",
        ),
        ("GlobalNetworkPolicy", "", {"selector": "all()"}, "all()"),
        (
            "GlobalNetworkPolicy",
            "",
            {"serviceAccountSelector": "all()"},
            "has(projectcalico.org/serviceaccount)",
        ),
    ],
)
def test_policy_selectors(kind: str, namespace: str, spec: dict[str, Any], expected: str) -> None:
    policy = policy_conversion.policy(resource(kind, spec, namespace=namespace))
    assert policy is not None
    assert policy.selector == expected


@pytest.mark.parametrize(
    ("namespace", "entity", "expected"),
    [
        ("n1", {"selector": "has(foo)"}, "(projectcalico.org/namespace == 'n1') && (has(foo))"),
        ("n1", {"nets": ["10.0.0.0/8"]}, ""),
        ("n1", {"notSelector": "has(foo)"}, "projectcalico.org/namespace == 'n1'"),
        (
            "n1",
            {"namespaceSelector": "global()", "selector": "has(l3)"},
            "(!has(projectcalico.org/namespace)) && (has(l3))",
        ),
        ("n1", {"namespaceSelector": "all()"}, "has(projectcalico.org/namespace)"),
        (
            "n1",
            {"namespaceSelector": "projectcalico.org/name == 'red'"},
            'pcns.projectcalico.org/name == "red"',
        ),
        ("", {"selector": "has(foo)"}, "has(foo)"),
        (
            "",
            {"serviceAccounts": {"names": ["b", "a"]}},
            'projectcalico.org/serviceaccount in {"a", "b"}',
        ),
        (
            "n1",
            {"serviceAccounts": {"names": ["a"], "selector": "role == 'x'"}, "selector": "has(foo)"},
            "(projectcalico.org/namespace == 'n1') && "
            '(((pcsa.role == "x") && (projectcalico.org/serviceaccount in {"a"})) && (has(foo)))',
        ),
    ],
)
def test_rule_selectors(namespace: str, entity: dict[str, Any], expected: str) -> None:
    kind = "NetworkPolicy" if namespace else "GlobalNetworkPolicy"
    made = resource(kind, {"ingress": [{"action": "Allow", "source": entity}]}, namespace=namespace)
    policy = policy_conversion.policy(made)
    assert policy is not None
    assert policy.inbound_rules[0].src_selector == expected


def test_a_full_rule() -> None:
    spec = {
        "order": 10,
        "types": ["Ingress", "Egress"],
        "ingress": [
            {
                "action": "Pass",
                "protocol": "TCP",
                "source": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"], "notSelector": "has(x)"},
                "destination": {"ports": [80, "8000:8010", "metrics"], "notPorts": [8005]},
                "metadata": {"annotations": {"why": "test"}},
            },
            {"action": "Deny", "protocol": "ICMPv6", "icmp": {"type": 128, "code": 0}, "notProtocol": 89},
            {"action": "Allow", "source": {"services": {"name": "web"}}},
        ],
    }
    policy = policy_conversion.policy(resource("NetworkPolicy", spec, namespace="prod"))
    assert policy is not None
    assert (policy.tier, policy.namespace, policy.order, policy.types) == (
        "default", "prod", 10, ("ingress", "egress"),
    )  # fmt: skip
    assert policy.inbound_rules == (
        Rule(
            action="next-tier",
            protocol="tcp",
            src_nets=("10.0.0.0/8",),
            not_src_nets=("10.1.0.0/16",),
            src_selector="projectcalico.org/namespace == 'prod'",
            not_src_selector="has(x)",
            dst_ports=(Port(80, 80), Port(8000, 8010), Port(name="metrics")),
            not_dst_ports=(Port(8005, 8005),),
            metadata={"why": "test"},
        ),
        Rule(action="deny", protocol="icmpv6", not_protocol=89, icmp_type=128, icmp_code=0),
        Rule(action="allow", src_service="web", src_service_namespace="prod"),
    )
    assert not policy.apply_on_forward


def test_global_flags_and_staged_actions() -> None:
    spec = {"doNotTrack": True, "applyOnForward": True, "selector": "all()"}
    policy = policy_conversion.policy(resource("GlobalNetworkPolicy", spec))
    assert policy is not None
    assert (policy.untracked, policy.pre_dnat, policy.apply_on_forward, policy.staged_action) == (
        True, False, True, "",
    )  # fmt: skip
    staged = policy_conversion.policy(resource("StagedGlobalNetworkPolicy", {"selector": "all()"}))
    assert staged is not None
    assert staged.staged_action == "Set"
    assert policy_conversion.policy(resource("StagedGlobalNetworkPolicy", {"stagedAction": "Delete"})) is None


def test_tiers_default_to_deny() -> None:
    assert policy_conversion.tier(resource("Tier", {"order": 5, "defaultAction": "Pass"})) == Tier(5, "Pass")
    assert policy_conversion.tier(resource("Tier", {})).default_action == "Deny"
