"""A table whose rows are moments: its time column, its order, its channels.

Legend: T rows, C channels (the numeric columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.config import DataConfig
from dlcli.data.notices import Notice, left_out
from dlcli.data.tables.cells import as_numbers, shorten
from dlcli.data.tables.frames import need_column
from dlcli.errors import DlcliError

if TYPE_CHECKING:
    import polars

TIME_NAMES = ("date", "time", "timestamp", "ds", "datetime")
# Of the steps of a time column that nobody named, so many must go forward; of plain numbers, so many
# must be equal: a column called time may be anything.
_REGULAR = 0.9
_GAP = 1.5  # times the usual step
_MONTH_US = 28 * 86_400_000_000
_DAY_OR_MONTH = (("%d/%m/%Y", "%m/%d/%Y"), ("%d-%m-%Y", "%m-%d-%Y"))
_CLOCKS = ("", " %H:%M", " %H:%M:%S")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LongTable:
    """A long series: ``values`` (T, C) with NaN where one is missing, and the name of each row.

    ``times`` has T + 1 different names: the last is of the step after the end. ``time`` is the time
    column, None where rows only count.
    """

    values: Floats
    channels: tuple[str, ...]
    times: tuple[str, ...]
    time: str | None
    notices: tuple[Notice, ...]


def time_column(frame: polars.DataFrame, *, guess: bool = False) -> str | None:
    """The column of the time: by its name, or else one of increasing dates.

    ``guess`` is for a look at a few rows, where day and month may still be open.
    """
    import polars as pl

    named = [name for name in frame.columns if name.strip().lower() in TIME_NAMES]
    dated = [c.name for c in frame.iter_columns() if c.dtype in (pl.Date, pl.Datetime, pl.String)]
    for name in dict.fromkeys([*named, *dated]):
        times = as_times(frame[name], guess=guess)
        if times is not None and times.dtype == pl.Datetime:
            if name in named or not bool((np.diff(_positions(times)) < 0).any()):
                return name
        elif times is not None and name in named:
            return name
    return None


def looks_long(frame: polars.DataFrame, config: DataConfig) -> bool:
    """Whether the first rows are moments one after the other, all other columns being numbers."""
    name = config.time_column or time_column(frame, guess=True)
    if name is None or name not in frame.columns or frame.height < 3:
        return False
    others = [c for c in frame.iter_columns() if c.name != name and c.name not in config.drop]
    if not others or not all(_numeric(column) for column in others):
        return False
    times = as_times(frame[name], guess=True)
    if times is None:
        return False
    steps = np.diff(_positions(times))
    if bool((steps < 0).any()) or float((steps > 0).mean()) < _REGULAR:
        return False
    _, counts = np.unique(steps, return_counts=True)
    return not times.dtype.is_numeric() or int(counts.max()) >= _REGULAR * len(steps)


def read_table(
    frame: polars.DataFrame, config: DataConfig, path: object, *, channels: Sequence[str] | None = None
) -> LongTable:
    """The numeric columns in the order of time; with ``channels``, just those.

    Raises: DlcliError when a time is missing or goes back (naming the row), or no column is numeric.
    """
    name = config.time_column
    if name is not None:
        need_column(frame, name, what="--time-column", path=path)
    else:
        name = time_column(frame)
    notices: list[Notice] = []
    if name is None:
        times = tuple(f"row {row}" for row in range(frame.height + 1))
        message = f"{path} has no time column, so its rows count as steps; --time-column names one"
        notices.append(Notice(message))
    else:
        times, about_time = _clock(frame[name], path)
        notices += about_time
    if channels is None:
        columns, unused = _channels(frame, name, config, path)
        notices += unused
    else:
        for channel in channels:
            need_column(frame, channel, what="the model reads it", path=path)
        columns = {channel: as_numbers(frame[channel])[0] for channel in channels}
    values = np.stack([_array(column) for column in columns.values()], axis=1)
    return LongTable(values, tuple(columns), times, name, tuple(notices))


def as_times(column: polars.Series, *, guess: bool = False) -> polars.Series | None:
    """The column as Datetime or as numbers; None when it is neither, or a cell is no time.

    An order of day and month that the cells leave open is the one that increases.
    """
    import polars as pl

    dtype = column.dtype
    if dtype == pl.Date or dtype == pl.Datetime:
        times = column.cast(pl.Datetime("us"))
        return times.dt.replace_time_zone(None)
    if dtype.is_numeric():
        return column
    if dtype != pl.String or not len(column) or column.null_count():
        return None
    first = str(column[0])
    if not first[:1].isdigit() or len(first) > 32:
        return None
    if bool(column.str.contains(r"^\d{4}-\d{1,2}$").all()):
        return (column + "-1").str.to_datetime("%Y-%m-%d", strict=False, time_unit="us")
    for pair in _DAY_OR_MONTH:
        for clock in _CLOCKS:
            fits = [column.str.to_datetime(day + clock, strict=False, time_unit="us") for day in pair]
            fits = [times for times in fits if not times.null_count()]
            rising = [times for times in fits if not bool((np.diff(_positions(times)) < 0).any())]
            if len(rising) == 1 or (rising and guess):
                return rising[0]
    return None


def _clock(column: polars.Series, path: object) -> tuple[tuple[str, ...], list[Notice]]:
    """The name of each row and of the step after the last, all different; notices on gaps, repeats."""
    import polars as pl

    missing = column.is_null().arg_true()
    if len(missing):
        raise DlcliError(
            f"{path}: {len(missing)} rows have no {column.name!r}, first row {missing[0]} (from 0)",
            hint="fill them in, or leave those rows out",
        )
    times = as_times(column)
    if times is None:
        raise DlcliError(
            f"{path}: {column.name!r} holds {shorten(str(column[0]))!r}, which is no time, or "
            "not clearly one",
            hint="write 2024-01-31 or 2024-01-31 23:00:00, or name another --time-column",
        )
    at = _positions(times)
    steps = np.diff(at)
    if bool((steps < 0).any()):
        row = int((steps < 0).argmax()) + 1
        before, after = _names(times.slice(row - 1, 2))
        raise DlcliError(
            f"{path}: the time goes back at row {row} (from 0): {before} is followed by {after}",
            hint=f"sort the rows by {column.name!r}; of several series below each other keep one; "
            "--kind tabular reads plain rows",
        )
    forward = steps[steps > 0]
    usual = float(np.median(forward)) if len(forward) else 1.0
    names = _names(pl.concat([times, _after(times, usual)]))
    notices = []
    repeats = int((steps == 0).sum())
    if repeats:
        row = int((steps == 0).argmax()) + 1
        message = f"{path}: {repeats:,} rows repeat the time before them, the first is {names[row]}"
        notices.append(Notice(message, "repeated-time", "warning"))
        seen: dict[str, int] = {}
        for i, name in enumerate(names):
            seen[name] = seen.get(name, 0) + 1
            names[i] = name if seen[name] == 1 else f"{name} #{seen[name]}"
    gaps = np.flatnonzero(steps > _GAP * usual)
    if len(gaps):
        largest = int(steps.argmax())
        message = (
            f"{path}: the time has {len(gaps):,} gap{'s' if len(gaps) > 1 else ''}, rows being taken as "
            f"even steps; the largest is {steps[largest] / usual:.4g} steps long, after {names[largest]}"
        )
        notices.append(Notice(message, "gapped-time", "warning"))
    return tuple(names), notices


def _after(times: polars.Series, usual: float) -> polars.Series:
    """The time after the last row."""
    import polars as pl

    last = times.tail(1)
    if not times.dtype.is_numeric() and usual >= _MONTH_US and times.dt.day().n_unique() == 1:
        months = max(1, round(usual / (30.44 / 28 * _MONTH_US)))
        return last.dt.offset_by(f"{months}mo")
    if times.dtype.is_numeric():
        step = usual if times.dtype.is_float() else round(usual)
        return (last + step).cast(times.dtype)
    return (last.dt.epoch("us") + round(usual)).cast(pl.Datetime("us"))


def _names(times: polars.Series) -> list[str]:
    """Times as words: a date alone where every time is midnight."""
    if times.dtype.is_numeric():
        return [f"{value:.15g}" for value in times.to_list()]
    at = times.dt.epoch("us").to_numpy()
    if not (at % 86_400_000_000).any():
        return times.dt.to_string("%Y-%m-%d").to_list()
    form = "%Y-%m-%d %H:%M:%S" if not (at % 1_000_000).any() else "%Y-%m-%d %H:%M:%S%.6f"
    return times.dt.to_string(form).to_list()


def _positions(times: polars.Series) -> Floats:
    """Times as numbers: microseconds, or what they are."""
    numbers = times if times.dtype.is_numeric() else times.dt.epoch("us")
    return numbers.to_numpy().astype(np.float64)


def _channels(
    frame: polars.DataFrame, time: str | None, config: DataConfig, path: object
) -> tuple[dict[str, polars.Series], list[Notice]]:
    """The numeric columns, and notices on the others."""
    columns: dict[str, polars.Series] = {}
    words, empty = [], []
    for column in frame.iter_columns():
        if column.name == time or column.name in config.drop:
            continue
        if column.null_count() == len(column):
            empty.append(column.name)
        elif not _numeric(column):
            words.append(column.name)
        else:
            columns[column.name] = as_numbers(column)[0]
    notices = []
    for names, why in ((words, "no numbers"), (empty, "empty")):
        if names:
            shown = ", ".join(map(repr, names[:5])) + (" ..." if len(names) > 5 else "")
            notices.append(left_out(f"{path}: left out, because {why}: {shown}"))
    if not columns:
        raise DlcliError(
            f"{path} has no column of numbers{f' besides {time!r}' if time else ''}",
            hint="a forecast needs a row a moment and a column a measurement",
        )
    return columns, notices


def _numeric(column: polars.Series) -> bool:
    import polars as pl

    return column.dtype.is_numeric() or column.dtype == pl.Boolean


def _array(column: polars.Series) -> Floats:
    """float64 (T,), what is missing or infinite as NaN."""
    values = column.to_numpy().astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)
