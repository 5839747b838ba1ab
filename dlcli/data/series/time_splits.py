"""Boundaries of train, val and test in long series, and the windows inside each.

Legend: T rows of a series. The splits of several series end at the same times.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import Indices
from dlcli.data.folds import expanding_window
from dlcli.data.series.long_tables import LongTable
from dlcli.data.series.panels import common_times
from dlcli.errors import DlcliError, UsageError

Bounds = tuple[int, int, int]  # the end rows of train, of val, of test
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TimeSplits:
    """The end rows of the splits of each series.

    ``steps`` is the number of time steps in each split: rows of one series, distinct times of several.
    """

    bounds: tuple[Bounds, ...]
    steps: Bounds


def split_in_time(tables: Sequence[LongTable], splits: Sequence[str], config: DataConfig) -> TimeSplits:
    """Divide each series at the same times; ``splits`` name the files that rows come from, in order.

    Raises: UsageError for sizes that do not fit.
    """
    if len(tables) == 1:
        rows = len(tables[0].values)
        own = _file_bounds(tables[0], splits, config) if len(splits) > 1 else time_bounds(rows, config)
        return TimeSplits((own,), _sizes(own))
    if len(splits) > 1:
        bounds = tuple(_file_bounds(table, splits, config) for table in tables)
        longest = [max(_sizes(own)[part] for own in bounds) for part in range(3)]
        return TimeSplits(bounds, (longest[0], longest[1], longest[2]))
    times = common_times([table.clock for table in tables])
    ends = time_bounds(len(times), config)
    cuts = [times[end] if end < len(times) else np.inf for end in ends]
    rows_to = [np.searchsorted(table.clock, cuts, side="left").tolist() for table in tables]
    return TimeSplits(tuple((a, b, c) for a, b, c in rows_to), _sizes(ends))


def time_bounds(rows: int, config: DataConfig) -> Bounds:
    """Return the ends of the splits of one file. Raises: UsageError for sizes that do not fit."""
    requested = config.time_splits
    if config.folds is not None and config.fold is not None:
        if requested is not None:
            raise UsageError("data.time_splits and --folds exclude each other", hint="leave one out")
        rows -= round(rows * config.folds_test_fraction)
        return expanding_window(rows, config.folds, config.fold, config.val_fraction)
    if requested is None:
        val, test = round(rows * config.val_fraction), round(rows * config.test_fraction)
        if config.val_fraction + config.test_fraction >= 1:
            raise UsageError("val_fraction + test_fraction leave nothing to train on")
        return rows - val - test, rows - test, rows
    hint = "give three fractions such as [0.7,0.1,0.2], or row counts such as [8640,2880,2880]"
    fractions = all(size < 1 for size in requested)
    whole = all(float(size).is_integer() for size in requested)
    if (
        len(requested) not in (2, 3)
        or min(requested) < 0
        or 0 in requested[:2]
        or not (fractions or whole)
    ):
        raise UsageError(
            f"time_splits = {list(requested)} are neither fractions nor row counts", hint=hint
        )
    sizes = np.cumsum([*requested, 0.0][:3])
    if sizes[2] > (1 + 1e-9 if fractions else rows):
        raise UsageError(
            f"time_splits = {list(requested)} exceed {'1' if fractions else f'the {rows:,} rows'}",
            hint=hint,
        )
    train, val, test = (round(end * rows) if fractions else int(end) for end in sizes.tolist())
    return train, val, test


def window_starts(bounds: Bounds, window: int, horizon: int) -> dict[str, Indices]:
    """Return the first predicted row of each window, by split; only inputs reach back before the split.

    A split that is too short for a window is not in it.
    """
    starts_by_split = {}
    first = 0
    for split, end in zip(SPLITS, bounds, strict=True):
        starts = np.arange(max(first, window), end - horizon + 1, dtype=np.int64)
        if len(starts):
            starts_by_split[split] = starts
        first = end
    return starts_by_split


def check_splits(
    present: Collection[str], splits: TimeSplits, window: int, horizon: int, path: object
) -> None:
    """Raise DlcliError naming the split that has no window in any series."""
    for split, steps in zip(SPLITS, splits.steps, strict=True):
        if split not in present and (steps > 0 or split != "test"):
            required = window + horizon if split == "train" else horizon
            raise too_short_error(path, f"its {split} split", steps, required)


def too_short_error(path: object, what: str, rows: int, required: int) -> DlcliError:
    """Return the error for ``what`` (a split, or a whole file) that is too short for a window."""
    return DlcliError(
        f"{path}: {what} has {rows:,} rows; window and horizon need {required:,}",
        hint="shorten them with --window and --horizon, or give larger splits with data.time_splits",
    )


def _file_bounds(table: LongTable, splits: Sequence[str], config: DataConfig) -> Bounds:
    """Return the ends of the files in one series; without a val file, val is the end of train.

    Raises: UsageError for folds, which divide one file in time.
    """
    if config.folds is not None:
        raise UsageError(
            f"--folds divide the rows of one file in time, and these are {len(splits)} files",
            hint="give the file of the training rows, and evaluate on the other with --data",
        )
    counts = np.bincount(table.files, minlength=len(splits)).tolist()
    sizes = dict(zip(splits, counts, strict=True))
    val = sizes.get("val", round(sizes["train"] * config.val_fraction))
    train = sizes["train"] - (0 if "val" in sizes else val)
    return train, train + val, train + val + sizes.get("test", 0)


def _sizes(bounds: Bounds) -> Bounds:
    return bounds[0], bounds[1] - bounds[0], bounds[2] - bounds[1]
