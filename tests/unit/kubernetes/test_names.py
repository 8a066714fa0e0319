from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_node.errors import ValidationError
from calico_node.kubernetes import (
    WorkloadEndpointName,
    parse_workload_endpoint_name,
    veth_name,
    workload_endpoint_name,
    workload_endpoint_prefix,
)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("node-a", "k8s", "nginx-1", "eth0"), "node--a-k8s-nginx--1-eth0"),
        (("node-1", "k8s", "web-0", "eth0"), "node--1-k8s-web--0-eth0"),
        (("node-1", "cni", "abc123", "eth0"), "node--1-cni-abc123-eth0"),
        (("node-1", "libnetwork", "libnetwork", "xyz"), "node--1-libnetwork-libnetwork-xyz"),
    ],
)
def test_endpoint_names_of_the_reference(parts: tuple[str, str, str, str], name: str) -> None:
    assert workload_endpoint_name(*parts) == name
    assert parse_workload_endpoint_name(name) == WorkloadEndpointName(*parts)


def test_prefixes_stop_at_the_first_empty_part() -> None:
    assert workload_endpoint_prefix("node-1", "k8s") == "node--1-k8s-"
    assert workload_endpoint_prefix("node-1", "", "web") == "node--1-"
    assert workload_endpoint_prefix("") == ""


segments = st.from_regex(r"[a-z0-9.]([a-z0-9.-]{0,10}[a-z0-9.])?", fullmatch=True)


@given(segments, st.sampled_from(["k8s", "cni", "openstack"]), segments, segments)
def test_names_can_be_taken_apart_again(node: str, orchestrator: str, workload: str, endpoint: str) -> None:
    name = workload_endpoint_name(node, orchestrator, workload, endpoint)
    assert parse_workload_endpoint_name(name) == WorkloadEndpointName(node, orchestrator, workload, endpoint)


@given(st.text("ab-", max_size=20))
def test_what_does_not_come_back_the_same_is_refused(name: str) -> None:
    try:
        parsed = parse_workload_endpoint_name(name)
    except ValidationError:
        return
    assert str(parsed) == name


@pytest.mark.parametrize("name", ["", "a", "a-k8s-b", "a-k8s-b-c-d", "-a-k8s-b-c", "a-k8s-b-c-", "a---k8s-b-c"])
def test_malformed_names(name: str) -> None:
    with pytest.raises(ValidationError):
        parse_workload_endpoint_name(name)


@pytest.mark.parametrize("part", ["", "-a", "a-"])
def test_parts_that_no_name_can_hold(part: str) -> None:
    with pytest.raises(ValidationError):
        workload_endpoint_name("node", "k8s", part, "eth0")


@pytest.mark.parametrize(
    ("pod", "interface"),
    [("nginx", "calic440f455693"), ("nginx-7c5ddbdf54-x2lmn", "calib43d0f2d6c8"), ("web-0", "cali0d7763386da")],
)
def test_interface_names_of_the_reference(pod: str, interface: str) -> None:
    assert veth_name("default", pod) == interface
    assert veth_name("default", pod, "tap") == interface.replace("cali", "tap", 1)
