"""Made-up series, and a writer of the `.ts` format that shares nothing with the reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_ts(
    path: Path,
    series: Sequence[np.ndarray],
    labels: Sequence[str] | None,
    *,
    header: str = "",
    missing: str = "?",
) -> Path:
    """A `.ts` file of series (T_i, C), as the format's own writers lay it out."""
    lines = ["# a comment", "@problemName made", "@timeStamps false", *header.splitlines()]
    if labels is not None:
        lines.append("@classLabel true " + " ".join(sorted(set(labels))))
    else:
        lines.append("@classLabel false")
    lines.append("@data")
    for i, values in enumerate(series):
        cells = [[missing if np.isnan(v) else repr(float(v)) for v in channel] for channel in values.T]
        parts = [",".join(channel) for channel in cells]
        lines.append(":".join([*parts, *([labels[i]] if labels is not None else [])]))
    path.write_text("\n".join(lines) + "\n")
    return path


def random_series(lengths: Sequence[int], channels: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(length, channels)) * 1e3 for length in lengths]
