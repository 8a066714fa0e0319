"""What the lab's name server answers, and the hosts files."""

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_node.lab.names import NamedPod, NamedService, Names, from_json, resolv_conf, respond, to_json

NAMES = Names(
    services=(
        NamedService("dev1", "web", "10.96.1.1", (("http", "tcp", 80),)),
        NamedService("dev1", "db", "", (), (("db-0", "10.244.0.5"), ("db-1", "10.244.0.6"))),
    ),
    pods=(NamedPod("dev1", "client", "10.244.0.9"),),
    machines=(("node1", "172.30.0.1"),),
)


def ask(name: str, kind: str = "A") -> tuple[str, list[str]]:
    answer = dns.message.from_wire(respond(NAMES, dns.message.make_query(name, kind).to_wire()))
    return dns.rcode.to_text(answer.rcode()), sorted(str(item) for rrset in answer.answer for item in rrset)


@pytest.mark.parametrize(
    ("name", "kind", "code", "answers"),
    [
        ("web.dev1.svc.cluster.local.", "A", "NOERROR", ["10.96.1.1"]),
        ("WEB.dev1.SVC.cluster.local.", "A", "NOERROR", ["10.96.1.1"]),
        ("web.dev1.svc.cluster.local.", "AAAA", "NOERROR", []),
        ("db.dev1.svc.cluster.local.", "A", "NOERROR", ["10.244.0.5", "10.244.0.6"]),
        ("db-1.db.dev1.svc.cluster.local.", "A", "NOERROR", ["10.244.0.6"]),
        ("client.dev1.pod.cluster.local.", "A", "NOERROR", ["10.244.0.9"]),
        ("10-244-0-9.dev1.pod.cluster.local.", "A", "NOERROR", ["10.244.0.9"]),
        ("10-244-0-9.nowhere.pod.cluster.local.", "A", "NXDOMAIN", []),
        ("none.dev1.svc.cluster.local.", "A", "NXDOMAIN", []),
        ("dev1.svc.cluster.local.", "A", "NOERROR", []),
        ("_http._tcp.web.dev1.svc.cluster.local.", "SRV", "NOERROR", ["0 100 80 web.dev1.svc.cluster.local."]),
        ("_http._udp.web.dev1.svc.cluster.local.", "SRV", "NXDOMAIN", []),
        ("1.1.96.10.in-addr.arpa.", "PTR", "NOERROR", ["web.dev1.svc.cluster.local."]),
        ("9.0.244.10.in-addr.arpa.", "PTR", "NOERROR", ["client.dev1.pod.cluster.local."]),
        ("8.8.8.8.in-addr.arpa.", "PTR", "NXDOMAIN", []),
        ("example.com.", "A", "REFUSED", []),
    ],
)
def test_answers(name: str, kind: str, code: str, answers: list[str]) -> None:
    assert ask(name, kind) == (code, answers)


def test_a_long_answer_is_cut_over_udp() -> None:
    endpoints = tuple((f"p-{number}", f"10.244.{number // 250}.{number % 250}") for number in range(200))
    names = Names(services=(NamedService("a", "many", "", (), endpoints),))
    wire = dns.message.make_query("many.a.svc.cluster.local.", "A").to_wire()
    short = dns.message.from_wire(respond(names, wire, limit=512))
    assert short.flags & dns.flags.TC
    whole = dns.message.from_wire(respond(names, wire))
    assert len(whole.answer[0]) == 200


def test_hosts_files_know_a_namespaces_own_names_by_their_first_part() -> None:
    inside, outside = NAMES.hosts_file("dev1"), NAMES.hosts_file("default")
    assert "10.96.1.1\tweb web.dev1 web.dev1.svc web.dev1.svc.cluster.local\n" in inside
    assert "10.96.1.1\tweb.dev1 web.dev1.svc web.dev1.svc.cluster.local\n" in outside
    assert "10.244.0.9\tclient client.dev1 " in inside
    assert "172.30.0.1\tnode1\n" in outside


def test_a_pod_leaves_its_name_to_a_service_of_that_name() -> None:
    pods = (NamedPod("a", "web", "10.244.0.1"), NamedPod("a", "db", "10.244.0.2"))
    services = (NamedService("a", "web", "10.96.1.1"), NamedService("a", "db", ""))
    lines = Names(services=services, pods=pods).hosts_file("a").splitlines()
    assert "10.244.0.1\tweb.a.pod.cluster.local" in lines
    assert "10.244.0.2\tdb.a.pod.cluster.local" in lines
    assert "10.96.1.1\tweb web.a web.a.svc web.a.svc.cluster.local" in lines


def test_resolv_conf_searches_the_namespace_first() -> None:
    assert "search dev1.svc.cluster.local svc.cluster.local cluster.local\n" in resolv_conf("10.96.0.10", "dev1")


def test_names_survive_the_way_to_the_responder() -> None:
    assert from_json(to_json(NAMES)) == NAMES


@given(st.binary(max_size=80))
def test_no_datagram_breaks_the_server(data: bytes) -> None:
    answer = respond(NAMES, data, limit=1232)
    assert len(answer) <= 1232


def test_an_answer_is_not_answered() -> None:
    query = dns.message.make_query("web.dev1.svc.cluster.local.", "A")
    assert respond(NAMES, dns.message.make_response(query).to_wire()) == b""
