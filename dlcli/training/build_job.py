"""Build the training loop's job from a plan: model, optimizer, batches, loss, files."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dlcli.config import TrainConfig
from dlcli.data.base import Reader, Targets
from dlcli.events import Emit
from dlcli.files import read_json
from dlcli.runs.folder import RunFolder
from dlcli.task import PAD
from dlcli.training.activation_checkpointing import checkpoint_segments
from dlcli.training.augmentation.augment import Augment, make_augment
from dlcli.training.class_balance import balance_plan
from dlcli.training.compile import compiled
from dlcli.training.distillation import Teacher, distill
from dlcli.training.distributed.world import World
from dlcli.training.frozen_features import use_features
from dlcli.training.loop.batch_plan import BatchPlan
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.loader import TrainBatches
from dlcli.training.loop.model import Forward, TrainableModel
from dlcli.training.loop.objective import Objective
from dlcli.training.loss_check import check_user_loss
from dlcli.training.losses.base import Loss
from dlcli.training.losses.make import loss_name, make_loss
from dlcli.training.losses.user_loss import UserLoss
from dlcli.training.optim.freezing import freezing_of
from dlcli.training.optim.make import make_optimizer
from dlcli.training.optim.schedule import describe
from dlcli.training.plan import Plan
from dlcli.training.plan_notes import is_batch_norm, plan_notes
from dlcli.training.pruning_masks import make_masks
from dlcli.training.readers import WHOLE
from dlcli.training.run_files import RunFolderFiles
from dlcli.training.snapshots import make_snapshot
from dlcli.training.sync_batchnorm import synchronise_batch_norms
from dlcli.training.validation import make_validate
from dlcli.training.weight_averaging import WeightAverage
from dlcli.zoo.base import find_model
from dlcli.zoo.forward import has_images, make_contiguous, place, predict
from dlcli.zoo.precision import Precision, resolve_precision


@dataclass(frozen=True)
class BuiltJob:
    """A job, with descriptions for the screen.

    ``loss`` is its name, ``division`` that of a step's batch, ``schedule`` that of the learning rate.
    """

    job: FitJob
    loss: str
    division: str
    schedule: str
    notes: tuple[str, ...]


def make_job(
    plan: Plan,
    run: RunFolder,
    module: nn.Module,
    teacher: Teacher | None,
    readers: dict[str, Reader],
    device: torch.device,
    emit: Emit,
    world: World,
) -> BuiltJob:
    """Build the job of a plan, whose files go to the run's folder. ``module`` is changed in place.

    Raises: UsageError, DlcliError for settings that do not fit the model.
    """
    config, task = plan.config.fit, plan.task
    head = find_model(plan.model.name, task.input.kind).head(module)
    balance = balance_plan(plan.config.data.balance, task, readers["train"].samples.targets)
    focal = balance.kind == "focal"
    augment = _make_augment(plan, readers["train"], device)
    module, sync_batch_norm = _to_device(plan, module, device, world)
    checkpointing = checkpoint_segments(module, config.grad_checkpointing)
    freezing = freezing_of(module, plan.config, head=head)
    freezing.apply(module, 0.0)
    optimizer = make_optimizer(module, plan.config.optim, head=head, never=freezing.never)
    precision = resolve_precision(config.amp, device)
    scaler = precision.scaler()
    averages = _make_averages(plan.config, module)
    loss = make_loss(task, plan.config.loss, class_weights=balance.weights, focal=focal)
    objective = _make_objective(plan, loss, precision, augment, teacher, device)
    batches = TrainBatches(
        readers["train"],
        _batch_plan(plan, run, world, mirrored=augment is not None and augment.mixes),
        seed=config.seed,
        device=device,
        draw=balance.order,
        count=_count_tokens if task.kind == "seq2seq" else None,
        rank=world.rank,
        grouped=balance.grouped,
        whole=readers.get(WHOLE),
    )

    def wrap(module: nn.Module) -> Forward:
        return compiled(world.wrap(module), config.compile)

    job = FitJob(
        task=task,
        config=config,
        optim=plan.config.optim,
        world=world,
        model=TrainableModel(
            module=module,
            wrap=wrap,
            freezing=freezing,
            averages=averages,
            masks=make_masks(module, plan.transforms),
            sync_batch_norm=sync_batch_norm,
        ),
        batches=batches,
        objective=objective,
        precision=precision,
        optimizer=optimizer,
        scaler=scaler,
        monitor=plan.monitor,
        validate=make_validate(
            lambda inputs: predict(module, inputs, task, device), readers["val"], task, world, emit
        ),
        files=RunFolderFiles(plan, run, world, module, optimizer, scaler, averages),
        snapshot=make_snapshot(plan, module, readers["val"], device, emit, world),
        emit=emit,
    )
    notes = [balance.sentence, "" if augment is None else augment.sentence, checkpointing or ""]
    if isinstance(loss, UserLoss):
        notes += check_user_loss(job, loss)
    if config.cache_features == "on":
        notes.append(use_features(job, readers, head, copies=config.feature_copies))
    return BuiltJob(
        job,
        loss=loss.code.label
        if isinstance(loss, UserLoss)
        else loss_name(task, plan.config.loss, focal=focal),
        division=batches.plan.sentence,
        schedule=describe(
            plan.config.optim, job.total_steps, len(batches), head_steps=job.head_steps(job.total_steps)
        ),
        notes=tuple(note for note in (*notes, *plan_notes(plan, job)) if note),
    )


def _make_augment(plan: Plan, train: Reader, device: torch.device) -> Augment | None:
    config = plan.config.fit
    augment = make_augment(
        plan.config.augment, plan.task, samples=len(train), seed=config.seed, device=device
    )
    return augment if config.overfit_batches is None else None


def _to_device(
    plan: Plan, module: nn.Module, device: torch.device, world: World
) -> tuple[nn.Module, bool]:
    """The module on the device, and whether its batch norms are synchronised over the processes."""
    module = place(module, device)
    if plan.config.fit.channels_last == "off" and has_images(module):
        make_contiguous(module)
    synchronise = world.size > 1 and plan.config.launch.sync_bn
    if not synchronise or not any(map(is_batch_norm, module.modules())):
        return module, False
    return synchronise_batch_norms(module, device), True


def _make_objective(
    plan: Plan,
    loss: Loss,
    precision: Precision,
    augment: Augment | None,
    teacher: Teacher | None,
    device: torch.device,
) -> Objective:
    """The loss of a training step, with a teacher where there is one."""
    if teacher is None:
        return Objective(plan.task, precision, loss, None, augment)
    distilled = distill(loss, plan.task, plan.config.loss)
    return Objective(plan.task, precision, distilled, teacher.to(device), augment)


def _batch_plan(plan: Plan, run: RunFolder, world: World, *, mirrored: bool) -> BatchPlan:
    """The division of a step's batch; its micro-batches are smaller where memory ran out before."""
    limit = int(read_json(run.micro)["micro"]) if run.micro.is_file() else None
    config = plan.config.fit
    return BatchPlan(config.step_samples, world.size, config.grad_accum_steps, mirrored, limit)


def _make_averages(config: TrainConfig, module: nn.Module) -> dict[str, WeightAverage]:
    averages = {}
    if config.fit.ema is not None:
        averages["ema"] = WeightAverage(module, decay=config.fit.ema)
    if config.fit.swa is not None:
        averages["swa"] = WeightAverage(module, decay=None)
    return averages


def _count_tokens(targets: Targets) -> int:
    """The tokens of a batch that the loss counts."""
    return int((targets != PAD).sum())
