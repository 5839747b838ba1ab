"""Whether one column alone gives the target away.

N training rows, M held-out rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Labels, Targets
from dlcli.task import TaskKind

# From here on a column answers the question by itself.
TELLS = 0.99
_BINS = 256
_PER_BIN = 5  # training rows
_ROWS = 20_000  # of each side; more would cost time and say the same

Floats = npt.NDArray[np.float64]


def told_by(
    train: Floats, train_targets: Targets, held: Floats, held_targets: Targets, task: TaskKind
) -> float:
    """How much of the held-out targets a column tells: 0 nothing beyond the usual answer, 1 all.

    The columns are float64 (N,) and (M,), NaN where missing, words as codes. Each value, or each of up
    to 256 ranges of values that hold equally many training rows, answers with what its training rows
    have. Of classes it is the share of the majority answer's errors that is gone (so a rare class is
    no excuse), of numbers R2, or the squared correlation if that is larger.
    """
    train, train_targets = _some(train, train_targets)
    held, held_targets = _some(held, held_targets)
    bins, count = _bins(train)
    own, other = bins(train), bins(held)
    if task == "classification":
        return _classes(own, train_targets, other, held_targets, count)
    r2 = _numbers(own, train_targets, other, held_targets, count)
    there = np.isfinite(held)
    if there.sum() > 2 and np.ptp(held[there]) > 0 and np.ptp(held_targets[there]) > 0:
        r2 = max(r2, float(np.corrcoef(held[there], held_targets[there])[0, 1] ** 2) * there.mean())
    return r2


def _some(column: Floats, targets: Targets) -> tuple[Floats, Targets]:
    step = -(-len(column) // _ROWS)
    return column[::step], targets[::step]


class _Ranges:
    """Values to the number of their range; the last one is of missing values."""

    def __init__(self, edges: Floats) -> None:
        self.edges = edges

    def __call__(self, values: Floats) -> Labels:
        found = np.searchsorted(self.edges, values, side="right")
        return np.where(np.isnan(values), len(self.edges) + 1, found)


def _bins(train: Floats) -> tuple[_Ranges, int]:
    there = train[~np.isnan(train)]
    different = np.unique(there)
    most = min(_BINS, max(2, len(there) // _PER_BIN))
    if len(different) > most:
        different = np.unique(np.quantile(there, np.linspace(0, 1, most + 1)))
    edges = (different[1:] + different[:-1]) / 2 if len(different) > 1 else different[:0]
    return _Ranges(edges), len(edges) + 2


def _classes(own: Labels, targets: Labels, other: Labels, held: Labels, bins: int) -> float:
    classes = int(max(targets.max(), held.max())) + 1
    table = np.bincount(own * classes + targets, minlength=bins * classes).reshape(bins, classes)
    usual = int(table.sum(axis=0).argmax())
    answer = np.where(table.sum(axis=1) > 0, table.argmax(axis=1), usual)
    before = int((held != usual).sum())
    return 1 - int((held != answer[other]).sum()) / before if before else 0.0


def _numbers(own: Labels, targets: Floats, other: Labels, held: Floats, bins: int) -> float:
    counts = np.bincount(own, minlength=bins)
    sums = np.bincount(own, weights=targets, minlength=bins)
    mean = float(targets.mean())
    answer = np.where(counts > 0, sums / np.maximum(counts, 1), mean)
    total = float(((held - mean) ** 2).sum())
    return 1 - float(((held - answer[other]) ** 2).sum()) / total if total > 0 else 0.0
