"""``--lr auto``: a short sweep over learning rates, and the rate that its losses suggest.

Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3, in the form
that fast.ai made known: the rate rises exponentially from step to step while the loss is watched. Two
things differ. From each loss that of the first weights on the same batch is taken off: easy and hard
batches, which can hide the whole descent, then look alike. And losses are smoothed around each step,
not behind it, which would move the curve to higher rates.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dlcli.errors import DlcliError
from dlcli.events import Emit, Noted
from dlcli.training.autotune.trial import rehearsal, training_batches
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.loader import Batch
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import micro_batches, optimizer_step
from dlcli.training.optim.make import set_lr
from dlcli.training.plan import Plan
from dlcli.zoo.forward import place

LOWEST, HIGHEST = 1e-7, 10.0
MOST_STEPS, FEWEST_STEPS = 100, 50
STOP_AT = 4.0  # times the lowest loss: what comes after is known
# The lowest loss lies where rising rates and falling losses are in balance, just before it gets worse.
# A whole run at such a rate is at the edge of diverging, so the suggestion stays below.
MARGIN = 3.0
DOWN = 0.8  # of the descent that the suggestion has behind it
_SMOOTH = 0.2  # deviation of the smoothing, in decades
_LEVEL = 1e-5  # rates below it change nothing: their losses are the level that the sweep starts from
_SURE = 4.0  # deviations that a descent must exceed to be one
_SLOW_S = 20.0  # a sweep that takes longer says so before

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LrSweep:
    """The losses of a sweep by rate, as if all batches were alike; smoothed; what they suggest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float

    @property
    def lowest(self) -> float:
        """The rate of the lowest smoothed loss."""
        return self.rates[self.smoothed.index(min(self.smoothed))]

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        return (
            f"lr auto: {self.suggestion:g} (in {len(self.rates)} steps from {self.rates[0]:g} to "
            f"{self.rates[-1]:.2g} the loss fell until {self.lowest:.2g})"
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
    """Sweep the rates on training batches of a plan, on a module of its own. A slow one is announced.

    Batches, micro-batches, augmentation and optimizer are the run's. Raises: DlcliError when no rate
    makes the loss fall.
    """
    with rehearsal(plan) as made:
        job = made.job
        steps = max(FEWEST_STEPS, min(MOST_STEPS, job.total_steps))
        first, _ = plan.build()
        rates, losses = _sweep(job, place(first, job.device), steps, emit)
    return suggest(rates, losses)


def _sweep(job: FitJob, first: nn.Module, steps: int, emit: Emit) -> tuple[list[float], list[float]]:
    """The rates, and the loss of each step's batch before the step, until it is four times the lowest.

    ``first`` has the first weights and keeps them.
    """
    rates: list[float] = []
    losses: list[float] = []
    untrained: list[float] = []
    set_train_mode(job.model.module)
    job.model.freezing.apply(first, 0.0)
    set_train_mode(first)
    lowest, mean, weight = math.inf, 0.0, 0.0
    t0 = time.perf_counter()
    batches = training_batches(job)
    for rate, batch in zip(np.geomspace(LOWEST, HIGHEST, steps).tolist(), batches, strict=False):
        set_lr(job.optimizer, rate)
        output = optimizer_step(job, batch, batch.count)
        loss = float(output.loss_sum) / max(float(output.count), 1.0)
        if not math.isfinite(loss):
            break
        if not bool(output.updated):
            if job.scaler.is_enabled():
                continue  # fp16 finds its scale in the first steps, and makes no update until then
            break
        rates.append(rate)
        losses.append(loss)
        untrained.append(_loss(job, first, batch))
        mean, weight = 0.8 * mean + 0.2 * loss, 0.8 * weight + 0.2
        lowest = min(lowest, mean / weight)
        if mean / weight > STOP_AT * lowest:
            break
        if len(rates) == 3:
            left = (time.perf_counter() - t0) / 3 * steps
            if left > _SLOW_S:
                emit(Noted(f"lr auto: a sweep of {steps} steps, about {left:.0f} s"))
    batches.close()
    alike = np.asarray(losses) - np.asarray(untrained) + np.mean(untrained)
    return rates, alike.tolist()


@torch.no_grad()
def _loss(job: FitJob, module: nn.Module, batch: Batch) -> float:
    """The mean loss of a batch, in micro-batches, in training mode."""
    sums = [job.objective(module, part) for part in micro_batches(job, batch)]
    return float(sum(s.loss for s in sums)) / max(float(sum(s.count for s in sums)), 1.0)


def suggest(rates: list[float], losses: list[float]) -> LrSweep:
    """The rate that has done four fifths of the descent, but a third of the lowest loss's at most.

    The steepest point, the usual choice, lies near it where the curve is smooth; on noisy ones with
    several steep points it differed from seed to seed by up to 50 times, this by up to 20.

    Raises: DlcliError where the losses never fall below their first level by more than their scatter.
    """
    where, values = np.log10(np.asarray(rates)), np.asarray(losses, dtype=np.float64)
    if len(values) < 10:
        raise _no_descent(f"the loss was no finite number after {len(values)} steps")
    first = where <= math.log10(_LEVEL)
    level = float(np.median(values[first]))
    # One batch far above all others must not bend the curve around it.
    smoothed, shrunk = _smooth(where, np.minimum(values, 1.5 * level))
    lowest = int(np.argmin(smoothed))
    rest = values - smoothed
    way = where <= where[lowest]  # what comes behind explodes
    end = way & (where >= where[lowest] - 0.6)
    at_lowest = max(_scatter(rest[part]) for part in (first, way, end)) * shrunk[lowest]
    # A median scatters by a quarter more than a mean.
    at_level = 1.25 * _scatter(rest[first]) / math.sqrt(first.sum())
    sure = _SURE * math.hypot(at_lowest, at_level)
    if level - smoothed[lowest] <= max(sure, 0.01 * level):
        raise _no_descent(f"the loss stayed near {level:.4g} in {len(values)} steps")
    down = int(np.argmax(smoothed <= level - DOWN * (level - smoothed[lowest])))
    rate = min(rates[down], rates[lowest] / MARGIN)
    return LrSweep(tuple(rates), tuple(losses), tuple(smoothed.tolist()), float(f"{rate:.1e}"))


def _smooth(where: Curve, values: Curve) -> tuple[Curve, Curve]:
    """Means weighted by a normal curve around each rate, and how far each scatters for 1 of a value."""
    weights = np.exp(-0.5 * ((where[:, None] - where[None, :]) / _SMOOTH) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ values, np.sqrt((weights**2).sum(axis=1))


def _scatter(rest: Curve) -> float:
    """The deviation of losses by what smoothing took off, robust against single ones."""
    return 1.4826 * float(np.median(np.abs(rest)))


def _no_descent(why: str) -> DlcliError:
    return DlcliError(
        f"--lr auto found no learning rate between {LOWEST:g} and {HIGHEST:g} that makes the loss fall: "
        f"{why}",
        hint="give one, such as --lr 1e-3; a model that has learnt these data already falls no further, "
        "and batches of few samples scatter too much to see it: try a larger --batch-size",
    )
