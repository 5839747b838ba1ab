"""Whole series as model inputs: gaps interpolated, standardized, padded.

Legend: N series, n in a batch, T steps, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Floats, Indices, Inputs, Listed, Reader, Samples, Stacked, pad
from dlcli.data.notices import Notice
from dlcli.data.series.ts_files import Values
from dlcli.errors import BadSample, DlcliError
from dlcli.task import SeriesInput
from dlcli.timeline.gaps import interpolate

_CHUNK_VALUES = 1 << 22  # standardized at a time, to bound the size of float64 copies


def channel_statistics(series: Sequence[Values], channels: int) -> tuple[Floats, Floats, list[int]]:
    """Return mean and std (C,) over all steps with a value, and the constant channels.

    ``series`` are arrays (..., C). A channel that is constant or has no values gets std 1.
    Raises: DlcliError when squares of the values overflow.
    """
    count, total = np.zeros(channels), np.zeros(channels)
    minimum, maximum = np.full(channels, np.inf), np.full(channels, -np.inf)
    for values in series:
        part = values.reshape(-1, channels)
        present = np.isfinite(part)
        count += present.sum(axis=0)
        total += np.where(present, part, 0.0).sum(axis=0, dtype=np.float64)
        if len(part):
            minimum = np.minimum(minimum, np.where(present, part, np.inf).min(axis=0))
            maximum = np.maximum(maximum, np.where(present, part, -np.inf).max(axis=0))
    mean = total / np.maximum(count, 1)
    squares = np.zeros(channels)
    # Two passes: a sum of squares would cancel for values far from 0.
    with np.errstate(over="ignore", invalid="ignore"):
        for values in series:
            part = values.reshape(-1, channels)
            squares += (np.where(np.isfinite(part), part - mean, 0.0) ** 2).sum(axis=0)
    if not np.isfinite(squares).all():
        raise DlcliError(f"values up to {np.abs(maximum).max():.3g} are too large to be scaled")
    std = np.sqrt(squares / np.maximum(count, 1))
    # By the range, because the std of equal numbers is a rounding error, not 0.
    constant = (minimum >= maximum) | ~(std > 0)
    return mean, np.where(constant, 1.0, std), np.flatnonzero(constant).tolist()


def encode(values: Values, spec: SeriesInput) -> npt.NDArray[np.float32]:
    """Encode one series (T, C) as model input: truncated, interpolated and standardized.

    A channel without values becomes 0, its mean. Raises: BadSample when the number of channels or the
    length is not that of the model's input, or the series has no value.
    """
    if values.shape[1] != len(spec.channels):
        raise BadSample(f"it has {values.shape[1]} channels, not {len(spec.channels)}")
    if not np.isfinite(values).any():
        raise BadSample("it has no values" if not len(values) else "all its values are missing")
    if not spec.varies and len(values) != spec.length:
        raise BadSample(f"it has {len(values)} steps, not {spec.length}")
    # Truncated first: steps beyond the limit must not affect the interpolation.
    filled = interpolate(np.where(np.isfinite(values), values, np.nan)[: spec.length])
    scaled = _standardize(filled, spec)
    scaled[np.isnan(scaled)] = 0
    if not np.isfinite(scaled).all():
        raise BadSample("a scaled value overflows float32")
    return scaled


def chunks(items: Stacked | Listed) -> Sequence[Values]:
    """Return arrays (n, T, C) of stacked series, or the single series (T, C)."""
    if isinstance(items, Listed):
        return items.values
    step = max(1, _CHUNK_VALUES // max(1, items.values[:1].size))
    return [items.values[start : start + step] for start in range(0, len(items), step)]


class SeriesReader(Reader):
    """Standardized series in memory: (n, T, C), and lengths (n,) where they vary.

    ``notices`` are about truncated series. Series that cannot be encoded are in ``bad`` from the start.
    """

    def __init__(self, samples: Samples, spec: SeriesInput, *, on_bad_sample: str = "skip") -> None:
        super().__init__(samples)
        self._fail = on_bad_sample == "fail"
        self._channels = len(spec.channels)
        self._unreadable = np.zeros(len(samples), dtype=bool)
        items = samples.items
        assert isinstance(items, Stacked | Listed)
        stacked = self._encode_stacked(items, spec)
        self._sequences = self._encode_each(items.values, spec) if stacked is None else stacked
        if spec.varies:
            self.lengths = np.array([len(sequence) for sequence in self._sequences], dtype=np.int64)
            longer = sum(len(values) > spec.length for values in items.values)
            if longer:
                self.notices.append(truncation_notice(longer, len(samples), spec.length))

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """Read values, and lengths where they vary. Raises: DlcliError with ``on_bad_sample`` fail."""
        readable = indices[~self._unreadable[indices]]
        if self._fail and len(readable) < len(indices):
            name = self.samples.ids[int(indices[self._unreadable[indices]][0])]
            raise DlcliError(
                f"cannot use series {name}: {self.bad[name]}",
                hint="repair or remove it, or skip such series with --on-bad-sample skip",
            )
        if self.lengths is None:
            assert isinstance(self._sequences, np.ndarray)
            return (np.take(self._sequences, readable, axis=0),), readable
        if not len(readable):
            return (np.zeros((0, 1, self._channels), np.float32), self.lengths[readable]), readable
        return (pad([self._sequences[i] for i in readable.tolist()]), self.lengths[readable]), readable

    def array(self) -> Inputs | None:
        """Return (values (N, T, C),) where all have one length and none is bad, else None."""
        if self.lengths is not None or self.bad:
            return None
        assert isinstance(self._sequences, np.ndarray)
        return (self._sequences,)

    def _encode_stacked(
        self, items: Stacked | Listed, spec: SeriesInput
    ) -> npt.NDArray[np.float32] | None:
        """Encode all series at once where they are stacked and no value is missing, else None."""
        if not isinstance(items, Stacked) or not len(items) or items.values.shape[1:] != spec.shape:
            return None
        out = np.empty((len(items), *spec.shape), dtype=np.float32)
        start = 0
        for part in chunks(items):
            out[start : start + len(part)] = _standardize(part, spec)
            start += len(part)
        return out if bool(np.isfinite(out).all()) else None

    def _encode_each(
        self, series: Sequence[Values] | Values, spec: SeriesInput
    ) -> list[npt.NDArray[np.float32]] | npt.NDArray[np.float32]:
        placeholder = np.zeros((1 if spec.varies else spec.length, len(spec.channels)), dtype=np.float32)
        encoded = []
        for index, values in enumerate(series):
            try:
                encoded.append(encode(values, spec))
            except BadSample as exc:
                encoded.append(placeholder)
                self._unreadable[index] = True
                self.bad[self.samples.ids[index]] = exc.message
        if spec.varies:
            return encoded
        return np.stack(encoded) if encoded else np.zeros((0, *spec.shape), dtype=np.float32)


def truncation_notice(longer: int, total: int, length: int) -> Notice:
    """Return the notice about series that were truncated."""
    message = f"{longer:,} of {total:,} series are longer than {length} steps and are truncated"
    return Notice(message, "cut-series")


def _standardize(values: Values, spec: SeriesInput) -> npt.NDArray[np.float32]:
    mean, std = np.array(spec.mean), np.array(spec.std)
    # Overflow becomes infinite, which the callers check.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled: npt.NDArray[np.float32] = ((values - mean) / std).astype(np.float32)
    return scaled
