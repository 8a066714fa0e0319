"""The Lab document: what it means, what is filled in, what is refused."""

import pytest

from calico_node.errors import ValidationError
from calico_node.lab.spec import Listen, complete, merge, parse


def lab(**spec: object) -> dict[str, object]:
    return {"apiVersion": "lab.calico-node/v1", "kind": "Lab", "metadata": {"name": "x"}, "spec": spec}


def test_everything_but_the_names_may_be_left_out() -> None:
    spec = complete(parse(lab(nodes=[{"name": "a"}, {"name": "b"}], hosts=[{"name": "h"}])))
    assert [(node.name, node.address) for node in spec.nodes] == [("a", "172.30.0.1/24"), ("b", "172.30.0.2/24")]
    assert [(host.name, host.address) for host in spec.hosts] == [("h", "172.30.0.10/24")]
    assert spec.nodes[0].as_number is None


def test_all_that_can_be_said() -> None:
    node = {
        "name": "node1",
        "labels": {"rack": "a"},
        "address": "10.1.0.1/16",
        "asNumber": "1.10",
        "listen": [{"port": 80}, {"port": 53, "protocol": "UDP"}],
    }
    parsed = parse(lab(nodes=[node])).nodes[0]
    assert parsed.labels == {"rack": "a"}
    assert parsed.as_number == 65546
    assert parsed.listen == (Listen(80, "TCP"), Listen(53, "UDP"))
    assert (parsed.address, parsed.ip) == ("10.1.0.1/16", "10.1.0.1")


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"node": []}, "spec.node", "unknown field"),
        ({"nodes": [{"name": "a", "color": "red"}]}, "spec.nodes[0].color", "unknown field"),
        ({"nodes": [{}]}, "spec.nodes[0].name", "required"),
        ({"nodes": [{"name": "A_b"}]}, "spec.nodes[0].name", "lower-case"),
        ({"nodes": {"name": "a"}}, "spec.nodes", "must be a list"),
        ({"nodes": [{"name": "a", "address": "172.30.0.1"}]}, "spec.nodes[0].address", "length"),
        ({"nodes": [{"name": "a", "address": "172.30.0.0/24"}]}, "spec.nodes[0].address", "broadcast"),
        ({"nodes": [{"name": "a", "address": "fd00::1/64"}]}, "spec.nodes[0].address", "IPv4"),
        ({"nodes": [{"name": "a", "asNumber": 0}]}, "spec.nodes[0].asNumber", "AS number"),
        ({"nodes": [{"name": "a", "labels": {"n": 1}}]}, "spec.nodes[0].labels[n]", "quotes"),
        ({"nodes": [{"name": "a", "listen": [{"port": 0}]}]}, "spec.nodes[0].listen[0].port", "1 to 65535"),
        (
            {"hosts": [{"name": "h", "listen": [{"port": 1, "protocol": "ICMP"}]}]},
            "spec.hosts[0].listen[0].protocol",
            "",
        ),
        ({"hosts": [{"name": "h"}, {"name": "h"}]}, "spec.hosts[1].name", "twice"),
        (
            {"nodes": [{"name": "a", "address": "10.0.0.1/24"}], "hosts": [{"name": "h", "address": "10.0.0.1/24"}]},
            "spec.hosts[0].address",
            "twice",
        ),
    ],
)
def test_what_is_wrong_is_named(spec: dict[str, object], field: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(lab(**spec), "lab.yaml")
    assert caught.value.field == field
    assert words in caught.value.reason
    assert str(caught.value).startswith("lab.yaml: Lab(x): ")


def test_addresses_do_not_collide_with_given_ones() -> None:
    spec = complete(
        parse(lab(nodes=[{"name": "a"}, {"name": "b", "address": "172.30.0.1/24"}], hosts=[{"name": "h"}]))
    )
    assert [node.ip for node in spec.nodes] == ["172.30.0.2", "172.30.0.1"]


def test_more_nodes_than_named_are_added_and_fewer_refused() -> None:
    spec = parse(lab(nodes=[{"name": "node2"}]))
    assert [node.name for node in complete(spec, 3).nodes] == ["node2", "node1", "node3"]
    assert len(complete(parse(lab())).nodes) == 3
    with pytest.raises(ValidationError, match="--nodes allows 1"):
        complete(parse(lab(nodes=[{"name": "a"}, {"name": "b"}])), 1)


def test_hosts_come_after_many_nodes() -> None:
    spec = complete(parse(lab(hosts=[{"name": "h"}])), 12)
    assert spec.nodes[-1].ip == "172.30.0.12"
    assert spec.hosts[0].ip == "172.30.0.13"


def test_a_later_document_replaces_a_node_of_the_same_name() -> None:
    first, second = parse(lab(nodes=[{"name": "a"}, {"name": "b"}])), parse(lab(nodes=[{"name": "a", "asNumber": 1}]))
    merged = merge([first, second])
    assert [(node.name, node.as_number) for node in merged.nodes] == [("a", 1), ("b", None)]


def test_all_machines_are_on_the_network_of_the_addresses_given() -> None:
    spec = complete(parse(lab(nodes=[{"name": "a"}, {"name": "b", "address": "10.9.0.1/28"}], hosts=[{"name": "h"}])))
    assert [machine.address for machine in (*spec.nodes, *spec.hosts)] == [
        "10.9.0.2/28",
        "10.9.0.1/28",
        "10.9.0.10/28",
    ]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.9.0.1/24", "is not in 172.30.0.0/24"),
        ("172.30.0.9/16", "is not in 172.30.0.0/24"),
        ("172.30.0.1/24", "is the address of a already"),
    ],
)
def test_a_host_that_no_node_can_reach_is_refused_with_its_place(address: str, reason: str) -> None:
    nodes = parse(lab(nodes=[{"name": "a", "address": "172.30.0.1/24"}]), "nodes.yaml, document 1")
    hosts = parse(lab(hosts=[{"name": "h", "address": address}]), "hosts.yaml, document 1")
    with pytest.raises(ValidationError, match=reason) as caught:
        complete(merge([nodes, hosts]))
    assert str(caught.value).startswith(f"hosts.yaml, document 1: Lab: spec.hosts[h].address = '{address}'")
    with pytest.raises(ValidationError, match="addresses of Services"):
        complete(parse(lab(nodes=[{"name": "a", "address": "10.100.0.1/24"}])))
