"""From timed calls to figures: percentiles, paired ratios, and which rows are beaten by none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MOST_SPREAD = 5.0  # of the ratios of single rounds: quiet machines had 3.2 for calls of 0.02 ms


@dataclass(frozen=True)
class Speed:
    """Calls of one batch size; ``rounds`` are the medians of each round in ms, in order."""

    batch_size: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    throughput: float  # samples a second
    rounds: tuple[float, ...]


@dataclass(frozen=True)
class Ratio:
    """Time of the one over time of the other: above 1 is faster. Median and range over paired rounds."""

    median: float
    low: float
    high: float

    @property
    def steady(self) -> bool:
        """Whether the rounds agree well enough to say a ratio; beside busy programs they may not."""
        return self.high <= _MOST_SPREAD * self.low


def speed_of(batch_size: int, rounds: Sequence[Sequence[float]]) -> Speed:
    """The figures of calls in ms, grouped by round. Throughput is at the median call."""
    calls = np.concatenate([np.asarray(each, dtype=np.float64) for each in rounds])
    p50, p95, p99 = (float(x) for x in np.percentile(calls, (50, 95, 99)))
    return Speed(
        batch_size=batch_size,
        calls=len(calls),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        throughput=1000 * batch_size / p50,
        rounds=tuple(float(np.median(each)) for each in rounds),
    )


def paired(before: Speed, after: Speed) -> Ratio:
    """How many times faster ``after`` is, round by round."""
    ratios = np.array(before.rounds) / np.array(after.rounds)
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


def unbeaten(points: Sequence[tuple[float, float] | None]) -> list[bool]:
    """Which (value, cost) are on the Pareto front: no other has at least the value for at most the cost.

    Of equal points all are on it. None, and a NaN, are not.
    """
    known = [p for p in points if p is not None and not np.isnan(p).any()]

    def beaten(value: float, cost: float) -> bool:
        return any(v >= value and c <= cost and (v > value or c < cost) for v, c in known)

    return [p is not None and not bool(np.isnan(p).any()) and not beaten(*p) for p in points]
