"""``--lr auto``: sweep the learning rate over a few steps and suggest one from the losses.

Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3, in the form
of fast.ai: the rate rises exponentially from step to step. Two things differ. The loss of the initial
weights on the same batch is subtracted from each loss, since differences between batches can be larger
than the descent. And losses are smoothed symmetrically around each step, since smoothing over earlier
steps alone shifts the curve to higher rates.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import nn

from dlcli.events import Emit, Noted
from dlcli.training.autotune.lr_sweep import HIGHEST, LOWEST, LrSweep, suggest
from dlcli.training.autotune.trial import training_batches, trial_job
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.loader import Batch
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import micro_batches, optimizer_step
from dlcli.training.optim.make import set_lr
from dlcli.training.plan import Plan
from dlcli.zoo.forward import place

MOST_STEPS, FEWEST_STEPS = 100, 50
STOP_FACTOR = 4.0  # stop at this multiple of the lowest loss
_ANNOUNCED_S = 20.0  # a sweep that takes longer is announced


def find_lr(plan: Plan, emit: Emit) -> LrSweep:
    """Sweep the learning rate on training batches of a plan, on a model of its own.

    Batches, micro-batches, augmentation and optimizer are the run's. A slow sweep is announced. Raises:
    DlcliError when no rate makes the loss fall.
    """
    with trial_job(plan) as trial:
        job = trial.job
        steps = max(FEWEST_STEPS, min(MOST_STEPS, job.total_steps))
        initial, *_ = plan.build()
        rates, losses = _sweep(job, place(initial, job.device), steps, emit)
    return suggest(rates, losses)


def _sweep(job: FitJob, initial: nn.Module, steps: int, emit: Emit) -> tuple[list[float], list[float]]:
    """Return the rates and the losses before each step, until the loss is four times the lowest.

    ``initial`` has the initial weights and keeps them.
    """
    rates: list[float] = []
    losses: list[float] = []
    untrained: list[float] = []
    set_train_mode(job.model.module)
    job.model.freezing.apply(initial, 0.0)
    set_train_mode(initial)
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
                continue  # fp16: the first steps only adapt the loss scale
            break
        rates.append(rate)
        losses.append(loss)
        untrained.append(_mean_loss(job, initial, batch))
        mean, weight = 0.8 * mean + 0.2 * loss, 0.8 * weight + 0.2
        lowest = min(lowest, mean / weight)
        if mean / weight > STOP_FACTOR * lowest:
            break
        if len(rates) == 3:
            left = (time.perf_counter() - t0) / 3 * steps
            if left > _ANNOUNCED_S:
                emit(Noted(f"lr auto: a sweep of {steps} steps, about {left:.0f} s"))
    batches.close()
    corrected = np.asarray(losses) - np.asarray(untrained) + np.mean(untrained)
    return rates, corrected.tolist()


@torch.no_grad()
def _mean_loss(job: FitJob, module: nn.Module, batch: Batch) -> float:
    """Mean loss of a batch, in micro-batches, in training mode."""
    sums = [job.objective(module, part) for part in micro_batches(job, batch)]
    return float(sum(s.loss for s in sums)) / max(float(sum(s.count for s in sums)), 1.0)
