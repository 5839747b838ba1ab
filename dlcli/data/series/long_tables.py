"""Tables over time: the time column, the order of the rows, and the channels.

Legend: T rows, C channels (the numeric columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import Floats
from dlcli.data.notices import Notice, left_out
from dlcli.data.tables.cells import as_numbers
from dlcli.data.tables.frames import need_column
from dlcli.data.tables.unused import has_header_gaps, is_counter
from dlcli.errors import DlcliError
from dlcli.wording import quoted, quoted_list

if TYPE_CHECKING:
    import polars

TIME_NAMES = ("date", "time", "timestamp", "ds", "datetime")
# An inferred time column must increase in this share of its steps; in a numeric one, this share of the
# steps must be equal, because a column named time may hold anything.
_MIN_REGULAR_SHARE = 0.9
_GAP_FACTOR = 1.5  # times the median step
_MONTH_US = 28 * 86_400_000_000
_DAY_OR_MONTH = (("%d/%m/%Y", "%m/%d/%Y"), ("%d-%m-%Y", "%m-%d-%Y"))
_TIME_SUFFIXES = ("", " %H:%M", " %H:%M:%S")


@dataclass(frozen=True)
class LongTable:
    """A long series: ``values`` (T, C) NaN where a value is missing, and the time of each row.

    ``times`` are T + 1 unique strings; the last is the step after the end. ``time`` is the name of the
    time column, None without one.
    """

    values: Floats
    channels: tuple[str, ...]
    times: tuple[str, ...]
    time: str | None
    notices: tuple[Notice, ...]


def time_column(frame: polars.DataFrame, *, guess: bool = False) -> str | None:
    """Return the name of the time column: by its name, or one of increasing dates.

    ``guess``: accept dates whose order of day and month is ambiguous in the first rows.
    """
    import polars as pl

    named = [name for name in frame.columns if name.strip().lower() in TIME_NAMES]
    dated = [c.name for c in frame.iter_columns() if c.dtype in (pl.Date, pl.Datetime, pl.String)]
    for name in dict.fromkeys([*named, *dated]):
        times = as_times(frame[name], guess=guess)
        if times is not None and times.dtype == pl.Datetime:
            if name in named or not bool((np.diff(_as_floats(times)) < 0).any()):
                return name
        elif times is not None and name in named:
            return name
    return None


def looks_long(frame: polars.DataFrame, config: DataConfig) -> bool:
    """Return whether a time column increases over the first rows and all others are numeric."""
    name = config.time_column or time_column(frame, guess=True)
    if name is None or name not in frame.columns or frame.height < 3:
        return False
    others = [c for c in frame.iter_columns() if c.name != name and c.name not in config.drop]
    if not others or not all(_numeric(column) for column in others):
        return False
    times = as_times(frame[name], guess=True)
    if times is None:
        return False
    steps = np.diff(_as_floats(times))
    if bool((steps < 0).any()) or float((steps > 0).mean()) < _MIN_REGULAR_SHARE:
        return False
    _, counts = np.unique(steps, return_counts=True)
    return not times.dtype.is_numeric() or int(counts.max()) >= _MIN_REGULAR_SHARE * len(steps)


def read_table(
    frame: polars.DataFrame, config: DataConfig, path: object, *, channels: Sequence[str] | None = None
) -> LongTable:
    """Read the numeric columns of a table in the order of time; with ``channels``, only those.

    Raises: DlcliError when a time is missing or decreases (naming the row), or no column is numeric.
    """
    name = config.time_column
    if name is not None:
        need_column(frame, name, what="--time-column", path=path)
    else:
        name = time_column(frame)
    notices: list[Notice] = []
    if name is None:
        times = tuple(f"row {row}" for row in range(frame.height + 1))
        message = f"{path} has no time column, so each row is one step; --time-column names one"
        notices.append(Notice(message))
    else:
        times, about_time = _row_names(frame[name], path)
        notices += about_time
    if channels is None:
        columns, unused = _channels(frame, name, config, path)
        notices += unused
    else:
        for channel in channels:
            need_column(frame, channel, what="the model reads it", path=path)
        columns = {channel: as_numbers(frame[channel])[0] for channel in channels}
    values = np.stack([_to_numpy(column) for column in columns.values()], axis=1)
    return LongTable(values, tuple(columns), times, name, tuple(notices))


def as_times(column: polars.Series, *, guess: bool = False) -> polars.Series | None:
    """Return a column as Datetime or numbers; None when it is neither or a cell is not a time.

    An ambiguous order of day and month is resolved as the one in which the times increase.
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
        for suffix in _TIME_SUFFIXES:
            parsed = [column.str.to_datetime(day + suffix, strict=False, time_unit="us") for day in pair]
            complete = [times for times in parsed if not times.null_count()]
            rising = [times for times in complete if not bool((np.diff(_as_floats(times)) < 0).any())]
            if len(rising) == 1 or (rising and guess):
                return rising[0]
    return None


def _row_names(column: polars.Series, path: object) -> tuple[tuple[str, ...], list[Notice]]:
    """Return unique strings for the time of each row and the step after; notices of gaps and repeats."""
    import polars as pl

    missing = column.is_null().arg_true()
    if len(missing):
        raise DlcliError(
            f"{path}: {len(missing)} rows have no {column.name!r}, first row {missing[0]} (from 0)",
            hint="fill them in, or remove those rows",
        )
    times = as_times(column)
    if times is None:
        raise DlcliError(
            f"{path}: {column.name!r} holds {quoted(str(column[0]))}, which is not a time, "
            "or is ambiguous",
            hint="use the format 2024-01-31 or 2024-01-31 23:00:00, or give another --time-column",
        )
    steps = np.diff(_as_floats(times))
    if bool((steps < 0).any()):
        row = int((steps < 0).argmax()) + 1
        before, after = _format_times(times.slice(row - 1, 2))
        raise DlcliError(
            f"{path}: the time decreases at row {row} (from 0): {before} is followed by {after}",
            hint=f"sort the rows by {column.name!r}; keep one of several concatenated series; "
            "--kind tabular reads each row as a sample",
        )
    forward = steps[steps > 0]
    typical = float(np.median(forward)) if len(forward) else 1.0
    names = _format_times(pl.concat([times, _next_time(times, typical)]))
    notices = []
    repeats = int((steps == 0).sum())
    if repeats:
        row = int((steps == 0).argmax()) + 1
        message = f"{path}: {repeats:,} rows have the same time as the row before, first {names[row]}"
        notices.append(Notice(message, "repeated-time", "warning"))
        seen: dict[str, int] = {}
        for i, name in enumerate(names):
            seen[name] = seen.get(name, 0) + 1
            names[i] = name if seen[name] == 1 else f"{name} #{seen[name]}"
    gaps = np.flatnonzero(steps > _GAP_FACTOR * typical)
    if len(gaps):
        largest = int(steps.argmax())
        message = (
            f"{path}: the time has {len(gaps):,} gap{'s' if len(gaps) > 1 else ''}, but each row is "
            f"one step; the largest is {steps[largest] / typical:.4g} steps, after {names[largest]}"
        )
        notices.append(Notice(message, "gapped-time", "warning"))
    return tuple(names), notices


def _next_time(times: polars.Series, typical: float) -> polars.Series:
    """Return the time of the step after the last row."""
    import polars as pl

    last = times.tail(1)
    if not times.dtype.is_numeric() and typical >= _MONTH_US and times.dt.day().n_unique() == 1:
        months = max(1, round(typical / (30.44 / 28 * _MONTH_US)))
        return last.dt.offset_by(f"{months}mo")
    if times.dtype.is_numeric():
        step = typical if times.dtype.is_float() else round(typical)
        return (last + step).cast(times.dtype)
    return (last.dt.epoch("us") + round(typical)).cast(pl.Datetime("us"))


def _format_times(times: polars.Series) -> list[str]:
    """Format times as strings; without the time of day where all are midnight."""
    if times.dtype.is_numeric():
        return [f"{value:.15g}" for value in times.to_list()]
    at = times.dt.epoch("us").to_numpy()
    if not (at % 86_400_000_000).any():
        return times.dt.to_string("%Y-%m-%d").to_list()
    form = "%Y-%m-%d %H:%M:%S" if not (at % 1_000_000).any() else "%Y-%m-%d %H:%M:%S%.6f"
    return times.dt.to_string(form).to_list()


def _as_floats(times: polars.Series) -> Floats:
    """Return times as float64 (T,): microseconds, or numbers unchanged."""
    numbers = times if times.dtype.is_numeric() else times.dt.epoch("us")
    return numbers.to_numpy().astype(np.float64)


def _channels(
    frame: polars.DataFrame, time: str | None, config: DataConfig, path: object
) -> tuple[dict[str, polars.Series], list[Notice]]:
    """Return the numeric columns, and notices about the others."""
    columns: dict[str, polars.Series] = {}
    not_numeric, empty, counters = [], [], []
    unnamed = has_header_gaps(frame.columns)
    for column in frame.iter_columns():
        if column.name == time or column.name in config.drop:
            continue
        if column.null_count() == len(column):
            empty.append(column.name)
        elif not _numeric(column):
            not_numeric.append(column.name)
        elif is_counter(column, unnamed=unnamed) and column.name not in (config.target or "").split(","):
            counters.append(column.name)
        else:
            columns[column.name] = as_numbers(column)[0]
    notices = []
    reasons = ((not_numeric, "not numeric"), (empty, "empty"), (counters, "they number the rows"))
    for names, why in reasons:
        if names:
            notices.append(left_out(f"{path}: left out, because {why}: {quoted_list(names)}"))
    if not columns:
        raise DlcliError(
            f"{path} has no numeric column{f' except {time!r}' if time else ''}",
            hint="a forecast needs one row per time step and one column per variable",
        )
    return columns, notices


def _numeric(column: polars.Series) -> bool:
    import polars as pl

    return column.dtype.is_numeric() or column.dtype == pl.Boolean


def _to_numpy(column: polars.Series) -> Floats:
    """Return float64 (T,), missing and infinite values as NaN."""
    values = column.to_numpy().astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)
