"""The paired difference of a metric between two models that were counted on the same samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dlcli.data.base import Indices
from dlcli.evaluation.intervals import difference_interval, metric_bootstrap
from dlcli.evaluation.metrics import Counts, default_monitor, direction
from dlcli.evaluation.metrics.base import ROOTED
from dlcli.task import TaskSpec


@dataclass(frozen=True)
class Difference:
    """A ``metric`` of one model minus that of another, with its 95 % interval.

    ``low`` and ``high`` are infinite for too few samples. ``better`` is of the first model, None where
    the interval contains 0.
    """

    metric: str
    value: float
    low: float
    high: float
    better: bool | None


def compared_metric(monitor: str | None, counts: Counts, task: TaskSpec) -> str:
    """The metric that models are compared by: the one that chose the model, where it is defined."""
    return monitor if monitor in counts.metrics() else default_monitor(task)


def difference(counts: Counts, other: Counts, metric: str, task: TaskSpec) -> Difference:
    """The difference of ``counts`` minus ``other`` in a metric; NaN where one leaves it undefined.

    The interval is `difference_interval` for a metric that is a mean over samples, else
    `metric_bootstrap`. It resamples blocks for forecasts, whose windows overlap by up to the horizon.
    """
    value = counts.metrics().get(metric, math.nan) - other.metrics().get(metric, math.nan)
    block = max(1, task.horizon)
    one, two = counts.scores(metric), other.scores(metric)
    if one is not None and two is not None:
        low, high = difference_interval(one, two, rooted=metric in ROOTED, block=block)
    else:

        def resampled(indices: Indices) -> float:
            return counts.value(metric, indices) - other.value(metric, indices)

        low, high = metric_bootstrap(
            resampled, counts.samples, value, block=block, numbers=task.num_outputs
        )
    better = (low > 0) == (direction(metric) > 0) if low > 0 or high < 0 else None
    return Difference(metric, value, low, high, better)
