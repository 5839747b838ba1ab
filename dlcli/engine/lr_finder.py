"""``--lr auto``: a short sweep over learning rates, and the rate that its losses suggest.

Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3, in the form
that fast.ai made known: the rate rises exponentially from step to step while the loss is watched. Here
the losses are smoothed around each step and not behind it, which would move the curve to higher rates.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.engine.fit import FitJob
from dlcli.engine.optim import set_lr
from dlcli.engine.plan import Plan
from dlcli.engine.rehearsal import rehearsal, training_batches
from dlcli.engine.state import Progress
from dlcli.engine.step import optimizer_step, set_train_mode
from dlcli.errors import DlcliError
from dlcli.events import Emit, Noted

LOWEST, HIGHEST = 1e-7, 10.0
MOST_STEPS, FEWEST_STEPS = 100, 50
STOP_AT = 4.0  # times the lowest loss: what comes after is known
# The lowest loss lies where rising rates and falling losses are in balance, just before it gets worse.
# A whole run at such a rate is at the edge of diverging, so the suggestion stays below.
MARGIN = 3.0
_SMOOTH = 0.2  # deviation of the smoothing, in decades
_LEVEL = 1e-5  # rates below it change nothing: their losses are the level that the sweep starts from
_SLOW_S = 20.0  # a sweep that takes longer says so before

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LrSweep:
    """The losses of a sweep, by rate, as they were and smoothed, and the rate that they suggest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        return (
            f"lr auto: {self.suggestion:.1e} (steepest descent of {len(self.rates)} steps from "
            f"{self.rates[0]:.0e} to {self.rates[-1]:.1e})"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "suggestion": self.suggestion,
            "rates": list(self.rates),
            "losses": list(self.losses),
            "smoothed": list(self.smoothed),
        }


def find_lr(plan: Plan, emit: Emit) -> LrSweep:
    """Sweep the rates on training batches of a plan, on a module of its own; tells what was found.

    Batches, micro-batches, augmentation and optimizer are the run's. Raises: DlcliError when no rate
    makes the loss fall.
    """
    with rehearsal(plan) as made:
        job = made.job
        steps = max(FEWEST_STEPS, min(MOST_STEPS, job.total_steps))
        rates, losses = _sweep(job, steps, emit)
    sweep = suggest(rates, losses)
    emit(Noted(sweep.sentence))
    return sweep


def _sweep(job: FitJob, steps: int, emit: Emit) -> tuple[list[float], list[float]]:
    """The mean loss of each step's batch before the step, until it is four times the lowest."""
    rates: list[float] = []
    losses: list[float] = []
    progress = Progress(micro=job.micro)
    set_train_mode(job.module)
    lowest, mean, weight = math.inf, 0.0, 0.0
    t0 = time.perf_counter()
    batches = training_batches(job, progress)
    for rate, batch in zip(np.geomspace(LOWEST, HIGHEST, steps).tolist(), batches, strict=False):
        set_lr(job.optimizer, rate)
        taken = optimizer_step(job, batch, progress, batch.count)
        loss = float(taken.loss_sum) / max(float(taken.count), 1.0)
        if not (math.isfinite(loss) and bool(taken.finite)):
            break
        rates.append(rate)
        losses.append(loss)
        mean, weight = 0.8 * mean + 0.2 * loss, 0.8 * weight + 0.2
        lowest = min(lowest, mean / weight)
        if mean / weight > STOP_AT * lowest:
            break
        if len(rates) == 3:
            left = (time.perf_counter() - t0) / 3 * steps
            if left > _SLOW_S:
                emit(Noted(f"lr auto: a sweep of {steps} steps, about {left:.0f} s"))
    batches.close()
    return rates, losses


def suggest(rates: list[float], losses: list[float]) -> LrSweep:
    """The rate where the smoothed loss falls most for each decade, but a third of the best one at most.

    Raises: DlcliError where the losses never fall below their first level by more than their scatter.
    """
    where, values = np.log10(np.asarray(rates)), np.asarray(losses, dtype=np.float64)
    if len(values) < 10:
        raise _no_descent(f"the loss was no finite number after {len(values)} steps")
    level, scatter = _level(where, values)
    # One batch far above all others must not bend the curve around it.
    smoothed = _smooth(where, np.minimum(values, level + 3 * scatter + 0.5 * abs(level)))
    lowest = int(np.argmin(smoothed))
    # The mean of about n values scatters by 1/sqrt(n) of one.
    together = max(1.0, _SMOOTH * math.sqrt(4 * math.pi) / float(where[1] - where[0]))
    if level - smoothed[lowest] <= max(4 * scatter / math.sqrt(together), 0.01 * abs(level)):
        raise _no_descent(f"the loss stayed near {level:.4g} in {len(values)} steps")
    slope = np.gradient(smoothed, where)
    steepest = int(np.argmin(slope[: lowest + 1]))
    rate = min(rates[steepest], rates[lowest] / MARGIN)
    return LrSweep(tuple(rates), tuple(losses), tuple(smoothed.tolist()), float(f"{rate:.1e}"))


def _level(where: Curve, values: Curve) -> tuple[float, float]:
    """The median of the first losses, and how far one of them lies from it (as a deviation)."""
    first = values[where <= math.log10(_LEVEL)]
    level = float(np.median(first))
    return level, 1.4826 * float(np.median(np.abs(first - level)))


def _smooth(where: Curve, values: Curve) -> Curve:
    """Means weighted by a normal curve around each rate, on the logarithmic axis."""
    weights = np.exp(-0.5 * ((where[:, None] - where[None, :]) / _SMOOTH) ** 2)
    smoothed: Curve = (weights * values).sum(axis=1) / weights.sum(axis=1)
    return smoothed


def _no_descent(why: str) -> DlcliError:
    return DlcliError(
        f"--lr auto found no learning rate between {LOWEST:g} and {HIGHEST:g} that makes the loss fall: "
        f"{why}",
        hint="give one, such as --lr 1e-3; a model that has learnt these data already falls no further, "
        "and batches of few samples scatter too much to see it: try a larger --batch-size",
    )
