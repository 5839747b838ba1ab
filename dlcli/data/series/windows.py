"""Windows of a long series: what a forecast sees, what it is to predict, and the reader of both.

Legend: T rows (steps) of the long series, C channels, N windows of a split, n in a batch, R targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices, Inputs, Items, Reader, Samples, Targets
from dlcli.data.notices import Notice
from dlcli.errors import DlcliError, nearest
from dlcli.task import SeriesInput, TaskSpec

Floats = npt.NDArray[np.float64]

_MAX_CACHE_BYTES = 512 * 2**20  # inputs and targets of all windows of a split, if they are to be kept


@dataclass(frozen=True, eq=False)
class LongSeries:
    """A long series that windows share.

    ``values`` (T, C) have no gap: the last value before it stands in each, so that no input knows what
    comes later. ``truth`` (T, C) is what is to be predicted: there gaps are straight lines inside a
    split. ``wanted`` names the targets; ``train_rows`` are those that scales are fitted on. ``facts``
    are notices for the start of a training run.
    """

    values: Floats
    truth: Floats
    channels: tuple[str, ...]
    wanted: tuple[str, ...] = ()
    train_rows: int = 0
    window: int = 0
    horizon: int = 0
    facts: tuple[Notice, ...] = ()


@dataclass(frozen=True, eq=False)
class Windows(Items):
    """Windows of long series: the i-th predicts rows of ``series[which[i]]`` from ``starts[i]`` on.

    Its input are the rows before ``starts[i]``. Nothing is copied: windows overlap.
    """

    series: tuple[LongSeries, ...]
    which: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def gather(cls, parts: Sequence[Windows], where: Indices) -> Windows:
        """Also of `Items`; a series that several parts share is kept once."""
        series: list[LongSeries] = []
        which = []
        for part in parts:
            for one in part.series:
                if not any(one is known for known in series):
                    series.append(one)
            code = [next(i for i, known in enumerate(series) if known is one) for one in part.series]
            which.append(np.array(code, dtype=np.int64)[part.which])
        starts = np.concatenate([part.starts for part in parts])
        return cls(tuple(series), np.concatenate(which)[where], starts[where])


class ForecastReader(Reader):
    """Windows (n, window, C) of the scaled series, and targets (n, horizon, R) in the data's units."""

    def __init__(self, samples: Samples, task: TaskSpec) -> None:
        super().__init__(samples)
        assert isinstance(task.input, SeriesInput)
        assert isinstance(samples.items, Windows)
        self._windows, self._task, self._length = samples.items, task, task.input.length
        if len(self._windows) and int(self._windows.starts.min()) < self._length:
            raise DlcliError(f"the data has windows shorter than the model's, {self._length} steps")
        mean, std = np.array(task.input.mean), np.array(task.input.std)
        names = [target.name for target in task.targets]
        self._scaled, self._wanted = [], []
        for series in self._windows.series:
            order = positions(task.input.channels, series.channels, "the model reads it")
            with np.errstate(over="ignore"):
                scaled = ((series.values[:, order] - mean) / std).astype(np.float32)
            if not np.isfinite(scaled).all():
                raise DlcliError("a value is too large for 32 bits once it is scaled")
            self._scaled.append(scaled)
            self._wanted.append(positions(names, series.channels, "the model predicts it"))

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """(values (n, window, C),), float32."""
        channels = self._scaled[0].shape[1]
        out = np.empty((len(indices), self._length, channels), dtype=np.float32)
        for series, rows, starts in self._by_series(indices):
            out[rows] = self._scaled[series][starts[:, None] + np.arange(-self._length, 0)]
        return (out,), indices

    def targets(self, indices: Indices) -> Targets:
        """The rows that windows predict (n, horizon, R), float64."""
        horizon = self._task.horizon
        out = np.empty((len(indices), horizon, len(self._task.targets)))
        for series, rows, starts in self._by_series(indices):
            where = (starts[:, None] + np.arange(horizon))[:, :, None]
            out[rows] = self._windows.series[series].truth[where, self._wanted[series]]
        return out

    def array(self) -> Inputs | None:
        """All windows, where they and their targets take at most 512 MiB."""
        inputs = 4 * self._length * self._scaled[0].shape[1]
        targets = 8 * self._task.horizon * len(self._task.targets)
        if len(self) * (inputs + targets) > _MAX_CACHE_BYTES:
            return None
        return self.read(np.arange(len(self), dtype=np.int64))[0]

    def _by_series(self, indices: Indices) -> list[tuple[int, Indices, Indices]]:
        """(series, rows of the batch, starts) for each series that has windows among ``indices``."""
        which, starts = self._windows.which[indices], self._windows.starts[indices]
        rows_by_series = [(int(s), np.flatnonzero(which == s)) for s in np.unique(which)]
        return [(series, rows, starts[rows]) for series, rows in rows_by_series]


def positions(names: Sequence[str], channels: Sequence[str], what: str) -> list[int]:
    """Positions of names among channels. Raises: DlcliError naming the nearest."""
    for name in names:
        if name not in channels:
            raise DlcliError(
                f"there is no column of numbers {name!r} ({what})", hint=nearest(name, channels)
            )
    return [channels.index(name) for name in names]
