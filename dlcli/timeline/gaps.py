"""Fill missing values of a series (T, C): forward, or by linear interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]


def interpolate(values: Values) -> Values:
    """Return (T, C) with NaN interpolated linearly in time.

    Before the first and after the last value of a channel that value is repeated. A channel without
    values stays NaN.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values
    out = values.copy()
    steps = np.arange(len(values))
    for channel in np.flatnonzero(missing.any(axis=0)):
        present = ~missing[:, channel]
        if present.any():
            out[~present, channel] = np.interp(steps[~present], steps[present], values[present, channel])
    return out


def forward_fill(values: Floats) -> Floats:
    """Return (T, C) with gaps filled by the value before them, at the beginning by the first value."""
    missing = np.isnan(values)
    if not missing.any():
        return values
    rows = np.where(missing, 0, np.arange(len(values))[:, None])
    out = np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)
    first = np.take_along_axis(values, (~missing).argmax(axis=0)[None], axis=0)  # (1, C)
    filled: Floats = np.where(np.isnan(out), first, out)
    return filled
