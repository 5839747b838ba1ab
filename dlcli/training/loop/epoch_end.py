"""The end of an epoch: validate, keep the best, decide on stopping, save the state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from dlcli.errors import DlcliError
from dlcli.evaluation.metrics import DIRECTIONS, EvalResult
from dlcli.events import CheckpointSaved, EpochDone, Noted
from dlcli.training.loop.epoch_stats import Tally, diverged
from dlcli.training.loop.interrupt import StopGuard
from dlcli.training.loop.state import Progress
from dlcli.training.loop.step import micro_batches
from dlcli.training.loop.timing import Clock, means
from dlcli.training.weight_averaging import refresh_batch_norms
from dlcli.zoo.forward import model_inputs

if TYPE_CHECKING:
    from dlcli.training.loop.fit import FitJob


def end_epoch(job: FitJob, progress: Progress, clock: Clock, guard: StopGuard, tally: Tally) -> None:
    """What follows the last step of an epoch, or of a run that ends within one."""
    if not progress.seen:
        reader = job.batches.reader
        first = next((f"; {name}: {reason}" for name, reason in reader.bad.items()), "")
        raise DlcliError(f"none of the {len(reader)} samples of the train split can be used{first}")
    tally.end(progress)
    _check_weights(job, progress)
    train_loss, train_accuracy = means(progress, hits=job.counts_hits)
    epoch_s, samples_per_s = clock.epoch_figures(progress)
    whole = progress.batch == len(job.batches)
    job.world.share_buffers(job.module)
    with _weights(job, "ema"):
        job.world.share_buffers(job.module)  # the average's own are those of this process
        job.module.eval()
        result = job.validate(_check_of(job, guard))
        higher, better = _judge(job, progress, result)
    progress.stale_epochs = 0 if higher else progress.stale_epochs + 1
    value = result.metrics[job.monitor]
    direction = DIRECTIONS[job.monitor]
    if whole:
        progress.plateau = progress.plateau.after(
            value, direction=direction, config=job.optim, min_delta=job.config.min_delta
        )
    clock.read(progress)
    job.emit(
        EpochDone(
            epoch=progress.epoch + 1,
            epochs=job.config.epochs,
            step=progress.step,
            loss=train_loss,
            accuracy=train_accuracy,
            lr=clock.lr,
            val=result.metrics,
            monitor=job.monitor,
            improved=better,
            samples_per_s=samples_per_s,
            epoch_s=epoch_s,
            elapsed_s=progress.elapsed_s,
            grad_norm=clock.grad_norm if math.isfinite(clock.grad_norm) else None,
            skipped=progress.skipped,
        )
    )
    job.watch(progress)
    _turn(job, progress, whole=whole)
    due, out_of_time = job.world.sum(
        job.world.main and clock.epoch_save_due(progress), job.world.main and clock.out_of_time()
    )
    if progress.finished:  # `fit` saves what is left to save
        return
    if out_of_time:
        progress.finished, progress.reason = True, "time"
        return
    if due and not progress.bad_streak:
        clock.save(progress)
    _check_of(job, guard)()


def is_better(value: float, best: float | None, name: str, min_delta: float = 0.0) -> bool:
    """Whether ``value`` beats ``best`` by more than ``min_delta`` in the metric's own direction.

    The first value always does, and nothing is worse than NaN.
    """
    if best is None or math.isnan(best) > math.isnan(value):
        return True
    return (value - best) * DIRECTIONS[name] > min_delta


def _check_of(job: FitJob, guard: StopGuard) -> Callable[[], None]:
    """What stops a long evaluation after a signal.

    Of several processes none may leave in the midst of what all do together.
    """
    return guard.check if job.world.size == 1 else lambda: None


def _turn(job: FitJob, progress: Progress, *, whole: bool) -> None:
    """To the next epoch, or to the end. A run that ended within an epoch stays where it is."""
    if whole:
        if "swa" in job.averages:
            if progress.step > (job.config.swa or 0) * job.total_steps:
                job.averages["swa"].update(job.module)
            else:  # a run that was given more epochs has some of the former end in its mean
                job.averages["swa"].forget()
        progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.loss_sum, progress.loss_count, progress.hits, progress.seen = 0.0, 0.0, 0, 0
    settle(progress, patience=job.config.patience, epochs=job.config.epochs, steps=job.total_steps)


def settle(progress: Progress, *, patience: int | None, epochs: int, steps: int) -> None:
    """Decide whether a run is over, and why; a resumed one may have been given more."""
    if progress.reason == "time" and progress.finished:
        return
    progress.reason = ""
    if patience is not None and progress.stale_epochs >= patience and progress.epoch < epochs:
        progress.reason = "patience"
    elif progress.epoch < epochs and progress.step >= steps:
        progress.reason = "steps"
    progress.finished = bool(progress.reason) or progress.epoch >= epochs


def _weights(job: FitJob, name: str) -> AbstractContextManager[object]:
    """The model with averaged weights, where there is such an average, as evaluation mode wants it."""
    average = job.averages.get(name)
    return nullcontext() if average is None or not average.n else average.applied(job.module)


def _judge(job: FitJob, progress: Progress, result: EvalResult) -> tuple[bool, bool]:
    """Keep the model if it is among the best; whether the metric is better, and whether it is best."""
    value, loss = result.metrics[job.monitor], result.metrics["loss"]
    higher = is_better(value, progress.mark, job.monitor, job.config.min_delta)
    # On a few samples many epochs reach the same accuracy: of those the surest is kept. Patience
    # waits for the metric alone.
    better = is_better(value, progress.best, job.monitor) or (
        value == progress.best and is_better(loss, progress.best_loss, "loss")
    )
    if higher:
        progress.mark = value
    epoch = progress.epoch + 1
    if better:
        progress.best, progress.best_epoch, progress.best_loss = value, epoch, loss
        path = job.save_model("best", result, epoch)
        job.emit(CheckpointSaved(what="best", path=path, step=progress.step))
    if job.config.keep_best > 1:
        _keep(job, progress, result, (value, loss, epoch))
    return higher, better


def _keep(job: FitJob, progress: Progress, result: EvalResult, new: tuple[float, float, int]) -> None:
    """The files of the best few epochs; the worst makes room."""
    sign = DIRECTIONS[job.monitor]
    others = [kept for kept in progress.kept if kept[2] != new[2]]  # a resumed epoch comes again
    ranked = sorted([*others, new], key=lambda k: (math.isnan(k[0]), -sign * k[0], k[1], k[2]))
    progress.kept = ranked[: job.config.keep_best]
    if new in progress.kept:
        job.save_model(f"epoch-{new[2]}", result, new[2])
    for _, _, epoch in ranked[job.config.keep_best :]:
        job.drop_model(f"epoch-{epoch}")


def finish_mean(job: FitJob, progress: Progress, guard: StopGuard) -> None:
    """At the end of a run: the mean of the last epochs' weights, kept where it is better.

    Its batch statistics are counted anew over the training samples, as arXiv:1803.05407 asks for.
    Raises: StopRequested after a signal; the run that goes on then begins here.
    """
    mean = job.averages.get("swa")
    if mean is None or not mean.n:
        return
    with mean.applied(job.module):
        refresh_batch_norms(job.module, _train_inputs(job, progress))
        job.world.share_buffers(job.module)
        job.module.eval()
        result = job.validate(_check_of(job, guard))
        value, best = result.metrics[job.monitor], progress.best
        better = is_better(value, best, job.monitor)
        said = f"the mean of the weights of {mean.n} epochs: val {job.monitor} {value:.4f}"
        if better:
            progress.best, progress.best_loss = value, result.metrics["loss"]
            progress.best_epoch = progress.epoch
            job.save_model("best", result, progress.epoch)
        kept = "it is the best model now" if better else "it is not kept"
        job.emit(Noted(f"{said}, the best epoch's {best if best is not None else math.nan:.4f}; {kept}"))


def _train_inputs(job: FitJob, progress: Progress) -> Iterator[tuple[torch.Tensor, ...]]:
    """The training samples without augmentation, as the module takes them, in micro-batches."""
    at = replace(progress)
    for at.batch, batch in enumerate(job.batches.epoch(0)):
        if not job.batches.usable(at.batch, int(job.world.sum(len(batch))[0])):
            continue
        for part in micro_batches(job, batch, at):
            share = part if len(part) > 1 or job.synchronised else job.batches.stand_in()
            yield model_inputs(share.inputs, job.task)


def _check_weights(job: FitJob, progress: Progress) -> None:
    """Raises: DlcliError when a weight or a statistic is no finite number: no later step mends it."""
    statistics = (
        b for b in job.module.named_buffers() if b[0].endswith(("running_mean", "running_var"))
    )
    for name, tensor in (*job.module.named_parameters(), *statistics):
        if not torch.isfinite(tensor).all():
            raise diverged(f"values of {name} are no finite numbers", progress, job.run)
