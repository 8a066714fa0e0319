"""One deduplicated stream of v1 updates per consumer: list, watch, reconnect, list again where needed.

libcalico-go ``backend/watchersyncer`` with Typha's dedupe buffer behind it.  Each watched prefix has a task that
lists and then watches; all of them fill one buffer, in which a newer value of a key replaces an undelivered one; the
consumer takes slices of the buffer at its own pace.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from itertools import islice

from calico_node.datastores.client import Client
from calico_node.datastores.kv import EventType, KeyValue, KVEngine
from calico_node.datastores.names import resource_key
from calico_node.datastores.paging import pages
from calico_node.errors import Compacted, DatastoreError
from calico_node.model import Key, SyncBatch, SyncStatus, Update
from calico_node.syncer.processors import Interest, OnRejected, SyncerKind, Translator, interest

_log = logging.getLogger(__name__)

PAGE = 1000
BATCH = 1000
LONG_LOSS = 600.0
"""Seconds without contact after which the status falls back to WAIT_FOR_DATASTORE."""
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 2.0
_SLICE = 0.01
_PROBE_KEY = resource_key("ClusterInformation", "default")


class _Absent:
    """Marks a key that the consumer has never been told of."""


_ABSENT = _Absent()


class Buffer:
    """What the consumer has been given and what it is still to get.  Pure.

    ``put`` collapses changes of one key; an addition and removal that the consumer never saw cancel out, and so
    does a value equal to the one delivered.
    """

    def __init__(self) -> None:
        self._delivered: dict[Key, object] = {}
        self._pending: dict[Key, Update] = {}

    def put(self, key: Key, value: object | None, revision: int) -> None:
        delivered = self._delivered.get(key, _ABSENT)
        if (value is None and delivered is _ABSENT) or (value is not None and delivered == value):
            self._pending.pop(key, None)
        else:
            self._pending[key] = Update(key, value, revision)

    def __len__(self) -> int:
        return len(self._pending)

    def take(self, limit: int) -> tuple[Update, ...]:
        """The oldest pending updates, at most ``limit``; they count as delivered from now on."""
        taken = []
        for key in list(islice(self._pending, limit)):
            update = self._pending.pop(key)
            if update.value is None:
                self._delivered.pop(key, None)
            else:
                self._delivered[key] = update.value
            taken.append(update)
        return tuple(taken)


class _Source:
    """One watched prefix: its resume point and what is known to be stored under it."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.revision = 0
        # Where to watch from after a loss: an event's or a list's revision, never mere progress, which an etcd
        # before 3.4.25 may announce too early.
        self.resume = 0
        self.status = SyncStatus.WAIT_FOR_DATASTORE
        self.seen: dict[str, int] = {}
        # The change at ``resume``, or the last one before it: a store that does not have it has another history.
        self.witness: tuple[str, KeyValue | None] | None = None
        self.identity = ""
        # Another datastore has come in place of one that we had something of, and has not been read yet.
        self.replaced = False

    def start_over(self, identity: str) -> None:
        """Everything has to be read again; equal revisions say nothing, but keys that are gone are still known."""
        self.replaced = self.replaced or self.resume > 0 or bool(self.seen)
        self.resume = 0
        self.witness = None
        self.seen = dict.fromkeys(self.seen, 0)
        self.identity = identity


class _Stream:
    def __init__(
        self,
        kv: KVEngine,
        wanted: Interest,
        on_rejected: OnRejected | None,
        clock: Callable[[], float],
    ) -> None:
        self._kv = kv
        self._clock = clock
        self._translator = Translator(wanted, on_rejected)
        self._buffer = Buffer()
        self.sources = [_Source(prefix) for prefix in wanted.prefixes]
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        for key, value in self._translator.builtin():
            self._buffer.put(key, value, 1)

    def ended(self, task: asyncio.Task[None]) -> None:
        """A source has ended, which none does by itself: the consumer has to hear of it, or would wait for ever."""
        if not task.cancelled():
            self._failure = task.exception()
            self._wake.set()

    # The consumer's side

    async def batches(self) -> AsyncGenerator[SyncBatch, None]:
        status, revision = SyncStatus.WAIT_FOR_DATASTORE, 0
        yield SyncBatch(status, revision)
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._failure is not None:
                raise self._failure
            while True:
                merged, reached = self._merged()
                waiting = SyncStatus.WAIT_FOR_DATASTORE
                if status is waiting and merged is not waiting:
                    status = SyncStatus.RESYNC_IN_PROGRESS
                    yield SyncBatch(status, revision)
                    continue
                updates = () if merged is waiting else self._buffer.take(BATCH)
                complete = not len(self._buffer)
                if updates:
                    # Delivered before a change of status; and the revision moves with the last slice only, since
                    # before that the consumer has not seen all of it.
                    if complete and status is merged is SyncStatus.IN_SYNC:
                        revision = reached
                elif merged is not status:
                    status = merged
                    revision = reached if merged is SyncStatus.IN_SYNC else revision
                elif merged is SyncStatus.IN_SYNC and reached != revision:
                    # Lower, too: an older copy of the datastore has taken its place.
                    revision = reached
                else:
                    break
                yield SyncBatch(status, revision, updates)

    def _merged(self) -> tuple[SyncStatus, int]:
        """The status of all sources together, and the revision that all of them have reached."""
        statuses = {source.status for source in self.sources}
        reached = min(source.revision for source in self.sources)
        if len(statuses) == 1:
            return statuses.pop(), reached
        return SyncStatus.RESYNC_IN_PROGRESS, reached

    # The sources' side

    async def follow(self, source: _Source) -> None:
        """Keep the buffer current with one prefix, for ever."""
        last_contact: float | None = None
        pause = _FIRST_PAUSE
        while True:
            try:
                information, current = await self._kv.get(_PROBE_KEY)
                last_contact, pause = self._clock(), _FIRST_PAUSE
                # Engines that know say which store this is; another one's revisions mean nothing here.
                identity = getattr(self._kv, "identity", "")
                if current < source.resume or identity != source.identity or not await self._has_witness(source):
                    if source.resume:
                        _log.warning("another datastore, or an older copy, has taken its place; listing again")
                    source.start_over(identity)
                if source.replaced and information is None:
                    # Wiped, or a fresh one: to believe it would take all that is in force away.
                    raise DatastoreError(
                        "the datastore was emptied: it has no ClusterInformation; its old state stays"
                    )
                source.replaced = False
                if source.resume == 0:
                    await self._list(source)
                self._set_status(source, SyncStatus.IN_SYNC)
                async for batch in self._kv.watch(source.prefix, start_revision=source.resume + 1, previous=False):
                    last_contact = self._clock()
                    spent = time.perf_counter()
                    for event in batch.events:
                        stored = None if event.type is EventType.DELETE else event.kv
                        self._change(source, event.kv.key, stored, event.kv.mod_revision)
                        if time.perf_counter() - spent > _SLICE:
                            await asyncio.sleep(0)
                            spent = time.perf_counter()
                    source.revision = max(source.revision, batch.revision)
                    if batch.events:
                        source.resume = batch.revision
                        source.witness = (event.kv.key, stored)
                    self._wake.set()
            except Compacted as error:
                _log.info("%s: listing again: %s", source.prefix, error)
                source.resume = 0
            except DatastoreError as error:
                level = logging.WARNING if pause == _FIRST_PAUSE else logging.DEBUG  # once a loss
                _log.log(level, "%s: %s; trying again until it is back", source.prefix, error)
                if last_contact is None or self._clock() - last_contact > LONG_LOSS:
                    self._set_status(source, SyncStatus.WAIT_FOR_DATASTORE)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _has_witness(self, source: _Source) -> bool:
        """Whether the store still has the last change that was seen: a restored backup may have been written to
        beyond that revision.  Raises ``Compacted``, as the watch from there would."""
        if not source.resume or source.witness is None:
            return True
        key, wanted = source.witness
        found, _ = await self._kv.get(key, revision=source.resume)
        return found == wanted

    async def _list(self, source: _Source) -> None:
        """Read the whole prefix at one revision, page by page; what is not there any more is removed."""
        self._set_status(source, SyncStatus.RESYNC_IN_PROGRESS)
        found: set[str] = set()
        newest: KeyValue | None = None
        revision = 0
        async with aclosing(pages(self._kv, source.prefix, PAGE)) as listed:
            async for page in listed:
                revision = page.revision
                spent = time.perf_counter()
                for stored in page.kvs:
                    found.add(stored.key)
                    if newest is None or stored.mod_revision > newest.mod_revision:
                        newest = stored
                    if source.seen.get(stored.key) != stored.mod_revision:
                        self._change(source, stored.key, stored, stored.mod_revision)
                    if time.perf_counter() - spent > _SLICE:
                        self._wake.set()
                        await asyncio.sleep(0)
                        spent = time.perf_counter()
        for key in source.seen.keys() - found:
            self._change(source, key, None, revision)
        source.revision = source.resume = revision
        source.witness = None if newest is None else (newest.key, newest)
        self._wake.set()

    def _change(self, source: _Source, key: str, stored: KeyValue | None, revision: int) -> None:
        if stored is None:
            source.seen.pop(key, None)
        else:
            source.seen[key] = stored.mod_revision
        for model_key, value in self._translator.translate(key, stored):
            self._buffer.put(model_key, value, revision)

    def _set_status(self, source: _Source, status: SyncStatus) -> None:
        if source.status is not status:
            source.status = status
            self._wake.set()


async def stream(
    client: Client,
    kind: SyncerKind,
    *,
    node_name: str,
    use_pod_cidr: bool = False,
    on_rejected: OnRejected | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[SyncBatch, None]:
    """The updates that a consumer of ``kind`` on ``node_name`` needs, deduplicated, from the whole state on.

    The first batches carry everything that is stored, then comes one with status IN_SYNC; from then on each batch
    says which datastore revision the consumer reflects once it has applied it, also when nothing it watches has
    changed.  A datastore that is lost is waited for: nothing is raised, the status falls back to
    WAIT_FOR_DATASTORE only after a long loss.  Stored objects that cannot be used count as absent, with one warning;
    ``on_rejected`` hears of them.  ``use_pod_cidr`` is the setting USE_POD_CIDR.  Close the generator (``aclosing``)
    to end its tasks.
    """
    state = _Stream(client.kv, interest(kind, node_name, use_pod_cidr=use_pod_cidr), on_rejected, clock)
    tasks = [asyncio.create_task(state.follow(source)) for source in state.sources]
    for task in tasks:
        task.add_done_callback(state.ended)
    try:
        async for batch in state.batches():
            yield batch
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
