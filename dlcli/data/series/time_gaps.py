"""Fill missing values of a long series: forward in inputs, by linear interpolation in targets."""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Floats
from dlcli.data.notices import Notice
from dlcli.data.series.reader import interpolate
from dlcli.data.series.time_splits import Bounds


def fill_missing(observed: Floats, bounds: Bounds, path: object) -> tuple[Floats, Floats, list[Notice]]:
    """Return (T, C) filled for inputs and for targets, without NaN; and notices."""
    missing = np.isnan(observed)
    if not missing.any():
        return observed, observed, []
    values = forward_fill(observed)
    target_values = values.copy()
    first = 0
    # Within each split: interpolating across a boundary would leak later values into training.
    for end in dict.fromkeys((*bounds, len(values))):
        interpolated = interpolate(observed[first:end])
        target_values[first:end] = np.where(np.isnan(interpolated), values[first:end], interpolated)
        first = end
    message = (
        f"{path}: {int(missing.sum()):,} of {missing.size:,} values are missing: inputs are "
        "forward-filled, targets are interpolated linearly"
    )
    return values, target_values, [Notice(message, "missing-values", "warning")]


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
