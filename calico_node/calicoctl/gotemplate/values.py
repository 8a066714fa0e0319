"""Values that templates see, and how Go prints them.

They are None (``nil``), bool, int, float, str, lists, dicts (maps with string keys), ``GoStruct`` and ``Pointer``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from attrs import frozen


class _NoValue:
    """What a map has under a key that it does not have."""


NO_VALUE = _NoValue()


class GoStruct(ABC):
    """A value with fields."""

    type_name = "struct"

    @abstractmethod
    def field(self, name: str) -> Any:
        """The field or method result of that Go name.  Raises ``KeyError``."""

    @abstractmethod
    def fields(self) -> Iterator[tuple[str, Any]]:
        """All fields by Go name, in Go's order."""

    def text(self) -> str | None:
        """What Go's String() of this type gives, None for a type without that method."""
        return None


@frozen
class Pointer:
    """A pointer: it is true where it is not nil (None), whatever it points to."""

    value: Any


NIL = Pointer(None)


def plain(value: Any) -> Any:
    """The value itself: what a pointer points to, and nil for what is not there."""
    if isinstance(value, Pointer):
        return value.value
    return None if value is NO_VALUE else value


def truth(value: Any) -> bool:
    """Go's idea of not empty: no zero, "" or nil, and no empty list or map; structs are always true."""
    if value is NO_VALUE:
        return False
    if isinstance(value, Pointer):
        return value.value is not None
    return isinstance(value, GoStruct) or bool(value)


def type_name(value: Any) -> str:
    """The Go type, for error texts and ``%T``."""
    value = plain(value)
    if isinstance(value, GoStruct):
        return value.type_name
    if value is None:
        return "<nil>"
    if isinstance(value, list | tuple):
        return "[]string" if value and all(isinstance(item, str) for item in value) else "[]interface {}"
    if isinstance(value, dict):
        return (
            "map[string]string"
            if all(isinstance(item, str) for item in value.values())
            else "map[string]interface {}"
        )
    return {bool: "bool", int: "int", float: "float64", str: "string"}.get(type(value), type(value).__name__)


def show(value: Any, *, names: bool = False) -> str:
    """As ``%v`` prints it, or ``%+v`` with ``names``."""
    value = plain(value)
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return show_float(value)
    if isinstance(value, list | tuple):
        return f"[{' '.join(show(item, names=names) for item in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{show(value[key], names=names)}' for key in sorted(value))}]"
    if isinstance(value, GoStruct):
        text = value.text()
        if text is not None:
            return text
        parts = ((f"{name}:" if names else "") + show(item, names=names) for name, item in value.fields())
        return f"{{{' '.join(parts)}}}"
    return str(value)


def show_float(value: float) -> str:
    """The shortest text that reads back as ``value``, with an exponent below 1e-4 and from 1e6 on."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    from decimal import Decimal

    number = Decimal(repr(value))
    if not number:
        return "-0" if number.is_signed() else "0"
    power = number.adjusted()
    if -4 <= power < 6:
        return f"{number.normalize():f}"
    digits = "".join(map(str, number.normalize().as_tuple().digits))
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    return f"{'-' if value < 0 else ''}{mantissa}e{'-' if power < 0 else '+'}{abs(power):02}"
