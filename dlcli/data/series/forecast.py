"""Forecasting: the series of a long table, split into train, val and test by time, as windows.

Legend: T rows (steps) of a series, C channels, N windows of a split, n in a batch, R targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import DataSource, Indices, Samples, fingerprint
from dlcli.data.kinds import DataListing
from dlcli.data.notices import Notice, left_out
from dlcli.data.series.default_window import window_and_horizon
from dlcli.data.series.long_tables import LongTables, looks_long, read_tables
from dlcli.data.series.panels import looks_like_panel
from dlcli.data.series.reader import channel_statistics
from dlcli.data.series.time_gaps import fill_missing, missing_notice
from dlcli.data.series.time_splits import (
    SPLITS,
    TimeSplits,
    check_splits,
    split_in_time,
    too_short_error,
    window_starts,
)
from dlcli.data.series.training_notices import TrainingFacts, training_notices
from dlcli.data.series.windows import LongSeries, Windows, channel_indices
from dlcli.data.tables.frames import TABLE_SUFFIXES, is_table, read_frame, read_head
from dlcli.data.tables.split_names import split_files
from dlcli.errors import DlcliError, UsageError
from dlcli.task import SeriesInput, SeriesScale, TargetNumber, TaskSpec
from dlcli.wording import quoted_list

if TYPE_CHECKING:
    import polars

_MAX_WORDS = 5  # columns without numbers in a table that may be several series


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
    settings = (config.window, config.horizon, config.series_column)
    if config.task == "forecast" or any(setting is not None for setting in settings):
        return True
    if config.split_column is not None or config.group_column is not None:
        return False
    head = read_head(file)
    if head is None:
        return False
    return looks_long(head, config) or (_may_be_panel(head) and _is_panel(file, config))


def _may_be_panel(head: polars.DataFrame) -> bool:
    """Return whether the first rows have dates and numbers, and few columns of words or ids besides."""
    import polars as pl

    others = [c for c in head.iter_columns() if not c.dtype.is_numeric() and c.dtype != pl.Boolean]
    return 1 <= len(others) <= _MAX_WORDS and len(others) < head.width


def _is_panel(file: Path, config: DataConfig) -> bool:
    try:
        frame, _ = read_frame(file, header=config.header, formats=config.formats)
    except DlcliError:
        return False
    return looks_like_panel(frame, config)


def read_long(path: Path, config: DataConfig, other: bool) -> DataListing:
    """Read the windows of the series of a long table, split by time.

    With ``other``, there is a split "all" too; it is the only one where the table is too short to
    split. Raises: DlcliError when the table cannot be read, its times are out of order or repeat, or it
    is too short; UsageError when the settings do not apply to it.
    """
    _check_settings(path, config)
    files = split_files(path, TABLE_SUFFIXES)
    if files is None:
        raise DlcliError(
            f"{path} is not a table", hint="a forecast reads " + ", ".join(TABLE_SUFFIXES[:6])
        )
    frame, codes, notices = _concat_files(files, config)
    read = read_tables(frame, config, path, files=codes)
    splits, starts, sizes = _divide(read, list(files), config, path, other=other)
    window, horizon, defaults = sizes
    read, unused = _drop_empty_channels(read, splits, path)
    target_names = _target_names(read, config, path)
    facts = TrainingFacts(read, splits, window, horizon, defaults, target_names, by_files=len(files) > 1)
    series, starts, about_values = _long_series(read, splits, starts, path)
    notes = tuple(training_notices(facts, config))
    series = [
        replace(one, target_names=target_names, window=window, horizon=horizon, notices=notes)
        for one in series
    ]
    options: dict[str, Any] = {"window": window, "horizon": horizon}
    if config.formats:
        options["formats"] = config.formats
    if read.series:
        options |= {"series_column": ",".join(read.series)}
    if len(files) == 1 and config.time_splits is None and not other:
        # In rows, so that a file that has grown keeps the splits that a model was trained on.
        options |= {"time_splits": list(splits.steps)}
    present = [name for name in (*SPLITS, "all") if any(len(own.get(name, ())) for own in starts)]
    return DataListing(
        splits={name: _samples(series, [own.get(name) for own in starts]) for name in present},
        fingerprint=_fingerprint(read),
        task="forecast",
        target_names=target_names,
        options=options,
        notices=(*notices, *read.notices, *unused, *about_values),
        own_splits=frozenset(present) if len(files) == 1 else frozenset({"val"} - set(files)),
    )


def _divide(
    read: LongTables, files: Sequence[str], config: DataConfig, path: Path, *, other: bool
) -> tuple[TimeSplits, list[dict[str, Indices]], tuple[int, int, tuple[str, ...]]]:
    """Return the splits, the starts of the windows of each series by split, and `window_and_horizon`.

    See `read_long` for ``other``. Raises: DlcliError when a split is too short.
    """
    lengths = [len(table.values) for table in read.tables]
    try:
        splits = split_in_time(read.tables, files, config)
        window, horizon, defaults = window_and_horizon(read, splits, config)
        starts = [window_starts(bounds, window, horizon) for bounds in splits.bounds]
        check_splits({name for one in starts for name in one}, splits, window, horizon, path)
    except DlcliError:
        if not other:
            raise
        splits = TimeSplits(tuple((rows, rows, rows) for rows in lengths), (max(lengths), 0, 0))
        window, horizon, defaults = window_and_horizon(read, splits, config)
        starts = [{} for _ in lengths]
    if other:
        for own, rows in zip(starts, lengths, strict=True):
            own["all"] = np.arange(window, rows - horizon + 1, dtype=np.int64)
        if not any(len(own["all"]) for own in starts):
            what = "it" if len(lengths) == 1 else "its longest series"
            raise too_short_error(path, what, max(lengths), window + horizon)
    return splits, starts, (window, horizon, defaults)


def _long_series(
    read: LongTables, splits: TimeSplits, starts: list[dict[str, Indices]], path: Path
) -> tuple[list[LongSeries], list[dict[str, Indices]], list[Notice]]:
    """Return the series with gaps filled, the starts of their windows, and notices.

    Of several, those without a window in any split, or without a value in a channel, are left out.
    """
    several = len(read.tables) > 1
    series, used_starts, short, blank = [], [], [], []
    missing = total = 0
    for table, bounds, own in zip(read.tables, splits.bounds, starts, strict=True):
        if several and not any(map(len, own.values())):
            short.append(table.id)
            continue
        observed = table.values[: bounds[0]] if bounds[0] else table.values
        if several and not np.isfinite(observed).any(axis=0).all():
            blank.append(table.id)
            continue
        values, target_values, count = fill_missing(table.values, bounds)
        missing, total = missing + count, total + table.values.size
        series.append(
            LongSeries(
                values=values,
                target_values=target_values,
                channels=read.channels,
                train_rows=bounds[0],
                times=table.times,
                id=table.id,
                series_column=",".join(read.series) or None,
            )
        )
        used_starts.append(own)
    notices = [missing_notice(missing, total, path)] if missing else []
    for names, why in ((short, "too short for a window"), (blank, "a column without any value")):
        if names:
            what = f"{len(names):,} of {len(read.tables):,} series are left out, {why}"
            notices.append(left_out(f"{path}: {what}: {quoted_list(names)}"))
    if not series:
        raise DlcliError(f"{path}: every series has a column without any value in its training rows")
    return series, used_starts, notices


def _samples(series: Sequence[LongSeries], starts: Sequence[Indices | None]) -> Samples:
    """Return the windows of a split; ids are the series and the time of the first predicted row."""
    ids, which, rows = [], [], []
    for number, (one, own) in enumerate(zip(series, starts, strict=True)):
        if own is not None:
            prefix = f"{one.id} " if one.series_column is not None else ""
            ids += [prefix + one.times[start] for start in own.tolist()]
            which.append(np.full(len(own), number, dtype=np.int64))
            rows.append(own)
    items = Windows(tuple(series), np.concatenate(which), np.concatenate(rows))
    return Samples(ids=tuple(ids), targets=np.zeros((len(ids), 0)), items=items)


def _fingerprint(read: LongTables) -> str:
    parts = []
    for table in read.tables:
        # The rows and the step after: what they were before series had ids.
        times = table.times[: len(table.values) + 1]
        facts = (read.channels, times) if not read.series else (read.channels, times, table.id)
        parts += [repr(facts).encode(), np.ascontiguousarray(table.values).tobytes()]
    return fingerprint(parts)


def fit_forecast(source: DataSource, config: DataConfig) -> tuple[TaskSpec, list[Notice]]:
    """Fit mean and std of channels and targets on the training rows, of each series or of all."""
    items = source.splits["train"].items
    assert isinstance(items, Windows)
    trained = [items.series[number] for number in np.unique(items.which).tolist()]
    first = trained[0]
    rows = [series.values[: series.train_rows] for series in trained]
    channels, count = first.channels, len(first.channels)
    mean, std, constant = channel_statistics(rows, count)
    notices = list(first.notices)
    if constant:
        shown = quoted_list([channels[c] for c in constant])
        notices.append(Notice(f"constant in the training rows, so not scaled: {shown}"))
    each = first.series_column is not None and config.series_scale == "each"
    scales = [SeriesScale(id=series.id) for series in trained if first.series_column is not None]
    if each:
        own = [channel_statistics([part], count)[:2] for part in rows]
        scales = [
            SeriesScale(id=series.id, mean=tuple(one[0].tolist()), std=tuple(one[1].tolist()))
            for series, one in zip(trained, own, strict=True)
        ]
        mean, std = np.zeros(count), np.ones(count)
    if scales:
        notices.append(_scale_notice(len(scales), each=each))
    spec = SeriesInput(
        channels=channels,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        length=first.window,
        series_column=first.series_column,
        series=tuple(scales),
    )
    targets = tuple(
        TargetNumber(name=name, mean=spec.mean[c], std=spec.std[c])
        for name, c in zip(
            first.target_names, channel_indices(first.target_names, channels, "target"), strict=True
        )
    )
    return TaskSpec(kind="forecast", input=spec, targets=targets, horizon=first.horizon), notices


def _scale_notice(count: int, *, each: bool) -> Notice:
    if each:
        how = (
            "each is scaled by its own training rows, so that all count alike; --set "
            "data.series_scale=together scales them by one mean and standard deviation"
        )
    else:
        how = (
            "scaled together, so series of large values count most; --set data.series_scale=each scales "
            "each by its own training rows"
        )
    return Notice(f"{count:,} series in training: {how}")


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
) -> tuple[polars.DataFrame, Indices, list[Notice]]:
    """Concatenate the rows of the files; also return the file of each row, from 0, and notices."""
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
    codes = np.repeat(np.arange(len(frames)), [frame.height for frame in frames.values()])
    return joined, codes.astype(np.int64), notices


def _drop_empty_channels(
    read: LongTables, splits: TimeSplits, path: Path
) -> tuple[LongTables, list[Notice]]:
    """Drop the channels without a value in the training rows; also return a notice about them."""
    has_value = np.zeros(len(read.channels), dtype=bool)
    for table, bounds in zip(read.tables, splits.bounds, strict=True):
        has_value |= np.isfinite(table.values[: bounds[0]]).any(axis=0)
    if has_value.all():
        return read, []
    names = [read.channels[c] for c in np.flatnonzero(~has_value)]
    if not has_value.any():
        raise DlcliError(f"{path}: no column has a value in the training rows")
    channels = tuple(name for name in read.channels if name not in names)
    message = f"{path}: left out, because empty in the training rows: {quoted_list(names)}"
    tables = tuple(replace(table, values=table.values[:, has_value]) for table in read.tables)
    return replace(read, tables=tables, channels=channels), [left_out(message)]


def _target_names(read: LongTables, config: DataConfig, path: Path) -> tuple[str, ...]:
    """Return the channels to predict: those of ``--target``, or all."""
    if config.target is None:
        return read.channels
    whole = config.target in read.channels  # a name may contain a comma
    names = [config.target] if whole else [name.strip() for name in config.target.split(",")]
    channel_indices(names, read.channels, f"--target, of {path}")
    return tuple(dict.fromkeys(names))
