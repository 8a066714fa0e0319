"""Declared fields: how one attrs class serves as reader, writer and checker of one JSON object of the v3 API.

A class lists its attributes with the functions below, which record the JSON name, when the field is written and
what values are allowed.  ``calico_node.resources.structure`` reads and writes by that record, and
``calico_node.resources.validation`` checks by it; no class has code of its own for either.
"""

# Annotations are kept as real types (no "from __future__ import annotations"): they are read at run time.

from collections.abc import Callable
from typing import Any, TypeAlias

from attrs import Attribute, define, field, frozen

KEY = "calico"

Check: TypeAlias = Callable[[Any], str | None]
"""Says why a value is refused, or None."""


class Fault(Exception):
    """Something wrong at a place inside a resource; becomes a ``ValidationError`` once the resource is known.

    ``path`` is the dotted field path from the point where it was raised; outer levels put theirs before it.
    """

    def __init__(self, reason: str, value: object = None, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = value
        self.path = path

    def under(self, outer: str) -> "Fault":
        """The same fault, seen from one level further out."""
        if not self.path:
            self.path = outer
        else:
            self.path = outer + self.path if self.path.startswith("[") else f"{outer}.{self.path}"
        return self


@frozen
class Codec:
    """A scalar with a text form of its own: ``read`` takes JSON and raises ``Fault``, ``write`` gives JSON back."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value


@frozen
class Member:
    """What is known of one attribute.

    ``name`` is the JSON name ("" = the attribute name in camelCase).  ``shape`` is the class that a value kept as
    plain JSON (an ``Any``, or a dict of them) must read as.  ``always`` writes the field even when absent (as null)
    or empty.  ``zero`` says that False, 0 and {} mean absent (Go's omitempty on a plain value); without it only
    None and "" are left out, and [] and empty maps where the attribute is declared without None.  ``pointer`` says
    that a "" is kept and written (Go's omitempty on a pointer).  ``shared`` says that a map's values are few, each
    repeated by thousands of objects: equal ones are kept once.
    """

    name: str = ""
    check: Check | None = None
    each: Check | None = None
    codec: Codec | None = None
    shape: "type[Struct] | None" = None
    always: bool = False
    zero: bool = False
    pointer: bool = False
    required: bool = False
    limit: int | None = None
    shared: bool = False


@define(kw_only=True)
class Struct:
    """Base of all JSON objects.  ``extra`` keeps members that the class does not know, to write them back."""

    extra: dict[str, Any] | None = field(default=None, repr=False, eq=False)

    def fault(self) -> "Fault | None":
        """What is wrong with this object as a whole, beyond its single members."""
        return None


def opt(
    name: str = "",
    check: Check | None = None,
    *,
    each: Check | None = None,
    codec: Codec | None = None,
    zero: bool = False,
    pointer: bool = False,
    always: bool = False,
    default: Any = None,
) -> Any:
    """An optional value; absent is None."""
    member = Member(name, check, each, codec=codec, zero=zero, pointer=pointer, always=always)
    return field(default=default, metadata={KEY: member})


def req(name: str = "", check: Check | None = None, *, codec: Codec | None = None, default: Any = "") -> Any:
    """A value that must be given (validation refuses the default) and is always written."""
    return field(default=default, metadata={KEY: Member(name, check, codec=codec, always=True, required=True)})


def lst(
    name: str = "",
    each: Check | None = None,
    *,
    codec: Codec | None = None,
    shape: type[Struct] | None = None,
    limit: int | None = None,
    always: bool = False,
) -> Any:
    """A list, absent is empty; ``each`` checks every item and ``limit`` bounds their number."""
    member = Member(name, each=each, codec=codec, shape=shape, limit=limit, always=always)
    return field(factory=list, metadata={KEY: member})


def plain(
    shape: type[Struct], name: str = "", *, always: bool = False, factory: Callable[[], dict[str, Any]] = dict
) -> Any:
    """An object kept as plain JSON, which must read as ``shape``; absent is empty."""
    return field(factory=factory, metadata={KEY: Member(name, shape=shape, always=always)})


def mapping(name: str = "", *, check: Check | None = None, always: bool = False, shared: bool = False) -> Any:
    """A map with string keys, absent is empty; written with sorted keys."""
    return field(factory=dict, metadata={KEY: Member(name, check=check, always=always, shared=shared)})


def always(factory: Callable[[], Any], name: str = "") -> Any:
    """A nested object that is always there and always written, even as {}."""
    return field(factory=factory, metadata={KEY: Member(name, always=True)})


def leading(*names: str) -> "Callable[[type, list[Attribute[Any]]], list[Attribute[Any]]]":
    """A ``field_transformer`` for a class that writes these members of its own before the inherited ones."""
    return lambda cls, attributes: sorted(attributes, key=lambda attribute: attribute.name not in names)


def json_name(attribute: str) -> str:
    """``node_selector`` -> ``nodeSelector``."""
    first, *rest = attribute.split("_")
    return first + "".join(part.capitalize() for part in rest)
