"""Forecast metrics over windows. NumPy only.

Legend: n windows, H steps of the horizon, R targets, T steps and C channels of the input.

mse, mae and rmse are of standardised values (mean and std of the training split), as the literature on
long horizons reports them; smape and mase are in the data's own units.
"""

from __future__ import annotations

import math

import numpy as np

from dlcli.data.base import Inputs, Targets
from dlcli.evaluation.metrics.base import (
    Counts,
    EvalResult,
    Floats,
    Outputs,
    PerSample,
    TargetRow,
    exact_sum,
    pick_points,
    r2_score,
)
from dlcli.task import SeriesInput, TaskSpec


class ForecastCounts(Counts):
    """Sums over windows. Each window counts the same; windows may overlap.

    smape is 200 |error| / (|true| + |predicted|), in percent, 0 where both are 0. mase divides each
    target's mean absolute error by that of the naive forecast, and averages over the targets (Hyndman
    and Koehler 2006, doi:10.1016/j.ijforecast.2006.03.001). The naive error here is the mean absolute
    change from one step to the next in the inputs of the evaluated windows; the paper uses the training
    rows, which an artifact does not contain. mase is omitted when `update` gets no inputs, or when a
    target is not an input channel.
    """

    scored = "mse"

    def __init__(self, task: TaskSpec) -> None:
        assert isinstance(task.input, SeriesInput)
        self.task = task
        self._mean = np.array([target.mean for target in task.targets])
        self._std = np.array([target.std for target in task.targets])
        self._rows = PerSample("mse", "mae", "smape", "last_true", "last_predicted")
        self._targets = _Targets(len(task.targets))
        self._change: list[Floats] = []  # (n, R): absolute changes of each window, summed over steps
        self._changes = 0
        self._channels = target_channels(task)

    @property
    def samples(self) -> int:
        """The number of windows counted."""
        return len(self._rows)

    def update(self, outputs: Outputs, targets: Targets, inputs: Inputs | None = None) -> None:
        """Add a batch: scaled outputs (n, H, R), targets in the data's units (n, H, R), inputs."""
        if not len(targets):
            return
        true = targets.astype(np.float64)
        # In C order, so that a window's sum does not depend on the batch.
        predicted = outputs.astype(np.float64, order="C") * self._std + self._mean
        self.non_finite += int((~np.isfinite(outputs).all(axis=(1, 2))).sum())
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(outputs - (true - self._mean) / self._std)
            absolute = np.abs(predicted - true)
            size = np.abs(true) + np.abs(predicted)
            smape = 200.0 * absolute / np.where(size == 0, 1.0, size)
            means = (part.reshape(len(true), -1).mean(axis=1) for part in (error**2, error, smape))
            self._rows.add(*means, true[:, -1, 0], predicted[:, -1, 0])
            self._targets.add(true - self._mean, absolute)
        if inputs is not None:
            self._count_changes(inputs)

    def merge(self, other: Counts) -> None:
        """Add the counts of ``other`` on other windows of the same series."""
        assert isinstance(other, ForecastCounts)
        assert self.task == other.task
        self.non_finite += other.non_finite
        self._rows.extend(other._rows)
        self._targets.extend(other._targets)
        self._change = [*self._change, *other._change]
        self._changes += other._changes

    def metrics(self) -> dict[str, float]:
        """The metrics by name; loss is the mse."""
        mse = self._rows.mean("mse")
        out = {
            "loss": mse,
            "mse": mse,
            "mae": self._rows.mean("mae"),
            "rmse": math.sqrt(mse),
            "smape": self._rows.mean("smape"),
        }
        if self._changes:
            # The naive error of a constant target is 0: mase is infinite, or NaN for exact predictions.
            with np.errstate(divide="ignore", invalid="ignore"):
                naive = _exact_sums(np.concatenate(self._change)) / self._changes
                out["mase"] = float((self._targets.mae() / naive).mean())
        return out

    def scores(self) -> Floats:
        """The mean squared error of each window, of scaled values, (N,)."""
        return self._rows.column("mse")

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            task="forecast",
            per_target=self._targets.rows([target.name for target in self.task.targets]),
            points=pick_points(self._rows.column("last_true"), self._rows.column("last_predicted")),
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
        )

    def _count_changes(self, inputs: Inputs) -> None:
        if self._channels is None:
            return
        assert isinstance(self.task.input, SeriesInput)
        unit = np.array(self.task.input.std)[self._channels]
        change = np.abs(np.diff(inputs[0][:, :, self._channels].astype(np.float64), axis=1)) * unit
        steps = change.shape[1]
        if self.task.input.varies:  # steps after a window's length are padding
            inside = np.arange(1, steps + 1)[None, :] < inputs[1][:, None]
            change = np.where(inside[:, :, None], change, 0.0)
            self._changes += int(inside.sum())
        else:
            self._changes += len(change) * steps
        self._change.append(change.sum(axis=1))


def target_channels(task: TaskSpec) -> list[int] | None:
    """Indices of the targets among the input channels; None when one is missing."""
    assert isinstance(task.input, SeriesInput)
    names = task.input.channels
    if any(target.name not in names for target in task.targets):
        return None
    return [names.index(target.name) for target in task.targets]


class _Targets:
    """Errors and sums of squares of each target, over all steps of all windows.

    Values are stored per window, not summed, so that totals are correctly rounded: the same bits for
    any batching and order. The total sum of squares is the sum within windows (about each window's
    mean) plus the sum between them (of the window means about their mean), which avoids cancellation
    for targets far from 0.
    """

    def __init__(self, targets: int) -> None:
        self.steps = 0
        self.low = np.full(targets, np.inf)
        self.high = np.full(targets, -np.inf)
        # (n, 4, R) a batch: sums of absolute and of squared errors, mean of the targets, sum of squares
        # about that mean.
        self._parts: list[Floats] = [np.zeros((0, 4, targets))]

    def add(self, true: Floats, absolute: Floats) -> None:
        """Append a batch: targets (minus any constant) and absolute errors, (n, H, R)."""
        self.steps = true.shape[1]
        mean = true.mean(axis=1)
        within = ((true - mean[:, None]) ** 2).sum(axis=1)
        self._parts.append(
            np.stack([absolute.sum(axis=1), (absolute**2).sum(axis=1), mean, within], axis=1)
        )
        self.low = np.minimum(self.low, true.min(axis=(0, 1)))
        self.high = np.maximum(self.high, true.max(axis=(0, 1)))

    def extend(self, other: _Targets) -> None:
        """Append the windows of ``other``."""
        self.steps = self.steps or other.steps
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self._parts = [*self._parts, *other._parts]

    def mae(self) -> Floats:
        """The mean absolute error of each target; NaN without windows."""
        windows = self._windows()
        return _exact_sums(windows[:, 0]) / (len(windows) * self.steps or math.nan)

    def rows(self, names: list[str]) -> tuple[TargetRow, ...]:
        """The metrics of each target."""
        windows = self._windows()
        count = len(windows) * self.steps
        centre = _exact_sums(windows[:, 2]) / (len(windows) or math.nan)
        between = self.steps * (windows[:, 2] - centre) ** 2
        total = _exact_sums(windows[:, 3]) + _exact_sums(between)
        totals = np.where(self.low == self.high, 0.0, total).tolist()
        residuals = _exact_sums(windows[:, 1]).tolist()
        return tuple(
            TargetRow(
                name,
                mae,
                math.sqrt(residual / (count or math.nan)),
                r2_score(residual, total) if count > 1 else math.nan,
            )
            for name, mae, residual, total in zip(
                names, self.mae().tolist(), residuals, totals, strict=True
            )
        )

    def _windows(self) -> Floats:
        """The values of all windows, (N, 4, R)."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]


def _exact_sums(values: Floats) -> Floats:
    """The correctly rounded sum of each column of (N, R)."""
    return np.array([exact_sum(column) for column in values.T])
