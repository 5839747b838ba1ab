"""Tables whose rows are one process in time, read as samples: what a random split means for them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import Floats
from dlcli.data.notices import Notice
from dlcli.data.tables.frames import need_column
from dlcli.errors import DlcliError, UsageError
from dlcli.timeline.times import as_floats, as_times, time_column
from dlcli.wording import plural, quoted

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars

_MIN_ROWS = 20
# Shares of the steps between rows that may go back in a table in the order of time, that have the most
# common length in a regular one, and of the times with the most common number of rows.
_MAX_BACK, _MIN_REGULAR, _MIN_EVEN = 0.05, 0.9, 0.9


def random_split_notice(
    frame: polars.DataFrame, features: Sequence[str], target: str, path: Path
) -> Notice | None:
    """Return a note on a random split of rows in time, or None where the time does not order them.

    Rows are in time where they stand in its order, or where the times are regular and have equally many
    rows each, as those of several series. Birthdays and dates of orders, in any order, are neither.
    """
    inputs = frame.select(features)
    name = time_column(inputs, guess=True, ordered=False)
    times = None if name is None else as_times(inputs[name], guess=True)
    if name is None or times is None or times.dtype.is_numeric() or len(times) < _MIN_ROWS:
        return None
    clock = as_floats(times.drop_nulls())
    distinct, rows = np.unique(clock, return_counts=True)
    if len(distinct) < _MIN_ROWS:
        return None
    steps = np.diff(clock)
    back = min((steps < 0).mean(), (steps > 0).mean())
    regular = _mode_share(np.diff(distinct)) >= _MIN_REGULAR and _mode_share(rows) >= _MIN_EVEN
    if back > _MAX_BACK and not regular:
        return None
    message = f"the split is at random, although {quoted(name)} is a time: val and test are no future"
    if regular and len(distinct) == len(clock):
        typed = shlex.join(["--data", str(path), "--target", target])
        return Notice(f"{message}; a forecast is dlcli train --model lstm --kind series {typed}")
    if regular:
        return Notice(
            f"{message}; {int(np.median(rows))} rows share each time: with a column that names their "
            "series, --kind series --series-column NAME forecasts each; --split-column NAME gives splits"
        )
    typed = shlex.join(["--kind", "tabular", "--time-column", name])
    return Notice(f"{message}; {typed} splits in time")


def row_times(frame: polars.DataFrame, config: DataConfig, path: Path) -> Floats:
    """Return the times of rows, (N,), of the time column that the settings name.

    Raises: UsageError for a column that is no time, or with groups; DlcliError for one that is missing,
    or rows without a time.
    """
    name = str(config.time_column)
    need_column(frame, name, what="--time-column", path=path)
    if config.group_column is not None:
        raise UsageError(
            "--time-column divides rows in time, and --group-column by groups", hint="leave one out"
        )
    times = as_times(frame[name], guess=True)
    if times is None:
        raise UsageError(f"--time-column {name}: the cells of {path.name} are not all times or numbers")
    clock = as_floats(times)
    missing = int(np.isnan(clock).sum())
    if missing:
        raise DlcliError(f"{path.name}: {plural(missing, 'row')} without a {name}", hint="fill them")
    return clock


def _mode_share(values: npt.NDArray[np.generic]) -> float:
    """Return the share of the most common value."""
    _, counts = np.unique(values, return_counts=True)
    return float(counts.max() / counts.sum())
