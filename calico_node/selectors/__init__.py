"""Selector expressions: grammar, canonical form, identity and evaluation.

>>> parse("app in {'b', 'a'} && !has(x)").canonical
'(app in {"a", "b"} && !has(x))'
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from functools import cached_property, lru_cache
from hashlib import sha224

from calico_node.errors import SelectorError
from calico_node.selectors.ast import Global, Labels, Node, map_labels, walk
from calico_node.selectors.parser import parse_tree

__all__ = ["Node", "Selector", "SelectorError", "parse", "prefix_labels"]


class Selector:
    """A parsed selector, immutable; two are equal when their canonical texts are.

    ``node`` is its syntax tree (``calico_node.selectors.ast``), ``text`` what was parsed.
    """

    __slots__ = ("__dict__", "node", "text")

    def __init__(self, node: Node, text: str | None = None) -> None:
        self.node = node
        self.text = str(node) if text is None else text

    def matches(self, labels: Labels) -> bool:
        """Whether an object with these labels (its own and the inherited ones) is selected."""
        return self.node.matches(labels)

    @cached_property
    def canonical(self) -> str:
        """The one text that all spellings of this selector share."""
        return str(self.node)

    def uid(self, prefix: str = "s") -> str:
        """``<prefix>:`` and the unpadded URL-safe base64 of SHA-224 over ``<prefix>:<canonical>``."""
        digest = sha224(f"{prefix}:{self.canonical}".encode("utf-8", "surrogatepass")).digest()
        return f"{prefix}:{urlsafe_b64encode(digest).decode().rstrip('=')}"

    @property
    def has_global(self) -> bool:
        """Whether ``global()`` occurs anywhere in it."""
        return any(isinstance(node, Global) for node in walk(self.node))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selector) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __str__(self) -> str:
        return self.canonical

    def __repr__(self) -> str:
        return f"Selector({self.canonical!r})"


@lru_cache(maxsize=16384)
def parse(text: str) -> Selector:
    """The selector of ``text``; "" and blanks alone mean ``all()``.  Raises ``SelectorError``."""
    return Selector(parse_tree(text), text)


def prefix_labels(text: str, prefix: str) -> str:
    """The canonical text of ``text`` with ``prefix`` before every label name; "" when it does not parse.

    This is how namespace and service account selectors (``pcns.``, ``pcsa.``) become part of an endpoint selector.
    A term that does not parse is dropped, as in Calico, which widens a policy: validation refuses it on write.
    """
    try:
        selector = parse(text)
    except SelectorError:
        return ""
    return str(map_labels(selector.node, lambda label: prefix + label))
