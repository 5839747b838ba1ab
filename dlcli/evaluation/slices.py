"""The metric of groups of a split's samples, by the values of a column. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dlcli.data.base import Indices
from dlcli.evaluation.intervals import metric_bootstrap, paired_bootstrap, wilson
from dlcli.evaluation.metrics import Counts, direction
from dlcli.evaluation.metrics.base import ROOTED, SliceRow
from dlcli.task import TaskSpec


def slice_rows(
    samples: int,
    groups: Mapping[str, Mapping[str, Indices]],
    counts: Counts,
    order: Indices,
    metric: str,
    task: TaskSpec,
) -> tuple[SliceRow, ...]:
    """The metric of each of the ``groups`` of each column, which are indices of the ``samples``.

    ``order`` (N,) are the samples as ``counts`` has them; unreadable ones are not among them.
    """
    overall = counts.metrics().get(metric, math.nan)
    position = np.full(samples, -1)
    position[order] = np.arange(len(order))
    rows: list[SliceRow] = []
    for column, named in groups.items():
        own = []
        for name, members in named.items():
            where = position[members]
            where = where[where >= 0].astype(np.int64)
            if len(where):
                own.append(_row(column, name, where, counts, metric, overall, task))
        rows += own
    return tuple(rows)


def worst_slice(rows: Sequence[SliceRow]) -> SliceRow | None:
    """The slice with the worst metric, of those with an interval; None where none is worse."""
    known = [row for row in rows if math.isfinite(row.low) and math.isfinite(row.high)]
    if len({row.value for row in known}) < 2:
        return None
    return min(known, key=lambda row: row.value * direction(row.metric))


def _row(
    column: str,
    name: str,
    where: Indices,
    counts: Counts,
    metric: str,
    overall: float,
    task: TaskSpec,
) -> SliceRow:
    scores = counts.scores(metric)
    if scores is None:
        value = counts.value(metric, where)
        low, high = metric_bootstrap(
            lambda drawn: counts.value(metric, where[drawn]),
            len(where),
            value,
            numbers=task.num_outputs,
        )
    else:
        own, rooted = scores[where], metric in ROOTED
        mean = float(own.mean())
        value = math.sqrt(mean) if rooted else mean
        if not rooted and bool(np.isin(own, (0, 1)).all()):
            low, high = wilson(int(own.sum()), len(own))
        else:
            low, high = paired_bootstrap(own, np.zeros_like(own), rooted=rooted)
    worse = (high < overall) if direction(metric) > 0 else (low > overall)
    return SliceRow(column, name, len(where), metric, value, low, high, worse)
