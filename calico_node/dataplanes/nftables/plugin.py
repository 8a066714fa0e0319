"""The nftables dataplane: policy in force through raw nf_tables netlink, one transaction per batch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import structlog

from calico_node.dataplanes.contract import (
    CONTRACT_VERSION,
    Applied,
    Batch,
    InSync,
    IPSetDeltaUpdate,
    IPSetUpdate,
    Message,
    ObjectID,
    ObjectState,
    ObjectStatus,
    WorkloadEndpointID,
)
from calico_node.dataplanes.nftables.chains import BASE_CHAINS
from calico_node.dataplanes.nftables.config import RenderConfig
from calico_node.dataplanes.nftables.desired import Desired
from calico_node.dataplanes.nftables.layout import (
    FROM_WORKLOAD_DISPATCH,
    IPV4,
    IPV6,
    TO_WORKLOAD_DISPATCH,
)
from calico_node.dataplanes.nftables.nflog import PacketLog
from calico_node.dataplanes.nftables.plan import IncompatibleError, KnownTable, Step, plan
from calico_node.dataplanes.nftables.rules import LOG_GROUP
from calico_node.dataplanes.nftables.store import Outcome, Store
from calico_node.dataplanes.nftables.tables import DesiredSet
from calico_node.errors import DataplaneError, NetlinkError

if TYPE_CHECKING:
    from calico_node.hookspecs import AgentContext

T = TypeVar("T")
log = structlog.get_logger("nftables")

_ROUNDS = 8
"""Commits tried for one batch: each refused object is closed and the rest tried again."""
_PACKET_LOG_RETRY = 10.0
"""Seconds until a packet log that could not be opened is tried again."""
_SMALL = 12
"""Objects to render, or hundreds of set members to change, that may be worked on in the event loop's own thread."""
_LARGE_SET = 2000
"""IP set members above which they are taken in in a worker thread."""
_GENERATION_CHECK = 1.0
"""Seconds between looks whether somebody else changed nf_tables; each costs one small message."""

UP = ObjectStatus(ObjectState.UP)


class NFTables:
    """``PolicyDataplane`` over tables ``ip calico`` and ``ip6 calico``.

    Until the first ``InSync`` whatever an earlier run left in force stays in force untouched; where nothing is, the
    base chains go in at once, and workload interfaces are closed.
    """

    contract_version = CONTRACT_VERSION

    def __init__(self, context: AgentContext | None = None, *, netns: int | str | None = None) -> None:
        environ = {} if context is None else context.settings.environ
        config = {"InterfacePrefix": environ.get("FELIX_INTERFACEPREFIX", "")}
        self._netns = netns
        # A kernel without IPv6 has no IPv6 to close.
        self._families = (IPV4, IPV6) if Path("/proc/sys/net/ipv6").exists() else (IPV4,)
        self._desired = Desired(RenderConfig.parse(config), self._families)
        self._known: dict[int, KnownTable] = {}
        self._store: Store | None = None
        self._lock = asyncio.Lock()
        self._revision = 0
        self._in_sync = False
        self._prune = False
        self._interfaces: frozenset[str] | None = None
        self._generation = -1
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._store = Store(self._netns)
        async with self._lock:
            await _in_thread(self._read)
            await self._close_gaps()
        self._tasks = [asyncio.create_task(self._watch_for_drift()), asyncio.create_task(self._log_packets())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._store is not None:
            self._store.close()
            self._store = None

    async def apply(self, batch: Batch) -> Applied:
        async with self._lock:
            for message in batch.messages:
                await self._feed(message)
            if not self._in_sync:
                return Applied(self._revision)
            outcome = await self._enforce()
            self._revision = batch.revision
            return Applied(batch.revision, self._take_status(), outcome.seconds)

    async def interfaces_changed(self, up: frozenset[str]) -> Applied:
        async with self._lock:
            before = self._interfaces or frozenset()
            self._interfaces = up
            changed = before ^ up
            for endpoint in self._desired.endpoints.values():
                if endpoint.name in changed:
                    self._desired.touched.add(endpoint.id)
            return Applied(self._revision, self._take_status() if self._in_sync else {})

    async def _feed(self, message: Message) -> None:
        if isinstance(message, InSync):
            if not self._in_sync:
                self._in_sync = self._prune = True
                for table in self._desired.tables.values():
                    table.change_everything()
            return
        match message:
            case IPSetUpdate(members=members):
                size = len(members)
            case IPSetDeltaUpdate(added=added, removed=removed):
                size = len(added) + len(removed)
            case _:
                size = 0
        if size > _LARGE_SET:
            await _in_thread(partial(self._desired.feed, message))
        else:
            self._desired.feed(message)

    async def _log_packets(self) -> None:
        """Carry packets of Log rules into the log.  Another reader of the group is said, and waited for to go."""
        told = False
        while True:
            try:
                with contextlib.closing(PacketLog(LOG_GROUP, netns=self._netns)) as packets:
                    told = False
                    await packets.run()
            except (NetlinkError, OSError) as error:
                if not told:
                    log.warning("packets of Log rules will not be shown", error=str(error))
                told = True
            except Exception:
                log.exception("reading the packets of Log rules failed")
            await asyncio.sleep(_PACKET_LOG_RETRY)

    # Status

    def _take_status(self) -> dict[ObjectID, ObjectStatus]:
        touched = self._desired.touched
        self._desired.touched = set()
        return {owner: self._status(owner) for owner in touched}

    def _status(self, owner: ObjectID) -> ObjectStatus:
        reason = self._desired.errors.get(owner)
        if reason is not None:
            return ObjectStatus(ObjectState.ERROR, reason)
        if not isinstance(owner, WorkloadEndpointID):
            return UP
        endpoint = self._desired.endpoints.get(owner)
        if endpoint is None:
            return ObjectStatus(ObjectState.DOWN, "removed")
        if endpoint.state != "active":
            return ObjectStatus(ObjectState.DOWN, "administratively down")
        if self._interfaces is not None and endpoint.name not in self._interfaces:
            return ObjectStatus(ObjectState.DOWN, f"interface {endpoint.name} is not up")
        return UP

    async def _close_gaps(self) -> None:
        """Before anything is known: make what closes workload interfaces and is missing, and leave the rest alone."""
        if all(_guards(known) for known in self._known.values()):
            return
        self._desired.refresh()
        for version, table in self._desired.tables.items():
            present = self._known[version].chains
            table.changed_chains = {
                name
                for name in table.changed_chains
                if name not in present or not present[name].hashes or present[name].hook != table.chains[name].hook
            }
        await self._enforce()

    # The kernel: these methods block, and run in a worker thread when there is much to do

    def _read(self) -> None:
        store = self._open_store()
        self._generation = store.generation()
        for family in self._families:
            self._known[family.version] = store.read(family)

    def _open_store(self) -> Store:
        if self._store is None:
            raise DataplaneError("the nftables dataplane is not started")
        return self._store

    def _steps(self, ids: Iterator[int]) -> Iterator[Step]:
        for version, table in self._desired.tables.items():
            yield from plan(table, self._known[version], ids, prune=self._prune)

    async def _enforce(self) -> Outcome:
        """``_commit``, in a worker thread where that would hold the event loop for long."""
        work = self._desired.backlog + sum(len(content.changed) // 200 for content in self._changed_sets())
        if work > _SMALL or self._prune:
            return await _in_thread(self._commit)
        return self._commit()

    def _changed_sets(self) -> Iterator[DesiredSet]:
        for table in self._desired.tables.values():
            for name in table.changed_sets:
                if name in table.sets:
                    yield table.sets[name]

    def _commit(self) -> Outcome:
        """Bring the desired state in force.  Raises ``DataplaneError`` when the kernel takes none of it."""
        store = self._open_store()
        total = Outcome()
        rebuilt = False
        self._desired.refresh()
        for _ in range(_ROUNDS):
            try:
                outcome = store.commit(self._steps(itertools.count(1)))
            except IncompatibleError as error:
                outcome = Outcome(error=str(error))
            total.seconds += outcome.seconds
            total.batches += outcome.batches
            if outcome.ok:
                self._note_generation(store, outcome.batches)
                for table in self._desired.tables.values():
                    table.settled()
                self._prune = False
                return total
            total.error = outcome.error
            if outcome.stale and not total.stale:
                log.warning("nftables state is not as expected; reading it again", error=outcome.error)
                total.stale = True
                self._resync()
            elif outcome.refused:
                for owner, reason in outcome.refused.items():
                    log.error("the kernel refused an object; closing it", object=str(owner), reason=reason)
                    self._desired.refuse(owner, reason)
                self._desired.refresh()
            elif not rebuilt:
                log.error("the kernel refused the rules; making the tables anew", error=outcome.error)
                rebuilt = True
                self._rebuild()
            else:
                break
        raise DataplaneError(f"the kernel refused the rules: {total.error or 'too many objects were refused'}")

    def _rebuild(self) -> None:
        """The last resort: the next transaction deletes our tables and makes them again."""
        for version in self._known:
            self._known[version] = KnownTable(discard=self._known[version].exists)
        for table in self._desired.tables.values():
            table.change_everything()

    def _note_generation(self, store: Store, batches: int) -> None:
        """Each transaction moves the generation by one; more means that somebody else made one too."""
        if batches:
            now = store.generation()
            self._generation = now if now == self._generation + batches else -1

    def _resync(self) -> None:
        self._read()
        for table in self._desired.tables.values():
            table.change_everything()
        self._prune = self._in_sync

    # Drift

    async def _watch_for_drift(self) -> None:
        """Put back what others change: a missing table at once, the rest at each refresh interval."""
        waited = 0.0
        while True:
            await asyncio.sleep(_GENERATION_CHECK)
            waited += _GENERATION_CHECK
            config = self._desired.config
            intervals = [value for value in (config.refresh_interval, config.sets_refresh_interval) if value > 0]
            due = bool(intervals) and waited >= min(intervals)
            try:
                if await self.repair(thorough=due):
                    waited = 0.0
            except (DataplaneError, NetlinkError) as error:
                log.error("repairing nftables state failed", error=str(error))
            except Exception:
                log.exception("repairing nftables state failed")  # the next look is to be taken all the same

    async def repair(self, *, thorough: bool) -> bool:
        """Where somebody else changed nf_tables, look whether our tables are still there, or with ``thorough``
        whether all in them is, and put back what is not.  Whether a thorough look was taken or is not needed."""
        async with self._lock:
            store = self._open_store()
            if store.generation() == self._generation:
                return thorough
            present = [store.has_table(family) for family in self._families]
            if all(present) and not thorough:
                return False
            if not all(present):
                gone = [
                    f"IPv{family.version}" for family, there in zip(self._families, present, strict=True) if not there
                ]
                log.warning("somebody else deleted the policy tables; making them anew", of=gone)
            await _in_thread(self._resync)
            if self._in_sync:
                await self._enforce()
            else:
                await self._close_gaps()
            return True


async def _in_thread(call: Callable[[], T]) -> T:
    """``call`` in a worker thread.  A cancelled caller waits for its end: until then the thread uses the socket, and
    what follows a cancellation closes it."""
    work = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait({work})
        if not work.cancelled() and work.exception() is not None:
            log.error("a change of nf_tables failed while it was being given up", error=str(work.exception()))
        raise


def _guards(known: KnownTable) -> bool:
    """Whether the table already closes workload interfaces."""
    chains = known.chains
    return (
        known.exists
        and all(name in chains and chains[name].hook == hook for name, hook in BASE_CHAINS.items())
        and all(chains[name].hashes for name in BASE_CHAINS)
        and all(name in chains and chains[name].hashes for name in (FROM_WORKLOAD_DISPATCH, TO_WORKLOAD_DISPATCH))
    )
