"""Forecasting: one long series, split into train, val and test by time, as windows.

Legend: T rows (steps) of the long series, C channels, N windows of a split, n in a batch, R targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import DataSource, Samples, fingerprint
from dlcli.data.kinds import DataListing
from dlcli.data.notices import Notice, left_out
from dlcli.data.series.long_tables import LongTable, looks_long, read_table
from dlcli.data.series.reader import channel_statistics
from dlcli.data.series.time_gaps import fill_missing, forward_fill
from dlcli.data.series.time_splits import (
    Bounds,
    file_bounds,
    time_bounds,
    too_short_error,
    window_starts,
)
from dlcli.data.series.windows import LongSeries, Windows, channel_indices
from dlcli.data.tables.frames import TABLE_SUFFIXES, is_table, read_frame, read_head
from dlcli.data.tables.split_names import split_files
from dlcli.errors import DlcliError, UsageError
from dlcli.task import SeriesInput, TargetNumber, TaskSpec
from dlcli.wording import quoted_list

if TYPE_CHECKING:
    import polars

DEFAULT_WINDOW, DEFAULT_HORIZON = 96, 24  # steps


def is_long(path: Path, config: DataConfig) -> bool:
    """Return whether the settings ask for a forecast of this table, or it looks like a long series."""
    if config.task not in (None, "forecast"):
        return False
    file: Path | None = path
    if not path.is_file():
        try:
            file = next(iter((split_files(path, TABLE_SUFFIXES) or {}).values()), None)
        except DlcliError:
            return False
    if file is None or not is_table(file):
        return False
    if config.task == "forecast" or config.window is not None or config.horizon is not None:
        return True
    if config.split_column is not None or config.group_column is not None:
        return False
    head = read_head(file)
    return head is not None and looks_long(head, config)


def read_long(path: Path, config: DataConfig, other: bool) -> DataListing:
    """Read the windows of a long table, split by time.

    With ``other``, there is a split "all" too; it is the only one where the table is too short to
    split. Raises: DlcliError when the table cannot be read, its time decreases, or it is too short;
    UsageError when the settings do not apply to it.
    """
    _check_settings(path, config)
    files = split_files(path, TABLE_SUFFIXES)
    if files is None:
        raise DlcliError(
            f"{path} is not a table", hint="a forecast reads " + ", ".join(TABLE_SUFFIXES[:6])
        )
    frame, sizes, notices = _concat_files(files, config)
    table = read_table(frame, config, path)
    window, horizon = config.window or DEFAULT_WINDOW, config.horizon or DEFAULT_HORIZON
    rows = len(table.values)
    try:
        bounds = file_bounds(sizes, config) if len(sizes) > 1 else time_bounds(rows, config)
        starts = window_starts(bounds, window, horizon, path)
    except DlcliError:
        if not other:
            raise
        bounds, starts = (rows, rows, rows), {}
    if other:
        starts["all"] = np.arange(window, rows - horizon + 1, dtype=np.int64)
        if not len(starts["all"]):
            raise too_short_error(path, "it", rows, window + horizon)
    table, unused = _drop_empty_channels(table, bounds[0], config, path)
    values, target_values, about_gaps = fill_missing(table.values, bounds, path)
    target_names = _target_names(table, config, path)
    series = LongSeries(
        values=values,
        target_values=target_values,
        channels=table.channels,
        target_names=target_names,
        train_rows=bounds[0],
        window=window,
        horizon=horizon,
        notices=tuple(_training_notices(table, bounds, target_names, config, by_files=len(sizes) > 1)),
    )
    splits = {
        split: Samples(
            ids=tuple(table.times[start] for start in where.tolist()),
            targets=np.zeros((len(where), 0)),
            items=Windows((series,), np.zeros(len(where), dtype=np.int64), where),
        )
        for split, where in starts.items()
    }
    options: dict[str, Any] = {"window": window, "horizon": horizon}
    if config.formats:
        options["formats"] = config.formats
    if len(sizes) == 1 and config.time_splits is None and not other:
        # In rows, so that a file that has grown keeps the splits that a model was trained on.
        ends = [0, *bounds]
        options |= {"time_splits": [b - a for a, b in zip(ends, bounds, strict=False)]}
    return DataListing(
        splits=splits,
        fingerprint=fingerprint(
            [repr((table.channels, table.times)).encode(), np.ascontiguousarray(table.values).tobytes()]
        ),
        task="forecast",
        target_names=target_names,
        options=options,
        notices=(*notices, *table.notices, *unused, *about_gaps),
        own_splits=frozenset(starts) if len(sizes) == 1 else frozenset({"val"} - set(sizes)),
    )


def fit_forecast(source: DataSource, config: DataConfig) -> tuple[TaskSpec, list[Notice]]:
    """Fit mean and std of channels and targets on the training rows."""
    items = source.splits["train"].items
    assert isinstance(items, Windows)
    (series,) = items.series
    mean, std, constant = channel_statistics([series.values[: series.train_rows]], len(series.channels))
    notices = list(series.notices)
    if constant:
        shown = ", ".join(repr(series.channels[c]) for c in constant[:5])
        notices.append(Notice(f"constant in the training rows, so not scaled: {shown}"))
    spec = SeriesInput(
        channels=series.channels,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        length=series.window,
    )
    names = series.target_names
    targets = tuple(
        TargetNumber(name=name, mean=spec.mean[c], std=spec.std[c])
        for name, c in zip(names, channel_indices(names, series.channels, "target"), strict=True)
    )
    return TaskSpec(kind="forecast", input=spec, targets=targets, horizon=series.horizon), notices


def forecast_inputs(names: Sequence[str], task: TaskSpec) -> Samples:
    """Return the last window of each table; its id is the file and the time of the first forecast step.

    Raises: DlcliError when a table lacks a channel or is shorter than the window.
    """
    assert isinstance(task.input, SeriesInput)
    ids, series = [], []
    for name in names:
        path = Path(name)
        if not is_table(path):
            raise DlcliError(
                f"{name} is not a table", hint="a forecast reads " + ", ".join(TABLE_SUFFIXES[:6])
            )
        frame, _ = read_frame(path)
        table = read_table(frame, DataConfig(), name, channels=task.input.channels)
        rows = len(table.values)
        if rows < task.input.length:
            raise DlcliError(
                f"{name} has {rows} rows, but the input of the model is {task.input.length} rows",
                hint="give a file with more history",
            )
        values = forward_fill(table.values)
        empty = [channel for channel, v in zip(table.channels, values[-1], strict=True) if np.isnan(v)]
        if empty:
            raise DlcliError(f"{name}: {empty[0]!r} has no value")
        series.append(LongSeries(values=values, target_values=values, channels=table.channels))
        ids.append(f"{name} {table.times[-1]}")
    starts = np.array([len(one.values) for one in series], dtype=np.int64)
    items = Windows(tuple(series), np.arange(len(series), dtype=np.int64), starts)
    return Samples(ids=tuple(ids), targets=np.zeros(0, dtype=np.int64), items=items)


def _check_settings(path: Path, config: DataConfig) -> None:
    """Raise UsageError for settings that do not apply to a long series."""
    if config.task not in (None, "forecast"):
        raise UsageError(
            f"--task {config.task}: {path} is one long series, for --task forecast",
            hint="--kind tabular reads its rows as samples",
        )
    for name in ("split_column", "group_column"):
        if getattr(config, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')}: a long series is split by time",
                hint="remove it; --set data.time_splits=[0.7,0.1,0.2] sets the fractions",
            )


def _concat_files(
    files: dict[str, Path], config: DataConfig
) -> tuple[polars.DataFrame, dict[str, int], list[Notice]]:
    """Concatenate the rows of the files; also return the row count of each, and notices."""
    import polars as pl

    frames, notices = {}, []
    for split, file in files.items():
        frames[split], more = read_frame(file, header=config.header, formats=config.formats)
        notices += more
    first = next(iter(frames.values()))
    if len(frames) > 1 and config.time_splits is not None:
        raise UsageError("time_splits: the files already are splits", hint="give one file")
    for split, frame in frames.items():
        missing = [name for name in first.columns if name not in frame.columns]
        if missing:
            raise DlcliError(f"{files[split]} has no column {missing[0]!r}, which the others have")
    try:
        joined = pl.concat([f.select(first.columns) for f in frames.values()], how="vertical_relaxed")
    except pl.exceptions.PolarsError as exc:
        raise DlcliError(
            f"{', '.join(file.name for file in files.values())}: the types of a column differ"
        ) from exc
    return joined, {split: frame.height for split, frame in frames.items()}, notices


def _drop_empty_channels(
    table: LongTable, train_rows: int, config: DataConfig, path: Path
) -> tuple[LongTable, list[Notice]]:
    """Drop the channels without a value in the training rows; also return a notice about them."""
    has_value = np.isfinite(table.values[:train_rows]).any(axis=0)
    if has_value.all():
        return table, []
    names = [table.channels[c] for c in np.flatnonzero(~has_value)]
    if not has_value.any():
        raise DlcliError(f"{path}: no column has a value in the training rows")
    channels = tuple(name for name in table.channels if name not in names)
    message = f"{path}: left out, because empty in the training rows: {quoted_list(names)}"
    return replace(table, values=table.values[:, has_value], channels=channels), [left_out(message)]


def _target_names(table: LongTable, config: DataConfig, path: Path) -> tuple[str, ...]:
    """Return the channels to predict: those of ``--target``, or all."""
    if config.target is None:
        return table.channels
    whole = config.target in table.channels  # a name may contain a comma
    names = [config.target] if whole else [name.strip() for name in config.target.split(",")]
    channel_indices(names, table.channels, f"--target, of {path}")
    return tuple(dict.fromkeys(names))


def _training_notices(
    table: LongTable, bounds: Bounds, target_names: Sequence[str], config: DataConfig, *, by_files: bool
) -> list[Notice]:
    """Return notices for the start of a training run: assumed settings, and the splits."""
    notices = []
    defaults = [
        f"{name} {value}"
        for name, value, setting in (
            ("window", DEFAULT_WINDOW, config.window),
            ("horizon", DEFAULT_HORIZON, config.horizon),
        )
        if setting is None
    ]
    if defaults:
        flags = " and ".join("--" + part.split()[0] for part in defaults)
        notices.append(Notice(f"{' and '.join(defaults)} steps (default); {flags} change that"))
    if all(
        getattr(config, name) is None for name in ("kind", "task", "time_column", "window", "horizon")
    ):
        message = f"read as a series over {table.time!r}; --kind tabular reads each row as a sample"
        notices.append(Notice(message))
    if config.target is None and len(target_names) > 1:
        notices.append(Notice(f"all {len(target_names)} columns are predicted; --target selects some"))
    ends = zip(("train", "val", "test"), (0, *bounds[:2]), bounds, strict=True)
    parts = [
        f"{split} {end - first:,} rows to {table.times[end - 1]}"
        for split, first, end in ends
        if end > first
    ]
    how = "by file" if by_files else "by time"
    message = f"split {how}: {', '.join(parts)}; inputs may begin in the split before, targets never do"
    notices.append(Notice(message))
    unused = len(table.values) - bounds[2]
    if unused:
        notices.append(Notice(f"{unused:,} rows after the test split are not used"))
    return notices
