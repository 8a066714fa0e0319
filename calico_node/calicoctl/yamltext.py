"""JSON-like data as YAML text, the same that PyYAML writes, in a quarter of its time.  Pure.

PyYAML makes a tree of nodes and several calls for each of them; what a resource is made of needs none of that.  What
is unusual (texts of several lines, keys with signs in them) is left to PyYAML.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import yaml

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_RESOLVERS: dict[str | None, list[tuple[str, re.Pattern[str]]]] = _DUMPER.yaml_implicit_resolvers
_PLAIN = re.compile(r"[A-Za-z0-9/](?:[ -9;-~]*[!-9;-~])?", re.ASCII)
"""Texts without a sign that YAML minds, but for ``#`` behind a blank, and those that mean something else."""
_ONE_LINE = re.compile(r"[ -~]*", re.ASCII)
_LONGEST_KEY = 100


class _Unusual(Exception):
    """PyYAML has to say it."""


def yaml_text(data: Any) -> str:
    """Block style, keys sorted, one line for each text, however long."""
    out: list[str] = []
    try:
        if isinstance(data, dict) and data:
            _mapping(out, data, "", "")
        elif isinstance(data, list) and data:
            _sequence(out, data, "", "")
        else:
            raise _Unusual
    except _Unusual:
        return _dump(data)
    return "".join(out)


def _dump(data: Any) -> str:
    text: str = yaml.dump(
        data, Dumper=_DUMPER, default_flow_style=False, sort_keys=True, allow_unicode=True, width=2**31 - 1
    )
    return text


def _mapping(out: list[str], data: dict[str, Any], indent: str, lead: str) -> None:
    """``lead`` stands before the first key, ``indent`` before the others."""
    for key in sorted(data):
        value = data[key]
        if type(value) is dict and value:
            out.append(f"{lead}{_key(key)}:\n")
            inner = indent + "  "
            _mapping(out, value, inner, inner)
        elif type(value) is list and value:
            out.append(f"{lead}{_key(key)}:\n")
            _sequence(out, value, indent, indent)
        else:
            out.append(f"{lead}{_key(key)}: {_leaf(value)}\n")
        lead = indent


def _sequence(out: list[str], data: list[Any], indent: str, lead: str) -> None:
    for item in data:
        if type(item) is dict and item:
            before = len(out)
            try:
                _mapping(out, item, indent + "  ", lead + "- ")
            except _Unusual:
                if indent:
                    raise
                # One unusual item of a long list costs no more than itself.
                del out[before:]
                out.append(_dump([item]))
        elif type(item) is list and item:
            _sequence(out, item, indent + "  ", lead + "- ")
        else:
            out.append(f"{lead}- {_leaf(item)}\n")
        lead = indent


@lru_cache(1024)
def _key(key: str) -> str:
    if not (isinstance(key, str) and len(key) <= _LONGEST_KEY and _PLAIN.fullmatch(key)):
        raise _Unusual
    return _text(key)


def _leaf(value: Any) -> str:
    if type(value) is str:
        return _text(value)
    if value is True:
        return "true"
    if value is False:
        return "false"
    if value is None:
        return "null"
    if type(value) is int:
        return str(value)
    return _dump([value])[2:-1]


@lru_cache(4096)
def _text(text: str) -> str:
    if not _PLAIN.fullmatch(text) or " #" in text:
        # Quotes may be needed, and PyYAML breaks lines and writes other signs in its own way.
        if not _ONE_LINE.fullmatch(text):
            raise _Unusual
        return _dump([text])[2:-1]
    for _, pattern in (*_RESOLVERS.get(text[0], ()), *_RESOLVERS.get(None, ())):
        if pattern.match(text):
            return f"'{text}'"
    return text
