"""Calls to a cluster of etcd members: one gRPC channel a member, failover between them, log-in.

A call goes to the member in use.  One that does not answer is left for the next, and stays left until that
one fails.  A write is sent at most once, and only over a connection that is known to stand; one that was sent and got
no answer is ``OutcomeUnknown``.  Everything else may be repeated on another member, within ``CALL_TIMEOUT``
altogether.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from attrs import frozen
from etcd3aio.proto.etcd.api.etcdserverpb import rpc_pb2

from calico_node.datastores.etcd.credentials import Credentials, connection_fault, system_roots
from calico_node.datastores.etcd.endpoints import Endpoint
from calico_node.errors import DatastoreError, OutcomeUnknown, SettingsError

_log = logging.getLogger(__name__)

CALL_TIMEOUT = 10.0
"""Seconds until a call has an answer or fails."""
ATTEMPT_TIMEOUT = 3.0
"""Seconds after which a call that may be repeated is tried on another member."""
_ROUNDS = 3
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.25
_FAULT_KEPT = 10.0
_GRACE = 10.0
_OPTIONS: list[tuple[str, int | str]] = [
    # Calico's own figures; a server may forbid more frequent ones (--grpc-keepalive-min-time).
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's own pause between attempts to connect grows to two minutes: a node would stay without its datastore that
    # long after etcd is back.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # A channel made anew would otherwise get the old one's stuck connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A repeated write is for us to decide on.
    ("grpc.enable_retries", 0),
]


@frozen
class Method:
    path: str
    answer: Any


RANGE = Method("/etcdserverpb.KV/Range", rpc_pb2.RangeResponse)
DELETE_RANGE = Method("/etcdserverpb.KV/DeleteRange", rpc_pb2.DeleteRangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", rpc_pb2.TxnResponse)
COMPACT = Method("/etcdserverpb.KV/Compact", rpc_pb2.CompactionResponse)
LEASE_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", rpc_pb2.LeaseGrantResponse)
LEASE_REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", rpc_pb2.LeaseRevokeResponse)
LEASE_KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", rpc_pb2.LeaseKeepAliveResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", rpc_pb2.WatchResponse)
_AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", rpc_pb2.AuthenticateResponse)
_PROBE = rpc_pb2.RangeRequest(key=b"\0", serializable=True, count_only=True)

# The member's gRPC interceptor refuses at once what it could not carry out without a leader.
_HAS_LEADER = ("hasleader", "true")


class Refused(DatastoreError):
    """etcd answered with an error.  ``details`` are its words; ``repeated`` says that an earlier copy of the request
    was lost and may have been carried out."""

    def __init__(self, text: str, code: grpc.StatusCode, details: str) -> None:
        super().__init__(text)
        self.code = code
        self.details = details
        self.repeated = False


class _Fate(enum.Enum):
    REFUSED = "an answer, and final"
    LATER = "an answer: nothing was done, another time or member may do it"
    LOG_IN = "an answer: the token is not, or no longer, good"
    LOST = "no answer"


_LATER = ("no leader", "too many requests", "not capable", "raft proposal dropped")
_LOG_IN = ("invalid auth token", "revision of auth store is old", "user name is empty")
_TIMED_OUT = ("request timed out", "leader changed", "timeout")


def fate(error: grpc.aio.AioRpcError) -> _Fate:
    """What a failed call says about its request."""
    code, details = error.code(), error.details() or ""
    if any(words in details for words in _LOG_IN):
        return _Fate.LOG_IN
    if any(words in details for words in _LATER):
        return _Fate.LATER
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return _Fate.LOG_IN
    lost = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
            grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)  # fmt: skip
    if code in lost or any(words in details for words in _TIMED_OUT):
        return _Fate.LOST
    return _Fate.REFUSED


class Member:
    """One endpoint and its channel, which is made at the first use."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.heard = 0.0
        """When it last answered anything (monotonic)."""
        self._channel: Any = None
        self._calls: dict[str, Any] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._fault = ("", 0.0)
        self._closed = False

    def _open(self, credentials: Credentials) -> Any:
        if self._closed:
            raise DatastoreError(f"etcd at {self.endpoint.name}: the datastore is closed")
        if self._channel is None:
            target, options = self.endpoint.target, list(_OPTIONS)
            if self.endpoint.secure:
                tls = grpc.ssl_channel_credentials(
                    credentials.ca_cert or system_roots(), credentials.cert_key, credentials.cert_chain
                )
                options.append(("grpc.ssl_target_name_override", self.endpoint.host))
                self._channel = grpc.aio.secure_channel(target, tls, options=options)
            else:
                self._channel = grpc.aio.insecure_channel(target, options=options)
        return self._channel

    @property
    def connected(self) -> bool:
        return self._channel is not None and self._channel.get_state() is grpc.ChannelConnectivity.READY

    def unary(self, method: Method, credentials: Credentials) -> Any:
        if method.path not in self._calls:
            self._calls[method.path] = self._open(credentials).unary_unary(
                method.path, request_serializer=_serialize, response_deserializer=method.answer.FromString
            )
        return self._calls[method.path]

    def stream(self, method: Method, credentials: Credentials) -> Any:
        """A stream both ways; the caller cancels it."""
        if method.path not in self._calls:
            self._calls[method.path] = self._open(credentials).stream_stream(
                method.path, request_serializer=_serialize, response_deserializer=method.answer.FromString
            )
        return self._calls[method.path]

    def exchange(self, method: Method, credentials: Credentials) -> Any:
        """Like ``unary``, over a stream."""
        open_stream = self.stream(method, credentials)

        async def ask(request: Any, **options: Any) -> Any:
            call = open_stream(**options)
            try:
                await call.write(request)
                answer = await call.read()
            except asyncio.InvalidStateError:
                answer = grpc.aio.EOF
            finally:
                ended = call.done()
                call.cancel()
            if answer is grpc.aio.EOF:
                raise await ending(call) if ended else rpc_error(grpc.StatusCode.UNAVAILABLE, "the stream was ended")
            return answer

        return ask

    def renew(self) -> None:
        """Let the next call make a connection of its own; calls under way on the old one may still end."""
        if self._channel is not None:
            task = asyncio.ensure_future(self._channel.close(_GRACE))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._channel, self._calls = None, {}

    async def fault(self, credentials: Credentials) -> str:
        """What is wrong with TLS here, looked at anew after a while only."""
        text, at = self._fault
        if not at or time.monotonic() - at > _FAULT_KEPT:
            try:
                text = await connection_fault(self.endpoint, credentials)
            except SettingsError as error:
                text = str(error)
            self._fault = (text, time.monotonic())
        return text

    async def close(self) -> None:
        self._closed = True
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
        self._channel, self._calls = None, {}


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


async def ending(call: Any) -> grpc.aio.AioRpcError:
    """What the status of an ended stream says; a server that ends one in peace has not answered either."""
    code, details = await call.code(), await call.details()
    if code is grpc.StatusCode.OK:
        return rpc_error(grpc.StatusCode.UNAVAILABLE, "the stream was ended by the server")
    return rpc_error(code, details or "")


def cut_off() -> bool:
    """Of a ``CancelledError``: nobody has cancelled this task; the channel was closed under the call."""
    task = asyncio.current_task()
    return task is None or not task.cancelling()


def _serialize(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content


class Connections:
    """The members of one cluster.  ``reload`` reads the credentials again: certificates are renewed on disk."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        credentials: Credentials,
        reload: Callable[[], Credentials] | None = None,
    ) -> None:
        self._members = [Member(endpoint) for endpoint in endpoints]
        self._current = random.randrange(len(self._members))
        self.credentials = credentials
        self._reload = reload
        self._token: str | None = None
        self._login = asyncio.Lock()
        self.revision = 0
        """The highest revision that any answer has named."""

    def __len__(self) -> int:
        return len(self._members)

    @property
    def current(self) -> Member:
        return self._members[self._current]

    def failed(self, member: Member, *, silent: bool = False) -> None:
        """Use another member from now on.  One that was ``silent`` gets a new connection before its next use."""
        if silent:
            member.renew()
        if member is self.current:
            self._current = (self._current + 1) % len(self._members)

    def seen(self, member: Member, answer: Any) -> None:
        member.heard = time.monotonic()
        self.revision = max(self.revision, answer.header.revision)

    async def close(self) -> None:
        await asyncio.gather(*(member.close() for member in self._members))

    async def exchange(self, method: Method, request: Any) -> Any:
        """The first answer of a stream to the one request sent; it may be repeated.  Raises like ``call``."""
        return await self.call(method, request, repeat=True, stream=True)

    async def call(self, method: Method, request: Any, *, repeat: bool, stream: bool = False) -> Any:
        """The answer.  ``repeat`` says that carrying it out twice does no harm.

        Raises ``Refused`` when etcd answered with an error, ``OutcomeUnknown`` when a request that may not be
        repeated was sent and not answered, and ``DatastoreError`` when no member could be asked.
        """
        deadline = time.monotonic() + CALL_TIMEOUT
        faults: dict[str, str] = {}
        lost, attempts, away = False, 0, 0
        while True:
            member, left = self.current, deadline - time.monotonic()
            attempts += 1
            try:
                share = _share(attempts, len(self), left, repeat)
                ask = member.exchange if stream else member.unary
                return await self._attempt(member, ask(method, self.credentials), request, repeat, share)
            except _Away as error:
                faults[member.endpoint.name] = error.reason
                lost = lost or error.sent
                if error.sent and not repeat:
                    self.failed(member, silent=error.silent)
                    raise OutcomeUnknown(
                        f"etcd at {member.endpoint.name}: {error.reason}; "
                        "it is not known whether the change was carried out"
                    ) from None
                self.failed(member, silent=error.silent)
                away += not error.busy
            except Refused as error:
                error.repeated = lost
                raise
            left = deadline - time.monotonic()
            if away >= max(_ROUNDS, 2 * len(self)) or left <= _FIRST_PAUSE:
                break
            if attempts % len(self) == 0:
                await asyncio.sleep(min(_FIRST_PAUSE * 2 ** (attempts // len(self) - 1), _LONGEST_PAUSE, left))
        raise DatastoreError("etcd at " + "; ".join(f"{name}: {reason}" for name, reason in faults.items()))

    async def _attempt(self, member: Member, ask: Any, request: Any, repeat: bool, time_left: float) -> Any:
        until = time.monotonic() + time_left
        if not repeat and not member.connected:
            await self._connect(member, min(time_left, ATTEMPT_TIMEOUT))
        logged_in = False
        while True:
            token = await self.token(member, until - time.monotonic())
            started = time.monotonic()
            try:
                answer = await ask(request, metadata=metadata(token), timeout=max(until - started, 0.01))
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as raised:
                error = _as_rpc_error(raised)
                if _answered(error):
                    member.heard = time.monotonic()
                outcome = fate(error)
                if outcome is _Fate.LOG_IN and self.credentials.has_user and not logged_in:
                    self.forget(token)
                    logged_in = True
                    continue
                raise await self.explained(member, error, since=started) from None
            self.seen(member, answer)
            return answer

    async def _connect(self, member: Member, timeout: float) -> None:
        """See to it that there is a connection, by a question that changes nothing.  Raises ``_Away``, not sent."""
        started = time.monotonic()
        try:
            await member.unary(RANGE, self.credentials)(_PROBE, metadata=metadata(None), timeout=max(timeout, 0.01))
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as raised:
            error = _as_rpc_error(raised)
            if _answered(error):
                return
            away = await self.explained(member, error, since=started)
            if isinstance(away, _Away):
                away.sent = False
            raise away from None

    # Log-in

    async def token(self, member: Member, timeout: float = ATTEMPT_TIMEOUT) -> str | None:
        """The token to send along, None without a user or where etcd asks for none.  Raises like a call."""
        if not self.credentials.has_user:
            return None
        if self._token is not None:
            return self._token or None
        started = time.monotonic()
        try:
            # Calls wait together: one after the other at a silent member they would wait far beyond their time.
            async with asyncio.timeout(max(timeout, 0.01)), self._login:
                if self._token is None:
                    self._token = await self._authenticate(member, timeout)
                return self._token or None
        except TimeoutError:
            silent = member.heard < started
            raise _Away(member.endpoint.name, "no answer in time", sent=False, silent=silent) from None

    async def _authenticate(self, member: Member, timeout: float) -> str:
        request = rpc_pb2.AuthenticateRequest(name=self.credentials.username, password=self.credentials.password)
        started = time.monotonic()
        ask = member.unary(_AUTHENTICATE, self.credentials)
        try:
            answer = await ask(request, metadata=(_HAS_LEADER,), timeout=max(timeout, 0.01))
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as raised:
            error = _as_rpc_error(raised)
            if "authentication is not enabled" in (error.details() or ""):
                return ""  # as etcd's own client: the user is kept for the time when it is
            away = await self.explained(member, error, since=started)
            if isinstance(away, _Away):
                away.sent = False
            raise away from None
        token: str = answer.token
        return token

    def forget(self, token: str | None) -> None:
        """``token`` was not accepted; another that came meanwhile stays."""
        if (self._token or None) == token:
            self._token = None

    # What went wrong

    async def explained(self, member: Member, error: grpc.aio.AioRpcError, *, since: float) -> DatastoreError:
        """``_Away`` when another try may succeed, ``Refused`` when not; with words for the user."""
        details, outcome = error.details() or error.code().name, fate(error)
        name = member.endpoint.name
        if outcome is _Fate.LATER:
            return _Away(name, _plain(details), sent=False, busy=True)
        if outcome is _Fate.LOST:
            if _answered(error):
                return _Away(name, _plain(details), sent=True, busy=True)
            silent = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and member.heard < since
            return _Away(name, await self._reason(member, error), sent=True, silent=silent)
        return Refused(f"etcd at {name}: {self._refusal(outcome, details)}", error.code(), details)

    async def _reason(self, member: Member, error: grpc.aio.AioRpcError) -> str:
        details = error.details() or error.code().name
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return "no answer in time"
        for words in ("Connection refused", "No route to host", "Network is unreachable", "Permission denied"):
            if words in details:
                return words.lower()
        if "DNS resolution failed" in details or "Domain name not found" in details:
            return f"the name {member.endpoint.host} cannot be resolved"
        if not member.connected:
            fault = await member.fault(self.credentials)
            await self._renew_credentials(member)
            if fault:
                return fault
        return str(details.rpartition("last error: ")[2])

    async def _renew_credentials(self, member: Member) -> None:
        if self._reload is None or not member.endpoint.secure:
            return
        try:
            credentials = await asyncio.to_thread(self._reload)
        except SettingsError as error:
            _log.debug("certificates are not read again: %s", error)
            return
        if credentials != self.credentials:
            _log.info("etcd's certificates have changed on disk and are used from now on")
            self.credentials = credentials
            for each in self._members:
                if not each.connected:
                    each.renew()

    def _refusal(self, outcome: _Fate, details: str) -> str:
        if "invalid user ID or password" in details:
            return f"ETCD_USERNAME = {self.credentials.username!r}, ETCD_PASSWORD: user or password is wrong"
        if outcome is _Fate.LOG_IN and not self.credentials.has_user:
            return "it wants a user: ETCD_USERNAME and ETCD_PASSWORD are not set"
        if "permission denied" in details:
            who = f"the user {self.credentials.username!r} (ETCD_USERNAME)" if self.credentials.has_user else "we"
            return f"permission denied: {who} may not do this; etcd grants it by a role"
        return _plain(details)


class _Away(DatastoreError):
    """A member could not be asked or did not answer.  ``sent``: the request may have reached it; ``busy``: it is
    there, but cannot serve now; ``silent``: the connection stands and nothing comes."""

    def __init__(self, name: str, reason: str, *, sent: bool, busy: bool = False, silent: bool = False) -> None:
        super().__init__(f"etcd at {name}: {reason}")
        self.reason = reason
        self.sent = sent
        self.busy = busy
        self.silent = silent


def _share(attempt: int, members: int, left: float, repeat: bool) -> float:
    """Seconds for an attempt: the last member that is tried gets all that is left, so that a slow one may answer."""
    return min(ATTEMPT_TIMEOUT, left) if repeat and attempt <= max(members - 1, 1) else left


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """What goes along with a request."""
    return (_HAS_LEADER, ("token", token)) if token else (_HAS_LEADER,)


def _as_rpc_error(raised: BaseException) -> grpc.aio.AioRpcError:
    if isinstance(raised, grpc.aio.AioRpcError):
        return raised
    if not cut_off():
        raise raised
    return rpc_error(grpc.StatusCode.CANCELLED, "the connection was closed")


def _answered(error: grpc.aio.AioRpcError) -> bool:
    """Whether it is etcd that speaks, not gRPC on its behalf."""
    details = error.details() or ""
    return details.startswith(("etcdserver:", "raft ", "auth:", "mvcc:"))


def _plain(details: str) -> str:
    return details.removeprefix("etcdserver: ")
