"""Boundaries of train, val and test in a long series, and the windows inside each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import Indices
from dlcli.errors import DlcliError, UsageError

Bounds = tuple[int, int, int]  # the end rows of train, of val, of test


def file_bounds(sizes: Mapping[str, int], config: DataConfig) -> Bounds:
    """Return the ends of the files; without a val file, val is the end of train."""
    val = sizes.get("val", round(sizes["train"] * config.val_fraction))
    train = sizes["train"] - (0 if "val" in sizes else val)
    return train, train + val, train + val + sizes.get("test", 0)


def time_bounds(rows: int, config: DataConfig) -> Bounds:
    """Return the ends of the splits of one file. Raises: UsageError for sizes that do not fit."""
    requested = config.time_splits
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


def window_starts(bounds: Bounds, window: int, horizon: int, path: object) -> dict[str, Indices]:
    """Return the first predicted row of each window, by split; only inputs reach back before the split.

    Raises: DlcliError naming the split that is too short.
    """
    starts_by_split = {}
    first = 0
    for split, end in zip(("train", "val", "test"), bounds, strict=True):
        earliest = max(first, window)
        starts = np.arange(earliest, end - horizon + 1, dtype=np.int64)
        if not len(starts) and (end > first or split != "test"):
            required = window + horizon if split == "train" else horizon
            raise too_short_error(path, f"its {split} split", end - first, required)
        if len(starts):
            starts_by_split[split] = starts
        first = end
    return starts_by_split


def too_short_error(path: object, what: str, rows: int, required: int) -> DlcliError:
    """Return the error for ``what`` (a split, or a whole file) that is too short for a window."""
    return DlcliError(
        f"{path}: {what} has {rows:,} rows; window and horizon need {required:,}",
        hint="shorten them with --window and --horizon, or give larger splits with data.time_splits",
    )
