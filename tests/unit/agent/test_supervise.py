"""A component that fails costs itself a restart, and the process nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from calico_node import agent
from calico_node.agent import single_instance, supervise
from calico_node.errors import DatastoreError, SettingsError
from calico_node.health import HealthRegistry
from calico_node.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Hooks:
    def __init__(self, *, broken: bool = False) -> None:
        self.failures: list[tuple[str, str, float]] = []
        self.broken = broken

    def component_failed(self, *, name: str, error: BaseException, delay: float) -> None:
        self.failures.append((name, str(error), delay))
        if self.broken:
            raise RuntimeError("a stranger's mistake")


class Scripted:
    """A component whose lives go as told; the last one lasts."""

    name = "scripted"

    def __init__(self, *lives: Callable[[], Awaitable[None]]) -> None:
        self.lives = list(lives)
        self.lasting = anyio.Event()
        self.cancelled = False

    async def run(self, context: Any) -> None:
        if self.lives:
            return await self.lives.pop(0)()
        self.lasting.set()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def returns() -> None:
    pass


async def raises() -> None:
    raise DatastoreError("out of reach")


async def raises_within_groups() -> None:
    async with anyio.create_task_group() as outer, anyio.create_task_group():
        outer.start_soon(raises)


async def is_cancelled_from_within() -> None:
    forgotten = asyncio.get_running_loop().create_future()
    forgotten.cancel()
    await forgotten


async def through(component: Scripted, hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> HealthRegistry:
    """Supervise until the lasting life, then end everything as SIGTERM does."""
    monkeypatch.setattr(agent, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(agent, "LONGEST_DELAY", 0.003)
    health = HealthRegistry()
    context: Any = SimpleNamespace(health=health, hooks=hooks)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervise, component, context)
            await component.lasting.wait()
            tasks.cancel_scope.cancel()
    assert component.cancelled
    return health


async def test_whatever_ends_a_component_it_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = Hooks()
    component = Scripted(returns, raises, raises_within_groups, is_cancelled_from_within)
    health = await through(component, hooks, monkeypatch)
    names, reasons, delays = zip(*hooks.failures, strict=True)
    assert set(names) == {"scripted"}
    assert reasons[:2] == ("ended by itself", "out of reach")
    assert "cancelled from within" in reasons[3]
    assert delays == (0.001, 0.002, 0.003, 0.003)
    (state,) = health.states()
    assert not state.ready
    assert "cancelled from within" in state.reason


async def test_the_innermost_reason_is_what_health_says(monkeypatch: pytest.MonkeyPatch) -> None:
    health = await through(Scripted(raises_within_groups), Hooks(), monkeypatch)
    (state,) = health.states()
    assert (state.live, state.ready, state.reason) == (True, False, "failed: out of reach")


async def test_a_hook_that_raises_does_not_end_the_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = Hooks(broken=True)
    await through(Scripted(raises, raises), hooks, monkeypatch)
    assert len(hooks.failures) == 2


def settings(tmp_path: Path) -> Settings:
    return Settings.load(
        {"NODENAME": "n1", "CALICO_RUN_DIR": str(tmp_path / "run"), "CALICO_STATE_DIR": str(tmp_path / "state")}
    )


def test_one_process_per_node_name_and_run_directory(tmp_path: Path) -> None:
    with (
        single_instance(settings(tmp_path)),
        pytest.raises(SettingsError, match="another calico-node runs as 'n1'"),
        single_instance(settings(tmp_path)),
    ):
        pass
    with single_instance(settings(tmp_path)):
        pass


def test_a_run_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(SettingsError, match=f"CALICO_RUN_DIR.*{tmp_path}/run"), single_instance(settings(tmp_path)):
        pass
