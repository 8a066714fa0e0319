"""Checks of single values, for field declarations: each gives the reason of a refusal, or None."""

import ipaddress
import re
from datetime import datetime
from functools import lru_cache
from typing import Any

from calico_node.addresses import is_ipv4
from calico_node.resources.fields import Check

_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_LABEL = re.compile(_DNS_LABEL, re.ASCII)
_SUBDOMAIN = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*", re.ASCII)
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_INTERFACE = re.compile(r"[a-zA-Z0-9_.-]{1,15}", re.ASCII)
_INTERFACE_PATTERN = re.compile(r"[a-zA-Z0-9_.*-]{1,15}", re.ASCII)
_CONTAINER_ID = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?", re.ASCII)
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}", re.ASCII)
_COMMUNITY = re.compile(r"[0-9]{1,10}(?::[0-9]{1,10}){1,2}", re.ASCII)
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)
_MAX_ANNOTATIONS = 256 * 1024


def one_of(*allowed: str) -> Check:
    return lambda value: None if value in allowed else f"must be one of {', '.join(allowed)}"


def one_of_any_case(*allowed: str) -> Check:
    lowered = {text.lower() for text in allowed}
    return lambda value: None if value.lower() in lowered else f"must be one of {', '.join(allowed)} (in any case)"


def between(low: int, high: int) -> Check:
    return lambda value: None if low <= value <= high else f"must be {low} to {high}"


def at_least(low: int) -> Check:
    return lambda value: None if value >= low else f"must be at least {low}"


def at_most_long(length: int) -> Check:
    return lambda value: None if len(value) <= length else f"must be at most {length} characters long"


def matching(pattern: str) -> Check:
    def check(value: str) -> str | None:
        return None if re.fullmatch(pattern, value, re.ASCII) else f"must match {pattern}"

    return check


def all_of(*checks: Check) -> Check:
    def check(value: Any) -> str | None:
        return next((reason for reason in (check(value) for check in checks) if reason), None)

    return check


@lru_cache(maxsize=4096)
def dns_label(value: str) -> str | None:
    if len(value) <= 63 and _LABEL.fullmatch(value):
        return None
    return "must be one DNS label: at most 63 of a-z, 0-9 and '-', neither starting nor ending with '-'"


def dns_subdomain(value: str) -> str | None:
    if len(value) <= 253 and _SUBDOMAIN.fullmatch(value):
        return None
    return "must be a DNS name: labels of a-z, 0-9 and '-' joined by '.', at most 253 characters"


@lru_cache(maxsize=4096)
def qualified_name(value: str) -> str | None:
    """A Kubernetes label or annotation key: ``[prefix/]name``."""
    prefix, slash, name = value.rpartition("/")
    if (slash and dns_subdomain(prefix)) or "/" in prefix or not _QUALIFIED.fullmatch(name):
        return "is not a valid key: at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', after an optional DNS name and '/'"
    return None


@lru_cache(maxsize=4096)
def label_value(value: str) -> str | None:
    if not value or _QUALIFIED.fullmatch(value):
        return None
    return "is not a valid label value: at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', no mark first or last"


def labels(value: dict[str, str]) -> str | None:
    for key, text in value.items():
        reason = qualified_name(key)
        if reason:
            return f"label {key!r} {reason}"
        reason = label_value(text)
        if reason:
            return f"value {text!r} of label {key!r} {reason}"
    return None


def annotations(value: dict[str, str]) -> str | None:
    for key in value:
        reason = qualified_name(key.lower())
        if reason:
            return f"annotation {key!r} {reason}"
    # A character has at most four bytes.
    characters = sum(map(len, value)) + sum(map(len, value.values()))
    if 4 * characters > _MAX_ANNOTATIONS and _size(value) > _MAX_ANNOTATIONS:
        return f"annotations are larger than {_MAX_ANNOTATIONS} bytes"
    return None


def _size(texts: dict[str, str]) -> int:
    return sum(len(key.encode()) + len(text.encode("utf-8", "replace")) for key, text in texts.items())


@lru_cache(maxsize=16384)
def cidr(value: str) -> str | None:
    """A CIDR or a bare address; host bits may be set."""
    try:
        ipaddress.ip_interface(value)
    except ValueError:
        return "is not a valid CIDR or IP address"
    return None if _plain_length(value) else "is not a valid CIDR or IP address"


@lru_cache(maxsize=16384)
def strict_cidr(value: str) -> str | None:
    """A CIDR with its length and no host bits (a bare address is a /32 or /128)."""
    reason = cidr(value)
    if reason:
        return "is not a valid CIDR"
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return f"has host bits set; did you mean {ipaddress.ip_network(value, strict=False)}?"
    return None


def cidr_with_length(value: str) -> str | None:
    return "is not a valid CIDR: it has no prefix length" if "/" not in value else cidr(value)


def host_cidr(value: str) -> str | None:
    """An address with length /32 or /128."""
    if value.endswith("/32") and is_ipv4(value[:-3]):
        return None
    reason = cidr(value)
    if reason is None and ipaddress.ip_network(value, strict=False).num_addresses != 1:
        return "must be a /32 or /128"
    return reason


def _plain_length(value: str) -> bool:
    # ipaddress also takes netmasks ("10.0.0.0/255.0.0.0"), signs and zone ids, the API none of them.
    _, slash, length = value.partition("/")
    return "%" not in value and (not slash or (length.isascii() and length.isdigit()))


@lru_cache(maxsize=16384)
def ip(value: str) -> str | None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return "is not a valid IP address"
    return "is not a valid IP address" if "%" in value else None


def ipv4(value: str) -> str | None:
    return "is not a valid IPv4 address" if ":" in value or ip(value) else None


def ipv6(value: str) -> str | None:
    return "is not a valid IPv6 address" if ":" not in value or ip(value) else None


def ipv4_cidr(value: str) -> str | None:
    return "is not a valid IPv4 CIDR or address" if ":" in value or cidr(value) else None


def ipv6_cidr(value: str) -> str | None:
    return "is not a valid IPv6 CIDR or address" if ":" not in value or cidr(value) else None


def selector(value: str) -> str | None:
    from calico_node.errors import SelectorError
    from calico_node.selectors import parse

    try:
        parse(value)
    except SelectorError as error:
        return f"invalid selector at position {error.position}: {error.reason}"
    return None


def scoped_selector(value: str) -> str | None:
    """A selector in which ``global()`` has no place."""
    reason = selector(value)
    if reason:
        return reason
    from calico_node.selectors import parse

    return "global() cannot be used here" if parse(value).has_global else None


def namespace_selector(value: str) -> str | None:
    """A rule's namespaceSelector: ``global()`` only alone."""
    reason = scoped_selector(value)
    if reason and re.fullmatch(r"[ \t]*global\([ \t]*\)[ \t]*", value):
        return None
    return "global() can only be used alone" if reason == "global() cannot be used here" else reason


def interface(value: str) -> str | None:
    if value == "*" or _INTERFACE.fullmatch(value):
        return None
    return "must be an interface name of at most 15 of A-Z, a-z, 0-9, '_', '.' and '-', or *"


def interface_pattern(value: str) -> str | None:
    if _INTERFACE_PATTERN.fullmatch(value) and value != "*":
        return None
    return "must be an interface name, in which * stands for any text; * alone is not allowed"


@lru_cache(maxsize=4096)
def timestamp(value: str) -> str | None:
    """RFC 3339 with a zone, as Go reads a Kubernetes time."""
    match = _TIMESTAMP.fullmatch(value)
    try:
        if match:
            datetime(*map(int, match.groups()))  # type: ignore[arg-type]
            return None
    except ValueError:
        pass
    return "must be a time such as 2026-08-01T10:00:00Z"


def interface_wildcard(value: str) -> str | None:
    if _INTERFACE_PATTERN.fullmatch(value):
        return None
    return "must be an interface name, at most 15 characters, in which * stands for any text"


def container_id(value: str) -> str | None:
    return None if _CONTAINER_ID.fullmatch(value) else "must be letters, digits and '-'"


@lru_cache(maxsize=1024)
def mac(value: str) -> str | None:
    return None if _MAC.fullmatch(value) else "must be a MAC address such as ee:ee:ee:ee:ee:ee"


def community(value: str) -> str | None:
    """A BGP community ``aa:nn`` (16-bit parts) or large community ``aa:nn:mm`` (32-bit parts)."""
    parts = value.split(":")
    limit = 0xFFFF if len(parts) == 2 else 0xFFFFFFFF
    if _COMMUNITY.fullmatch(value) and all(int(part) <= limit for part in parts):
        return None
    return "must be a community aa:nn of 16-bit numbers or aa:nn:mm of 32-bit numbers"
