"""Dates and times of day that a table has in two columns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dlcli.data.notices import Notice
from dlcli.wording import quoted

if TYPE_CHECKING:
    import polars

_DAY_SECONDS = 86_400
_CLOCK_NAME = re.compile(r"time|hour|clock|uhr|zeit|heure|hora|tijd", re.I)


def join_clock(frame: polars.DataFrame) -> tuple[polars.DataFrame, Notice | None]:
    """Add the times of day of one column to the dates of another, where there is one of each.

    The dates are whole days that repeat, and the other column is named for times: it may be a duration
    otherwise. Returns the frame without the second column, and a notice.
    """
    import polars as pl

    dates = [c for c in frame.iter_columns() if c.dtype == pl.Datetime]
    clocks = [c for c in frame.iter_columns() if c.dtype in (pl.Duration, pl.Time)]
    if len(dates) != 1 or len(clocks) != 1 or not _CLOCK_NAME.search(clocks[0].name):
        return frame, None
    date, clock = dates[0], clocks[0].cast(pl.Duration("us"))
    seconds = clock.dt.total_seconds().drop_nulls()
    whole_days = (date.drop_nulls().dt.epoch("s") % _DAY_SECONDS == 0).all()
    if not len(seconds) or not whole_days or date.n_unique() == len(date):
        return frame, None
    if int(seconds.min()) < 0 or int(seconds.max()) >= _DAY_SECONDS:  # type: ignore[arg-type]
        return frame, None
    message = f"the dates of {quoted(date.name)} and the times of {quoted(clock.name)} are read together"
    return frame.with_columns((date + clock).alias(date.name)).drop(clock.name), Notice(message)
