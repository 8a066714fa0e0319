"""Resources from JSON and back: stored examples byte for byte, unknown fields, types, and any input at all."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from attrs import fields_dict
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from calico_node.errors import ValidationError
from calico_node.resources import (
    KINDS,
    BGPPeer,
    FelixConfiguration,
    IPPool,
    NetworkPolicy,
    ObjectMeta,
    Struct,
    apply_defaults,
    decode,
    encode,
    from_dict,
    kind_by_name,
    to_dict,
    validate,
)
from calico_node.resources.scalars import AS_NUMBER, DSCP, DURATION, PORT, PROTOCOL
from calico_node.resources.structure import Plan, plan_of

API = "projectcalico.org/v3"

STORED = [
    r'{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"allow-web","namespace":"prod",'
    r'"uid":"5f6c0d6e-6d0e-4e0b-9c6c-0a1b2c3d4e5f","creationTimestamp":"2026-08-01T10:00:00Z","labels":'
    r'{"projectcalico.org/tier":"default"},"annotations":{"projectcalico.org/metadata":"{\"name\":\"allow-web\"}"}},'
    r'"spec":{"tier":"default","order":100,"ingress":[{"action":"Allow","protocol":"TCP","source":{"selector":'
    r'"role == '
    r"'fe' \u0026\u0026 has(x)"
    r'"},"destination":{"ports":[80,"8000:8010","metrics"]}}],"selector":"app == '
    r"'web'"
    r'","types":["Ingress"]}}',
    '{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"default-ipv4-ippool","uid":'
    '"1f0a7c1e-0b9e-4c39-8c6c-1b2c3d4e5f60","creationTimestamp":"2026-08-01T10:00:00Z"},"spec":{"cidr":'
    '"192.168.0.0/16","vxlanMode":"CrossSubnet","ipipMode":"Never","natOutgoing":true,"blockSize":26,"nodeSelector":'
    '"all()","allowedUses":["Workload","Tunnel"],"assignmentMode":"Automatic"}}',
    '{"kind":"Tier","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":'
    '"0d9cfa07-6d3f-4d3c-9a55-000000000001","creationTimestamp":"2026-08-01T10:00:00Z"},"spec":{"order":1000000,'
    '"defaultAction":"Deny"},"status":{}}',
    '{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":'
    '"0d9cfa07-6d3f-4d3c-9a55-000000000002","creationTimestamp":"2026-08-01T10:00:00Z"},"spec":{"clusterGUID":'
    '"9a3b5c7d1e2f4a6b8c0d1e2f3a4b5c6d","clusterType":"k8s,bgp","calicoVersion":"v3.33.0","datastoreReady":true}}',
    '{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"node-1","uid":'
    '"0d9cfa07-6d3f-4d3c-9a55-000000000003","creationTimestamp":"2026-08-01T10:00:00Z","labels":{"zone":"a"}},"spec":'
    '{"bgp":{"asNumber":64512,"ipv4Address":"10.0.0.5/24","ipv4IPIPTunnelAddr":"192.168.0.1"},"ipv4VXLANTunnelAddr":'
    '"192.168.0.2","vxlanTunnelMACAddr":"66:cf:23:df:22:07","orchRefs":[{"nodeName":"node-1","orchestrator":"k8s"}]},'
    '"status":{"wireguardPublicKey":"jlkVyQYooZYzI2wFfNhSZez5eWh44yfq1wKVjLvSXgY="}}',
    '{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"node--1-k8s-web--0-eth0",'
    '"namespace":"default","uid":"0d9cfa07-6d3f-4d3c-9a55-000000000004","creationTimestamp":"2026-08-01T10:00:00Z",'
    '"labels":{"app":"web","projectcalico.org/namespace":"default","projectcalico.org/orchestrator":"k8s",'
    '"projectcalico.org/serviceaccount":"default"}},"spec":{"orchestrator":"k8s","node":"node-1","containerID":'
    '"c0ffee","pod":"web-0","endpoint":"eth0","serviceAccountName":"default","ipNetworks":["192.168.0.5/32"],'
    '"profiles":["kns.default","ksa.default.default"],"interfaceName":"cali0d7763386da","mac":"ee:ee:ee:ee:ee:ee",'
    '"ports":[{"name":"http","protocol":"TCP","port":8080,"hostPort":0,"hostIP":""}]}}',
]


@pytest.mark.parametrize("text", STORED, ids=lambda text: json.loads(text)["kind"])
def test_a_stored_object_is_written_back_byte_for_byte(text: str) -> None:
    resource = decode(json.loads(text)["kind"], text)
    assert encode(resource).decode() == text
    validate(resource)
    assert from_dict(json.loads(text)) == resource


def policy(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "ns", **metadata},
        "spec": spec,
    }


def test_attributes_are_the_json_names_in_snake_case() -> None:
    peer = from_dict(
        {
            "apiVersion": API,
            "kind": "BGPPeer",
            "metadata": {"name": "rack"},
            "spec": {"peerIP": "10.0.0.1", "asNumber": "1.10", "numAllowedLocalASNumbers": 1},
        }
    )
    assert isinstance(peer, BGPPeer)
    assert peer.spec.peer_ip == "10.0.0.1"
    assert peer.spec.as_number == 65546
    assert peer.spec.num_allowed_local_as_numbers == 1
    assert peer.spec.node_selector is None
    assert peer.spec.filters == []
    assert to_dict(peer)["spec"] == {"peerIP": "10.0.0.1", "asNumber": 65546, "numAllowedLocalASNumbers": 1}


@pytest.mark.parametrize(
    ("data", "field", "value", "reason"),
    [
        (policy({"ingres": []}), "spec.ingres", None, r"not recognized.*did you mean ingress"),
        (
            policy({"ingress": [{"action": "Allow", "source": {"net": []}}]}),
            "spec.ingress[0].source.net",
            None,
            "did you mean nets",
        ),
        (policy({"ingress": {}}), "spec.ingress", {}, "must be a list"),
        (policy({"ingress": [[]]}), "spec.ingress[0]", [], "must be an object"),
        (policy({"selector": 5}), "spec.selector", 5, "must be a string"),
        (policy({"order": "first"}), "spec.order", "first", "must be a number"),
        (policy({}, labels={"a": 1}), "metadata.labels.a", 1, r"string \(put it in quotes\)"),
        (policy({"ingress": [{"action": "Allow", "ipVersion": True}]}), "spec.ingress[0].ipVersion", True, "integer"),
        (
            policy({"ingress": [{"action": "Allow", "destination": {"ports": [70000]}}]}),
            "spec.ingress[0].destination.ports[0]",
            70000,
            "1 to 65535",
        ),
        (
            policy({"ingress": [{"action": "Allow", "destination": {"ports": ["90:80"]}}]}),
            "spec.ingress[0].destination.ports[0]",
            "90:80",
            "before its start",
        ),
        ({"apiVersion": API, "kind": "NetworkPolcy", "metadata": {}}, "kind", "NetworkPolcy", "NetworkPolicy"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}, "apiVersion", "v1", "not a Calico resource"),
        ({"apiVersion": API}, "kind", None, "no kind"),
        ([], "", None, "must be an object"),
    ],
)
def test_refused_with_field_and_value(data: Any, field: str, value: object, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason) as caught:
        from_dict(data, origin="file.yaml, document 3")
    assert caught.value.field == field
    assert caught.value.value == value
    assert str(caught.value).startswith("file.yaml, document 3")


def test_a_stored_object_keeps_what_is_not_known_here() -> None:
    stored = {
        **policy(
            {"tier": "default", "newField": {"b": [1, None], "a": "x"}, "ingress": [{"action": "Allow", "n": 1}]}
        ),
        "newSection": True,
    }
    resource = decode("NetworkPolicy", json.dumps(stored).encode())
    assert json.loads(encode(resource)) == stored
    with pytest.raises(ValidationError, match="not recognized"):
        from_dict(stored)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b'{"spec":[]}', b'{"metadata":{"labels":5}}'])
def test_a_broken_stored_object_is_a_validation_error(raw: bytes) -> None:
    with pytest.raises(ValidationError):
        decode("NetworkPolicy", raw)


def test_absent_null_and_empty_are_one() -> None:
    data = policy({"selector": "", "order": None, "types": [], "ingress": [{"action": "Deny", "source": {}}]})
    resource = from_dict(data)
    assert isinstance(resource, NetworkPolicy)
    assert resource.spec.selector is None
    assert resource.spec.ingress[0].source is None
    assert to_dict(resource)["spec"] == {"ingress": [{"action": "Deny"}]}


@pytest.mark.parametrize("order", [1e18, 1e19, 1e20, -1e20, 1e300])
def test_an_order_beyond_64_bits_can_be_stored(order: float) -> None:
    resource = from_dict(policy({"order": order}))
    assert json.loads(encode(resource))["spec"]["order"] == order
    assert decode("NetworkPolicy", encode(resource)) == resource


def test_timeouts_of_connection_tracking_keep_their_text() -> None:
    given = {"udpTimeout": "60s", "tcpSynSent": "Auto", "genericTimeout": "1.5m"}
    felix = from_dict(
        {
            "apiVersion": API,
            "kind": "FelixConfiguration",
            "metadata": {"name": "default"},
            "spec": {"bpfConntrackTimeouts": given},
        }
    )
    validate(felix)
    assert to_dict(felix)["spec"]["bpfConntrackTimeouts"] == given


def test_an_explicit_false_or_empty_list_stays_where_it_means_something() -> None:
    felix = FelixConfiguration(metadata=ObjectMeta(name="default"))
    felix.spec.failsafe_inbound_host_ports = []
    felix.spec.ipv6_support = False
    assert to_dict(felix)["spec"] == {"ipv6Support": False, "failsafeInboundHostPorts": [], "bpfLogLevel": ""}
    assert decode("FelixConfiguration", encode(felix)) == felix
    pool = IPPool(metadata=ObjectMeta(name="p"))
    pool.spec.nat_outgoing = False
    assert to_dict(pool)["spec"] == {"cidr": ""}


def test_numbers_and_text_are_written_as_go_does() -> None:
    resource = from_dict(
        policy(
            {
                "order": 10.5,
                "ingress": [{"action": "Allow", "protocol": "6", "destination": {"ports": ["80", "7:7"]}}],
            }
        )
    )
    assert to_dict(resource)["spec"]["order"] == 10.5
    assert to_dict(resource)["spec"]["ingress"][0] == {
        "action": "Allow",
        "protocol": 6,
        "destination": {"ports": [80, 7]},
    }
    resource.metadata.annotations = {"b": "<&>\u2028", "a": "é"}
    assert rb'"annotations":{"a":"\xc3\xa9","b":"\u003c\u0026\u003e\u2028"}'.replace(
        rb"\xc3\xa9", "é".encode()
    ) in encode(resource)


def test_text_that_is_not_unicode_is_refused() -> None:
    resource = from_dict(policy({}))
    resource.metadata.annotations = {"a": "\ud800"}
    with pytest.raises(ValidationError, match="JSON"):
        encode(resource)


def test_kinds_and_their_names() -> None:
    assert {info.kind: info.plural for info in KINDS.values()}["BGPPeer"] == "bgppeers"
    assert [info.kind for info in KINDS.values() if info.namespaced] == [
        "LiveMigration",
        "NetworkPolicy",
        "NetworkSet",
        "StagedKubernetesNetworkPolicy",
        "StagedNetworkPolicy",
        "WorkloadEndpoint",
    ]
    for name, kind in (("np", "NetworkPolicy"), ("GNPs", "GlobalNetworkPolicy"), ("wep", "WorkloadEndpoint")):
        info = kind_by_name(name)
        assert info is not None
        assert info.kind == kind
    assert kind_by_name("blockaffinity") is None
    for info in KINDS.values():
        assert info.cls.kind == info.kind


# Any input at all


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**65), 2**65),
        st.floats(),
        st.text(max_size=12),
        st.sampled_from(
            ["Allow", "10.0.0.0/8", "::/0", "80:90", "has(a)", "a ==", "1m", "all()", "Always", "1.2.3.4"]
        ),
    ),
    lambda children: st.one_of(
        st.lists(children, max_size=4), st.dictionaries(st.text(max_size=8), children, max_size=4)
    ),
    max_leaves=8,
)

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    id(DURATION): st.sampled_from(["0s", "1m30s", "1500ms", "2h"]),
    id(PROTOCOL): st.sampled_from(["TCP", "ICMPv6", 17, "255"]),
    id(PORT): st.sampled_from([80, "http", "1:65535", "99"]),
    id(AS_NUMBER): st.sampled_from([64512, "65000", "1.1"]),
    id(DSCP): st.sampled_from([0, "EF", "63"]),
}
_TEXT = [
    "default",
    "Allow",
    "a == 'b'",
    "10.0.0.0/24",
    "10.0.0.1",
    "fd00::/64",
    "Always",
    "Enabled",
    "x.y",
    "TCP",
    "*",
]


def members(cls: type[Struct], depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects with members of a class, each of the right type."""
    names = {name: _value(cls, plan, depth) for name, plan in plan_of(cls).items() if name != "metadata"}
    chosen = st.lists(st.sampled_from(sorted(names)), max_size=5, unique=True)
    return chosen.flatmap(lambda some: st.fixed_dictionaries({name: names[name] for name in some}))


def _value(cls: type[Struct], plan: Plan, depth: int) -> st.SearchStrategy[Any]:
    kind = str(fields_dict(cls)[plan.attribute].type)
    codec, element = plan.member.codec, plan.element
    scalar: st.SearchStrategy[Any]
    if element:
        scalar = st.deferred(lambda: members(element, depth + 1)) if depth < 4 else st.just({})
    elif codec is not None:
        scalar = _SCALARS.get(id(codec), st.sampled_from(["true", "false"]))
    elif "bool" in kind:
        scalar = st.booleans()
    elif "int" in kind or "float" in kind:
        scalar = st.sampled_from([0, 1, 4, 26, 122, 100, 65535])
    else:
        scalar = st.sampled_from(_TEXT)
    if "list" in kind:
        return st.lists(scalar, max_size=2)
    return st.dictionaries(st.sampled_from("ab"), scalar, max_size=2) if "dict" in kind else scalar


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    info = draw(st.sampled_from(list(KINDS.values())))
    body = draw(members(info.cls))
    body["metadata"] = {
        "name": draw(st.sampled_from(["default", "node.a", "a.b.c", "A", ""])),
        **({"namespace": "ns"} if info.namespaced else {}),
    }
    return {"apiVersion": API, "kind": info.kind, **body}


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_a_plausible_document_is_read_or_refused_and_reads_back_the_same(data: dict[str, Any]) -> None:
    try:
        resource = from_dict(data)
    except ValidationError as error:
        event(f"not read: {error.reason[:40]}")
        return
    written = to_dict(resource)
    assert to_dict(from_dict(written)) == written
    assert decode(data["kind"], encode(resource)) == resource
    apply_defaults(resource)
    try:
        validate(resource)
    except ValidationError as error:
        event(f"not valid: {error.reason[:40]}")
        return
    event("valid")
    again = decode(data["kind"], encode(resource))
    apply_defaults(again)
    assert again == resource


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.dictionaries(st.sampled_from(["metadata", "spec", "status", "x"]), JSON))
def test_any_object_is_read_or_refused(kind: str, body: dict[str, Any]) -> None:
    for strict in (True, False):
        with suppress(ValidationError):
            resource = from_dict({"apiVersion": API, "kind": kind, **body}) if strict else decode(kind, {**body})
            apply_defaults(resource)
            validate(resource)
            encode(resource)


@settings(max_examples=300)
@given(st.data())
def test_any_value_in_any_field_is_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    document: dict[str, Any] = {"apiVersion": API, "kind": kind, "metadata": {"name": "default", "namespace": "ns"}}
    target = document
    cls: type[Struct] = KINDS[kind].cls
    for _ in range(data.draw(st.integers(1, 4))):
        plans = plan_of(cls)
        name = data.draw(st.sampled_from(sorted(plans)))
        element = plans[name].element
        if element is None or data.draw(st.booleans()):
            target[name] = data.draw(JSON)
            break
        target[name] = {}
        target, cls = target[name], element
    with suppress(ValidationError):
        resource = decode(kind, document)
        apply_defaults(resource)
        validate(resource)
        encode(resource)


def test_an_error_text_is_short_and_possible_whatever_the_value_is() -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = {"a": [deep]}
    for value in (deep, ["x" * 100_000] * 1000, 10**10_000, {str(n): [n] * 99 for n in range(10**4)}):
        for spec in ({"tier": value}, {"ingress": [{"action": value}]}, {"k" * 10**6: value}):
            with pytest.raises(ValidationError) as caught:
                from_dict(policy(spec))
            assert len(str(caught.value)) < 3000
