"""Statistics of timed calls: percentiles, paired ratios, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Highest over lowest ratio of single rounds: calls of 0.02 ms had 3.2 on a quiet machine.
_MAX_STEADY_RANGE = 5.0


@dataclass(frozen=True)
class Speed:
    """Timing at one batch size; ``rounds`` are the median latencies of each round in ms, in order."""

    batch_size: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    throughput: float  # samples per second
    rounds: tuple[float, ...]


@dataclass(frozen=True)
class Ratio:
    """Latency before over latency after: above 1 is faster. Median and range over paired rounds."""

    median: float
    low: float
    high: float

    @property
    def steady(self) -> bool:
        """Whether the rounds agree well enough to state a ratio; with busy programs they may not."""
        return self.high <= _MAX_STEADY_RANGE * self.low


def speed_of(batch_size: int, rounds: Sequence[Sequence[float]]) -> Speed:
    """Return the statistics of latencies in ms, grouped by round. Throughput is at the median."""
    calls = np.concatenate([np.asarray(latencies, dtype=np.float64) for latencies in rounds])
    p50, p95, p99 = (float(x) for x in np.percentile(calls, (50, 95, 99)))
    return Speed(
        batch_size=batch_size,
        calls=len(calls),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        throughput=1000 * batch_size / p50,
        rounds=tuple(float(np.median(latencies)) for latencies in rounds),
    )


def paired_ratio(before: Speed, after: Speed) -> Ratio:
    """Return how many times faster ``after`` is, round by round."""
    ratios = np.array(before.rounds) / np.array(after.rounds)
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


def pareto_front(points: Sequence[tuple[float, float] | None]) -> list[bool]:
    """Whether each (value, cost) is on the Pareto front: none is better in one and as good in the other.

    Of equal points all are on it. None, and a NaN, are not.
    """
    known = [p for p in points if p is not None and not np.isnan(p).any()]

    def dominated(value: float, cost: float) -> bool:
        return any(v >= value and c <= cost and (v > value or c < cost) for v, c in known)

    return [p is not None and not bool(np.isnan(p).any()) and not dominated(*p) for p in points]
