"""Times of the rows of a table: the time column, its order, and the steps that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import polars

Floats = npt.NDArray[np.float64]

TIME_NAMES = ("date", "time", "timestamp", "ds", "datetime")
_MONTH_US = 28 * 86_400_000_000
_DAY_US = 86_400_000_000
_DAY_OR_MONTH = (("%d/%m/%Y", "%m/%d/%Y"), ("%d-%m-%Y", "%m-%d-%Y"))
_TIME_SUFFIXES = ("", " %H:%M", " %H:%M:%S")


def time_column(
    frame: polars.DataFrame, *, guess: bool = False, ordered: bool = True, drop: Sequence[str] = ()
) -> str | None:
    """Return the name of the time column: by its name, or one of dates in order.

    ``guess``: accept dates whose order of day and month is ambiguous in the first rows. Without
    ``ordered``, the only column of dates counts in any order. Columns of ``drop`` do not count.
    """
    import polars as pl

    columns = [column for column in frame.iter_columns() if column.name not in drop]
    named = [column.name for column in columns if column.name.strip().lower() in TIME_NAMES]
    dated = [c.name for c in columns if c.dtype in (pl.Date, pl.Datetime, pl.String)]
    dates = []
    for name in dict.fromkeys([*named, *dated]):
        times = as_times(frame[name], guess=guess)
        if times is None:
            continue
        if times.dtype == pl.Datetime:
            if name in named or not disorder(as_floats(times)):
                return name
            dates.append(name)
        elif name in named:
            return name
    return dates[0] if len(dates) == 1 and not ordered else None


def as_times(column: polars.Series, *, guess: bool = False) -> polars.Series | None:
    """Return a column as Datetime or numbers; None when it is neither or a cell is not a time.

    An ambiguous order of day and month is resolved as the one in which fewer times go back.
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
            if not complete:
                continue
            back = [disorder(as_floats(times)) for times in complete]
            if back.count(min(back)) == 1 or guess:
                return complete[back.index(min(back))]
    return None


def as_floats(times: polars.Series) -> Floats:
    """Return times as float64 (T,): microseconds, or numbers unchanged."""
    numbers = times if times.dtype.is_numeric() else times.dt.epoch("us")
    return numbers.to_numpy().astype(np.float64)


def disorder(clock: Floats) -> int:
    """Return how many steps of (T,) go against the direction of most: 0 where it only rises or falls."""
    steps = np.diff(clock)
    return int(min((steps < 0).sum(), (steps > 0).sum()))


def typical_step(clock: Floats, default: float = 1.0) -> float:
    """Return the median step forward of rising times (T,), or ``default`` without any."""
    steps = np.diff(clock)
    forward = steps[steps > 0]
    return float(np.median(forward)) if len(forward) else default


def following(times: polars.Series, count: int, typical: float) -> polars.Series:
    """Return the times of ``count`` steps of about ``typical`` after the last of rising ``times``."""
    import polars as pl

    last = times.tail(1)
    steps = np.arange(1, count + 1)
    if times.dtype.is_numeric():
        unit = typical if times.dtype.is_float() else round(typical)
        return pl.Series(times.name, last[0] + steps * unit).cast(times.dtype)
    if typical >= _MONTH_US and _same_day_of_month(times):
        months = max(1, round(typical / (30.44 / 28 * _MONTH_US)))
        # From a first of the month on: a chain of offsets from January 31 would stay at 28.
        ends = times.dt.month_end().dt.date().eq(times.dt.date()).all()
        after = [last.dt.offset_by(f"{months * step}mo") for step in steps.tolist()]
        joined: polars.Series = pl.concat(after)
        return joined.dt.month_end() if ends else joined
    at: int = last.dt.epoch("us")[0]
    epochs: polars.Series = pl.Series(times.name, at + steps * round(typical))
    return epochs.cast(pl.Datetime("us"))


def format_times(times: polars.Series) -> list[str]:
    """Format times as strings; without the time of day where all are midnight."""
    if times.dtype.is_numeric():
        return [f"{value:.15g}" for value in times.to_list()]
    at = times.dt.epoch("us").to_numpy()
    if not (at % _DAY_US).any():
        return times.dt.to_string("%Y-%m-%d").to_list()
    form = "%Y-%m-%d %H:%M:%S" if not (at % 1_000_000).any() else "%Y-%m-%d %H:%M:%S%.6f"
    return times.dt.to_string(form).to_list()


def _same_day_of_month(times: polars.Series) -> bool:
    """Return whether all times are on one day of the month, or all on its last."""
    if times.dt.day().n_unique() == 1:
        return True
    return bool(times.dt.month_end().dt.date().eq(times.dt.date()).all())
