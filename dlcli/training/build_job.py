"""From a plan to what `fit` works on: the module as it trains, its optimizer, its files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlcli.config import TrainConfig
from dlcli.data.base import Reader, Targets
from dlcli.evaluation.evaluate import evaluate
from dlcli.evaluation.metrics import EvalResult
from dlcli.events import Emit
from dlcli.files import read_json
from dlcli.formats.checkpoint import save_model
from dlcli.runs.folder import RunFolder
from dlcli.task import PAD, TaskSpec
from dlcli.training.activation_checkpointing import checkpoint_segments
from dlcli.training.augmentation.augment import make_augment
from dlcli.training.class_balance import balance_plan
from dlcli.training.compile import compiled
from dlcli.training.distillation import Teacher, distill, open_teacher
from dlcli.training.distributed.world import World
from dlcli.training.loop.determinism import capture_rng
from dlcli.training.loop.fit import FitJob
from dlcli.training.loop.loader import TrainBatches
from dlcli.training.loop.state import Progress, save_state
from dlcli.training.losses import loss_name, make_loss
from dlcli.training.model_card import make_card
from dlcli.training.optim.freezing import parse_freezing
from dlcli.training.optim.make import make_optimizer
from dlcli.training.optim.schedule import describe
from dlcli.training.plan import Plan
from dlcli.training.plan_notes import division, is_batch_norm, notes_of
from dlcli.training.precision import resolve_precision
from dlcli.training.pruning_masks import make_masks
from dlcli.training.snapshots import make_watch
from dlcli.training.sync_batchnorm import synchronise_batch_norms
from dlcli.training.weight_averaging import WeightAverage
from dlcli.zoo.base import find_model
from dlcli.zoo.forward import place, predict


@dataclass(frozen=True)
class Prepared:
    """A job, and what the plan on the screen says of it.

    The ``loss``'s name, ``division`` of a step's batch, ``schedule`` of the rate, and ``notes``.
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
    readers: dict[str, Reader],
    device: torch.device,
    emit: Emit,
    world: World,
) -> Prepared:
    """What `fit` works on, with the run's folder behind its callables. ``module`` is rewired in place.

    Raises: UsageError, DlcliError for settings that do not fit the model.
    """
    config, task = plan.config.fit, plan.task
    head = find_model(plan.model.name, task.input.kind).head(module)
    balance = balance_plan(plan.config.data.balance, task, readers["train"].samples.targets)
    augment = make_augment(
        plan.config.augment, task, samples=len(readers["train"]), seed=config.seed, device=device
    )
    if config.overfit_batches is not None:
        augment = None
    module = place(module, device)
    notes = [balance.sentence, "" if augment is None else augment.sentence]
    synchronised = (
        world.size > 1 and plan.config.launch.sync_bn and any(map(is_batch_norm, module.modules()))
    )
    if synchronised:
        module = synchronise_batch_norms(module, device)
    notes += [checkpoint_segments(module, config.grad_checkpointing) or ""]
    freezing = parse_freezing(module, plan.config.model.freeze, plan.config.model.unfreeze, head=head)
    freezing.apply(module, 0.0)
    optimizer = make_optimizer(module, plan.config.optim, head=head, never=freezing.never)
    precision = resolve_precision(config.amp, device)
    scaler = precision.scaler()
    averages = _averages(plan.config, module)
    loss = make_loss(
        task, plan.config.loss, class_weights=balance.weights, focal=balance.kind == "focal"
    )
    teacher = _teacher(plan, device)
    micro = _micro_batch(plan.config, world, run)
    batches = TrainBatches(
        readers["train"],
        batch_size=config.step_samples,
        seed=config.seed,
        device=device,
        draw=balance.order,
        count=_tokens if task.kind == "seq2seq" else None,
        rank=world.rank,
        size=world.size,
        mirrored=augment is not None and augment.mixes,
        grouped=balance.grouped,
    )

    def remake() -> Callable[..., torch.Tensor]:
        return compiled(world.wrap(module), config.compile)

    job = FitJob(
        run=str(run.path),
        module=module,
        forward=remake(),
        remake=remake,
        task=task,
        world=world,
        batches=batches,
        optimizer=optimizer,
        scaler=scaler,
        precision=precision,
        config=config,
        optim=plan.config.optim,
        micro=micro,
        synchronised=synchronised,
        loss=loss if teacher is None else distill(loss, task, plan.config.loss),
        teacher=teacher,
        augment=augment,
        freezing=freezing,
        averages=averages,
        masks=make_masks(module, plan.transforms),
        monitor=plan.monitor,
        validate=_validator(module, readers["val"], task, device, world, emit),
        save_model=_model_writer(plan, run, module, world),
        drop_model=lambda name: run.model(name).unlink(missing_ok=True) if world.main else None,
        save_state=lambda progress: _save_state(job, run, progress),
        watch=make_watch(plan, module, readers["val"], device, emit, world),
        emit=emit,
    )
    return Prepared(
        job,
        loss=loss_name(task, plan.config.loss, focal=balance.kind == "focal"),
        division=division(plan.config, world, micro),
        schedule=describe(plan.config.optim, job.total_steps, len(batches)),
        notes=tuple(said for said in (*notes, *notes_of(plan, job)) if said),
    )


def _validator(
    module: nn.Module, reader: Reader, task: TaskSpec, device: torch.device, world: World, emit: Emit
) -> Callable[[Callable[[], None]], EvalResult]:
    def validate(check: Callable[[], None]) -> EvalResult:
        def emit_unless_stopped(event: Any) -> None:
            check()
            emit(event)

        return evaluate(
            lambda inputs: predict(module, inputs, task, device),
            reader,
            task,
            split="val",
            emit=emit_unless_stopped,
            world=world,
        )

    return validate


def _model_writer(
    plan: Plan, run: RunFolder, module: nn.Module, world: World
) -> Callable[[str, EvalResult, int], str]:
    def write(name: str, result: EvalResult, epoch: int) -> str:
        path = run.model(name)

        def save() -> None:
            card = make_card(plan, module, metrics={"val": result.metrics}, epoch=epoch)
            save_model(path, module, card)

        world.lead(save)  # a disk that is full ends all processes, not one
        return str(path)

    return write


def _save_state(job: FitJob, run: RunFolder, progress: Progress) -> str:
    generators = job.world.gather(capture_rng())

    def save() -> str:
        path = save_state(
            run.state,
            module=job.module,
            optimizer=job.optimizer,
            scaler=job.scaler,
            averages=job.averages,
            progress=progress,
            generators=generators,
            keep=job.config.keep_states,
        )
        return str(path)

    return job.world.lead(save)


def _averages(config: TrainConfig, module: nn.Module) -> dict[str, WeightAverage]:
    found = {}
    if config.fit.ema is not None:
        found["ema"] = WeightAverage(module, decay=config.fit.ema)
    if config.fit.swa is not None:
        found["swa"] = WeightAverage(module, decay=None)
    return found


def _teacher(plan: Plan, device: torch.device) -> Teacher | None:
    named = plan.config.loss.teacher
    return None if named is None else open_teacher(Path(named), plan.task, device)


def _tokens(targets: Targets) -> int:
    """The tokens that a loss of texts counts."""
    return int((targets != PAD).sum())


def _micro_batch(config: TrainConfig, world: World, run: RunFolder) -> int:
    """The largest micro-batch: what the settings ask for, or less where memory ran out before."""
    share = math.ceil(config.fit.step_samples / world.size)
    asked = math.ceil(share / config.fit.grad_accum_steps)
    found = read_json(run.micro)["micro"] if run.micro.is_file() else asked
    return max(1, min(asked, int(found)))
