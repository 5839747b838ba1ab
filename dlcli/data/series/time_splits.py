"""Where train, val and test of a long series end, and which windows lie inside each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import Indices
from dlcli.errors import DlcliError, UsageError

Bounds = tuple[int, int, int]  # the end rows of train, of val, of test


def given_bounds(sizes: Mapping[str, int], config: DataConfig) -> Bounds:
    """Where the files end; val is the end of train where there is no file for it."""
    val = sizes.get("val", round(sizes["train"] * config.val_fraction))
    train = sizes["train"] - (0 if "val" in sizes else val)
    return train, train + val, train + val + sizes.get("test", 0)


def time_bounds(rows: int, config: DataConfig) -> Bounds:
    """Where the splits of one file end. Raises: UsageError when they ask for more than there is."""
    requested = config.time_splits
    if requested is None:
        val, test = round(rows * config.val_fraction), round(rows * config.test_fraction)
        if config.val_fraction + config.test_fraction >= 1:
            raise UsageError("val_fraction and test_fraction leave nothing to train on")
        return rows - val - test, rows - test, rows
    hint = "three shares such as [0.7,0.1,0.2], or rows such as [8640,2880,2880]"
    shares = all(size < 1 for size in requested)
    whole = all(float(size).is_integer() for size in requested)
    if len(requested) not in (2, 3) or min(requested) < 0 or 0 in requested[:2] or not (shares or whole):
        raise UsageError(f"time_splits = {list(requested)} are neither shares nor rows", hint=hint)
    sizes = np.cumsum([*requested, 0.0][:3])
    if sizes[2] > (1 + 1e-9 if shares else rows):
        raise UsageError(
            f"time_splits = {list(requested)} are more than {'all' if shares else f'the {rows:,} rows'}",
            hint=hint,
        )
    train, val, test = (round(end * rows) if shares else int(end) for end in sizes.tolist())
    return train, val, test


def window_starts(bounds: Bounds, window: int, horizon: int, path: object) -> dict[str, Indices]:
    """The first predicted row of each window of each split: targets inside it, inputs from before it.

    Raises: DlcliError naming the split that is too short.
    """
    starts_by_split = {}
    first = 0
    for split, end in zip(("train", "val", "test"), bounds, strict=True):
        least = max(first, window)
        starts = np.arange(least, end - horizon + 1, dtype=np.int64)
        if not len(starts) and (end > first or split != "test"):
            need = window + horizon if split == "train" else horizon
            raise too_short(path, f"its {split} split", end - first, need)
        if len(starts):
            starts_by_split[split] = starts
        first = end
    return starts_by_split


def too_short(path: object, what: str, rows: int, need: int) -> DlcliError:
    """The error for ``what`` (a split, or a whole file) that has no room for a single window."""
    return DlcliError(
        f"{path}: {what} has {rows:,} rows; window and horizon need {need:,} there",
        hint="shorten them with --window and --horizon, or give larger splits with data.time_splits",
    )
