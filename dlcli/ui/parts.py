"""A table with many columns, on a screen that is too narrow for them: several, below each other."""

from __future__ import annotations

from collections.abc import Sequence

from dlcli.ui.console import stdout
from dlcli.ui.narrow import GAP, least_width
from dlcli.ui.tables import print_comparison


def print_parts(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column names the rows, and is repeated in each part.

    A part has as many columns as the screen has room for.
    """
    labels = [heads[0], *(row[0] for row in rows)]
    columns = [[head, *(row[i] for row in rows)] for i, head in enumerate(heads)][1:]
    room = stdout().width - GAP - _width(labels)
    while columns:
        shown, used = 0, 0
        while shown < len(columns) and (shown == 0 or used + _width(columns[shown]) + GAP <= room):
            used += _width(columns[shown]) + GAP
            shown += 1
        part, columns = columns[:shown], columns[shown:]
        part_title, title = title, f"{title.removesuffix(', continued')}, continued"
        stdout().print()
        part_heads, *table = zip(labels, *part, strict=True)
        print_comparison(part_title, part_heads, table)


def _width(column: Sequence[str]) -> int:
    return least_width(column[:1], [[cell] for cell in column[1:]])
