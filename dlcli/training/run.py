"""Train one run: create its folder, train, complete its record."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from dlcli.data.base import Reader
from dlcli.data.splits import write_splits
from dlcli.errors import DlcliError, Interrupted
from dlcli.evaluation.baselines.compare import compare_with_baselines
from dlcli.evaluation.evaluate import count
from dlcli.evaluation.examples import add_examples
from dlcli.evaluation.metrics import EvalResult
from dlcli.evaluation.metrics.base import WorstRow
from dlcli.evaluation.worst import SHOWN, SampleLosses, worst_rows
from dlcli.events import Emit, ModelReady, Warned, ignore
from dlcli.files import finite, sha256_file, write_json, write_text
from dlcli.formats.adapter import has_adapter, save_adapter
from dlcli.formats.base import Runtime, recognize
from dlcli.formats.checkpoint import card_of, open_checkpoint, save_model
from dlcli.runs.code import copy_code
from dlcli.runs.folder import RunFolder, create_run, resume_command, started_now, versions
from dlcli.runs.saved import settings_entry
from dlcli.settings import dump_yaml
from dlcli.signals import signum_of
from dlcli.training.build_job import make_job
from dlcli.training.code_errors import code_errors
from dlcli.training.distributed.world import ALONE, World
from dlcli.training.estimators import Place, fit_model, is_fitted
from dlcli.training.loop.determinism import derive_seed, make_deterministic, restore_rng
from dlcli.training.loop.epoch_end import reopen
from dlcli.training.loop.fit import FitResult, fit
from dlcli.training.loop.job import FitJob, Prune
from dlcli.training.loop.phases import time_record
from dlcli.training.loop.state import Progress, TrainingState
from dlcli.training.loop.step import OutOfMemory
from dlcli.training.model_card import make_card
from dlcli.training.optim.optimizer_state import load_entries
from dlcli.training.plan import Plan
from dlcli.training.prepare import PreparedRun
from dlcli.training.readers import make_readers
from dlcli.training.run_events import run_started, with_hints, with_notices
from dlcli.training.run_facts import run_facts
from dlcli.zoo.device import describe_device, training_threads
from dlcli.zoo.forward import model_inputs


@dataclass(frozen=True)
class TrainResult:
    """The result of `train`.

    ``validation`` is of the best model, loaded from its file, with simple baselines by ``monitor``.
    """

    run: RunFolder
    fit: FitResult
    validation: EvalResult | None
    monitor: str
    warnings: tuple[str, ...]
    bad_samples: dict[str, str]


def new_run(
    prepared: PreparedRun,
    root: Path,
    name: str | None,
    origins: Mapping[str, str] = MappingProxyType({}),
) -> RunFolder:
    """Create a folder with the run's settings, record and splits. Raises: DlcliError.

    ``origins`` says where settings that are not the default came from, by dotted key.
    """
    plan = prepared.plan
    teacher = plan.config.loss.teacher
    run = create_run(root, name or f"{plan.model.name.rpartition(':')[2]}-{plan.source.name}")
    write_text(run.config, dump_yaml(plan.config))
    write_splits(run.splits, plan.source)
    if plan.parent is not None:
        save_model(run.start, prepared.module, make_card(plan, prepared.module))
    run.write_record(  # last: what has a record can be resumed
        {
            **started_now(run.path.parent),
            **settings_entry(plan.config),
            **copy_code(run, plan.config),
            "status": "running",
            "seed": plan.config.fit.seed,
            "versions": versions(),
            "git": _git_commit(),
            "fingerprint": plan.source.fingerprint,
            "teacher_sha256": sha256_file(Path(teacher)) if teacher else None,
            "word_vectors_sha256": plan.word_vectors and list(plan.word_vectors.digests),
            "plan": {
                "model": plan.model.model_dump(mode="json"),
                "task": plan.task.model_dump(mode="json"),
                "weights_from": plan.weights_from,
                "transforms": [record.model_dump(mode="json") for record in plan.transforms],
                "parent": plan.parent,
            },
            "warnings": list(plan.warnings),
            "notes": list(plan.notes),
            "origins": dict(origins),
            **run_facts(prepared),
        }
    )
    return run


def train(
    prepared: PreparedRun,
    run: RunFolder,
    emit: Emit,
    *,
    state: TrainingState | None,
    world: World = ALONE,
    prune: Prune | None = None,
) -> TrainResult:
    """Train a run from ``state`` to its end, an early stop or a signal; then validate its best model.

    Every process of ``world`` calls this; only the main one writes files and emits events. ``prune`` is
    that of a `FitJob`. Raises: DlcliError, Interrupted; models and states saved before stay valid.
    """
    try:
        with code_errors(), training_threads(prepared.plan.config.fit.threads, world.local_size):
            emit = with_hints(emit, run) if world.main else ignore
            return _train(prepared, run, emit, state, world, prune)
    except OutOfMemory as exc:
        write_json(run.micro, {"micro": exc.micro_batch})
        raise
    except KeyboardInterrupt as exc:  # before or after the loop, which takes signals itself
        if world.main:
            run.update_record(status="interrupted")
        raise Interrupted(
            f"interrupted; run {run.name} has not ended",
            signum=signum_of(exc),
            hint=f"resume with: {resume_command(run)}",
        ) from exc
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
    prepared: PreparedRun,
    run: RunFolder,
    emit: Emit,
    state: TrainingState | None,
    world: World,
    prune: Prune | None,
) -> TrainResult:
    plan = prepared.plan
    config, device = plan.config.fit, world.device(plan.config.fit.device)
    make_deterministic(config.deterministic, device)
    restore_rng(*prepared.rng_state)
    # The record of a resumed run has some of these already.
    warnings = list(dict.fromkeys([*plan.warnings, *prepared.load_notes]))
    readers = make_readers(plan, world)
    if world.main:
        emit = with_notices(emit, readers)
    if is_fitted(plan):
        return _fit_whole(plan, run, readers, Place(emit, world, device), warnings)
    built = make_job(plan, run, prepared.module, prepared.teacher, readers, device, emit, world)
    job, progress = built.job, Progress()
    job.prune = prune
    if world.rank:  # the same on all ranks until here; each draws its own dropout masks
        torch.manual_seed(derive_seed(config.seed, world.rank, 0))
    if state is None and prepared.optimizer_entries:
        load_entries(job.model.module, job.optimizer, prepared.optimizer_entries)
    if state is not None:
        progress = _restore(job, state, world, warnings)
    for message in warnings:
        emit(Warned(message))
    emit(run_started(plan, run, built, progress, device))
    if config.tensorboard and world.main:
        emit(ModelReady(job.model.module, _example(job)))
    if world.main:
        run.update_record(status="running", warnings=warnings)
    try:
        result, place = fit(job, progress), Place(emit, world, device)
        micro_batch = job.batches.plan.micro_batch
        return _finish(plan, run, place, readers, result, warnings, micro_batch=micro_batch)
    finally:
        for reader in readers.values():
            reader.close()


def _restore(job: FitJob, state: TrainingState, world: World, warnings: list[str]) -> Progress:
    """Restore a job from a state, and let it go on; adds to ``warnings``."""
    progress = state.progress
    if not state.same_optimizer(job.optimizer):
        warnings.append("the optimizer has changed, so it starts without a state")
    if not state.restore(job.model.module, job.optimizer, job.scaler, job.model.averages, world.rank):
        torch.manual_seed(derive_seed(job.config.seed, world.rank, progress.step))
    reopen(job, progress)
    return progress


def _fit_whole(
    plan: Plan,
    run: RunFolder,
    readers: dict[str, Reader],
    place: Place,
    warnings: list[str],
) -> TrainResult:
    """Fit a model that is not trained by gradient, in the main process, and complete its run."""
    for message in warnings:
        place.emit(Warned(message))
    if place.world.main:
        run.update_record(status="running", warnings=warnings)
    try:
        plan, result = place.world.run_on_main(lambda: fit_model(plan, run, readers, place))
        return _finish(plan, run, place, readers, result, warnings)
    finally:
        for reader in readers.values():
            reader.close()


def _finish(
    plan: Plan,
    run: RunFolder,
    place: Place,
    readers: dict[str, Reader],
    result: FitResult,
    warnings: list[str],
    *,
    micro_batch: int | None = None,
) -> TrainResult:
    """Complete the run's record, validate the best model, loaded from its file, next to baselines."""
    bad_local = {name: why for reader in readers.values() for name, why in reader.bad.items()}
    bad_by_rank = place.world.gather(bad_local)
    validation, bad = None, bad_local
    if place.world.main:
        bad = dict(run.read_record().get("bad_samples", {}))  # from before a resume
        for samples in bad_by_rank:
            bad |= samples
        run.update_record(
            status="finished" if result.signum is None else "interrupted",
            stopped_early=result.progress.stopped_early,
            reason=result.progress.reason,
            epochs_done=result.progress.epochs_begun,
            time=time_record(result.progress),
            bad_samples=bad,
            device=describe_device(place.device),
            world_size=place.world.size,
            micro_batch=micro_batch,
        )
        if bad:
            place.emit(Warned(_bad_samples_sentence(bad, run)))
        if result.signum is None:
            if has_adapter(card_of(run.best)):
                save_adapter(run.best, run.adapter)
            best = open_checkpoint(recognize(run.best), Runtime(str(place.device)))
            losses = SampleLosses(plan.task)
            counts = count(best.predict, readers["val"], plan.task, split="val", each=losses.update)
            baselines = compare_with_baselines(
                plan.task, readers["train"], readers["val"], counts, metric=plan.monitor
            )
            run.update_record(baselines=finite([asdict(row) for row in baselines]))
            own = counts.result("val", readers["val"].bad)
            own = add_examples(own, best.predict, readers["val"], plan.task)
            worst: tuple[WorstRow, ...] = ()
            if plan.task.kind != "embedding":  # no sample has a loss of its own
                reader = readers["val"]
                worst = worst_rows(best.predict, plan.task, reader, losses, counts, shown=SHOWN)
            validation = replace(own, baselines=baselines, worst=worst)
    return TrainResult(run, result, validation, plan.monitor, tuple(warnings), bad)


def _example(job: FitJob) -> tuple[torch.Tensor, ...]:
    """The module's inputs for a small batch."""
    batch = job.batches.example()
    return model_inputs(batch.inputs, job.task)


def _bad_samples_sentence(bad: dict[str, str], run: RunFolder) -> str:
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
