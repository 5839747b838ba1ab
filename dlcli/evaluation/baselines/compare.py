"""Paired comparison of an evaluated model with its baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dlcli.data.base import Indices, Reader
from dlcli.evaluation.baselines.base import Baseline
from dlcli.evaluation.baselines.simple import simple_baselines
from dlcli.evaluation.differences import difference
from dlcli.evaluation.metrics import BaselineRow, Counts, default_monitor, direction, make_counts
from dlcli.task import TaskSpec

BATCH = 512


def compare_with_baselines(
    task: TaskSpec,
    train: Reader,
    test: Reader,
    counts: Counts,
    *,
    metric: str | None = None,
    fitted: bool = False,
    indices: Indices | None = None,
) -> tuple[BaselineRow, ...]:
    """Compare a model's ``counts`` with each baseline on the same samples of ``test``.

    By ``metric``, by default the one that selects the best epoch of the task.

    Always: majority class (classification; multi-label: per label, and every label), mean (regression),
    last value, seasonal naive and ridge regression (forecast), raw inputs or random vectors (embedding).
    With ``fitted`` also models of scikit-learn: TF-IDF with a linear model for texts; a linear model and
    histogram gradient boosting for tables; a linear model and nearest neighbours of pixels for images;
    1-nearest-neighbour for classification of series. None for seq2seq. ``indices`` are the
    samples counted, in that order; by default `Reader.by_length` without those in ``test.bad``.

    Raises: ValueError when ``indices`` are not as many as were counted.
    """
    if indices is None:
        ids = test.samples.ids
        indices = np.array([i for i in test.by_length().tolist() if ids[i] not in test.bad], np.int64)
    if len(indices) != counts.samples:
        raise ValueError(f"{counts.samples} samples were counted, but {len(indices)} are compared")
    if not len(indices) or not len(train):
        return ()
    name = metric or default_monitor(task)
    baselines = simple_baselines(task, train, test)
    if fitted:
        from dlcli.evaluation.baselines.fitted import fitted_baselines

        baselines += fitted_baselines(task, train, test)
    return tuple(_compare(task, test, counts, name, indices, baseline) for baseline in baselines)


def strongest(rows: Sequence[BaselineRow]) -> BaselineRow | None:
    """The baseline of the best value, the first of equal ones; None for none."""
    finite = [row for row in rows if math.isfinite(row.value)]
    return max(finite, key=lambda row: row.value * direction(row.metric), default=None)


def _compare(
    task: TaskSpec, test: Reader, counts: Counts, metric: str, indices: Indices, baseline: Baseline
) -> BaselineRow:
    own = make_counts(task.with_thresholds(None))
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        inputs = test.read(batch)[0] if metric == "mase" else None
        own.update(baseline.predict(batch), test.targets(batch), inputs, test.series(batch))
    diff = difference(counts, own, metric, task)
    return BaselineRow(
        baseline.name,
        metric,
        own.metrics()[metric],
        diff.value,
        diff.low,
        diff.high,
        diff.better,
        baseline.note,
        by_series={row.id: row.mse for row in own.result("").per_series},
        block=max(1, task.horizon),
    )
