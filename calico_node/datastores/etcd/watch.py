"""One watch: a stream of etcd's from a known revision, which ends in ``Compacted`` or ``DatastoreError``.

etcd3aio's ``watch()`` resumes at ``header.revision + 1`` even after the mere "created" answer, steps over a
compaction without a word, and returns when the server ends the stream; each of these can lose events.  Here the
caller, who knows the last revision it was given, starts another.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from etcd3aio.kv import prefix_range_end
from etcd3aio.proto.etcd.api.etcdserverpb import rpc_pb2

from calico_node.datastores.etcd.connection import (
    ATTEMPT_TIMEOUT,
    WATCH,
    Connections,
    Member,
    cut_off,
    ending,
    metadata,
)
from calico_node.datastores.etcd.messages import events
from calico_node.datastores.kv import SLICE_BYTES, WatchBatch
from calico_node.datastores.limits import prefix_bytes
from calico_node.errors import Compacted, DatastoreError

PROGRESS_PERIOD = 0.3
"""Seconds between progress requests where others' keys move the revision; longer than etcd's period for watches that
catch up."""
IDLE_PERIOD = 1.0
"""Seconds between progress requests while nothing is known to have changed."""
SILENCE = 5.0
"""Seconds without an answer to a progress request after which a stream counts as dead."""
SILENCE_AT_START = 15.0
"""The same before the first answer of any kind: an etcd from 3.4.25 answers only once the watch has caught up."""
_LATE = 0.2
_AHEAD = 4
"""Answers that are read ahead of their use: few, since each may have megabytes."""
_PROGRESS = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())


class _TokenRefused(Exception):
    """The watch was not allowed with a token that may have run out."""


async def watch(
    connections: Connections, prefix: str, start_revision: int, previous: bool
) -> AsyncGenerator[WatchBatch, None]:
    """Batches from ``start_revision`` on, first from the member in use, before the first answer from the others too.

    Raises ``Compacted`` and ``DatastoreError``.
    """
    faults: dict[str, str] = {}
    logged_in = False
    while True:
        member = connections.current
        stream = _Stream(connections, member, prefix, start_revision, previous)
        try:
            await stream.open()
        except _TokenRefused:
            stream.cancel()
            if logged_in or not connections.credentials.has_user:
                raise DatastoreError(
                    f"etcd at {member.endpoint.name}: permission denied: "
                    f"the user {connections.credentials.username!r} (ETCD_USERNAME) may not read {prefix!r}"
                ) from None
            connections.forget(stream.token)
            logged_in = True
            continue
        except Compacted:
            stream.cancel()
            raise
        except DatastoreError as error:
            stream.cancel()
            faults[member.endpoint.name] = str(error)
            if len(faults) == len(connections) or connections.current is member:
                raise
            continue
        except BaseException:
            stream.cancel()
            raise
        break
    try:
        async for batch in stream.batches():
            yield batch
    finally:
        await stream.close()


class _Stream:
    def __init__(
        self, connections: Connections, member: Member, prefix: str, start_revision: int, previous: bool
    ) -> None:
        self._connections = connections
        self._member = member
        self._prefix = prefix
        self._start = start_revision
        self._previous = previous
        self.token: str | None = None
        self._call: Any = None
        self._answers: _Answers | None = None

    async def open(self) -> None:
        """Until etcd has said that the watch is there.  Raises ``DatastoreError``, ``Compacted``."""
        key = prefix_bytes(self._prefix)
        request = rpc_pb2.WatchCreateRequest(
            key=key or b"\0",
            range_end=prefix_range_end(key) if key else b"\0",
            # One early: compaction at exactly start_revision may have dropped a deletion made there, and etcd would
            # not say so; a start before the compaction it refuses.
            start_revision=max(self._start - 1, 1),
            prev_kv=self._previous,
            fragment=True,
        )
        started = time.monotonic()
        try:
            self.token = await self._connections.token(self._member)
            self._call = self._member.stream(WATCH, self._connections.credentials)(metadata=metadata(self.token))
            async with asyncio.timeout(ATTEMPT_TIMEOUT if len(self._connections) > 1 else SILENCE):
                await self._call.write(rpc_pb2.WatchRequest(create_request=request))
                answer = await self._call.read()
        except TimeoutError:
            silent = self._member.heard < started
            self._connections.failed(self._member, silent=silent)
            raise DatastoreError(f"etcd at {self._member.endpoint.name}: no answer in time to a watch") from None
        except grpc.aio.AioRpcError as error:
            raise await self._lost(error, started) from None
        except asyncio.InvalidStateError:
            raise await self._ended(started) from None
        except asyncio.CancelledError:
            if not cut_off():
                raise
            raise self._closed() from None
        except DatastoreError:
            self._connections.failed(self._member)
            raise
        if answer is grpc.aio.EOF:
            raise await self._ended(started)
        self._connections.seen(self._member, answer)
        self._check(answer)

    async def batches(self) -> AsyncGenerator[WatchBatch, None]:
        started = time.monotonic()
        try:
            async for batch in self._read():
                yield batch
        except grpc.aio.AioRpcError as error:
            raise await self._lost(error, started) from None
        except asyncio.InvalidStateError:
            raise await self._ended(started) from None
        except _TokenRefused:
            raise DatastoreError(
                f"etcd at {self._member.endpoint.name}: the watch was ended: permission denied"
            ) from None

    async def _read(self) -> AsyncGenerator[WatchBatch, None]:
        """Batches with a revision from the start on, and progress where nothing else comes.

        etcd before 3.4.25 and 3.5.8 answers a progress request with the store's revision at once, ahead of events
        that are still to be sent: those queued, and those of a watch that is still catching up (every 100 ms).  So an
        answer is believed only when another one, asked for ``PROGRESS_PERIOD`` after the first had arrived, comes
        without an event in between.
        """
        revision, unconfirmed = self._start - 1, 0
        questions = _Questions()
        fragments = _Fragments()
        answers = self._answers = _Answers(self._call)
        while True:
            # Others' answers may tell meanwhile that the store has moved on.
            if not await answers.come(PROGRESS_PERIOD / 2):
                if questions.due(eager=unconfirmed > revision or self._connections.revision > revision):
                    await self._ask(questions, answers)
                continue
            if answers.cut_off:
                raise self._closed()
            answer = answers.take()
            if answer is grpc.aio.EOF:
                raise await self._ended(time.monotonic())
            self._connections.seen(self._member, answer)
            self._check(answer)
            confirms = questions.answered(progress=not answer.events and not answer.created)
            if answer.created:
                continue
            whole = fragments.whole(answer)
            if whole:
                unconfirmed = 0
                newest, new = whole[-1].kv.mod_revision, events(whole, self._start)
                if newest >= self._start:
                    revision = max(revision, newest)
                    yield WatchBatch(revision, new)
                    questions.resumed()
            elif not answer.fragment:
                if confirms and unconfirmed > revision:
                    revision = unconfirmed
                    yield WatchBatch(revision)
                    questions.resumed()
                unconfirmed = answer.header.revision

    async def _ask(self, questions: _Questions, answers: _Answers) -> None:
        if questions.silent():
            # The loop itself may have been busy for so long, and the answer be there.
            if not await answers.come(_LATE):
                self._connections.failed(self._member, silent=True)
                raise DatastoreError(f"etcd at {self._member.endpoint.name}: the watch is silent, no answer in time")
            return
        try:
            async with asyncio.timeout(SILENCE):
                await self._call.write(_PROGRESS)
        except TimeoutError:
            self._connections.failed(self._member, silent=True)
            raise DatastoreError(f"etcd at {self._member.endpoint.name}: the watch takes no request") from None
        questions.asked()

    def _check(self, answer: Any) -> None:
        if answer.compact_revision:
            raise Compacted(answer.compact_revision)
        if answer.canceled:
            reason = answer.cancel_reason.removeprefix("etcdserver: ") or "no reason given"
            if "permission denied" in reason or "auth" in reason:
                raise _TokenRefused
            raise DatastoreError(f"etcd at {self._member.endpoint.name}: the watch was ended: {reason}")

    async def _lost(self, error: grpc.aio.AioRpcError, since: float) -> DatastoreError:
        explained = await self._connections.explained(self._member, error, since=since)
        self._connections.failed(self._member)
        return explained

    async def _ended(self, since: float) -> DatastoreError:
        """The server has ended the stream; its status says why, where it gave one."""
        name = self._member.endpoint.name
        self._connections.failed(self._member)
        try:
            async with asyncio.timeout(1.0):
                error = await ending(self._call)
        except TimeoutError:
            return DatastoreError(f"etcd at {name}: the watch was ended by the server")
        return await self._connections.explained(self._member, error, since=since)

    def _closed(self) -> DatastoreError:
        """Another call found the member silent, and its connection was given up under this watch."""
        return DatastoreError(f"etcd at {self._member.endpoint.name}: the connection was closed")

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()

    async def close(self) -> None:
        self.cancel()
        if self._answers is not None:
            await self._answers.close()


class _Answers:
    """What comes on a stream, read ahead by one task: a task and a wait for each cost as much as its way here."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._held: deque[Any] = deque()
        self._taken = asyncio.Event()
        self._waiting: asyncio.Future[None] | None = None
        self._reading = asyncio.ensure_future(self._read())
        self._reading.add_done_callback(self._wake)

    async def _read(self) -> None:
        while True:
            answer = await self._call.read()
            self._held.append(answer)
            self._wake()
            if answer is grpc.aio.EOF:
                return
            while len(self._held) >= _AHEAD:
                self._taken.clear()
                await self._taken.wait()

    def _wake(self, _: object = None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def come(self, seconds: float) -> bool:
        """Whether there is an answer, or the end, within so many seconds."""
        if not (self._held or self._reading.done()):
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._waiting
            finally:
                timer.cancel()
        return bool(self._held) or self._reading.done()

    @property
    def cut_off(self) -> bool:
        """All that came is taken, and the call has been cancelled under the reader."""
        return not self._held and self._reading.cancelled()

    def take(self) -> Any:
        """The next answer that has come.  Raises what reading raised."""
        if not self._held:
            self._reading.result()
        self._taken.set()
        return self._held.popleft()

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


class _Fragments:
    """Answers that come in pieces, put together; large ones in several slices, so that memory holds them."""

    def __init__(self) -> None:
        self._held: list[Any] = []
        self._bytes = 0

    def whole(self, answer: Any) -> list[Any]:
        """The events of whole revisions that are there with ``answer``; none while it pays to wait for more."""
        self._held.extend(answer.events)
        self._bytes += answer.ByteSize()
        if answer.fragment and self._bytes < SLICE_BYTES:
            return []
        # The last revision may go on in the next fragment.
        end = len(self._held)
        while answer.fragment and end and self._held[end - 1].kv.mod_revision == self._held[-1].kv.mod_revision:
            end -= 1
        whole, self._held = self._held[:end], self._held[end:]
        self._bytes = 0
        return whole


class _Questions:
    """When to ask for progress, which answers count, and when there should have been one.  Seconds, monotonic."""

    def __init__(self) -> None:
        self._waiting = 0
        self._first: float | None = None
        self._last = self._heard = time.monotonic()
        self._patience = SILENCE_AT_START

    def due(self, *, eager: bool) -> bool:
        """Whether it is time for a question."""
        period = PROGRESS_PERIOD if eager and not self._waiting else IDLE_PERIOD
        return time.monotonic() - max(self._last, self._heard) >= period

    def asked(self) -> None:
        self._last = time.monotonic()
        self._waiting += 1
        if self._first is None:
            self._first = self._last

    def answered(self, *, progress: bool) -> bool:
        """Something came; whether it answers the only question that was open."""
        # An answer that was late says that the server stood still, with what it still had to send.
        prompt = time.monotonic() - self._last < IDLE_PERIOD
        confirms = progress and prompt and self._waiting == 1
        if progress:
            self._waiting = 0
            self._heard = time.monotonic()
        self._first, self._patience = None, SILENCE
        return confirms

    def resumed(self) -> None:
        """The consumer has come back for more: while it was away nobody read answers."""
        self._first = None

    def silent(self) -> bool:
        return self._first is not None and time.monotonic() - self._first > self._patience
