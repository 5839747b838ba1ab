"""Paired comparison of an evaluated model with its baselines."""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Indices, Reader
from dlcli.evaluation.baselines.base import Baseline
from dlcli.evaluation.baselines.simple import simple_baselines
from dlcli.evaluation.intervals import difference_interval
from dlcli.evaluation.metrics import BaselineRow, Counts, direction, make_counts
from dlcli.task import TaskSpec

BATCH = 512


def compare_with_baselines(
    task: TaskSpec,
    train: Reader,
    test: Reader,
    counts: Counts,
    *,
    fitted: bool = False,
    indices: Indices | None = None,
) -> tuple[BaselineRow, ...]:
    """Compare the model's ``counts`` with each baseline on the same samples of ``test``.

    Always: majority class (classification; multi-label: per label), mean (regression), last value and
    seasonal naive (forecast), the raw inputs or random vectors (embedding). With ``fitted`` also models
    of scikit-learn: TF-IDF with a linear model for texts; a linear model and histogram gradient boosting
    for tables; 1-nearest-neighbour for classification of series. None for seq2seq. ``indices`` are the
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
    baselines = simple_baselines(task, train, test)
    if fitted:
        from dlcli.evaluation.baselines.fitted import fitted_baselines

        baselines += fitted_baselines(task, train, test)
    return tuple(_compare(task, test, counts, indices, baseline) for baseline in baselines)


def _compare(
    task: TaskSpec, test: Reader, counts: Counts, indices: Indices, baseline: Baseline
) -> BaselineRow:
    own = make_counts(task)
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        own.update(baseline.predict(batch), test.targets(batch), series=test.series(batch))
    block, note = 1, baseline.note
    if task.kind == "forecast" and task.horizon > 1:
        block = task.horizon
        blocks = f"the interval resamples blocks of {block} windows, since windows overlap"
        note = f"{note}; {blocks}" if note else blocks
    metric = counts.scored
    value = own.metrics()[metric]
    difference = counts.metrics()[metric] - value
    low, high = difference_interval(counts.scores(), own.scores(), rooted=counts.rooted, block=block)
    better = None
    if low > 0 or high < 0:
        better = (low > 0) == (direction(metric) > 0)
    by_series = {row.id: row.mse for row in own.result("").per_series}
    return BaselineRow(
        baseline.name, metric, value, difference, low, high, better, note, by_series=by_series
    )
