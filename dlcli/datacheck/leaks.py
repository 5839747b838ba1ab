"""Target leakage: how well one column alone predicts the target.

N training rows, M held-out rows.
"""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Floats, Labels, Targets
from dlcli.task import TaskKind

# From this score on a column is reported.
LEAK_SCORE = 0.99
_MAX_BINS = 256
_MIN_ROWS_PER_BIN = 5  # training rows
_MAX_ROWS = 20_000  # of each split: enough for an estimate


def leak_score(
    train: Floats,
    train_targets: Targets,
    held_out: Floats,
    held_out_targets: Targets,
    task: TaskKind,
) -> float:
    """Return how well a column alone predicts held-out targets: 0 as the constant baseline, 1 perfectly.

    The columns are float64 (N,) and (M,), NaN where missing, words as codes. Predicted is the majority
    class or mean target of the training rows with the same value, or in the same of up to 256 quantile
    bins. For classes the score is 1 - errors / errors of the majority class, for numbers R2, or the
    squared correlation if that is larger.
    """
    train, train_targets = _subsample(train, train_targets)
    held_out, held_out_targets = _subsample(held_out, held_out_targets)
    bins, count = _fit_bins(train)
    train_bins, held_out_bins = bins(train), bins(held_out)
    if task == "classification":
        return _error_reduction(train_bins, train_targets, held_out_bins, held_out_targets, count)
    r2 = _r2(train_bins, train_targets, held_out_bins, held_out_targets, count)
    valid = np.isfinite(held_out)
    x, y = held_out[valid], held_out_targets[valid]
    if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
        r2 = max(r2, float(np.corrcoef(x, y)[0, 1] ** 2) * valid.mean())
    return r2


def _subsample(column: Floats, targets: Targets) -> tuple[Floats, Targets]:
    step = -(-len(column) // _MAX_ROWS)
    return column[::step], targets[::step]


class _Bins:
    """Map values to bin numbers; the last bin is of missing values."""

    def __init__(self, edges: Floats) -> None:
        self.edges = edges

    def __call__(self, values: Floats) -> Labels:
        bins = np.searchsorted(self.edges, values, side="right")
        return np.where(np.isnan(values), len(self.edges) + 1, bins)


def _fit_bins(train: Floats) -> tuple[_Bins, int]:
    """Fit a bin for each value, or quantile bins where there are too many values."""
    values = train[~np.isnan(train)]
    distinct = np.unique(values)
    max_bins = min(_MAX_BINS, max(2, len(values) // _MIN_ROWS_PER_BIN))
    if len(distinct) > max_bins:
        distinct = np.unique(np.quantile(values, np.linspace(0, 1, max_bins + 1)))
    edges = (distinct[1:] + distinct[:-1]) / 2 if len(distinct) > 1 else distinct[:0]
    return _Bins(edges), len(edges) + 2


def _error_reduction(
    train_bins: Labels, targets: Labels, held_out_bins: Labels, held_out: Labels, bins: int
) -> float:
    classes = int(max(targets.max(), held_out.max())) + 1
    table = np.bincount(train_bins * classes + targets, minlength=bins * classes).reshape(bins, classes)
    majority = int(table.sum(axis=0).argmax())
    prediction = np.where(table.sum(axis=1) > 0, table.argmax(axis=1), majority)
    baseline_errors = int((held_out != majority).sum())
    errors = int((held_out != prediction[held_out_bins]).sum())
    return 1 - errors / baseline_errors if baseline_errors else 0.0


def _r2(
    train_bins: Labels, targets: Floats, held_out_bins: Labels, held_out: Floats, bins: int
) -> float:
    counts = np.bincount(train_bins, minlength=bins)
    sums = np.bincount(train_bins, weights=targets, minlength=bins)
    mean = float(targets.mean())
    prediction = np.where(counts > 0, sums / np.maximum(counts, 1), mean)
    total = float(((held_out - mean) ** 2).sum())
    residual = float(((held_out - prediction[held_out_bins]) ** 2).sum())
    return 1 - residual / total if total > 0 else 0.0
