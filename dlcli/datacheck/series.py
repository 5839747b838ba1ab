"""Series: lengths, channels, missing values; for a forecast time, step and constant stretches.

Legend: N series of a split, T steps, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlcli.data.base import DataSource, Floats, Listed, Samples, Stacked
from dlcli.data.series.long_tables import as_times, read_table
from dlcli.data.series.windows import LongSeries, Windows
from dlcli.data.tables.frames import TABLE_SUFFIXES, read_frame
from dlcli.data.tables.split_names import split_files
from dlcli.datacheck.base import (
    CHECKS,
    Cell,
    CheckOptions,
    CheckResult,
    Histogram,
    Panels,
    Table,
    median_and_range,
    reader_notices,
)
from dlcli.task import TaskSpec
from dlcli.wording import plural

_MAX_PANELS, _MAX_LINES = 8, 6
# A run of one value longer than both, in steps and as a share of the series, is reported.
_STUCK_STEPS, _STUCK_SHARE = 24, 0.005
_COLUMNS = ("channel", "missing", "min", "median", "max", "mean", "std")


def check_series(source: DataSource, task: TaskSpec | None, options: CheckOptions) -> CheckResult:
    """The check of the kind "series"."""
    result = CheckResult(noun="series")
    if source.task == "forecast":
        result.noun = "window"
        _check_forecast(source, task, options, result)
    else:
        _check_whole_series(source, task, result)
    return result


def _check_whole_series(source: DataSource, task: TaskSpec | None, result: CheckResult) -> None:
    """Check many series with a target each."""
    series = {split: _values(samples) for split, samples in source.splits.items()}
    lengths = {split: np.array([len(s) for s in of_split]) for split, of_split in series.items()}
    every_length = np.concatenate(list(lengths.values()))
    channels = series["train"][0].shape[1]
    result.facts["channels"] = f"{channels:,}"
    result.facts["length"] = (
        f"{every_length[0]:,} steps"
        if np.ptp(every_length) == 0
        else f"{median_and_range(every_length)} steps"
    )
    if np.ptp(every_length):
        result.charts.append(Histogram("lengths", "lengths of series", "steps", lengths))
    joined = np.concatenate([s.astype(np.float64) for of_split in series.values() for s in of_split])
    result.tables.append(_channel_table(joined, [str(c) for c in range(channels)]))
    for split, of_split in series.items():
        ids = source.splits[split].ids
        result.contents[split] = [
            hashlib.blake2b(np.ascontiguousarray(s).tobytes(), digest_size=16).digest() for s in of_split
        ]
        blank = [ids[i] for i, s in enumerate(of_split) if not np.isfinite(s).any()]
        if blank:
            message = f"{split}: {len(blank):,} of {len(of_split):,} series have no value at all"
            result.report("error", "unreadable", message, examples=blank, hint="remove them")
        flat = [ids[i] for i, s in enumerate(of_split) if _is_constant(s)]
        if flat:
            message = f"{split}: {len(flat):,} of {len(of_split):,} series are constant"
            result.report("warning", "flat", message, examples=flat, hint="was nothing measured?")
    if task is not None:
        result.notices += reader_notices(source, task)
    if source.task == "classification":
        result.charts.append(_class_means(source, series["train"]))


def _check_forecast(
    source: DataSource, task: TaskSpec | None, options: CheckOptions, result: CheckResult
) -> None:
    """Check one long series to forecast."""
    items = source.splits["train"].items
    assert isinstance(items, Windows)
    (series,) = items.series
    observed, times, step = _observed(source, series, options)
    steps = len(observed)
    result.facts["rows"] = f"{steps:,}"
    result.facts["channels"] = f"{len(series.channels):,}"
    if times:
        result.facts["time"] = f"{times[0]} to {times[-1]}" + (f", a step is {step}" if step else "")
    result.facts["window"] = f"{series.window} input steps, {series.horizon} predicted"
    table = _channel_table(observed, series.channels)
    longest_runs = [_longest_run(observed[:, c]) for c in range(observed.shape[1])]
    rows = tuple(
        (*row[:2], length, *row[2:]) for row, (length, _) in zip(table.rows, longest_runs, strict=True)
    )
    result.tables.append(
        Table("channels", table.title, (*_COLUMNS[:2], "longest flat", *_COLUMNS[2:]), rows)
    )
    stuck = [
        f"{name}: {length:,} steps from {times[at] if times else f'row {at}'}"
        for name, (length, at) in zip(series.channels, longest_runs, strict=True)
        if length > max(_STUCK_STEPS, _STUCK_SHARE * steps)
    ]
    if stuck:
        message = f"{plural(len(stuck), 'channel')} constant for a long stretch"
        result.report("note", "flat-stretch", message, examples=stuck, hint="a sensor that was stuck?")
    marks = {}
    for split, samples in source.splits.items():
        assert isinstance(samples.items, Windows)
        marks[int(samples.items.starts.min())] = split
    # Inputs of the first split reach back to the beginning.
    marks = {(0 if at == min(marks) else at): split for at, split in marks.items()}
    result.charts.append(
        Panels(
            "series", source.name, "step",
            {name: {"": observed[:, c]} for c, name in enumerate(series.channels[:_MAX_PANELS])},
            marks,
        )
    )  # fmt: skip


def _observed(
    source: DataSource, series: LongSeries, options: CheckOptions
) -> tuple[Floats, list[str], str | None]:
    """Return (T, C) with NaN where missing, the times of the rows, and the median step as text.

    The source has its gaps filled already, so the files are read again.
    """
    files = split_files(Path(source.origin), TABLE_SUFFIXES)
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


def _is_constant(values: npt.NDArray[np.floating]) -> bool:
    """Whether every channel of (T, C) is constant, ignoring missing values."""
    valid = np.isfinite(values)
    low = np.where(valid, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(valid, values, -np.inf).max(axis=0, initial=-np.inf)
    return bool(valid.any() and (low >= high).all())


def _channel_table(values: Floats, names: Sequence[str]) -> Table:
    """Return the statistics of each channel of (T, C)."""
    rows: list[tuple[Cell, ...]] = []
    for c, name in enumerate(names):
        valid = values[:, c][np.isfinite(values[:, c])]
        statistics: tuple[Cell, ...] = (None,) * 5
        if len(valid):
            computed = (valid.min(), np.median(valid), valid.max(), valid.mean(), valid.std())
            statistics = tuple(float(value) for value in computed)
        rows.append((name, len(values) - len(valid), *statistics))
    return Table("channels", plural(len(names), "channel"), _COLUMNS, tuple(rows))


def _longest_run(values: Floats) -> tuple[int, int]:
    """Return length and start of the longest run of one value in (T,); runs of 0 do not count.

    Zero often lasts long: no rain, no sun, no sales.
    """
    change = np.flatnonzero(np.diff(values) != 0) + 1
    starts = np.concatenate([[0], change])
    sizes = np.diff(np.concatenate([starts, [len(values)]]))
    sizes = np.where(values[starts] == 0, 0, sizes)
    longest = int(sizes.argmax())
    return int(sizes[longest]), int(starts[longest])


def _class_means(source: DataSource, train: Sequence[npt.NDArray[np.floating]]) -> Panels:
    """Plot the mean series of each class in training, one panel for each channel."""
    targets = source.splits["train"].targets
    length = max(map(len, train))
    panels: dict[str, dict[str, npt.NDArray[np.floating]]] = {}
    for c in range(min(train[0].shape[1], _MAX_PANELS // 2)):
        lines = {}
        for k, name in enumerate(source.class_names[:_MAX_LINES]):
            total, count = np.zeros(length), np.zeros(length)
            for i in np.flatnonzero(targets == k).tolist():
                values = train[i][:, c]
                valid = np.isfinite(values)
                total[: len(values)] += np.where(valid, values, 0)
                count[: len(values)] += valid
            lines[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        panels[f"channel {c}"] = lines
    return Panels("class-means", "mean of each class in train", "step", panels)


CHECKS.register("series")(check_series)
