"""The OPEN message and its capabilities (RFC 5492), in the order and form BIRD sends them for Calico."""

from __future__ import annotations

from attrs import field, frozen

from calico_node.plugins.bgp.packet.attributes import AFI, AS_TRANS, VERSION
from calico_node.plugins.bgp.packet.errors import Code, MessageError, OpenError

MULTIPROTOCOL, ROUTE_REFRESH, GRACEFUL_RESTART, FOUR_OCTET_AS = 1, 2, 64, 65
ADD_PATH, ENHANCED_REFRESH, LONG_LIVED_GR = 69, 70, 71

RECEIVE, SEND, BOTH = 1, 2, 3


@frozen
class GracefulRestart:
    """RFC 4724: ``restarting`` is the R bit, ``seconds`` the restart time, ``families`` version to F bit."""

    restarting: bool = False
    seconds: int = 120
    families: dict[int, bool] = field(factory=dict)


@frozen
class Capabilities:
    """What one side can do.

    ``add_path`` maps a version to RECEIVE, SEND or BOTH; ``long_lived`` (RFC 9494) a version to its stale time in
    seconds, None where the capability is absent.  ``present`` is False for an OPEN without any.
    """

    families: frozenset[int] = frozenset()
    route_refresh: bool = False
    graceful_restart: GracefulRestart | None = None
    as4: int | None = None
    add_path: dict[int, int] = field(factory=dict)
    enhanced_refresh: bool = False
    long_lived: dict[int, int] | None = None
    present: bool = True


NO_CAPABILITIES = Capabilities(present=False)


@frozen
class Open:
    """``asn`` is the real AS number (four octets where announced); ``identifier`` the router id as a number."""

    asn: int
    hold_time: int
    identifier: int
    capabilities: Capabilities = NO_CAPABILITIES


def encode_open(message: Open) -> bytes:
    """The body of an OPEN: one optional parameter with all capabilities, none at all where there are none."""
    capabilities = _encode_capabilities(message.capabilities)
    parameters = bytes((2, len(capabilities))) + capabilities if capabilities else b""
    return (
        bytes((4,))
        + (message.asn if message.asn < 65535 else AS_TRANS).to_bytes(2, "big")
        + message.hold_time.to_bytes(2, "big")
        + message.identifier.to_bytes(4, "big")
        + bytes((len(parameters),))
        + parameters
    )


def _capability(code: int, value: bytes = b"") -> bytes:
    return bytes((code, len(value))) + value


def _encode_capabilities(c: Capabilities) -> bytes:
    parts = [_capability(MULTIPROTOCOL, AFI[v].to_bytes(2, "big") + b"\x00\x01") for v in sorted(c.families)]
    if c.route_refresh:
        parts.append(_capability(ROUTE_REFRESH))
    if c.graceful_restart is not None:
        g = c.graceful_restart
        value = (g.seconds & 0x0FFF | (0x8000 if g.restarting else 0)).to_bytes(2, "big")
        for version, forwarding in sorted(g.families.items()):
            value += AFI[version].to_bytes(2, "big") + bytes((1, 0x80 if forwarding else 0))
        parts.append(_capability(GRACEFUL_RESTART, value))
    if c.as4 is not None:
        parts.append(_capability(FOUR_OCTET_AS, c.as4.to_bytes(4, "big")))
    if c.add_path:
        value = b"".join(AFI[v].to_bytes(2, "big") + bytes((1, mode)) for v, mode in sorted(c.add_path.items()))
        parts.append(_capability(ADD_PATH, value))
    if c.enhanced_refresh:
        parts.append(_capability(ENHANCED_REFRESH))
    if c.long_lived is not None:
        value = b"".join(
            AFI[v].to_bytes(2, "big") + b"\x01\x00" + seconds.to_bytes(3, "big")
            for v, seconds in sorted(c.long_lived.items())
        )
        parts.append(_capability(LONG_LIVED_GR, value))
    return b"".join(parts)


def decode_open(body: bytes) -> Open:
    """Check and read an OPEN body.  Raises ``MessageError`` 2/x (the AS is checked by the session, not here)."""
    if len(body) < 10:
        raise MessageError(Code.HEADER, 2, (len(body) + 19).to_bytes(2, "big"), "OPEN too short")
    if body[0] != 4:
        raise MessageError(Code.OPEN, OpenError.VERSION, b"\x00\x04")
    asn = int.from_bytes(body[1:3], "big")
    hold_time = int.from_bytes(body[3:5], "big")
    identifier = int.from_bytes(body[5:9], "big")
    if hold_time in (1, 2):
        raise MessageError(Code.OPEN, OpenError.HOLD_TIME, body[3:5])
    if identifier == 0:
        raise MessageError(Code.OPEN, OpenError.BAD_IDENTIFIER, body[5:9])
    raw = _parameters(body)
    capabilities = _decode_capabilities(raw) if raw else NO_CAPABILITIES
    if capabilities.as4 is not None:
        asn = capabilities.as4
    if asn == 0:
        raise MessageError(Code.OPEN, OpenError.BAD_PEER_AS, reason="AS 0")
    return Open(asn, hold_time, identifier, capabilities)


def _parameters(body: bytes) -> list[tuple[int, bytes]]:
    """The capabilities of all optional parameters (RFC 9072's extended form included)."""
    extended = len(body) >= 13 and body[9] == 255 and body[10] == 255
    if extended:
        position, length, width = 13, int.from_bytes(body[11:13], "big"), 2
    else:
        position, length, width = 10, body[9], 1
    if position + length != len(body):
        raise MessageError(Code.OPEN, OpenError.UNSPECIFIC, reason="optional parameters length")
    found: list[tuple[int, bytes]] = []
    while position < len(body):
        if position + 1 + width > len(body):
            raise MessageError(Code.OPEN, OpenError.UNSPECIFIC, reason="truncated optional parameter")
        kind = body[position]
        size = int.from_bytes(body[position + 1 : position + 1 + width], "big")
        position += 1 + width
        value = body[position : position + size]
        position += size
        if len(value) != size:
            raise MessageError(Code.OPEN, OpenError.UNSPECIFIC, reason="truncated optional parameter")
        if kind != 2:
            raise MessageError(Code.OPEN, OpenError.OPTIONAL_PARAMETER, reason=f"optional parameter {kind}")
        found.extend(_split(value))
    return found


def _split(value: bytes) -> list[tuple[int, bytes]]:
    found = []
    position = 0
    while position < len(value):
        if position + 2 > len(value) or position + 2 + value[position + 1] > len(value):
            raise MessageError(Code.OPEN, OpenError.UNSPECIFIC, reason="truncated capability")
        stop = position + 2 + value[position + 1]
        found.append((value[position], value[position + 2 : stop]))
        position = stop
    return found


def _decode_capabilities(raw: list[tuple[int, bytes]]) -> Capabilities:
    families: set[int] = set()
    refresh = enhanced = False
    restart: GracefulRestart | None = None
    as4: int | None = None
    add_path: dict[int, int] = {}
    long_lived: dict[int, int] | None = None
    for code, value in raw:
        if code == MULTIPROTOCOL:
            _expect(len(value) == 4, code)
            if value[3] == 1 and int.from_bytes(value[:2], "big") in VERSION:
                families.add(VERSION[int.from_bytes(value[:2], "big")])
        elif code == ROUTE_REFRESH:
            refresh = True
        elif code == ENHANCED_REFRESH:
            enhanced = True
        elif code == FOUR_OCTET_AS:
            _expect(len(value) == 4, code)
            as4 = int.from_bytes(value, "big")
        elif code == GRACEFUL_RESTART:
            _expect(len(value) % 4 == 2, code)
            restart = _graceful_restart(value)
        elif code == ADD_PATH:
            _expect(len(value) % 4 == 0, code)
            for version, rest in _families(value, 4):
                if rest[0] in (RECEIVE, SEND, BOTH):
                    add_path[version] = rest[0]
        elif code == LONG_LIVED_GR:
            _expect(len(value) % 7 == 0, code)
            long_lived = {version: int.from_bytes(rest[1:4], "big") for version, rest in _families(value, 7)}
    return Capabilities(frozenset(families), refresh, restart, as4, add_path, enhanced, long_lived)


def _expect(condition: bool, code: int) -> None:
    if not condition:
        raise MessageError(Code.OPEN, OpenError.UNSPECIFIC, reason=f"malformed capability {code}")


def _families(value: bytes, size: int) -> list[tuple[int, bytes]]:
    """(version, rest) for each known unicast family of a list of ``size``-byte entries."""
    found = []
    for position in range(0, len(value), size):
        version = VERSION.get(int.from_bytes(value[position : position + 2], "big"))
        if version is not None and value[position + 2] == 1:
            found.append((version, value[position + 3 : position + size]))
    return found


def _graceful_restart(value: bytes) -> GracefulRestart:
    word = int.from_bytes(value[:2], "big")
    families = {version: bool(rest[0] & 0x80) for version, rest in _families(value[2:], 4)}
    return GracefulRestart(bool(word & 0x8000), word & 0x0FFF, families)
