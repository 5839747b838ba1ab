"""95 % confidence intervals of a metric on a split, and of the difference of two models on it.

Scores are `Counts.scores`: the contribution of each sample to a metric that is their mean, or the root
of it (``rooted``). Other metrics are computed anew on resamples. Both models are scored on the same
samples in the same order. NumPy and SciPy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

Z = 1.959963984540054  # 97.5 % quantile of the standard normal
RESAMPLES = 2000
# Of a metric that is no mean, of which every resample computes all anew. 200 give its std to 5 %.
METRIC_RESAMPLES = 200
# Limit of the numbers that go into all of them, about 10 s; and the least samples of a resample.
METRIC_NUMBERS, METRIC_SAMPLES = 100_000_000, 1000
# Limits of the number of blocks: with fewer there is no interval; beyond the maximum, blocks are longer.
# The std of 10,000 block means is accurate to a percent.
MIN_BLOCKS = 5
MAX_BLOCKS = 10_000

UNKNOWN = (-math.inf, math.inf)


def wilson(correct: int, samples: int) -> tuple[float, float]:
    """Wilson score interval of a proportion, correct / samples; 0 to 1 for no samples."""
    if not samples:
        return 0.0, 1.0
    share, over = correct / samples, Z**2 / samples
    centre = (share + over / 2) / (1 + over)
    half = Z * math.sqrt(share * (1 - share) / samples + over / (4 * samples)) / (1 + over)
    # Rounding must not exclude the measured value.
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


def difference_interval(
    scores: Floats, others: Floats, *, rooted: bool = False, block: int = 1
) -> tuple[float, float]:
    """Interval of the difference of a metric: of ``scores`` minus of ``others``, both (N,), paired.

    `paired_shares` where every score is 0 or 1, else `paired_bootstrap`. NaN where a score is not
    finite; infinite where there are too few samples. Raises: ValueError for unequal lengths.
    """
    if len(scores) != len(others):
        raise ValueError(f"{len(scores)} scores cannot be paired with {len(others)}")
    if block == 1 and not rooted and _are_binary(scores) and _are_binary(others):
        return paired_shares(scores, others)
    return paired_bootstrap(scores, others, rooted=rooted, block=block)


def paired_shares(scores: Floats, others: Floats) -> tuple[float, float]:
    """Interval of the difference of two proportions on the same samples, 0 or 1 in (N,) and (N,).

    The adjusted Wald interval of Bonett and Price (J. Educ. Behav. Stat. 37, 2012): one sample is
    added to each kind of disagreement, so a few samples that all agree give no narrow interval.
    """
    total = len(scores) + 2
    won = (int((scores > others).sum()) + 1) / total
    lost = (int((scores < others).sum()) + 1) / total
    half = Z * math.sqrt((won + lost - (won - lost) ** 2) / total)
    return max(-1.0, won - lost - half), min(1.0, won - lost + half)


def paired_bootstrap(
    scores: Floats,
    others: Floats,
    *,
    rooted: bool = False,
    block: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Expanded percentile bootstrap interval of the difference of a metric.

    With ``block`` > 1 a circular block bootstrap (Politis and Romano 1992), for forecasts, whose windows
    overlap by up to the horizon. Percentiles are expanded as Student's t is wider than the normal
    (Hesterberg 2014, arXiv:1411.5279). Blocks are longer where there would be more than `MAX_BLOCKS`.
    Deterministic.
    """
    samples = len(scores)
    block = max(block, -(-samples // MAX_BLOCKS))
    if samples < MIN_BLOCKS * block:
        return UNKNOWN
    if not (np.isfinite(scores).all() and np.isfinite(others).all()):
        return math.nan, math.nan
    picks = -(-samples // block)
    means = [_block_means(values, block) for values in (scores, others)]
    floor = 0.0 if rooted else -math.inf  # a sum may round to below 0
    rng = np.random.default_rng(seed)
    values = np.empty(resamples)
    rows = max(1, 2**20 // picks)  # 8 MiB of picks at a time
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, samples, (min(rows, resamples - start), picks))
        one, other = (np.maximum(part[drawn].mean(axis=1), floor) for part in means)
        values[start : start + len(drawn)] = np.sqrt(one) - np.sqrt(other) if rooted else one - other
    tail = _expanded_tail(samples / block)
    low, high = np.quantile(values, [tail, 1 - tail]).tolist()
    return low, high


def metric_bootstrap(
    difference: Callable[[Indices], float],
    samples: int,
    observed: float,
    *,
    block: int = 1,
    numbers: int = 1,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a difference of a metric that is no mean: ``observed`` +- t times its bootstrap std.

    ``difference(indices)`` is that of a resample, NaN where it is undefined; with ``block`` > 1 a
    resample is of circular blocks. Where the ``numbers`` of each sample would make it slow, a resample
    has fewer samples, m of n, and the std is multiplied by sqrt(m / n) (Bickel, Goetze and van Zwet,
    Statistica Sinica 7, 1997). Infinite for too few samples, or where every tenth resample is undefined.
    Deterministic.
    """
    if samples < MIN_BLOCKS * block:
        return UNKNOWN
    if not math.isfinite(observed):
        return math.nan, math.nan
    limit = METRIC_NUMBERS // (2 * METRIC_RESAMPLES * max(1, numbers))
    drawn = min(samples, max(METRIC_SAMPLES, MIN_BLOCKS * block, limit))
    rng = np.random.default_rng(seed)
    steps = np.arange(block)
    values = np.empty(METRIC_RESAMPLES)
    for i in range(METRIC_RESAMPLES):
        starts = rng.integers(0, samples, -(-drawn // block))
        values[i] = difference(((starts[:, None] + steps) % samples).ravel()[:drawn])
    values = values[np.isfinite(values)]
    if len(values) < 0.9 * METRIC_RESAMPLES:
        return UNKNOWN
    half = _expanded_z(samples / block) * float(values.std(ddof=1)) * math.sqrt(drawn / samples)
    return observed - half, observed + half


def _block_means(values: Floats, block: int) -> Floats:
    """Means of ``block`` consecutive values from every start (N,), circular."""
    if block == 1:
        return values
    sums = np.concatenate([[0.0], values, values[: block - 1]]).cumsum()
    means: Floats = (sums[block:] - sums[:-block]) / block
    return means


def _expanded_tail(blocks: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(-_expanded_z(blocks)))


def _expanded_z(blocks: float) -> float:
    from scipy.special import stdtrit

    return math.sqrt(blocks / (blocks - 1)) * float(stdtrit(blocks - 1, 0.975))


def _are_binary(scores: Floats) -> bool:
    return bool(((scores == 0) | (scores == 1)).all())
