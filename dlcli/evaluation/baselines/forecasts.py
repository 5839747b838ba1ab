"""Simple baselines of forecasts, in NumPy: last value, seasonal naive, a linear map.

Everything is fitted on the training split and nothing else. Legend: n windows, T steps, C channels, H
steps of the horizon, R targets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlcli.data.base import Indices, Reader
from dlcli.evaluation.baselines.base import Baseline, constant
from dlcli.evaluation.metrics.base import Floats, Outputs
from dlcli.evaluation.metrics.forecast import target_channels
from dlcli.task import SeriesInput, TaskSpec

# The season is estimated on this many training windows and targets, evenly spaced.
SEASON_WINDOWS, SEASON_TARGETS = 256, 16
# Minimum prominence of the autocorrelation at the lag of a season; and the share of the largest
# prominence from which on the shortest lag is chosen, since multiples of a season are prominent too.
SEASON_PROMINENCE, SEASON_TIE = 0.1, 0.85
# Of the linear map: the penalty of squared weights, on scaled values; multiplications of its fit, about
# a second; windows in memory at a time.
ALPHA = 1.0
MULTIPLICATIONS = 20_000_000_000
BATCH = 1024


def naive_forecasts(task: TaskSpec, train: Reader, test: Reader) -> list[Baseline]:
    """Last value, seasonal naive where there is a season, a linear map; the mean of unknown targets."""
    channels = target_channels(task)
    if channels is None:  # the targets are not among the input channels
        return [constant("mean", np.zeros((task.horizon, len(task.targets))))]
    baselines = [Baseline("last value", _repeat_end(task, test, channels, 1))]
    period = find_season(task, train, channels)
    if period is not None:
        note = f"a season of {period} steps: a peak of the autocorrelation of the training rows"
        predict = _repeat_end(task, test, channels, period)
        baselines.append(Baseline(f"seasonal naive ({period} steps)", predict, note))
    return [*baselines, _ridge(task, train, test, channels)]


def _repeat_end(
    task: TaskSpec, reader: Reader, channels: list[int], period: int
) -> Callable[[Indices], Outputs]:
    """Predict step h as the input's step T - period + h modulo period."""
    steps = np.arange(task.horizon) % period - period

    def predict(indices: Indices) -> Outputs:
        inputs, _ = reader.read(indices)
        return _as_targets(task, inputs[0][:, steps][:, :, channels], channels)

    return predict


def _ridge(task: TaskSpec, train: Reader, test: Reader, channels: list[int]) -> Baseline:
    """Ridge regression from a window, minus its last value, to the horizon; one map for all targets.

    The NLinear forecaster of Zeng et al. (arXiv:2205.13504), in closed form, on evenly spaced windows
    where all would take long.
    """
    assert isinstance(task.input, SeriesInput)
    steps, horizon = task.input.length, task.horizon
    limit = max(MULTIPLICATIONS // (len(channels) * steps * (steps + horizon)), 1000)
    windows = np.linspace(0, len(train) - 1, min(limit, len(train))).round().astype(np.int64)
    mean, std = np.array([(target.mean, target.std) for target in task.targets]).T

    def changes(reader: Reader, indices: Indices) -> tuple[Floats, Floats, Indices]:
        """Windows minus their last values as rows (n, R, T), last values (n, R, 1), indices (n,)."""
        inputs, readable = reader.read(indices)
        past = _as_targets(task, inputs[0][:, :, channels], channels).transpose(0, 2, 1)
        return past - past[:, :, -1:], past[:, :, -1:], readable

    gram, products = ALPHA * np.eye(steps), np.zeros((steps, horizon))
    for start in range(0, len(windows), BATCH):
        past, last, readable = changes(train, windows[start : start + BATCH])
        future = ((train.targets(readable) - mean) / std).transpose(0, 2, 1) - last  # (n, R, H)
        rows = past.reshape(-1, steps)
        gram += rows.T @ rows
        products += rows.T @ future.reshape(-1, horizon)
    weights = np.linalg.solve(gram, products)  # (T, H)

    def predict(indices: Indices) -> Outputs:
        past, last, _ = changes(test, indices)
        return (past @ weights + last).transpose(0, 2, 1)

    note = "a linear map of each window, minus its last value, that all targets share"
    if len(windows) < len(train):
        note += f"; fitted on {len(windows):,} of {len(train):,} training windows, evenly spaced"
    return Baseline("ridge regression", predict, note)


def _as_targets(task: TaskSpec, values: Outputs, channels: list[int]) -> Floats:
    """Channels (n, T, R) from the scale of the inputs to that of the targets."""
    assert isinstance(task.input, SeriesInput)
    spec = task.input
    stats = [
        (spec.mean[c], spec.std[c], t.mean, t.std) for c, t in zip(channels, task.targets, strict=True)
    ]
    mean, std, target_mean, target_std = np.array(stats).T
    scaled: Floats = (values.astype(np.float64) * std + mean - target_mean) / target_std
    return scaled


def find_season(task: TaskSpec, train: Reader, channels: list[int]) -> int | None:
    """The lag of the most prominent autocorrelation of the training rows, or None.

    Prominence is relative to the lags half as long and half longer, which removes a drift: in a slowly
    decaying autocorrelation the plain peak lies too early, or there is none. Autocorrelations are pooled
    over windows (each with the steps it predicts, minus its mean) and targets. A lag is at most the
    window, and half of window and horizon.
    """
    count = min(SEASON_WINDOWS, len(train))
    indices = np.unique(np.linspace(0, len(train) - 1, count).round().astype(np.int64))
    inputs, readable = train.read(indices)
    past = inputs[0][:, :, channels]
    mean, std = np.array([(target.mean, target.std) for target in task.targets]).T
    future = (train.targets(readable) - mean) / std
    rows = np.concatenate([_as_targets(task, past, channels), future], axis=1)  # (n, T + H, R)
    targets = (
        np.linspace(0, rows.shape[2] - 1, min(SEASON_TARGETS, rows.shape[2])).round().astype(np.int64)
    )
    rows = rows[:, :, targets]
    rows -= rows.mean(axis=1, keepdims=True)
    length = rows.shape[1]
    # Wiener-Khinchin theorem, zero-padded to twice the length against circular wrap-around.
    power = (np.abs(np.fft.rfft(rows, 2 * length, axis=1)) ** 2).sum(axis=(0, 2))
    products = np.fft.irfft(power, 2 * length)[:length] / np.arange(length, 0, -1)
    if not products[0] > 1e-12:  # constant up to rounding
        return None
    return prominent_lag(products / products[0], min(past.shape[1], length // 2))


def prominent_lag(correlation: Floats, longest: int) -> int | None:
    """The lag from 2 to ``longest`` that is a season, from autocorrelations at 0, 1, 2 ... (L,)."""
    lags = np.arange(2, longest + 1)
    if not len(lags):
        return None
    all_lags = np.arange(len(correlation))
    around = np.interp(lags / 2, all_lags, correlation) + np.interp(lags * 1.5, all_lags, correlation)
    prominence = correlation[lags] - around / 2
    best = prominence.max()
    if not best >= SEASON_PROMINENCE:
        return None
    first = int(np.argmax(prominence >= SEASON_TIE * best))
    # Climb to the local maximum.
    while first + 1 < len(prominence) and prominence[first + 1] > prominence[first]:
        first += 1
    return int(lags[first])
