"""The default window and horizon of a forecast: as long as the rows allow, in whole seasons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.series.long_tables import LongTables
from dlcli.data.series.time_splits import TimeSplits
from dlcli.timeline.times import typical_step

DEFAULT_WINDOW, DEFAULT_HORIZON = 96, 24  # steps
_WINDOW_SHARE = 4  # a window is at most this part of the training rows
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0  # seconds
# Steps of about these numbers of days, and how many of them are a season.
_SEASONS = ((1.0, 7), (7.0, 52), (30.44, 12), (91.3, 4))


def window_and_horizon(
    read: LongTables, splits: TimeSplits, config: DataConfig
) -> tuple[int, int, tuple[str, ...]]:
    """Return window and horizon in steps, and the names of those that the settings leave open.

    Without a setting, the horizon fits the held-out splits and the window is at most a quarter of the
    median series' training rows; where they are shortened, to whole seasons if one fits.
    """
    train_rows = _median_rows([bounds[0] for bounds in splits.bounds])
    held = min([size for size in splits.steps[1:] if size] or [train_rows])
    season = calendar_season(read)
    horizon = config.horizon or _fit(DEFAULT_HORIZON, held, max(1, held // 2), season)
    longest = max(1, min(train_rows // _WINDOW_SHARE, train_rows - horizon))
    window = config.window or _fit(DEFAULT_WINDOW, longest, longest, season)
    settings = (("window", config.window), ("horizon", config.horizon))
    return window, horizon, tuple(name for name, value in settings if value is None)


def calendar_season(read: LongTables) -> int | None:
    """Return the number of steps in a day, week or year that the step of the time suggests, or None."""
    if not read.dated:
        return None
    step = float(np.median([typical_step(table.clock) for table in read.tables])) / 1e6  # seconds
    if _MINUTE <= step < _DAY:
        day, hour = _DAY / step, _HOUR / step
        return round(day if day <= DEFAULT_WINDOW else hour)
    days = step / _DAY
    return next((season for length, season in _SEASONS if abs(days / length - 1) < 0.1), None)


def _fit(default: int, longest: int, otherwise: int, season: int | None) -> int:
    """Return the default where it fits, else whole seasons where one fits, else ``otherwise``."""
    if default <= longest:
        return default
    if season is not None and 1 < season <= longest:
        return longest // season * season
    return max(1, otherwise)


def _median_rows(rows: Sequence[int]) -> int:
    present = [count for count in rows if count > 0]
    return int(np.median(present)) if present else 0
