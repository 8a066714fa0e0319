"""The ``kube_controllers`` component: what Calico's kube-controllers do where the datastore is etcd.

Kubernetes objects (from ``KubernetesSource``) become Calico objects; one node of a cluster runs it.  Here the source
is the directory that CALICO_KUBERNETES_STORE names.
"""

from __future__ import annotations

import anyio
import structlog

from calico_node.datastores.client import Client, ResourceEventType
from calico_node.datastores.readiness import WAITING, ReadyGate
from calico_node.errors import Compacted, DatastoreError
from calico_node.hookspecs import AgentContext, HealthReporter
from calico_node.kubernetes import Acknowledgement, KubernetesStore, Object, Ref
from calico_node.plugins.kube_controllers.reconcile import Reconciler
from calico_node.plugins.kube_controllers.source import Change, FileSource, KubernetesSource

log = structlog.get_logger(__name__)

RECONCILE_PERIOD = 300.0  # seconds between full comparisons (Calico's reconcilerPeriod)
RETRY = 1.0  # seconds after a datastore failure


class KubeControllers:
    """Started by the agent where ``kube_controllers`` is among its components."""

    name = "kube_controllers"

    async def run(self, context: AgentContext) -> None:
        reporter = context.health.reporter(self.name)
        store = KubernetesStore.from_environ(context.settings.environ)
        if store is None:
            reporter.report(reason="no source of Kubernetes objects: CALICO_KUBERNETES_STORE is not set")
            await anyio.sleep_forever()
        else:
            await Controller(context.client, FileSource(store), reporter).run()


class Controller:
    """Carries changes out one at a time; a failure of the datastore, or a lock, ends in a full comparison."""

    def __init__(self, client: Client, source: KubernetesSource, reporter: HealthReporter) -> None:
        self._client = client
        self._source = source
        self._reporter = reporter
        self._reconciler = Reconciler(client)
        self._lock = anyio.Lock()
        self._generation = 0
        self._objects: dict[Ref, Object] = {}
        self._in_sync = False
        self._broken = anyio.Event()
        self._gate = ReadyGate(client, self._ready_changed)
        self._locked = False

    async def run(self) -> None:
        self._reporter.report(ready=False, reason="waiting for Kubernetes objects")
        async with anyio.create_task_group() as group:
            group.start_soon(self._gate.run)
            group.start_soon(self._follow_source)
            group.start_soon(self._follow_endpoints)
            group.start_soon(self._repeat)

    async def _follow_source(self) -> None:
        async for change in self._source.changes():
            await self._carry_out(change)

    async def _carry_out(self, change: Change) -> None:
        async with self._lock:
            self._generation = change.generation
            self._objects = dict(change.objects)
            while True:
                await self._gate.wait()
                try:
                    if self._in_sync:
                        await self._reconciler.update(change.changed)
                    else:
                        await self._reconciler.resync(self._objects)
                        self._in_sync = True
                    await self._done()
                    return
                except DatastoreError as error:
                    self._failed(error)
                await anyio.sleep(RETRY)

    async def _repeat(self) -> None:
        """Now and then compare everything, in case somebody else wrote what is ours."""
        while True:
            with anyio.move_on_after(RECONCILE_PERIOD):
                await self._broken.wait()
                self._broken = anyio.Event()
                await anyio.sleep(RETRY)
            async with self._lock:
                if not self._generation:
                    continue
                await self._gate.wait()
                try:
                    await self._reconciler.resync(self._objects)
                    self._in_sync = True
                    await self._done()
                except DatastoreError as error:
                    self._failed(error)

    async def _follow_endpoints(self) -> None:
        """Endpoints that appear, or are changed by others, get their pod's labels."""
        revision = 0
        while True:
            try:
                async for event in self._client.watch("WorkloadEndpoint", revision):
                    revision = event.revision
                    async with self._lock:
                        await self._gate.wait()
                        if event.type in (ResourceEventType.ADDED, ResourceEventType.MODIFIED):
                            await self._reconciler.endpoint_changed(event.resource)
                        elif event.type is ResourceEventType.DELETED and event.name is not None:
                            self._reconciler.endpoint_deleted(event.name.namespace, event.name.name)
            except Compacted:
                revision = 0
            except DatastoreError as error:
                self._failed(error)
                revision = 0
            await anyio.sleep(RETRY)

    async def _ready_changed(self, ready: bool) -> None:
        """A locked datastore is left as it is; once it is ready (again), nothing about its contents is known."""
        if not ready:
            self._locked = True
            self._reporter.report(reason=WAITING, rejected=dict(self._reconciler.rejected))
        elif self._locked:
            self._locked, self._in_sync = False, False
            self._broken.set()

    async def _done(self) -> None:
        revision, rejected = await self._reconciler.revision(), dict(self._reconciler.rejected)
        reason = f"generation {self._generation} of the Kubernetes objects is in the datastore"
        self._reporter.report(reason=WAITING if self._locked else reason, revision=revision, rejected=rejected)
        await self._source.acknowledge(Acknowledgement(self._generation, revision, rejected))

    def _failed(self, error: DatastoreError) -> None:
        if self._in_sync:
            log.warning("The datastore failed; comparing everything when it is back", reason=str(error))
        self._in_sync = False
        self._broken.set()
        self._reporter.report(ready=False, reason=f"datastore: {error}", rejected=dict(self._reconciler.rejected))
