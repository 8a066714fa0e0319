"""Tokens to nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from calico_node.calicoctl.gotemplate.lexer import LexError, Token, tokens
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

MAX_DEPTH = 60
"""How deep blocks and parentheses may nest together."""

_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "nil": None}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}


class Parser:
    """Reads one text; what it defines is in ``templates`` by name, the text itself under its own name."""

    def __init__(self, name: str, text: str, functions: Iterable[str]) -> None:
        self.name = name
        self.text = text
        self.functions = frozenset(functions)
        self.templates: dict[str, Block] = {}
        self.variables: list[str] = ["$"]
        self.depth = 0
        self.ranges = 0
        try:
            self.tokens = list(tokens(text))
        except LexError as error:
            raise self.error(str(error), error.position) from None
        self.at = 0

    def parse(self) -> Mapping[str, Block]:
        """Raises ``TemplateError``."""
        block, word = self.block(top=True)
        if word is not None:
            raise self.error(f"unexpected {{{{{word.text}}}}}", word.position)
        self.define(self.name, block)
        return self.templates

    def define(self, name: str, block: Block) -> None:
        known = self.templates.get(name)
        if known is not None and not known.blank and not block.blank:
            raise self.error(f"multiple definition of template {name!r}".replace("'", '"'), 0)
        if known is None or known.blank:
            self.templates[name] = block

    def error(self, reason: str, position: int) -> TemplateError:
        line = self.text.count("\n", 0, position) + 1
        return TemplateError(f"template: {self.name}:{line}: {reason}")

    # Tokens

    def peek(self, *, skip: bool = True) -> Token:
        if skip and self.tokens[self.at].kind == "space":
            self.at += 1
        return self.tokens[self.at]

    def next(self, *, skip: bool = True) -> Token:
        token = self.peek(skip=skip)
        self.at += token.kind != "end"
        return token

    def expect(self, kind: str, context: str) -> Token:
        token = self.next()
        if token.kind != kind:
            raise self.unexpected(token, context)
        return token

    def unexpected(self, token: Token, context: str) -> TemplateError:
        shown = {"end": "EOF", "close": '"}}"'}.get(token.kind, f"<{token.text[:40]}>")
        return self.error(f"unexpected {shown} in {context}", token.position)

    def descend(self, position: int) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} levels deep", position)

    # Blocks

    def block(self, *, top: bool = False) -> tuple[Block, Token | None]:
        """Nodes up to the text's end (None) or to an ``end`` or ``else``, whose word is the second result."""
        block = Block()
        while True:
            token = self.next()
            if token.kind == "end":
                return block, None
            if token.kind == "text":
                block.nodes.append(Text(token.text))
                continue
            word = self.peek()
            if word.kind == "word" and word.text in ("end", "else"):
                self.next()
                return block, word
            if word.kind == "word" and word.text in _STATEMENTS:
                self.next()
                if word.text == "define":
                    if not top:
                        raise self.unexpected(word, "command")
                    self.definition(word)
                else:
                    block.nodes.append(getattr(self, _STATEMENTS[word.text])(word))
                continue
            block.nodes.append(Action(self.pipeline("command")))
            self.expect("close", "command")

    def body(self, word: Token) -> tuple[Block, Token]:
        block, end = self.block()
        if end is None:
            raise self.error(f"unexpected EOF: {{{{{word.text}}}}} has no {{{{end}}}}", len(self.text))
        return block, end

    def branch(self, word: Token) -> Branch:
        self.descend(word.position)
        mark = len(self.variables)
        pipeline = self.pipeline(word.text, loop=word.text == "range")
        self.expect("close", word.text)
        self.ranges += word.text == "range"
        body, end = self.body(word)
        self.ranges -= word.text == "range"
        otherwise = None
        if end.text == "else":
            chained = self.peek()
            if chained.kind == "word" and chained.text == word.text and word.text in ("if", "with"):
                self.next()
                otherwise = Block([self.branch(chained)])
            else:
                self.expect("close", "else")
                otherwise, end = self.body(word)
                if end.text == "else":
                    raise self.error("expected end; found {{else}}", end.position)
                self.expect("close", "end")
        else:
            self.expect("close", "end")
        del self.variables[mark:]
        self.depth -= 1
        return Branch(word.text, pipeline, body, otherwise)

    def jump(self, word: Token) -> Jump:
        if not self.ranges:
            raise self.error(f"{{{{{word.text}}}}} outside {{{{range}}}}", word.position)
        self.expect("close", word.text)
        return Jump(word.text)

    def template_name(self, context: str) -> str:
        token = self.next()
        if token.kind not in ("string", "raw"):
            raise self.unexpected(token, context)
        return str(self.constant(token))

    def call(self, word: Token) -> Call:
        start = self.peek().position
        name = self.template_name(f"{word.text} clause")
        pipeline = None if self.peek().kind == "close" else self.pipeline(word.text)
        self.expect("close", word.text)
        return Call(start, name, pipeline)

    def named_block(self, word: Token) -> Call:
        call = self.call(word)
        if call.pipeline is None:
            raise self.error("missing value for block clause", word.position)
        self.define(call.name, self.inner(word))
        return call

    def definition(self, word: Token) -> None:
        name = self.template_name("define clause")
        self.expect("close", "define clause")
        self.define(name, self.inner(word))

    def inner(self, word: Token) -> Block:
        """The body of a template of its own: it sees none of the variables around it."""
        self.descend(word.position)
        variables, ranges = self.variables, self.ranges
        self.variables, self.ranges = ["$"], 0
        body, end = self.body(word)
        if end.text != "end":
            raise self.unexpected(end, f"{word.text} clause")
        self.expect("close", "end")
        self.variables, self.ranges = variables, ranges
        self.depth -= 1
        return body

    # Pipelines

    def pipeline(self, context: str, *, loop: bool = False) -> Pipeline:
        start = self.peek().position
        names, assigns = self.declarations(loop)
        commands: list[Command] = []
        while True:
            commands.append(self.command(context))
            if commands[-1].operands and len(commands) > 1 and isinstance(commands[-1].operands[0], Literal | Dot):
                raise self.error(f"non executable command in pipeline stage {len(commands)}", commands[-1].position)
            if self.peek().kind != "pipe":
                break
            self.next()
        if not assigns:
            self.variables += names
        return Pipeline(start, self.text[start : self.previous_end()], tuple(commands), names, assigns)

    def previous_end(self) -> int:
        at = self.at - 1
        while self.tokens[at].kind == "space":
            at -= 1
        return self.tokens[at].end

    def declarations(self, loop: bool) -> tuple[tuple[str, ...], bool]:
        """The ``$a, $b :=`` or ``$a =`` before a pipeline."""
        mark = self.at
        names: list[str] = []
        while self.peek().kind == "variable":
            names.append(self.next().text)
            following = self.next()
            if following.kind in ("declare", "assign"):
                if following.kind == "assign":
                    for name in names:
                        self.known(name, following.position)
                return tuple(names), following.kind == "assign"
            if following.kind != "comma" or not loop or len(names) > 1:
                if following.kind == "comma":
                    raise self.error("too many declarations", following.position)
                break
        self.at = mark
        return (), False

    def known(self, name: str, position: int) -> None:
        if name not in self.variables:
            raise self.error(f'undefined variable "{name}"', position)

    def command(self, context: str) -> Command:
        start = self.peek().position
        operands: list[Operand] = []
        while (token := self.peek()).kind not in ("pipe", "right", "close"):
            if operands and self.tokens[self.at - 1].kind != "space":
                raise self.unexpected(token, "operand")
            operands.append(self.operand(context))
        if not operands:
            raise self.error(f"missing value for {context}", start)
        return Command(start, self.text[start : self.previous_end()], tuple(operands))

    def operand(self, context: str) -> Operand:
        token = self.next()
        if token.kind == "field":
            # Go counts a chain from its second field on.
            position = following.position if (following := self.peek(skip=False)).kind == "field" else token.position
            names = (token.text[1:], *self.fields())
            return Field(position, self.since(token), names)
        if token.kind == "variable":
            self.known(token.text, token.position)
            names = self.fields()
            return Variable(token.position, self.since(token), token.text, names)
        inner: Operand
        if token.kind == "left":
            self.descend(token.position)
            inner = self.pipeline("parenthesized pipeline")
            self.expect("right", "parenthesized pipeline")
            self.depth -= 1
        elif token.kind == "dot":
            return Dot(token.position)
        elif token.kind == "word" and token.text not in _CONSTANTS:
            if token.text not in self.functions:
                raise self.error(f'function "{token.text}" not defined', token.position)
            inner = Function(token.position, token.text)
        elif token.kind in ("string", "raw", "char", "number", "word"):
            inner = Literal(token.position, token.text, self.constant(token))
        else:
            raise self.unexpected(token, context)
        names = self.fields()
        if names and isinstance(inner, Literal):
            raise self.error(f"unexpected . after term {token.text!r}", token.position)
        return Chain(token.position, self.since(token), inner, names) if names else inner

    def fields(self) -> tuple[str, ...]:
        names = []
        while self.peek(skip=False).kind == "field":
            names.append(self.next(skip=False).text[1:])
        return tuple(names)

    def since(self, token: Token) -> str:
        return self.text[token.position : self.tokens[self.at - 1].end]

    # Constants

    def constant(self, token: Token) -> Any:
        text = token.text
        try:
            if token.kind == "word":
                return _CONSTANTS[text]
            if token.kind == "raw":
                return text[1:-1].replace("\r", "")
            if token.kind == "number":
                return _number(text)
            value = _ESCAPE.sub(lambda match: _unescape(match[1], text[0]), text[1:-1])
            if token.kind == "string":
                return value
            if len(value) != 1:
                raise ValueError
            return ord(value)
        except ValueError:
            what = {"number": "bad number syntax", "char": "malformed character constant"}.get(
                token.kind, "malformed quoted string"
            )
            raise self.error(f"{what}: {text[:40]}", token.position) from None


_STATEMENTS = {
    "if": "branch",
    "with": "branch",
    "range": "branch",
    "template": "call",
    "block": "named_block",
    "define": "definition",
    "break": "jump",
    "continue": "jump",
}


def _number(text: str) -> int | float:
    digits = text.lstrip("+-").replace("_", "").lower()
    sign = -1 if text.startswith("-") else 1
    if digits.startswith(("0x", "0o", "0b")):
        value: int | float = int(digits, 0)
    elif "." in digits or "e" in digits:
        value = float(digits)
        if value == float("inf"):
            raise ValueError
        return sign * value
    else:
        value = int(digits, 8) if digits.startswith("0") and digits != "0" else int(digits)
    value *= sign
    if not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def _unescape(code: str, quote: str) -> str:
    if code[0] in "xuU":
        if len(code) == 1:
            raise ValueError
        return chr(int(code[1:], 16))
    if len(code) == 3:
        return chr(int(code, 8))
    if code == quote:
        return quote
    if code not in _ESCAPES:
        raise ValueError
    return _ESCAPES[code]
