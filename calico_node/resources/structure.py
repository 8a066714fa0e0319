"""JSON objects to attrs classes and back, by the declared fields; faults carry their field path and value."""

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Union, get_args, get_origin

from attrs import fields, frozen

from calico_node.resources.fields import KEY, Fault, Member, Struct, json_name

STRINGS = frozenset((str,))

Reader = Callable[[Any, bool], Any]
Writer = Callable[[Any], Any]


@frozen
class Plan:
    """One attribute of a class, ready to be read and written.

    ``kind`` is the declared type, without None where ``optional`` says that this is a legal absent value; ``element``
    is the class of a nested object, a list's items or a map's values, None for scalars.  ``text`` marks the commonest
    field, a string without a form of its own.
    """

    attribute: str
    name: str
    member: Member
    read: Reader
    write: Writer
    kind: Any
    optional: bool
    element: type[Struct] | None
    text: bool = False


_PLANS: dict[type[Struct], dict[str, Plan]] = {}


def plan_of(cls: type[Struct]) -> dict[str, Plan]:
    """The plans of a class by JSON name, in declared (and so written) order."""
    plans = _PLANS.get(cls)
    if plans is None:
        plans = _PLANS[cls] = _make_plans(cls)
    return plans


def _make_plans(cls: type[Struct]) -> dict[str, Plan]:
    plans: dict[str, Plan] = {}
    for attribute in fields(cls):
        member = attribute.metadata.get(KEY)
        if member is None:
            continue
        kind, optional = _strip_optional(attribute.type)
        name = member.name or json_name(attribute.name)
        read, write, element = _codec(kind, member)
        text = read is read_str and not member.required and not member.pointer
        plans[name] = Plan(attribute.name, name, member, read, write, kind, optional, element, text)
    return plans


def read_struct(cls: type[Struct], data: Any, strict: bool) -> Any:
    """An instance of ``cls`` from a JSON object.  Raises ``Fault``.

    ``strict`` refuses unknown members; otherwise they are kept in ``extra``.
    """
    if not isinstance(data, dict):
        raise Fault("must be an object", data)
    plans = plan_of(cls)
    values: dict[str, Any] = {}
    extra: dict[str, Any] | None = None
    for name, raw in data.items():
        plan = plans.get(name)
        if plan is None:
            if strict:
                raise _unknown(name, plans)
            extra = extra if extra is not None else {}
            extra[name] = raw
        elif plan.text and type(raw) is str:
            if raw or not plan.optional:
                values[plan.attribute] = raw
        elif raw is not None and not (raw == "" and plan.member.required):
            try:
                value = plan.read(raw, strict)
            except Fault as fault:
                raise fault.under(name) from None
            if not (plan.optional and is_absent(plan, value)):
                values[plan.attribute] = value
    if extra:
        values["extra"] = extra
    return cls(**values)


def unknown_members(cls: type[Struct], data: Any, path: str = "") -> Iterator[Fault]:
    """A fault for every member, at any depth, that the classes do not know; items of lists have their index."""
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from unknown_members(cls, item, f"{path}[{index}]")
    if not isinstance(data, dict):
        return
    plans = plan_of(cls)
    for name, item in data.items():
        plan = plans.get(name)
        if plan is None:
            fault = _unknown(name, plans)
            yield fault.under(path) if path else fault
        elif inner := plan.element or plan.member.shape:
            yield from unknown_members(inner, item, f"{path}.{name}" if path else name)


def write_struct(value: Struct) -> dict[str, Any]:
    """The JSON object of an instance: declared order, absent members left out, unknown ones last."""
    out: dict[str, Any] = {}
    for name, plan in plan_of(type(value)).items():
        item = getattr(value, plan.attribute)
        always = plan.member.always
        if not always and is_absent(plan, item):
            continue
        written = None if item is None else plan.write(item)
        if plan.member.zero and not always and written == {}:
            continue
        out[name] = written
    if value.extra:
        out.update(value.extra)
    return out


def is_absent(plan: Plan, value: Any) -> bool:
    if value is None:
        return True
    if value:
        return plan.member.zero and isinstance(value, Struct) and _is_empty(value)
    if isinstance(value, (list, dict)):  # not a union, which would be made for every field
        return not plan.optional
    return plan.member.zero or (value == "" and not plan.member.pointer)


def _is_empty(value: Struct) -> bool:
    """Whether nothing of it would be written."""
    for plan in plan_of(type(value)).values():
        item = getattr(value, plan.attribute)
        if item and not isinstance(item, Struct):
            return False
    return not write_struct(value)


def _unknown(name: Any, plans: dict[str, Plan]) -> Fault:
    from difflib import get_close_matches

    lower = {known.lower(): known for known in plans}
    close = get_close_matches(str(name).lower(), lower, n=1, cutoff=0.75)
    hint = f" (did you mean {lower[close[0]]}?)" if close else ""
    return Fault("field in document is not recognized or is in the wrong location" + hint, path=str(name))


def _strip_optional(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        optional = len(parts) < len(get_args(kind))
        return (parts[0] if len(parts) == 1 else Union[tuple(parts)]), optional  # noqa: UP007 - built at run time
    return kind, False


def _codec(kind: Any, member: Member) -> tuple[Reader, Writer, type[Struct] | None]:
    origin, codec = get_origin(kind), member.codec
    if member.shape is not None and origin is not list:
        return _shape_reader(member.shape), lambda value: value, None
    if origin is list:
        read, write, element = _codec(get_args(kind)[0], member)
        return _list_reader(read), lambda values: [write(value) for value in values], element
    if origin is dict:
        read, write, element = _codec(get_args(kind)[1], member)
        return (
            _map_reader(read, member.shared),
            lambda values: {key: write(values[key]) for key in sorted(values)},
            element,
        )
    if codec is not None:
        return (lambda raw, strict: codec.read(raw)), codec.write, None
    if isinstance(kind, type) and issubclass(kind, Struct):
        return (lambda raw, strict: read_struct(kind, raw, strict)), write_struct, kind
    if kind is Any:
        return (lambda raw, strict: raw), (lambda value: value), None
    return _SCALARS[kind][0], _SCALARS[kind][1], None


def _shape_reader(shape: type[Struct]) -> Reader:
    """Keeps the JSON object as it is once it has been read as ``shape``."""

    def read_shape(raw: Any, strict: bool) -> Any:
        read_struct(shape, raw, strict)
        return raw

    return read_shape


def _list_reader(read: Reader) -> Reader:
    def read_list(raw: Any, strict: bool) -> list[Any]:
        if not isinstance(raw, list):
            raise Fault("must be a list", raw)
        if read is read_str and STRINGS.issuperset(map(type, raw)):
            return raw.copy()
        values = []
        for index, item in enumerate(raw):
            try:
                values.append(read(item, strict))
            except Fault as fault:
                raise fault.under(f"[{index}]") from None
        return values

    return read_list


def _map_reader(read: Reader, shared: bool) -> Reader:
    def read_map(raw: Any, strict: bool) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise Fault("must be a map", raw)
        if read is read_str and STRINGS.issuperset(map(type, raw.values())) and STRINGS.issuperset(map(type, raw)):
            return {key: sys.intern(text) for key, text in raw.items()} if shared else raw.copy()
        values = {}
        for key, item in raw.items():
            if not isinstance(key, str):
                raise Fault("map keys must be strings", key)
            try:
                values[key] = read(item, strict)
            except Fault as fault:
                raise fault.under(key) from None
        return values

    return read_map


def read_str(raw: Any, strict: bool) -> str:
    if not isinstance(raw, str):
        hint = " (put it in quotes)" if isinstance(raw, bool | int | float) else ""
        raise Fault("must be a string" + hint, raw)
    return raw


def _read_bool(raw: Any, strict: bool) -> bool:
    if not isinstance(raw, bool):
        raise Fault("must be true or false", raw)
    return raw


def _read_int(raw: Any, strict: bool) -> int:
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise Fault("must be an integer", raw)
    if not -(2**63) <= raw < 2**63:
        raise Fault("integer is out of range: it must fit in 64 bits", raw)
    return raw


def _read_float(raw: Any, strict: bool) -> float:
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise Fault("must be a number", raw)
    try:
        value = float(raw)
    except OverflowError:
        raise Fault("number is out of range", raw) from None
    if value != value or value in (float("inf"), float("-inf")):
        raise Fault("must be a finite number", raw)
    return value


def write_float(value: float) -> int | float:
    """As Go's JSON writes a float64: 100, not 100.0.

    Numbers beyond 64 bits, and fractions below 1e-5, keep an exponent (1e20) where Go writes digits.
    """
    return int(value) if float(value).is_integer() and abs(value) < 2**63 else value


_SCALARS: dict[Any, tuple[Reader, Writer]] = {
    str: (read_str, lambda value: value),
    bool: (_read_bool, lambda value: value),
    int: (_read_int, lambda value: value),
    float: (_read_float, write_float),
}
