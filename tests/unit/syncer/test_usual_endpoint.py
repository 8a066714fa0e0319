"""Endpoints that take the short way to the v1 model end as the general way would have ended them."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from calico_node.datastores.client import read_resource
from calico_node.datastores.kv import KeyValue
from calico_node.errors import ValidationError
from calico_node.model import EndpointPort, WorkloadEndpoint
from calico_node.resources import validate
from calico_node.syncer.endpoint_conversion import workload_endpoint
from calico_node.syncer.usual_endpoint import usual_workload_endpoint
from tests.benchmarks.fuzz_documents import Mutator, places
from tests.unit.resources.samples import DOCUMENTS, without

SAMPLE: dict[str, Any] = next(document for document in DOCUMENTS if document["kind"] == "WorkloadEndpoint")
UNUSUAL = ("workload", "ipNATs", "ipv4Gateway", "ipv6Gateway", "allowSpoofedSourcePrefixes", "qosControls")
METADATA = {
    "generateName": "web-",
    "uid": "0d9cfa07-6d3f-4d3c-9a55-000000000004",
    "creationTimestamp": "2026-08-01T10:00:00Z",
    "labels": {"app": "web", "pcns.app": "x", "projectcalico.org/namespace": "prod"},
    "annotations": {"example.org/a": "ü <&>"},
}
USUAL = {**SAMPLE, "metadata": {**SAMPLE["metadata"], **METADATA}, "spec": without(SAMPLE["spec"], *UNUSUAL)}


def general(raw: bytes) -> WorkloadEndpoint | None:
    """By way of the resource; None too where that is refused."""
    try:
        resource = read_resource("WorkloadEndpoint", KeyValue("/key", raw, 1, 1))
        validate(resource)
    except ValidationError:
        return None
    return workload_endpoint(resource)


def changed(*path: str, value: Any) -> bytes:
    document = json.loads(json.dumps(USUAL))
    part = document
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    return orjson.dumps(document)


def test_the_usual_endpoint_takes_the_short_way() -> None:
    found = usual_workload_endpoint(orjson.dumps(USUAL))
    assert found == general(orjson.dumps(USUAL))
    assert found is not None
    assert found.ports == (EndpointPort("http", "tcp", 8080),)
    assert found.labels == {
        "app": "web", "projectcalico.org/namespace": "prod", "projectcalico.org/serviceaccount": "default",
    }  # fmt: skip
    assert (found.ipv4_nets, found.ipv6_nets) == (("192.168.0.5/32",), ("fd00::5/128",))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "ipNetworks"), []),
        (("spec", "ipNetworks"), ["192.168.0.0/24"]),
        (("spec", "profiles"), ""),
        (("spec", "profiles"), "kns"),
        (("spec", "ports"), ""),
        (("spec", "ports"), {}),
        (("spec", "ports"), [{"name": "http", "protocol": "TCP", "port": True}]),
        (("spec", "ports"), [{"name": "http", "protocol": "ICMP", "port": 8080}]),
        (("spec", "mac"), 0),
        (("spec", "interfaceName"), "much-too-long-for-linux"),
        (("spec", "ipNATs"), [{"internalIP": "192.168.0.5", "externalIP": "10.0.0.1"}]),
        (("spec", "qosControls"), {"ingressBandwidth": 1}),
        (("spec", "allowSpoofedSourcePrefixes"), ["10.0.0.0/8"]),
        (("spec", "ofANewerCalico"), 1),
        (("metadata", "labels"), []),
        (("metadata", "labels"), {"a": 1}),
        (("metadata", "labels"), {"a": "-"}),
        (("metadata", "annotations"), 0),
        (("metadata", "namespace"), ""),
        (("metadata", "name"), "UPPER"),
        (("metadata", "creationTimestamp"), "yesterday"),
        (("metadata", "ownerReferences"), [{"name": "a"}]),
    ],
)
def test_any_other_is_left_to_the_general_way(path: tuple[str, ...], value: Any) -> None:
    assert usual_workload_endpoint(changed(*path, value=value)) is None


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"{}", b'{"metadata":[],"spec":{}}', b'"\xff"'])
def test_what_is_no_endpoint_is_left_to_the_general_way(raw: bytes) -> None:
    assert usual_workload_endpoint(raw) is None


def test_both_ways_end_alike_for_mutated_endpoints() -> None:
    mutator, short, sound = Mutator(seed=3), 0, 0
    for number in range(4000):
        document = json.loads(json.dumps(USUAL))
        for _ in range(number % 3 + 1):
            found = [place for place in places(document, []) if place[0] is not document]
            mutator.mutate(*mutator.random.choice(found))
        raw = json.dumps(document).encode()
        usual, wanted = usual_workload_endpoint(raw), general(raw)
        short += usual is not None
        sound += wanted is not None
        if usual is not None:
            assert usual == wanted, raw
            assert repr(usual) == repr(wanted), raw
    assert sound > short > 200
