"""Every example in a lab of its own, against its own expectations."""

import json
from pathlib import Path

import pytest

from calico_node.lab.probes import parse_expectations
from tests.kernel.lab.conftest import EXAMPLES, LabCommand

BOOKINFO = EXAMPLES / "bookinfo"


@pytest.mark.parametrize(
    ("files", "expect"),
    [
        ([EXAMPLES / "bookinfo"], BOOKINFO),
        ([BOOKINFO / "app.yaml", BOOKINFO / "lab.yaml", BOOKINFO / "kubernetes"], BOOKINFO),
        ([EXAMPLES / "tiers"], EXAMPLES / "tiers"),
        ([EXAMPLES / "default-deny"], EXAMPLES / "default-deny"),
    ],
    ids=["bookinfo", "bookinfo-kubernetes", "tiers", "default-deny"],
)
def test_expectations_hold(lab: LabCommand, files: list[Path], expect: Path) -> None:
    arguments = [argument for file in files for argument in ("-f", str(file))]
    output = lab.ok("run", *arguments, "--expect", str(expect / "expect.yaml"), "--json")
    answers = json.loads(output)
    expected = parse_expectations((expect / "expect.yaml").read_text(), "expect.yaml")
    by_pair = {(a["from"], a["to"], a["protocol"], a.get("port")): a["allowed"] for a in answers}
    checked = [e for e in expected if (e.probe.source, e.probe.target, e.probe.protocol, e.probe.port) in by_pair]
    assert checked, "names of the expectations appear in the output"
    for item in checked:
        assert by_pair[item.probe.source, item.probe.target, item.probe.protocol, item.probe.port] == item.allowed
    lab.wait_gone()


def test_bookinfo_is_open_before_its_policies(lab: LabCommand) -> None:
    output = lab.ok("run", "-f", str(BOOKINFO / "app.yaml"), "-f", str(BOOKINFO / "lab.yaml"), "--json")
    answers = json.loads(output)
    assert len(answers) > 80
    assert [answer for answer in answers if not answer["allowed"]] == []


def test_a_person_sees_before_after_and_the_verdict(lab: LabCommand) -> None:
    output = lab.ok("run", "-f", str(EXAMPLES / "tiers"), "--expect", str(EXAMPLES / "tiers" / "expect.yaml"))
    assert "before the policies" in output
    assert "after the policies" in output
    assert "expectations hold" in output


def test_a_wrong_expectation_is_exit_status_1_and_named(lab: LabCommand, tmp_path: Path) -> None:
    expect = tmp_path / "expect.yaml"
    expect.write_text("[{from: default/visitor, to: shop/db, port: 5432, allowed: true}]")
    done = lab.run("run", "-f", str(EXAMPLES / "tiers"), "--expect", str(expect), "--json")
    assert done.returncode == 1
    assert "default/visitor -> shop/db TCP 5432: expected allowed, was denied" in done.stderr
    json.loads(done.stdout)
    lab.wait_gone()
