"""Fields of a newer Calico in stored objects outlive every command that changes such an object."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.calicoctl.conftest import Run
from tests.unit.calicoctl.test_datastore import with_client

POLICY = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web, labels: {a: b}}
spec:
  order: 10
  selector: has(web)
  ingress: [{action: Allow, source: {nets: [10.0.0.0/8]}}, {action: Deny}]
"""
KEY = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/web"
FUTURE = {"x": [1, {"y": None}]}


def read() -> dict[str, Any]:
    stored, _ = with_client(lambda client: client.kv.get(KEY))
    data: dict[str, Any] = json.loads(stored.value)
    return data


def without_known(data: dict[str, Any]) -> dict[str, Any]:
    """What the newer release wrote, at every depth."""
    rule = data["spec"]["ingress"][0]
    return {
        "top": data.get("top"),
        "metadata": data["metadata"].get("inMetadata"),
        "spec": data["spec"].get("inSpec"),
        "rule": rule.get("inRule"),
        "entity": rule["source"].get("inEntity"),
    }


ALL = {"top": FUTURE, "metadata": FUTURE, "spec": FUTURE, "rule": FUTURE, "entity": FUTURE}


@pytest.fixture
def newer(run: Run) -> Run:
    assert run("apply", "-f", "p.yaml", files={"p.yaml": POLICY}).status == 0
    data = read()
    data["top"] = data["metadata"]["inMetadata"] = data["spec"]["inSpec"] = FUTURE
    data["spec"]["ingress"][0]["inRule"] = data["spec"]["ingress"][0]["source"]["inEntity"] = FUTURE
    with_client(lambda client: client.kv.put(KEY, json.dumps(data).encode()))
    return run


@pytest.mark.parametrize("form", ["yaml", "json"])
@pytest.mark.parametrize("verb", ["apply", "replace"])
def test_what_get_shows_can_be_applied(newer: Run, verb: str, form: str) -> None:
    shown = newer("get", "gnp", "web", "-o", form).out
    result = newer(verb, "-f", "again.yaml", files={"again.yaml": shown.replace("10.0.0.0/8", "10.9.0.0/16")})
    assert (result.err, result.status) == ("", 0)
    assert read()["spec"]["ingress"][0]["source"]["nets"] == ["10.9.0.0/16"]
    assert without_known(read()) == ALL


def test_a_rule_put_before_those_of_the_newer_release(newer: Run) -> None:
    data = json.loads(newer("get", "gnp", "web", "-o", "json").out)
    data["spec"]["ingress"].insert(0, {"action": "Log"})
    assert newer("apply", "-f", "p.json", files={"p.json": json.dumps(data)}).status == 0
    assert [rule.get("inRule") for rule in read()["spec"]["ingress"]] == [None, FUTURE, None]


def test_patch_and_label(newer: Run) -> None:
    assert newer("patch", "gnp", "web", "-p", '{"spec": {"order": 5}}').status == 0
    assert newer("label", "gnp", "web", "c=d").status == 0
    assert newer("label", "gnp", "web", "a", "--remove").status == 0
    data = read()
    assert (data["spec"]["order"], data["metadata"]["labels"]["c"]) == (5, "d")
    assert without_known(data) == ALL
    refused = newer("patch", "gnp", "web", "-p", '{"spec": {"inSpeck": 5}}')
    assert refused.status == 1
    assert "spec.inSpeck: field in document is not recognized" in refused.err


def test_a_document_of_the_users_own_replaces_all_of_it(newer: Run) -> None:
    assert newer("apply", "-f", "p.yaml").status == 0
    assert without_known(read()) == {**dict.fromkeys(ALL), "metadata": FUTURE}


def test_an_unknown_field_that_is_not_stored_is_refused_and_nothing_done(newer: Run) -> None:
    shown = json.loads(newer("get", "gnp", "web", "-o", "json").out)
    shown["spec"]["odrer"] = 5
    other = POLICY.replace("name: web", "name: other")
    before = read()
    for verb in ("apply", "replace"):
        refused = newer(verb, "-f", "p", files={"p": f"{other}---\n{json.dumps(shown)}"})
        assert refused.status == 1
        assert "document 2" in refused.err
        assert "spec.odrer: field in document is not recognized" in refused.err
    assert newer("get", "gnp", "other").status == 1
    assert read() == before
    gone = json.dumps({**shown, "metadata": {**shown["metadata"], "name": "gone"}})
    assert "not recognized" in newer("apply", "-f", "p", files={"p": gone}).err
    typed = POLICY.replace("order", "inSpec")
    assert "spec.inSpec: field in document" in newer("apply", "-f", "p", files={"p": typed}).err
