"""Readers of stored objects, generated: what ``structure.read_struct`` does, in a third of the time.

``read_struct`` looks up every member of a JSON object, one after the other.  Stored objects come by the hundred
thousand, so here a class of which many have come gets a function of its own, as attrs makes ``__init__``; of
``WorkloadEndpointSpec`` it reads::

    def generated(data):
        if data.__class__ is not dict:
            raise Unusual
        self = new(cls)
        get = data.get
        self.extra = None if known.issuperset(data) else unknown(data, known)
        value = get('orchestrator')
        if value.__class__ is not str:
            if value is not None:
                raise Unusual
            value = ''
        self.orchestrator = value
        ...

A generated reader knows values as they should be alone.  At any other it gives up, and ``read_struct``, which says
what is wrong and where, reads the whole object again.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from sys import intern
from typing import Any, TypeAlias, get_origin

from attrs import NOTHING, Factory, fields

from calico_node.resources.fields import Fault, Struct
from calico_node.resources.structure import (
    STRINGS,
    Plan,
    is_absent,
    plan_of,
    read_str,
    read_struct,
)

Generated: TypeAlias = Callable[[Any], Any]

_READERS: dict[type[Struct], Generated] = {}
_FIRST: Counter[type[Struct]] = Counter()
_INTEGERS = 2**63
FEW = 200
"""Objects of a class that are read the general way first: a generated function costs as much as reading hundreds."""


class Unusual(Exception):
    """Something is not as a generated reader knows it."""


def read_stored(cls: type[Struct], data: Any) -> Any:
    """An instance of ``cls`` from a JSON object; unknown members are kept in ``extra``.  Raises ``Fault``."""
    generated = _READERS.get(cls)
    if generated is None:
        if is_few(cls, _FIRST):
            return read_struct(cls, data, False)
        generated = reader(cls)
    try:
        return generated(data)
    except (Unusual, Fault):
        return read_struct(cls, data, False)


def is_few(cls: type[Struct], counts: Counter[type[Struct]]) -> bool:
    """Whether so few objects of ``cls`` have come, this one counted, that generating a function does not pay."""
    counts[cls] += 1
    return counts[cls] <= FEW


def define(title: str, lines: Iterable[str], names: dict[str, Any]) -> Generated:
    """The function ``generated`` that ``lines`` define, in which ``names`` are known."""
    exec(compile("\n".join(lines), f"<{title}>", "exec"), names)
    made: Generated = names["generated"]
    return made


def reader(cls: type[Struct]) -> Generated:
    """The generated reader of ``cls``: raises ``Unusual`` or ``Fault`` where the general one has to look."""
    made = _READERS.get(cls)
    if made is not None:
        return made
    plans = plan_of(cls)
    names: dict[str, Any] = {
        "cls": cls, "new": object.__new__, "known": frozenset(plans), "unknown": _unknown, "Unusual": Unusual,
        "strings": STRINGS, "texts": _texts, "shared_texts": _shared_texts, "is_absent": is_absent,
    }  # fmt: skip
    lines = [
        "def generated(data):",
        "    if data.__class__ is not dict:",
        "        raise Unusual",
        "    self = new(cls)",
        "    get = data.get",
        "    self.extra = None if known.issuperset(data) else unknown(data, known)",
    ]
    defaults = {attribute.name: attribute.default for attribute in fields(cls)}
    for plan in plans.values():
        lines.append(f"    value = get({plan.name!r})")
        lines += [f"    {line}" for line in _read_value(plan, _default(plan, defaults[plan.attribute], names), names)]
        lines.append(f"    self.{plan.attribute} = value")
    lines.append("    return self")
    return _READERS.setdefault(cls, define(f"reader of {cls.__name__}", lines, names))


def _default(plan: Plan, default: Any, names: dict[str, Any]) -> str:
    """The expression that gives what the attribute is when absent."""
    assert default is not NOTHING
    made = isinstance(default, Factory)  # type: ignore[arg-type]
    if made and default.factory in (list, dict):
        return "[]" if default.factory is list else "{}"
    names[f"default_{plan.attribute}"] = default.factory if made else default
    return f"default_{plan.attribute}{'()' if made else ''}"


def _read_value(plan: Plan, default: str, names: dict[str, Any]) -> list[str]:
    """Lines that put the attribute in place of the JSON ``value``, which is None when absent."""
    read = f"read_{plan.attribute}"
    plain = plan.member.codec is None and plan.member.shape is None
    if plan.read is read_str:
        lines = ["if value.__class__ is not str:", "    if value is not None:", "        raise Unusual"]
        lines.append(f"    value = {default}")
        # "" is absence, where it is not told apart.
        if plan.member.required or (plan.optional and (plan.member.zero or not plan.member.pointer)):
            lines += ["elif not value:", f"    value = {default}"]
        return lines
    if plain and plan.kind == list[str]:
        return ["if value is None:", f"    value = {default}",
                "elif value.__class__ is list and strings.issuperset(map(type, value)):", "    value = value.copy()",
                "else:", "    raise Unusual"]  # fmt: skip
    if plain and plan.kind == dict[str, str]:
        copy = "shared_texts" if plan.member.shared else "texts"
        return [f"value = {default} if value is None else {copy}(value)"]
    if plain and plan.element is not None and get_origin(plan.kind) is list:
        names[read] = reader(plan.element)
        return ["if value is None:", f"    value = {default}", "elif value.__class__ is list:",
                f"    value = [{read}(item) for item in value]", "else:", "    raise Unusual"]  # fmt: skip
    absent = ["value is None", "value == ''"] if plan.member.required else ["value is None"]
    if plan.kind is plan.element:
        names[read] = reader(plan.element)
        lines = [f"value = {default} if value is None else {read}(value)"]
    elif plain and plan.kind is int:
        names[read] = plan.read
        lines = [f"if value.__class__ is not int or not -{_INTEGERS} <= value < {_INTEGERS}:",
                 f"    value = {default} if {' or '.join(absent)} else {read}(value, False)"]  # fmt: skip
    else:
        names[read] = plan.read
        lines = [f"value = {default} if {' or '.join(absent)} else {read}(value, False)"]
    if plan.optional and (plan.member.zero or plan.element is None):
        names[f"plan_{plan.attribute}"] = plan
        lines += [f"if value is not None and is_absent(plan_{plan.attribute}, value):", f"    value = {default}"]
    return lines


def _unknown(data: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in known}


def _texts(raw: Any) -> dict[str, str]:
    if (
        raw.__class__ is not dict
        or not STRINGS.issuperset(map(type, raw))
        or not STRINGS.issuperset(map(type, raw.values()))
    ):
        raise Unusual
    return raw.copy()


def _shared_texts(raw: Any) -> dict[str, str]:
    if raw.__class__ is not dict or not STRINGS.issuperset(map(type, raw)):
        raise Unusual
    try:
        return {key: intern(text) for key, text in raw.items()}
    except TypeError:
        raise Unusual from None
