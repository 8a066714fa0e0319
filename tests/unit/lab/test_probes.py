"""Probe lists, expectations and what is reported."""

import contextlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from calico_node.errors import ValidationError
from calico_node.lab import matrix
from calico_node.lab.probes import (
    Expectation,
    Place,
    Probe,
    Result,
    default_probes,
    differences,
    parse_expectations,
    parse_probes,
)
from calico_node.lab.spec import Listen


def test_a_probes_file() -> None:
    text = """
- {from: a/b, to: c/d, port: 80}
- {from: "host:h", to: "service:n/s", protocol: udp, port: 53}
- {from: "node:n", to: 10.0.0.1, protocol: ICMP}
- {from: "node:n", to: 10.0.0.1, protocol: ICMP, type: 3, code: 1}
"""
    assert parse_probes(text, "p.yaml") == [
        Probe("a/b", "c/d", "TCP", 80),
        Probe("host:h", "service:n/s", "UDP", 53),
        Probe("node:n", "10.0.0.1", "ICMP", None, 8, 0),
        Probe("node:n", "10.0.0.1", "ICMP", None, 3, 1),
    ]


def test_lists_stand_for_every_pair_but_oneself() -> None:
    probes = parse_probes("[{from: [a/a, b/b], to: [a/a, c/c], port: 1}]", "p")
    assert [(probe.source, probe.target) for probe in probes] == [("a/a", "c/c"), ("b/b", "a/a"), ("b/b", "c/c")]
    assert parse_probes("[{from: a/a, to: a/a, port: 1}]", "p") == [Probe("a/a", "a/a", "TCP", 1)]


def test_the_output_of_a_run_is_a_probes_file() -> None:
    results = [
        Result(Probe("a/b", "c/d", "TCP", 80), "10.0.0.1", False, "timed out"),
        Result(Probe("a/b", "c/d", "ICMP", None, 8, 0), "10.0.0.1", True),
    ]
    text = json.dumps([result.as_json() for result in results])
    assert parse_probes(text, "o.json") == [result.probe for result in results]


def test_the_json_form() -> None:
    tcp = Result(Probe("a/b", "host:h", "TCP", 80), "172.30.0.10", True)
    assert list(tcp.as_json()) == ["from", "to", "ip", "protocol", "port", "allowed", "error"]
    icmp = Result(Probe("a/b", "host:h", "ICMP", None, 8, 0), "172.30.0.10", False, "timed out")
    assert list(icmp.as_json()) == ["from", "to", "ip", "protocol", "type", "code", "allowed", "error"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[{to: a/b, port: 1}]", "from"),
        ("[{from: web, to: a/b, port: 1}]", "from"),
        ('[{from: "service:a/b", to: a/b, port: 1}]', "from"),
        ("[{from: a/b, to: a/b}]", "port"),
        ("[{from: a/b, to: a/b, port: 70000}]", "port"),
        ("[{from: a/b, to: a/b, port: true}]", "port"),
        ("[{from: a/b, to: a/b, port: 1, protocol: GRE}]", "protocol"),
        ("[{from: a/b, to: a/b, port: 1, type: 8}]", "type"),
        ("[{from: a/b, to: a/b, port: 1, protocol: ICMP}]", "port"),
        ("[{from: a/b, to: a/b, prot: 1}]", "prot"),
    ],
)
def test_a_faulty_item_is_named(text: str, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_probes(text, "p.yaml")
    assert caught.value.field == field
    assert str(caught.value).startswith("p.yaml, line 1: item 1: ")


@pytest.mark.parametrize("text", ["{a: 1}", "[1]", "[", "a: b: c"])
def test_what_is_no_list_of_probes_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"p\.yaml"):
        parse_probes(text, "p.yaml")


def test_expectations_must_say_what_is_expected() -> None:
    assert parse_expectations("[{from: a/b, to: c/d, port: 1, allowed: false}]", "e") == [
        Expectation(Probe("a/b", "c/d", "TCP", 1), False)
    ]
    with pytest.raises(ValidationError, match="true or false is required"):
        parse_expectations("[{from: a/b, to: c/d, port: 1}]", "e")
    with pytest.raises(ValidationError, match="unknown field"):
        parse_expectations("[{from: a/b, to: c/d, port: 1, allowed: true, ip: x}]", "e")


def test_without_a_list_everybody_asks_everything_but_itself() -> None:
    places = [
        Place("a/web", "10.0.0.1", listen=(Listen(80), Listen(53, "UDP"))),
        Place("a/client", "10.0.0.2"),
        Place("host:h", "172.30.0.10", listen=(Listen(80),)),
        Place("node:n", "172.30.0.1", listen=(Listen(22),)),
        Place("kube-system/kube-dns", "10.0.0.3", listen=(Listen(53, "UDP"),)),
    ]
    asked = {(probe.source, probe.target, probe.port) for probe in default_probes(places)}
    assert asked == {
        ("a/client", "a/web", 80),
        ("a/client", "a/web", 53),
        ("a/client", "host:h", 80),
        ("a/client", "node:n", 22),
        ("a/client", "kube-system/kube-dns", 53),
        ("a/web", "host:h", 80),
        ("a/web", "node:n", 22),
        ("a/web", "kube-system/kube-dns", 53),
        ("host:h", "a/web", 80),
        ("host:h", "a/web", 53),
        ("host:h", "node:n", 22),
        ("host:h", "kube-system/kube-dns", 53),
    }


def test_differences_name_what_was_and_what_should_be() -> None:
    probe, other = Probe("a/b", "c/d", "TCP", 80), Probe("a/b", "c/d", "TCP", 81)
    results = [Result(probe, "10.0.0.1", False, "timed out")]
    assert differences(results, [Expectation(probe, False)]) == []
    wrong = differences(results, [Expectation(probe, True), Expectation(other, True)])
    assert [str(item) for item in wrong] == [
        "a/b -> c/d TCP 80: expected allowed, was denied (timed out)",
        "a/b -> c/d TCP 81: expected allowed, was denied (was not probed)",
    ]


def test_wrong_cells_stand_out_in_the_matrix() -> None:
    right, wrong, free = (Probe("a/b", "a/c", "TCP", port) for port in (1, 2, 3))
    results = [Result(right, "", True), Result(wrong, "", True), Result(free, "", False, "timed out")]
    expectations = [Expectation(right, True), Expectation(wrong, False)]
    console = Console(width=120, force_terminal=False, file=io.StringIO(), record=True)
    for table in matrix.render(results, expectations, "title"):
        console.print(table)
    row = next(line for line in console.export_text().splitlines() if line.strip().startswith("b "))
    assert row.count("✔") == 2
    assert row.count("!") == 1
    assert row.count("·") == 1


def test_the_matrix_cuts_no_name_and_fits_the_terminal() -> None:
    pods = [
        "default/client",
        *(f"dev1/{name}" for name in ("details-v1", "productpage-v1", "ratings-v1", "reviews-v1")),
    ]
    targets = [*pods[1:], "dev1/reviews-v2", "dev1/reviews-v3", "host:stranger", "service:kube-system/kube-dns"]
    results = [Result(Probe(a, b, "TCP", 9080), "", True) for a in pods for b in targets if a != b]
    for width in (80, 120):
        console = Console(width=width, force_terminal=False, file=io.StringIO(), record=True)
        tables = matrix.render(results, [Expectation(results[0].probe, False)], "title", width)
        for table in tables:
            console.print(table)
        text = console.export_text()
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        assert len(tables) == (3 if width == 80 else 2), "a title and its tables"
        assert "names without a namespace are in dev1" in text.splitlines()[0]
        assert text.count("!") == 1


names = st.from_regex(r"\A[a-z]{1,8}/[a-z]{1,8}\Z")


@given(st.lists(st.tuples(names, names, st.integers(1, 65535), st.booleans()), max_size=20))
def test_expectations_survive_being_written_and_read(items: list[tuple[str, str, int, bool]]) -> None:
    text = json.dumps([{"from": a, "to": b, "port": port, "allowed": yes} for a, b, port, yes in items])
    assert parse_expectations(text, "e") == [Expectation(Probe(a, b, "TCP", port), yes) for a, b, port, yes in items]


@given(st.text(max_size=60))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with contextlib.suppress(ValidationError):
        parse_probes(text, "p")


def test_a_faulty_item_is_named_with_file_line_and_value() -> None:
    text = "- {from: a/b, to: c/d, port: 1}\n- from: a/b\n  to: c/d\n  port: 70000\n"
    with pytest.raises(ValidationError, match=r"list\.yaml, line 4: item 2: port = 70000: must be a number"):
        parse_probes(text, "list.yaml")
    with pytest.raises(ValidationError, match=r"list\.yaml, line 2, column 1: malformed YAML"):
        parse_probes("- {from", "list.yaml")
    with pytest.raises(ValidationError, match=r"second document"):
        parse_probes("[]\n---\n[]\n", "list.yaml")


@pytest.mark.parametrize("value", ["!!timestamp x", "!!binary abc", "&a [*a]", "{? [1]: 2}", "<<: 1"])
def test_odd_yaml_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match=r"list\.yaml"):
        parse_probes(f"- {value}", "list.yaml")
