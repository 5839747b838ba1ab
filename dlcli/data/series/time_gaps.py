"""Fill missing values of a long series: forward in inputs, by linear interpolation in targets."""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Floats
from dlcli.data.notices import Notice
from dlcli.data.series.time_splits import Bounds
from dlcli.timeline.gaps import forward_fill, interpolate


def fill_missing(observed: Floats, bounds: Bounds) -> tuple[Floats, Floats, int]:
    """Return (T, C) filled for inputs and for targets, without NaN; and how many values were missing."""
    missing = np.isnan(observed)
    if not missing.any():
        return observed, observed, 0
    values = forward_fill(observed)
    target_values = values.copy()
    first = 0
    # Within each split: interpolating across a boundary would leak later values into training.
    for end in dict.fromkeys((*bounds, len(values))):
        interpolated = interpolate(observed[first:end])
        target_values[first:end] = np.where(np.isnan(interpolated), values[first:end], interpolated)
        first = end
    return values, target_values, int(missing.sum())


def missing_notice(missing: int, total: int, path: object) -> Notice:
    """Return the notice about values that are missing and how they are filled."""
    message = (
        f"{path}: {missing:,} of {total:,} values are missing: inputs are forward-filled, targets are "
        "interpolated linearly"
    )
    return Notice(message, "missing-values", "warning")
