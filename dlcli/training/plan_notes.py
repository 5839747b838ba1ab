"""What the plan on the screen says of a run beside its rows, as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from dlcli.config import TrainConfig
from dlcli.training.activation_checkpointing import saving_sentence
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import micro_batches
from dlcli.training.plan import Plan
from dlcli.zoo.forward import model_inputs


def notes_of(plan: Plan, job: FitJob) -> list[str]:
    """All of them, but for what was said while the job was made."""
    notes = _overfit(plan, job)
    if plan.config.fit.grad_checkpointing != "none":
        notes.append(_saving(job))
    notes += [*job.model.freezing.sentences, *_exactness(plan, job)]
    return [*notes, *_kept(plan.config), *_limits(plan.config)]


def _exactness(plan: Plan, job: FitJob) -> Iterator[str]:
    """What dividing a batch changes after all."""
    module, synchronised, size = job.model.module, job.model.sync_batch_norm, job.world.size
    whole, micro = job.batches.plan.global_batch, job.batches.plan.micro_batch
    divided = micro < whole
    norms = any(map(is_batch_norm, module.modules()))
    if divided and norms:
        seen = micro * size if synchronised else micro
        if seen < whole:
            over = f" on {size} devices" if synchronised else ""
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
    share = batch if len(batch) else job.batches.example()
    part = micro_batches(job, share)[0]
    set_train_mode(job.model.module)
    inputs = model_inputs(part.inputs, job.task)
    with job.precision.autocast():
        return saving_sentence(job.model.module, inputs, lambda outputs: outputs.float().sum())


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a layer keeps running statistics of its batches."""
    return hasattr(module, "running_mean")
