"""YAML and JSON files: several documents, lists, places of faults, and texts that mean harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.errors import ValidationError
from calico_node.resources import expand_lists, load_documents, load_resources

POLICIES = """\
# Two policies
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: one
  namespace: prod
spec:
  selector: |
    app == 'web'
  order: 10
---
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: two}
spec:
  ingress:
    - action: Allow
    - action: Allow
      source:
        net: []
"""


def test_documents_know_their_number_line_and_every_place_in_them() -> None:
    first, second = load_documents(POLICIES, "p.yaml")
    assert (first.index, first.line, second.index, second.line) == (1, 2, 3, 13)
    assert first.data["spec"] == {"selector": "app == 'web'", "order": 10}
    assert first.line_of("metadata.namespace") == 6
    assert first.line_of("spec.missing.deeper") == 8
    assert second.line_of("spec.ingress[1].source.net") == 21
    assert second.origin("spec.ingress[1]") == "p.yaml, document 3, line 19"
    assert second.origin() == "p.yaml, document 3, line 13"


def test_a_fault_names_file_document_line_resource_field_and_reason() -> None:
    _, second = load_documents(POLICIES, "p.yaml")
    with pytest.raises(ValidationError) as caught:
        second.resource()
    assert str(caught.value) == (
        "p.yaml, document 3, line 21: NetworkPolicy(two): spec.ingress[1].source.net: "
        "field in document is not recognized or is in the wrong location (did you mean nets?)"
    )


@pytest.mark.parametrize("kind", ["List", "IPPoolList"])
def test_lists_are_their_items(kind: str) -> None:
    version = "v1" if kind == "List" else "projectcalico.org/v3"
    items = [
        {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name}, "spec": {"cidr": cidr}}
        for name, cidr in (("a", "10.0.0.0/16"), ("b", "10.1.0.0/16"))
    ]
    text = json.dumps({"apiVersion": version, "kind": kind, "items": items}, indent=1)
    resources = load_resources(text, "pools.json")
    assert [resource.metadata.name for resource, _ in resources] == ["a", "b"]
    assert [document.line for _, document in resources] == [5, 15]
    bare = load_resources(json.dumps(items), "pools.json")
    assert [resource for resource, _ in bare] == [resource for resource, _ in resources]


def test_items_of_a_typed_list_may_leave_out_its_kind() -> None:
    text = "{apiVersion: projectcalico.org/v3, kind: TierList, items: [{metadata: {name: t}}]}"
    ((tier, _),) = load_resources(text, "t")
    assert (tier.kind, tier.metadata.name) == ("Tier", "t")
    with pytest.raises(ValidationError, match=r"t, document 1, line 1: TierList: items = 5: must be a list"):
        load_resources("{apiVersion: projectcalico.org/v3, kind: TierList, items: 5}", "t")


def test_values_are_those_that_kubernetes_tools_read() -> None:
    text = """\
bools: [true, No, "yes"]
numbers: [1, -2, 0x1f, 0o17, 017, 1_000, 1.5, 1e3, "1"]
time: 2026-08-01T10:00:00Z
date: 2026-08-01
empty: [~, null, ""]
base: &base {a: 1, b: 2}
derived: {<<: *base, b: 3}
8: key
on: true
selector: "  has(a)\\n"
notes: |
  text
"""
    (document,) = load_documents(text, "v")
    assert document.data == {
        "bools": [True, False, "yes"],
        "numbers": [1, -2, 31, "0o17", 15, 1000, 1.5, "1e3", "1"],
        "time": "2026-08-01T10:00:00Z",
        "date": "2026-08-01",
        "empty": [None, None, ""],
        "base": {"a": 1, "b": 2},
        "derived": {"a": 1, "b": 3},
        "8": "key",
        "on": True,
        "selector": "has(a)",
        "notes": "text\n",
    }


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
# Maps that hold nothing but merges of each other have no values to count.
MERGE_BOMB = "a: &a {}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 10)}]}}\n" for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
ALIAS_TOWER = "a0: &a0 []\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [1", r"f, line 2, column 1: malformed YAML"),
        ("a: b: c", r"f, line 1, column 5: malformed YAML: mapping values are not allowed"),
        ("a: 1\nb: 2\na: 3\n", r"f, document 1, line 3, column 1: key 'a' is given twice"),
        ("x: 1\n---\n{[a]: 1}", r"document 2, line 3, column 2: a map key must be text"),
        ("a: !!python/object:os.system x", r"tag .* is not supported"),
        ("a: *b", "undefined alias"),
        ("a: &a [*a]", "levels deep"),
        ("a: &a {<<: *a}", "nested too deeply"),
        ("a: .inf", "not a number that JSON can hold"),
        ("a: 12:30:45", "put in quotes"),
        ("a: 0b", "malformed|not a number"),
        ("<<: 5", "only a map can be merged"),
        ("[" * 100_000, "levels deep"),
        ("- " * 100_000, "levels deep"),
        ("{a: " * 5_000, "levels deep"),
        (BOMB, "aliases make it more than"),
        (MERGE_BOMB, "aliases make it more than"),
        (ALIAS_TOWER, "levels deep"),
        ("a: 1.0e+999", "not a number that JSON can hold"),
        (b"a: \xff", "malformed YAML: 'utf-8' codec"),
        ("a: \x00", "malformed YAML"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_malformed_texts_are_refused_with_their_place(text: str | bytes, reason: str) -> None:
    if text == "a: 0b":
        assert load_documents(text, "f")[0].data == {"a": "0b"}
        return
    with pytest.raises(ValidationError, match=reason) as caught:
        load_documents(text, "f")
    assert str(caught.value).startswith("f")


PIECES = st.sampled_from(
    [*"{}[]:,-&*!|>'\"#%@`?~ \n\t", "a", "- ", ": ", "---\n", "&x ", "*x", "<<", "1", "kind", "\ufeff"]
)


@settings(max_examples=400)
@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=30).map("".join), st.binary(max_size=30)))
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    try:
        documents = list(expand_lists(load_documents(text, "any")))
    except ValidationError as error:
        if "any" not in str(error):
            raise
        return
    for document in documents:
        json.dumps(document.data, allow_nan=False)
        with pytest.raises(ValidationError):
            document.resource()


KEYS = st.sampled_from(["a", "b", "selector", "x-y"])
DATA = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.sampled_from(["", "x", "1", "yes", "has(a)", "é"])
    ),
    lambda children: st.one_of(st.lists(children, max_size=3), st.dictionaries(KEYS, children, max_size=3)),
    max_leaves=12,
)


@given(DATA)
def test_json_is_read_as_json(data: object) -> None:
    documents = load_documents(json.dumps(data), "j")
    assert [document.data for document in documents] == ([] if data is None else [data])
