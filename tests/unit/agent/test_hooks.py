"""Components that answer hooks."""

from __future__ import annotations

from typing import Any

from calico_node.agent import load_hooks, register_components
from calico_node.hookspecs import AgentContext, hookimpl


class Speaking:
    name = "speaking"
    found: Any = None

    async def run(self, context: AgentContext) -> None: ...

    @hookimpl
    def bgp_speakers(self) -> Any:
        return self.found


class Misfit:
    name = "misfit"

    async def run(self, context: AgentContext) -> None: ...

    @hookimpl
    def bgp_speakers(self, what: int) -> Any:
        return {}


class Silent:
    name = "silent"

    async def run(self, context: AgentContext) -> None: ...


def test_a_component_answers_for_what_it_knows() -> None:
    manager, component = load_hooks(), Speaking()
    register_components(manager, [Silent(), component])
    assert manager.hook.bgp_speakers() is None
    component.found = {4: "speaker"}
    assert manager.hook.bgp_speakers() == {4: "speaker"}


def test_a_hook_that_does_not_fit_costs_only_itself() -> None:
    manager, component = load_hooks(), Speaking()
    component.found = {4: "speaker"}
    register_components(manager, [Misfit(), component])
    assert manager.hook.bgp_speakers() == {4: "speaker"}
