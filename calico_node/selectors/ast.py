"""The syntax tree of a selector: immutable nodes that evaluate themselves and write their canonical text.

Semantics are those of Calico's selector expressions: on a missing label ``==``, ``contains``, ``starts with``,
``ends with``, ``in`` and ``has()`` are false, while ``!=`` and ``not in`` are true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from attrs import evolve, frozen

Labels: TypeAlias = Mapping[str, str]


def quote(value: str) -> str:
    """The value as a selector string: in double quotes unless it holds one."""
    return f"'{value}'" if '"' in value else f'"{value}"'


@frozen
class All:
    """``all()``: every object."""

    def matches(self, labels: Labels) -> bool:
        return True

    def __str__(self) -> str:
        return "all()"


@frozen
class Global:
    """``global()``: true in itself; it has a meaning only where a rule's namespaceSelector is composed."""

    def matches(self, labels: Labels) -> bool:
        return True

    def __str__(self) -> str:
        return "global()"


@frozen
class Has:
    """``has(label)``."""

    label: str

    def matches(self, labels: Labels) -> bool:
        return self.label in labels

    def __str__(self) -> str:
        return f"has({self.label})"


@frozen
class Equal:
    """``label == "value"``."""

    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        return labels.get(self.label) == self.value

    def __str__(self) -> str:
        return f"{self.label} == {quote(self.value)}"


@frozen
class NotEqual:
    """``label != "value"``; true where the label is missing."""

    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        return labels.get(self.label) != self.value

    def __str__(self) -> str:
        return f"{self.label} != {quote(self.value)}"


@frozen
class Contains:
    """``label contains "value"``."""

    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        actual = labels.get(self.label)
        return actual is not None and self.value in actual

    def __str__(self) -> str:
        return f"{self.label} contains {quote(self.value)}"


@frozen
class StartsWith:
    """``label starts with "value"``."""

    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        actual = labels.get(self.label)
        return actual is not None and actual.startswith(self.value)

    def __str__(self) -> str:
        return f"{self.label} starts with {quote(self.value)}"


@frozen
class EndsWith:
    """``label ends with "value"``."""

    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        actual = labels.get(self.label)
        return actual is not None and actual.endswith(self.value)

    def __str__(self) -> str:
        return f"{self.label} ends with {quote(self.value)}"


def _sorted_set(values: frozenset[str]) -> str:
    members = sorted(values, key=lambda value: value.encode("utf-8", "surrogatepass"))
    return "{" + ", ".join(quote(value) for value in members) + "}"


@frozen
class In:
    """``label in {"a", "b"}``; with an empty set never true."""

    label: str
    values: frozenset[str]

    def matches(self, labels: Labels) -> bool:
        return labels.get(self.label) in self.values

    def __str__(self) -> str:
        return f"{self.label} in {_sorted_set(self.values)}"


@frozen
class NotIn:
    """``label not in {"a", "b"}``; true where the label is missing."""

    label: str
    values: frozenset[str]

    def matches(self, labels: Labels) -> bool:
        return labels.get(self.label) not in self.values

    def __str__(self) -> str:
        return f"{self.label} not in {_sorted_set(self.values)}"


@frozen
class Not:
    """``!operand``."""

    operand: Node

    def matches(self, labels: Labels) -> bool:
        return not self.operand.matches(labels)

    def __str__(self) -> str:
        return f"!{self.operand}"


@frozen
class And:
    """``(a && b && …)``, two operands or more."""

    operands: tuple[Node, ...]

    def matches(self, labels: Labels) -> bool:
        # A plain loop: a generator costs more than most operands.
        for operand in self.operands:  # noqa: SIM110
            if not operand.matches(labels):
                return False
        return True

    def __str__(self) -> str:
        return f"({' && '.join(map(str, self.operands))})"


@frozen
class Or:
    """``(a || b || …)``, two operands or more."""

    operands: tuple[Node, ...]

    def matches(self, labels: Labels) -> bool:
        for operand in self.operands:  # noqa: SIM110
            if operand.matches(labels):
                return True
        return False

    def __str__(self) -> str:
        return f"({' || '.join(map(str, self.operands))})"


LabelNode: TypeAlias = Has | Equal | NotEqual | Contains | StartsWith | EndsWith | In | NotIn
Node: TypeAlias = All | Global | LabelNode | Not | And | Or


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, parents first."""
    stack: list[Node] = [node]
    while stack:
        current = stack.pop()
        yield current
        if isinstance(current, Not):
            stack.append(current.operand)
        elif isinstance(current, And | Or):
            stack.extend(reversed(current.operands))


def map_labels(node: Node, rename: Callable[[str], str]) -> Node:
    """A copy of the tree with every label name passed through ``rename``."""
    if isinstance(node, Not):
        return Not(map_labels(node.operand, rename))
    if isinstance(node, And):
        return And(tuple(map_labels(operand, rename) for operand in node.operands))
    if isinstance(node, Or):
        return Or(tuple(map_labels(operand, rename) for operand in node.operands))
    if isinstance(node, All | Global):
        return node
    return evolve(node, label=rename(node.label))
