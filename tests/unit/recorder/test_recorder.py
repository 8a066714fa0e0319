"""The recorder keeps the sum of the messages it was given."""

from __future__ import annotations

import asyncio

import pytest

from calico_node.dataplanes.contract import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    Batch,
    InSync,
    IPPoolRemove,
    IPPoolUpdate,
    IPSetDeltaUpdate,
    IPSetType,
    IPSetUpdate,
    ObjectState,
    WorkloadEndpointID,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_node.dataplanes.recorder.plugin import Recorder
from calico_node.errors import DataplaneError
from calico_node.model import PolicyKey

POLICY = PolicyKey("NetworkPolicy", "default", "web")
ENDPOINT = WorkloadEndpointID("k8s", "default/web", "eth0")


def apply(recorder: Recorder, revision: int, *messages):
    return asyncio.run(recorder.apply(Batch(revision, messages)))


def test_latest_update_of_each_object_is_kept_and_removes_forget_it():
    recorder = Recorder()
    apply(
        recorder,
        7,
        IPSetUpdate("s:1", IPSetType.NET, frozenset({"10.0.0.1/32"})),
        ActivePolicyUpdate(POLICY, "default"),
        WorkloadEndpointUpdate(ENDPOINT, "cali1"),
        IPPoolUpdate("10.0.0.0/16"),
        InSync(),
    )
    applied = apply(
        recorder,
        9,
        IPSetDeltaUpdate("s:1", added=frozenset({"10.0.0.2/32"}), removed=frozenset({"10.0.0.1/32"})),
        WorkloadEndpointUpdate(ENDPOINT, "cali2"),
    )
    assert applied.revision == recorder.revision == 9
    assert applied.status[ENDPOINT].state is ObjectState.UP
    assert recorder.state.in_sync
    assert recorder.state.ip_sets["s:1"].members == {"10.0.0.2/32"}
    assert recorder.state.workload_endpoints[ENDPOINT].name == "cali2"
    apply(recorder, 10, ActivePolicyRemove(POLICY), WorkloadEndpointRemove(ENDPOINT), IPPoolRemove("10.0.0.0/16"))
    assert not recorder.state.policies
    assert not recorder.state.workload_endpoints
    assert not recorder.state.ip_pools
    assert [batch.revision for batch in recorder.batches] == [7, 9, 10]


def test_delta_without_its_set_is_an_error_that_names_it():
    with pytest.raises(DataplaneError, match="ipset/s:x"):
        apply(Recorder(), 1, IPSetDeltaUpdate("s:x", added=frozenset({"10.0.0.1/32"})))
