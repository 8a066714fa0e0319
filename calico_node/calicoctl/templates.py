"""``-o go-template``: results through a template of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calico_node.calicoctl.errors import InputError
from calico_node.calicoctl.gotemplate import Template
from calico_node.calicoctl.gotemplate.values import plain, show
from calico_node.calicoctl.manifests import DEFAULT_AS_NUMBER

if TYPE_CHECKING:
    from calico_node.calicoctl.output import Listing
    from calico_node.resources import Resource


def read(format_name: str, text: str) -> Template:
    """The template itself, or that in the file ``text``.  Raises ``TemplateError``, ``InputError``."""
    if format_name == "go-template-file":
        try:
            text = Path(text).read_bytes().decode()
        except OSError as error:
            raise InputError(f"cannot read {text}: {error.strerror}") from None
        except UnicodeError:
            raise InputError(f"{text} is not UTF-8 text") from None
    return Template(text, _functions(str(DEFAULT_AS_NUMBER)))


def render(template: Template, results: Sequence[Resource | Listing], as_number: int | None) -> str:
    """The template's text over the list of results; ``as_number`` is the cluster's, None where it cannot be read.

    As in Calico the template's dot is a list: of one ``KindList`` for ``get KIND``, else of the named resources.
    """
    from calico_node.calicoctl.goview import ListObject, ResourceObject
    from calico_node.calicoctl.output import Listing

    template.functions.update(_functions("unknown" if as_number is None else str(as_number)))
    data = [
        ListObject(result.kind, [ResourceObject(item) for item in result.items], result.revision)
        if isinstance(result, Listing)
        else ResourceObject(result)
        for result in results
    ]
    return template.execute(data)


def _functions(as_number: str) -> dict[str, Any]:
    def config(name: Any) -> str:
        if str(plain(name)).lower() != "asnumber":
            raise ValueError("unhandled config type")
        return as_number

    return {"join": join, "joinAndTruncate": join_and_truncate, "config": config}


def join(items: Any, separator: Any) -> str:
    """The texts of a list's items, or a map's ``key=value`` pairs, with ``separator`` between them."""
    return join_and_truncate(items, separator, 0)


def join_and_truncate(items: Any, separator: Any, longest: Any) -> str:
    """The same, cut to ``longest`` bytes that end in ``...`` (0: not cut)."""
    value, longest = plain(items), plain(longest)
    if not isinstance(separator, str):
        raise ValueError("the separator must be a string")
    if isinstance(longest, bool) or not isinstance(longest, int):
        raise ValueError("the length must be an integer")
    if value is None:
        return ""
    if isinstance(value, dict):
        value = sorted(f"{key}={show(item)}" for key, item in value.items())
    text = separator.join(map(show, value)) if isinstance(value, list | tuple) else show(value)
    return cut(text, longest) if longest > 0 else text


def cut(text: str, longest: int) -> str:
    """At most ``longest`` bytes; what is cut ends in ``...``."""
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) <= longest:
        return text
    return raw[: max(0, longest - 3)].decode("utf-8", "ignore") + "..."
