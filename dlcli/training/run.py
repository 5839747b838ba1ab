"""One training run from plan to result: its folder, its record, its end."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from dlcli.config import LossConfig, ModelConfig
from dlcli.data.base import Reader
from dlcli.data.splits import write_splits
from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.evaluation.evaluate import evaluate
from dlcli.evaluation.metrics import EvalResult, metric_names
from dlcli.events import Emit, Event, ModelReady, Noted, RunStarted, Warned, ignore
from dlcli.files import sha256_file, write_json, write_text
from dlcli.formats.base import Runtime, recognize
from dlcli.formats.checkpoint import open_checkpoint, save_model
from dlcli.runs.folder import RunFolder, create_run, read_events, started_now, versions
from dlcli.settings import dump_yaml, flat
from dlcli.training.activation_checkpointing import checkpoint_segments
from dlcli.training.augmentation.augment import make_augment
from dlcli.training.build_job import Prepared, make_job
from dlcli.training.class_balance import balance_plan
from dlcli.training.diagnostics.hints import Hints
from dlcli.training.distillation import open_teacher
from dlcli.training.distributed.world import ALONE, World
from dlcli.training.loop.determinism import derive_seed, make_deterministic
from dlcli.training.loop.epoch_end import reopen
from dlcli.training.loop.fit import FitResult, fit
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.state import Progress, TrainingState
from dlcli.training.loop.step import OutOfMemory
from dlcli.training.loop.timing import CheckpointEvery, parse_time
from dlcli.training.losses.make import check_loss
from dlcli.training.model_card import make_card
from dlcli.training.optim.freezing import parse_freezing
from dlcli.training.optim.make import check_optim, make_optimizer
from dlcli.training.plan import Plan
from dlcli.training.precision import resolve_precision
from dlcli.training.readers import make_readers
from dlcli.zoo.base import find_model
from dlcli.zoo.device import describe_device, resolve_device
from dlcli.zoo.forward import model_inputs


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
    teacher = plan.config.loss.teacher
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
            "teacher_sha256": sha256_file(Path(teacher)) if teacher else None,
            "plan": {
                "model": plan.model.model_dump(mode="json"),
                "task": plan.task.model_dump(mode="json"),
                "weights_from": plan.weights_from,
                "transforms": [record.model_dump(mode="json") for record in plan.transforms],
                "parent": plan.parent,
            },
            "warnings": list(plan.warnings),
            "notes": list(plan.notes),
        }
    )
    if plan.parent is not None:
        module, _ = plan.build()
        save_model(run.start, module, make_card(plan, module))
    return run


def check_settings(plan: Plan) -> None:
    """Refuse what would only fail after the first epoch. Raises: UsageError, DlcliError."""
    config = plan.config
    CheckpointEvery.parse(config.fit.checkpoint_every)
    parse_time(config.fit.max_time)
    known = metric_names(plan.task)
    if plan.monitor not in known:
        short = plan.monitor.removeprefix("val_")  # as the screen has it: val_acc, val_f1
        meant = next((name for name in known if name.startswith(short)), None)
        raise UsageError(
            f"--monitor {plan.monitor!r} is no metric here",
            hint=f"did you mean {meant!r}?" if meant and short else nearest(plan.monitor, known),
        )
    if plan.said is not None:  # a run that goes on was checked when it was made
        check_optim(config.optim, plan.said.optim)
        check_loss(plan.task, plan.said.loss, focal=config.data.balance == "focal")
    balance_plan(config.data.balance, plan.task, plan.source.splits["train"].targets)
    if plan.task.kind != "embedding" and config.model.embedding_size != ModelConfig().embedding_size:
        raise UsageError(
            f"--embedding-size is for --task embedding, and this is {plan.task.kind}",
            hint="leave it out",
        )
    device = resolve_device(config.fit.device)
    resolve_precision(config.fit.amp, device)
    make_augment(config.augment, plan.task, samples=1, seed=0, device=device)
    if config.fit.compile != "none" and config.fit.grad_checkpointing != "none":
        raise UsageError(
            "--compile and --grad-checkpointing do not work together", hint="use one of them"
        )
    if config.fit.histograms and not config.fit.tensorboard:
        raise UsageError("fit.histograms are for TensorBoard", hint="add --tensorboard")
    layers = (config.model.freeze, config.model.unfreeze, config.fit.grad_checkpointing)
    named = config.model.weights is not None and plan.initial is not None
    if named or layers != ("none", None, "none") or config.optim.optimizer == "muon":
        module, _ = plan.build()  # a file of another model, names of other layers
        head = find_model(plan.model.name, plan.task.input.kind).head(module)
        freezing = parse_freezing(module, config.model.freeze, config.model.unfreeze, head=head)
        make_optimizer(module, config.optim, head=head, never=freezing.never)
        checkpoint_segments(module, config.fit.grad_checkpointing)
    if config.loss.teacher is None:
        for name, flag in (("distill_alpha", "--distill-alpha"), ("temperature", "--temperature")):
            if getattr(config.loss, name) != getattr(LossConfig(), name):
                raise UsageError(f"{flag} is for learning from a teacher", hint="add --teacher RUN")
    else:
        open_teacher(Path(config.loss.teacher), plan.task, torch.device("cpu"))


def train(
    plan: Plan, run: RunFolder, emit: Emit, *, state: TrainingState | None, world: World = ALONE
) -> TrainResult:
    """Train a run from ``state`` to its end, an early stop or a signal; then check its best model.

    Every process of ``world`` calls this; only the main one writes files, and only its ``emit`` should
    show anything. Raises: DlcliError; what was saved before stays whole.
    """
    try:
        return _train(plan, run, _with_hints(emit, run) if world.main else ignore, state, world)
    except OutOfMemory as exc:
        write_json(run.micro, {"micro": exc.micro_batch})
        raise
    except BaseException as exc:
        if world.main:
            run.update_record(status="failed")
        if "deterministic implementation" in str(exc):
            raise DlcliError(
                f"--deterministic: {str(exc).partition('. ')[0]}",
                hint="leave --deterministic out, or use another model or device",
            ) from exc
        raise


def _train(
    plan: Plan, run: RunFolder, emit: Emit, state: TrainingState | None, world: World
) -> TrainResult:
    config = plan.config.fit
    device = world.device(config.device)
    make_deterministic(config.deterministic, device)
    module, said = plan.build()
    warnings = list(dict.fromkeys([*plan.warnings, *said]))  # a resumed run has said some before
    readers = make_readers(plan, world)
    prepared = make_job(plan, run, module, readers, device, emit, world)
    job, progress = prepared.job, Progress()
    if world.rank:  # alike so far; from here on each draws its own masks
        torch.manual_seed(derive_seed(config.seed, world.rank, 0))
    if state is not None:
        progress = state.progress
        if not state.same_optimizer(job.optimizer):
            warnings.append("another optimizer than before: it goes on without the former one's state")
        if not state.restore(
            job.model.module, job.optimizer, job.scaler, job.model.averages, world.rank
        ):
            torch.manual_seed(derive_seed(config.seed, world.rank, progress.step))
        reopen(job, progress)
    for message in warnings:
        emit(Warned(message))
    for split, reader in readers.items():
        for notice in reader.notices:
            emit(Warned(notice.prefixed(split).message))
    emit(started(plan, run, prepared, progress, device))
    if config.tensorboard and world.main:
        emit(ModelReady(job.model.module, _example(job)))
    if world.main:
        run.update_record(status="running", warnings=warnings)
    return _finish(plan, run, job, readers, fit(job, progress), warnings)


def _finish(
    plan: Plan,
    run: RunFolder,
    job: FitJob,
    readers: dict[str, Reader],
    result: FitResult,
    warnings: list[str],
) -> TrainResult:
    """The run's record, and the metrics of the best model as it was read back from its file."""
    found = {**readers["train"].bad, **readers["val"].bad}
    others = job.world.gather(found)
    validation, bad = None, found
    if job.world.main:
        before = run.read_record().get("bad_samples", {})  # found before a resumed run was stopped
        bad = dict(before)
        for names in others:
            bad |= names
        run.update_record(
            status="finished" if result.signum is None else "interrupted",
            stopped_early=result.progress.stopped_early,
            reason=result.progress.reason,
            epochs_done=result.progress.epochs_begun,
            bad_samples=bad,
            device=describe_device(job.device),
            world_size=job.world.size,
            micro_batch=job.batches.plan.micro_batch,
        )
        if bad:
            job.emit(Warned(_bad_sentence(bad, run)))
        if result.signum is None:
            best = open_checkpoint(recognize(run.best), Runtime(str(job.device)))
            validation = evaluate(best.predict, readers["val"], plan.task, split="val")
    return TrainResult(run, result, validation, plan.monitor, tuple(warnings), bad)


def _with_hints(emit: Emit, run: RunFolder) -> Emit:
    """``emit``, followed by the hints that an event gives rise to."""
    hints = Hints()
    if run.metrics.is_file():
        hints.recall(read_events(run.metrics))

    def both(event: Event) -> None:
        emit(event)
        for said in hints(event):
            emit(Noted(said))

    return both


def _example(job: FitJob) -> tuple[torch.Tensor, ...]:
    """A small batch as the module takes it."""
    batch = job.batches.example()
    return model_inputs(batch.inputs, job.task)


def started(
    plan: Plan, run: RunFolder, prepared: Prepared, progress: Progress, device: torch.device
) -> RunStarted:
    """The plan of a run as an event, for screens and sinks."""
    job, config = prepared.job, plan.config
    parameters = list(job.model.module.parameters())
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
        notes=(*plan.notes, *prepared.notes),
        epochs=config.fit.epochs,
        steps_per_epoch=len(job.batches),
        total_steps=job.total_steps,
        batch_size=config.fit.step_samples,
        optimizer=config.optim.optimizer,
        scheduler=config.optim.scheduler,
        lr=config.optim.peak_lr,
        device=describe_device(device),
        amp=job.precision.name,
        monitor=plan.monitor,
        resumed_step=progress.step,
        world_size=job.world.size,
        division=prepared.division,
        schedule=prepared.schedule,
        loss=prepared.loss,
        settings=flat(config),
    )


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
