"""Errors and sums of squares of each target of a forecast. NumPy only.

Legend: n windows in a batch, N in all, H steps of the horizon, R targets.
"""

from __future__ import annotations

import math

import numpy as np

from dlcli.data.base import Indices
from dlcli.evaluation.metrics.base import Floats, TargetRow, exact_sum, r2_score

# What is stored of each window: sums of absolute and squared errors in the data's units, the same in
# the units of the targets, the mean of the targets, the sum of squares about it, lowest and highest.
_ABSOLUTE, _SQUARED, _OWN_ABSOLUTE, _OWN_SQUARED, _MEAN, _WITHIN, _LOW, _HIGH = range(8)


class TargetSums:
    """Errors and sums of squares of each target, over all steps of all windows.

    Values are stored per window, not summed, so that totals are correctly rounded: the same bits for
    any batching and order. The total sum of squares is the sum within windows (about each window's
    mean) plus the sum between them (of the window means about their mean), which avoids cancellation
    for targets far from 0.
    """

    def __init__(self, targets: int) -> None:
        self.steps = 0
        self._parts: list[Floats] = [np.zeros((0, 8, targets))]

    def add(self, true: Floats, own_error: Floats, error: Floats) -> None:
        """Append a batch (n, H, R): targets minus any constant, and absolute errors.

        ``own_error`` is in the units of ``true``, ``error`` in the data's units.
        """
        self.steps = true.shape[1]
        mean = true.mean(axis=1)
        within = ((true - mean[:, None]) ** 2).sum(axis=1)
        columns = [error.sum(axis=1), (error**2).sum(axis=1)]
        columns += [own_error.sum(axis=1), (own_error**2).sum(axis=1), mean, within]
        self._parts.append(np.stack([*columns, true.min(axis=1), true.max(axis=1)], axis=1))

    def extend(self, other: TargetSums) -> None:
        """Append the windows of ``other``."""
        self.steps = self.steps or other.steps
        self._parts = [*self._parts, *other._parts]

    def mae(self, where: Indices | None = None) -> Floats:
        """The mean absolute error of each target, in its units; NaN without windows."""
        windows = self._windows(where)
        return exact_sums(windows[:, _OWN_ABSOLUTE]) / (len(windows) * self.steps or math.nan)

    def r2(self, where: Indices | None = None) -> Floats:
        """r2 of each target over the windows ``where``, or all; NaN for fewer than two values."""
        windows = self._windows(where)
        if len(windows) * self.steps < 2:
            return np.full(windows.shape[2], math.nan)
        centre = exact_sums(windows[:, _MEAN]) / len(windows)
        between = self.steps * (windows[:, _MEAN] - centre) ** 2
        total = exact_sums(windows[:, _WITHIN]) + exact_sums(between)
        constant = windows[:, _LOW].min(axis=0) == windows[:, _HIGH].max(axis=0)
        totals = np.where(constant, 0.0, total).tolist()
        residuals = exact_sums(windows[:, _OWN_SQUARED]).tolist()
        return np.array([r2_score(*pair) for pair in zip(residuals, totals, strict=True)])

    def target_rows(self, names: list[str]) -> tuple[TargetRow, ...]:
        """The metrics of each target: errors in the data's units, r2 in the units of the targets."""
        windows = self._windows(None)
        count = len(windows) * self.steps or math.nan
        maes = exact_sums(windows[:, _ABSOLUTE]) / count
        squares = exact_sums(windows[:, _SQUARED]) / count
        columns = zip(names, maes.tolist(), squares.tolist(), self.r2().tolist(), strict=True)
        return tuple(TargetRow(name, mae, math.sqrt(mse), r2) for name, mae, mse, r2 in columns)

    def _windows(self, where: Indices | None) -> Floats:
        """The values of the windows ``where``, or all, (N, 8, R)."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0] if where is None else self._parts[0][where]


def exact_sums(values: Floats) -> Floats:
    """The correctly rounded sum of each column of (N, R)."""
    return np.array([exact_sum(column) for column in values.T])
