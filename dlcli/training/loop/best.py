"""Which epoch has the best model: one rule for the model that is saved and for patience."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dlcli.evaluation.metrics import EvalResult, direction


@dataclass(frozen=True)
class Score:
    """The monitored metric of a model on the validation split, and its loss there."""

    value: float
    loss: float

    @classmethod
    def of(cls, result: EvalResult, monitor: str) -> Score:
        """The score of a validation; NaN where its samples do not define the metric."""
        return cls(result.metrics.get(monitor, math.nan), result.metrics["loss"])

    @property
    def finite(self) -> bool:
        """Whether it can choose a model: NaN and infinity are outputs that have diverged."""
        return math.isfinite(self.value) and math.isfinite(self.loss)

    def beats(self, best: Score | None, monitor: str, min_delta: float = 0.0) -> bool:
        """Whether the metric is better by more than ``min_delta``, or equal with a lower loss.

        On a few samples many epochs reach the same accuracy: the loss decides between them, unless
        ``min_delta`` asks for more of the metric. A score that is not finite beats none, and any finite
        one beats it.
        """
        if not self.finite:
            return False
        if best is None or not math.isfinite(best.value):
            return True
        if self.value == best.value:
            # States of earlier versions may lack the loss.
            return not min_delta and (not math.isfinite(best.loss) or self.loss < best.loss)
        return (self.value - best.value) * direction(monitor) > min_delta


def score_or_none(value: float | None, loss: float | None) -> Score | None:
    """A score from the counters of a run; None where no epoch has one yet."""
    return None if value is None else Score(value, math.nan if loss is None else loss)
