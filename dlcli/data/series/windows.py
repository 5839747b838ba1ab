"""Windows of a long series: the inputs and targets of a forecast, and their reader.

Legend: T rows (steps) of the long series, C channels, N windows of a split, n in a batch, R targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Floats, Indices, Inputs, Items, Reader, Samples, SeriesRows, Targets
from dlcli.data.notices import Notice
from dlcli.data.series.reader import channel_statistics
from dlcli.errors import DlcliError, nearest
from dlcli.task import SeriesInput, TaskSpec
from dlcli.wording import quoted_list

_MAX_ARRAY_BYTES = 512 * 2**20  # inputs and targets of a split in memory


@dataclass(frozen=True, eq=False)
class LongSeries:
    """A long series that windows share.

    ``values`` (T, C) are the inputs, gaps forward-filled, so that no input depends on later values.
    ``target_values`` (T, C) are what is predicted, gaps interpolated linearly within a split.
    ``target_names`` are the predicted channels; scales are fitted on the first ``train_rows`` rows.
    ``times`` name the rows and the steps after the end. ``notices`` are for the start of a training
    run. ``id`` is "" unless the table has several series, divided by the columns ``series_column``.
    """

    values: Floats
    target_values: Floats
    channels: tuple[str, ...]
    target_names: tuple[str, ...] = ()
    train_rows: int = 0
    window: int = 0
    horizon: int = 0
    times: tuple[str, ...] = ()
    id: str = ""
    series_column: str | None = None
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, eq=False)
class Windows(Items):
    """Windows of long series: the i-th predicts rows of ``series[which[i]]`` from ``starts[i]`` on.

    Its input is the rows before ``starts[i]``. Nothing is copied: windows overlap. ``notices`` are
    for the reader of these windows.
    """

    series: tuple[LongSeries, ...]
    which: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    notices: tuple[Notice, ...] = ()

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def gather(cls, parts: Sequence[Windows], where: Indices) -> Windows:
        """As `Items.gather`; a series that several parts share is stored once."""
        series: dict[int, tuple[int, LongSeries]] = {}  # by identity
        which = []
        for part in parts:
            for one in part.series:
                series.setdefault(id(one), (len(series), one))
            code = [series[id(one)][0] for one in part.series]
            which.append(np.array(code, dtype=np.int64)[part.which])
        starts = np.concatenate([part.starts for part in parts])
        notices = tuple(dict.fromkeys(notice for part in parts for notice in part.notices))
        distinct = tuple(one for _, one in series.values())
        return cls(distinct, np.concatenate(which)[where], starts[where], notices)


class ForecastReader(Reader):
    """Windows (n, window, C) of the scaled series, and targets (n, horizon, R).

    Targets are in the data's units, or where each series has a scale of its own, in that scale. A series
    that training did not see is then scaled by its rows before the first predicted one.
    """

    def __init__(self, samples: Samples, task: TaskSpec) -> None:
        super().__init__(samples)
        assert isinstance(task.input, SeriesInput)
        assert isinstance(samples.items, Windows)
        self._windows, self._task, self._length = samples.items, task, task.input.length
        self._unreadable = self._windows.starts < self._length
        if len(self._windows) and self._unreadable.all():
            raise DlcliError(f"the data has shorter windows than the {self._length} steps of the model")
        for index in np.flatnonzero(self._unreadable).tolist():
            rows = int(self._windows.starts[index])
            self.bad[samples.ids[index]] = f"only {rows} rows before it; the input is {self._length}"
        self.notices += self._windows.notices
        names = [target.name for target in task.targets]
        self._scaled, self._targets, scales = [], [], []
        firsts = self._first_starts()
        known = {one.id: (np.array(one.mean), np.array(one.std)) for one in task.input.series}
        unseen = []
        for number, series in enumerate(self._windows.series):
            order = channel_indices(task.input.channels, series.channels, "the model reads it")
            targets = channel_indices(names, series.channels, "the model predicts it")
            values, target_values = series.values[:, order], series.target_values[:, targets]
            if task.input.series_column is not None and series.id not in known and number in firsts:
                unseen.append(series.id)
            if task.input.scaled_by_series:
                mean, std = known.get(series.id) or _own_scale(values[: firsts.get(number, 0)])
                own = np.stack([mean, std])[:, [task.input.channels.index(name) for name in names]]
                values, target_values = (values - mean) / std, (target_values - own[0]) / own[1]
                scales.append(own)
            mean, std = np.array(task.input.mean), np.array(task.input.std)
            with np.errstate(over="ignore"):
                scaled = ((values - mean) / std).astype(np.float32)
            if number in firsts and not np.isfinite(scaled).all():
                raise DlcliError("a scaled value overflows float32")
            self._scaled.append(scaled)
            self._targets.append(target_values)
        self._scales = np.stack(scales, axis=1) if scales else None  # (2, series, R)
        if unseen:
            self.notices.append(_unseen_notice(unseen, own=task.input.scaled_by_series))

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """Return (values (n, window, C),), float32."""
        readable = indices[~self._unreadable[indices]]
        channels = self._scaled[0].shape[1]
        out = np.empty((len(readable), self._length, channels), dtype=np.float32)
        for series, rows, starts in self._by_series(readable):
            out[rows] = self._scaled[series][starts[:, None] + np.arange(-self._length, 0)]
        return (out,), readable

    def targets(self, indices: Indices) -> Targets:
        """Return the rows to predict (n, horizon, R), float64."""
        horizon = self._task.horizon
        out = np.empty((len(indices), horizon, len(self._task.targets)))
        for series, rows, starts in self._by_series(indices):
            out[rows] = self._targets[series][starts[:, None] + np.arange(horizon)]
        return out

    def series(self, indices: Indices) -> SeriesRows | None:
        """As `Reader.series`; None where the data is one series."""
        series = self._windows.series
        if not any(one.id for one in series):
            return None
        codes = self._windows.which[indices]
        shape = (len(indices), len(self._task.targets))
        mean, std = np.zeros(shape), np.ones(shape)
        if self._scales is not None:
            mean, std = self._scales[:, codes]
        return SeriesRows(tuple(one.id for one in series), codes, mean, std)

    def row_keys(self, index: int) -> list[dict[str, str]]:
        """The time of each step that sample ``index`` predicts, and its series where it has an id."""
        number, start = int(self._windows.which[index]), int(self._windows.starts[index])
        series = self._windows.series[number]
        named = {"series": series.id} if series.series_column is not None else {}
        return [{**named, "time": time} for time in series.times[start : start + self._task.horizon]]

    def array(self) -> Inputs | None:
        """Return all windows where they and their targets take at most 512 MiB, else None."""
        inputs = 4 * self._length * self._scaled[0].shape[1]
        targets = 8 * self._task.horizon * len(self._task.targets)
        if len(self) * (inputs + targets) > _MAX_ARRAY_BYTES or self._unreadable.any():
            return None
        return self.read(np.arange(len(self), dtype=np.int64))[0]

    def _first_starts(self) -> dict[int, int]:
        """Return the first predicted row of each series that has a window."""
        firsts = np.full(len(self._windows.series), np.iinfo(np.int64).max)
        np.minimum.at(firsts, self._windows.which, self._windows.starts)
        return {int(one): int(firsts[one]) for one in np.unique(self._windows.which)}

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


def _own_scale(values: Floats) -> tuple[Floats, Floats]:
    """Return mean and std (C,) of the rows (T, C) of a series; 1 for the std of a constant."""
    mean, std, _ = channel_statistics([values], values.shape[1])
    return mean, std


def _unseen_notice(names: Sequence[str], *, own: bool) -> Notice:
    """Return the notice about series that training did not see."""
    how = "each is scaled by its rows before the first forecast" if own else "scaled like the others"
    message = f"{len(names):,} series that training did not see, {quoted_list(names)}: {how}"
    return Notice(message, "unseen-series")
