"""Windows of a long series: the inputs and targets of a forecast, and their reader.

Legend: T rows (steps) of the long series, C channels, N windows of a split, n in a batch, R targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Floats, Indices, Inputs, Items, Reader, Samples, Targets
from dlcli.data.notices import Notice
from dlcli.errors import DlcliError, nearest
from dlcli.task import SeriesInput, TaskSpec

_MAX_ARRAY_BYTES = 512 * 2**20  # inputs and targets of a split in memory


@dataclass(frozen=True, eq=False)
class LongSeries:
    """A long series that windows share.

    ``values`` (T, C) are the inputs, gaps forward-filled, so that no input depends on later values.
    ``target_values`` (T, C) are what is predicted, gaps interpolated linearly within a split.
    ``target_names`` are the predicted channels; scales are fitted on the first ``train_rows`` rows.
    ``notices`` are for the start of a training run.
    """

    values: Floats
    target_values: Floats
    channels: tuple[str, ...]
    target_names: tuple[str, ...] = ()
    train_rows: int = 0
    window: int = 0
    horizon: int = 0
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, eq=False)
class Windows(Items):
    """Windows of long series: the i-th predicts rows of ``series[which[i]]`` from ``starts[i]`` on.

    Its input is the rows before ``starts[i]``. Nothing is copied: windows overlap.
    """

    series: tuple[LongSeries, ...]
    which: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def gather(cls, parts: Sequence[Windows], where: Indices) -> Windows:
        """As `Items.gather`; a series that several parts share is stored once."""
        series: list[LongSeries] = []
        which = []
        for part in parts:
            for one in part.series:
                if not any(one is other for other in series):
                    series.append(one)
            code = [next(i for i, other in enumerate(series) if other is one) for one in part.series]
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
            raise DlcliError(f"the data has shorter windows than the {self._length} steps of the model")
        mean, std = np.array(task.input.mean), np.array(task.input.std)
        names = [target.name for target in task.targets]
        self._scaled, self._target_columns = [], []
        for series in self._windows.series:
            order = channel_indices(task.input.channels, series.channels, "the model reads it")
            with np.errstate(over="ignore"):
                scaled = ((series.values[:, order] - mean) / std).astype(np.float32)
            if not np.isfinite(scaled).all():
                raise DlcliError("a scaled value overflows float32")
            self._scaled.append(scaled)
            self._target_columns.append(channel_indices(names, series.channels, "the model predicts it"))

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """Return (values (n, window, C),), float32."""
        channels = self._scaled[0].shape[1]
        out = np.empty((len(indices), self._length, channels), dtype=np.float32)
        for series, rows, starts in self._by_series(indices):
            out[rows] = self._scaled[series][starts[:, None] + np.arange(-self._length, 0)]
        return (out,), indices

    def targets(self, indices: Indices) -> Targets:
        """Return the rows to predict (n, horizon, R), float64."""
        horizon = self._task.horizon
        out = np.empty((len(indices), horizon, len(self._task.targets)))
        for series, rows, starts in self._by_series(indices):
            where = (starts[:, None] + np.arange(horizon))[:, :, None]
            out[rows] = self._windows.series[series].target_values[where, self._target_columns[series]]
        return out

    def array(self) -> Inputs | None:
        """Return all windows where they and their targets take at most 512 MiB, else None."""
        inputs = 4 * self._length * self._scaled[0].shape[1]
        targets = 8 * self._task.horizon * len(self._task.targets)
        if len(self) * (inputs + targets) > _MAX_ARRAY_BYTES:
            return None
        return self.read(np.arange(len(self), dtype=np.int64))[0]

    def _by_series(self, indices: Indices) -> list[tuple[int, Indices, Indices]]:
        """Return (series, rows of the batch, starts) of each series with windows among ``indices``."""
        which, starts = self._windows.which[indices], self._windows.starts[indices]
        rows_by_series = [(int(s), np.flatnonzero(which == s)) for s in np.unique(which)]
        return [(series, rows, starts[rows]) for series, rows in rows_by_series]


def channel_indices(names: Sequence[str], channels: Sequence[str], what: str) -> list[int]:
    """Return the index of each name in ``channels``. Raises: DlcliError with the nearest name."""
    for name in names:
        if name not in channels:
            raise DlcliError(
                f"there is no numeric column {name!r} ({what})", hint=nearest(name, channels)
            )
    return [channels.index(name) for name in names]
