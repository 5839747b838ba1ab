"""Search for a candidate whose metric drop is within a bound, keeping the files of the best one only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dlcli.deploy.reference import MetricDelta


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A changed model that was written to a file of ``size_bytes`` and evaluated."""

    delta: MetricDelta
    size_bytes: int
    within_bound: bool

    @property
    def loss(self) -> float:
        """The drop of the metric; infinite where the metric is NaN."""
        return math.inf if math.isnan(self.delta.drop) else self.delta.drop


C = TypeVar("C", bound=Candidate)
T = TypeVar("T")


class BoundSearch(Generic[C]):
    """Candidates in the order they were tried, and the best of them.

    ``rank`` orders candidates, lowest first; of equal ones the first is best. ``discard`` removes the
    files of one that is not.
    """

    def __init__(self, *, rank: Callable[[C], tuple[float, ...]], discard: Callable[[C], None]) -> None:
        self.candidates: list[C] = []
        self.best: C | None = None
        self._rank, self._discard = rank, discard

    def add(self, candidate: C) -> None:
        """Record a candidate and discard the worse of it and the best so far."""
        self.candidates.append(candidate)
        previous = self.best
        if previous is None:
            self.best = candidate
        elif self._rank(candidate) < self._rank(previous):
            self.best = candidate
            self._discard(previous)
        else:
            self._discard(candidate)

    def try_in_order(self, candidates: Iterable[C]) -> bool:
        """Add candidates until one keeps its bound; return whether one did."""
        for candidate in candidates:
            self.add(candidate)
            if candidate.within_bound:
                return True
        return False


def bisect_largest(targets: Sequence[T], keeps_bound: Callable[[T], bool]) -> None:
    """Call ``keeps_bound`` on targets, mildest first, by bisection for the strongest that keeps it."""
    low, high = 0, len(targets) - 1
    while low <= high:
        middle = (low + high) // 2
        if keeps_bound(targets[middle]):
            low = middle + 1
        else:
            high = middle - 1
