"""The ``node_status`` component: fills the status of each CalicoNodeStatus that names this node.

An object is reported on when its spec is new, and then every ``updatePeriodSeconds`` (0: never again); it is written
only when something besides the time has changed.  Source: Calico ``node/pkg/status``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs
import structlog

from calico_node.datastores.client import read_resource, write_resource
from calico_node.datastores.kv import Compare, CompareTarget, Get, KeyValue, Put
from calico_node.datastores.names import resource_key
from calico_node.datastores.readiness import WAITING, ReadyGate
from calico_node.errors import CalicoError, DatastoreError, ResourceDoesNotExist
from calico_node.hookspecs import AgentContext, BGPRoute, BGPSpeaker
from calico_node.model import ResourceKey, SyncStatus
from calico_node.plugins.node_status.report import build
from calico_node.resources import CalicoNodeStatus, CalicoNodeStatusStatus, validate
from calico_node.syncer import SyncerKind, stream

log = structlog.get_logger("node_status")

TRIES = 3
TIMEOUT = 10.0
FIRST_RETRY = 1.0  # seconds; doubles up to LONGEST_RETRY, or to the object's own period
LONGEST_RETRY = 30.0
_SLICE = 500
_EMPTY = CalicoNodeStatusStatus()


class NodeStatus:
    """Started by the agent where ``node_status`` is among its components."""

    name = "node_status"

    async def run(self, context: AgentContext) -> None:
        """Work until cancelled."""
        await _Run(context).run()


class _Run:
    """One life of the component: a task for each object of this node."""

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._node = context.settings.node_name
        self._reporter = context.health.reporter("node_status")
        self._gate = ReadyGate(context.client, self._ready_changed)
        self._objects: dict[str, tuple[_Object, anyio.CancelScope]] = {}
        self._rejected: dict[str, str] = {}
        self._revision = 0
        self._in_sync = False

    async def run(self) -> None:
        self._report()
        batches = stream(
            self._context.client, SyncerKind.NODE_STATUS, node_name=self._node, on_rejected=self._on_rejected
        )
        async with anyio.create_task_group() as group, contextlib.aclosing(batches):
            group.start_soon(self._gate.run)
            async for batch in batches:
                for update in batch.updates:
                    if isinstance(update.key, ResourceKey):
                        self._apply(group, update.key.name, update.value)
                self._revision = batch.revision
                self._in_sync = self._in_sync or batch.status is SyncStatus.IN_SYNC
                self._report()

    def _apply(self, group: anyio.abc.TaskGroup, name: str, value: object) -> None:
        if not isinstance(value, CalicoNodeStatus) or value.spec.node != self._node:
            if name in self._objects:
                self._objects.pop(name)[1].cancel()
        elif name in self._objects:
            self._objects[name][0].update(value)
        else:
            scope = anyio.CancelScope()
            report = _Object(self._context, self._gate, value)
            self._objects[name] = report, scope
            group.start_soon(_within, scope, report)

    def _on_rejected(self, title: str, reason: str | None) -> None:
        if reason is None:
            self._rejected.pop(title, None)
        else:
            self._rejected[title] = reason

    async def _ready_changed(self, ready: bool) -> None:
        self._report()

    def _report(self) -> None:
        reason = "" if self._gate.ready else WAITING
        if not self._in_sync:
            reason = "waiting for the datastore"
        self._reporter.report(
            ready=self._in_sync,
            reason=reason,
            revision=self._revision,
            rejected=self._rejected,
            extra={"objects": sorted(self._objects)},
        )


async def _within(scope: anyio.CancelScope, report: _Object) -> None:
    with scope:
        await report.run()


class _Object:
    """Reports on one object, for ever."""

    def __init__(self, context: AgentContext, gate: ReadyGate, resource: CalicoNodeStatus) -> None:
        self._context = context
        self._gate = gate
        self._resource = resource
        self._name = str(resource.metadata.name)
        self._key = resource_key("CalicoNodeStatus", self._name)
        self._changed = anyio.Event()
        self._failed = False

    def update(self, resource: CalicoNodeStatus) -> None:
        """The object as it is stored now.  Our own writing asks for nothing; another spec, or an object made anew or
        emptied (as by ``calicoctl apply``), is reported on at once."""
        old, self._resource = self._resource, resource
        same = resource.spec == old.spec and resource.metadata.uid == old.metadata.uid
        if not same or (resource.status == _EMPTY != old.status):
            self._changed.set()

    async def run(self) -> None:
        retry = FIRST_RETRY
        while True:
            self._changed = anyio.Event()
            await self._gate.wait()
            done = await self._attempt()
            period = self._resource.spec.update_period_seconds or float("inf")
            pause = period if done else min(retry, period)
            retry = FIRST_RETRY if done else min(retry * 2, LONGEST_RETRY)
            with anyio.move_on_after(pause):
                await self._changed.wait()

    async def _attempt(self) -> bool:
        """Report once; False when it has to be tried again."""
        try:
            with anyio.fail_after(TIMEOUT):
                await self._report()
        except ResourceDoesNotExist:
            return True  # its deletion is on its way to us
        except Exception as error:
            # Whatever it was, all that it may cost is this report.
            reason = str(error) if isinstance(error, CalicoError) else f"{type(error).__name__}: {error}"
            say = log.debug if self._failed else log.warning  # once a loss
            say("CalicoNodeStatus not updated; trying again", object=self._name, reason=reason)
            self._failed = True
            return False
        self._failed = False
        return True

    async def _report(self) -> None:
        speakers: Mapping[int, BGPSpeaker] = self._context.hooks.bgp_speakers() or {}
        routes: Mapping[int, Sequence[BGPRoute]] = (
            await self._routes(speakers) if "Routes" in self._resource.spec.classes else {}
        )
        for _ in range(TRIES):
            # In a thread: a table of thousands of routes takes longer to write down than the loop may be held.
            document = await anyio.to_thread.run_sync(_document, self._resource, speakers, routes)
            if document is None or not self._gate.ready:
                return
            revision = int(self._resource.metadata.resource_version or 0)
            result = await self._context.client.kv.txn(
                [Compare(self._key, CompareTarget.MOD_REVISION, revision)],
                [Put(self._key, document)],
                [Get(self._key)],
            )
            if result.succeeded:
                await self._take(KeyValue(self._key, document, result.revision, result.revision))
                return
            stored = result.responses[0]
            if stored is None:
                raise ResourceDoesNotExist(f"CalicoNodeStatus({self._name})")
            await self._take(stored)
            if self._changed.is_set():
                return
        raise DatastoreError(f"CalicoNodeStatus({self._name}): changed by others {TRIES} times at once")

    async def _take(self, stored: KeyValue) -> None:
        self.update(await anyio.to_thread.run_sync(read_resource, "CalicoNodeStatus", stored))

    async def _routes(self, speakers: Mapping[int, BGPSpeaker]) -> Mapping[int, Sequence[BGPRoute]]:
        found: dict[int, list[BGPRoute]] = {}
        for version, speaker in speakers.items():
            rows = found[version] = []
            for route in speaker.routes():
                rows.append(route)
                if len(rows) % _SLICE == 0:
                    await anyio.lowlevel.checkpoint()
        return found


def _document(
    resource: CalicoNodeStatus, speakers: Mapping[int, BGPSpeaker], routes: Mapping[int, Sequence[BGPRoute]]
) -> bytes | None:
    """What to store; None where nothing has changed.  Raises ``ValidationError``."""
    now = datetime.now(UTC).astimezone()
    status = build(resource.status, resource.spec.classes, speakers, routes, now)
    if status == resource.status:
        return None
    status = attrs.evolve(status, last_updated=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    changed = attrs.evolve(resource, status=status)
    validate(changed)
    return write_resource(changed)
