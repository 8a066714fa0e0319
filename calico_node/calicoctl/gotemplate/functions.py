"""The functions that every template has.  Each raises ``ValueError`` with Go's reason where an argument is unfit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote_plus

from calico_node.calicoctl.gotemplate.printf import sprint, sprintf, sprintln
from calico_node.calicoctl.gotemplate.values import NO_VALUE, GoStruct, plain, truth, type_name

_HTML = str.maketrans({"&": "&amp;", "'": "&#39;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "\0": "\ufffd"})
_JS = {
    "\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D",
}  # fmt: skip


def _length(item: Any) -> int:
    value = plain(item)
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, list | tuple | dict):
        return len(value)
    if value is None:
        raise ValueError("len of nil pointer" if item is None else "len of untyped nil")
    raise ValueError(f"len of type {type_name(value)}")


def _offset(index: Any, length: int, *, slicing: bool = False) -> int:
    index = plain(index)
    if isinstance(index, bool) or not isinstance(index, int):
        what = "index with type" if index is not None else "index with value"
        raise ValueError(f"cannot {'slice' if slicing else 'index slice/array'} {what} {type_name(index)}")
    if not 0 <= index < length + slicing:
        raise ValueError(f"index out of range: {index}")
    return index


def _index(item: Any, *indexes: Any) -> Any:
    value = plain(item)
    if value is None:
        raise ValueError("index of untyped nil")
    for index in indexes:
        value = plain(value)
        if isinstance(value, dict):
            key = plain(index)
            if not isinstance(key, str):
                raise ValueError(f"value has type {type_name(key)}; should be string")
            # What is not there is the zero value of the map's elements.
            value = value.get(key, "" if all(isinstance(other, str) for other in value.values()) else None)
        elif isinstance(value, str):
            raw = value.encode("utf-8", "surrogatepass")
            value = raw[_offset(index, len(raw))]
        elif isinstance(value, list | tuple):
            value = value[_offset(index, len(value))]
        elif value is None:
            raise ValueError("index of nil pointer")
        else:
            raise ValueError(f"can't index item of type {type_name(value)}")
    return value


def _slice(item: Any, *indexes: Any) -> Any:
    value = plain(item)
    if len(indexes) > 3:
        raise ValueError(f"too many slice indexes: {len(indexes)}")
    if not isinstance(value, str | list | tuple):
        raise ValueError("slice of untyped nil" if value is None else f"can't slice item of type {type_name(value)}")
    if isinstance(value, str) and len(indexes) == 3:
        raise ValueError("cannot 3-index slice a string")
    whole = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    bounds = [_offset(index, len(whole), slicing=True) for index in indexes]
    low, high = (bounds[0] if bounds else 0), (bounds[1] if len(bounds) > 1 else len(whole))
    if low > high:
        raise ValueError(f"invalid slice index: {low} > {high}")
    part = whole[low:high]
    return part.decode("utf-8", "replace") if isinstance(part, bytes) else part


_BASIC: tuple[type, ...] = (bool, int, float, str)


def _kind(value: Any) -> type:
    value = plain(value)
    for kind in _BASIC:
        if isinstance(value, kind):
            return kind
    raise ValueError("invalid type for comparison")


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    first = _comparable(first)
    for other in map(_comparable, others):
        if first is None or other is None or isinstance(first, GoStruct) or isinstance(other, GoStruct):
            if first is other:
                return True
        elif _kind(first) is not _kind(other):
            raise ValueError("incompatible types for comparison")
        elif first == other:
            return True
    return False


def _comparable(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, list | tuple | dict):
        raise ValueError(f"non-comparable type {type_name(value)}")
    if isinstance(value, GoStruct) and value.text() is not None:
        return value.text()
    return value


def _less(first: Any, second: Any) -> bool:
    kind = _kind(first)
    if kind is not _kind(second):
        raise ValueError("incompatible types for comparison")
    if kind is bool:
        raise ValueError("invalid type for comparison")
    return bool(plain(first) < plain(second))


def _not_equal(first: Any, second: Any) -> bool:
    return not _equal(first, second)


def _at_most(first: Any, second: Any) -> bool:
    return _less(first, second) or _equal(first, second)


def _html(*values: Any) -> str:
    return _one_text(values).translate(_HTML)


def _js(*values: Any) -> str:
    return "".join(
        _JS[char] if char in _JS else f"\\u{ord(char):04X}" if not char.isprintable() else char
        for char in _one_text(values)
    )


def _urlquery(*values: Any) -> str:
    return quote_plus(_one_text(values), safe="", errors="replace")


def _one_text(values: tuple[Any, ...]) -> str:
    return sprint(["<no value>" if value is NO_VALUE else value for value in values])


def _printf(form: Any, *values: Any) -> str:
    form = plain(form)
    if not isinstance(form, str):
        raise ValueError(f"wrong type for value; expected string; got {type_name(form)}")
    return sprintf(form, values)


def _call(function: Any, *_values: Any) -> Any:
    raise ValueError("call of nil" if plain(function) is None else f"non-function of type {type_name(function)}")


def _and(*values: Any) -> Any:
    return next((value for value in values if not truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if truth(value)), values[-1])


def _not(value: Any) -> bool:
    return not truth(value)


BUILTINS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "and": _and,
        "call": _call,
        "eq": _equal,
        "ge": lambda first, second: not _less(first, second),
        "gt": lambda first, second: not _at_most(first, second),
        "html": _html,
        "index": _index,
        "js": _js,
        "le": _at_most,
        "len": _length,
        "lt": _less,
        "ne": _not_equal,
        "not": _not,
        "or": _or,
        "print": lambda *values: sprint(values),
        "printf": _printf,
        "println": lambda *values: sprintln(values),
        "slice": _slice,
        "urlquery": _urlquery,
    }
)
"""By name.  ``and`` and ``or`` are evaluated by the interpreter itself, which stops at the first that decides."""
