"""Forecast metrics over windows. NumPy only.

Legend: n windows, H steps of the horizon, R targets, T steps and C channels of the input.

mse, mae and rmse are of standardised values (mean and std of the training split), as the literature on
long horizons reports them; smape and mase are in the data's own units.
"""

from __future__ import annotations

import math

import numpy as np

from dlcli.data.base import Indices, Inputs, SeriesRows, Targets
from dlcli.evaluation.metrics.base import (
    Counts,
    EvalResult,
    Floats,
    Outputs,
    PerSample,
    SeriesRow,
    exact_mean,
    pick_points,
)
from dlcli.evaluation.metrics.target_sums import TargetSums, exact_sums
from dlcli.task import SeriesInput, TaskSpec


class ForecastCounts(Counts):
    """Sums over windows. Each window counts the same; windows may overlap.

    smape is 200 |error| / (|true| + |predicted|), in percent, 0 where both are 0. mase divides each
    target's mean absolute error by that of the naive forecast, and averages over the targets (Hyndman
    and Koehler 2006, doi:10.1016/j.ijforecast.2006.03.001). The naive error here is the mean absolute
    change from one step to the next in the inputs of the evaluated windows; the paper uses the training
    rows, which an artifact does not contain. mase is omitted when `update` gets no inputs, or when a
    target is not an input channel. r2 is the mean over the targets, of all steps of all windows.

    Where each of several series has a scale of its own, mse, mae, rmse, r2 and mase are of values in
    that scale, so that a series' level does not count.
    """

    def __init__(self, task: TaskSpec) -> None:
        assert isinstance(task.input, SeriesInput)
        self.task = task
        self._mean = np.array([target.mean for target in task.targets])
        self._std = np.array([target.std for target in task.targets])
        self._rows = PerSample("mse", "mae", "smape", "last_true", "last_predicted", "series")
        self._targets = TargetSums(len(task.targets))
        self._change: list[Floats] = []  # (n, R): absolute changes of each window, summed over steps
        self._changes = 0
        self._channels = target_channels(task)
        self._series: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """The number of windows counted."""
        return len(self._rows)

    def update(
        self,
        outputs: Outputs,
        targets: Targets,
        inputs: Inputs | None = None,
        series: SeriesRows | None = None,
    ) -> None:
        """Add a batch: scaled outputs (n, H, R), targets (n, H, R), inputs, and the series of each.

        Targets are in the data's units, or where series have scales of their own, in these.
        """
        if not len(targets):
            return
        true = targets.astype(np.float64)
        # In C order, so that a window's sum does not depend on the batch.
        predicted = outputs.astype(np.float64, order="C") * self._std + self._mean
        codes = np.full(len(true), -1)
        self.non_finite += int((~np.isfinite(outputs).all(axis=(1, 2))).sum())
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(outputs - (true - self._mean) / self._std)
            own = np.abs(predicted - true)
            own_true = true - self._mean
            if series is not None:
                self._series, codes = series.names, series.codes
                mean, std = series.mean[:, None], series.std[:, None]
                true, predicted = true * std + mean, predicted * std + mean
            absolute = np.abs(predicted - true)
            size = np.abs(true) + np.abs(predicted)
            smape = 200.0 * absolute / np.where(size == 0, 1.0, size)
            means = (part.reshape(len(true), -1).mean(axis=1) for part in (error**2, error, smape))
            self._rows.add(*means, true[:, -1, 0], predicted[:, -1, 0], codes)
            self._targets.add(own_true, own, absolute)
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
        self._series = self._series or other._series

    def metrics(self) -> dict[str, float]:
        """The metrics by name; loss is the mse."""
        mse = self._rows.mean("mse")
        out = {
            "loss": mse,
            "mse": mse,
            "mae": self._rows.mean("mae"),
            "rmse": math.sqrt(mse),
            "r2": exact_mean(self._targets.r2()),
            "smape": self._rows.mean("smape"),
        }
        if self._changes:
            out["mase"] = self._mase(None)
        return out

    def scores(self, metric: str) -> Floats | None:
        """The mean error of each window, (N,): rmse is the root of a mean; None for r2 and mase."""
        if metric in ("r2", "mase"):
            return None
        return self._rows.column("mse" if metric in ("loss", "rmse") else metric)

    def value(self, metric: str, indices: Indices) -> float:
        """The r2 or the mase of the windows at ``indices``."""
        if metric == "mase":
            return self._mase(indices) if self._changes else math.nan
        if metric != "r2":
            raise KeyError(metric)
        return exact_mean(self._targets.r2(indices))

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            task="forecast",
            per_target=self._targets.target_rows([target.name for target in self.task.targets]),
            per_series=self.per_series(),
            points=pick_points(self._rows.column("last_true"), self._rows.column("last_predicted")),
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
        )

    def per_series(self) -> tuple[SeriesRow, ...]:
        """The metrics of each of several series that has windows, in the order of the table."""
        codes = self._rows.column("series")
        rows = []
        for code in np.unique(codes[codes >= 0]).astype(np.int64).tolist():
            where = np.flatnonzero(codes == code)
            means = {n: exact_mean(self._rows.column(n)[where]) for n in ("mse", "mae", "smape")}
            r2 = exact_mean(self._targets.r2(where))
            mase = self._mase(where) if self._changes else math.nan
            rows.append(SeriesRow(self._series[code], len(where), r2=r2, mase=mase, **means))
        return tuple(rows)

    def _mase(self, where: Indices | None) -> float:
        """mase over the windows ``where``, or all."""
        if len(self._change) > 1:
            self._change = [np.concatenate(self._change)]
        change = self._change[0] if where is None else self._change[0][where]
        steps = self._changes if where is None else self._changes / len(self._change[0]) * len(where)
        # The naive error of a constant target is 0: mase is infinite, or NaN for exact predictions.
        with np.errstate(divide="ignore", invalid="ignore"):
            naive = exact_sums(change) / steps
            return float((self._targets.mae(where) / naive).mean())

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
