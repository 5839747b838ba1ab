"""The training loop. It knows tensors, counters and events; it knows no files and no terminal.

Several processes run this same loop, each on its share of every batch. Whatever one of them wishes
(to stop, to save, to log) is agreed on between two steps, so all of them do it at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from dlcli.config import FitConfig, OptimConfig
from dlcli.evaluation.metrics import EvalResult
from dlcli.events import Emit, RunFinished
from dlcli.task import TaskSpec
from dlcli.training.augmentation.augment import Augment
from dlcli.training.distillation import Teacher
from dlcli.training.distributed.world import World
from dlcli.training.loop.epoch_end import end_epoch, finish_mean
from dlcli.training.loop.epoch_stats import Tally
from dlcli.training.loop.interrupt import StopGuard, StopRequested
from dlcli.training.loop.loader import Batch, TrainBatches
from dlcli.training.loop.state import Progress
from dlcli.training.loop.step import optimizer_step, set_train_mode
from dlcli.training.loop.timing import Clock
from dlcli.training.optim.freezing import Freezing
from dlcli.training.optim.make import set_lr
from dlcli.training.optim.schedule import lr_factor
from dlcli.training.precision import Precision
from dlcli.training.pruning_masks import Masks
from dlcli.training.sync_batchnorm import RunningStatistics
from dlcli.training.weight_averaging import WeightAverage


@dataclass
class FitJob:
    """Everything that `fit` works on. The callables are how it reaches files and other processes.

    ``forward`` is ``module`` as a training step calls it: wrapped, compiled; ``remake`` makes it anew
    when layers begin to train. ``loss`` takes answers, targets and, with a ``teacher``, its answers.
    ``micro`` is the largest micro-batch that was asked for; ``synchronised`` whether batch norms see the
    samples of all processes.
    """

    run: str
    module: nn.Module
    forward: Callable[..., torch.Tensor]
    remake: Callable[[], Callable[..., torch.Tensor]]
    task: TaskSpec
    world: World
    batches: TrainBatches
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    config: FitConfig
    optim: OptimConfig
    micro: int
    synchronised: bool
    loss: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    teacher: Teacher | None
    augment: Augment | None
    freezing: Freezing
    averages: Mapping[str, WeightAverage]  # "ema", "swa"
    masks: Masks | None  # zeros of pruned weights, which stay
    monitor: str
    validate: Callable[[Callable[[], None]], EvalResult]  # its argument may raise StopRequested
    save_model: Callable[[str, EvalResult, int], str]  # name, metrics, epoch; the path written
    drop_model: Callable[[str], None]
    save_state: Callable[[Progress], str]
    watch: Callable[[Progress], None]  # pictures and histograms, after an epoch
    emit: Emit
    statistics: RunningStatistics = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.statistics = RunningStatistics(self.module)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run, which its schedule spans."""
        steps = len(self.batches) * self.config.epochs
        return min(steps, self.config.max_steps or steps)

    @property
    def counts_hits(self) -> bool:
        """Whether a training sample has one class, so that an answer can be right."""
        return self.task.kind == "classification" and not (self.augment and self.augment.mixes)


@dataclass(frozen=True)
class FitResult:
    """How a run ended. ``signum`` is the signal that stopped it, or None."""

    progress: Progress
    signum: int | None = None


class _Stopped(Exception):
    """All processes agreed to stop after a signal."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


def fit(job: FitJob, progress: Progress) -> FitResult:
    """Train from ``progress`` to the last epoch, an early stop, a limit or a signal.

    ``progress`` is changed in place. After a signal the state is saved and the result says so. Raises:
    DlcliError when training diverges, no sample can be read or memory runs out for a single sample;
    the states saved before stay.
    """
    clock = Clock(job, progress)
    if job.masks is not None:
        job.masks.take()
    # A run may go on behind the last step of an epoch, whose rate is told after validation.
    clock.lr = _rate(job, progress, max(progress.step - 1, 0))
    with StopGuard() as guard:
        try:
            while not progress.finished:
                tally = _train_epoch(job, progress, clock, guard)
                if progress.batch:  # else its time was up before the epoch's first step
                    end_epoch(job, progress, clock, guard, tally)
            finish_mean(job, progress, guard)
            if not progress.bad_streak:
                clock.save(progress)
        except (_Stopped, StopRequested) as stop:
            clock.read(progress)
            clock.save(progress)
            return FitResult(progress, stop.signum if isinstance(stop, _Stopped) else guard.signum)
    job.emit(
        RunFinished(
            run=job.run,
            step=progress.step,
            epochs_done=progress.epochs_begun,
            monitor=job.monitor,
            best=progress.best if progress.best is not None else math.nan,
            best_epoch=progress.best_epoch,
            elapsed_s=progress.elapsed_s,
            stopped_early=progress.stopped_early,
            reason=progress.reason,
        )
    )
    return FitResult(progress)


def _train_epoch(job: FitJob, progress: Progress, clock: Clock, guard: StopGuard) -> Tally:
    """The steps of the current epoch from its current batch on, as far as the run may go."""
    _thaw(job, progress)
    set_train_mode(job.module)
    tally = Tally(progress, job)
    clock.start_epoch(progress)
    for batch in job.batches.epoch(progress.epoch, start=progress.batch):
        if progress.step >= job.total_steps:
            break
        total, readable = _between_steps(job, progress, clock, guard, tally, batch)
        if progress.finished:
            break
        clock.lr = _rate(job, progress, progress.step)
        set_lr(job.optimizer, clock.lr)
        if _thaw(job, progress):
            set_train_mode(job.module)
        if job.batches.usable(progress.batch, readable):
            tally.add(optimizer_step(job, batch, progress, total), len(batch), progress)
            if job.masks is not None:
                job.masks.hold()
            if "ema" in job.averages:
                job.averages["ema"].update(job.module)
        progress.step += 1
        progress.batch += 1
    clock.tell(progress, tally)
    return tally


def _between_steps(
    job: FitJob, progress: Progress, clock: Clock, guard: StopGuard, tally: Tally, batch: Batch
) -> tuple[float, int]:
    """Agree on the next step and do what is due before it: log, save, stop.

    Gives the count that the next step's loss is divided by and its readable samples, over all
    processes. Raises: _Stopped after a signal; DlcliError.
    """
    log, save, out_of_time = clock.due(progress) if job.world.main else (False, False, False)
    job.world.note(progress.step)
    signum = guard.signum or 0  # read once: what is saved below must have been asked for
    total, readable, signals, signums, log_due, save_due, time_due = job.world.sum(
        batch.count, len(batch), signum > 0, signum, log, save, out_of_time
    )
    done = progress.step > clock.told  # since the last time, or since the run went on
    if done and (log_due or save_due or signals or time_due):
        clock.tell(progress, tally)
    if signals:
        raise _Stopped(round(signums / signals))
    if time_due:
        progress.finished, progress.reason = True, "time"
    elif save_due and done and not progress.bad_streak:  # bad steps may end the run
        clock.save(progress)
    return total, int(readable)


def _rate(job: FitJob, progress: Progress, step: int) -> float:
    """The learning rate of an optimizer step."""
    factor = lr_factor(step, job.total_steps, len(job.batches), job.optim, progress.plateau.factor)
    return job.optim.peak_lr * factor


def _thaw(job: FitJob, progress: Progress) -> bool:
    """Let the layers train whose time has come; whether there were any."""
    changed: bool = job.freezing.apply(job.module, progress.step / job.total_steps)
    if changed:
        job.forward = job.remake()
    return changed
