"""Results as text: tables, YAML, JSON, names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from calico_node.calicoctl import tables
from calico_node.calicoctl.manifests import DEFAULT_AS_NUMBER
from calico_node.errors import CalicoError
from calico_node.resources import API_VERSION, KINDS, Resource, escape_json, to_dict

if TYPE_CHECKING:
    from calico_node.calicoctl.gotemplate import Template

FORMATS = (
    "ps",
    "wide",
    "yaml",
    "yml",
    "json",
    "name",
    "custom-columns=<HEADING>[,<HEADING>…]",
    "go-template=<TEMPLATE>",
    "go-template-file=<FILE>",
)

_NEEDS = {
    "go-template": "a template",
    "go-template-file": "a template file",
    "custom-columns": "at least one column",
}
"""Formats that need a value, and what it is."""


@frozen
class Listing:
    """All resources of a kind, as ``get KIND`` without names finds them; ``revision`` is the datastore's."""

    kind: str
    items: tuple[Resource, ...]
    revision: int


@frozen
class Format:
    """A parsed ``-o``; ``columns`` are those of custom-columns, ``template`` that of go-template."""

    name: str
    columns: tuple[str, ...] = ()
    template: Template | None = None

    @classmethod
    def parse(cls, text: str) -> Format:
        """Raises ``InputError`` for an unknown format, ``TemplateError`` for a template that cannot be read."""
        if text in ("ps", "wide", "json", "name"):
            return cls(text)
        if text in ("yaml", "yml"):
            return cls("yaml")
        name, _, rest = text.partition("=")
        if name in _NEEDS:
            if not rest:
                raise CalicoError(f"need to specify {_NEEDS[name]}")
            if name == "custom-columns":
                return cls(name, tuple(rest.split(",")))
            from calico_node.calicoctl import templates

            return cls(name, template=templates.read(name, rest))
        raise CalicoError(f"unrecognized output format '{text}': valid values are {', '.join(FORMATS)}")


def render(
    results: Sequence[Resource | Listing],
    format_: Format,
    *,
    namespace: bool = False,
    as_number: int | None = DEFAULT_AS_NUMBER,
) -> str:
    """The text of all results; one is written bare, several as a list.

    In tables ``namespace`` adds the NAMESPACE column, and ``as_number`` is what nodes without one of their own have
    (None: it cannot be read).  Raises ``TemplateError``.
    """
    if format_.template is not None:
        from calico_node.calicoctl import templates

        return templates.render(format_.template, results, as_number)
    if format_.name == "json":
        return _json(_data(results))
    if format_.name == "yaml":
        return _yaml(_data(results))
    groups = [(result.kind, result.items if isinstance(result, Listing) else (result,)) for result in results]
    if format_.name == "name":
        return "".join(f"{_reference(item)}\n" for _, items in groups for item in items)
    # Each result has a table of its own.
    text = ""
    for kind, items in groups:
        if format_.columns:
            columns, with_namespace = tables.check_headings(kind, format_.columns), False
        else:
            columns, with_namespace = tables.headings(kind, wide=format_.name == "wide"), namespace
        text += tables.table(kind, items, columns, namespace=with_namespace, as_number=as_number)
    return text


def _reference(resource: Resource) -> str:
    """``kind/name``, or ``kind/namespace/name``."""
    parts = (resource.kind.lower(), resource.metadata.namespace, resource.metadata.name)
    return "/".join(part for part in parts if part)


def _data(results: Sequence[Resource | Listing]) -> Any:
    data = [_listing(result) if isinstance(result, Listing) else to_dict(result) for result in results]
    # Nothing found is null, as Go writes a list that was never made.
    return data[0] if len(data) == 1 else data or None


def _listing(listing: Listing) -> dict[str, Any]:
    return {
        "kind": f"{KINDS[listing.kind].kind}List",
        "apiVersion": API_VERSION,
        "metadata": {"resourceVersion": str(listing.revision)} if listing.revision else {},
        "items": [to_dict(item) for item in listing.items],
    }


def _json(data: Any) -> str:
    import orjson

    # No newline at the end: that is what Calico's tool prints.
    return escape_json(orjson.dumps(data, option=orjson.OPT_INDENT_2)).decode()


def _yaml(data: Any) -> str:
    from calico_node.calicoctl.yamltext import yaml_text

    return "null\n" if data is None else yaml_text(data)
