"""The state machine of one session: timers, refusals, error waits, collisions, what an OPEN says."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.plugins.bgp.packet import (
    Capabilities,
    Context,
    GracefulRestart,
    Keepalive,
    Message,
    Notification,
    Open,
    decode,
    encode,
    split,
)
from calico_node.plugins.bgp.session import Close, Connect, Down, Send, Session, SessionConfig, State, Up

CONFIG = SessionConfig(version=4, local_as=64512, remote_as=64512, router_id=100)
FULL = Capabilities(frozenset((4,)), True, GracefulRestart(False, 90, {4: True}), 64512, {4: 3}, True, {})
THEIRS = Open(64512, 90, 200, FULL)


def session(**changes: int | bool) -> Session:
    made = Session(evolve(CONFIG, **changes), lambda: 1.0)
    made.start(0.0)
    return made


def sent(commands: list[object]) -> list[Message]:
    found = []
    for command in commands:
        if isinstance(command, Send):
            message = split(bytearray(command.data))
            assert message is not None
            found.append(decode(*message, Context()))
    return found


def connect(s: Session, now: float = 2.0) -> int:
    s.tick(now)
    (command,) = s.take()
    assert isinstance(command, Connect)
    s.connected(command.connection, now)
    return command.connection


def establish(s: Session, message: Open = THEIRS, now: float = 2.0) -> int:
    number = connect(s, now)
    s.receive(number, encode(message) + encode(Keepalive()), now)
    assert s.state is State.ESTABLISHED
    return number


def test_the_first_connection_waits_for_the_connect_delay() -> None:
    s = session()
    assert s.state is State.IDLE
    assert s.deadline() == 2.0
    s.tick(1.9)
    assert s.take() == []
    s.tick(2.0)
    assert s.take() == [Connect(1)]
    assert s.state is State.CONNECT


def test_timers_fire_within_their_last_quarter() -> None:
    s = Session(CONFIG, lambda: 0.0)
    s.start(0.0)
    assert s.deadline() == 1.5


def test_a_refused_connection_is_tried_again() -> None:
    s = session()
    s.tick(2.0)
    s.take()
    s.closed(1, 2.1, "Socket: Connection refused")
    assert s.state is State.ACTIVE
    assert 2.1 < s.deadline() <= 7.1
    assert s.last_error == "Socket: Connection refused"
    for _ in range(5):
        now = s.deadline()
        s.tick(now)
        (command,) = s.take()
        assert isinstance(command, Connect)
        s.closed(command.connection, now)
    assert s.deadline() == now + 5.0


def test_a_passive_session_never_connects() -> None:
    s = session(passive=True)
    assert s.state is State.PASSIVE
    assert s.deadline() == float("inf")
    number = s.incoming(5.0)
    assert number is not None
    s.receive(number, encode(THEIRS) + encode(Keepalive()), 5.0)
    assert s.state is State.ESTABLISHED


def test_the_open_says_what_bird_says() -> None:
    s = session()
    s.restarting = s.forwarding = True
    connect(s)
    (message,) = sent(s.take())
    assert message == Open(
        64512,
        240,
        100,
        Capabilities(frozenset((4,)), True, GracefulRestart(True, 120, {4: True}), 64512, {4: 3}, True, {}),
    )


def test_negotiation() -> None:
    s = session()
    establish(s)
    negotiated = s.established
    assert negotiated is not None
    assert (negotiated.hold_time, negotiated.keepalive, negotiated.peer_restart_time) == (90, 30, 90)
    assert negotiated.context.add_path_send == negotiated.context.add_path_receive == {4}
    assert negotiated.route_refresh
    assert negotiated.enhanced_refresh
    assert negotiated.peer_forwarding
    assert not negotiated.peer_restarting
    assert Up(negotiated) in s.take()


def test_a_neighbour_without_capabilities() -> None:
    s = session()
    establish(s, Open(64512, 3, 200))
    negotiated = s.established
    assert negotiated is not None
    assert negotiated.context == Context(as4=False)
    assert (negotiated.hold_time, negotiated.peer_restart_time) == (3, None)
    assert not negotiated.route_refresh


@pytest.mark.parametrize(("mode", "receive", "send"), [(1, False, True), (2, True, False), (3, True, True)])
def test_add_path_is_agreed_by_direction(mode: int, receive: bool, send: bool) -> None:
    s = session()
    establish(s, evolve(THEIRS, capabilities=evolve(FULL, add_path={4: mode})))
    assert s.established is not None
    assert (4 in s.established.context.add_path_receive) == receive
    assert (4 in s.established.context.add_path_send) == send


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (evolve(THEIRS, asn=65000, capabilities=evolve(FULL, as4=65000)), (2, 2)),
        (evolve(THEIRS, identifier=100), (2, 3)),
        (evolve(THEIRS, capabilities=evolve(FULL, families=frozenset((6,)))), (2, 7)),
        (Keepalive(), (5, 1)),
    ],
)
def test_what_is_refused_before_establishment(message: Message, code: tuple[int, int]) -> None:
    s = session()
    number = connect(s)
    s.take()
    s.receive(number, encode(message), 2.0)
    commands = s.take()
    (notification,) = sent(commands)
    assert isinstance(notification, Notification)
    assert (notification.code, notification.subcode) == code
    assert Close(number) in commands
    assert s.incoming(6.9) is None
    assert s.incoming(7.1) is not None


def test_error_waits_double_up_to_thirty_seconds() -> None:
    s = session()
    now, waits = 2.0, []
    for _ in range(5):
        number = connect(s, now)
        s.receive(number, encode(Keepalive()), now)
        s.take()
        waits.append(next(w for w in range(1, 100) if s.incoming(now + w) is not None))
        for command in list(s._connections):
            s.closed(command, now + waits[-1])
        s.take()
        now = s.deadline()
    assert waits == [5, 10, 20, 30, 30]


def test_cease_has_no_penalty() -> None:
    s = session()
    number = establish(s)
    s.take()
    s.receive(number, encode(Notification(6, 4)), 3.0)
    assert s.take() == [Close(number), Down(False, "received cease: reset")]
    assert s.incoming(3.0) is not None


def test_hold_and_keepalive_timers() -> None:
    s = session()
    establish(s)
    s.take()
    assert s.deadline() == 32.0
    s.tick(32.0)
    assert sent(s.take()) == [Keepalive()]
    s.tick(62.0)
    s.tick(92.0)
    (first, notification) = sent(s.take())
    assert first == Keepalive()
    assert notification == Notification(4, 0)
    assert s.state is not State.ESTABLISHED


def test_a_hold_time_of_zero_switches_timers_off() -> None:
    s = session()
    establish(s, evolve(THEIRS, hold_time=0))
    assert s.deadline() == float("inf")


def test_losing_the_connection_is_graceful_where_both_can_restart() -> None:
    s = session()
    s.closed(establish(s), 3.0)
    assert Down(True, "connection closed") in s.take()
    s = session()
    s.closed(establish(s, evolve(THEIRS, capabilities=evolve(FULL, graceful_restart=None))), 3.0)
    assert Down(False, "connection closed") in s.take()


def test_a_new_connection_of_an_established_neighbour_is_its_restart() -> None:
    s = session()
    old = establish(s)
    s.take()
    number = s.incoming(9.0)
    assert number is not None
    commands = s.take()
    assert commands[:2] == [Close(old), Down(True, "the peer opened a new connection")]
    s = session()
    establish(s, evolve(THEIRS, capabilities=evolve(FULL, graceful_restart=None)))
    assert s.incoming(9.0) is None


@pytest.mark.parametrize(("our_id", "outgoing_stays"), [(100, False), (300, True)])
def test_a_collision_is_won_by_the_higher_router_id(our_id: int, outgoing_stays: bool) -> None:
    s = session(router_id=our_id)
    outgoing = connect(s)
    incoming = s.incoming(2.0)
    assert incoming is not None
    s.receive(outgoing, encode(THEIRS), 2.1)
    s.take()
    s.receive(incoming, encode(THEIRS), 2.2)
    commands = s.take()
    assert Notification(6, 7) in sent(commands)
    assert Close(incoming if outgoing_stays else outgoing) in commands
    kept = outgoing if outgoing_stays else incoming
    s.receive(kept, encode(Keepalive()), 2.3)
    assert s.state is State.ESTABLISHED


def test_stopping_with_and_without_a_word() -> None:
    s = session()
    number = establish(s)
    s.take()
    s.stop(3.0)
    assert s.take() == [Close(number), Down(False, "stopped")]
    assert s.state is State.DOWN
    assert s.incoming(4.0) is None
    s = session()
    establish(s)
    s.take()
    s.stop(3.0, 2)
    assert sent(s.take()) == [Notification(6, 2)]


def test_an_old_neighbour_that_refuses_capabilities_gets_none() -> None:
    s = session()
    number = connect(s)
    s.take()
    s.receive(number, encode(Notification(2, 4)), 2.0)
    s.take()
    connect(s, s.deadline())
    (message,) = sent(s.take())
    assert isinstance(message, Open)
    assert not message.capabilities.present


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("tick", "incoming", "connected", "closed", "receive", "open")), st.binary(max_size=40)
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.booleans())
def test_any_order_of_events_is_survived(events: list[tuple[str, bytes]], passive: bool) -> None:
    s = session(passive=passive)
    now = 0.0
    for kind, data in events:
        now += 1.0
        number = data[0] % 6 if data else 1
        if kind == "tick":
            s.tick(now)
        elif kind == "incoming":
            s.incoming(now)
        elif kind == "connected":
            s.connected(number, now)
        elif kind == "closed":
            s.closed(number, now)
        elif kind == "open":
            s.receive(number, encode(THEIRS) + encode(Keepalive()), now)
        else:
            s.receive(number, data, now)
        assert len(s._connections) <= 2
        downs = [command for command in s.take() if isinstance(command, (Up, Down))]
        assert len(downs) <= 2
    for number in list(s._connections):
        s.closed(number, now)
    if not passive:
        assert s.deadline() < now + 400
