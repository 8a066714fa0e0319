"""Multi-document YAML and JSON, with the place of every value kept for error messages."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from calico_node.errors import ValidationError
from calico_node.resources.api import from_dict
from calico_node.resources.kinds import KINDS
from calico_node.resources.meta import Resource

if TYPE_CHECKING:
    from yaml.nodes import Node as YAMLNode

ALIASED_VALUES = 100_000
"""A text may hold this many values more than it has characters, so that nested aliases exhaust nothing."""

MAX_DEPTH = 100

_PATH_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_SELECTOR_FIELDS = frozenset(
    (
        "selector",
        "notSelector",
        "namespaceSelector",
        "serviceAccountSelector",
        "nodeSelector",
        "peerSelector",
        "localWorkloadSelector",
    )
)


@frozen
class Document:
    """One document: ``data``, where it came from (``source``), its number there from 1 (``index``) and its line.

    An item of a list document keeps the number of the whole and has its own line.
    """

    data: Any
    source: str
    index: int
    line: int
    _node: "YAMLNode | None" = field(default=None, repr=False, eq=False)

    def line_of(self, path: str) -> int:
        """The line of the value at a dotted path such as ``spec.ingress[0].action``, or of its nearest ancestor."""
        node, line = self._node, self.line
        for index, name in _PATH_STEP.findall(path):
            node = _child(node, name, int(index) if index else None)
            if node is None:
                break
            line = _line(node, line)
        return line

    def origin(self, path: str = "") -> str:
        """Where the value at ``path`` stands, for the user: ``policies.yaml, document 2, line 17``."""
        return f"{self.source}, document {self.index}, line {self.line_of(path) if path else self.line}"

    def resource(self, *, stored: Resource | None = None, strict: bool = True) -> Resource:
        """The resource of this document.  Raises ``ValidationError`` with file, document, line and field.

        ``stored``, what the datastore has of it, and ``strict`` are ``from_dict``'s.
        """
        try:
            return from_dict(self.data, origin=self.origin(), stored=stored, strict=strict)
        except ValidationError as error:
            raise self.located(error) from None

    def located(self, error: ValidationError) -> ValidationError:
        """The same error, with the line of its field in this document."""
        return ValidationError(
            error.reason,
            resource=error.resource,
            field=error.field,
            value=error.value,
            origin=self.origin(error.field),
        )


def load_documents(text: str | bytes, source: str) -> list[Document]:
    """The documents of a YAML or JSON text; empty ones are left out.

    Plain YAML timestamps stay text.  Duplicate keys are refused.  Trailing newlines of block scalars are trimmed
    from selectors, where they would be errors.  Raises ``ValidationError`` naming ``source``, document and line.
    """
    import yaml

    try:
        return _compose(text.decode() if isinstance(text, bytes) else text, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        problem = error.problem or error.context or ""
        if "nesting depth" in problem:
            # Some releases of libyaml have a limit of their own, met while they look ahead.
            problem = f"nested more than {MAX_DEPTH} levels deep"
        raise ValidationError(f"malformed YAML: {problem}", origin=where) from None
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValidationError(f"malformed YAML: {reason}", origin=source) from None


def _compose(text: str, source: str) -> list[Document]:
    import yaml

    loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    _check_depth(loader_class(text), source)
    loader = loader_class(text)
    documents: list[Document] = []
    builder = _Builder(source, len(text) + ALIASED_VALUES)
    while loader.check_node():
        node: Any = loader.get_node()
        builder.index += 1
        data = builder.build(node)
        if data is not None:
            documents.append(Document(data, source, builder.index, node.start_mark.line + 1, node))
    return documents


def _check_depth(loader: Any, source: str) -> None:
    """Refuse what is nested so deep that composing it, which recurses in C, could end the process."""
    from yaml.events import CollectionEndEvent, CollectionStartEvent

    depth = 0
    while loader.check_event():
        event: Any = loader.get_event()
        if isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                mark: Any = event.start_mark
                origin = f"{source}, line {mark.line + 1}"
                raise ValidationError(f"malformed YAML: nested more than {MAX_DEPTH} levels deep", origin=origin)
        elif isinstance(event, CollectionEndEvent):
            depth -= 1


def expand_lists(documents: list[Document]) -> Iterator[Document]:
    """The documents, with lists (a bare list, ``kind: List`` or ``kind: <Kind>List``) replaced by their items."""
    for document in documents:
        items, path = _items(document)
        if items is None:
            yield document
            continue
        parent = _node_at(document, path)
        for index, item in enumerate(items):
            node = _child(parent, "", index)
            line = _line(node, document.line)
            yield from expand_lists([Document(item, document.source, document.index, line, node)])


def load_resources(text: str | bytes, source: str) -> list[tuple[Resource, Document]]:
    """The Calico resources of a text, each with its document.  Raises ``ValidationError``."""
    return [(document.resource(), document) for document in expand_lists(load_documents(text, source))]


def _items(document: Document) -> tuple[list[Any] | None, str]:
    data = document.data
    if isinstance(data, list):
        return data, ""
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        return None, ""
    kind = data["kind"]
    if not kind.endswith("List") or kind in KINDS:
        return None, ""
    items = data.get("items")
    if items is None:
        items = []
    if not isinstance(items, list):
        raise ValidationError(
            "must be a list", resource=kind, field="items", value=items, origin=document.origin("items")
        )
    item_kind = kind.removesuffix("List")
    if item_kind and isinstance(data.get("apiVersion"), str):
        # Items of a typed list may leave out what the list says: an API server does.
        head = {"apiVersion": data["apiVersion"], "kind": item_kind}
        items = [{**head, **item} if isinstance(item, dict) else item for item in items]
    return items, "items"


def _line(node: "YAMLNode | None", otherwise: int) -> int:
    mark: Any = node.start_mark if node is not None else None
    return mark.line + 1 if mark is not None else otherwise


def _node_at(document: Document, path: str) -> "YAMLNode | None":
    return _child(document._node, path, None) if path else document._node


def _child(node: "YAMLNode | None", name: str, index: int | None) -> "YAMLNode | None":
    if node is None or not isinstance(node.value, list):
        return None
    if index is not None:
        child = node.value[index] if index < len(node.value) else None
        return None if isinstance(child, tuple) else child
    for entry in node.value:
        if isinstance(entry, tuple) and entry[0].value == name:
            return entry[1]  # type: ignore[no-any-return]
    return None


class _Builder:
    """Python values from composed nodes, by YAML 1.1's rules as Kubernetes tools use them."""

    def __init__(self, source: str, limit: int) -> None:
        self.source = source
        self.limit = limit
        self.index = 0
        self.count = 0
        self.depth = 0

    def spend(self, node: Any) -> None:
        self.count += 1
        if self.count > self.limit:
            raise self.error(node, f"aliases make it more than {self.limit} values")

    def build(self, node: Any, name: str = "") -> Any:
        self.spend(node)
        if node.id == "scalar":
            return self.scalar(node, name)
        # Aliases nest values deeper than the text that holds them.
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(node, f"malformed YAML: nested more than {MAX_DEPTH} levels deep")
        value = [self.build(item) for item in node.value] if node.id == "sequence" else self.mapping(node)
        self.depth -= 1
        return value

    def mapping(self, node: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged.update(self.merge(value_node))
                continue
            if key_node.id != "scalar":
                raise self.error(key_node, "a map key must be text")
            key = key_node.value
            if key in values:
                raise self.error(key_node, f"key {key!r} is given twice")
            values[key] = self.build(value_node, key)
        return {**merged, **values}

    def merge(self, node: Any) -> dict[str, Any]:
        parts = node.value if node.id == "sequence" else [node]
        merged: dict[str, Any] = {}
        for part in reversed(parts):
            self.spend(part)
            if part.id != "mapping":
                raise self.error(part, "only a map can be merged with <<")
            merged.update(self.mapping(part))
        return merged

    def scalar(self, node: Any, name: str) -> Any:
        kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        if kind in ("int", "float"):
            return self.number(node, kind, text)
        if kind in ("str", "timestamp", "value", "merge"):
            # A block scalar ends in a newline, which no selector may hold.
            return text.strip("\r\n \t") if name in _SELECTOR_FIELDS else text
        raise self.error(node, f"tag {node.tag!r} is not supported")

    def number(self, node: Any, kind: str, text: str) -> int | float:
        plain = text.replace("_", "")
        sign = -1 if plain.startswith("-") else 1
        digits = plain.lstrip("+-")
        try:
            if ":" in digits:
                raise self.error(node, "a number with ':' must be put in quotes")
            if kind == "float":
                if digits.lower() in (".inf", ".nan"):
                    raise self.error(node, f"{text} is not a number that JSON can hold")
                value = float(plain)
                if value in (float("inf"), float("-inf")):
                    raise self.error(node, f"{text[:40]} is not a number that JSON can hold")
                return value
            if digits.lower().startswith("0b"):
                return sign * int(digits[2:], 2)
            if digits.lower().startswith("0x"):
                return sign * int(digits[2:], 16)
            if digits.startswith("0") and digits != "0":
                return sign * int(digits, 8)
            return sign * int(digits)
        except ValueError as error:
            if isinstance(error, ValidationError):
                raise
            raise self.error(node, f"{text[:40]} is not a number") from None

    def error(self, node: Any, reason: str) -> ValidationError:
        mark = node.start_mark
        return ValidationError(
            reason,
            origin=f"{self.source}, document {self.index}, line {mark.line + 1}, column {mark.column + 1}",
        )
