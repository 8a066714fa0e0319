"""A template's text as tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import frozen

OPEN, CLOSE = "{{", "}}"
_SPACE = " \t\r\n"

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<raw>`[^`]*`)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<char>'(?:[^'\\\n]|\\.)+')
  | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)
        (?:[eE][+-]?[0-9_]+)?))
  | (?P<field>\.\w+)
  | (?P<dot>\.)
  | (?P<variable>\$\w*)
  | (?P<declare>:=)
  | (?P<assign>=)
  | (?P<pipe>\|)
  | (?P<left>\()
  | (?P<right>\))
  | (?P<comma>,)
  | (?P<word>[^\W\d]\w*)
    """,
    re.VERBOSE,
)


class LexError(Exception):
    """``position`` is where the text cannot go on."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.position = position


@frozen
class Token:
    """``kind`` is a group of the pattern above, or ``text``, ``open``, ``close``, ``end``."""

    kind: str
    text: str
    position: int

    @property
    def end(self) -> int:
        return self.position + len(self.text)


def tokens(text: str) -> Iterator[Token]:
    """Raises ``LexError``.  Comments are left out, and white space is trimmed where the delimiters say so."""
    position, trim = 0, False
    while True:
        start = text.find(OPEN, position)
        plain = text[position:] if start < 0 else text[position:start]
        begin = position
        if trim:
            stripped = plain.lstrip(_SPACE)
            begin += len(plain) - len(stripped)
            plain = stripped
        if start < 0:
            if plain:
                yield Token("text", plain, begin)
            yield Token("end", "", len(text))
            return
        inner = start + len(OPEN)
        if text.startswith("-", inner) and text[inner + 1 : inner + 2] in tuple(_SPACE):
            plain = plain.rstrip(_SPACE)
            inner += 2
        if plain:
            yield Token("text", plain, begin)
        if text.startswith("/*", inner):
            position, trim = _after_comment(text, start, inner)
            continue
        yield Token("open", OPEN, start)
        position = inner
        while True:
            end, trim = _closing(text, position)
            if end:
                yield Token("close", CLOSE, position)
                position = end
                break
            token = _token(text, position, start)
            position = token.end
            yield token


def _closing(text: str, position: int) -> tuple[int, bool]:
    """Where the action that closes at ``position`` ends (0: it does not), and whether what follows is trimmed."""
    if text.startswith(CLOSE, position):
        return position + len(CLOSE), False
    if text[position : position + 1] in tuple(_SPACE) and text.startswith("-" + CLOSE, position + 1):
        return position + 2 + len(CLOSE), True
    return 0, False


def _after_comment(text: str, start: int, inner: int) -> tuple[int, bool]:
    end = text.find("*/", inner + 2)
    if end < 0:
        raise LexError("unclosed comment", start)
    after, trim = _closing(text, end + 2)
    if not after:
        raise LexError("comment ends before closing delimiter", start)
    return after, trim


def _token(text: str, position: int, start: int) -> Token:
    if position >= len(text):
        raise LexError("unclosed action", start)
    match = _TOKEN.match(text, position)
    if match is None:
        character = text[position]
        reason = {
            '"': "unterminated quoted string",
            "`": "unterminated raw quoted string",
            "'": "unterminated character constant",
        }.get(character, f"unexpected {character!r} in an action")
        raise LexError(reason, position)
    kind = match.lastgroup or ""
    value = match[0]
    if kind == "space":
        # The blank before "-}}" belongs to the delimiter.
        if text.startswith("-" + CLOSE, match.end()) and len(value) > 1:
            value = value[:-1]
    elif kind in ("number", "word", "field", "variable") and text[match.end() : match.end() + 1].isalnum():
        raise LexError(
            f"bad {'number syntax' if kind == 'number' else 'character'}: {value}{text[match.end()]}", position
        )
    return Token(kind, value, position)
