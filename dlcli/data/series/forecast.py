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
from dlcli.data.series.reader import statistics
from dlcli.data.series.time_gaps import carried, without_gaps
from dlcli.data.series.time_splits import Bounds, given_bounds, time_bounds, too_short, window_starts
from dlcli.data.series.windows import LongSeries, Windows, positions
from dlcli.data.tables.frames import TABLES, is_table, read_frame, read_head
from dlcli.data.tables.split_names import split_files
from dlcli.errors import DlcliError, UsageError
from dlcli.task import SeriesInput, TargetNumber, TaskSpec

if TYPE_CHECKING:
    import polars

WINDOW, HORIZON = 96, 24  # steps, where the user says nothing


def is_long(path: Path, config: DataConfig) -> bool:
    """Whether it is a table to forecast: it was said so, or it looks like one."""
    if config.task not in (None, "forecast"):
        return False
    file: Path | None = path
    if not path.is_file():
        try:
            file = next(iter((split_files(path, TABLES) or {}).values()), None)
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
    """The windows of a long table, split by time.

    With ``other``, "all" windows are there too, and alone where the splits do not fit. Raises:
    DlcliError when the table cannot be read, its time goes back, or it is too short; UsageError when
    the settings do not suit it.
    """
    _refuse(path, config)
    files = split_files(path, TABLES)
    if files is None:
        raise DlcliError(f"{path} is no table", hint="a forecast reads " + ", ".join(TABLES[:6]))
    frame, sizes, notices = _joined(files, config)
    table = read_table(frame, config, path)
    window, horizon = config.window or WINDOW, config.horizon or HORIZON
    rows = len(table.values)
    try:
        bounds = given_bounds(sizes, config) if len(sizes) > 1 else time_bounds(rows, config)
        starts = window_starts(bounds, window, horizon, path)
    except DlcliError:
        if not other:
            raise
        bounds, starts = (rows, rows, rows), {}
    if other:
        starts["all"] = np.arange(window, rows - horizon + 1, dtype=np.int64)
        if not len(starts["all"]):
            raise too_short(path, "it", rows, window + horizon)
    table, unused = _without_unknown(table, bounds[0], config, path)
    values, truth, gaps = without_gaps(table.values, bounds, path)
    wanted = _wanted(table, config, path)
    series = LongSeries(
        values=values,
        truth=truth,
        channels=table.channels,
        wanted=wanted,
        train_rows=bounds[0],
        window=window,
        horizon=horizon,
        facts=tuple(_facts(table, bounds, wanted, config, given=len(sizes) > 1)),
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
    if len(sizes) == 1 and config.time_splits is None and not other:
        # In rows: a file that has grown keeps the splits that a model was made on.
        ends = [0, *bounds]
        options |= {"time_splits": [b - a for a, b in zip(ends, bounds, strict=False)]}
    return DataListing(
        splits=splits,
        fingerprint=fingerprint(
            [repr((table.channels, table.times)).encode(), np.ascontiguousarray(table.values).tobytes()]
        ),
        task="forecast",
        target_names=wanted,
        options=options,
        notices=(*notices, *table.notices, *unused, *gaps),
        own_splits=frozenset(starts) if len(sizes) == 1 else frozenset({"val"} - set(sizes)),
    )


def fit_forecast(source: DataSource, config: DataConfig) -> tuple[TaskSpec, list[Notice]]:
    """The scales of channels and targets over the training rows."""
    items = source.splits["train"].items
    assert isinstance(items, Windows)
    (series,) = items.series
    mean, std, constant = statistics([series.values[: series.train_rows]], len(series.channels))
    notices = list(series.facts)
    if constant:
        shown = ", ".join(repr(series.channels[c]) for c in constant[:5])
        notices.append(Notice(f"constant in the training rows, so it is not scaled: {shown}"))
    spec = SeriesInput(
        channels=series.channels,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        length=series.window,
    )
    targets = tuple(
        TargetNumber(name=name, mean=spec.mean[c], std=spec.std[c])
        for name, c in zip(series.wanted, positions(series.wanted, series.channels, "it"), strict=True)
    )
    return TaskSpec(kind="forecast", input=spec, targets=targets, horizon=series.horizon), notices


def forecast_inputs(names: Sequence[str], task: TaskSpec) -> Samples:
    """The last window of each table; the id is the file and the time that comes next.

    Raises: DlcliError when a table lacks a channel or is shorter than the window.
    """
    assert isinstance(task.input, SeriesInput)
    ids, series = [], []
    for name in names:
        path = Path(name)
        if not is_table(path):
            raise DlcliError(f"{name} is no table", hint="a forecast reads " + ", ".join(TABLES[:6]))
        frame, _ = read_frame(path)
        table = read_table(frame, DataConfig(), name, channels=task.input.channels)
        rows = len(table.values)
        if rows < task.input.length:
            raise DlcliError(
                f"{name} has {rows} rows, the model needs the last {task.input.length}",
                hint="give a file that goes further back",
            )
        values = carried(table.values)
        blank = [channel for channel, v in zip(table.channels, values[-1], strict=True) if np.isnan(v)]
        if blank:
            raise DlcliError(f"{name}: {blank[0]!r} has no value")
        series.append(LongSeries(values=values, truth=values, channels=table.channels))
        ids.append(f"{name} {table.times[-1]}")
    starts = np.array([len(one.values) for one in series], dtype=np.int64)
    items = Windows(tuple(series), np.arange(len(series), dtype=np.int64), starts)
    return Samples(ids=tuple(ids), targets=np.zeros(0, dtype=np.int64), items=items)


def _refuse(path: Path, config: DataConfig) -> None:
    if config.task not in (None, "forecast"):
        raise UsageError(
            f"--task {config.task}: {path} is one long series, which is forecast",
            hint="--kind tabular reads its rows as samples",
        )
    for name in ("split_column", "group_column"):
        if getattr(config, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')}: a long series is split by time",
                hint="leave it out; --set data.time_splits=[0.7,0.1,0.2] sets the shares",
            )


def _joined(
    files: dict[str, Path], config: DataConfig
) -> tuple[polars.DataFrame, dict[str, int], list[Notice]]:
    """All rows one after the other, how many each file has, and notices."""
    import polars as pl

    frames, notices = {}, []
    for split, file in files.items():
        frames[split], more = read_frame(file)
        notices += more
    first = next(iter(frames.values()))
    if len(frames) > 1 and config.time_splits is not None:
        raise UsageError("time_splits: the files are splits already", hint="name one file")
    for split, frame in frames.items():
        missing = [name for name in first.columns if name not in frame.columns]
        if missing:
            raise DlcliError(f"{files[split]} has no column {missing[0]!r}, which the others have")
    try:
        joined = pl.concat([f.select(first.columns) for f in frames.values()], how="vertical_relaxed")
    except pl.exceptions.PolarsError as exc:
        raise DlcliError(
            f"{', '.join(file.name for file in files.values())}: columns of one name differ in type"
        ) from exc
    return joined, {split: frame.height for split, frame in frames.items()}, notices


def _without_unknown(
    table: LongTable, train_rows: int, config: DataConfig, path: Path
) -> tuple[LongTable, list[Notice]]:
    """The table without channels that have no value in the training rows, and a notice on them."""
    known = np.isfinite(table.values[:train_rows]).any(axis=0)
    if known.all():
        return table, []
    names = [table.channels[c] for c in np.flatnonzero(~known)]
    if not known.any():
        raise DlcliError(f"{path}: no column has a value in the training rows")
    channels = tuple(name for name in table.channels if name not in names)
    message = f"{path}: left out, because empty in the training rows: {', '.join(map(repr, names[:5]))}"
    return replace(table, values=table.values[:, known], channels=channels), [left_out(message)]


def _wanted(table: LongTable, config: DataConfig, path: Path) -> tuple[str, ...]:
    """The channels to predict, as ``--target`` names them; all without it."""
    if config.target is None:
        return table.channels
    whole = config.target in table.channels  # a name may hold a comma
    names = [config.target] if whole else [name.strip() for name in config.target.split(",")]
    positions(names, table.channels, f"--target, of {path}")
    return tuple(dict.fromkeys(names))


def _facts(
    table: LongTable, bounds: Bounds, wanted: Sequence[str], config: DataConfig, *, given: bool
) -> list[Notice]:
    """Notices for the start of a training run: what was assumed, and the splits."""
    notices = []
    assumed = [
        f"{name} {value}"
        for name, value, setting in (
            ("window", WINDOW, config.window),
            ("horizon", HORIZON, config.horizon),
        )
        if setting is None
    ]
    if assumed:
        flags = " and ".join("--" + part.split()[0] for part in assumed)
        notices.append(Notice(f"{' and '.join(assumed)} steps are assumed; {flags} say otherwise"))
    if all(
        getattr(config, name) is None for name in ("kind", "task", "time_column", "window", "horizon")
    ):
        message = f"read as a series over {table.time!r}; --kind tabular reads its rows as samples"
        notices.append(Notice(message))
    if config.target is None and len(wanted) > 1:
        notices.append(Notice(f"all {len(wanted)} columns are predicted; --target names fewer"))
    ends = zip(("train", "val", "test"), (0, *bounds[:2]), bounds, strict=True)
    parts = [
        f"{split} {end - first:,} rows to {table.times[end - 1]}"
        for split, first, end in ends
        if end > first
    ]
    how = "by the files" if given else "by time, never shuffled"
    message = f"split {how}: {', '.join(parts)}; inputs may reach back over a boundary, targets never do"
    notices.append(Notice(message))
    unused = len(table.values) - bounds[2]
    if unused:
        notices.append(Notice(f"{unused:,} rows after the test split are not used"))
    return notices
