"""Verdicts on the difference of a model from a baseline or from another model, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcli.ui import text
from dlcli.ui.text import figure
from dlcli.wording import listed, printable

if TYPE_CHECKING:
    from dlcli.evaluation.folds import MeanRow
    from dlcli.evaluation.metrics import BaselineRow
    from dlcli.evaluation.metrics.base import MemberRow

_VERDICTS = {True: "better", False: "worse", None: "not significant"}


def interval(row: BaselineRow | MemberRow | MeanRow) -> str:
    """Format the 95 % interval of a difference."""
    return f"{text.signed(row.low)} to {text.signed(row.high)}" if _bounded(row) else "unknown"


def verdict(row: BaselineRow | MemberRow | MeanRow) -> str:
    """Say whether a difference is significant."""
    return _VERDICTS[row.better] if _bounded(row) else "too few samples"


def _bounded(row: BaselineRow | MemberRow | MeanRow) -> bool:
    return math.isfinite(row.low) and math.isfinite(row.high)


def baselines_sentence(best: BaselineRow, rows: Sequence[BaselineRow]) -> str:
    """`baseline_sentence` of the best of ``rows``, and which others are better than the model too."""
    from dlcli.evaluation.metrics import direction

    others = [
        f"{printable(row.name)} {figure(row.value)}"
        for row in rows
        if row is not best and row.difference * direction(row.metric) < 0
    ]
    also = f"; it is worse than {listed(others, 3)} too" if others else ""
    return baseline_sentence(best) + also


def trees_hint(rows: Sequence[BaselineRow]) -> str:
    """What to train where boosted trees are better than the model, beyond chance; "" elsewhere."""
    from dlcli.evaluation.baselines.base import BOOSTING

    row = next((row for row in rows if row.name == BOOSTING and row.better is False), None)
    return "" if row is None else "boosted trees do better here: dlcli train --model trees"


def baseline_sentence(row: BaselineRow) -> str:
    """Say in one sentence whether a model is better than a baseline.

    Such as ``majority 0.1000; the model is better by 0.8021 (95 % interval 0.7901 to 0.8123)``.
    """
    from dlcli.evaluation.metrics import direction

    name = f"{printable(row.name)} {figure(row.value)}"
    if not math.isfinite(row.difference):
        return f"{name}; the model's {row.metric} is not finite"
    if not row.difference:
        return f"{name}; the model is equal to it"
    side = "better" if row.difference * direction(row.metric) > 0 else "worse"
    by = f"{side} by {figure(abs(row.difference))}"
    if not _bounded(row):
        return f"{name}; the model is {by} (too few samples for an interval)"
    if row.better is None:
        return (
            f"{name}; the model is not significantly {side}: {text.signed(row.difference)} (95 % "
            f"interval {interval(row)})"
        )
    low, high = sorted(map(abs, (row.low, row.high)))
    return f"{name}; the model is {by} (95 % interval {figure(low)} to {figure(high)})"
