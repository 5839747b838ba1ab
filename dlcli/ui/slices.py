"""The screen of `dlcli eval --slice`: the metric by the values of a column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from dlcli.ui.console import stdout
from dlcli.ui.tables import print_comparison
from dlcli.ui.text import figure
from dlcli.wording import count, printable, shorten

if TYPE_CHECKING:
    from dlcli.evaluation.metrics.base import SliceRow

NAME = 40  # characters of a value


def print_slices(rows: Sequence[SliceRow], overall: float) -> None:
    """Print a table for each column, and its worst slice in a sentence."""
    for column, group in groupby(rows, key=lambda row: row.column):
        own = list(group)
        stdout().print()
        print_comparison(
            f"{own[0].metric} by {column} ({figure(overall)} of all)",
            [shorten(column, NAME), "samples", own[0].metric, "95 % interval", "than all"],
            slice_cells(own),
        )
        sentence = worst_words(own)
        if sentence:
            stdout().print(f"  {printable(sentence)}", soft_wrap=True)


def slice_cells(rows: Sequence[SliceRow]) -> list[list[str]]:
    """Value, samples, metric, its interval, and "worse" where the interval excludes that of all."""
    return [
        [
            shorten(row.name, NAME),
            count(row.samples),
            figure(row.value),
            f"{figure(row.low)} to {figure(row.high)}" if math.isfinite(row.low) else "too few",
            "worse" if row.worse else "",
        ]
        for row in rows
    ]


def worst_words(rows: Sequence[SliceRow]) -> str:
    """The worst slice of a column; "" where no slice has an interval."""
    from dlcli.evaluation.slices import worst_slice

    worst = worst_slice(rows)
    if worst is None:
        return ""
    known = "" if worst.worse else ", whose interval does not exclude the metric of all samples"
    return f"worst: {shorten(worst.name, NAME)}, {worst.metric} {figure(worst.value)}{known}"
