"""Inputs of `predict` for a forecast: the last window of each series of each table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import Samples
from dlcli.data.notices import Notice
from dlcli.data.series.long_tables import LongTable, read_tables
from dlcli.data.series.windows import LongSeries, Windows
from dlcli.data.tables.frames import TABLE_SUFFIXES, is_table, read_frame
from dlcli.errors import DlcliError
from dlcli.task import SeriesInput, TaskSpec
from dlcli.timeline.gaps import forward_fill


def forecast_inputs(names: Sequence[str], task: TaskSpec) -> Samples:
    """Return the last window of each series; its id is the file, the series and the first forecast time.

    Raises: DlcliError when a table lacks a channel, or all its series are shorter than the window.
    """
    assert isinstance(task.input, SeriesInput)
    ids: list[str] = []
    series: list[LongSeries] = []
    notices: list[Notice] = []
    config = DataConfig(series_column=task.input.series_column)
    for name in names:
        path = Path(name)
        if not is_table(path):
            raise DlcliError(
                f"{name} is not a table", hint="a forecast reads " + ", ".join(TABLE_SUFFIXES[:6])
            )
        frame, _ = read_frame(path)
        read = read_tables(frame, config, name, channels=task.input.channels, ahead=task.horizon)
        notices += [notice for notice in read.notices if notice.code == "sorted-time"]
        longest = max(len(table.values) for table in read.tables)
        if longest < task.input.length:
            what = "rows" if not read.series else "rows in its longest series"
            raise DlcliError(
                f"{name} has {longest} {what}, but the input of the model is {task.input.length} rows",
                hint="give a file with more history",
            )
        column = ",".join(read.series) or None
        for table in read.tables:
            one = _history(table, read.channels, column, name)
            label = f"{table.id} " if column is not None else ""
            ids.append(f"{name} {label}{one.times[len(one.values)]}")
            series.append(one)
    starts = np.array([len(one.values) for one in series], dtype=np.int64)
    items = Windows(tuple(series), np.arange(len(series), dtype=np.int64), starts, tuple(notices))
    return Samples(ids=tuple(ids), targets=np.zeros(0, dtype=np.int64), items=items)


def _history(table: LongTable, channels: tuple[str, ...], column: str | None, name: str) -> LongSeries:
    """Return a series with its gaps filled. Raises: DlcliError for a channel without any value."""
    values = forward_fill(table.values)
    empty = [channel for channel, v in zip(channels, values[-1], strict=True) if np.isnan(v)]
    if empty:
        where = f"{name}, series {table.id!r}" if column is not None else name
        raise DlcliError(f"{where}: {empty[0]!r} has no value")
    return LongSeries(
        values=values,
        target_values=values,
        channels=channels,
        times=table.times,
        id=table.id,
        series_column=column,
    )
