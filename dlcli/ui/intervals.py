"""The screen of `dlcli eval --intervals`: how many true values the intervals contain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.ui.console import stdout
from dlcli.ui.tables import print_comparison
from dlcli.ui.text import figure

if TYPE_CHECKING:
    from dlcli.evaluation.metrics.base import IntervalRow


def print_intervals(rows: Sequence[IntervalRow], split: str) -> None:
    """Print the width of the intervals of each target, and the share of the true values they contain."""
    stdout().print()
    print_comparison(interval_title(rows), interval_heads(split), interval_cells(rows))


def interval_title(rows: Sequence[IntervalRow]) -> str:
    """What the intervals are for, and by what."""
    first, unit = rows[0], "window" if rows[0].steps else "sample"
    wider = ", wider where the window varies more" if any(row.by_window for row in rows) else ""
    return (
        f"intervals for {100 * first.coverage:.6g}% of {unit}s like those of val, by the errors of "
        f"{wording.plural(first.val_samples, f'val {unit}')}{wider}"
    )


def interval_heads(split: str) -> list[str]:
    """The heads of `interval_cells`."""
    return ["target", "prediction +-", f"contain, of {split}", "95 % interval"]


def interval_cells(rows: Sequence[IntervalRow]) -> list[list[str]]:
    """A row per target; of a forecast its first and last step too, where it has several."""
    cells = []
    for row in rows:
        name = wording.printable(row.name)
        known = math.isfinite(row.low) and math.isfinite(row.high)
        interval = f"{row.low:.4f} to {row.high:.4f}" if known else "too few"
        cells.append([name, figure(row.half_width), f"{row.covered:.4f}", interval])
        ends = {step.step: step for step in (row.steps[0], row.steps[-1])} if len(row.steps) > 1 else {}
        cells += [
            [f"  step {step.step}", figure(step.half_width), f"{step.covered:.4f}", ""]
            for step in ends.values()
        ]
    return cells
