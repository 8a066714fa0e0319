"""Who reaches whom, as a table for the eye: a row per source, a column per target and port."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from calico_node.lab.probes import Expectation, Probe, Result

MARKS, ASCII_MARKS = ("✔", "·"), ("Y", ".")
"""Reached and not, for terminals that can show everything and for the others."""
_CORNER = "from \\ to"
_HEAD_WIDTH = 8
"""Columns of a heading, unless one part of a name is longer."""
_GAP = 2
"""Columns between two columns of the table: its divider and the padding."""


def render(
    results: Sequence[Result],
    expectations: Iterable[Expectation],
    title: str,
    width: int = 120,
    marks: tuple[str, str] = MARKS,
) -> list[Text | Table]:
    """A title, and below it one or more tables, each at most ``width`` columns wide as long as one row's name and one
    heading fit into it.

    The namespace that most pods are in is said once, above the first table, and left out of names. A cell that
    contradicts an expectation is drawn in reverse with an exclamation mark; one that an expectation covers and
    confirms is bold.
    """
    expected = {expectation.probe: expectation.allowed for expectation in expectations}
    cells: dict[tuple[str, tuple[str, str]], Result] = {}
    columns: dict[tuple[str, str], None] = {}
    rows: dict[str, None] = {}
    for result in results:
        column = (result.probe.target, result.probe.service)
        cells[result.probe.source, column] = result
        columns[column] = None
        rows[result.probe.source] = None
    common = _common_namespace([*rows, *(target for target, _ in columns)])
    heads = {column: _head(column, common) for column in columns}
    first = max(len(_CORNER), *(len(_short(row, common)) for row in rows)) if rows else len(_CORNER)
    legend = f"{title}  ({marks[0]} reached, {marks[1]} not"
    legend += f"; names without a namespace are in {common})" if common else ")"
    # A table's own title would be broken where the table ends.
    shown: list[Text | Table] = [Text(legend, style="italic")]
    # One column more at either edge.
    for part in _split(list(columns), heads, width - first - 2):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        table.add_column(_CORNER, no_wrap=True, vertical="bottom")
        for column in part:
            table.add_column(heads[column], justify="center", no_wrap=True, vertical="bottom")
        for row in rows:
            table.add_row(_short(row, common), *(_cell(cells.get((row, column)), expected, marks) for column in part))
        shown.append(table)
    return shown


def _cell(result: Result | None, expected: Mapping[Probe, bool], marks: tuple[str, str]) -> Text:
    if result is None:
        return Text("")
    wanted = expected.get(result.probe)
    mark, colour = (marks[0], "green") if result.allowed else (marks[1], "red")
    if wanted is not None and wanted != result.allowed:
        return Text(f" {mark}! ", style=f"bold reverse {colour}")
    return Text(mark, style=f"bold {colour}" if wanted is not None else colour)


def _common_namespace(names: Sequence[str]) -> str:
    """The namespace most pods are in, which need not be spelled out in every heading ("" for none)."""
    counts: dict[str, int] = {}
    for name in dict.fromkeys(names):
        namespace, slash, _ = name.partition("/")
        if slash and ":" not in namespace:
            counts[namespace] = counts.get(namespace, 0) + 1
    return max(counts, key=lambda namespace: counts[namespace]) if counts else ""


def _short(name: str, common: str) -> str:
    return name.removeprefix(f"{common}/") if common else name


def _head(column: tuple[str, str], common: str) -> str:
    """The target's name, broken at its separators so that the column stays narrow, above protocol and port."""
    target, service = column
    lines = [""]
    for part in re.findall(r"[^-/:.]+[-/:.]*", _short(target, common)):
        if lines[-1] and len(lines[-1]) + len(part) > _HEAD_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join([*lines, service])


def _split(
    columns: list[tuple[str, str]], heads: Mapping[tuple[str, str], str], width: int
) -> list[list[tuple[str, str]]]:
    parts: list[list[tuple[str, str]]] = [[]]
    used = 0
    for column in columns:
        size = max(len(line) for line in heads[column].split("\n")) + _GAP
        if parts[-1] and used + size > width:
            parts.append([])
            used = 0
        parts[-1].append(column)
        used += size
    return parts
