"""Every field of every kind, all at once: accepted, stored, and surrounded by fields that are not known here."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.errors import ValidationError
from calico_node.resources import KINDS, apply_defaults, decode, encode, from_dict, to_dict, validate
from calico_node.resources.fields import Struct
from calico_node.resources.structure import plan_of
from tests.unit.resources.samples import DOCUMENTS

IDS = [f"{document['kind']}-{index}" for index, document in enumerate(DOCUMENTS)]


def objects(cls: type[Struct], data: dict[str, Any]) -> Iterator[tuple[type[Struct], dict[str, Any]]]:
    """Every JSON object of a document that a class describes, with that class."""
    yield cls, data
    for name, plan in plan_of(cls).items():
        below = plan.element or plan.member.shape
        value = data.get(name)
        if below is None or not value:
            continue
        values = value if isinstance(value, list) else [value]
        for item in values:
            yield from objects(below, item)


def classes(cls: type[Struct]) -> Iterator[type[Struct]]:
    yield cls
    for plan in plan_of(cls).values():
        below = plan.element or plan.member.shape
        if below is not None:
            yield from classes(below)


def test_the_samples_have_every_field_of_every_class() -> None:
    given_names: dict[type[Struct], set[str]] = defaultdict(set)
    for data in DOCUMENTS:
        for cls, part in objects(KINDS[data["kind"]].cls, data):
            given_names[cls] |= set(part)
    for info in KINDS.values():
        for cls in classes(info.cls):
            assert set(plan_of(cls)) <= given_names[cls], cls


@pytest.mark.parametrize("data", DOCUMENTS, ids=IDS)
def test_a_sample_is_valid_and_reads_back_from_what_is_stored(data: dict[str, Any]) -> None:
    resource = from_dict(copy.deepcopy(data))
    apply_defaults(resource)
    validate(resource)
    stored = encode(resource)
    again = decode(data["kind"], stored)
    assert again == resource
    assert encode(again) == stored
    apply_defaults(again)
    validate(again)
    assert encode(again) == stored
    assert list(to_dict(resource))[:4] == ["kind", "apiVersion", "metadata", "spec"]


FUTURE: dict[str, Any] = {
    "futureField": {"z": [1, None, {"&": "<\u2028é\U0001f600>"}], "a": 2**64 - 1, "b": -(2**63), "c": 1.5, "d": None},
    "futureNull": None,
    "futureFlag": False,
    "futureList": [],
}


def find(container: Any, value: Any) -> int:
    """How many objects below ``container`` hold all the members of ``value``."""
    if isinstance(container, dict):
        own = value.items() <= container.items() if all(name in container for name in value) else False
        return own + sum(find(item, value) for name, item in container.items() if name not in value)
    return sum(find(item, value) for item in container) if isinstance(container, list) else 0


@pytest.mark.parametrize("data", DOCUMENTS, ids=IDS)
def test_fields_of_a_newer_calico_survive_a_read_modify_write_at_every_level(data: dict[str, Any]) -> None:
    stored = copy.deepcopy(data)
    places = [part for _, part in objects(KINDS[data["kind"]].cls, stored)]
    for part in places:
        part.update(copy.deepcopy(FUTURE))
    with pytest.raises(ValidationError, match="not recognized"):
        from_dict(stored)
    resource = decode(data["kind"], json.dumps(stored).encode())
    resource.metadata.labels["changed"] = "yes"
    apply_defaults(resource)
    validate(resource)
    written = json.loads(encode(resource))
    assert find(written, FUTURE) == find(stored, FUTURE) >= 3
    assert written["metadata"]["labels"]["changed"] == "yes"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc&<é"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.data())
def test_any_unknown_json_anywhere_is_written_back_exactly(data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(DOCUMENTS)))
    part = data.draw(st.sampled_from([part for _, part in objects(KINDS[document["kind"]].cls, document)]))
    unknown = data.draw(JSON)
    name = "x-" + data.draw(st.text("abc&<>é\u2028"))
    part[name] = unknown
    before = find(document, {name: unknown})
    resource = decode(document["kind"], json.dumps(document, ensure_ascii=False).encode())
    written = json.loads(encode(resource))
    assert find(written, {name: unknown}) == before
    assert encode(decode(document["kind"], encode(resource))) == encode(resource)
