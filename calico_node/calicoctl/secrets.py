"""Secrets out of what leaves the machine.  Pure.

Nothing here can know every secret: what is caught are members and variables whose name says so, passwords in
addresses, and private keys in PEM form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

_NAME = re.compile(r"passw(or)?d|secret|token|credential|private_?key|bearer", re.IGNORECASE)
_POINTER = re.compile(r"(ref|file|name|path|dir)$", re.IGNORECASE)
_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^/\s:@]*:[^/\s@]*@", re.IGNORECASE)
_PEM = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(-----END \1-----|\Z)", re.DOTALL)
_ASSIGNED = re.compile(
    r"(?P<name>(?:passw(?:or)?d|secret|token|private[_ ]?key|bearer)\w*[\"']?[ \t]*[=:][ \t]*)"
    r"(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\s,;}]+)",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Whether a member or variable called ``name`` holds a secret, and not merely says where one is."""
    return bool(_NAME.search(name)) and not _POINTER.search(name)


def without_secrets(data: Any) -> Any:
    """A copy of JSON-like data with the texts of secret members masked, and those inside other texts."""
    if isinstance(data, Mapping):
        return {
            name: MASK if is_secret(str(name)) and isinstance(value, str | bytes | int | float) and value != ""
            else without_secrets(value)
            for name, value in data.items()
        }  # fmt: skip
    if isinstance(data, list | tuple):
        return [without_secrets(item) for item in data]
    return mask_text(data) if isinstance(data, str) else data


def mask_text(text: str) -> str:
    """Free text: passwords in addresses, ``name=value`` of a secret name, and private keys are masked."""
    text = _PEM.sub(rf"-----BEGIN \1-----{MASK}", text)
    text = _ADDRESS.sub(rf"\1{MASK}@", text)
    return _ASSIGNED.sub(_mask_assigned, text)


def _mask_assigned(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    if _POINTER.search(name.rstrip("\"' \t=:")):
        return found[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{name}{quote}{MASK}{quote}"
