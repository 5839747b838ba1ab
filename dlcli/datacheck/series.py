"""Series: lengths, channels, missing values; for a forecast the time, its step, flat stretches.

Legend: N series of a split, T steps, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlcli.data.base import DataSource, Listed, Samples, Stacked
from dlcli.data.series.long_tables import as_times, read_table
from dlcli.data.series.windows import LongSeries, Windows
from dlcli.data.tables.frames import TABLES, read_frame, split_files
from dlcli.datacheck.base import (
    CHECKS,
    Cell,
    CheckOptions,
    Histogram,
    Panels,
    Part,
    Table,
    counted,
    reader_notices,
    spread,
)
from dlcli.task import TaskSpec

_MOST_PANELS, _MOST_LINES = 8, 6
# Steps that hold one value: longer than a horizon or so, and than this share of all, is no measurement.
_STUCK, _STUCK_SHARE = 24, 0.005
_COLUMNS = ("channel", "missing", "min", "median", "max", "mean", "std")

Floats = npt.NDArray[np.float64]


def check_series(source: DataSource, task: TaskSpec | None, options: CheckOptions) -> Part:
    """The check of the kind "series"."""
    part = Part(noun="series")
    if source.task == "forecast":
        part.noun = "window"
        _forecast(source, task, options, part)
    else:
        _whole(source, task, part)
    return part


def _whole(source: DataSource, task: TaskSpec | None, part: Part) -> None:
    """Many series with a target each."""
    series = {split: _values(samples) for split, samples in source.splits.items()}
    sizes = {split: np.array([len(one) for one in some]) for split, some in series.items()}
    every = np.concatenate(list(sizes.values()))
    channels = series["train"][0].shape[1]
    part.facts["channels"] = f"{channels:,}"
    part.facts["length"] = f"{every[0]:,} steps" if np.ptp(every) == 0 else f"{spread(every)} steps"
    if np.ptp(every):
        part.charts.append(Histogram("lengths", "lengths of series", "steps", sizes))
    joined = np.concatenate([one.astype(np.float64) for some in series.values() for one in some])
    part.tables.append(_channel_table(joined, [str(c) for c in range(channels)]))
    for split, some in series.items():
        ids = source.splits[split].ids
        part.contents[split] = [
            hashlib.blake2b(np.ascontiguousarray(one).tobytes(), digest_size=16).digest() for one in some
        ]
        blank = [ids[i] for i, one in enumerate(some) if not np.isfinite(one).any()]
        if blank:
            message = f"{split}: {len(blank):,} of {len(some):,} series have no value at all"
            part.find("error", "unreadable", message, examples=blank, hint="take them out")
        flat = [ids[i] for i, one in enumerate(some) if _is_flat(one)]
        if flat:
            message = f"{split}: {len(flat):,} of {len(some):,} series hold one value from end to end"
            part.find("warning", "flat", message, examples=flat, hint="was nothing measured?")
    if task is not None:
        part.notices += reader_notices(source, task)
    if source.task == "classification":
        part.charts.append(_class_means(source, series["train"]))


def _forecast(source: DataSource, task: TaskSpec | None, options: CheckOptions, part: Part) -> None:
    """One long series."""
    items = source.splits["train"].items
    assert isinstance(items, Windows)
    (series,) = items.series
    observed, times, step = _observed(source, series, options)
    steps = len(observed)
    part.facts["rows"] = f"{steps:,}"
    part.facts["channels"] = f"{len(series.channels):,}"
    if times:
        part.facts["time"] = f"{times[0]} to {times[-1]}" + (f", a step is {step}" if step else "")
    part.facts["window"] = f"{series.window} steps are seen, {series.horizon} predicted"
    table = _channel_table(observed, series.channels)
    flat = [_longest_flat(observed[:, c]) for c in range(observed.shape[1])]
    rows = tuple((*row[:2], length, *row[2:]) for row, (length, _) in zip(table.rows, flat, strict=True))
    part.tables.append(
        Table("channels", table.title, (*_COLUMNS[:2], "longest flat", *_COLUMNS[2:]), rows)
    )
    stuck = [
        f"{name}: {length:,} steps from {times[at] if times else f'row {at}'}"
        for name, (length, at) in zip(series.channels, flat, strict=True)
        if length > max(_STUCK, _STUCK_SHARE * steps)
    ]
    if stuck:
        message = f"{counted(len(stuck), 'channel')} with one value for a long stretch"
        part.find("note", "flat-stretch", message, examples=stuck, hint="a sensor that was stuck?")
    marks = {}
    for split, samples in source.splits.items():
        assert isinstance(samples.items, Windows)
        marks[int(samples.items.starts.min())] = split
    # Inputs of the first split reach back to the beginning.
    marks = {(0 if at == min(marks) else at): split for at, split in marks.items()}
    part.charts.append(
        Panels(
            "series", source.name, "step",
            {name: {"": observed[:, c]} for c, name in enumerate(series.channels[:_MOST_PANELS])},
            marks,
        )
    )  # fmt: skip


def _observed(
    source: DataSource, series: LongSeries, options: CheckOptions
) -> tuple[Floats, list[str], str | None]:
    """(T, C) with NaN where values are missing, the times of the rows, and the usual step in words.

    The source has its gaps filled already, so the files are read once more.
    """
    files = split_files(Path(source.origin), TABLES)
    if files is None:
        return series.values, [], None
    parts: list[Floats] = []
    times: list[str] = []
    step = None
    for file in files.values():
        frame, _ = read_frame(file)
        table = read_table(frame, options.config.data, file, channels=series.channels)
        parts.append(table.values)
        times += table.times[:-1] if table.time is not None else ()
        clock = as_times(frame[table.time]) if table.time is not None else None
        if step is None and clock is not None and len(clock) > 1:
            step = str(clock.diff().drop_nulls().median())
    return np.concatenate(parts), times, step


def _values(samples: Samples) -> Sequence[npt.NDArray[np.floating]]:
    items = samples.items
    assert isinstance(items, Stacked | Listed)
    return list(items.values)


def _is_flat(values: npt.NDArray[np.floating]) -> bool:
    """Whether every channel of (T, C) holds one value, not counting what is missing."""
    there = np.isfinite(values)
    low = np.where(there, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(there, values, -np.inf).max(axis=0, initial=-np.inf)
    return bool(there.any() and (low >= high).all())


def _channel_table(values: Floats, names: Sequence[str]) -> Table:
    """Figures of each channel of (T, C)."""
    rows: list[tuple[Cell, ...]] = []
    for c, name in enumerate(names):
        there = values[:, c][np.isfinite(values[:, c])]
        figures: tuple[Cell, ...] = (None,) * 5
        if len(there):
            found = (there.min(), np.median(there), there.max(), there.mean(), there.std())
            figures = tuple(float(figure) for figure in found)
        rows.append((name, len(values) - len(there), *figures))
    return Table("channels", counted(len(names), "channel"), _COLUMNS, tuple(rows))


def _longest_flat(values: Floats) -> tuple[int, int]:
    """The longest run (T,) of one value, and where it begins; runs of 0 are not counted.

    Nothing is often measured for long: no rain, no sun, no sales.
    """
    change = np.flatnonzero(np.diff(values) != 0) + 1
    starts = np.concatenate([[0], change])
    sizes = np.diff(np.concatenate([starts, [len(values)]]))
    sizes = np.where(values[starts] == 0, 0, sizes)
    longest = int(sizes.argmax())
    return int(sizes[longest]), int(starts[longest])


def _class_means(source: DataSource, train: Sequence[npt.NDArray[np.floating]]) -> Panels:
    """The mean series of each class in training, a panel a channel."""
    targets = source.splits["train"].targets
    length = max(len(one) for one in train)
    panels: dict[str, dict[str, npt.NDArray[np.floating]]] = {}
    for c in range(min(train[0].shape[1], _MOST_PANELS // 2)):
        lines = {}
        for k, name in enumerate(source.class_names[:_MOST_LINES]):
            total, count = np.zeros(length), np.zeros(length)
            for i in np.flatnonzero(targets == k).tolist():
                one = train[i][:, c]
                there = np.isfinite(one)
                total[: len(one)] += np.where(there, one, 0)
                count[: len(one)] += there
            lines[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        panels[f"channel {c}"] = lines
    return Panels("class-means", "mean of each class in train", "step", panels)


CHECKS.register("series")(check_series)
