"""One training run from plan to result: its folder, its files, its job."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlcli import __version__
from dlcli.card import Card
from dlcli.data.base import Reader
from dlcli.data.images.reader import cache_budget
from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.data.splits import write_splits
from dlcli.engine.augment import make_augment
from dlcli.engine.balance import balance_plan
from dlcli.engine.clock import CheckpointEvery
from dlcli.engine.evaluate import evaluate
from dlcli.engine.fit import FitJob, FitResult, fit
from dlcli.engine.loader import TrainBatches
from dlcli.engine.losses import make_loss
from dlcli.engine.metrics import EvalResult, metric_names
from dlcli.engine.optim import make_optimizer
from dlcli.engine.plan import Plan
from dlcli.engine.precision import resolve_precision
from dlcli.engine.state import Progress, TrainingState, save_state
from dlcli.errors import UsageError, nearest
from dlcli.events import Emit, RunStarted, Warned
from dlcli.files import write_text
from dlcli.formats.checkpoint import open_checkpoint, save_model
from dlcli.runs import RunFolder, create_run, started_now
from dlcli.settings import dump_yaml
from dlcli.zoo.runtime import describe_device, place, predict, resolve_device


@dataclass(frozen=True)
class TrainResult:
    """What `train` reports. ``validation`` is of the best model as read back from its file."""

    run: RunFolder
    fit: FitResult
    validation: EvalResult | None
    monitor: str
    warnings: tuple[str, ...]
    bad_samples: dict[str, str]


def new_run(plan: Plan, root: Path, name: str | None) -> RunFolder:
    """A folder with the run's settings, record and splits in it. Raises: DlcliError, UsageError."""
    check_settings(plan)
    run = create_run(root, name or f"{plan.model.name.rpartition(':')[2]}-{plan.source.name}")
    write_text(run.config, dump_yaml(plan.config))
    write_splits(run.splits, plan.source)
    run.write_record(
        {
            **started_now(),
            "status": "running",
            "seed": plan.config.fit.seed,
            "versions": versions(),
            "git": _git_commit(),
            "fingerprint": plan.source.fingerprint,
            "plan": {
                "model": plan.model.model_dump(mode="json"),
                "task": plan.task.model_dump(mode="json"),
                "weights_from": plan.weights_from,
            },
            "warnings": list(plan.warnings),
            "notes": list(plan.notes),
        }
    )
    return run


def check_settings(plan: Plan) -> None:
    """Refuse what would only fail after the first epoch. Raises: UsageError, DlcliError."""
    CheckpointEvery.parse(plan.config.fit.checkpoint_every)
    known = metric_names(plan.task)
    if plan.monitor not in known:
        raise UsageError(
            f"--monitor {plan.monitor!r} is no metric here", hint=nearest(plan.monitor, known)
        )
    balance_plan(plan.config.data.balance, plan.task, plan.source.splits["train"].targets)
    device = resolve_device(plan.config.fit.device)
    resolve_precision(plan.config.fit.amp, device)
    make_augment(plan.config.augment, plan.task, samples=1, seed=0, device=device)
    if plan.config.model.weights is not None and plan.initial is not None:
        plan.build()  # a file of another model


def train(plan: Plan, run: RunFolder, emit: Emit, *, state: TrainingState | None) -> TrainResult:
    """Train a run from ``state`` to its end, an early stop or a signal; then check its best model.

    Raises: DlcliError; what was saved before stays whole.
    """
    device = resolve_device(plan.config.fit.device)
    module, said = plan.build()
    warnings = list(dict.fromkeys([*plan.warnings, *said]))  # a resumed run has said some before
    module = place(module, device)
    readers = {split: make_reader(plan, split, share) for split, share in (("train", 0.9), ("val", 0.1))}
    job = make_job(plan, run, module, readers, device, emit)
    progress = Progress()
    if state is not None:
        state.restore(module, job.optimizer, job.scaler)
        progress = state.progress
        patience = plan.config.fit.patience
        progress.stopped_early = patience is not None and progress.stale_epochs >= patience
        progress.finished = progress.stopped_early or progress.epoch >= plan.config.fit.epochs
    for message in warnings:
        emit(Warned(message))
    for split, reader in readers.items():
        for message in reader.notes:
            emit(Warned(f"{split}: {message}"))
    emit(_started(plan, run, job, progress, readers))
    _update_record(run, status="running", warnings=warnings)
    try:
        result = fit(job, progress)
    except BaseException:
        _update_record(run, status="failed")
        raise
    before = run.read_record().get("bad_samples", {})  # found before a resumed run was stopped
    bad = {**before, **readers["train"].bad, **readers["val"].bad}
    status = "finished" if result.signum is None else "interrupted"
    _update_record(
        run,
        status=status,
        stopped_early=result.progress.stopped_early,
        bad_samples=bad,
        device=describe_device(device),
    )
    if bad:
        emit(Warned(_bad_sentence(bad, run)))
    validation = None
    if result.signum is None:
        best = open_checkpoint(run.best, str(device))
        validation = evaluate(best.predict, readers["val"], plan.task, split="val")
    return TrainResult(run, result, validation, plan.monitor, tuple(warnings), bad)


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers."""
    found = {name: version(name) for name in ("torch", "torchvision", "numpy", "pillow")}
    return {"dlcli": __version__, "python": platform.python_version(), **found}


def make_reader(plan: Plan, split: str, share: float) -> Reader:
    """The reader of a split; it may keep pixels in its ``share`` of the memory that is free."""
    config = plan.config.data
    options = ReadOptions(
        workers=config.workers,
        cache_bytes=int(cache_budget(config.cache) * share),
        on_bad_sample=config.on_bad_sample,
    )
    return kind_of(plan.task).reader(plan.source.splits[split], plan.task, options)


def make_job(
    plan: Plan,
    run: RunFolder,
    module: nn.Module,
    readers: dict[str, Reader],
    device: torch.device,
    emit: Emit,
) -> FitJob:
    """What `fit` works on, with the run's folder behind its callables."""
    config, task = plan.config.fit, plan.task
    train_targets = readers["train"].samples.targets
    balance = balance_plan(plan.config.data.balance, task, train_targets)
    optimizer = make_optimizer(module, plan.config.optim)
    precision = resolve_precision(config.amp, device)
    scaler = precision.scaler()

    def validate(check: Callable[[], None]) -> EvalResult:
        def emit_unless_stopped(event: Any) -> None:
            check()
            emit(event)

        return evaluate(
            lambda inputs: predict(module, inputs, task, device),
            readers["val"],
            task,
            split="val",
            emit=emit_unless_stopped,
        )

    def save_best(result: EvalResult, epoch: int) -> str:
        card = Card(
            model=plan.model,
            task=task,
            metrics={"val": result.metrics},
            data=plan.data_record(),
            weights_from=plan.weights_from,
            params=sum(p.numel() for p in module.parameters()),
            epoch=epoch,
            versions=versions(),
        )
        save_model(run.best, module, card)
        return str(run.best)

    def save(progress: Progress) -> str:
        return str(
            save_state(
                run.state,
                module=module,
                optimizer=optimizer,
                scaler=scaler,
                progress=progress,
                keep=config.keep_states,
            )
        )

    return FitJob(
        run=str(run.path),
        module=module,
        task=task,
        batches=TrainBatches(
            readers["train"],
            batch_size=config.batch_size,
            seed=config.seed,
            device=device,
            draw=balance.order,
        ),
        optimizer=optimizer,
        scaler=scaler,
        precision=precision,
        config=config,
        optim=plan.config.optim,
        loss=make_loss(
            task, plan.config.optim, class_weights=balance.weights, focal=balance.kind == "focal"
        ),
        augment=make_augment(
            plan.config.augment, task, samples=len(readers["train"]), seed=config.seed, device=device
        ),
        monitor=plan.monitor,
        validate=validate,
        save_best=save_best,
        save_state=save,
        emit=emit,
    )


def _started(
    plan: Plan, run: RunFolder, job: FitJob, progress: Progress, readers: dict[str, Reader]
) -> RunStarted:
    parameters = list(job.module.parameters())
    return RunStarted(
        run=str(run.path),
        model=plan.model.name,
        params=sum(p.numel() for p in parameters),
        trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
        data=plan.source.origin,
        samples={name: len(split) for name, split in plan.source.splits.items()},
        kind=plan.source.kind,
        task=plan.task.kind,
        num_classes=plan.task.num_classes,
        input_shape=plan.task.input.shape,
        notes=_notes(plan, job),
        epochs=plan.config.fit.epochs,
        steps_per_epoch=len(job.batches),
        total_steps=job.total_steps,
        batch_size=plan.config.fit.batch_size,
        optimizer=plan.config.optim.optimizer,
        scheduler=plan.config.optim.scheduler,
        lr=plan.config.optim.lr,
        device=describe_device(job.precision.device),
        amp=job.precision.name,
        monitor=plan.monitor,
        resumed_step=progress.step,
    )


def _notes(plan: Plan, job: FitJob) -> tuple[str, ...]:
    """What the plan should show beside its rows."""
    balance = balance_plan(plan.config.data.balance, plan.task, plan.source.splits["train"].targets)
    augmented = "" if job.augment is None else job.augment.sentence
    return tuple(said for said in (*plan.notes, balance.sentence, augmented) if said)


def _update_record(run: RunFolder, **values: Any) -> None:
    run.write_record({**run.read_record(), **values})


def _bad_sentence(bad: dict[str, str], run: RunFolder) -> str:
    name, reason = next(iter(bad.items()))
    return (
        f"unreadable samples left out: {len(bad)}, such as {name} ({reason}); "
        f"all are listed in {run.record}"
    )


def _git_commit() -> str | None:
    """The commit of the folder that the run was started in, where it is in a git checkout."""
    try:
        out = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None
