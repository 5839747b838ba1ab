"""The screen of `dlcli eval --intervals`: how many true values the intervals contain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.ui.console import stdout
from dlcli.ui.tables import print_comparison
from dlcli.ui.text import figure

if TYPE_CHECKING:
    from dlcli.evaluation.metrics.base import IntervalRow


def print_intervals(rows: Sequence[IntervalRow], split: str) -> None:
    """Print the width of the intervals of each target, and the share of the samples they contain."""
    first = rows[0]
    coverage = f"{100 * first.coverage:.6g}%"
    stdout().print()
    print_comparison(
        f"intervals for {coverage} of samples like those of val, by the errors of "
        f"{wording.plural(first.val_samples, 'val sample')}",
        ["target", "prediction +-", f"contain, of {split}", "95 % interval"],
        [
            [
                wording.printable(row.name),
                figure(row.half_width),
                f"{row.covered:.4f}",
                f"{row.low:.4f} to {row.high:.4f}",
            ]
            for row in rows
        ],
    )
