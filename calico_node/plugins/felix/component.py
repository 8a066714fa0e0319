"""The component ``felix``: drives the calculation graph from the syncer and the dataplane from the graph.

One task owns graph and dataplane.  It takes what the syncer and the kernel's interfaces have, lets the graph work in
slices, and brings the result in force; only then does it take more, and meanwhile the syncer coalesces.  Graph and
dataplane are one failure unit: an error that retrying does not heal ends ``run``, and both are started anew.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread
import structlog
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from attrs import frozen

from calico_node.dataplanes.contract import (
    ActivePolicyRemove,
    ActiveProfileRemove,
    Applied,
    Batch,
    HostEndpointRemove,
    HostEndpointUpdate,
    IPSetRemove,
    Message,
    ObjectState,
    ObjectStatus,
    PolicyDataplane,
    WorkloadEndpointID,
    WorkloadEndpointUpdate,
)
from calico_node.datastores.readiness import WAITING
from calico_node.errors import CalicoError, DataplaneError, NetlinkError
from calico_node.linux.links import watch_links
from calico_node.linux.sysctl import prepare_kernel
from calico_node.model import PolicyKey, SyncBatch, SyncStatus
from calico_node.plugins.felix import metrics
from calico_node.plugins.felix.calc import CalcGraph
from calico_node.plugins.felix.calc.config import from_file
from calico_node.plugins.felix.calc.graph import describe
from calico_node.plugins.felix.desired import DesiredRoutes, RouteSettings
from calico_node.plugins.felix.endpoints import LocalEndpoints, name_of
from calico_node.plugins.felix.status_files import StatusFiles
from calico_node.plugins.felix.status_reports import ReportSettings, StatusReports
from calico_node.syncer import SyncerKind, stream

if TYPE_CHECKING:
    from calico_node.hookspecs import AgentContext

log = structlog.get_logger("felix")

CONFIG_FILE = Path("/etc/calico/felix.cfg")
SLICE = 256
"""Pieces of graph work between two turns of the event loop: a few milliseconds."""
COALESCE = 0.01
"""Seconds for which updates that keep coming are gathered into one batch; nothing waits when none come."""
HEARTBEAT = 10.0
"""Seconds between health reports, retries of failed interfaces and looks at the status files."""
HEALTH_TIMEOUT = 90.0
APPLY_ATTEMPTS = 6
FIRST_RETRY = 0.1
"""Seconds; doubles with each attempt."""


@frozen
class Interfaces:
    """The interfaces that are up, and those that came, went or changed."""

    up: frozenset[str]
    changed: frozenset[str]


@frozen
class Tick:
    """The heartbeat."""


Event: TypeAlias = SyncBatch | Interfaces | Tick


class Felix:
    """The component ``felix``."""

    name = "felix"

    async def run(self, context: AgentContext) -> None:
        """Work until cancelled; kernel state then stays.  Raises ``DataplaneError`` when the dataplane keeps failing,
        ``SettingsError`` for a local parameter that cannot be used."""
        dataplane: PolicyDataplane = context.make_dataplane()
        try:
            await _Run(context, dataplane).run()
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            if isinstance(error, CalicoError):
                raise error from None
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await dataplane.stop()


class _Run:
    """One life of graph and dataplane."""

    def __init__(self, context: AgentContext, dataplane: PolicyDataplane) -> None:
        self._context = context
        self._dataplane = dataplane
        file_values = from_file(CONFIG_FILE.read_text()) if CONFIG_FILE.is_file() else {}
        settings = context.settings
        self._graph = CalcGraph(settings.node_name, environ=settings.environ, file_values=file_values)
        self._reporter = context.health.reporter("felix", timeout=HEALTH_TIMEOUT)
        self._routes = DesiredRoutes()
        self._endpoints = LocalEndpoints(self._routes, self._endpoint_changed)
        self._files: StatusFiles | None = None
        self._reports = StatusReports(context.client.kv, settings.node_name)
        self._status: SyncStatus | None = None
        self._revision = 0
        self._applied_revision = 0
        self._synced = False
        self._kernel_fault = ""
        self._configured: object = None
        self._report_settings = ReportSettings()
        self._dataplane_faults: dict[str, str] = {}
        self._stored_faults: dict[str, str] = {}

    async def run(self) -> None:
        self._reporter.report(ready=False, reason="is adopting what is in force")
        await self._dataplane.start()
        # What an earlier life in this process wanted must not outlive it: it stays only until the first prune.
        await self._context.route_sink.adopt("felix")
        self._reporter.report(ready=False, reason="waits for the datastore")
        # Without a buffer: what is not taken stays with the syncer, which keeps only the latest value per key.
        send, receive = anyio.create_memory_object_stream[Event](0)
        async with anyio.create_task_group() as tasks, send, receive:
            # The interfaces first: without them the first round would take every workload's route away.
            await self._take(await tasks.start(self._follow_interfaces, send))
            tasks.start_soon(self._follow_datastore, send)
            tasks.start_soon(self._tick, send)
            tasks.start_soon(self._reports.run)
            await self._work(receive)

    # What comes in

    async def _follow_datastore(self, send: MemoryObjectSendStream[Event]) -> None:
        settings = self._context.settings
        updates = stream(
            self._context.client,
            SyncerKind.FELIX,
            node_name=settings.node_name,
            use_pod_cidr=settings.use_pod_cidr,
            on_rejected=self._left_out,
        )
        async with aclosing(updates) as batches:
            async for batch in batches:
                await send.send(batch)

    def _left_out(self, name: str, reason: str | None) -> None:
        """The syncer could not use a stored object, or (None) it can now, or it is gone."""
        if reason is None:
            self._stored_faults.pop(name, None)
        else:
            self._stored_faults[name] = reason

    async def _follow_interfaces(
        self, send: MemoryObjectSendStream[Event], *, task_status: TaskStatus[Interfaces] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        first = True
        async with aclosing(watch_links()) as views:
            async for view in views:
                event = Interfaces(view.up, view.changed)
                if first:
                    first = False
                    task_status.started(event)
                else:
                    await send.send(event)

    async def _tick(self, send: MemoryObjectSendStream[Event]) -> None:
        while True:
            await anyio.sleep(HEARTBEAT)
            await send.send(Tick())

    # The one task

    async def _work(self, receive: MemoryObjectReceiveStream[Event]) -> None:
        while True:
            await self._take(await receive.receive())
            began = time.monotonic()
            while True:
                await self._calculate()
                try:
                    event = receive.receive_nowait()
                except anyio.WouldBlock:
                    break
                await self._take(event)
                if time.monotonic() - began > COALESCE and self._graph.in_sync:
                    await self._calculate()
                    break
            await self._bring_in_force()

    async def _take(self, event: Event) -> None:
        match event:
            case SyncBatch():
                self._graph.feed(event.updates)
                self._graph.set_status(event.status)
                self._revision = event.revision
                for update in event.updates:
                    metrics.CALC_UPDATES.labels(type(update.key).__name__).inc()
                metrics.resync(event.status, self._status)
                self._status = event.status
            case Interfaces():
                self._take_status(await self._retrying(lambda: self._dataplane.interfaces_changed(event.up)))
                self._endpoints.take_interfaces(event.up, event.changed)
            case Tick():
                self._endpoints.retry()
                if self._files is not None:
                    self._files.repair()

    async def _calculate(self) -> None:
        """All the graph's work, in slices; time between the slices is not counted."""
        spent = 0.0
        more = True
        while more:
            began = time.perf_counter()
            more = self._graph.step(SLICE)
            spent += time.perf_counter() - began
            await anyio.lowlevel.checkpoint()
        metrics.CALC_TIME.observe(spent)

    async def _bring_in_force(self) -> None:
        """Apply what the graph has, then the routes, then say so."""
        self._reports.paused = self._graph.in_sync and not self._graph.datastore_ready
        if not self._graph.in_sync or not self._graph.datastore_ready:
            if self._synced:
                # What is in force still follows the interfaces.
                await self._endpoints.settle()
                await self._state_routes()
            self._report_waiting()
            return
        revision = self._revision
        messages = self._graph.flush()
        if messages:
            await self._apply(Batch(revision, messages))
        if self._configured is not self._graph.config:
            self._configure()
        self._routes.set_blocks(self._graph.take_routes().routes)
        await self._endpoints.settle()
        await self._state_routes()
        if not self._synced:
            self._synced = True
            log.info("in sync", revision=revision, endpoints=len(self._endpoints))
        await self._write_files()
        self._reports.configure(self._report_settings)
        self._applied_revision = revision
        metrics.graph_gauges(self._graph)
        self._report()

    async def _apply(self, batch: Batch) -> None:
        began = time.monotonic()
        metrics.BATCH_SIZE.observe(len(batch.messages))
        for message in batch.messages:
            metrics.MESSAGES.labels(type(message).__name__).inc()
        applied = await self._retrying(lambda: self._dataplane.apply(batch))
        metrics.CALC_EVENTS.inc(len(batch.messages))
        metrics.APPLY_TIME.observe(time.monotonic() - began)
        self._endpoints.take_messages(batch.messages)
        self._forget_faults(batch.messages)
        self._note_unanswered(batch.messages, applied)
        self._take_status(applied)

    async def _retrying(self, call: Callable[[], Awaitable[Applied]]) -> Applied:
        """What ``call`` returns, tried again with back-off.  Raises what the last attempt raised."""
        delay = FIRST_RETRY
        for attempt in range(1, APPLY_ATTEMPTS + 1):
            try:
                return await call()
            except (DataplaneError, NetlinkError) as error:
                metrics.FAILURES.inc()
                log.error("the dataplane refused", error=str(error), attempt=attempt)
                self._reporter.report(ready=False, reason=f"the dataplane refused: {error}")
                if attempt == APPLY_ATTEMPTS:
                    raise
            await anyio.sleep(delay)
            delay *= 2
        raise AssertionError("unreachable")

    async def _state_routes(self) -> None:
        """Tell the route sink what is wanted; the first time also that all else of ours may go."""
        if self._graph.config.flag("RouteSyncDisabled"):
            return
        add, remove = self._routes.take()
        if add or remove:
            await self._context.route_sink.set_routes("felix", add, remove)
        if not self._synced:
            await self._context.route_sink.prune("felix")

    def _configure(self) -> None:
        """What changes with Felix's parameters outside the dataplane."""
        values = self._graph.config.values
        self._configured = self._graph.config
        self._report_settings = ReportSettings.parse(values)
        routes = RouteSettings.parse(values)
        self._routes.set_settings(routes)
        self._context.route_sink.configure(routes.ownership(values))
        try:
            prepare_kernel(ip_forwarding=values["IPForwarding"] == "Enabled")
            self._kernel_fault = ""
        except OSError as error:
            self._kernel_fault = f"cannot switch on IP forwarding: {error.strerror or error}"
        if self._files is None and values["EndpointStatusPathPrefix"]:
            default = values["EndpointStatusPathPrefix"] == "/var/run/calico"
            prefix = self._context.settings.run_dir if default else Path(values["EndpointStatusPathPrefix"])
            self._files = StatusFiles(prefix)

    async def _write_files(self) -> None:
        if self._files is None or not self._files.has_work:
            return
        try:
            await anyio.to_thread.run_sync(self._files.flush)
        except OSError as error:
            self._files.repair()
            log.warning("endpoint-status files", error=str(error))

    # What goes out

    def _endpoint_changed(
        self, identity: WorkloadEndpointID, status: ObjectStatus | None, endpoint: WorkloadEndpointUpdate | None
    ) -> None:
        up = status is not None and status.state is ObjectState.UP
        if self._files is not None:
            self._files.set(identity, endpoint if up else None)
        self._reports.set_endpoint(identity, None if status is None else status.state.value)
        state, reason = (status.state.value, status.reason) if status is not None else ("down", "it was removed")
        try:
            self._context.hooks.endpoint_status(endpoint=name_of(identity), state=state, reason=reason)
        except Exception as error:
            # A stranger's hook must not cost this node its policy.
            log.error("the endpoint_status hook of a plugin failed", error=str(error))

    def _take_status(self, applied: Applied) -> None:
        self._endpoints.take_status(applied)
        for identity, status in applied.status.items():
            if isinstance(identity, WorkloadEndpointID):
                continue
            if isinstance(identity, PolicyKey):
                name = describe(identity)
            else:
                name = _name_of(identity)
                if _is_host_endpoint(identity):
                    self._reports.set_endpoint(identity, status.state.value)
            if status.state is ObjectState.ERROR:
                self._dataplane_faults[name] = status.reason
            else:
                self._dataplane_faults.pop(name, None)

    def _forget_faults(self, messages: tuple[Message, ...]) -> None:
        """An object that was removed is at fault no longer."""
        for message in messages:
            match message:
                case ActivePolicyRemove(key=key):
                    self._dataplane_faults.pop(describe(key), None)
                case ActiveProfileRemove(name=name):
                    self._dataplane_faults.pop(f"profile/{name}", None)
                case IPSetRemove(id=set_id):
                    self._dataplane_faults.pop(f"ipset/{set_id}", None)
                case HostEndpointRemove(id=host_id):
                    self._dataplane_faults.pop(_name_of(host_id), None)
                    self._reports.set_endpoint(host_id, None)

    def _note_unanswered(self, messages: tuple[Message, ...], applied: Applied) -> None:
        """A dataplane that says nothing about a host endpoint does not enforce it."""
        for message in messages:
            if isinstance(message, HostEndpointUpdate) and message.id not in applied.status:
                self._dataplane_faults[_name_of(message.id)] = "host endpoints are not enforced by this dataplane"
                self._reports.set_endpoint(message.id, ObjectState.ERROR.value)

    def _report(self) -> None:
        rejected = {**self._stored_faults, **self._graph.faults, **self._dataplane_faults, **self._endpoints.faults}
        reasons = [*self._graph.unreachable]
        for dst, reason in self._context.route_sink.refused("felix").items():
            rejected[f"route to {dst}"] = reason
            if self._routes.is_block(dst):
                reasons.append(f"route to {dst}: {reason}")
        metrics.REJECTED.set(len(rejected))
        if self._kernel_fault:
            reasons.append(self._kernel_fault)
        ready = not reasons
        if self._status is not SyncStatus.IN_SYNC:
            reasons.append("the datastore is out of reach or being read again; what is in force stays")
        self._reporter.report(
            ready=ready, reason="; ".join(reasons), revision=self._applied_revision, rejected=rejected
        )

    def _report_waiting(self) -> None:
        """Not in sync yet, or told by the datastore to wait: what is in force stays in force."""
        if not self._graph.in_sync:
            self._reporter.report(ready=False, reason="waits for the datastore")
        else:
            # Live and ready, as in Calico: a migration of the datastore must not block a rollout.
            self._reporter.report(reason=WAITING, revision=self._applied_revision)


def _name_of(identity: str) -> str:
    """A dataplane's text identity for people: host endpoints have nothing but their name."""
    return f"HostEndpoint({identity})" if _is_host_endpoint(identity) else identity


def _is_host_endpoint(identity: str) -> bool:
    return "/" not in identity
