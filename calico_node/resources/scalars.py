"""Scalars with a text form of their own: durations, protocols, ports, AS numbers, DSCP values."""

import re
from functools import lru_cache
from typing import Any

from calico_node.resources.fields import Codec, Fault

PROTOCOLS = {"ICMP": 1, "TCP": 6, "UDP": 17, "ICMPv6": 58, "SCTP": 132, "UDPLite": 136}
"""The protocol names of the v3 API (exact case) and their IP protocol numbers."""

DSCP_NAMES = {
    "DF": 0,
    "EF": 46,
    **{f"AF{x}{y}": 8 * x + 2 * y for x in range(1, 5) for y in range(1, 4)},
    **{f"CS{n}": 8 * n for n in range(7)},
}

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_WHOLE_DURATION = re.compile(r"(?:[0-9]+(?:ms|s|m|h))*", re.ASCII)
_PLAIN_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))*", re.ASCII)
_PORT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_DIGITS = re.compile(r"[0-9]+", re.ASCII)


def duration_nanoseconds(text: str) -> int:
    """Nanoseconds of a Go duration such as ``1m30s``, ``100ms`` or ``0``.  Raises ``ValueError``."""
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    total = position = 0
    while position < len(body):
        match = _DURATION_PART.match(body, position)
        if not match or not (match[1] or match[2]):
            raise ValueError(f"{text!r} is not a duration")
        unit = _UNITS[match[3]]
        fraction = (match[2] or "")[:18]
        total += int(match[1] or "0") * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
        position = match.end()
    if not body or total > 2**63 - 1:
        raise ValueError(f"{text!r} is not a duration")
    return -total if text[0] == "-" else total


def duration_seconds(text: str) -> float:
    """Seconds of a Go duration text.  Raises ``ValueError``."""
    return duration_nanoseconds(text) / 10**9


def format_duration(nanoseconds: int) -> str:
    """The text Go prints: ``1m30s``, ``1h0m0s``, ``1.5s``, ``100ms``, ``0s``."""
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if rest < size * 1000 and rest < 10**9:
            return f"{sign}{_fraction(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_fraction(rest, 10**9)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _fraction(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(size)) - 1, '0').rstrip('0')}"


def _read_duration(raw: Any) -> str:
    if not isinstance(raw, str):
        raise Fault("must be a duration such as 90s or 1m30s", raw)
    try:
        return format_duration(duration_nanoseconds(raw))
    except ValueError:
        raise Fault("must be a duration such as 90s or 1m30s", raw) from None


DURATION = Codec(_read_duration)
"""A Go duration, kept as its canonical text (``duration_seconds`` gives the number)."""


def check_whole_duration(text: str) -> str | None:
    """The pattern that 20 fields of Calico's FelixConfiguration CRD have: it knows neither fraction nor sign."""
    if _WHOLE_DURATION.fullmatch(text):
        return None
    return "must be made of whole numbers of h, m, s and ms, as in 1m30s (Calico's schema takes no fraction here)"


def check_positive_duration(text: str) -> str | None:
    """The same with fractions."""
    return None if _PLAIN_DURATION.fullmatch(text) else "must be made of numbers of h, m, s and ms, as in 1m30s"


def check_not_negative(text: str) -> str | None:
    return "must not be negative" if text.startswith("-") else None


def _read_protocol(raw: Any) -> str | int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if not isinstance(raw, str):
        raise Fault("must be a protocol name or number", raw)
    return int(raw) if len(raw) < 10 and _DIGITS.fullmatch(raw) else raw


PROTOCOL = Codec(_read_protocol)
"""A protocol name or number; a number in quotes becomes a number."""


def protocol_number(protocol: str | int) -> int | None:
    """The IP protocol number, None for an unknown name."""
    return protocol if isinstance(protocol, int) else PROTOCOLS.get(protocol)


def check_protocol(value: str | int) -> str | None:
    if isinstance(value, int):
        return None if 1 <= value <= 255 else "protocol number must be 1 to 255"
    return None if value in PROTOCOLS else f"must be one of {', '.join(sorted(PROTOCOLS))} or a number 1 to 255"


def _read_port(raw: Any) -> str | int:
    """A number, ``low:high`` or a name; text that is a number, and a range of one, become the number."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        if not 0 <= raw <= 65535:
            raise Fault("port must be 1 to 65535", raw)
        return raw
    if not isinstance(raw, str):
        raise Fault("must be a port number, a range low:high or a port name", raw)
    low, colon, high = raw.partition(":")
    if not _DIGITS.fullmatch(low) or (colon and not _DIGITS.fullmatch(high)):
        if colon or not _PORT_NAME.fullmatch(raw):
            raise Fault("must be a port number, a range low:high or a port name", raw)
        return raw
    if len(low) > 5 or int(low) > 65535 or len(high) > 5 or (high and int(high) > 65535):
        raise Fault("port must be 1 to 65535", raw)
    if not colon or int(low) == int(high):
        return int(low)
    if int(low) > int(high):
        raise Fault("the port range's end is before its start", raw)
    return f"{int(low)}:{int(high)}"


PORT = Codec(_read_port)
"""A port number (int), a range ``low:high`` or a name (str)."""


def port_range(port: str | int) -> tuple[int, int] | None:
    """First and last number of a numeric port or range, None for a name."""
    if isinstance(port, int):
        return port, port
    low, colon, high = port.partition(":")
    return (int(low), int(high)) if colon else None


@lru_cache(maxsize=1024)
def check_port_name(value: str) -> str | None:
    """The rule of Kubernetes port names."""
    if (
        len(value) > 15
        or not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", value)
        or "--" in value
        or not re.search("[a-z]", value)
    ):
        return (
            "a port name has at most 15 of a-z, 0-9 and '-', at least one letter, "
            "no '--' and no '-' at its start or end"
        )
    return None


def check_port(value: str | int) -> str | None:
    numbers = port_range(value)
    if numbers is None:
        return check_port_name(str(value))
    return None if numbers[0] > 0 else "port must be 1 to 65535"


def check_numeric_port(value: str | int) -> str | None:
    return "must be a port number or range" if port_range(value) is None else check_port(value)


def _read_as_number(raw: Any) -> int:
    reason = "must be an AS number: 0 to 4294967295, or high.low with two 16-bit numbers"
    if isinstance(raw, str):
        parts = raw.split(".")
        if not all(_DIGITS.fullmatch(part) and len(part) <= 10 for part in parts) or len(parts) > 2:
            raise Fault(reason, raw)
        if len(parts) == 1:
            number = int(raw)
        elif max(map(int, parts)) <= 0xFFFF:
            number = int(parts[0]) << 16 | int(parts[1])
        else:
            raise Fault(reason, raw)
    elif isinstance(raw, int) and not isinstance(raw, bool):
        number = raw
    else:
        raise Fault(reason, raw)
    if not 0 <= number <= 0xFFFFFFFF:
        raise Fault(reason, raw)
    return number


AS_NUMBER = Codec(_read_as_number)
"""An AS number, always an int; the dotted text form is understood."""


def _read_dscp(raw: Any) -> int | str:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if not isinstance(raw, str):
        raise Fault("must be a DSCP value 0 to 63 or a name such as EF", raw)
    return int(raw) if len(raw) < 4 and _DIGITS.fullmatch(raw) else raw


DSCP = Codec(_read_dscp)


def check_dscp(value: int | str) -> str | None:
    known = value in DSCP_NAMES if isinstance(value, str) else 0 <= value <= 63
    return None if known else "must be a DSCP value 0 to 63 or a name such as EF"
