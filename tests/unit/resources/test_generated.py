"""Generated readers and checkers give what the general ones give, for sound objects and for any others."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import orjson
import pytest
from attrs import fields
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.errors import ValidationError
from calico_node.resources import KINDS, decode, readers
from calico_node.resources.endpoint_names import WorkloadEndpointName, parse_workload_endpoint_name
from calico_node.resources.fields import Fault, Struct
from calico_node.resources.readers import FEW, read_stored, reader
from calico_node.resources.structure import plan_of, read_struct
from calico_node.resources.validation import check_struct, checker, is_sound
from tests.benchmarks.fuzz_documents import LEAVES, Mutator
from tests.unit.resources.samples import DOCUMENTS
from tests.unit.resources.test_samples import FUTURE, IDS, objects
from tests.unit.resources.test_structure import members


def body(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in ("kind", "apiVersion")}


def exactly(value: Any) -> Any:
    """``value`` with the types of all parts, and what ``==`` does not look at."""
    if isinstance(value, Struct):
        members = [(field.name, exactly(getattr(value, field.name))) for field in fields(type(value))]
        return type(value), members
    if isinstance(value, dict):
        return dict, [(key, exactly(item)) for key, item in value.items()]
    return type(value), [exactly(item) for item in value] if isinstance(value, list) else repr(value)


def outcome(call: Any) -> Any:
    try:
        return exactly(call())
    except Fault as fault:
        return fault.path, fault.reason, repr(fault.value)
    except Exception as error:
        return type(error)


def check(cls: type[Struct], data: Any) -> None:
    """Read and check ``data`` both ways."""
    reader(cls), checker(cls)
    assert outcome(lambda: read_stored(cls, data)) == outcome(lambda: read_struct(cls, data, False))
    try:
        value = read_struct(cls, data, False)
        sound = is_sound(value)
    except Exception:  # as the general reader or check does, too
        return
    if sound:
        check_struct(value)


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_the_generated_way_is_taken_for_what_is_sound(document: dict[str, Any], monkeypatch: Any) -> None:
    cls = KINDS[document["kind"]].cls
    reader(cls), checker(cls)
    read = read_stored(cls, body(document))
    assert exactly(read) == exactly(read_struct(cls, body(document), False))
    monkeypatch.setattr(readers, "read_struct", None)
    again = read_stored(cls, body(document))
    for name, value in FUTURE.items():
        again = read_stored(cls, {**body(document), name: value})
        assert again.extra == {name: value}
    plain = {plan.attribute for part, _ in objects(cls, body(document)) for plan in plan_of(part).values()
             if plan.member.shape is not None}  # fmt: skip
    assert is_sound(again) or plain


def test_what_is_read_shares_no_container_with_its_document() -> None:
    document = next(document for document in DOCUMENTS if document["kind"] == "WorkloadEndpoint")
    before = json.dumps(document)
    resource: Any = read_stored(KINDS["WorkloadEndpoint"].cls, body(document))
    resource.metadata.labels["changed"] = resource.metadata.annotations["changed"] = "yes"
    resource.spec.ip_networks.append("10.0.0.1/32")
    resource.spec.profiles.append("changed")
    assert json.dumps(document) == before


def test_any_mutated_document_is_read_and_checked_alike() -> None:
    mutator = Mutator(seed=5)
    for _ in range(1500):
        document = mutator.document()
        kind = document.get("kind")
        check(KINDS[kind if isinstance(kind, str) and kind in KINDS else "WorkloadEndpoint"].cls, body(document))


def test_any_value_at_any_field_is_read_and_checked_alike() -> None:
    mutator = Mutator(seed=6)
    for kind, path in LEAVES:
        for _ in range(2):
            check(KINDS[kind].cls, body(mutator.attacked(kind, path)))


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_documents_of_right_types_are_read_and_checked_alike(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    document = {"metadata": {"name": "a", "namespace": "b"}, **data.draw(members(KINDS[kind].cls))}
    check(KINDS[kind].cls, document)


SEGMENTS = st.text("a-\x00.", max_size=4)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text("a-", max_size=14), st.lists(SEGMENTS, min_size=3, max_size=5).map("-".join)))
def test_an_endpoints_name_is_taken_apart_from_the_left(name: str) -> None:
    parts, at = [""], 0
    while at < len(name):
        if name.startswith("--", at):
            parts[-1] += "-"
            at += 2
        elif name[at] == "-":
            parts.append("")
            at += 1
        else:
            parts[-1] += name[at]
            at += 1
    sound = len(parts) == 4 and all(part and part[0] != "-" and part[-1] != "-" for part in parts)
    try:
        assert parse_workload_endpoint_name(name) == WorkloadEndpointName(*parts)
        assert sound
    except ValidationError:
        assert not sound


def test_a_stored_document_is_not_changed_by_being_read() -> None:
    stored = orjson.loads(orjson.dumps(DOCUMENTS[0]))
    before = copy.deepcopy(stored)
    decode(stored["kind"], stored)
    assert stored == before


def test_a_function_is_generated_for_classes_of_many_objects_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_READERS", {})
    monkeypatch.setattr(readers, "_FIRST", Counter())
    document = next(document for document in DOCUMENTS if document["kind"] == "Tier")
    cls = KINDS["Tier"].cls
    for _ in range(FEW):
        read_stored(cls, body(document))
    assert not readers._READERS
    read_stored(cls, body(document))
    assert cls in readers._READERS
