"""Tables as lists, for screens that are too narrow for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcli.ui import console as consoles

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GAP = 2  # between columns
FOLDED = 12  # columns of text are folded down to this width


def texts_of(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of a table whose cells are texts."""
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    return [str(c.header) for c in table.columns], [list(row) for row in zip(*cells, strict=True)]


def least_width(
    heads: Sequence[str], rows: Sequence[Sequence[str]], folding: Sequence[bool] = ()
) -> int:
    """Return the width that a table needs so that no cell is cut; ``folding`` columns may be narrow."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    needed = [
        min(width, FOLDED) if number < len(folding) and folding[number] else width
        for number, width in enumerate(widths)
    ]
    return sum(needed) + GAP * (len(needed) - 1)


def print_list(
    heads: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None
) -> None:
    """Print each row as its first cell and, below it, the other cells with their headings."""
    from rich.text import Text

    console = console or consoles.stdout()
    for name, *cells in rows:
        console.print(Text(f"  {name}" if name else "  -"), soft_wrap=True)
        pairs = [f"{head} {cell}".strip() for head, cell in zip(heads[1:], cells, strict=True) if cell]
        for line in _lines(pairs, console.width - 4):
            console.print(Text(f"    {line}"), soft_wrap=True)


def _lines(items: Sequence[str], width: int) -> list[str]:
    """Join items by commas into lines that hold whole items; one that is too long has its own line."""
    from rich.cells import cell_len

    lines: list[str] = []
    for item in items:
        if lines and cell_len(f"{lines[-1]}, {item}") <= width:
            lines[-1] = f"{lines[-1]}, {item}"
        else:
            lines.append(item)
    return lines
