"""Resources as the Go values that a go-template sees: Calico's API types, by their Go field names.

A Go name differs from the JSON name in case alone, but for the names in ``_RENAMED``; so a field is found by its
JSON name in any case, as long as it begins with a capital.  Metadata and type are embedded in every resource:
``.Name`` is ``.ObjectMeta.Name`` and ``.Kind`` is ``.TypeMeta.Kind``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from attrs import fields, frozen

from calico_node.calicoctl.gotemplate.values import NIL, GoStruct, Pointer
from calico_node.resources import API_VERSION, Resource, Struct, to_dict
from calico_node.resources.meta import ObjectMeta
from calico_node.resources.scalars import PORT, PROTOCOL
from calico_node.resources.structure import Plan, plan_of

_TIMES = frozenset(("creationTimestamp", "deletionTimestamp", "lastTransitionTime", "lastUpdated", "time"))
_DATES = frozenset(("creationTimestamp", "lastUpdated", "lastTransitionTime"))
"""Those that are no pointers: absent, they are Go's zero time."""
_POINTERS = frozenset(("assignmentMode", "protocol", "notProtocol", "defaultAction"))
"""Texts that are pointers: absent, they are nil."""
_RENAMED: Mapping[str, Mapping[str, str]] = {
    "FelixConfigurationSpec": {"ExternalNodesCIDRList": "externalNodesList"},
    "Controllers": {"Migration": "policyMigration"},
    "MigrationController": {"PolicyNameMigrator": "enabled"},
}
"""Go names that are not the JSON name in another case, by class."""


@frozen
class _Field:
    """A field of a Go type: ``pointer`` says that a scalar is one, ``zero`` what the field is when absent."""

    plan: Plan
    pointer: bool
    zero: Any
    is_map: bool
    is_float: bool


_FIELDS: dict[str, dict[str, _Field]] = {}


def _fields_of(cls: type[Struct]) -> Mapping[str, _Field]:
    """The fields by their JSON name in lower case."""
    found = _FIELDS.get(cls.__qualname__)
    if found is None:
        types = {attribute.name: str(attribute.type) for attribute in fields(cls)}
        found = _FIELDS[cls.__qualname__] = {
            name.lower(): _field(name, plan, types[plan.attribute]) for name, plan in plan_of(cls).items()
        }
    return found


def _field(name: str, plan: Plan, kind: str) -> _Field:
    text = "str" in kind and "int" not in kind
    pointer = plan.optional and not plan.member.zero and (not text or name in _POINTERS)
    is_map = kind.startswith("dict") and plan.member.shape is None
    zero: Any = NIL
    if kind.startswith("list"):
        zero = []
    elif is_map:
        zero = {}
    elif not pointer:
        zero = "" if "str" in kind else False if "bool" in kind else 0 if "int" in kind or "float" in kind else NIL
    return _Field(plan, pointer, zero, is_map, "float" in kind)


class Object(GoStruct):
    """A value of one of Calico's types: the JSON object ``data`` and the class that says what may be in it."""

    def __init__(self, cls: type[Struct], data: Mapping[str, Any]) -> None:
        self.cls = cls
        self.data = data
        self.type_name = f"v3.{cls.__name__}"

    def field(self, name: str) -> Any:
        if not name[:1].isupper():
            raise KeyError(name)
        renamed = _RENAMED.get(self.cls.__name__, {}).get(name, name)
        known = _fields_of(self.cls).get(renamed.lower())
        if known is None:
            raise KeyError(name)
        return self.value(known)

    def fields(self) -> Iterator[tuple[str, Any]]:
        for known in _fields_of(self.cls).values():
            name = known.plan.name
            yield name[:1].upper() + name[1:], self.value(known)

    def value(self, known: _Field) -> Any:
        plan = known.plan
        raw = self.data.get(plan.name)
        shape = plan.member.shape or plan.element
        if plan.name in _TIMES:
            return Time(raw or "") if raw or plan.name in _DATES else NIL
        if raw is None:
            if shape is None or known.is_map or known.zero == [] or (plan.optional and not plan.member.zero):
                return known.zero
            return Object(shape, {})
        if plan.member.codec is PORT:
            return [Port(item) for item in raw] if isinstance(raw, list) else Port(raw)
        if isinstance(raw, list):
            return raw if shape is None else [Object(shape, item) for item in raw]
        if isinstance(raw, dict):
            return raw if shape is None or known.is_map else Object(shape, raw)
        raw = float(raw) if known.is_float else raw
        return Pointer(raw) if known.pointer and plan.member.codec is not PROTOCOL else raw

    def text(self) -> str | None:
        writer = _TEXTS.get(self.cls.__name__)
        return writer(self.data) if writer else None


class ResourceObject(Object):
    """A resource: an ``Object`` with kind and apiVersion, and metadata whose fields are its own too."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(type(resource), to_dict(resource))
        self.type_name = f"*v3.{resource.kind}"

    def field(self, name: str) -> Any:
        head = {"Kind": self.data["kind"], "APIVersion": self.data["apiVersion"]}
        if name in head:
            return head[name]
        if name == "TypeMeta":
            return Record("v1.TypeMeta", head)
        metadata = Object(ObjectMeta, self.data["metadata"])
        if name == "ObjectMeta":
            return metadata
        if name == "Metadata":
            raise KeyError(name)
        try:
            return super().field(name)
        except KeyError:
            return metadata.field(name.removeprefix("Get") if name != "Get" else name)

    def fields(self) -> Iterator[tuple[str, Any]]:
        yield "TypeMeta", self.field("TypeMeta")
        yield "ObjectMeta", self.field("ObjectMeta")
        yield from (item for item in super().fields() if item[0] != "Metadata")


class Record(GoStruct):
    """Fields by name."""

    def __init__(self, type_name: str, values: Mapping[str, Any]) -> None:
        self.type_name = type_name
        self.values = values

    def field(self, name: str) -> Any:
        return self.values[name]

    def fields(self) -> Iterator[tuple[str, Any]]:
        yield from self.values.items()


class ListObject(Record):
    """All resources of a kind, as ``get KIND`` finds them."""

    def __init__(self, kind: str, items: list[ResourceObject], revision: int) -> None:
        head = {"Kind": f"{kind}List", "APIVersion": API_VERSION}
        version = {
            "SelfLink": "",
            "ResourceVersion": str(revision) if revision else "",
            "Continue": "",
            "RemainingItemCount": NIL,
        }
        embedded = {"TypeMeta": Record("v1.TypeMeta", head), "ListMeta": Record("v1.ListMeta", version)}
        super().__init__(f"*v3.{kind}List", {**embedded, "Items": items})
        self.promoted = {**head, **version}

    def field(self, name: str) -> Any:
        return self.promoted[name] if name in self.promoted else super().field(name)


@frozen
class Time(GoStruct):
    """A time as Go prints it, in the local zone; "" is Go's zero time."""

    stamp: str
    type_name = "v1.Time"

    def field(self, name: str) -> Any:
        if name == "IsZero":
            return not self.stamp
        if name == "String":
            return self.text()
        moment = self.moment()
        if name == "Unix":
            return int(moment.timestamp()) if moment else -62135596800
        if name in ("Year", "Day", "Hour", "Minute", "Second"):
            return getattr(moment, name.lower()) if moment else {"Year": 1, "Day": 1}.get(name, 0)
        raise KeyError(name)

    def fields(self) -> Iterator[tuple[str, Any]]:
        yield "Time", self.text()

    def moment(self) -> datetime | None:
        try:
            return datetime.fromisoformat(self.stamp.replace("Z", "+00:00")).astimezone() if self.stamp else None
        except ValueError:
            return None

    def text(self) -> str:
        moment = self.moment()
        if moment is None:
            return self.stamp or "0001-01-01 00:00:00 +0000 UTC"
        fraction = f".{moment.microsecond:06}".rstrip("0") if moment.microsecond else ""
        return moment.strftime(f"%Y-%m-%d %H:%M:%S{fraction} %z %Z")


@frozen
class Port(GoStruct):
    """A port number, a range ``low:high`` or a name."""

    port: int | str
    type_name = "numorstring.Port"

    def field(self, name: str) -> Any:
        return self.text() if name == "String" else dict(self.fields())[name]

    def fields(self) -> Iterator[tuple[str, Any]]:
        low, colon, high = str(self.port).partition(":")
        numeric = isinstance(self.port, int) or bool(colon)
        yield "MinPort", int(low) if numeric else 0
        yield "MaxPort", int(high or low) if numeric else 0
        yield "PortName", "" if numeric else self.port

    def text(self) -> str:
        return str(self.port)


def label_selector(selector: Mapping[str, Any]) -> str:
    """A Kubernetes label selector as its Go type prints itself."""
    labels = selector.get("matchLabels") or {}
    pairs = "".join(f"{key}: {labels[key]}," for key in sorted(labels))
    terms = "".join(
        f"LabelSelectorRequirement{{Key:{term.get('key', '')},Operator:{term.get('operator', '')},"
        f"Values:[{' '.join(term.get('values') or [])}],}},"
        for term in selector.get("matchExpressions") or []
    )
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{pairs}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{terms}}},}}"
    )


_TEXTS = {"LabelSelector": label_selector}
