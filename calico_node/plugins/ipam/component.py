"""The ``ipam`` component: what a node owes to IPAM apart from its workloads' addresses.

At start it finishes claims that a crash left half-done; then, on every change of the pools or of its own Node, it
gives up blocks it should not hold and keeps the node's tunnel addresses.  A locked datastore it leaves as it is.
Workloads' addresses are assigned by the CNI server through the same library (``calico_node.ipam``).
"""

from __future__ import annotations

import anyio
import structlog

from calico_node.datastores.names import kind_prefix, resource_key
from calico_node.datastores.readiness import READY_KEY, WAITING, is_ready
from calico_node.errors import CalicoError, Compacted, DatastoreError, ResourceDoesNotExist
from calico_node.hookspecs import AgentContext, HealthReporter
from calico_node.ipam import KVStore, allocator, cascades
from calico_node.plugins.ipam.tunnels import TunnelAddresses

log = structlog.get_logger(__name__)

FIRST_RETRY = 0.5  # seconds; doubles up to LONGEST_RETRY
LONGEST_RETRY = 30.0


class IPAM:
    """Started by the agent where ``ipam`` is among its components."""

    name = "ipam"

    async def run(self, context: AgentContext) -> None:
        cascades.register(context.client)
        await NodeIPAM(context, context.health.reporter(self.name)).run()


class NodeIPAM:
    """Watches only set the event; one loop does the work, so that a burst of changes costs one round."""

    def __init__(self, context: AgentContext, reporter: HealthReporter) -> None:
        self._client = context.client
        self._reporter = reporter
        self._node = context.settings.node_name
        self._store = KVStore(context.client)
        self._ipam = allocator.IPAM(self._store)
        self._tunnels = TunnelAddresses(context.client, self._store, self._ipam, self._node)
        self._changed = anyio.Event()
        self._watched = (
            kind_prefix("IPPool"), resource_key("Node", self._node), kind_prefix("FelixConfiguration"), READY_KEY,
        )  # fmt: skip
        self._seen = dict.fromkeys(self._watched, 0)
        self._applied = 0
        self._settled: str | None = None  # the reason reported while all that was seen is applied

    async def run(self) -> None:
        self._reporter.report(ready=False, reason="starting")
        async with anyio.create_task_group() as group:
            for prefix in self._watched:
                group.start_soon(self._watch, prefix)
            await self._work()

    async def _work(self) -> None:
        pause, repaired = FIRST_RETRY, False
        while True:
            self._changed, self._settled = anyio.Event(), None
            try:
                ready, revision = await is_ready(self._client)
                if not ready:
                    self._reporter.report(reason=WAITING, revision=self._applied)
                    await self._changed.wait()
                    continue
                if not repaired:
                    await self._ipam.repair_affinities(self._node)
                    repaired = True
                addresses = await self._tunnels.reconcile()
                await self._ipam.release_unselected(self._node)
            except ResourceDoesNotExist as error:
                # The agent registers the Node; its watch wakes us.
                self._reporter.report(ready=False, reason=f"waiting: {error}")
            except CalicoError as error:
                log.warning("IPAM round failed; trying again", reason=str(error), pause=pause)
                self._reporter.report(ready=False, reason=str(error), rejected=self._rejected())
                with anyio.move_on_after(pause):
                    await self._changed.wait()
                pause = min(pause * 2, LONGEST_RETRY)
                continue
            else:
                pause = FIRST_RETRY
                held = ", ".join(f"{kind} {address}" for kind, address in sorted(addresses.items()))
                self._settled = held or "no tunnel addresses needed"
                # Lower than before where an older copy of the datastore has taken its place.
                self._applied = revision
                self._reporter.report(reason=self._settled, revision=self._applied, rejected=self._rejected())
            await self._changed.wait()

    def _rejected(self) -> dict[str, str]:
        return {**self._store.rejected(), **self._tunnels.rejected}

    async def _watch(self, prefix: str) -> None:
        """Set the event whenever something under ``prefix`` changes, or may have changed unseen."""
        revision = 0
        while True:
            try:
                if not revision:
                    _, revision = await self._client.kv.get(READY_KEY)
                    self._changed.set()
                async for batch in self._client.kv.watch(prefix, start_revision=revision + 1, previous=False):
                    revision = self._seen[prefix] = batch.revision
                    if batch.events:
                        self._changed.set()
                    elif self._settled is not None and not self._changed.is_set() and all(self._seen.values()):
                        # Others' writes move the revision: all of it that concerns us is applied.
                        self._applied = max(self._applied, min(self._seen.values()))
                        self._reporter.report(reason=self._settled, revision=self._applied)
            except Compacted:
                revision = self._seen[prefix] = 0
            except DatastoreError as error:
                log.debug("Lost the watch", prefix=prefix, reason=str(error))
                revision = self._seen[prefix] = 0
            await anyio.sleep(FIRST_RETRY)
