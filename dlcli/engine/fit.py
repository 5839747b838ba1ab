"""The training loop. It knows tensors, counters and events; it knows no files and no terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dlcli.config import FitConfig, OptimConfig
from dlcli.engine.augment import Augment
from dlcli.engine.clock import Clock, means
from dlcli.engine.interrupt import StopGuard, StopRequested
from dlcli.engine.loader import Batch, TrainBatches
from dlcli.engine.losses import Loss
from dlcli.engine.metrics import DIRECTIONS, EvalResult
from dlcli.engine.optim import set_lr
from dlcli.engine.precision import Precision
from dlcli.engine.schedule import lr_factor
from dlcli.engine.state import Progress
from dlcli.errors import DlcliError
from dlcli.events import CheckpointSaved, Emit, EpochDone, RunFinished
from dlcli.task import TaskSpec
from dlcli.zoo.runtime import model_inputs


@dataclass(frozen=True)
class FitJob:
    """Everything that `fit` works on. The callables are how it reaches files."""

    run: str
    module: nn.Module
    task: TaskSpec
    batches: TrainBatches
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    config: FitConfig
    optim: OptimConfig
    loss: Loss
    augment: Augment | None
    monitor: str
    validate: Callable[[Callable[[], None]], EvalResult]  # its argument may raise StopRequested
    save_best: Callable[[EvalResult, int], str]  # the path that was written
    save_state: Callable[[Progress], str]
    emit: Emit

    @property
    def total_steps(self) -> int:
        return len(self.batches) * self.config.epochs

    @property
    def counts_hits(self) -> bool:
        """Whether a training sample has one class, so that an answer can be right."""
        return self.task.kind == "classification" and not (self.augment and self.augment.mixes)


@dataclass(frozen=True)
class FitResult:
    """How a run ended. ``signum`` is the signal that stopped it, or None."""

    progress: Progress
    signum: int | None = None


def fit(job: FitJob, progress: Progress) -> FitResult:
    """Train from ``progress`` to the last epoch, an early stop or a signal.

    ``progress`` is changed in place. After a signal the state is saved and the result says so.
    Raises: DlcliError when the loss is no finite number, no sample can be read or memory runs out;
    the states saved before stay.
    """
    clock = Clock(job, progress)
    with StopGuard() as guard:
        try:
            while not progress.finished:
                _train_epoch(job, progress, clock, guard)
                _end_epoch(job, progress, clock, guard)
        except StopRequested:
            clock.read(progress)
            clock.save(progress)
            return FitResult(progress, guard.signum)
        except (torch.OutOfMemoryError, MemoryError) as exc:
            raise DlcliError(
                f"{job.precision.device} is out of memory at step {progress.step}",
                hint="use a smaller --batch-size or --img-size, or a smaller model",
            ) from exc
    job.emit(
        RunFinished(
            run=job.run,
            step=progress.step,
            epochs_done=progress.epoch,
            monitor=job.monitor,
            best=progress.best if progress.best is not None else math.nan,
            best_epoch=progress.best_epoch,
            elapsed_s=progress.elapsed_s,
            stopped_early=progress.stopped_early,
        )
    )
    return FitResult(progress)


def _train_epoch(job: FitJob, progress: Progress, clock: Clock, guard: StopGuard) -> None:
    """The steps of the current epoch from its current batch on."""
    set_train_mode(job.module)
    sums = _EpochSums(progress, job.precision.device)
    clock.start_epoch(progress)
    for batch in job.batches.epoch(progress.epoch, start=progress.batch):
        lr = job.optim.lr * lr_factor(progress.step, job.total_steps, job.optim)
        set_lr(job.optimizer, lr)
        if job.batches.usable(progress.batch, len(batch)):
            sums.add(*train_step(job, batch, progress.epoch), len(batch))
        progress.step += 1
        progress.batch += 1
        due_log, due_save = clock.due(progress)
        last = progress.batch == len(job.batches)
        stop = guard.signum is not None  # asked once: what is saved below must have been read
        if due_log or due_save or last or stop:
            sums.store(progress)
            clock.read(progress)
            job.emit(clock.step_event(progress, lr))
            if not math.isfinite(progress.loss_sum):
                raise _not_finite(job, progress)
        if stop:
            raise StopRequested
        if due_save and not last:  # after the last step validation comes first
            clock.save(progress)


def train_step(job: FitJob, batch: Batch, epoch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One optimizer step: the loss sum, what it is divided by, and the hits, on the device.

    Hits are the samples whose class is right, where samples have one.
    """
    inputs, targets = batch.inputs, batch.targets
    if job.augment is not None:
        pixels, targets = job.augment(inputs[0], targets, batch.indices, epoch)
        inputs = (pixels,)
    job.optimizer.zero_grad(set_to_none=True)
    try:
        with job.precision.autocast():
            outputs = job.module(*model_inputs(inputs, job.task))
        loss_sum, count = job.loss(outputs.float(), targets)
    except ValueError as exc:
        if "more than 1 value per channel" not in str(exc):
            raise
        raise DlcliError(
            "batch normalisation cannot train on a batch of one sample",
            hint="use --batch-size 2 or more, and at least two training samples",
        ) from exc
    job.scaler.scale(loss_sum / count).backward()  # type: ignore[no-untyped-call]
    if job.optim.clip_grad_norm is not None:
        job.scaler.unscale_(job.optimizer)
        nn.utils.clip_grad_norm_(job.module.parameters(), job.optim.clip_grad_norm)
    job.scaler.step(job.optimizer)
    job.scaler.update()
    return loss_sum.detach(), count, _hits(job, outputs.detach(), targets)


def _hits(job: FitJob, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if not job.counts_hits:
        return torch.zeros((), dtype=torch.int64, device=outputs.device)
    return (outputs.argmax(1) == targets).sum()


def set_train_mode(module: nn.Module) -> None:
    """Train mode, except batch norms whose weights are frozen: their statistics stay frozen too."""
    module.train()
    for sub in module.modules():
        own = list(sub.parameters(recurse=False))
        if hasattr(sub, "running_mean") and own and not any(p.requires_grad for p in own):
            sub.eval()


def _end_epoch(job: FitJob, progress: Progress, clock: Clock, guard: StopGuard) -> None:
    """Validate, keep the best, decide on stopping, save the state."""
    if not progress.seen:
        reader = job.batches.reader
        first = next((f"; {name}: {reason}" for name, reason in reader.bad.items()), "")
        raise DlcliError(f"none of the {len(reader)} samples of the train split can be used{first}")
    train_loss, train_accuracy = means(progress, hits=job.counts_hits)
    epoch_s, samples_per_s = clock.epoch_figures(progress)
    job.module.eval()
    result = job.validate(guard.check)
    value = result.metrics[job.monitor]  # its name was checked before the run
    loss = result.metrics["loss"]
    higher = is_better(value, progress.best, job.monitor)
    # On a few samples many epochs reach the same accuracy: of those the surest is kept. Patience
    # waits for the metric alone.
    better = higher or (value == progress.best and is_better(loss, progress.best_loss, "loss"))
    progress.stale_epochs = 0 if higher else progress.stale_epochs + 1
    if better:
        progress.best, progress.best_epoch, progress.best_loss = value, progress.epoch + 1, loss
        path = job.save_best(result, progress.epoch + 1)
        job.emit(CheckpointSaved(what="best", path=path, step=progress.step))
    clock.read(progress)
    job.emit(
        EpochDone(
            epoch=progress.epoch + 1,
            epochs=job.config.epochs,
            step=progress.step,
            loss=train_loss,
            accuracy=train_accuracy,
            lr=job.optimizer.param_groups[0]["lr"],
            val=result.metrics,
            monitor=job.monitor,
            improved=better,
            samples_per_s=samples_per_s,
            epoch_s=epoch_s,
            elapsed_s=progress.elapsed_s,
        )
    )
    progress.epoch, progress.batch = progress.epoch + 1, 0
    progress.loss_sum, progress.loss_count, progress.hits, progress.seen = 0.0, 0.0, 0, 0
    patience = job.config.patience
    progress.stopped_early = patience is not None and progress.stale_epochs >= patience
    progress.finished = progress.stopped_early or progress.epoch >= job.config.epochs
    if progress.finished or clock.epoch_save_due(progress):
        clock.save(progress)
    guard.check()


def is_better(value: float, best: float | None, name: str) -> bool:
    """Whether ``value`` beats ``best`` in the metric's own direction.

    The first value always does, and nothing is worse than NaN.
    """
    return best is None or math.isnan(best) > math.isnan(value) or (value - best) * DIRECTIONS[name] > 0


class _EpochSums:
    """Sums on the device; reading them is a synchronisation, so it is done at logging only."""

    def __init__(self, progress: Progress, device: torch.device) -> None:
        kind = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.loss = torch.tensor(progress.loss_sum, dtype=kind, device=device)
        self.count = torch.tensor(progress.loss_count, dtype=kind, device=device)
        self.hits = torch.tensor(progress.hits, dtype=torch.int64, device=device)
        self.seen = progress.seen

    def add(self, loss_sum: torch.Tensor, count: torch.Tensor, hits: torch.Tensor, samples: int) -> None:
        self.loss += loss_sum
        self.count += count
        self.hits += hits
        self.seen += samples

    def store(self, progress: Progress) -> None:
        progress.loss_sum, progress.loss_count = float(self.loss), float(self.count)
        progress.hits, progress.seen = int(self.hits), self.seen


def _not_finite(job: FitJob, progress: Progress) -> DlcliError:
    return DlcliError(
        f"the loss is {progress.loss_sum} at step {progress.step}: training has diverged",
        hint=f"use a lower --lr than {job.optim.lr:g}, or --amp none; the states and the best model "
        "saved before are whole",
    )
