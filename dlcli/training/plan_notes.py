"""Notes on a run, shown with its plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from dlcli.config import TrainConfig
from dlcli.training.activation_checkpointing import memory_saving_sentence
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import micro_batches
from dlcli.training.lora import lora_sentence, skipped_sentence
from dlcli.training.plan import Plan
from dlcli.zoo.base import find_model
from dlcli.zoo.forward import model_inputs


def plan_notes(plan: Plan, job: FitJob) -> list[str]:
    """Return the notes as sentences, without those that come from building the job."""
    notes = _overfit(plan, job)
    if plan.config.fit.grad_checkpointing != "none":
        notes.append(_activation_memory(job))
    if plan.lora is not None:
        module, record = job.model.module, plan.lora
        notes.append(lora_sentence(module, record, job.model.freezing.never))
        head = find_model(plan.model.name, plan.task.input.kind).head(module)
        skipped = skipped_sentence(module, record, plan.config.model.lora_targets, head)
        notes += [skipped] if skipped else []
    notes += [*job.model.freezing.sentences, *_exactness(plan, job)]
    return [*notes, *_weights(plan.config), *_limits(plan.config)]


def _exactness(plan: Plan, job: FitJob) -> Iterator[str]:
    """What depends on the division of a batch."""
    module, synchronised, size = job.model.module, job.model.sync_batch_norm, job.world.size
    batch, micro = job.batches.plan.global_batch, job.batches.plan.micro_batch
    divided = micro < batch
    norms = any(map(is_batch_norm, module.modules()))
    if divided and norms:
        samples = micro * size if synchronised else micro
        if samples < batch:
            over = f" on {size} devices" if synchronised else ""
            each = f"each micro-batch{over}"
            yield f"batch norms see {samples} samples at a time ({each}), not the whole batch"
        else:
            yield "batch norms see the whole batch: their statistics are synchronised over the devices"
    if divided and plan.task.kind == "embedding":
        yield f"triplets are formed among {micro} samples at a time, not among the whole batch"
    if divided and any(isinstance(sub, nn.Dropout) and sub.p > 0 for sub in module.modules()):
        yield "dropout masks differ from those of the undivided batch"


def _weights(config: TrainConfig) -> Iterator[str]:
    """Which weights are evaluated and saved."""
    if config.fit.ema is not None:
        yield f"evaluated and saved: a moving average of the weights, decay {config.fit.ema:g}"
    if config.fit.swa is not None:
        yield f"stochastic weight averaging from {config.fit.swa:.0%} of the run on, once per epoch"
    if config.fit.compile != "none":
        yield (
            f"torch.compile, mode {config.fit.compile}: the first step compiles the model, which may "
            "take minutes, and so does the first one of another shape"
        )
    if config.fit.deterministic:
        yield "deterministic: the same bits on the same device, driver and version of torch"
    if config.fit.keep_best > 1:
        yield f"the models of the best {config.fit.keep_best} epochs are saved"
    if config.loss.teacher is not None:
        teacher, alpha = Path(config.loss.teacher), config.loss.distill_alpha
        share = "the whole loss" if alpha == 1 else f"{alpha:.3g} of the loss"
        yield (
            f"distilled from {teacher.parent.name}/{teacher.name}: its term is {share}, "
            f"temperature {config.loss.temperature:g}"
        )


def _limits(config: TrainConfig) -> Iterator[str]:
    """What may end the run before its last epoch."""
    if config.fit.patience is not None:
        yield (
            f"stops after {config.fit.patience} epochs without a better metric, or an equal one with a "
            "lower loss; epochs of the warm-up do not count"
        )
    if config.fit.max_time is not None:
        independent = config.optim.scheduler in ("constant", "plateau")
        yield f"stops after {config.fit.max_time} of training in all" + (
            ""
            if independent
            else "; the schedule spans all steps, so the learning rate may not have decayed by then"
        )


def _overfit(plan: Plan, job: FitJob) -> list[str]:
    if plan.config.fit.overfit_batches is None:
        return []
    return [
        f"a test: the same {len(job.batches.reader)} samples are trained and validated on, without "
        "augmentation; a sound model predicts nearly all of them correctly"
    ]


def _activation_memory(job: FitJob) -> str:
    """The memory that activation checkpointing saves, measured on one micro-batch."""
    batch = next(job.batches.epoch(0))
    batch = batch if len(batch) else job.batches.example()
    part = micro_batches(job, batch)[0]
    set_train_mode(job.model.module)
    inputs = model_inputs(part.inputs, job.task)
    with job.precision.autocast():
        return memory_saving_sentence(job.model.module, inputs, lambda outputs: outputs.float().sum())


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether a layer has running statistics."""
    return hasattr(module, "running_mean")
