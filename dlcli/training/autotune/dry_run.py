"""``--dry-run``: plan, memory, schedule and time of a run. Nothing is written."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from dlcli.config.durations import parse_time
from dlcli.data.notices import for_split
from dlcli.errors import UsageError
from dlcli.evaluation.evaluate import default_batch_size
from dlcli.events import Emit, Event, RunStarted, Warned
from dlcli.training.autotune.memory import MemoryEstimate, estimate_memory
from dlcli.training.autotune.resolve import resolve_auto
from dlcli.training.autotune.trial import TrialJob, training_batches, trial_job
from dlcli.training.checks import check_plan
from dlcli.training.estimators import is_fitted
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.state import Progress
from dlcli.training.loop.step import micro_batches, optimizer_step
from dlcli.training.plan import Plan
from dlcli.training.run_events import run_started
from dlcli.zoo.forward import predict

TIMED_STEPS = 3
_POINTS = 400  # of the schedule


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds. ``steps`` are the single timed ones, after one to warm up; ``sample`` is of evaluation.

    ``limit`` is ``--max-time``, or None.
    """

    steps: tuple[float, ...]
    sample: float
    training: float
    evaluation: float
    limit: float | None

    @property
    def total(self) -> float:
        """Seconds of the run, at most its limit."""
        seconds = self.training + self.evaluation
        return seconds if self.limit is None else min(seconds, self.limit)


@dataclass(frozen=True)
class DryRun:
    """The estimate of a run. ``started`` is the event that it will begin with.

    ``macs`` are those of one sample. ``memory`` is one device's; ``peak`` what was measured there, None
    on CPUs. ``schedule`` are (step, learning rate), ``unfreeze_steps`` those at which
    layers begin to train.
    """

    plan: Plan
    started: RunStarted
    macs: int
    memory: MemoryEstimate
    peak: int | None
    schedule: tuple[tuple[int, float], ...]
    unfreeze_steps: tuple[int, ...]
    time: TimeEstimate
    warnings: tuple[str, ...]


def dry_run(plan: Plan, emit: Emit) -> DryRun:
    """Build the job of a plan, time a few steps on its first batches, and discard it.

    "auto" is resolved. Of several processes it is the first one's share, alone on its device.
    Raises: UsageError, DlcliError as the run would.
    """
    check_plan(plan)
    if is_fitted(plan):
        raise UsageError(
            f"--dry-run: model {plan.model.name} is fitted whole, in no steps that could be timed",
            hint="train it: trees take seconds; dlcli data shows the data",
        )
    warnings: list[str] = []

    def collect(event: Event) -> None:
        if isinstance(event, Warned):
            warnings.append(event.message)

    plan = resolve_auto(plan, emit)
    with trial_job(plan, share=True, summary=True, emit=collect) as trial:
        job = trial.job
        assert trial.summary is not None
        event = run_started(plan, trial.run, trial.built, Progress(), job.device)
        memory, peak = _memory(job)
        return DryRun(
            plan=plan,
            started=event,
            macs=trial.summary.macs,
            memory=memory,
            peak=peak,
            schedule=_schedule(job),
            unfreeze_steps=tuple(
                _first_step(share, job.total_steps) for share in job.model.freezing.changes()
            ),
            time=_estimate_time(trial),
            warnings=tuple(
                dict.fromkeys([*plan.warnings, *trial.load_notes, *_reader_notices(trial), *warnings])
            ),
        )


def _memory(job: FitJob) -> tuple[MemoryEstimate, int | None]:
    """Memory of a step with all layers unfrozen that train at any time; the measured peak on CUDA."""
    device = job.device
    job.model.freezing.apply(job.model.module, 1.0)
    set_train_mode(job.model.module)
    batch = next(training_batches(job))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    optimizer_step(job, batch, batch.count * job.world.size)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    part = micro_batches(job, batch)[0]
    return estimate_memory(job, batch, part), peak


def _estimate_time(trial: TrialJob) -> TimeEstimate:
    """Single steps with the layers that train at first, reading included, and a batch of evaluation.

    The first epochs of the head alone count as one of all layers: their features are computed once.
    """
    job, config = trial.job, trial.plan.config.fit
    job.model.freezing.apply(job.model.module, 1.0 if config.head_epochs else 0.0)
    set_train_mode(job.model.module)
    batches = training_batches(job)
    steps: list[float] = []
    for _ in range(1 + TIMED_STEPS):
        t0 = time.perf_counter()
        batch = next(batches)
        optimizer_step(job, batch, batch.count * job.world.size)
        _synchronize(job)
        steps.append(time.perf_counter() - t0)
    batches.close()
    sample, samples = _evaluation_seconds(trial), len(trial.readers["val"])
    epochs = -(-job.total_steps // len(job.batches))
    whole = job.total_steps
    if config.head_epochs and config.cache_features == "on":
        epochs -= config.head_epochs - 1
        whole -= job.head_steps(whole) - len(job.batches)
    return TimeEstimate(
        steps=tuple(steps[1:]),
        sample=sample,
        training=statistics.median(steps[1:]) * whole,
        # After each epoch by all processes together; the best model once more by one.
        evaluation=sample * samples * (epochs / job.world.size + 1),
        limit=parse_time(config.max_time),
    )


def _evaluation_seconds(trial: TrialJob) -> float:
    """Seconds for one validation sample, in the second of two batches."""
    job, reader = trial.job, trial.readers["val"]
    size = min(default_batch_size(job.task), len(reader))
    indices = torch.arange(size).numpy()
    job.model.module.eval()
    seconds = 0.0
    for _ in range(2):
        t0 = time.perf_counter()
        inputs, readable = reader.read(indices)
        if len(readable):
            predict(job.model.module, inputs, job.task, job.device)
        seconds = time.perf_counter() - t0
    return seconds / size


def _synchronize(job: FitJob) -> None:
    """Wait until the device has finished."""
    if job.device.type != "cpu":
        torch.accelerator.synchronize()


def _schedule(job: FitJob) -> tuple[tuple[int, float], ...]:
    """Learning rates at equidistant steps of the run, the first and the last included."""
    total = job.total_steps
    count = min(total, _POINTS)
    steps = sorted({round(i * (total - 1) / max(count - 1, 1)) for i in range(count)})
    return tuple((step, job.optim.peak_lr * job.lr_factor(step)) for step in steps)


def _first_step(share: float, total: int) -> int:
    """The first step at or after a share of the run."""
    step = int(share * total)
    return step if step >= share * total else step + 1


def _reader_notices(trial: TrialJob) -> list[str]:
    return [
        notice.message
        for split, reader in trial.readers.items()
        for notice in for_split(reader.notices, split)
    ]
