"""Statistics of timed calls: percentiles, paired ratios, their doubts, and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import le
from typing import Any

import numpy as np

# Highest over lowest ratio of single rounds: calls of 0.02 ms had 3.2 on a quiet machine.
_MAX_STEADY_RANGE = 5.0
_MAX_INVERSION = 2.0  # times that a batch may take of what a larger one takes


@dataclass(frozen=True)
class Speed:
    """Timing at one batch size; ``rounds`` are the median latencies of each round in ms, in order.

    ``clock`` is "wall", or "cpu" for the CPU time of one thread. ``doubt`` is why the figures say little
    about the model, empty where they are good.
    """

    batch_size: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    throughput: float  # samples per second
    rounds: tuple[float, ...]
    clock: str = "wall"
    doubt: str = ""


@dataclass(frozen=True)
class Ratio:
    """Latency before over latency after: above 1 is faster. Median and range over paired rounds.

    ``doubt`` is why there is no verdict, empty where there is one.
    """

    median: float
    low: float
    high: float
    doubt: str = ""

    @property
    def known(self) -> bool:
        """Whether the ratio may be stated."""
        return not self.doubt

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "doubt": self.doubt or None}


def speed_of(
    batch_size: int, rounds: Sequence[Sequence[float]], *, clock: str = "wall", doubt: str = ""
) -> Speed:
    """Return the statistics of latencies in ms, grouped by round. Throughput is at the median."""
    calls = np.concatenate([np.asarray(latencies, dtype=np.float64) for latencies in rounds])
    p50, p95, p99 = (float(x) for x in np.percentile(calls, (50, 95, 99)))
    return Speed(
        batch_size=batch_size,
        calls=len(calls),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        throughput=1000 * batch_size / p50 if p50 > 0 else float("nan"),
        rounds=tuple(float(np.median(latencies)) for latencies in rounds),
        clock=clock,
        doubt=doubt,
    )


def doubt_inversions(speeds: Mapping[int, Speed]) -> dict[int, Speed]:
    """Return the speeds by batch size, with a doubt where a batch takes longer than a larger one."""
    checked = dict(speeds)
    for size, speed in speeds.items():
        for larger in (other for other in speeds.values() if other.batch_size > size):
            if not speed.doubt and speed.p50_ms > _MAX_INVERSION * larger.p50_ms:
                doubt = f"a batch of {size} took longer than one of {larger.batch_size}"
                checked[size] = replace(speed, doubt=doubt)
    return checked


def paired_ratio(before: Speed, after: Speed) -> Ratio:
    """Return how many times faster ``after`` is, round by round, over the rounds that both have."""
    count = min(len(before.rounds), len(after.rounds))
    ratios = _positive(before.rounds[:count]) / _positive(after.rounds[:count])
    low, high = float(ratios.min()), float(ratios.max())
    return Ratio(float(np.median(ratios)), low, high, _doubt(before, after, count, low, high))


def _positive(rounds: Sequence[float]) -> Any:
    """Return latencies as an array; a clock that is too coarse for a call shows 0."""
    return np.maximum(np.array(rounds), 1e-6)


def _doubt(before: Speed, after: Speed, count: int, low: float, high: float) -> str:
    if before.doubt or after.doubt:
        return before.doubt or after.doubt
    if count < 2:
        return "one round alone was timed"
    if high > _MAX_STEADY_RANGE * low:
        return f"the rounds differ by more than {_MAX_STEADY_RANGE:g} times"
    return ""


def pareto_front(points: Sequence[tuple[float, ...] | None]) -> list[bool]:
    """Whether each (value, cost, ...) is on the Pareto front: none is better in one and as good in all.

    Of equal points all are on it. None, and a NaN, are not.
    """
    known = [p for p in points if p is not None and not np.isnan(p).any()]

    def dominated(value: float, *costs: float) -> bool:
        return any(
            v >= value and all(map(le, c, costs)) and (v, *c) != (value, *costs) for v, *c in known
        )

    return [p is not None and not bool(np.isnan(p).any()) and not dominated(*p) for p in points]
