"""The asyncio face of the embedded datastore: two worker threads, group commit, wake-ups from other processes.

Writes run in one thread under the file lock; those that queue up while it works share the next SQLite transaction
(each keeps a revision of its own), so that many writers pay for few disk flushes.  Reads run in another thread on
their own connection and never wait for the lock.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen

from calico_node.datastores.embedded.clock import Clock
from calico_node.datastores.embedded.files import FileLock, Notifier, check_filesystem, check_log, held_open
from calico_node.datastores.embedded.store import Durability, Store
from calico_node.datastores.kv import Compare, Delete, KeyValue, Operation, Put, RangeResult, TxnResult, WatchBatch
from calico_node.datastores.limits import check_transaction, prefix_bytes
from calico_node.errors import Compacted, DatastoreError

T = TypeVar("T")
_log = logging.getLogger(__name__)

WATCH_EVENTS = 1000
_GROUP = 64
_LOOK_PERIOD = 1.0
_POLL_PERIOD = 0.02


@frozen(eq=False)
class _Tail:
    """A read of all events from ``start`` on, made while ``changed`` was the event to wait for."""

    start: int
    changed: asyncio.Event
    reading: asyncio.Future[WatchBatch]


class EmbeddedEngine:
    """A ``KVEngine`` over one SQLite file.  Make it with ``await EmbeddedEngine.open(path)``."""

    name = "embedded"

    def __init__(self, path: Path, clock: Clock | None, durability: Durability) -> None:
        self.path = path
        self._durability = durability
        self._clock = clock or Clock.system()
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="datastore-write")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="datastore-read")
        self._pending: deque[tuple[Callable[[Store], Any], asyncio.Future[Any]]] = deque()
        self._idle = asyncio.Event()  # no write is under way
        self._idle.set()
        self._changed = asyncio.Event()
        self._data_version = 0
        self._head = 0
        self._tail: _Tail | None = None
        self._reopen_fault = ""  # of the file that has taken the place
        self._closed = False
        self._lock: FileLock
        self._notifier: Notifier
        self._writer: Store
        self._reader: Store
        self._look_task: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, path: Path, *, clock: Clock | None = None, durability: Durability = Durability.DISK
    ) -> EmbeddedEngine:
        """Open the store, making file and folder where they are missing.  Raises ``DatastoreError``."""
        try:
            engine = cls(path, clock, durability)
        except OSError as error:  # the clock's boot id
            raise DatastoreError(f"{error.filename}: {error.strerror}") from None
        try:
            await engine._in_thread(engine._write_thread, engine._open_files)
        except BaseException:
            engine._write_thread.shutdown(wait=False)
            engine._read_thread.shutdown(wait=False)
            raise
        if engine._notifier.fileno >= 0:
            engine._loop.add_reader(engine._notifier.fileno, engine._on_notify)
        else:
            _log.warning("%s: no inotify instance to be had (fs.inotify.max_user_instances); polling instead", path)
        engine._look_task = asyncio.create_task(engine._look())
        return engine

    @property
    def identity(self) -> str:
        """Differs when another database has taken the file's place."""
        return self._reader.id

    # In the write thread

    def _open_files(self) -> None:
        path = self.path
        try:
            if path.is_symlink():
                # As SQLite does: the log and the lock stand beside the file itself, whatever leads to it.
                path = self.path = path.resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            check_filesystem(path.parent)
            with ExitStack() as opened:
                self._lock = FileLock(path.with_name(path.name + "-lock"))
                opened.callback(self._lock.close)
                self._notifier = Notifier(path.with_name(path.name + "-notify"))
                opened.callback(self._notifier.close)
                with self._lock:
                    self._open_database(path)
                opened.pop_all()
        except OSError as error:
            advice = "; set CALICO_DATASTORE_PATH (or CALICO_STATE_DIR) to a place this user can write"
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.EIO):
                advice = ""  # no place would help
            raise DatastoreError(f"{error.filename or path}: {error.strerror}{advice}") from None

    def _open_database(self, path: Path) -> None:
        """Under the lock."""
        if self._lock.remembers and self._vanished():
            # An empty one in its place would tell every node of this host to take everything down; and of an
            # emptied one SQLite would remove the write-ahead log too.
            raise DatastoreError(
                f"{path}: the datastore's file is gone or empty; put it back, or a backup with 'calicoctl "
                "datastore restore FILE', or, to begin anew, stop every calico-node process on this host and "
                f"remove {path}-lock"
            )
        if path.is_dir():
            raise DatastoreError(f"{path}: is a folder; set CALICO_DATASTORE_PATH to a file")
        if path.exists() and not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        # Made here for its mode; never opened by us otherwise: closing any descriptor of the file would
        # drop the POSIX locks that SQLite holds on it for the whole process.
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        check_log(path)
        self._open_stores()
        if not self._lock.remembers:
            self._lock.remember()

    def _open_stores(self) -> None:
        self._head = 0
        self._tail = None
        self._writer = Store(self.path, writable=True, clock=self._clock, durability=self._durability)
        try:
            self._reader = Store(self.path, writable=False, clock=self._clock)
        except BaseException:
            self._writer.close()
            raise

    def _require_file(self, store: Store) -> None:
        """Never make an empty store in place of one that vanished: its readers would tear everything down."""
        if store.replaced():
            what = "the datastore's file, or its log, has been moved away, emptied or replaced"
            raise DatastoreError(self._reopen_fault or f"{self.path}: {what}")

    def _flush(self) -> None:
        """Carry out the queued writes, up to ``_GROUP`` in one SQLite transaction."""
        group: list[tuple[Callable[[Store], Any], asyncio.Future[Any]]] = []
        while self._pending and len(group) < _GROUP:
            group.append(self._pending.popleft())
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        committed = False
        try:
            with self._lock:
                self._require_file(self._writer)
                with self._writer.writing():
                    self._writer.expire_leases()
                    for work, future in group:
                        try:
                            outcomes.append((future, work(self._writer), None))
                        except (Compacted, DatastoreError) as error:
                            outcomes.append((future, None, error))
                committed = True
                self._writer.checkpoint()
            self._notifier.notify()
        except BaseException as error:
            if committed:
                # What was written is stored: telling its writers otherwise would have them write it again.
                _log.warning("%s: after a commit: %s", self.path, error)
            else:
                outcomes = [(future, None, self._named(error)) for _, future in group]
        self._call_loop(self._finish, outcomes)

    def _named(self, error: BaseException) -> BaseException:
        """A failing file system is a datastore that is out of reach."""
        return DatastoreError(f"{self.path}: {error.strerror or error}") if isinstance(error, OSError) else error

    def _maintain(self) -> None:
        with self._lock:
            self._require_file(self._writer)
            with self._writer.writing():
                changed = self._writer.maintain()
            self._writer.checkpoint()
        if changed:
            self._notifier.notify()

    def _vanished(self) -> bool:
        return not self.path.exists() or self.path.stat().st_size == 0

    def _reopen(self) -> None:
        """After the file came back, another took its place, or it could not be read."""
        # Taken first: where the lock file is lost too, it is made anew and keeps newcomers from an empty store.
        with self._lock:
            if self._vanished():
                self._reopen_fault = ""
                raise DatastoreError(f"{self.path}: the datastore's file is gone or empty")
            if self._writer.moved():
                self._reader.close()
                self._writer.close()
            else:
                self._writer.save_log()
                with held_open(self.path):
                    self._reader.close()
                    self._writer.close()
            # Should opening fail, both still count as replaced, and opening is tried again.
            self._reader.inode = self._writer.inode = (0, 0)
            try:
                self._open_stores()
            except DatastoreError as error:
                self._reopen_fault = str(error)
                raise
            self._reopen_fault = ""

    def _close_files(self) -> None:
        with suppress(FileNotFoundError), self._lock:  # whose folder may be gone
            self._reader.close()
            self._writer.close()
        self._reader.close()
        self._writer.close()
        self._lock.close()
        self._notifier.close()

    # In the loop

    def _call_loop(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(partial(function, *arguments))
        except RuntimeError:
            pass  # the loop has ended; nobody waits any more

    def _finish(self, outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
        for future, result, error in outcomes:
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
        if self._pending:
            self._write_thread.submit(self._flush)
        else:
            self._idle.set()

    def _schedule_flush(self) -> None:
        if self._pending and self._idle.is_set():
            self._idle.clear()
            self._write_thread.submit(self._flush)

    async def _in_thread(self, thread: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(thread, function)

    def _check(self) -> None:
        if self._closed:
            raise DatastoreError(f"{self.path}: the datastore is closed")
        if os.getpid() != self._pid:
            raise DatastoreError(f"{self.path}: an open datastore cannot be used in a forked child; open it there")

    async def _write(self, work: Callable[[Store], T]) -> T:
        self._check()
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending.append((work, future))
        self._schedule_flush()
        return await future

    async def _read(self, work: Callable[[Store], T]) -> T:
        self._check()

        def read() -> T:
            try:
                self._require_file(self._reader)
                return work(self._reader)
            except OSError as error:
                raise self._named(error) from error

        return await self._in_thread(self._read_thread, read)

    def _on_notify(self) -> None:
        if not self._notifier.drain():
            # Someone removed the notification file; the look once a second makes a new one.
            self._loop.remove_reader(self._notifier.fileno)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _look(self) -> None:
        """Once a second: commits whose writer died before it could notify, due maintenance, a lost file."""
        while True:
            polling = self._notifier.fileno < 0
            await asyncio.sleep(_POLL_PERIOD if polling else _LOOK_PERIOD)
            try:
                await self._look_once()
            except (DatastoreError, OSError) as error:
                _log.debug("datastore: %s", error)
                self._wake()
                await asyncio.sleep(_LOOK_PERIOD)

    async def _look_once(self) -> None:
        if self._reader.replaced() or self._reader.damaged or self._writer.damaged:
            # Both threads must be idle while the connections change.
            await self._in_thread(self._read_thread, lambda: self._write_thread.submit(self._reopen).result())
            self._wake()
        if self._notifier.missing():
            await self._renew_notifier()
        version = await self._read(lambda store: store.data_version())
        if version != self._data_version:
            self._data_version = version
            self._wake()
        # In slices, between which writes go on; all that is due, or sustained writes would outrun it.
        while await self._read(lambda store: store.maintenance_due()):
            await self._in_thread(self._write_thread, self._maintain)

    async def _renew_notifier(self) -> None:
        old = self._notifier
        if old.fileno >= 0:
            self._loop.remove_reader(old.fileno)
        path = self.path.with_name(self.path.name + "-notify")
        self._notifier = await self._in_thread(self._write_thread, lambda: Notifier(path))
        old.close()
        if self._notifier.fileno >= 0:
            self._loop.add_reader(self._notifier.fileno, self._on_notify)

    # The KVEngine interface

    async def get(self, key: str, *, revision: int = 0) -> tuple[KeyValue | None, int]:
        return await self._read(lambda store: store.get(key, revision))

    async def range(self, prefix: str, *, start_after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        return await self._read(lambda store: store.range(prefix, start_after, limit, revision))

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        check_transaction(compares, success, failure)
        return await self._write(lambda store: store.txn(compares, success, failure))

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return (await self.txn((), [Put(key, value, lease)])).revision

    async def delete(self, key: str) -> tuple[KeyValue | None, int]:
        result = await self.txn((), [Delete(key)])
        return result.responses[0], result.revision

    async def watch(
        self, prefix: str, *, start_revision: int, previous: bool = True
    ) -> AsyncGenerator[WatchBatch, None]:
        prefix_bytes(prefix)
        # Previous values are there in any case: watches that differ in nothing else share one read.
        store_id = self._reader.id
        revision = start_revision - 1
        while True:
            changed = self._changed
            if self._reader.id != store_id:
                # Another database took the file's place: its revisions mean nothing to this watch.
                raise Compacted(0)
            batch = await self._events(prefix, revision + 1, changed)
            if batch.revision > revision:
                revision = batch.revision
                yield batch
            else:
                await changed.wait()

    async def _events(self, prefix: str, start: int, changed: asyncio.Event) -> WatchBatch:
        """What a watch has to be told from ``start`` on.

        Watches that have caught up all ask from the same revision when a commit wakes them: they share one read.
        ``changed`` was taken before asking; a commit that the shared read did not see will still set it.
        """
        tail = self._tail
        if tail is None or tail.start != start or tail.changed is not changed:
            if start != self._head + 1:
                batch = await self._read(lambda store: store.events(prefix, start, WATCH_EVENTS))
                self._head = max(self._head, batch.revision)
                return batch
            reading = asyncio.ensure_future(self._read(lambda store: store.events("", start, WATCH_EVENTS)))
            tail = self._tail = _Tail(start, changed, reading)
        try:
            batch = await asyncio.shield(tail.reading)
        except DatastoreError:
            if self._tail is tail:
                self._tail = None  # the next asker reads anew
            raise
        self._head = max(self._head, batch.revision)
        return WatchBatch(batch.revision, tuple(event for event in batch.events if event.kv.key.startswith(prefix)))

    async def grant(self, ttl: int) -> int:
        return await self._write(lambda store: store.grant(ttl))

    async def keep_alive(self, lease: int) -> None:
        await self._write(lambda store: store.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._write(lambda store: store.revoke(lease))

    async def compact(self, revision: int) -> None:
        await self._write(lambda store: store.compact(revision))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._look_task is not None:
            self._look_task.cancel()
            await asyncio.gather(self._look_task, return_exceptions=True)
        if self._notifier.fileno >= 0:
            self._loop.remove_reader(self._notifier.fileno)
        self._wake()
        await self._idle.wait()
        await self._in_thread(self._read_thread, lambda: None)
        await self._in_thread(self._write_thread, self._close_files)
        self._read_thread.shutdown(wait=False)
        self._write_thread.shutdown(wait=False)
