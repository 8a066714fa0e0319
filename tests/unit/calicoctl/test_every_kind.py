"""What ``get`` prints of one resource of every kind: both tables, YAML and JSON; and all names of the kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from calico_node.calicoctl import tables
from calico_node.resources import KINDS, apply_defaults
from calico_node.resources import from_dict as read
from tests.unit.calicoctl.conftest import Run

GOLDEN = yaml.safe_load(Path(__file__).with_name("kinds.yaml").read_text())
"""By kind: metadata and spec as applied, and the two tables."""
KNOWN = [info.kind for info in KINDS.values() if info.names]


def test_every_kind_has_its_golden() -> None:
    assert {*GOLDEN, "ClusterInformation"} == set(KNOWN)


@pytest.mark.parametrize("kind", GOLDEN)
def test_every_form(run: Run, kind: str) -> None:
    golden = GOLDEN[kind]
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        **{part: golden[part] for part in ("metadata", "spec")},
    }
    applied = run("apply", "-f", "one.json", files={"one.json": json.dumps(document)})
    assert (applied.out, applied.err) == (f"Successfully applied 1 '{kind}' resource(s)\n", "")
    name = golden["metadata"]["name"]
    where = ("-n", "default") if KINDS[kind].namespaced else ()
    assert run("get", kind, name).out == golden["default"]
    assert run("get", kind.upper(), name, "-o", "wide").out == golden["wide"]
    if where:
        assert run("get", kind, name, *where).lines()[0][0] == "NAMESPACE"
    one = json.loads(run("get", kind, name, "-o", "json").out)
    assert list(one)[:3] == ["kind", "apiVersion", "metadata"]
    assert one["spec"].keys() >= golden["spec"].keys()
    assert yaml.safe_load(run("get", kind, name, "-o", "yaml").out) == one
    listed = json.loads(run("get", kind, "-o", "json").out)
    assert listed["kind"] == f"{kind}List"
    assert one in listed["items"]
    exported = json.loads(run("get", kind, name, "-o", "json", "--export").out)["metadata"]
    assert not exported.keys() & {"uid", "resourceVersion", "creationTimestamp", "namespace"}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_resource_without_anything_has_its_cells(kind: str) -> None:
    resource = read({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "x"}})
    apply_defaults(resource)
    head, row = tables.table(kind, [resource], tables.headings(kind, wide=True)).splitlines()[:2]
    assert len(head) == len(row)


@pytest.mark.parametrize("kind", KNOWN)
def test_every_alias_in_any_case(run: Run, kind: str) -> None:
    for alias in KINDS[kind].names:
        assert json.loads(run("get", alias.title(), "-o", "json").out)["kind"] == f"{kind}List"
