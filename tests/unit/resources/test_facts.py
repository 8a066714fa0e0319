"""Every class of the v3 API against the facts: members, order, what is always written, values allowed; and bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calico_node.resources import KINDS, Struct, decode, encode
from calico_node.resources.fields import Fault
from calico_node.resources.structure import Plan, plan_of
from tests.unit.resources.facts import FACTS, body_of

_MEMBER = re.compile(r"(\w+):([!*0]?)(\[\])?([A-Za-z]\w*)(?:\{([^}]*)\})?")


@frozen
class Fact:
    """A member: ``flag`` is "!", "*", "0" or ""; ``allowed`` what the braces hold."""

    name: str
    flag: str
    is_list: bool
    type: str
    allowed: str


def facts_of(text: str) -> list[Fact]:
    matches = [_MEMBER.fullmatch(word) for word in text.split()]
    assert all(matches), text
    return [Fact(m[1], m[2], bool(m[3]), m[4], m[5] or "") for m in matches if m]


def classes() -> Iterator[tuple[str, type[Struct]]]:
    """The facts' name and the class of all kinds and of what is in them."""
    seen: set[type[Struct]] = set()
    waiting: list[tuple[str, type[Struct]]] = [(f"kind {info.kind}", info.cls) for info in KINDS.values()]
    while waiting:
        name, cls = waiting.pop()
        if cls in seen:
            continue
        seen.add(cls)
        yield name, cls
        for plan in plan_of(cls).values():
            inner = plan.element or plan.member.shape
            if inner:
                waiting.append((inner.__name__, inner))


CLASSES = dict(classes())


def text_of(name: str) -> str:
    return body_of(name.removeprefix("kind ")) if name.startswith("kind ") else FACTS[name]


def test_there_are_facts_of_every_class_and_a_class_for_every_fact() -> None:
    assert {name for name in CLASSES if not name.startswith("kind ")} == set(FACTS)
    assert len(CLASSES) > 90


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_members_and_their_order(name: str) -> None:
    plans = plan_of(CLASSES[name])
    facts = facts_of(text_of(name))
    assert list(plans) == [fact.name for fact in facts]
    assert {key for key, plan in plans.items() if plan.member.always} == {f.name for f in facts if f.flag == "!"}


LIMITED = [
    pytest.param(plan_of(cls)[fact.name], fact.allowed, id=f"{name}.{fact.name}")
    for name, cls in sorted(CLASSES.items())
    for fact in facts_of(text_of(name))
    if fact.allowed
]


def refused(plan: Plan, value: Any) -> bool:
    check = plan.member.each or plan.member.check
    assert check is not None, "no check is declared"
    try:
        return check(value) is not None
    except Fault:
        return True


@pytest.mark.parametrize(("plan", "allowed"), LIMITED)
def test_values_allowed(plan: Plan, allowed: str) -> None:
    if ".." in allowed:
        low, high = (int(text) if text else None for text in allowed.split(".."))
        for value, bad in ((low, 0), (high, 0), (low and low - 1, 1), (low == 0 and -1, 1), (high and high + 1, 1)):
            if value is not None and value is not False and not (value == 0 and bad):
                assert refused(plan, value) is bool(bad), value
        return
    any_case = allowed.startswith("~")
    values = allowed.removeprefix("~").split(",")
    for value in values:
        assert not refused(plan, value), value
        assert refused(plan, value + "x")
        assert refused(plan, value.swapcase()) is not any_case
    assert refused(plan, "Unknown")


# Documents as Go writes them


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["a < b && c > d", 'say "x"', "\u2028\u2029", "back\\slash/", "\x00\x1f\x7f\t\n\r\b\f", "ü€😀", "has(x)"]
)
SOME_TEXT = TEXTS.filter(bool)
TIMES = st.sampled_from(["2026-08-01T10:00:00Z", "1999-12-31T23:59:59Z"])
SCALARS: dict[str, tuple[st.SearchStrategy[Any], Any]] = {
    "string": (TEXTS, ""),
    "bool": (st.booleans(), False),
    "int": (st.integers(-(2**31), 2**53), 0),
    "float": (st.integers(-(2**53), 2**53) | st.sampled_from([0.5, -1.25, 0.001, 123456.789, 1e15 + 0.5]), None),
    "dur": (st.sampled_from(["0s", "1.5s", "1m30s", "100ms", "1h0m0s", "2.5µs", "-1s", "1ns"]), None),
    "time": (TIMES, None),
    "port": (st.sampled_from([1, 80, 65535, "8000:8010", "http", "0:5"]), 0),
    "protocol": (st.sampled_from(["TCP", "UDPLite", 1, 255]), None),
    "asn": (st.integers(0, 2**32 - 1), 0),
    "dscp": (st.integers(0, 63) | st.sampled_from(["EF", "AF43"]), None),
    "deleted": (st.sampled_from(["true", "false", True, False]), None),
    "intOrString": (st.sampled_from([80, "http", "80"]), None),
    "any": (st.dictionaries(TEXTS, st.integers(0, 9), min_size=1, max_size=2), None),
    "map": (st.dictionaries(TEXTS, TEXTS, max_size=3), {}),
}


def go_text(text: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f", '"': '\\"', "\\": "\\\\"}
    return "".join(
        short.get(char) or (f"\\u{ord(char):04x}" if char in "<>&\u2028\u2029" or ord(char) < 0x20 else char)
        for char in text
    )


def go_json(value: Any) -> str:
    """JSON as Go's encoder writes it, members in the order given."""
    if isinstance(value, str):
        return f'"{go_text(value)}"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{go_json(key)}:{go_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(go_json, value)) + "]"
    if isinstance(value, float):
        return f"{value:.7f}".rstrip("0") if abs(value) < 1 else repr(value)
    return json.dumps(value)


@st.composite
def objects(draw: st.DrawFn, text: str, unknown: bool = False) -> dict[str, Any]:
    """An object of these facts: each member there by chance, and then such as Go leaves it there."""
    out: dict[str, Any] = {}
    facts = facts_of(text)
    wanted = draw(st.sets(st.sampled_from([fact.name for fact in facts]), max_size=6))
    for fact in facts:
        if fact.flag != "!" and fact.name not in wanted:
            continue
        value = draw(values(fact, unknown))
        if fact.flag == "!" or value is not OMITTED:
            out[fact.name] = value
    if unknown and draw(st.booleans()):
        out[draw(st.sampled_from(["zz", "aNewField"]))] = draw(st.sampled_from([None, 0, "", [], {"a": [{"b": 1}]}]))
    return out


OMITTED = object()


@st.composite
def values(draw: st.DrawFn, fact: Fact, unknown: bool) -> Any:
    if fact.type in SCALARS:
        one, empty = SCALARS[fact.type]
    else:
        one, empty = objects(FACTS[fact.type], unknown), None
    if fact.is_list:
        return draw(st.lists(one, min_size=0 if fact.flag == "*" else 1, max_size=2))
    if fact.flag == "!" and fact.type == "time":
        return draw(st.none() | one)
    value = draw(one)
    if isinstance(value, dict) and fact.type in ("map", "any"):
        value = {key: value[key] for key in sorted(value)}
    if (not fact.flag and value == empty) or (fact.flag == "0" and value == {}) or (fact.type == "any" and not value):
        return OMITTED
    return value


@st.composite
def stored(draw: st.DrawFn, unknown: bool) -> dict[str, Any]:
    kind = draw(st.sampled_from(sorted(KINDS)))
    body = draw(objects(body_of(kind), unknown))
    return {"kind": kind, "apiVersion": "projectcalico.org/v3", **body}


ROUNDS = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@ROUNDS
@given(stored(unknown=False))
def test_what_go_wrote_is_written_back_byte_for_byte(data: dict[str, Any]) -> None:
    raw = go_json(data)
    assert json.loads(raw) == data
    assert encode(decode(data["kind"], raw)).decode() == raw


@ROUNDS
@given(stored(unknown=True))
def test_members_that_no_class_knows_are_written_back_at_every_depth(data: dict[str, Any]) -> None:
    assert json.loads(encode(decode(data["kind"], json.dumps(data)))) == data
