"""The process: plugins become components under one supervised task group.

A component that fails is restarted with back-off and reported unhealthy while the others go on.  Cancellation
(SIGTERM) ends the components and leaves the kernel's state in place.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import anyio
import pluggy
import structlog

from calico_node import hookspecs, startup
from calico_node.contact import watch_datastore
from calico_node.dataplanes.contract import CONTRACT_VERSION, PolicyDataplane
from calico_node.dataplanes.linux_adapters import LinuxPodWiring, LinuxRouteSink
from calico_node.datastores import open_client
from calico_node.entrypoints import find, offers
from calico_node.errors import CalicoError, PluginError, SettingsError
from calico_node.health import HealthRegistry
from calico_node.hookspecs import AgentContext, Component
from calico_node.settings import Settings

log = structlog.get_logger("agent")

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
GOOD_RUN = 60.0
"""Seconds: back-off doubles from the first to the longest; a run this long starts it anew."""


@contextmanager
def single_instance(settings: Settings) -> Iterator[None]:
    """Hold the lock of this node name in this run directory.

    Raises ``SettingsError`` when another process does, or when the run or state directory cannot be made.
    """
    path = settings.run_dir / f"calico-node-{settings.node_name}.lock"
    try:
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(
            f"CALICO_RUN_DIR and CALICO_STATE_DIR must be folders this process can write: {error}"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"another calico-node runs as {settings.node_name!r} with CALICO_RUN_DIR {settings.run_dir}"
            ) from None
        yield
    finally:
        os.close(descriptor)


def load_hooks() -> pluggy.PluginManager:
    """All ``hooks.*`` plugins; one that fails to load is reported and skipped."""
    manager = pluggy.PluginManager("calico_node")
    manager.add_hookspecs(hookspecs)
    for offer in offers("hooks"):
        try:
            manager.register(offer.load(), f"{offer.package}:{offer.name}")
        except Exception as error:
            log.error("hooks plugin skipped", plugin=offer.name, package=offer.package, error=str(error))
    return manager


def register_components(manager: pluggy.PluginManager, components: Sequence[Component]) -> None:
    """Let components answer hooks; one whose hooks do not fit their specification runs without them."""
    for component in components:
        try:
            manager.register(component, f"component:{component.name}")
        except Exception as error:
            log.error("a component's hooks are left out", component=component.name, error=str(error))


def load_components(settings: Settings) -> list[Component]:
    """The selected components, constructed.  Raises ``PluginError`` with the name of one that cannot be."""
    wanted = list(settings.components)
    if settings.health_enabled and "health" not in wanted:
        wanted.append("health")
    components: list[Component] = []
    for name in wanted:
        offer = find("component", name)
        try:
            components.append(offer.load()())
        except PluginError:
            raise
        except Exception as error:
            raise PluginError(f"component {name} of package {offer.package} could not be made: {error}") from error
    return components


def dataplane_maker(settings: Settings) -> Callable[[AgentContext], PolicyDataplane]:
    """The selected dataplane's factory, with its contract version checked at each making."""
    offer = find("dataplane", settings.dataplane)
    factory = offer.load()

    def make(context: AgentContext) -> PolicyDataplane:
        dataplane: PolicyDataplane = factory(context)
        version = getattr(dataplane, "contract_version", None)
        if version != CONTRACT_VERSION:
            raise PluginError(
                f"dataplane {offer.name} of package {offer.package} is made for contract version {version}; "
                f"this calico-node has {CONTRACT_VERSION}"
            )
        return dataplane

    return make


def innermost(error: BaseException) -> BaseException:
    """The first real error of a task group's nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def supervise(component: Component, context: AgentContext) -> None:
    """Run ``component`` for ever: restart it with back-off whenever it raises or returns."""
    delay = FIRST_DELAY
    while True:
        started = time.monotonic()
        try:
            await component.run(context)
            failure: Exception = CalicoError("ended by itself")
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling() > 0 or anyio.current_effective_deadline() == -math.inf:
                raise
            # Nobody asked for it: something inside was cancelled and let it through.  It must not end the process.
            failure = CalicoError(f"was cancelled from within: {error!r}")
        except Exception as error:
            failure = error
        if time.monotonic() - started > GOOD_RUN:
            delay = FIRST_DELAY
        cause = innermost(failure)
        known = isinstance(cause, CalicoError)
        text = str(cause) if known else f"{type(cause).__name__}: {cause}"
        log.error(
            "component failed",
            component=component.name,
            error=text,
            retry_in=delay,
            exc_info=None if known else failure,
        )
        context.health.reporter(component.name).report(live=True, ready=False, reason=f"failed: {text}")
        try:
            context.hooks.component_failed(name=component.name, error=failure, delay=delay)
        except Exception as error:
            log.error("the component_failed hook of a plugin failed", error=str(error))
        await anyio.sleep(delay)
        delay = min(delay * 2, LONGEST_DELAY)


async def _freeze_when_ready(health: HealthRegistry) -> None:
    """Take the start-up objects out of the collector's sight once all is ready: almost none of them is garbage."""
    while not all(state.ready for state in health.states()):  # noqa: ASYNC110 (the registry is pure: polled)
        await anyio.sleep(1)
    gc.collect(1)  # a full one over 100,000 endpoints takes 0.4 s; what little garbage it would find is frozen too
    gc.freeze()


async def _until_signalled(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("stopping; kernel state stays in place", signal=signal.Signals(number).name)
            scope.cancel()
            return


async def run(settings: Settings) -> None:
    """Run the node until SIGTERM or SIGINT.  Raises ``CalicoError`` when it cannot start."""
    # A full collection over a cluster's endpoints would stall the loop, and so does one of the middle generation
    # where it is let grow: 40 ms after 200,000 objects, 8 ms after 25,000.
    gc.set_threshold(5_000, 5, 1_000_000)
    log.info("datastore", type=settings.datastore_type, because=settings.datastore_reason, node=settings.node_name)
    manager = load_hooks()
    components = load_components(settings)
    register_components(manager, components)
    make_dataplane = dataplane_maker(settings)
    health = HealthRegistry()
    with single_instance(settings):
        async with (
            open_client(settings) as client,
            LinuxRouteSink() as route_sink,
            anyio.create_task_group() as tasks,
        ):
            context = AgentContext(
                settings=settings,
                client=client,
                health=health,
                hooks=manager.hook,
                route_sink=route_sink,
                pod_wiring=LinuxPodWiring(),
                make_dataplane=lambda: make_dataplane(context),
            )
            tasks.start_soon(_until_signalled, tasks.cancel_scope)
            for component in components:
                if component.name == "health":
                    tasks.start_soon(supervise, component, context)
            await startup.prepare_node(context)
            for component in components:
                if component.name != "health":
                    health.reporter(component.name).report(ready=False, reason="is starting")
                    tasks.start_soon(supervise, component, context)
            tasks.start_soon(startup.watch_own_node, context)
            tasks.start_soon(watch_datastore, client, health.reporter("datastore"))
            tasks.start_soon(_freeze_when_ready, health)
