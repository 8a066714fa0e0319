"""CalicoNodeStatus in a lab: what a real node says of its BGP speaker, seen with calicoctl."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.kernel.lab.conftest import LabCommand
from tests.kernel.lab.test_etcd import CALICOCTL, outside, until
from tests.kernel.lab.test_lab import APP

OBJECT = """
apiVersion: projectcalico.org/v3
kind: CalicoNodeStatus
metadata: {name: s}
spec: {node: n1, classes: [Agent, BGP, Routes], updatePeriodSeconds: 1}
"""
DAY_AND_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


@pytest.fixture
def up(lab: LabCommand) -> Iterator[LabCommand]:
    file = lab.runtime / "app.yaml"
    file.write_text(APP)
    lab.ok("up", "--datastore", "etcd", "-f", str(file))
    yield lab
    lab.ok("down")


def calicoctl(lab: LabCommand, arguments: str) -> str:
    done = outside(lab, f"{CALICOCTL} {arguments}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(lab: LabCommand) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(calicoctl(lab, "get caliconodestatus s -o yaml"))["status"]
    return found


def test_a_node_reports_its_daemon_its_sessions_and_its_routes(up: LabCommand) -> None:
    file = up.runtime / "status.yaml"
    file.write_text(OBJECT)
    calicoctl(up, f"apply -f {file}")
    until(lambda: status(up)["lastUpdated"])
    addresses = {n["name"]: n["address"].partition("/")[0] for n in json.loads(up.ok("status", "--json"))["nodes"]}

    found = status(up)
    daemon = found["agent"]["birdV4"]
    assert (daemon["state"], daemon["routerID"]) == ("Ready", addresses["n1"])
    assert DAY_AND_TIME.fullmatch(daemon["lastBootTime"])
    assert DAY_AND_TIME.fullmatch(daemon["lastReconfigurationTime"])
    assert (found["bgp"]["numberEstablishedV4"], found["bgp"]["numberNotEstablishedV4"]) == (1, 0)
    peer = found["bgp"]["peersV4"][0]
    assert (peer["peerIP"], peer["type"], peer["state"]) == (addresses["n2"], "NodeMesh", "Established")

    learned = [r for r in found["routes"]["routesV4"] if r["learnedFrom"].get("peerIP") == addresses["n2"]]
    assert {(r["type"], r["gateway"], r["learnedFrom"]["sourceType"]) for r in learned} == {
        ("FIB", addresses["n2"], "NodeMesh")
    }
    kernel = up.ok("node", "n1", "--", "ip", "route", "show", "proto", "bird")
    for route in learned:
        assert f"{route['destination']} via {route['gateway']} dev {route['interface']}" in kernel
    assert {r["interface"] for r in found["routes"]["routesV4"] if r["learnedFrom"]["sourceType"] == "Static"} == {
        "blackhole"
    }

    # The other node's agent goes and comes back while the datastore is locked: that is told once it is unlocked.
    calicoctl(up, "datastore migrate lock")
    before = status(up)
    up.ok("restart", "n2", "--kill")
    assert status(up) == before
    calicoctl(up, "datastore migrate unlock")
    until(lambda: status(up)["bgp"]["peersV4"] != before["bgp"]["peersV4"])
    calicoctl(up, "delete caliconodestatus s")
    time.sleep(1.5)
    assert outside(up, f"{CALICOCTL} get caliconodestatus s").returncode != 0
