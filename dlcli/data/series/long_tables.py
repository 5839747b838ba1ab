"""Tables over time: the order of the rows, the channels, and the series that they are of.

Legend: T rows of a series, C channels (the numeric columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import Floats, Indices
from dlcli.data.notices import Notice, left_out
from dlcli.data.series.panels import MAX_REPEATS, is_numeric, rows_by_series, series_columns
from dlcli.data.tables.cells import as_numbers
from dlcli.data.tables.frames import need_column, need_columns
from dlcli.data.tables.unused import has_header_gaps, is_counter
from dlcli.errors import DlcliError
from dlcli.timeline.times import (
    as_floats,
    as_times,
    disorder,
    following,
    format_times,
    time_column,
    typical_step,
)
from dlcli.wording import quoted, quoted_list

if TYPE_CHECKING:
    import polars

# An inferred time column must go one way in this share of its steps; in a numeric one, this share of the
# steps must be equal, because a column named time may hold anything.
_MIN_REGULAR_SHARE = 0.9
_GAP_FACTOR = 1.5  # times the median step


@dataclass(frozen=True)
class LongTable:
    """One series of a table: ``values`` (T, C), NaN where missing, in the order of time.

    ``times`` are unique strings, of the rows and of the steps after the end; ``clock`` (T,) are the
    times as numbers; ``files`` (T,) are the files that the rows come from. ``id`` is "" unless the
    table has several series.
    """

    values: Floats
    times: tuple[str, ...]
    clock: Floats
    files: Indices
    id: str = ""


@dataclass(frozen=True)
class LongTables:
    """The series of a table, which have the same channels.

    ``time`` is the name of the time column, None without one; ``dated``: whether clocks are in
    microseconds. ``series`` are the columns that tell the series apart, () where there is one.
    """

    tables: tuple[LongTable, ...]
    channels: tuple[str, ...]
    time: str | None
    dated: bool
    series: tuple[str, ...]
    notices: tuple[Notice, ...]


def looks_long(frame: polars.DataFrame, config: DataConfig) -> bool:
    """Return whether a time column rises or falls over the first rows and all others are numeric."""
    name = config.time_column or time_column(frame, guess=True, drop=config.drop)
    if name is None or name not in frame.columns or frame.height < 3:
        return False
    others = [c for c in frame.iter_columns() if c.name != name and c.name not in config.drop]
    if not others or not all(is_numeric(column) for column in others):
        return False
    times = as_times(frame[name], guess=True)
    if times is None:
        return False
    steps = np.diff(as_floats(times))
    if disorder(as_floats(times)) or float((steps != 0).mean()) < _MIN_REGULAR_SHARE:
        return False
    _, counts = np.unique(steps, return_counts=True)
    return not times.dtype.is_numeric() or int(counts.max()) >= _MIN_REGULAR_SHARE * len(steps)


def read_tables(
    frame: polars.DataFrame,
    config: DataConfig,
    path: object,
    *,
    channels: Sequence[str] | None = None,
    ahead: int = 1,
    files: Indices | None = None,
) -> LongTables:
    """Read the numeric columns of a table, or only ``channels``, by series and in the order of time.

    ``ahead`` is the number of steps after the end whose times are returned; ``files`` (rows,) are the
    files that the rows come from, in their order in time.

    Raises: DlcliError when a time is missing, the rows cannot be brought into the order of time, or no
    column is numeric.
    """
    name = config.time_column
    if name is not None:
        need_column(frame, name, what="--time-column", path=path)
    else:
        name = time_column(frame, ordered=False, drop=(*config.drop, *(channels or ())))
    notices: list[Notice] = []
    times = None
    if name is None:
        message = f"{path} has no time column, so each row is one step; --time-column names one"
        notices.append(Notice(message))
    else:
        times = _parse(frame[name], path)
    files = np.zeros(frame.height, dtype=np.int64) if files is None else files
    series = series_columns(frame, name, config, path, files)
    if channels is None:
        columns, unused = _channels(frame, (name, *series), config, path)
        notices += unused
    else:
        need_columns(frame, channels, what="the model reads it", path=path)
        columns = {channel: as_numbers(frame[channel])[0] for channel in channels}
    values = np.stack([_to_numpy(column) for column in columns.values()], axis=1)
    groups = list(rows_by_series(frame, series)) if series else [("", np.arange(frame.height))]
    if times is None or name is None:
        tables = [_without_time(id_, values, rows, files, ahead) for id_, rows in groups]
    else:
        groups, about_order = _in_order(groups, as_floats(times), files, frame[name], config, path)
        notices += about_order
        tables = _with_times(groups, times, values, files, ahead)
        notices += _irregular(tables, path)
    dated = times is not None and not times.dtype.is_numeric()
    return LongTables(tuple(tables), tuple(columns), name, dated, series, tuple(notices))


def _parse(column: polars.Series, path: object) -> polars.Series:
    """Return the times of a column. Raises: DlcliError for a missing cell, or one that is no time."""
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
    return times


def _in_order(
    groups: list[tuple[str, Indices]],
    clock: Floats,
    files: Indices,
    column: polars.Series,
    config: DataConfig,
    path: object,
) -> tuple[list[tuple[str, Indices]], list[Notice]]:
    """Sort the rows of each series in time, where they are not; also return a notice about it.

    Numbers are sorted where they only fall, or where ``--time-column`` names them: a column that is only
    called time may hold anything. Raises: DlcliError for rows that stay out of order.
    """
    ordered, falling, mixed = [], 0, 0
    first = -1
    for id_, rows in groups:
        back = np.diff(clock[rows]) < 0
        if back.any():
            falls = not disorder(clock[rows])
            falling, mixed = falling + falls, mixed + (not falls)
            row = int(back.argmax()) + 1
            if not falls:
                first = int(rows[row]) if first < 0 else first
                if column.dtype.is_numeric() and config.time_column is None:
                    raise _unordered(column, rows, row, path)
            rows = rows[np.lexsort((clock[rows], files[rows]))]
            back = np.diff(clock[rows]) < 0
            if back.any():  # a file begins before the one of the split before has ended
                raise _unordered(column, rows, int(back.argmax()) + 1, path)
        ordered.append((id_, rows))
    notices = []
    if falling and not mixed:
        message = f"{path}: the rows are newest first; they are read in the order of {column.name!r}"
        notices.append(Notice(message, "sorted-time"))
    elif mixed:
        where = "" if len(groups) == 1 else f" of {mixed} of {len(groups)} series"
        message = (
            f"{path}: the rows{where} are not in the order of time (the time decreases at row {first}, "
            f"from 0); they are sorted by {column.name!r}"
        )
        notices.append(Notice(message, "sorted-time", "warning"))
    return ordered, notices


def _unordered(column: polars.Series, rows: Indices, row: int, path: object) -> DlcliError:
    """Return the error for times that decrease at ``row`` of ``rows``."""
    before, after = column[int(rows[row - 1])], column[int(rows[row])]
    return DlcliError(
        f"{path}: the time decreases at row {row} (from 0): {before} is followed by {after}",
        hint=f"sort the rows by {column.name!r}, or name the column to sort by with --time-column; "
        "--series-column names the column of several series; --kind tabular reads each row as a sample",
    )


def _with_times(
    groups: Sequence[tuple[str, Indices]],
    times: polars.Series,
    values: Floats,
    files: Indices,
    ahead: int,
) -> list[LongTable]:
    """Return the series, with their times formatted alike."""
    import polars as pl

    clock = as_floats(times)
    # Of a series of one row the step is that of the others.
    usual = float(np.median([typical_step(clock[rows]) for _, rows in groups if len(rows) > 1] or [1.0]))
    parts = []
    for _, rows in groups:
        own = times[rows]
        parts += [own, following(own, ahead, typical_step(clock[rows], usual))]
    names = format_times(pl.concat(parts))
    tables, start = [], 0
    for id_, rows in groups:
        end = start + len(rows) + ahead
        own_names = _unique(names[start:end])
        tables.append(LongTable(values[rows], own_names, clock[rows], files[rows], id_))
        start = end
    return tables


def _without_time(id_: str, values: Floats, rows: Indices, files: Indices, ahead: int) -> LongTable:
    names = tuple(f"row {row}" for row in range(len(rows) + ahead))
    return LongTable(values[rows], names, np.arange(len(rows), dtype=np.float64), files[rows], id_)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Number the repetitions of a name."""
    if len(set(names)) == len(names):
        return tuple(names)
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return tuple(out)


def _irregular(tables: Sequence[LongTable], path: object) -> list[Notice]:
    """Return notices of repeated times and of gaps. Raises: DlcliError when a series repeats many."""
    repeats, repeated, gaps, gapped = 0, "", 0, 0
    largest, after = 0.0, ""
    for table in tables:
        steps = np.diff(table.clock)
        own = int((steps == 0).sum())
        label = f" of {quoted(table.id)}" if len(tables) > 1 else ""
        if own and not repeats:
            repeated = table.times[int((steps == 0).argmax())] + label
        if own > MAX_REPEATS * len(table.values) and len(tables) > 1:
            raise DlcliError(
                f"{path}: {own:,} rows{label} have the same time as the row before, first {repeated}",
                hint="--series-column A,B names several columns that together tell the series apart",
            )
        repeats += own
        longer = steps > _GAP_FACTOR * typical_step(table.clock)
        gaps, gapped = gaps + int(longer.sum()), gapped + bool(longer.any())
        if longer.any() and float(steps.max()) / typical_step(table.clock) > largest:
            largest = float(steps.max()) / typical_step(table.clock)
            after = table.times[int(steps.argmax())] + label
    notices = []
    if repeats:
        message = f"{path}: {repeats:,} rows have the same time as the row before, first {repeated}"
        notices.append(Notice(message, "repeated-time", "warning"))
    if gaps:
        where = f" in {gapped:,} of {len(tables):,} series" if len(tables) > 1 else ""
        message = (
            f"{path}: the time has {gaps:,} gap{'s' if gaps > 1 else ''}{where}, but each row is "
            f"one step; the largest is {largest:.4g} steps, after {after}"
        )
        notices.append(Notice(message, "gapped-time", "warning"))
    return notices


def _channels(
    frame: polars.DataFrame, others: Sequence[str | None], config: DataConfig, path: object
) -> tuple[dict[str, polars.Series], list[Notice]]:
    """Return the numeric columns besides ``others``, and notices about the rest."""
    columns: dict[str, polars.Series] = {}
    not_numeric, empty, counters = [], [], []
    unnamed = has_header_gaps(frame.columns)
    for column in frame.iter_columns():
        if column.name in others or column.name in config.drop:
            continue
        if column.null_count() == len(column):
            empty.append(column.name)
        elif not is_numeric(column):
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
        used = [name for name in others if name is not None]
        raise DlcliError(
            f"{path} has no numeric column{f' except {quoted_list(used)}' if used else ''}",
            hint="a forecast needs one row per time step and one column per variable",
        )
    return columns, notices


def _to_numpy(column: polars.Series) -> Floats:
    """Return float64 (T,), missing and infinite values as NaN."""
    values = column.to_numpy().astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)
