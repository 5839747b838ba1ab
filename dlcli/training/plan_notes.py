"""What the plan on the screen says of a run beside its rows, as sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from dlcli.config import TrainConfig
from dlcli.training.activation_checkpointing import saving_sentence
from dlcli.training.distributed.world import World
from dlcli.training.loop.fit import FitJob
from dlcli.training.loop.state import Progress
from dlcli.training.loop.step import micro_batches, set_train_mode
from dlcli.training.plan import Plan
from dlcli.zoo.forward import model_inputs


def notes_of(plan: Plan, job: FitJob) -> list[str]:
    """All of them, but for what was said while the job was made."""
    notes = _overfit(plan, job)
    if plan.config.fit.grad_checkpointing != "none":
        notes.append(_saving(job))
    notes += [*job.freezing.sentences, *_exactness(plan, job)]
    return [*notes, *_kept(plan.config), *_limits(plan.config)]


def division(config: TrainConfig, world: World, micro: int) -> str:
    """ "256 = 2 devices x 4 micro-batches x 32"; empty where nothing is divided."""
    whole = config.fit.step_samples
    parts = math.ceil(math.ceil(whole / world.size) / micro)
    if world.size == 1 and parts == 1:
        return ""
    factors = [f"{world.size} devices"] if world.size > 1 else []
    factors += [f"{parts} micro-batches"] if parts > 1 else []
    exact = world.size * parts * micro == whole
    return f"{whole} = {' x '.join(factors)} x {'' if exact else 'up to '}{micro}"


def _exactness(plan: Plan, job: FitJob) -> Iterator[str]:
    """What dividing a batch changes after all."""
    config, module, micro, size = plan.config, job.module, job.micro, job.world.size
    divided = micro < config.fit.step_samples
    norms = any(map(is_batch_norm, module.modules()))
    if divided and norms:
        seen = micro * size if job.synchronised else micro
        if seen < config.fit.step_samples:
            over = f" on {size} devices" if job.synchronised else ""
            each = f"each micro-batch{over}"
            yield f"batch norms see {seen} samples at a time ({each}), not the whole batch"
        else:
            yield "batch norms see the whole batch: their sums are added up over the devices"
    if divided and plan.task.kind == "embedding":
        yield f"triplets are formed among {micro} samples at a time, not among the whole batch"
    if divided and any(isinstance(sub, nn.Dropout) and sub.p > 0 for sub in module.modules()):
        yield "dropout draws other masks than it would for the undivided batch"


def _kept(config: TrainConfig) -> Iterator[str]:
    """Which weights are evaluated and kept."""
    if config.fit.ema is not None:
        yield f"evaluated and kept: a moving average of the weights, decay {config.fit.ema:g}"
    if config.fit.swa is not None:
        yield f"averaged from {config.fit.swa:.0%} of the run on: the weights at the end of each epoch"
    if config.fit.deterministic:
        yield "deterministic: the same bits on the same device, driver and version of torch"
    if config.fit.keep_best > 1:
        yield f"the models of the best {config.fit.keep_best} epochs are kept"
    if config.loss.teacher is not None:
        teacher, alpha = Path(config.loss.teacher), config.loss.distill_alpha
        share = "the whole loss" if alpha == 1 else f"{alpha:.3g} of the loss"
        yield (
            f"distilled from {teacher.parent.name}/{teacher.name}: its answers are {share}, "
            f"temperature {config.loss.temperature:g}"
        )


def _limits(config: TrainConfig) -> Iterator[str]:
    """What may end the run before its last epoch."""
    if config.fit.patience is not None:
        yield f"stops after {config.fit.patience} epochs without a better metric"
    if config.fit.max_time is not None:
        fits = config.optim.scheduler in ("constant", "plateau")
        yield f"stops after {config.fit.max_time} of training in all" + (
            "" if fits else "; the schedule is for all the steps, so then the rate has not fallen"
        )


def _overfit(plan: Plan, job: FitJob) -> list[str]:
    if plan.config.fit.overfit_batches is None:
        return []
    return [
        f"a test: the same {len(job.batches.reader)} samples are learnt and validated on, without "
        "augmentation; a sound model gets nearly all of them right"
    ]


def _saving(job: FitJob) -> str:
    """What gradient checkpointing saves, measured on one micro-batch."""
    batch = next(job.batches.epoch(0))
    share = batch if len(batch) else job.batches.stand_in()
    part = micro_batches(job, share, Progress())[0]
    set_train_mode(job.module)
    inputs = model_inputs(part.inputs, job.task)
    with job.precision.autocast():
        return saving_sentence(job.module, inputs, lambda outputs: outputs.float().sum())


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a layer keeps running statistics of its batches."""
    return hasattr(module, "running_mean")
