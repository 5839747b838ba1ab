"""95 % intervals for what was measured on a split, and for the difference of two models on it.

Scores are `Counts.scores`: what each sample contributes to a metric that is their mean, or the root of
it (``rooted``). Both models are scored on the same samples in the same order. NumPy and SciPy only.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Z = 1.959963984540054  # 97.5 % of a standard normal lie below
RESAMPLES = 2000
# Independent pieces below which no interval is claimed, and above which pieces are made larger: the
# spread of 10,000 block means is known to a percent, and more would only cost time.
MIN_PIECES = 5
MAX_PIECES = 10_000

UNKNOWN = (-math.inf, math.inf)


def wilson(hits: int, samples: int) -> tuple[float, float]:
    """The interval of a share, hits of samples (Wilson 1927). All of 0 to 1 for no samples."""
    if not samples:
        return 0.0, 1.0
    share, over = hits / samples, Z**2 / samples
    centre = (share + over / 2) / (1 + over)
    half = Z * math.sqrt(share * (1 - share) / samples + over / (4 * samples)) / (1 + over)
    # Rounding must not exclude what was measured.
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


def of_difference(
    scores: Floats, others: Floats, *, rooted: bool = False, block: int = 1
) -> tuple[float, float]:
    """The interval of a metric's difference, that of ``scores`` minus that of ``others``, both (N,).

    `paired_shares` where every score is 0 or 1, else `paired_bootstrap`. NaN where a score is not
    finite; without bounds where the samples are too few. Raises: ValueError for unequal lengths.
    """
    if len(scores) != len(others):
        raise ValueError(f"{len(scores)} scores cannot be paired with {len(others)}")
    if block == 1 and not rooted and _are_hits(scores) and _are_hits(others):
        return paired_shares(scores, others)
    return paired_bootstrap(scores, others, rooted=rooted, block=block)


def paired_shares(hits: Floats, others: Floats) -> tuple[float, float]:
    """The interval of a difference of two shares on the same samples, 0 or 1 in (N,) and (N,).

    The adjusted Wald interval of Bonett and Price (J. Educ. Behav. Stat. 37, 2012): one sample is
    added to each kind of disagreement, so that a few samples that all agree prove nothing.
    """
    total = len(hits) + 2
    won = (int((hits > others).sum()) + 1) / total
    lost = (int((hits < others).sum()) + 1) / total
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
    """The expanded percentile interval of a metric's difference over resampled samples.

    ``block`` neighbours are drawn together, from a circle (Politis and Romano 1992): for forecasts,
    whose windows overlap by up to the horizon, so that one surprise is in many of them. Percentiles are
    moved outwards as Student's t is wider than the normal (Hesterberg 2014, arXiv:1411.5279). More than
    `MAX_PIECES` blocks are joined to longer ones. Equal arguments give equal bits.
    """
    samples = len(scores)
    block = max(block, -(-samples // MAX_PIECES))
    if samples < MIN_PIECES * block:
        return UNKNOWN
    if not (np.isfinite(scores).all() and np.isfinite(others).all()):
        return math.nan, math.nan
    picks = -(-samples // block)
    means = [_block_means(values, block) for values in (scores, others)]
    floor = 0.0 if rooted else -math.inf  # a sum may round below 0
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


def _block_means(values: Floats, block: int) -> Floats:
    """Means of ``block`` neighbours from every start (N,), the end joined to the beginning."""
    if block == 1:
        return values
    around = np.concatenate([[0.0], values, values[: block - 1]]).cumsum()
    means: Floats = (around[block:] - around[:-block]) / block
    return means


def _expanded_tail(pieces: float) -> float:
    from scipy.special import ndtr, stdtrit

    return float(ndtr(-math.sqrt(pieces / (pieces - 1)) * stdtrit(pieces - 1, 0.975)))


def _are_hits(scores: Floats) -> bool:
    return bool(((scores == 0) | (scores == 1)).all())
