"""JSON-like data as YAML text, in a quarter of the time that PyYAML takes.  Pure.

PyYAML makes a tree of nodes and several calls for each of them; what a resource is made of needs none of that.  What
is unusual (controls, emoji, keys with signs in them) is left to PyYAML.

Styles are chosen as Calico's tool does: what would be read as a number, a date or a truth value (also by that tool's
reader alone) stands in double quotes, and texts of several lines stand below a ``|``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import yaml

_DUMPER: Any = type("Dumper", (getattr(yaml, "CSafeDumper", yaml.SafeDumper),), {})
_RESOLVERS: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":yaml")]
    for first, known in _DUMPER.yaml_implicit_resolvers.items()
}
"""What texts are read as by how they start; the tag ``yaml`` just says that a sign alone cannot be read."""
_LETTERS = "\u00a1-\u1fff\u2030-\ud7ff"
_PLAIN = re.compile(rf"[A-Za-z0-9/{_LETTERS}](?:[ -9;-~{_LETTERS}]*[!-9;-~{_LETTERS}])?")
"""Texts without a sign that YAML minds, but for ``#`` behind a blank, and those that mean something else."""
_NUMBER_IN_GO = re.compile(
    r"[yYnN]|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?0[xob][0-9a-fA-F_]+", re.ASCII
)
_ONE_LINE = re.compile(rf"[ -~{_LETTERS}]*")
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
            out.append(f"{lead}{_key(key)}: {_leaf(value, indent)}\n")
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
                text = _dump([item])
                if text.endswith("\n...\n"):
                    raise  # a text with blank lines at its end has ended the document
                out.append(text)
        elif type(item) is list and item:
            _sequence(out, item, indent + "  ", lead + "- ")
        else:
            out.append(f"{lead}- {_leaf(item, indent)}\n")
        lead = indent


@lru_cache(1024)
def _key(key: str) -> str:
    if not (isinstance(key, str) and len(key) <= _LONGEST_KEY and _PLAIN.fullmatch(key)):
        raise _Unusual
    return _text(key)


def _leaf(value: Any, indent: str) -> str:
    if type(value) is str:
        return _lines(value, indent) if "\n" in value else _text(value)
    if value is True:
        return "true"
    if value is False:
        return "false"
    if value is None:
        return "null"
    if type(value) is int:
        return str(value)
    return _dump([value])[2:-1]


def _lines(text: str, indent: str) -> str:
    """A text of several lines: ``|`` and what its end is like, then the lines."""
    lines = text.split("\n")
    readable = all(_ONE_LINE.fullmatch(line) for line in lines)
    if not readable or text[0] in " \n" or " \n" in text or text[-1] == " " or text.endswith("\n\n"):
        raise _Unusual
    end = "-" if lines[-1] else ""
    if not end:
        lines.pop()
    return f"|{end}\n" + "\n".join(f"{indent}  {line}" if line else "" for line in lines)


@lru_cache(4096)
def _text(text: str) -> str:
    if not _ONE_LINE.fullmatch(text):
        # PyYAML breaks lines and writes other signs in its own way.
        raise _Unusual
    if _means_more(text):
        return f'"{text}"'
    if _PLAIN.fullmatch(text) and " #" not in text:
        return text
    return _dump([text])[2:-1]


def _means_more(text: str) -> bool:
    """Whether without quotes it would be something else than a text."""
    return bool(_NUMBER_IN_GO.fullmatch(text)) or any(
        pattern.match(text) for _, pattern in (*_RESOLVERS.get(text[:1], ()), *_RESOLVERS.get(None, ()))
    )


def _represent(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else '"' if _means_more(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_DUMPER.add_representer(str, _represent)
