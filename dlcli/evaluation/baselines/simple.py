"""Simple baselines, in NumPy: majority, mean, last value, seasonal naive, raw inputs.

Everything is fitted on the training split and nothing else. Legend: n samples, T steps, C
channels, H steps of the horizon, R targets, K classes or labels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlcli.data.base import Indices, Reader
from dlcli.evaluation.baselines.base import Baseline
from dlcli.evaluation.metrics.base import Floats, Outputs
from dlcli.evaluation.metrics.forecast import target_channels
from dlcli.task import ImageInput, SeriesInput, TabularInput, TaskSpec

# The season is estimated on this many training windows and targets, evenly spaced.
SEASON_WINDOWS, SEASON_TARGETS = 256, 16
# Minimum prominence of the autocorrelation at the lag of a season; and the share of the largest
# prominence from which on the shortest lag is chosen, since multiples of a season are prominent too.
SEASON_PROMINENCE, SEASON_TIE = 0.1, 0.85
# Maximum size of a raw input as an embedding; larger images are downsampled by averaging.
RAW_NUMBERS = 1024


def simple_baselines(task: TaskSpec, train: Reader, test: Reader) -> list[Baseline]:
    """The baselines of a task; none for seq2seq."""
    if task.kind == "forecast":
        return _naive_forecasts(task, train, test)
    if task.kind == "seq2seq":
        return []
    if task.kind == "embedding":
        return [_as_embedding(task, test)]
    targets = train.targets(np.arange(len(train), dtype=np.int64))
    if task.kind == "regression":
        stats = [(target.mean, target.std) for target in task.targets]
        mean, std = np.array(stats).T
        return [_constant("mean", (targets.mean(axis=0) - mean) / std)]
    if task.kind == "multilabel":
        return [_constant("majority", np.where(targets.mean(axis=0) > 0.5, 1.0, -1.0))]
    majority = np.bincount(targets, minlength=task.num_classes).argmax()
    return [_constant("majority", np.eye(task.num_classes)[majority])]


def _constant(name: str, output: Floats) -> Baseline:
    return Baseline(name, lambda indices: np.broadcast_to(output, (len(indices), *output.shape)))


def _as_embedding(task: TaskSpec, test: Reader) -> Baseline:
    """The raw inputs as embeddings; random vectors where the inputs have no fixed size."""
    spec = task.input
    if isinstance(spec, ImageInput):
        factor = 1
        while -(-spec.height // factor) * -(-spec.width // factor) * spec.channels > RAW_NUMBERS:
            factor += 1

        def pixels(indices: Indices) -> Outputs:
            values = test.read(indices)[0][0] / np.float32(255)  # (n, H, W, C)
            values = ((values - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
            for axis in (1, 2):
                starts = np.arange(0, values.shape[axis], factor)
                values = np.add.reduceat(values, starts, axis=axis)
            return values.reshape(len(values), -1)

        note = f"averaged over squares of {factor} x {factor} pixels" if factor > 1 else ""
        return Baseline("nearest pixels", pixels, note)
    fixed = isinstance(spec, SeriesInput) and not spec.varies
    if fixed or (isinstance(spec, TabularInput) and not spec.categories):
        return Baseline(
            "nearest values", lambda indices: test.read(indices)[0][0].reshape(len(indices), -1)
        )
    draws = np.random.default_rng(0).standard_normal((len(test), 64))
    return Baseline("chance", lambda indices: draws[indices], "embeddings drawn at random")


def _naive_forecasts(task: TaskSpec, train: Reader, test: Reader) -> list[Baseline]:
    """Last value, and seasonal naive where there is a season."""
    channels = target_channels(task)
    if channels is None:  # the targets are not among the input channels
        return [_constant("mean", np.zeros((task.horizon, len(task.targets))))]
    baselines = [Baseline("last value", _repeat_end(task, test, channels, 1))]
    period = find_season(task, train, channels)
    if period is not None:
        note = f"a season of {period} steps: a peak of the autocorrelation of the training rows"
        predict = _repeat_end(task, test, channels, period)
        baselines.append(Baseline(f"seasonal naive ({period} steps)", predict, note))
    return baselines


def _repeat_end(
    task: TaskSpec, reader: Reader, channels: list[int], period: int
) -> Callable[[Indices], Outputs]:
    """Predict step h as the input's step T - period + h modulo period."""
    steps = np.arange(task.horizon) % period - period

    def predict(indices: Indices) -> Outputs:
        inputs, _ = reader.read(indices)
        return _as_targets(task, inputs[0][:, steps][:, :, channels], channels)

    return predict


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
