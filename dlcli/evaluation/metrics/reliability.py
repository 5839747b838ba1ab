"""How far confidence is from accuracy: reliability bins, expected calibration error. NumPy only.

The confidence of a sample is the probability of its predicted class. Bins have equal widths, and the
expected calibration error is the mean over the samples of |accuracy - confidence| of their bin (Naeini
et al. 2015; Guo et al. 2017, arXiv:1706.04599). N: samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15  # as in Guo et al.

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReliabilityBin:
    """The samples whose confidence is in [low, high): their mean confidence, and their accuracy."""

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


def reliability_bins(confidence: Floats, correct: Floats) -> tuple[ReliabilityBin, ...]:
    """Return the bins that have samples; of confidences (N,) that are NaN in none.

    ``correct`` (N,) is 1 where the predicted class is the target, else 0. The last bin includes 1.
    """
    known = np.isfinite(confidence)
    confidence, correct = confidence[known], correct[known]
    numbers = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = []
    for number in np.unique(numbers).tolist():
        inside = numbers == number
        samples = int(inside.sum())
        bins.append(
            ReliabilityBin(
                low=number / BINS,
                high=(number + 1) / BINS,
                samples=samples,
                # `fsum`, so that the order of the samples does not count.
                confidence=math.fsum(confidence[inside].tolist()) / samples,
                accuracy=int(correct[inside].sum()) / samples,
            )
        )
    return tuple(bins)


def expected_calibration_error(confidence: Floats, correct: Floats) -> float:
    """Return the error, 0 to 1; NaN where no sample has a confidence."""
    bins = reliability_bins(confidence, correct)
    samples = sum(part.samples for part in bins)
    if not samples:
        return math.nan
    return math.fsum(part.samples * abs(part.accuracy - part.confidence) for part in bins) / samples
