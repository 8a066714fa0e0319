"""Resources from and to JSON."""

import re
from typing import Any

import orjson

from calico_node.errors import ValidationError
from calico_node.resources.fields import Fault
from calico_node.resources.kinds import KINDS, KindInfo
from calico_node.resources.meta import API_VERSION, Resource, describe
from calico_node.resources.readers import read_stored
from calico_node.resources.structure import read_struct, unknown_members, write_struct

_INDEX = re.compile(r"\[\d+\]")


def from_dict(data: Any, *, origin: str = "", stored: Resource | None = None, strict: bool = True) -> Resource:
    """A resource from a document that a user wrote.

    Unknown fields, wrong types and unknown kinds are refused; defaults are not set and values not checked (see
    ``apply_defaults`` and ``validate``).  An unknown field is taken where ``stored``, what the datastore has of this
    resource, has one of that name too (in any item of a list): a newer release put it there.  Without ``strict`` all
    of them are.  Raises ``ValidationError`` with ``origin``, resource, field and value.
    """
    info, label = _head(data, origin)
    body = {name: value for name, value in data.items() if name not in ("kind", "apiVersion")}
    try:
        if stored is not None:
            known = {_INDEX.sub("", fault.path) for fault in unknown_members(info.cls, write_struct(stored))}
            for fault in unknown_members(info.cls, body):
                if _INDEX.sub("", fault.path) not in known:
                    raise fault
        return read_struct(info.cls, body, strict and stored is None)  # type: ignore[no-any-return]
    except Fault as fault:
        raise as_error(fault, resource=label, origin=origin) from None


def decode(kind: str, raw: bytes | str | dict[str, Any], *, origin: str = "") -> Resource:
    """A resource from what a datastore holds: unknown fields are kept in ``extra`` and written back by ``encode``.

    Raises ``ValidationError`` where the value is not JSON or a known field has a wrong type.
    """
    if isinstance(raw, dict):
        data: Any = dict(raw)
    else:
        try:
            data = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise ValidationError(f"stored value is not JSON: {error}", resource=kind, origin=origin) from None
        if not isinstance(data, dict):
            raise ValidationError("stored value is not a JSON object", resource=kind, origin=origin)
    info = KINDS.get(kind)
    if info is None:
        raise ValidationError(f"unknown kind {kind!r}", origin=origin)
    data.pop("kind", None)
    data.pop("apiVersion", None)
    try:
        return read_stored(info.cls, data)  # type: ignore[no-any-return]
    except Fault as fault:
        raise as_error(fault, resource=_label(kind, data), origin=origin) from None


def to_dict(resource: Resource) -> dict[str, Any]:
    """The JSON object, with Calico's names and member order."""
    return {"kind": resource.kind, "apiVersion": API_VERSION, **write_struct(resource)}


def encode(resource: Resource) -> bytes:
    """JSON as Go writes it, with ``&``, ``<``, ``>``, U+2028 and U+2029 escaped."""
    return encode_json(to_dict(resource), resource.described)


def encode_json(data: Any, label: str = "") -> bytes:
    """Any JSON value as Go writes it.  Raises ``ValidationError`` where it holds text that is not Unicode."""
    try:
        text = orjson.dumps(data)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise ValidationError(f"cannot be written as JSON: {error}", resource=label) from None
    return escape_json(text)


def escape_json(text: bytes) -> bytes:
    """JSON text with the characters escaped that Go escapes; they occur only inside strings."""
    for plain, escaped in _ESCAPES:
        if plain in text:
            text = text.replace(plain, escaped)
    return text


_ESCAPES = (
    (b"&", b"\\u0026"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def as_error(fault: Fault, *, resource: str, origin: str = "") -> ValidationError:
    """The user's error for a fault inside a known resource."""
    return ValidationError(fault.reason, resource=resource, field=fault.path, value=fault.value, origin=origin)


def _label(kind: str, data: dict[str, Any]) -> str:
    metadata = data.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name, namespace = metadata.get("name"), metadata.get("namespace")
    return describe(kind, name if isinstance(name, str) else "", namespace if isinstance(namespace, str) else "")


def _head(data: Any, origin: str) -> tuple[KindInfo, str]:
    """The kind of a document.  Raises ``ValidationError`` for a foreign or unknown one."""
    if not isinstance(data, dict):
        raise ValidationError("a document must be an object with apiVersion, kind and metadata", origin=origin)
    kind, version = data.get("kind"), data.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        raise ValidationError("has no kind", origin=origin, field="kind", value=kind)
    label = _label(kind, data)
    if version != API_VERSION:
        reason = f"must be {API_VERSION}"
        if isinstance(version, str) and version and "projectcalico.org" not in version:
            reason += "; this is not a Calico resource"
        raise ValidationError(reason, resource=label, field="apiVersion", value=version, origin=origin)
    info = KINDS.get(kind)
    if info is None:
        from difflib import get_close_matches

        close = get_close_matches(kind, KINDS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValidationError(
            f"unknown kind in {API_VERSION}{hint}", resource=label, field="kind", value=kind, origin=origin
        )
    return info, label
