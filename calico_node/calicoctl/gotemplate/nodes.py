"""What a parsed template is made of: ``position`` is an offset in its text, ``source`` a node's own text."""

from __future__ import annotations

from typing import Any, TypeAlias

from attrs import define, field, frozen

from calico_node.errors import CalicoError


class TemplateError(CalicoError):
    """A template that cannot be read or executed; the text begins as Go's does, with the template's name and line."""


@frozen
class Dot:
    position: int
    source: str = "."


@frozen
class Literal:
    """A constant; None is ``nil``."""

    position: int
    source: str
    value: Any


@frozen
class Field:
    """``.A.B``"""

    position: int
    source: str
    names: tuple[str, ...]


@frozen
class Variable:
    """``$x.A``; the name keeps its ``$``."""

    position: int
    source: str
    name: str
    names: tuple[str, ...]


@frozen
class Function:
    position: int
    source: str


@frozen
class Chain:
    """``(pipeline).A``"""

    position: int
    source: str
    inner: Operand
    names: tuple[str, ...]


@frozen
class Command:
    position: int
    source: str
    operands: tuple[Operand, ...]


@frozen
class Pipeline:
    """``variables`` are declared, or assigned where ``assigns``."""

    position: int
    source: str
    commands: tuple[Command, ...]
    variables: tuple[str, ...] = ()
    assigns: bool = False


Operand: TypeAlias = Dot | Literal | Field | Variable | Function | Chain | Pipeline


@frozen
class Text:
    text: str


@frozen
class Action:
    pipeline: Pipeline


@frozen
class Branch:
    """``if``, ``with`` or ``range`` (``word``)."""

    word: str
    pipeline: Pipeline
    body: Block
    otherwise: Block | None


@frozen
class Call:
    """``{{template}}``"""

    position: int
    name: str
    pipeline: Pipeline | None


@frozen
class Jump:
    """``break`` or ``continue``."""

    word: str


Node: TypeAlias = Text | Action | Branch | Call | Jump


@define
class Block:
    """Nodes one after the other."""

    nodes: list[Node] = field(factory=list)

    @property
    def blank(self) -> bool:
        """Whether it holds nothing but white space."""
        return all(isinstance(node, Text) and not node.text.strip() for node in self.nodes)
