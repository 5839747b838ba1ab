"""Which attempt is shipped: bounds, the Pareto set, and the smallest and fastest that keeps them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dlcli.benchmark.statistics import pareto_front
from dlcli.config import Bound, ShipConfig, parse_bound, parse_bytes, parse_milliseconds
from dlcli.deploy.ship.attempts import Attempt
from dlcli.evaluation.metrics import direction
from dlcli.wording import size


@dataclass(frozen=True)
class Bounds:
    """The bounds of the user, and how they were written."""

    config: ShipConfig
    drop: Bound
    size_bytes: int | None
    latency_ms: float | None

    @property
    def end_the_search(self) -> bool:
        """Whether the first attempt that keeps them is enough; the original keeps the drop alone."""
        return self.size_bytes is not None or self.latency_ms is not None

    def keeps_drop(self, attempt: Attempt) -> bool:
        """Whether an attempt is accurate enough, on val."""
        return attempt.delta.within(self.drop)

    def excesses(self, attempt: Attempt) -> dict[str, float]:
        """By how much an attempt misses each bound that it misses, relative to it; by a sentence."""
        delta, missed = attempt.delta, dict[str, float]()
        if not self.keeps_drop(attempt):
            sentence = (
                f"{delta.metric} got worse by {delta.drop:.4f}, where --max-drop {self.config.max_drop} "
                f"allows {self.drop.allowed(delta.before):.4f}"
            )
            drop = math.inf if math.isnan(delta.drop) else delta.drop
            missed[sentence] = drop / max(abs(delta.before), 1e-12)
        if self.size_bytes is not None and attempt.size_bytes > self.size_bytes:
            sentence = f"{size(attempt.size_bytes)}, where --max-size {self.config.max_size} was allowed"
            missed[sentence] = attempt.size_bytes / self.size_bytes - 1
        call_ms = attempt.call_ms
        if self.latency_ms is not None and (call_ms is None or call_ms > self.latency_ms):
            took = "its latency is not known" if call_ms is None else f"{call_ms:.3g} ms a call"
            sentence = f"{took}, where --max-latency {self.config.max_latency} was allowed"
            missed[sentence] = math.inf if call_ms is None else call_ms / self.latency_ms - 1
        return missed


def bounds_of(config: ShipConfig) -> Bounds:
    """Return the bounds that the settings hold."""
    drop = parse_bound(config.max_drop)
    assert drop is not None
    return Bounds(config, drop, parse_bytes(config.max_size), parse_milliseconds(config.max_latency))


def best_of(attempts: Sequence[Attempt], bounds: Bounds) -> Attempt:
    """Return the attempt to ship: within the bounds the smallest product of size and time of a call.

    Where none is within all of them, fewer misses come first, then smaller ones. No attempt that is
    smaller and faster and within the bounds is passed over.
    """
    timed = all(attempt.faster is not None for attempt in attempts)

    def rank(attempt: Attempt) -> tuple[float, ...]:
        missed = bounds.excesses(attempt)
        cost = math.log(attempt.size_bytes)
        if timed and attempt.faster is not None:
            cost -= math.log(attempt.faster.median)
        return (len(missed), sum(missed.values()), cost)

    return min(attempts, key=rank)


def pareto_of(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts that none beats in the metric, the size and the time of a call at once.

    Where a latency was not measured, in the metric and the size.
    """
    timed = all(attempt.faster is not None for attempt in attempts)

    def point(attempt: Attempt) -> tuple[float, ...]:
        delta = attempt.delta
        value = delta.metrics.get(delta.metric, math.nan) * direction(delta.metric)
        times = [1 / attempt.faster.median] if timed and attempt.faster is not None else []
        return (value, attempt.size_bytes, *times)

    front = pareto_front([point(attempt) for attempt in attempts])
    return [attempt for attempt, on_front in zip(attempts, front, strict=True) if on_front]
