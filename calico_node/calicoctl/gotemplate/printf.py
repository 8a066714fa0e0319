"""Go's fmt.Sprint, Sprintln and Sprintf."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from typing import Any

from calico_node.calicoctl.gotemplate.values import GoStruct, plain, show, show_float, type_name

MAX_WIDTH = 1_000_000
"""The widest field and longest precision that Go takes."""

_DIRECTIVE = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>(?:\[\d+\])?\*|\d+)?"
    r"(?:\.(?P<precision>(?:\[\d+\])?\*|\d*))?(?:\[(?P<index>\d+)\])?"
    r"(?P<verb>.)?",
    re.DOTALL,
)
_QUOTED = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    '"': '\\"',
    "\\": "\\\\",
}


def sprint(values: Sequence[Any]) -> str:
    """The values, with a blank between two of which neither is text."""
    parts: list[str] = []
    previous: Any = ""
    for value in map(plain, values):
        if parts and not isinstance(previous, str) and not isinstance(value, str):
            parts.append(" ")
        parts.append(show(value))
        previous = value
    return "".join(parts)


def sprintln(values: Sequence[Any]) -> str:
    return " ".join(map(show, values)) + "\n"


class _Bad(Exception):
    """The verb does not suit the value."""


class _Printer:
    """One call of Sprintf: where in the values it stands."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = [plain(value) for value in values]
        self.at = 0
        self.reordered = False

    def star(self, text: str) -> int | None:
        """The number that ``*`` stands for, None for a bad one."""
        if text.startswith("["):
            self.jump(int(text[1 : text.index("]")]))
        if self.at >= len(self.values):
            return None
        value = self.values[self.at]
        self.at += 1
        return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_WIDTH else None

    def jump(self, index: int) -> None:
        self.reordered = True
        self.at = index - 1

    def directive(self, match: re.Match[str]) -> str:
        verb, flags, notes = match["verb"], match["flags"], ""
        width = self.number(match["width"])
        if width is None:
            width, notes = 0, "%!(BADWIDTH)"
        if width < 0:
            flags, width = flags + "-", -width
        precision: int | None = None
        if match["precision"] is not None:
            precision = self.number(match["precision"] or "0")
            if precision is None:
                notes += "%!(BADPREC)"
        if match["index"]:
            self.jump(int(match["index"]))
        if verb is None:
            return f"{notes}%!(NOVERB)"
        if verb == "%":
            return f"{notes}%"
        if not 0 <= self.at < len(self.values):
            return f"{notes}%!{verb}({'BADINDEX' if self.reordered and match['index'] else 'MISSING'})"
        value = self.values[self.at]
        self.at += 1
        try:
            return notes + _padded(value, verb, flags, precision, width)
        except _Bad:
            shown = "<nil>" if value is None else f"{type_name(value)}={show(value)}"
            return f"{notes}%!{verb}({shown})"

    def number(self, text: str | None) -> int | None:
        if text is None:
            return 0
        if text.endswith("*"):
            return self.star(text)
        number = int(text[:8])
        return number if number <= MAX_WIDTH and len(text) <= 8 else None


def sprintf(form: str, values: Sequence[Any]) -> str:
    """Faults of the form stand in the result, as in Go: ``%!d(string=x)``, ``%!s(MISSING)``, ``%!(EXTRA int=1)``."""
    printer = _Printer(values)
    text = _DIRECTIVE.sub(printer.directive, form)
    if not printer.reordered and printer.at < len(printer.values):
        extra = (
            "<nil>" if value is None else f"{type_name(value)}={show(value)}"
            for value in printer.values[printer.at :]
        )
        text += f"%!(EXTRA {', '.join(extra)})"
    return text


def pad(text: str, width: int, flags: str) -> str:
    """To ``width`` characters: on the right with ``-``, else on the left."""
    if len(text) >= width:
        return text
    return text.ljust(width) if "-" in flags else text.rjust(width, "0" if "0" in flags else " ")


def _padded(value: Any, verb: str, flags: str, precision: int | None, width: int) -> str:
    """One value; of a list or map, each element is padded by itself."""
    if verb != "T":
        if isinstance(value, list | tuple):
            return f"[{' '.join(_element(item, verb, flags, precision, width) for item in value)}]"
        if isinstance(value, dict):
            how = verb, flags, precision, width
            pairs = (f"{_element(key, *how)}:{_element(value[key], *how)}" for key in sorted(value))
            return f"map[{' '.join(pairs)}]"
    return pad(_format(value, verb, flags, precision, width), width, flags)


def _element(value: Any, verb: str, flags: str, precision: int | None, width: int) -> str:
    value = plain(value)
    if value is None:
        return pad("<nil>", width, flags)
    try:
        return _padded(value, verb, flags, precision, width)
    except _Bad:
        return f"%!{verb}({type_name(value)}={show(value)})"


def _format(value: Any, verb: str, flags: str, precision: int | None, width: int) -> str:
    if verb == "T":
        return type_name(value)
    if verb == "v":
        if not isinstance(value, int | float) or isinstance(value, bool):
            text = show(value, names="+" in flags)
            return text if precision is None or not isinstance(value, str) else text[:precision]
        verb, flags = "d" if isinstance(value, int) else "g", flags.replace("+", "")
    if isinstance(value, GoStruct):
        value = show(value)
    if isinstance(value, str):
        return _text(value, verb, flags, precision)
    if isinstance(value, bool):
        if verb != "t":
            raise _Bad
        return show(value)
    if isinstance(value, int):
        return _integer(value, verb, flags, precision, width)
    if isinstance(value, float):
        return _float(value, verb, flags, precision, width)
    raise _Bad


def _text(value: str, verb: str, flags: str, precision: int | None) -> str:
    if verb == "s":
        return value if precision is None else value[:precision]
    if verb == "q":
        value = value if precision is None else value[:precision]
        if "#" in flags and "`" not in value and value.isprintable():
            return f"`{value}`"
        return quote(value, ascii_only="+" in flags)
    if verb in "xX":
        raw = value.encode("utf-8", "surrogatepass")[:precision]
        text = raw.hex(" ") if " " in flags else raw.hex()
        return text if verb == "x" else text.upper()
    raise _Bad


def quote(value: str, *, ascii_only: bool = False) -> str:
    """A Go string literal in double quotes."""
    return f'"{"".join(_quoted(character, ascii_only) for character in value)}"'


def _quoted(character: str, ascii_only: bool) -> str:
    if character in _QUOTED:
        return _QUOTED[character]
    code = ord(character)
    if character.isprintable() and (code < 128 or not ascii_only):
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _integer(value: int, verb: str, flags: str, precision: int | None, width: int) -> str:
    if verb in "cqU":
        if not 0 <= value <= 0x10FFFF:
            value = 0xFFFD
        if verb == "U":
            return f"U+{value:04X}"
        character = chr(value)
        return (
            character
            if verb == "c"
            else f"'{_quoted(character, False) if character not in QUOTES else QUOTES[character]}'"
        )
    if verb in "eEfFgG":
        raise _Bad
    base = {"d": "d", "b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}.get(verb)
    if base is None:
        raise _Bad
    digits = format(abs(value), base)
    if precision is not None:
        digits = "" if precision == 0 and value == 0 else digits.rjust(precision, "0")
    prefix = (
        {"b": "0b", "o": "0", "x": "0x", "X": "0X"}.get(verb, "") if "#" in flags else "0o" if verb == "O" else ""
    )
    sign = "-" if value < 0 else "+" if "+" in flags else " " if " " in flags else ""
    text = sign + prefix + digits
    return _zeros(text, flags, width, len(sign + prefix)) if precision is None else text


QUOTES = {"'": "\\'", '"': '"'}


def _float(value: float, verb: str, flags: str, precision: int | None, width: int) -> str:
    if verb not in "eEfFgG":
        raise _Bad
    if not isfinite(value):
        return pad(_sign(show_float(value), flags), width, flags.replace("0", ""))
    shortest = verb in "gG" and precision is None
    text = show_float(value) if shortest else f"{value:.{6 if precision is None else precision}{verb}}"
    if verb in "EG":
        text = text.upper()
    return _zeros(_sign(text, flags), flags, width)


def _sign(text: str, flags: str) -> str:
    if text.startswith(("-", "+", "NaN")):
        return text
    return f"+{text}" if "+" in flags else f" {text}" if " " in flags else text


def _zeros(text: str, flags: str, width: int, after: int | None = None) -> str:
    """Zeros between the sign and the digits, where the flags ask for them."""
    if "0" not in flags or "-" in flags or len(text) >= width or not text[-1:].isalnum():
        return text
    at = int(text[:1] in ("-", "+", " ")) if after is None else after
    return text[:at] + text[at:].rjust(width - at, "0")
