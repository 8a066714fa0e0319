"""Runs a parsed template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from calico_node.calicoctl.gotemplate.functions import BUILTINS
from calico_node.calicoctl.gotemplate.nodes import (
    Action,
    Block,
    Branch,
    Call,
    Chain,
    Command,
    Dot,
    Field,
    Function,
    Jump,
    Literal,
    Operand,
    Pipeline,
    TemplateError,
    Text,
    Variable,
)
from calico_node.calicoctl.gotemplate.parser import Parser
from calico_node.calicoctl.gotemplate.values import NO_VALUE, GoStruct, plain, show, truth, type_name

MAX_STEPS = 20_000_000
"""Nodes and operands that one execution may evaluate."""
MAX_OUTPUT = 1 << 28
"""Characters that one execution may write, and a single value may have."""
MAX_CALLS = 100
"""How deep templates may call each other."""

_MISSING = object()


class Template:
    """A template, ready to be executed; ``functions`` come to Go's own.  Raises ``TemplateError``."""

    def __init__(
        self, text: str, functions: Mapping[str, Callable[..., Any]] | None = None, name: str = "get"
    ) -> None:
        self.name = name
        self.text = text
        self.functions = {**BUILTINS, **(functions or {})}
        self.templates = Parser(name, text, self.functions).parse()

    def execute(self, data: Any) -> str:
        """The text for ``data``.  Raises ``TemplateError``, whose ``written`` is what had been written before."""
        run = _Run(self, data)
        try:
            run.call(self.name, data, 0)
        except RecursionError:
            raise run.error(0, "", "nested too deeply") from None
        return "".join(run.out)


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Run:
    """One execution: output, variables, and what is still allowed."""

    def __init__(self, template: Template, data: Any) -> None:
        self.template = template
        self.out: list[str] = []
        self.size = 0
        self.steps = 0
        self.calls = 0
        self.current = template.name
        self.variables: list[tuple[str, Any]] = [("$", data)]

    def error(self, position: int, source: str, reason: str) -> TemplateError:
        text = self.template.text
        line = text.count("\n", 0, position) + 1
        column = len(text[text.rfind("\n", 0, position) + 1 : position].encode("utf-8", "surrogatepass"))
        source = source if len(source) <= 20 else f"{source[:20]}..."
        at = f" at <{source}>" if source else ""
        return TemplateError(
            f'template: {self.template.name}:{line}:{column}: executing "{self.current}"{at}: {reason}'
        )

    def step(self, position: int = 0, source: str = "") -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise self.error(position, source, f"takes more than {MAX_STEPS:,} steps")

    def write(self, text: str) -> None:
        self.size += len(text)
        if self.size > MAX_OUTPUT:
            raise self.error(0, "", f"writes more than {MAX_OUTPUT:,} characters")
        self.out.append(text)

    # Statements

    def call(self, name: str, data: Any, position: int) -> None:
        block = self.template.templates.get(name)
        if block is None:
            raise self.error(position, f'{{{{template "{name}"}}}}', f'template "{name}" not defined')
        if self.calls >= MAX_CALLS:
            raise self.error(position, "", f"exceeded maximum template depth ({MAX_CALLS})")
        outer = self.current, self.variables
        self.calls += 1
        self.current, self.variables = name, [("$", data)]
        self.block(block, data)
        self.current, self.variables = outer
        self.calls -= 1

    def block(self, block: Block, dot: Any) -> None:
        for node in block.nodes:
            self.step()
            if isinstance(node, Text):
                self.write(node.text)
            elif isinstance(node, Action):
                value = self.pipeline(node.pipeline, dot)
                if not node.pipeline.variables:
                    self.write("<no value>" if value is NO_VALUE or value is None else show(value))
            elif isinstance(node, Branch):
                mark = len(self.variables)
                self.branch(node, dot)
                del self.variables[mark:]
            elif isinstance(node, Call):
                data = None if node.pipeline is None else self.pipeline(node.pipeline, dot)
                self.call(node.name, data, node.position)
            elif isinstance(node, Jump):
                raise _Break if node.word == "break" else _Continue

    def branch(self, node: Branch, dot: Any) -> None:
        if node.word == "range":
            self.loop(node, dot)
            return
        value = self.pipeline(node.pipeline, dot)
        if truth(value):
            self.block(node.body, value if node.word == "with" else dot)
        elif node.otherwise is not None:
            self.block(node.otherwise, dot)

    def loop(self, node: Branch, dot: Any) -> None:
        pipeline = node.pipeline
        value = self.pipeline(pipeline, dot, declare=False)
        empty, mark = True, len(self.variables)
        for key, item in self.items(value, pipeline):
            empty = False
            self.step(pipeline.position, pipeline.source)
            values = {0: (), 1: (item,), 2: (key, item)}[len(pipeline.variables)]
            for name, each in zip(pipeline.variables, values, strict=True):
                self.set(name, each, assign=pipeline.assigns)
            try:
                self.block(node.body, item)
            except _Break:
                break
            except _Continue:
                pass
            finally:
                del self.variables[mark:]
        if empty and node.otherwise is not None:
            self.block(node.otherwise, dot)

    def items(self, value: Any, pipeline: Pipeline) -> Iterator[tuple[Any, Any]]:
        value = plain(value)
        if isinstance(value, list | tuple):
            yield from enumerate(value)
        elif isinstance(value, dict):
            yield from ((key, value[key]) for key in sorted(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            if len(pipeline.variables) > 1:
                reason = f"can't use {value} to iterate over more than one variable"
                raise self.error(pipeline.position, pipeline.source, reason)
            yield from ((number, number) for number in range(value))
        elif value is not None:
            raise self.error(pipeline.position, pipeline.source, f"range can't iterate over {show(value)[:100]}")

    def set(self, name: str, value: Any, *, assign: bool) -> None:
        if not assign:
            self.variables.append((name, value))
            return
        for index in range(len(self.variables) - 1, -1, -1):
            if self.variables[index][0] == name:
                self.variables[index] = (name, value)
                return

    # Expressions

    def pipeline(self, pipeline: Pipeline, dot: Any, *, declare: bool = True) -> Any:
        value: Any = _MISSING
        for command in pipeline.commands:
            value = self.command(command, dot, value)
        if declare and pipeline.variables:
            self.set(pipeline.variables[0], value, assign=pipeline.assigns)
        return value

    def command(self, command: Command, dot: Any, final: Any) -> Any:
        first, *rest = command.operands
        self.step(command.position, command.source)
        if isinstance(first, Function):
            return self.function(first, rest, dot, final, command.source)
        if rest or final is not _MISSING:
            what = "field" if isinstance(first, Field | Chain | Variable) else "non-function"
            if isinstance(first, Pipeline) and not rest:
                what = "non-function"
            raise self.error(
                first.position,
                first.source,
                f"{first.source} has arguments but cannot be invoked as function"
                if what == "field"
                else f"can't give argument to non-function {first.source}",
            )
        if isinstance(first, Literal) and first.value is None:
            raise self.error(first.position, "nil", "nil is not a command")
        return self.operand(first, dot)

    def operand(self, node: Operand, dot: Any) -> Any:
        self.step(node.position, node.source)
        if isinstance(node, Field):
            return self.chain(dot, node.names, node)
        if isinstance(node, Dot):
            return dot
        if isinstance(node, Literal):
            return node.value
        if isinstance(node, Variable):
            value = next(value for name, value in reversed(self.variables) if name == node.name)
            return self.chain(value, node.names, node)
        if isinstance(node, Chain):
            return self.chain(self.operand(node.inner, dot), node.names, node)
        if isinstance(node, Function):
            return self.function(node, [], dot, _MISSING, node.source)
        return self.pipeline(node, dot)

    def chain(self, value: Any, names: tuple[str, ...], node: Operand) -> Any:
        for name in names:
            if value is NO_VALUE:
                return NO_VALUE
            receiver = plain(value)
            if isinstance(receiver, GoStruct):
                try:
                    value = receiver.field(name)
                    continue
                except KeyError:
                    pass
            elif isinstance(receiver, dict):
                value = receiver.get(name, NO_VALUE)
                continue
            elif receiver is None:
                raise self.error(node.position, node.source, f"nil pointer evaluating {name}")
            elif name == "String" and isinstance(receiver, str | int | float):
                value = show(receiver)
                continue
            raise self.error(node.position, node.source, f"can't evaluate field {name} in type {type_name(receiver)}")
        return value

    def function(self, node: Function, operands: list[Operand], dot: Any, final: Any, source: str) -> Any:
        name = node.source
        count = len(operands) + (final is not _MISSING)
        if name in ("and", "or"):
            if not count:
                raise self.error(node.position, name, f"wrong number of args for {name}: want at least 1 got 0")
            value: Any = None
            for operand in operands:
                value = self.operand(operand, dot)
                if truth(value) is (name == "or"):
                    return value
            return value if final is _MISSING else final
        arguments = [self.operand(operand, dot) for operand in operands]
        if final is not _MISSING:
            arguments.append(final)
        try:
            value = self.template.functions[name](*arguments)
        except TypeError:
            raise self.error(node.position, name, f"wrong number of args for {name}: got {count}") from None
        except ValueError as error:
            raise self.error(node.position, source, f"error calling {name}: {error}") from None
        if isinstance(value, str) and len(value) > MAX_OUTPUT:
            raise self.error(node.position, name, f"a text of more than {MAX_OUTPUT:,} characters")
        return value
