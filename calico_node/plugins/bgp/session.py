"""One neighbour's BGP state machine (RFC 4271 section 8, collisions 6.8, graceful restart RFC 4724), without I/O.

Events go in as method calls with the present time (seconds, any monotonic origin); what must be done comes out as
commands from ``take()``.  A session has at most two connections, one opened by each side, until one is chosen.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterator
from typing import TypeAlias

from attrs import define, field, frozen

from calico_node.plugins.bgp.packet import (
    Capabilities,
    Cease,
    Code,
    Context,
    GracefulRestart,
    Keepalive,
    MessageError,
    Notification,
    Open,
    OpenError,
    RouteRefresh,
    Update,
    decode,
    encode,
    split,
)
from calico_node.plugins.bgp.packet.messages import Message

ERROR_FORGET = 300.0
ERROR_WAIT_MIN, ERROR_WAIT_MAX = 5.0, 30.0


class State(enum.Enum):
    """Session states as BIRD shows them; PASSIVE is idle and waiting for the other side to connect."""

    DOWN = "Down"
    IDLE = "Idle"
    PASSIVE = "Passive"
    CONNECT = "Connect"
    ACTIVE = "Active"
    OPEN_SENT = "OpenSent"
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"


@frozen
class SessionConfig:
    """What a session needs to know.  Times in seconds.  ``restart_time`` 0 switches graceful restart off.

    ``hold_time`` is what we propose; ``keepalive`` 0 means a third of the negotiated hold time.
    """

    version: int
    local_as: int
    remote_as: int
    router_id: int
    passive: bool = False
    hold_time: int = 240
    keepalive: int = 0
    restart_time: int = 120
    add_path: bool = True
    connect_delay: float = 2.0
    connect_retry: float = 5.0


@frozen
class Negotiated:
    """The outcome of the OPEN exchange.  ``peer_restart_time`` None: the peer keeps no routes for us nor we for it.
    ``peer_restarting`` is its R bit, ``peer_forwarding`` its F bit for this family."""

    context: Context
    peer_id: int
    hold_time: int
    keepalive: float
    route_refresh: bool
    enhanced_refresh: bool
    graceful_restart: bool
    peer_restart_time: int | None
    peer_restarting: bool
    peer_forwarding: bool
    long_lived: bool
    long_lived_time: int


@frozen
class Connect:
    """Open a TCP connection; answer with ``connected`` or ``closed`` for ``connection``."""

    connection: int


@frozen
class Send:
    connection: int
    data: bytes


@frozen
class Close:
    """Close the connection after what was sent, and report nothing more about it."""

    connection: int


@frozen
class Up:
    negotiated: Negotiated


@frozen
class Down:
    """The session left Established.  ``graceful``: the peer's routes are to be kept as stale."""

    graceful: bool
    reason: str


@frozen
class Received:
    """An UPDATE or ROUTE-REFRESH of the established session."""

    message: Update | RouteRefresh


Command: TypeAlias = Connect | Send | Close | Up | Down | Received


class _Phase(enum.Enum):
    CONNECT = 0
    OPEN_SENT = 1
    OPEN_CONFIRM = 2
    ESTABLISHED = 3


_NEVER = float("inf")


@define(eq=False)
class _Connection:
    id: int
    outgoing: bool
    phase: _Phase
    buffer: bytearray = field(factory=bytearray)
    open: Open | None = None
    negotiated: Negotiated | None = None
    hold_deadline: float = _NEVER
    keepalive_deadline: float = _NEVER


class Session:
    """The state machine.  Attributes for display: ``state``, ``since`` (time of the last change), ``last_error``."""

    def __init__(
        self, config: SessionConfig, random: Callable[[], float], numbers: Iterator[int] | None = None
    ) -> None:
        """``random`` returns 0..1; ``numbers`` gives connections their numbers, unique where sessions share it."""
        self.config = config
        self.last_error = ""
        self.since = 0.0
        self.restarting = False  # the R bit of our next OPEN
        self.forwarding = False  # the F bit: our kernel keeps forwarding while we are away
        self._random = random
        self._shown = State.DOWN
        self._commands: list[Command] = []
        self._connections: dict[int, _Connection] = {}
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._enabled = False
        self._connect_deadline = _NEVER
        self._attempts = 0
        self._refuse_until = 0.0
        self._error_wait = 0.0
        self._last_error_at = -ERROR_FORGET
        self._send_capabilities = True

    # --- what the shell asks

    @property
    def state(self) -> State:
        if not self._enabled:
            return State.DOWN
        phases = [connection.phase for connection in self._connections.values()]
        if not phases:
            return State.PASSIVE if self.config.passive else State.ACTIVE if self._attempts else State.IDLE
        furthest = max(phases, key=lambda phase: phase.value)
        return {
            _Phase.CONNECT: State.CONNECT,
            _Phase.OPEN_SENT: State.OPEN_SENT,
            _Phase.OPEN_CONFIRM: State.OPEN_CONFIRM,
            _Phase.ESTABLISHED: State.ESTABLISHED,
        }[furthest]

    @property
    def established(self) -> Negotiated | None:
        """What was negotiated, while the session is Established."""
        connection = self._current()
        return connection.negotiated if connection else None

    def take(self) -> list[Command]:
        """The commands since the last call, in order."""
        commands, self._commands = self._commands, []
        return commands

    def deadline(self) -> float:
        """When ``tick`` must be called next; infinity when nothing is pending."""
        times = [self._connect_deadline]
        for connection in self._connections.values():
            times += (connection.hold_deadline, connection.keepalive_deadline)
        return min(times)

    # --- events

    def start(self, now: float) -> None:
        """Administratively up: connect after the connect delay, unless passive."""
        self._enabled = True
        self._schedule_connect(now, self.config.connect_delay)
        self._note(now)

    def stop(self, now: float, subcode: int | None = None) -> None:
        """Administratively down.  With ``subcode`` a Cease is sent; with None the peer sees only TCP close, so that
        it keeps our routes (RFC 4724)."""
        for connection in list(self._connections.values()):
            if subcode is not None and connection.phase is not _Phase.CONNECT:
                self._send(connection, Notification(Code.CEASE, subcode), now)
            self._drop(connection, "stopped", graceful=False)
        self._enabled = False
        self._connect_deadline = _NEVER
        self._note(now)

    def incoming(self, now: float) -> int | None:
        """The neighbour connected to us: a connection number, or None to refuse it."""
        if not self._enabled or now < self._refuse_until:
            return None
        current = self._current()
        if current is not None:
            if not self._can_restart(current):
                return None
            self._drop(current, "the peer opened a new connection", graceful=True)
        for other in list(self._connections.values()):
            if not other.outgoing:
                if other.phase is not _Phase.OPEN_SENT:
                    return None
                self._drop(other, "replaced by a newer connection", graceful=False)
        connection = self._new(outgoing=False)
        self._opened(connection, now)
        self._note(now)
        return connection.id

    def connected(self, number: int, now: float) -> None:
        """The connection asked for with ``Connect`` is there."""
        connection = self._connections.get(number)
        if connection is not None:
            self._opened(connection, now)
            self._note(now)

    def closed(self, number: int, now: float, reason: str = "connection closed") -> None:
        """The connection failed, or the neighbour closed it."""
        connection = self._connections.pop(number, None)
        if connection is None:
            return
        self.last_error = reason
        if connection.phase is _Phase.ESTABLISHED:
            self._commands.append(Down(self._can_restart(connection), reason))
            self._attempts = 0
            self._schedule_connect(now, self.config.connect_delay)
        elif connection.outgoing or not self._connections:
            self._schedule_retry(now)
        self._note(now)

    def receive(self, number: int, data: bytes, now: float) -> None:
        """Bytes from the neighbour."""
        connection = self._connections.get(number)
        if connection is None:
            return
        connection.buffer += data
        try:
            while number in self._connections:
                message = split(connection.buffer)
                if message is None:
                    break
                context = connection.negotiated.context if connection.negotiated else Context()
                self._message(connection, decode(*message, context), now)
        except MessageError as error:
            self._fail(connection, error, now)
        self._note(now)

    def tick(self, now: float) -> None:
        """Time has passed."""
        for connection in list(self._connections.values()):
            if now >= connection.hold_deadline:
                self._fail(connection, MessageError(Code.HOLD_TIMER, 0), now)
            elif now >= connection.keepalive_deadline:
                self._send(connection, Keepalive(), now)
        if now >= self._connect_deadline:
            self._connect_deadline = _NEVER
            if self._enabled and not any(c.outgoing for c in self._connections.values()) and not self._current():
                self._attempts += 1
                connection = self._new(outgoing=True)
                self._commands.append(Connect(connection.id))
        self._note(now)

    def send(self, data: bytes, now: float) -> None:
        """Send framed UPDATE or ROUTE-REFRESH bytes on the established session; dropped when there is none."""
        connection = self._current()
        if connection is not None:
            self._commands.append(Send(connection.id, data))
            self._arm_keepalive(connection, now)

    # --- inside

    def _new(self, *, outgoing: bool) -> _Connection:
        connection = _Connection(next(self._numbers), outgoing, _Phase.CONNECT)
        self._connections[connection.id] = connection
        return connection

    def _current(self) -> _Connection | None:
        for connection in self._connections.values():
            if connection.phase is _Phase.ESTABLISHED:
                return connection
        return None

    def _note(self, now: float) -> None:
        state = self.state
        if state is not self._shown:
            self._shown = state
            self.since = now

    def _jitter(self, seconds: float) -> float:
        """Every timer fires within the last quarter of its time."""
        return seconds * (0.75 + 0.25 * self._random())

    def _schedule_connect(self, now: float, delay: float) -> None:
        if self._enabled and not self.config.passive:
            self._connect_deadline = now + self._jitter(delay)

    def _schedule_retry(self, now: float) -> None:
        """The first retries come sooner: a neighbour that starts beside us is listening a moment later."""
        delay = min(self.config.connect_retry, self.config.connect_delay * 2.0 ** min(self._attempts, 8))
        self._schedule_connect(max(now, self._refuse_until), delay)

    def _can_restart(self, connection: _Connection) -> bool:
        negotiated = connection.negotiated
        return negotiated is not None and negotiated.graceful_restart and negotiated.peer_restart_time is not None

    def _opened(self, connection: _Connection, now: float) -> None:
        connection.phase = _Phase.OPEN_SENT
        connection.hold_deadline = now + 240.0
        self._send(connection, self._open_message(), now)

    def _open_message(self) -> Open:
        c = self.config
        if not self._send_capabilities:
            return Open(c.local_as, c.hold_time, c.router_id)
        restart = None
        if c.restart_time:
            restart = GracefulRestart(self.restarting, min(c.restart_time, 4095), {c.version: self.forwarding})
        capabilities = Capabilities(
            families=frozenset((c.version,)),
            route_refresh=True,
            graceful_restart=restart,
            as4=c.local_as,
            add_path={c.version: 3} if c.add_path else {},
            enhanced_refresh=True,
            long_lived={},
        )
        return Open(c.local_as, c.hold_time, c.router_id, capabilities)

    def _send(self, connection: _Connection, message: Open | Notification | Keepalive, now: float) -> None:
        self._commands.append(Send(connection.id, encode(message)))
        self._arm_keepalive(connection, now)

    def _arm_keepalive(self, connection: _Connection, now: float) -> None:
        negotiated = connection.negotiated
        if negotiated is not None and negotiated.hold_time:
            connection.keepalive_deadline = now + self._jitter(negotiated.keepalive)

    def _drop(self, connection: _Connection, reason: str, *, graceful: bool) -> None:
        """Close our side without asking further."""
        if self._connections.pop(connection.id, None) is None:
            return
        self._commands.append(Close(connection.id))
        if connection.phase is _Phase.ESTABLISHED:
            self._commands.append(Down(graceful, reason))

    def _fail(self, connection: _Connection, error: MessageError, now: float) -> None:
        """Answer an error with NOTIFICATION, close, and wait before the next attempt."""
        self.last_error = f"Error: {error}"
        if connection.phase is not _Phase.CONNECT:
            self._send(connection, Notification(error.code, error.subcode, error.data[:4000]), now)
        self._drop(connection, str(error), graceful=False)
        self._after_error(error.code, error.subcode, now, received=False)

    def _after_error(self, code: int, subcode: int, now: float, *, received: bool) -> None:
        """BIRD's error wait: 5 s doubling to 30 s, forgotten after 300 s; none for a Cease."""
        if code != Code.CEASE:
            if now - self._last_error_at > ERROR_FORGET:
                self._error_wait = 0.0
            self._last_error_at = now
            self._error_wait = min(max(self._error_wait * 2, ERROR_WAIT_MIN), ERROR_WAIT_MAX)
            if received and code == Code.OPEN and subcode in (OpenError.OPTIONAL_PARAMETER, OpenError.CAPABILITY):
                self._send_capabilities = self.config.version != 4
            if not self._connections:
                self._refuse_until = now + self._error_wait
        if not self._connections:
            self._schedule_retry(now)

    def _message(self, connection: _Connection, message: Message, now: float) -> None:
        if isinstance(message, Notification):
            self._notified(connection, message, now)
        elif connection.phase is _Phase.OPEN_SENT:
            if not isinstance(message, Open):
                raise MessageError(Code.FSM, 1, reason=f"{type(message).__name__} in OpenSent")
            self._negotiate(connection, message, now)
        elif isinstance(message, Open):
            raise MessageError(
                Code.FSM, 2 if connection.phase is _Phase.OPEN_CONFIRM else 3, reason="unexpected OPEN"
            )
        else:
            if connection.phase is _Phase.OPEN_CONFIRM:
                self._establish(connection)
            if connection.negotiated is not None and connection.negotiated.hold_time:
                connection.hold_deadline = now + connection.negotiated.hold_time
            if isinstance(message, (Update, RouteRefresh)):
                self._commands.append(Received(message))

    def _notified(self, connection: _Connection, message: Notification, now: float) -> None:
        self.last_error = f"Received: {message}"
        self._drop(connection, f"received {message}", graceful=False)
        self._after_error(message.code, message.subcode, now, received=True)

    def _negotiate(self, connection: _Connection, message: Open, now: float) -> None:
        """OPEN came: check it, settle a collision, and agree."""
        c = self.config
        if message.asn != c.remote_as:
            raise MessageError(Code.OPEN, OpenError.BAD_PEER_AS, reason=f"AS {message.asn}, expected {c.remote_as}")
        if message.identifier == c.router_id and c.local_as == c.remote_as:
            raise MessageError(Code.OPEN, OpenError.BAD_IDENTIFIER, reason="the router id is our own")
        capabilities = message.capabilities
        families = capabilities.families or frozenset((4,))  # RFC 4760 section 8: without it, IPv4 unicast
        if c.version not in families:
            raise MessageError(
                Code.OPEN, OpenError.CAPABILITY, reason=f"the peer does not speak IPv{c.version} unicast"
            )
        if not self._wins_collision(connection, message, now):
            return
        connection.open = message
        connection.negotiated = negotiated = self._agree(message)
        connection.phase = _Phase.OPEN_CONFIRM
        connection.hold_deadline = now + negotiated.hold_time if negotiated.hold_time else _NEVER
        self._send(connection, Keepalive(), now)

    def _wins_collision(self, connection: _Connection, message: Open, now: float) -> bool:
        """RFC 4271 section 6.8, as BIRD does it: the connection opened by the higher router id stays."""
        for other in list(self._connections.values()):
            if other is connection or other.phase is _Phase.OPEN_SENT:
                continue
            if other.phase is _Phase.CONNECT:
                self._drop(other, "the other side connected first", graceful=False)
                continue
            ours = (self.config.router_id, self.config.local_as)
            local_higher = ours > (message.identifier, message.asn)
            if other.phase is _Phase.ESTABLISHED or other.outgoing == local_higher:
                self._send(connection, Notification(Code.CEASE, Cease.COLLISION), now)
                self._drop(connection, "collision", graceful=False)
                return False
            self._send(other, Notification(Code.CEASE, Cease.COLLISION), now)
            self._drop(other, "collision", graceful=False)
        return True

    def _agree(self, message: Open) -> Negotiated:
        c, theirs = self.config, message.capabilities
        ours = self._send_capabilities
        hold = min(c.hold_time, message.hold_time)
        mode = theirs.add_path.get(c.version, 0) if c.add_path and ours else 0
        restart = theirs.graceful_restart if ours and c.restart_time else None
        covered = restart is not None and c.version in restart.families
        return Negotiated(
            context=Context(
                as4=theirs.as4 is not None and ours,
                ibgp=c.local_as == c.remote_as,
                add_path_receive=frozenset((c.version,)) if mode & 2 else frozenset(),
                add_path_send=frozenset((c.version,)) if mode & 1 else frozenset(),
            ),
            peer_id=message.identifier,
            hold_time=hold,
            keepalive=min(c.keepalive or hold / 3, hold / 3) if hold else 0.0,
            route_refresh=theirs.route_refresh and ours,
            enhanced_refresh=theirs.enhanced_refresh and ours,
            graceful_restart=restart is not None,
            peer_restart_time=restart.seconds if restart is not None and covered else None,
            peer_restarting=restart is not None and restart.restarting,
            peer_forwarding=restart is not None and restart.families.get(c.version, False),
            long_lived=theirs.long_lived is not None and ours,
            long_lived_time=(theirs.long_lived or {}).get(c.version, 0),
        )

    def _establish(self, connection: _Connection) -> None:
        connection.phase = _Phase.ESTABLISHED
        self._attempts = 0
        self._connect_deadline = _NEVER
        self.last_error = ""
        for other in list(self._connections.values()):
            if other is not connection and other.phase is _Phase.CONNECT:
                self._drop(other, "another connection is established", graceful=False)
        assert connection.negotiated is not None
        self._commands.append(Up(connection.negotiated))
