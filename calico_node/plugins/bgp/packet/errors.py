"""NOTIFICATION codes (RFC 4271 section 4.5, RFC 4486, RFC 6608, RFC 7313) and the errors that carry them."""

from __future__ import annotations

import enum

from calico_node.errors import BGPError


class Code(enum.IntEnum):
    """NOTIFICATION error codes."""

    HEADER = 1
    OPEN = 2
    UPDATE = 3
    HOLD_TIMER = 4
    FSM = 5
    CEASE = 6
    ROUTE_REFRESH = 7


class Header(enum.IntEnum):
    NOT_SYNCHRONIZED = 1
    BAD_LENGTH = 2
    BAD_TYPE = 3


class OpenError(enum.IntEnum):
    UNSPECIFIC = 0
    VERSION = 1
    BAD_PEER_AS = 2
    BAD_IDENTIFIER = 3
    OPTIONAL_PARAMETER = 4
    HOLD_TIME = 6
    CAPABILITY = 7


class UpdateError(enum.IntEnum):
    MALFORMED_ATTRIBUTE_LIST = 1
    UNRECOGNIZED_WELL_KNOWN = 2
    MISSING_WELL_KNOWN = 3
    ATTRIBUTE_FLAGS = 4
    ATTRIBUTE_LENGTH = 5
    INVALID_ORIGIN = 6
    INVALID_NEXT_HOP = 8
    OPTIONAL_ATTRIBUTE = 9
    INVALID_NETWORK = 10
    MALFORMED_AS_PATH = 11


class Cease(enum.IntEnum):
    """RFC 4486 (and RFC 8538 for HARD_RESET)."""

    MAX_PREFIXES = 1
    SHUTDOWN = 2
    DECONFIGURED = 3
    RESET = 4
    REJECTED = 5
    CONFIG_CHANGE = 6
    COLLISION = 7
    OUT_OF_RESOURCES = 8
    HARD_RESET = 9


_SUBCODES: dict[int, type[enum.IntEnum]] = {
    Code.HEADER: Header,
    Code.OPEN: OpenError,
    Code.UPDATE: UpdateError,
    Code.CEASE: Cease,
}


def describe(code: int, subcode: int) -> str:
    """``Cease: connection collision`` and the like, in words; numbers where a code is unknown."""
    try:
        name = Code(code).name.replace("_", " ").lower()
    except ValueError:
        return f"error {code}/{subcode}"
    family = _SUBCODES.get(code)
    if family is None:
        return name
    try:
        return f"{name}: {family(subcode).name.replace('_', ' ').lower()}"
    except ValueError:
        return f"{name}: {subcode}"


class MessageError(BGPError):
    """A message that must be answered with NOTIFICATION ``code``/``subcode`` and ``data``, ending the session."""

    def __init__(self, code: int, subcode: int, data: bytes = b"", reason: str = "") -> None:
        super().__init__(f"{describe(code, subcode)}{f' ({reason})' if reason else ''}")
        self.code = int(code)
        self.subcode = int(subcode)
        self.data = data
