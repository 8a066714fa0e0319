"""The YAML that calicoctl writes: read back it is what it was, and it is PyYAML's, to the byte."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.calicoctl import yamltext
from calico_node.calicoctl.yamltext import yaml_text

LIKELY = st.sampled_from(
    (
        "app == 'a' && has(role)", "8000:8100", "10.0.0.0/8", "fd00::/8", "2026-08-01T10:00:00Z", "2026-08-01",
        "yes", "No", "null", "~", "0", "08", "0x1f", "1e5", "1.5", "1_000", ".inf", "12:30:45", "<<", "=", "- a",
        "a: b", "a #b", "a:", "a ", " a", "", "#", "!x", "*", "&a", "'", '"', "a'b", "it\n's", "a\tb", "é", "\u2028",
        "x" * 200, "?", "@a", "%", "`", "{", "[a]", "a, b", "|", ">", "---", "...", "--- a", "projectcalico.org/tier",
        "00000000-0000-0000-0000-1", "y", "N", "0o17", "+1", "-1.5E3", "1.", "a\\b",
    )
)  # fmt: skip
TEXT = LIKELY | st.text(max_size=12) | st.text("ab01.:-/# '\"&|=!_T+eéαあ😀\u00a0\u2029", max_size=10)
LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
DATA = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def reference(data: Any) -> str:
    """PyYAML's text, with the quotes that Calico's tool chooses."""
    # One object in two places would become an alias.
    return yamltext._dump(copy.deepcopy(data))


@settings(max_examples=300)
@given(DATA)
def test_it_is_what_pyyaml_writes(data: Any) -> None:
    assert yaml_text(data) == reference(data)
    assert yaml.safe_load(yaml_text(data)) == data


@settings(max_examples=300)
@given(TEXT)
def test_each_text_and_key_is_as_pyyaml_writes_it(text: str) -> None:
    data = [{"a": [{text: {"b": text}}], "c": text}, text]
    assert yaml_text(data) == reference(data)
    assert yaml.safe_load(yaml_text(data)) == data


def test_quotes_are_those_of_calico() -> None:
    quoted = ("7", "08", "1e5", "1.", ".5", "+1", "0x1f", "0o17", "yes", "Off", "y", "null", "~", "12:30", "")
    plain = ("8000:8100", "10.0.0.0/8", "fd00::1", "v3.33.0", "1e5-0", "yes-no", "a b", "has(a) && b == 'c'")
    for text in (*quoted, "2026-08-01T10:00:00Z"):
        assert yaml_text({"a": text}) == f'a: "{text}"\n'
    for text in plain:
        assert yaml_text({"a": text}) == f"a: {text}\n"
    for text in ("a: b", "- a", "!has(a)", "*", "a #b", "{x}"):
        assert yaml_text({"a": text}) == f"a: '{text}'\n"


@settings(max_examples=300)
@given(DATA, st.text("a:# -'\n", max_size=12))
def test_what_was_written_is_read_again(data: Any, lines: str) -> None:
    for wanted in (data, [{"a": [{"b": lines, "c": [lines, data]}], "d": lines}, lines]):
        assert yaml.safe_load(yaml_text(wanted)) == wanted


def test_texts_of_several_lines_stand_below_a_sign() -> None:
    data = {"items": [{"note": "a\n  b: c\n\nd", "x": 1}], "last": ["e\nf\n"]}
    assert yaml_text(data) == ("items:\n- note: |-\n    a\n      b: c\n\n    d\n  x: 1\nlast:\n- |\n  e\n  f\n")


def test_an_unusual_item_is_written_beside_the_others() -> None:
    items = [{"name": "a"}, {"name": "b\u2028c", "spec": {"x": [1]}}, {"name": "d"}]
    for data in (items, {"items": items, "kind": "List"}):
        assert yaml_text(data) == reference(data)


@pytest.mark.parametrize("data", [None, {}, [], "a", 5, {"a": {}, "b": []}])
def test_what_holds_nothing(data: Any) -> None:
    assert yaml_text(data) == reference(data)
