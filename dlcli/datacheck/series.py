"""Series: lengths, channels, missing values; for a forecast time, step and constant stretches.

Legend: N series of a split, T steps, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlcli.data.base import DataSource, Floats, Listed, Samples, Stacked
from dlcli.data.series.long_tables import read_tables
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
    """Check the long series of a table to forecast."""
    items = source.splits["train"].items
    assert isinstance(items, Windows)
    first = items.series[0]
    observed, step = _observed(source, first, options)
    several = first.series_column is not None
    every = np.concatenate([one.values for one in observed])
    result.facts["rows"] = f"{len(every):,}"
    if several:
        lengths = np.array([len(one.values) for one in observed])
        result.facts["series"] = f"{len(observed):,}, of {median_and_range(lengths)} rows"
    result.facts["channels"] = f"{len(first.channels):,}"
    times = sorted((one.clock[end], one.times[end]) for one in observed for end in (0, -1) if one.times)
    if times:
        span = f"{times[0][1]} to {times[-1][1]}"
        result.facts["time"] = span + (f", a step is {step}" if step else "")
    result.facts["window"] = f"{first.window} input steps, {first.horizon} predicted"
    table = _channel_table(every, first.channels)
    longest_runs = [_longest_of(observed, c) for c in range(every.shape[1])]
    rows = tuple(
        (*row[:2], length, *row[2:])
        for row, (length, _, _) in zip(table.rows, longest_runs, strict=True)
    )
    result.tables.append(
        Table("channels", table.title, (*_COLUMNS[:2], "longest flat", *_COLUMNS[2:]), rows)
    )
    stuck = [
        f"{name}{f' of {one.id}' if several else ''}: {length:,} steps from "
        f"{one.times[at] if one.times else f'row {at}'}"
        for name, (length, at, one) in zip(first.channels, longest_runs, strict=True)
        if length > max(_STUCK_STEPS, _STUCK_SHARE * len(one.values))
    ]
    if stuck:
        message = f"{plural(len(stuck), 'channel')} constant for a long stretch"
        result.report("note", "flat-stretch", message, examples=stuck, hint="a sensor that was stuck?")
    lines = {
        name: {one.id: one.values[:, c] for one in observed[:_MAX_LINES]}
        for c, name in enumerate(first.channels[:_MAX_PANELS])
    }
    marks = {} if several else _marks(source)
    result.charts.append(Panels("series", source.name, "step", lines, marks))
    if several and task is not None:
        result.notices += reader_notices(source, task)


def _marks(source: DataSource) -> dict[int, str]:
    """Return the first row of each split."""
    marks = {}
    for split, samples in source.splits.items():
        assert isinstance(samples.items, Windows)
        marks[int(samples.items.starts.min())] = split
    # Inputs of the first split reach back to the beginning.
    return {(0 if at == min(marks) else at): split for at, split in marks.items()}


@dataclass(frozen=True)
class _Observed:
    """A series as it stands in the files: ``values`` (T, C) with NaN where missing, and its times."""

    id: str
    values: Floats
    times: tuple[str, ...]
    clock: Floats


def _observed(
    source: DataSource, series: LongSeries, options: CheckOptions
) -> tuple[list[_Observed], str | None]:
    """Return the series of the files, and the median step as text.

    The source has its gaps filled already, so the files are read again.
    """
    files = split_files(Path(source.origin), TABLE_SUFFIXES)
    if files is None:
        items = source.splits["train"].items
        assert isinstance(items, Windows)
        whole = [_Observed(one.id, one.values, (), np.zeros(0)) for one in items.series]
        return whole, None
    parts: dict[str, list[_Observed]] = {}
    step = None
    config = options.config.data.model_copy(update={"series_column": series.series_column})
    for file in files.values():
        frame, _ = read_frame(file)
        read = read_tables(frame, config, file, channels=series.channels)
        for table in read.tables:
            times = () if read.time is None else table.times[: len(table.values)]
            part = _Observed(table.id, table.values, times, table.clock)
            parts.setdefault(table.id, []).append(part)
        if step is None and read.dated and len(read.tables[0].clock) > 1:
            microseconds = round(float(np.median(np.diff(read.tables[0].clock))))
            step = str(timedelta(microseconds=microseconds))
    return [_joined(of_series) for of_series in parts.values()], step


def _joined(parts: Sequence[_Observed]) -> _Observed:
    """Return the parts of one series, of several files, as one."""
    return _Observed(
        parts[0].id,
        np.concatenate([part.values for part in parts]),
        tuple(time for part in parts for time in part.times),
        np.concatenate([part.clock for part in parts]),
    )


def _longest_of(observed: Sequence[_Observed], channel: int) -> tuple[int, int, _Observed]:
    """Return length, start and series of the longest run of one value in a channel."""
    runs = [(*_longest_run(one.values[:, channel]), one) for one in observed]
    return max(runs, key=lambda run: run[0])


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
