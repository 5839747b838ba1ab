"""Several series in one long table: the columns that tell them apart, and the rows of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import Floats, Indices
from dlcli.data.tables.cells import as_strings
from dlcli.data.tables.frames import need_column
from dlcli.errors import DlcliError, UsageError
from dlcli.timeline.times import as_floats, as_times, time_column
from dlcli.wording import quoted_list

if TYPE_CHECKING:
    import polars

# Up to this share of the rows may repeat a time: an hour comes twice when summer time ends.
MAX_REPEATS = 0.05
_MIN_ROWS = 3  # of a series, on average
_MAX_COLUMNS = 4  # of words, whose combinations are tried
# What only looks like several series, unless the settings say that it is: each has this many rows on
# average, and its most common step is this share of the steps.
_MIN_RECOGNISED_ROWS, _MIN_REGULAR_SHARE = 10, 0.5
_TARGET_NAMES = ("target", "label", "class", "labels", "y")
# Columns of whole numbers with such names tell series apart as words do.
_ID_NAME = re.compile(
    r"(.*[_ .])?(id|key|code)|(store|shop|item|product|sku|series|sensor|station|unit|device|machine|"
    r"location|site|ticker|symbol|country|region)([_ ]?(id|no|nr|number))?",
    re.IGNORECASE,
)


def names_of(text: str, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that ``--series-column`` names; a name may contain a comma."""
    if text in columns:
        return (text,)
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def series_columns(
    frame: polars.DataFrame, time: str | None, config: DataConfig, path: object, files: Indices
) -> tuple[str, ...]:
    """Return the columns that tell several series apart, () for a table of one.

    Rows of different ``files`` (rows,) do not repeat a time: the order of time is checked elsewhere.

    Raises: DlcliError when the times repeat and no column explains it, or a named one is missing;
    UsageError when the time column or a target is named.
    """
    if config.series_column is not None:
        names = names_of(config.series_column, frame.columns)
        for name in names:
            need_column(frame, name, what="--series-column", path=path)
            if name == time:
                raise UsageError(f"--series-column {name}: it is the time column", hint="name another")
        return names
    if time is None or not times_repeat(frame[time], files):
        return ()
    columns = find_series_columns(frame, time, config)
    if columns is not None:
        return columns
    first = frame[time].is_duplicated().arg_true()[0]
    words = [column.name for column in _candidates(frame, time, config)]
    shown = f"; {quoted_list(words)} {'do' if len(words) > 1 else 'does'} not tell them" if words else ""
    raise DlcliError(
        f"{path}: several rows have the time {frame[time][first]}, and no column of words tells series "
        f"apart{shown}",
        hint="--series-column NAME names the column, or columns, of the series; --set "
        f"'data.drop=[{time}]' takes each row as one step; --kind tabular reads each row as a sample",
    )


def times_repeat(column: polars.Series, files: Indices | None = None) -> bool:
    """Return whether so many rows share a time, in one file, that they cannot be of one series."""
    import polars as pl

    if files is None:
        return len(column) - column.n_unique() > MAX_REPEATS * len(column)
    rows = pl.DataFrame([column, pl.Series(f"file of {column.name}", files)])
    return rows.height - rows.n_unique() > MAX_REPEATS * rows.height


def find_series_columns(
    frame: polars.DataFrame, time: str, config: DataConfig
) -> tuple[str, ...] | None:
    """Return the fewest columns of words, or of ids, that with the time tell all rows apart."""
    names = [column.name for column in _candidates(frame, time, config)][:_MAX_COLUMNS]
    for size in range(1, len(names) + 1):
        for chosen in combinations(names, size):
            distinct = frame.select(time, *chosen).n_unique()
            series = frame.select(*chosen).n_unique()
            if (
                frame.height - distinct <= MAX_REPEATS * frame.height
                and 1 < series <= frame.height / _MIN_ROWS
            ):
                return chosen
    return None


def looks_like_panel(frame: polars.DataFrame, config: DataConfig) -> bool:
    """Return whether a table is several series at regular times.

    All other columns are numeric, or of one value in each series.
    """
    name = config.time_column or time_column(frame, guess=True, ordered=False, drop=config.drop)
    if name is None or name not in frame.columns or not times_repeat(frame[name]):
        return False
    times = as_times(frame[name], guess=True)
    columns = find_series_columns(frame, name, config)
    if times is None or times.dtype.is_numeric() or columns is None:
        return False
    default_targets = {frame.columns[-1], *(c for c in frame.columns if c.lower() in _TARGET_NAMES)}
    targets = default_targets if config.target is None else {config.target}
    others = [c for c in frame.iter_columns() if c.name not in (name, *columns, *config.drop)]
    words = [column.name for column in others if not is_numeric(column)]
    if targets & set(columns) or len(words) == len(others) or not _constant(frame, columns, words):
        return False
    clock = as_floats(times)
    steps = np.concatenate([np.diff(np.sort(clock[rows])) for _, rows in rows_by_series(frame, columns)])
    if len(steps) < _MIN_REGULAR_SHARE * len(clock) or not len(steps):
        return False
    _, counts = np.unique(steps, return_counts=True)
    series = len(clock) - len(steps)
    return len(clock) >= _MIN_RECOGNISED_ROWS * series and int(counts.max()) >= _MIN_REGULAR_SHARE * len(
        steps
    )


def rows_by_series(frame: polars.DataFrame, columns: Sequence[str]) -> Iterator[tuple[str, Indices]]:
    """Iterate over the ids of the series, in the order of the table, and the rows of each.

    Several columns are joined by "/"; an empty cell is the id "".
    """
    import polars as pl

    cells = [as_strings(frame[name]).fill_null("") for name in columns]
    ids = pl.DataFrame(cells).select(pl.concat_str(pl.all(), separator="/")).to_series()
    names = ids.unique(maintain_order=True)
    codes = ids.replace_strict(names, pl.Series(range(len(names)), dtype=pl.Int64)).to_numpy()
    order = np.argsort(codes, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    yield from zip(names.to_list(), np.split(order, ends[:-1]), strict=True)


def is_numeric(column: polars.Series) -> bool:
    """Return whether a column holds numbers or booleans."""
    import polars as pl

    return column.dtype.is_numeric() or column.dtype == pl.Boolean


def common_times(clocks: Sequence[Floats]) -> Floats:
    """Return the distinct times of several series, in order."""
    return np.unique(np.concatenate(clocks))


def _constant(frame: polars.DataFrame, series: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether the columns ``names`` have one value in each series."""
    return frame.select(*series, *names).n_unique() == frame.select(*series).n_unique()


def _candidates(frame: polars.DataFrame, time: str, config: DataConfig) -> list[polars.Series]:
    """Return the columns without empty cells that could tell series apart: of words, then of ids."""
    import polars as pl

    targets = names_of(config.target, frame.columns) if config.target is not None else ()
    columns = [
        column
        for column in frame.iter_columns()
        if column.name not in (time, *config.drop, *targets) and not column.null_count()
    ]
    words = [column for column in columns if column.dtype == pl.String]
    ids = [c for c in columns if c.dtype.is_integer() and _ID_NAME.fullmatch(c.name.strip())]
    return [*words, *ids]
