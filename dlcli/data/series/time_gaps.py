"""Missing values of a long series: the past stands in for them in inputs, straight lines in targets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlcli.data.notices import Notice
from dlcli.data.series.reader import fill_gaps
from dlcli.data.series.time_splits import Bounds

Floats = npt.NDArray[np.float64]


def without_gaps(observed: Floats, bounds: Bounds, path: object) -> tuple[Floats, Floats, list[Notice]]:
    """(T, C) as inputs see it and as targets are, without NaN; and a notice."""
    missing = np.isnan(observed)
    if not missing.any():
        return observed, observed, []
    values = carried(observed)
    truth = values.copy()
    first = 0
    # Inside a split alone: a line across the boundary would tell training what comes after it.
    for end in dict.fromkeys((*bounds, len(values))):
        lines = fill_gaps(observed[first:end])
        truth[first:end] = np.where(np.isnan(lines), values[first:end], lines)
        first = end
    message = (
        f"{path}: {int(missing.sum()):,} of {missing.size:,} values are missing: inputs repeat the last "
        "value before them, targets are interpolated linearly"
    )
    return values, truth, [Notice(message, "missing-values", "warning")]


def carried(values: Floats) -> Floats:
    """(T, C) with each gap filled by the last value before it, at the beginning by the first of all."""
    missing = np.isnan(values)
    if not missing.any():
        return values
    rows = np.where(missing, 0, np.arange(len(values))[:, None])
    out = np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)
    first = np.take_along_axis(values, (~missing).argmax(axis=0)[None], axis=0)  # (1, C)
    filled: Floats = np.where(np.isnan(out), first, out)
    return filled
