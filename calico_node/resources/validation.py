"""What the v3 API allows: declared checks of single fields, then the rules of each kind."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, get_origin

from calico_node.resources.api import as_error
from calico_node.resources.fields import Check, Fault, Struct
from calico_node.resources.meta import Resource
from calico_node.resources.readers import Generated, define, is_few
from calico_node.resources.structure import Plan, plan_of, read_struct


def validate(resource: Resource, *, origin: str = "") -> None:
    """Raise ``ValidationError`` for the first rule that the resource breaks, naming field, value and reason.

    Defaults should have been applied.  Rules that need other resources (a policy's tier, overlapping pools) or the
    former state (a pool's CIDR cannot change) are the client's.
    """
    check_name, by_kind = _rules()
    try:
        if not is_sound(resource):
            check_struct(resource)
        check_name(resource)
        rule = by_kind.get(resource.kind)
        if rule:
            rule(resource)
    except Fault as fault:
        raise as_error(fault, resource=resource.described, origin=origin) from None


@cache
def _rules() -> tuple[Callable[[Resource], None], Mapping[str, Callable[[Any], None]]]:
    """Imported with the first object to check, since tools that only read need none of it."""
    from calico_node.resources import rules

    return rules.check_name, rules.BY_KIND


def check_struct(value: Struct) -> None:
    """The declared checks of an object and all below it.  Raises ``Fault``."""
    cls = type(value)
    for plan in _CHECKED.get(cls) or _checked(cls):
        item = getattr(value, plan.attribute)
        if not item and _may_be_absent(plan, item):
            continue
        try:
            _check_member(plan, item)
        except Fault as fault:
            raise fault.under(plan.name) from None
    whole = value.fault()
    if whole:
        raise whole


def _may_be_absent(plan: Plan, item: Any) -> bool:
    """Of a false ``item``: whether it is None, "" or an empty list, where nothing asks for more."""
    member = plan.member
    return not member.required and (item is None or item == "" or (item == [] and member.check is None))


_CHECKED: dict[type[Struct], tuple[Plan, ...]] = {}


def _checked(cls: type[Struct]) -> tuple[Plan, ...]:
    """The members that may have to be refused; most of them are scalars that may hold anything of their type."""
    plans = []
    for plan in plan_of(cls).values():
        member = plan.member
        limited = member.required or member.check or member.each or member.limit is not None
        if limited or member.shape is not None or member.codec is not None or plan.element is not None:
            plans.append(plan)
    return _CHECKED.setdefault(cls, tuple(plans))


def _check_member(plan: Plan, item: Any) -> None:
    member = plan.member
    if item is None or item == "":
        if member.required:
            raise Fault("is required")
        return
    if member.check and (item or not isinstance(item, dict)):
        _apply(member.check, item, shown=not isinstance(item, dict))
    if member.shape is not None and not isinstance(item, list):
        check_struct(read_struct(member.shape, item, False))
    elif isinstance(item, Struct):
        check_struct(item)
    elif isinstance(item, list):
        if member.limit is not None and len(item) > member.limit:
            raise Fault(f"has {len(item)} items, at most {member.limit} are allowed")
        for index, entry in enumerate(item):
            try:
                if member.each:
                    _apply(member.each, entry)
                if member.shape is not None:
                    check_struct(read_struct(member.shape, entry, False))
                elif isinstance(entry, Struct):
                    check_struct(entry)
            except Fault as fault:
                raise fault.under(f"[{index}]") from None


def _apply(check: Check, value: Any, shown: bool = True) -> None:
    reason = check(value)
    if reason:
        raise Fault(reason, value if shown else None)


_SOUND: dict[type[Struct], Generated] = {}
_FIRST: Counter[type[Struct]] = Counter()


def is_sound(value: Struct) -> bool:
    """Whether ``check_struct`` finds nothing, in a third of its time; also False where only it can tell.

    A class of which many objects have come has a function of its own, generated; of ``WorkloadEndpointSpec`` it
    reads::

        def generated(self):
            value = self.orchestrator
            if value is not None and value != '' and check_orchestrator(value):
                return False
            ...
    """
    cls = type(value)
    generated = _SOUND.get(cls)
    if generated is None:
        if is_few(cls, _FIRST):
            return False
        generated = checker(cls)
    return generated(value)  # type: ignore[no-any-return]


def checker(cls: type[Struct]) -> Generated:
    """The generated function behind ``is_sound``."""
    made = _SOUND.get(cls)
    if made is not None:
        return made
    names: dict[str, Any] = {}
    lines = ["def generated(self):"]
    for plan in _checked(cls):
        names[f"check_{plan.attribute}"] = plan.member.check
        names[f"each_{plan.attribute}"] = plan.member.each
        if plan.element is not None:
            names[f"class_{plan.attribute}"] = plan.element
            names[f"sound_{plan.attribute}"] = checker(plan.element)
        lines.append(f"    value = self.{plan.attribute}")
        lines += [f"    if {condition}:\n        return False" for condition in _doubts(plan)]
        if plan.element is not None and get_origin(plan.kind) is list:
            unsound = f"entry.__class__ is not class_{plan.attribute} or not sound_{plan.attribute}(entry)"
            lines += ["    for entry in value or ():", f"        if {unsound}:", "            return False"]
    lines.append("    return True" if cls.fault is Struct.fault else "    return self.fault() is None")
    return _SOUND.setdefault(cls, define(f"checker of {cls.__name__}", lines, names))


def _doubts(plan: Plan) -> list[str]:
    """Conditions on ``value`` under which it is refused, or may be; the objects of a list apart."""
    member, attribute, container = plan.member, plan.attribute, get_origin(plan.kind)
    if member.shape is not None or plan.kind is Any:
        return ["value is not None and value != [] and value != {}"]
    if (container in (list, dict) or plan.element) and (member.required or (container is list and member.check)):
        return ["True"]
    if container is list:
        doubts = ["value.__class__ is not list and value is not None"]
        if member.limit is not None:
            doubts.append(f"value and len(value) > {member.limit}")
        if member.each:
            doubts.append(f"value and any(map(each_{attribute}, value))")
        return doubts
    if container is dict:
        doubts = ["value.__class__ is not dict and value is not None"]
        return [*doubts, f"value and check_{attribute}(value)"] if member.check else doubts
    if plan.element is not None:
        return [f"value is not None and (value.__class__ is not class_{attribute} or not sound_{attribute}(value))"]
    given = "value is not None and value != ''"
    doubts = [f"not ({given})"] if member.required else []
    return [*doubts, f"{given} and check_{attribute}(value)"] if member.check else doubts
