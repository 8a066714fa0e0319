"""Tables with lines around every cell, as Calico's tool draws them for ``ipam`` and ``node status``."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def box(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()) -> str:
    """The table with a newline at its end; cells under the headings ``right`` stand at the right."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    line = "+" + "+".join("-" * (width + 2) for width in widths) + "+\n"

    def cells(row: Sequence[str], *, head: bool = False) -> str:
        shown = (
            cell.rjust(width) if heading in right and not head else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        )
        return "| " + " | ".join(shown) + " |\n"

    body = "".join(cells(row) for row in rows)
    return line + cells(headings, head=True) + line + body + (line if rows else "")
