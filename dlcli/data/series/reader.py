"""Whole series as a model's input: gaps filled, scaled by the training split's figures, padded.

Legend: N series, n in a batch, T steps, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices, Inputs, Listed, Reader, Samples, Stacked, pad
from dlcli.data.notices import Notice
from dlcli.data.series.ts_files import Values
from dlcli.errors import BadSample, DlcliError
from dlcli.task import SeriesInput

_CHUNK = 1 << 22  # values that are scaled at a time: float64 copies of more would double the memory

Floats = npt.NDArray[np.float64]


def statistics(series: Sequence[Values], channels: int) -> tuple[Floats, Floats, list[int]]:
    """Return mean and std (C,) over all steps with a value, and which channels are constant.

    ``series`` are arrays (..., C). A constant channel keeps std 1, and so does one without values.
    Raises: DlcliError when squares of the values overflow.
    """
    count, total = np.zeros(channels), np.zeros(channels)
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    for values in series:
        part = values.reshape(-1, channels)
        there = np.isfinite(part)
        count += there.sum(axis=0)
        total += np.where(there, part, 0.0).sum(axis=0, dtype=np.float64)
        if len(part):
            low = np.minimum(low, np.where(there, part, np.inf).min(axis=0))
            high = np.maximum(high, np.where(there, part, -np.inf).max(axis=0))
    mean = total / np.maximum(count, 1)
    squares = np.zeros(channels)
    # A second pass about the mean: sums of squares would cancel for values far from 0.
    with np.errstate(over="ignore", invalid="ignore"):
        for values in series:
            part = values.reshape(-1, channels)
            squares += (np.where(np.isfinite(part), part - mean, 0.0) ** 2).sum(axis=0)
    if not np.isfinite(squares).all():
        raise DlcliError(f"values up to {np.abs(high).max():.3g} are too large to be scaled")
    std = np.sqrt(squares / np.maximum(count, 1))
    # By the extremes: the std of equal numbers is a rounding error, not 0.
    constant = (low >= high) | ~(std > 0)
    return mean, np.where(constant, 1.0, std), np.flatnonzero(constant).tolist()


def fill_gaps(values: Values) -> Values:
    """(T, C) with NaN replaced along straight lines between its neighbours in time.

    Before the first and after the last value of a channel that value is repeated. A channel without any
    stays NaN.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values
    out = values.copy()
    steps = np.arange(len(values))
    for channel in np.flatnonzero(missing.any(axis=0)):
        there = ~missing[:, channel]
        if there.any():
            out[~there, channel] = np.interp(steps[~there], steps[there], values[there, channel])
    return out


def encode(values: Values, spec: SeriesInput) -> npt.NDArray[np.float32]:
    """One series (T, C) as the model takes it: truncated, filled and scaled.

    A channel without any value stands at its mean. Raises: BadSample when it has other channels or
    another length than the model takes, or no value.
    """
    if values.shape[1] != len(spec.channels):
        raise BadSample(f"it has {values.shape[1]} channels, the model takes {len(spec.channels)}")
    if not np.isfinite(values).any():
        raise BadSample("it has no values" if not len(values) else "all its values are missing")
    if not spec.varies and len(values) != spec.length:
        raise BadSample(f"it has {len(values)} steps, the model takes exactly {spec.length}")
    # Truncated before filling: steps beyond the limit fill no gap.
    filled = fill_gaps(np.where(np.isfinite(values), values, np.nan)[: spec.length])
    scaled = _scaled(filled, spec)
    scaled[np.isnan(scaled)] = 0
    if not np.isfinite(scaled).all():
        raise BadSample("a value is too large for 32 bits once it is scaled")
    return scaled


def pieces(items: Stacked | Listed) -> Sequence[Values]:
    """The series, many of one length at a time."""
    if isinstance(items, Listed):
        return items.values
    step = max(1, _CHUNK // max(1, items.values[:1].size))
    return [items.values[start : start + step] for start in range(0, len(items), step)]


class SeriesReader(Reader):
    """Scaled series in memory: (n, T, C), and lengths (n,) where they vary.

    ``notices`` are about series that were truncated. A series that the model cannot take is in
    ``bad`` from the start.
    """

    def __init__(self, samples: Samples, spec: SeriesInput, *, on_bad_sample: str = "skip") -> None:
        super().__init__(samples)
        self._fail = on_bad_sample == "fail"
        self._channels = len(spec.channels)
        self._unreadable = np.zeros(len(samples), dtype=bool)
        items = samples.items
        assert isinstance(items, Stacked | Listed)
        together = self._at_once(items, spec)
        self._sequences = self._one_by_one(items.values, spec) if together is None else together
        if spec.varies:
            self.lengths = np.array([len(sequence) for sequence in self._sequences], dtype=np.int64)
            longer = sum(len(values) > spec.length for values in items.values)
            if longer:
                self.notices.append(truncated(longer, len(samples), spec.length))

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """Scaled values, and lengths where they vary. Raises: DlcliError with on_bad_sample fail."""
        readable = indices[~self._unreadable[indices]]
        if self._fail and len(readable) < len(indices):
            name = self.samples.ids[int(indices[self._unreadable[indices]][0])]
            raise DlcliError(
                f"cannot use series {name}: {self.bad[name]}",
                hint="repair or remove it, or let --on-bad-sample skip count such series and go on",
            )
        if self.lengths is None:
            assert isinstance(self._sequences, np.ndarray)
            return (np.take(self._sequences, readable, axis=0),), readable
        if not len(readable):
            return (np.zeros((0, 1, self._channels), np.float32), self.lengths[readable]), readable
        return (pad([self._sequences[i] for i in readable.tolist()]), self.lengths[readable]), readable

    def array(self) -> Inputs | None:
        """(values (N, T, C),) where all have one length and none is bad."""
        if self.lengths is not None or self.bad:
            return None
        assert isinstance(self._sequences, np.ndarray)
        return (self._sequences,)

    def _at_once(self, items: Stacked | Listed, spec: SeriesInput) -> npt.NDArray[np.float32] | None:
        """All series together where nothing is missing and all fit; else None."""
        if not isinstance(items, Stacked) or not len(items) or items.values.shape[1:] != spec.shape:
            return None
        out = np.empty((len(items), *spec.shape), dtype=np.float32)
        start = 0
        for part in pieces(items):
            out[start : start + len(part)] = _scaled(part, spec)
            start += len(part)
        return out if bool(np.isfinite(out).all()) else None

    def _one_by_one(
        self, series: Sequence[Values] | Values, spec: SeriesInput
    ) -> list[npt.NDArray[np.float32]] | npt.NDArray[np.float32]:
        blank = np.zeros((1 if spec.varies else spec.length, len(spec.channels)), dtype=np.float32)
        encoded = []
        for index, values in enumerate(series):
            try:
                encoded.append(encode(values, spec))
            except BadSample as exc:
                encoded.append(blank)
                self._unreadable[index] = True
                self.bad[self.samples.ids[index]] = exc.message
        if spec.varies:
            return encoded
        return np.stack(encoded) if encoded else np.zeros((0, *spec.shape), dtype=np.float32)


def truncated(longer: int, total: int, length: int) -> Notice:
    """Return the notice about series that are longer than the model's input."""
    message = f"{longer:,} of {total:,} series are longer than {length} steps and are truncated"
    return Notice(message, "cut-series")


def _scaled(values: Values, spec: SeriesInput) -> npt.NDArray[np.float32]:
    mean, std = np.array(spec.mean), np.array(spec.std)
    # Overflow becomes infinite, which the caller looks for.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled: npt.NDArray[np.float32] = ((values - mean) / std).astype(np.float32)
    return scaled
