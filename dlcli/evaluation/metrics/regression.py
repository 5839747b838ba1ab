"""Regression metrics, in the data's own units except for the loss. NumPy only.

With several targets mae, mse and r2 are means over them, as in scikit-learn, and rmse is the root of
that mse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dlcli.data.base import Indices, Inputs, SeriesRows, Targets
from dlcli.evaluation.metrics.base import (
    Counts,
    EvalResult,
    Floats,
    Outputs,
    PerSample,
    TargetRow,
    exact_mean,
    exact_sum,
    pick_points,
    r2_score,
)
from dlcli.task import TargetNumber


class RegressionCounts(Counts):
    """Stores all targets and predictions, for an r2 about the exact mean, without cancellation."""

    def __init__(self, targets: Sequence[TargetNumber]) -> None:
        self.targets = tuple(targets)
        self._mean = np.array([target.mean for target in self.targets])
        self._std = np.array([target.std for target in self.targets])
        self._rows = PerSample("loss", "mse", "mae")
        self._true: list[Floats] = []
        self._predicted: list[Floats] = []

    @property
    def samples(self) -> int:
        """The number of samples counted."""
        return len(self._rows)

    def update(
        self,
        outputs: Outputs,
        targets: Targets,
        inputs: Inputs | None = None,
        series: SeriesRows | None = None,
    ) -> None:
        """Add a batch: scaled outputs (n, R) and R targets in the data's units (n, R)."""
        if not len(targets):
            return
        true = targets.astype(np.float64)
        scaled = outputs.astype(np.float64)
        predicted = scaled * self._std + self._mean
        self.non_finite += int((~np.isfinite(outputs).all(axis=1)).sum())
        with np.errstate(invalid="ignore", over="ignore"):
            error = predicted - true
            loss = (scaled - (true - self._mean) / self._std) ** 2
            columns = loss.mean(axis=1), (error**2).mean(axis=1), np.abs(error).mean(axis=1)
        self._rows.add(*columns)
        self._true.append(true)
        self._predicted.append(predicted)

    def merge(self, other: Counts) -> None:
        """Add the counts of ``other``, of the same targets, on other samples."""
        assert isinstance(other, RegressionCounts)
        assert self.targets == other.targets
        self.non_finite += other.non_finite
        self._rows.extend(other._rows)
        self._true = [*self._true, *other._true]
        self._predicted = [*self._predicted, *other._predicted]

    def metrics(self) -> dict[str, float]:
        """The metrics by name; loss is the mean squared error of scaled values."""
        mse = self._rows.mean("mse")
        return {
            "loss": self._rows.mean("loss"),
            "mae": self._rows.mean("mae"),
            "rmse": math.sqrt(mse),
            "mse": mse,
            "r2": exact_mean(np.array([row.r2 for row in self._target_rows()])),
        }

    def scores(self, metric: str) -> Floats | None:
        """Losses, squared or absolute errors, (N,): rmse is the root of a mean; None for r2."""
        return self._rows.column("mse" if metric == "rmse" else metric) if metric != "r2" else None

    def value(self, metric: str, indices: Indices) -> float:
        """The r2 of the samples at ``indices``."""
        if metric != "r2":
            raise KeyError(metric)
        return exact_mean(np.array([row.r2 for row in self._target_rows(indices)]))

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""
        true, predicted = self._pairs()
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            task="regression",
            per_target=self._target_rows(),
            points=pick_points(true[:, 0], predicted[:, 0]),
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
        )

    def _pairs(self) -> tuple[Floats, Floats]:
        if not self._true:
            return np.zeros((0, len(self.targets))), np.zeros((0, len(self.targets)))
        self._true = [np.concatenate(self._true)]
        self._predicted = [np.concatenate(self._predicted)]
        return self._true[0], self._predicted[0]

    def _target_rows(self, indices: Indices | None = None) -> tuple[TargetRow, ...]:
        true, predicted = self._pairs()
        if indices is not None:
            true, predicted = true[indices], predicted[indices]
        return tuple(
            _target_row(target.name, true[:, i], predicted[:, i])
            for i, target in enumerate(self.targets)
        )


def _target_row(name: str, true: Floats, predicted: Floats) -> TargetRow:
    if not len(true):
        return TargetRow(name, math.nan, math.nan, math.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        error = predicted - true
        # Two passes avoid cancellation. A constant is recognised by its range: the mean may be rounded.
        total = 0.0 if np.ptp(true) == 0 else exact_sum((true - exact_mean(true)) ** 2)
        residual = exact_sum(error**2)
    r2 = r2_score(residual, total) if len(true) > 1 else math.nan
    return TargetRow(name, exact_mean(np.abs(error)), math.sqrt(residual / len(true)), r2)
