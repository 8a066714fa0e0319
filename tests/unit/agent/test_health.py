"""What the health registry shows of components."""

from __future__ import annotations

import asyncio

from aiohttp.test_utils import make_mocked_request

from calico_node.health import HealthRegistry
from calico_node.plugins.health.component import _metrics, table


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_component_is_ready_only_once_it_says_so() -> None:
    registry = HealthRegistry(Clock())
    reporter = registry.reporter("felix")
    assert [state.ready for state in registry.states()] == [False]
    reporter.report(revision=7)
    assert [(state.ready, state.revision) for state in registry.states()] == [(True, 7)]


def test_silence_beyond_the_promised_time_counts_as_dead() -> None:
    clock = Clock()
    registry = HealthRegistry(clock)
    registry.reporter("graph", timeout=30).report()
    clock.now += 29
    assert registry.states()[0].live
    clock.now += 2
    state = registry.states()[0]
    assert not state.live
    assert not state.ready
    assert "30 s" in state.reason


def test_a_restarted_component_begins_not_ready() -> None:
    registry = HealthRegistry(Clock())
    registry.reporter("bgp").report()
    registry.reporter("bgp")
    assert not registry.states()[0].ready


def test_the_table_names_what_was_rejected() -> None:
    registry = HealthRegistry(Clock())
    registry.reporter("felix").report(revision=12, rejected={"NetworkPolicy(a/b)": "bad selector"})
    registry.reporter("bgp").report(ready=False, reason="session with 10.0.0.2 is Idle")
    shown = table(registry.states(), readiness=True)
    assert "NetworkPolicy(a/b): bad selector" in shown
    assert "session with 10.0.0.2 is Idle" in shown
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [["bgp", "NO"], ["felix", "yes"]]


def test_the_metrics_count_what_each_component_rejects() -> None:
    async def scenario() -> str:
        registry = HealthRegistry(Clock())
        registry.reporter("ipam").report(rejected={"IPPool(a)": "is bad", "IPPool(b)": "is bad"})
        registry.reporter("cni").report()
        response = await _metrics(registry)(make_mocked_request("GET", "/metrics"))
        assert isinstance(response.body, bytes)
        return response.body.decode()

    text = asyncio.run(scenario())
    assert 'calico_node_rejected_objects{component="ipam"} 2.0' in text
    assert 'calico_node_rejected_objects{component="cni"} 0.0' in text
