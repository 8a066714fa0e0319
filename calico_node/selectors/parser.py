"""Text to syntax tree: a recursive descent parser of Calico's selector grammar.

    selector := "" | or                      "" (or only blanks) means all()
    or   := and ("||" and)*                  lowest precedence
    and  := op ("&&" op)*
    op   := "!"* ( "has(" L ")" | "all(" ")" | "global(" ")" | "(" or ")"
                 | L ("==" | "!=" | "contains" | "starts with" | "ends with") S
                 | L ("in" | "not in") "{" [S ("," S)* [","]] "}" )

A blank is a space or a tab; a newline outside a string is an error.  Strings have no escapes.  The word operators
are recognised only after a label, so they may themselves be labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from calico_node.errors import SelectorError
from calico_node.selectors.ast import (
    All,
    And,
    Contains,
    EndsWith,
    Equal,
    Global,
    Has,
    In,
    Node,
    Not,
    NotEqual,
    NotIn,
    Or,
    StartsWith,
)

MAX_LABEL_LENGTH = 512
# Deeper nesting than this is refused, so that no text can exhaust the interpreter's stack.
MAX_DEPTH = 128

_LABEL = re.compile(r"[A-Za-z0-9_./-]+")
_NOT_BLANK = re.compile(r"[^ \t]|\Z")
_NEGATIONS = re.compile(r"[! \t]+")
_MEMBER = re.compile(r"""(?:'([^']*)'|"([^"]*)")[ \t]*(,[ \t]*)?""")
_FUNCTION = re.compile(r"(has|all|global)\(")
_WORD_OPERATOR = re.compile(r"(contains|starts[ \t]*with|ends[ \t]*with|not[ \t]*in|in)\b", re.ASCII)
_COMPARISONS: dict[str, Callable[[str, str], Node]] = {
    "==": Equal,
    "!=": NotEqual,
    "contains": Contains,
    "startswith": StartsWith,
    "endswith": EndsWith,
}
_MEMBERSHIPS: dict[str, Callable[[str, frozenset[str]], Node]] = {"in": In, "notin": NotIn}


def parse_tree(text: str) -> Node:
    """The syntax tree of ``text``.  Raises ``SelectorError`` with the offset of the first fault."""
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def parse(self) -> Node:
        self.skip_blanks()
        if self.position == len(self.text):
            return All()
        node = self.parse_or(0)
        if self.position < len(self.text):
            raise self.error(f"unexpected {self.found()} after a complete expression")
        return node

    def parse_or(self, depth: int) -> Node:
        operands = [self.parse_and(depth)]
        while self.take("||"):
            operands.append(self.parse_and(depth))
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def parse_and(self, depth: int) -> Node:
        operands = [self.parse_operation(depth)]
        while self.take("&&"):
            operands.append(self.parse_operation(depth))
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def parse_operation(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} levels deep")
        negated = False
        if self.text.startswith("!", self.position):
            marks = _NEGATIONS.match(self.text, self.position)
            assert marks is not None
            negated = marks[0].count("!") % 2 == 1
            self.position = marks.end()
        node = self.parse_operand(depth)
        return Not(node) if negated else node

    def parse_operand(self, depth: int) -> Node:
        if self.take("("):
            inner = self.parse_or(depth + 1)
            self.expect(")")
            return inner
        function = _FUNCTION.match(self.text, self.position)
        if function:
            self.advance(function.end())
            if function[1] == "has":
                label = self.parse_label()
                self.expect(")")
                return Has(label)
            self.expect(")")
            return All() if function[1] == "all" else Global()
        return self.parse_label_operation(self.parse_label())

    def parse_label_operation(self, label: str) -> Node:
        start = self.position
        operator = self.text[start : start + 2]
        if operator in _COMPARISONS:
            self.advance(start + 2)
        else:
            word = _WORD_OPERATOR.match(self.text, start)
            if not word:
                raise self.error(f"expected an operator after label {label!r}, found {self.found()}")
            operator = re.sub(r"[ \t]", "", word[1])
            self.advance(word.end())
        if operator in _COMPARISONS:
            return _COMPARISONS[operator](label, self.parse_string())
        return _MEMBERSHIPS[operator](label, self.parse_set())

    def parse_label(self) -> str:
        match = _LABEL.match(self.text, self.position)
        if not match:
            raise self.error(f"expected a label, has(), all(), global(), '!' or '(', found {self.found()}")
        if len(match[0]) > MAX_LABEL_LENGTH:
            raise self.error(f"label is longer than {MAX_LABEL_LENGTH} characters")
        self.advance(match.end())
        return match[0]

    def parse_string(self) -> str:
        mark = self.text[self.position : self.position + 1]
        if mark not in ('"', "'") or not mark:
            raise self.error(f"expected a quoted string, found {self.found()}")
        end = self.text.find(mark, self.position + 1)
        if end < 0:
            raise self.error("string has no closing quote")
        value = self.text[self.position + 1 : end]
        self.advance(end + 1)
        return value

    def parse_set(self) -> frozenset[str]:
        self.expect("{")
        values: set[str] = set()
        while not self.take("}"):
            member = _MEMBER.match(self.text, self.position)
            if member is not None:
                values.add(member[1] if member[1] is not None else member[2])
                self.position = member.end()
                if member[3]:
                    continue
            else:
                values.add(self.parse_string())
            if self.take("}"):
                break
            self.expect(",")
        return frozenset(values)

    def take(self, token: str) -> bool:
        if not self.text.startswith(token, self.position):
            return False
        self.advance(self.position + len(token))
        return True

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise self.error(f"expected {token!r}, found {self.found()}")

    def advance(self, position: int) -> None:
        self.position = position
        self.skip_blanks()

    def skip_blanks(self) -> None:
        if self.text.startswith((" ", "\t"), self.position):
            self.position = _NOT_BLANK.search(self.text, self.position).start()  # type: ignore[union-attr]

    def found(self) -> str:
        return repr(self.text[self.position]) if self.position < len(self.text) else "the end"

    def error(self, reason: str) -> SelectorError:
        return SelectorError(self.text, self.position, reason)
