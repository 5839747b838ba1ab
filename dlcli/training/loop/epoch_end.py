"""The end of an epoch: validate, save the best models, decide whether the run is over."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import torch

from dlcli.data.kinds import kind_of
from dlcli.errors import Diverged, DlcliError
from dlcli.evaluation.metrics import EvalResult, direction
from dlcli.evaluation.metrics.user_metrics import user_metrics
from dlcli.events import CheckpointSaved, Noted, RunFinished, Warned
from dlcli.machine.threads import usable_cores
from dlcli.training.loop.best import Score, score_or_none
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.phases import samples_per_s
from dlcli.training.loop.state import Progress
from dlcli.training.loop.step import micro_batches
from dlcli.training.optim.schedule import steps_without_patience
from dlcli.training.weight_averaging import refresh_batch_norms
from dlcli.zoo.forward import model_inputs

CheckStop = Callable[[], None]  # may raise StopRequested


def validate_epoch(job: FitJob, progress: Progress, check_stop: CheckStop) -> tuple[EvalResult, bool]:
    """Evaluate the model, or its moving average, and save it if it is among the best.

    Returns the metrics, and whether it is the best so far. Raises: StopRequested, DlcliError.
    """
    module = job.model.module
    job.world.share_buffers(module)
    with job.model.with_average("ema"):
        job.world.share_buffers(module)  # the average has buffers of its own in each process
        module.eval()
        with job.clock.phase("evaluation"):
            result = job.validate(check_stop)
        if progress.epoch == 0:
            _report_failing_metrics(job, result)
        score = Score.of(result, job.monitor)
        improved, best = _save_if_best(job, progress, result, score)
    last = progress.step - 1
    warming_up = progress.step < steps_without_patience(
        job.planned_steps(last), job.optim, head_steps=job.head_steps(last)
    )
    if improved:
        progress.epochs_without_improvement = 0
    elif not warming_up:  # a rising rate makes validation worse for some epochs
        progress.epochs_without_improvement += 1
    if is_whole_epoch(job, progress):
        progress.plateau = progress.plateau.after(
            score.value,
            direction=direction(job.monitor),
            config=job.optim,
            min_delta=job.config.min_delta,
            counts=not warming_up,
        )
    return result, best


def _report_failing_metrics(job: FitJob, result: EvalResult) -> None:
    """Warn of the user's metrics that have no value on the validation split, with the reason."""
    for entry in user_metrics(job.task):
        if entry.name in result.undefined:
            job.emit(Warned(f"--metric {entry.name}: {result.undefined[entry.name]}"))


def is_whole_epoch(job: FitJob, progress: Progress) -> bool:
    """Whether all batches of the epoch are done; a run may end within one."""
    return progress.batch == len(job.batches)


def _save_if_best(
    job: FitJob, progress: Progress, result: EvalResult, score: Score
) -> tuple[bool, bool]:
    """Save the model if it is among the best; returns (improved as patience counts, best so far).

    Raises: DlcliError when the metric is undefined on the validation split.
    """
    epoch = progress.epoch + 1
    if not score.finite:
        _report_not_finite(job, progress, score, epoch, result.undefined.get(job.monitor))
        return False, False
    best = score.beats(score_or_none(progress.best, progress.best_loss), job.monitor)
    former = score_or_none(progress.patience_best, progress.patience_loss)
    improved = score.beats(former, job.monitor, job.config.min_delta)
    if improved:
        progress.patience_best, progress.patience_loss = score.value, score.loss
    if best:
        progress.best, progress.best_epoch, progress.best_loss = score.value, epoch, score.loss
        with job.clock.phase("saving"):
            path = job.files.save_model("best", result, epoch)
        job.emit(CheckpointSaved(what="best", path=path, step=progress.step))
    if job.config.keep_best > 1:
        _save_best_epochs(job, progress, result, (score.value, score.loss, epoch))
    return improved, best


def _report_not_finite(
    job: FitJob, progress: Progress, score: Score, epoch: int, undefined: str | None
) -> None:
    """Warn of a validation that is not finite. Raises: DlcliError where the metric is undefined.

    ``undefined`` is the reason why the samples do not define it, if they do not.
    """
    if undefined is not None:
        own = any(entry.name == job.monitor for entry in user_metrics(job.task))
        raise DlcliError(
            f"--monitor {job.monitor} cannot select the best epoch: in the val split {undefined}",
            hint="return a number for every split, or a dict whose names higher_is_better has"
            if own
            else "choose another metric, such as --monitor loss",
        )
    name, value = ("loss", score.loss) if not math.isfinite(score.loss) else (job.monitor, score.value)
    if name != "loss" and not progress.best_epoch:
        raise DlcliError(
            f"val {name} is {value} after epoch {epoch}, so it cannot select the best epoch: it is not "
            "defined on this val split",
            hint="choose another metric, such as --monitor loss",
        )
    job.emit(Warned(f"val {name} is {value} after epoch {epoch}: this model is not kept"))


def _save_best_epochs(
    job: FitJob, progress: Progress, result: EvalResult, new: tuple[float, float, int]
) -> None:
    """Save the model if its epoch is among the best few, and delete the one that no longer is."""
    sign = direction(job.monitor)
    others = [
        epoch for epoch in progress.best_epochs if epoch[2] != new[2]
    ]  # a resumed epoch is validated again
    ranked = sorted([*others, new], key=lambda k: (math.isnan(k[0]), -sign * k[0], k[1], k[2]))
    progress.best_epochs = ranked[: job.config.keep_best]
    if new in progress.best_epochs:
        with job.clock.phase("saving"):
            job.files.save_model(f"epoch-{new[2]}", result, new[2])
    for _, _, epoch in ranked[job.config.keep_best :]:
        job.files.drop_model(f"epoch-{epoch}")


def advance(job: FitJob, progress: Progress) -> None:
    """Go to the next epoch, or to the end. A run that ended within an epoch stays where it is."""
    if is_whole_epoch(job, progress):
        swa = job.model.averages.get("swa")
        if swa is not None:
            if progress.step > (job.config.swa or 0) * job.planned_steps(progress.step - 1):
                swa.update(job.model.module)
            else:  # a resume with more epochs: the averaged ones are no longer the last
                swa.forget()
        progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.loss_sum, progress.loss_count, progress.correct, progress.seen = 0.0, 0.0, 0, 0
    _finish_if_over(job, progress)


def reopen(job: FitJob, progress: Progress) -> None:
    """Let a resumed run train to what its settings ask for now: more epochs, steps, time, patience."""
    validated = progress.finished or progress.batch == 0
    progress.finished, progress.reason = False, ""
    if validated:
        _finish_if_over(job, progress)


def _finish_if_over(job: FitJob, progress: Progress) -> None:
    """Decide whether the run is over, and why."""
    if progress.reason == "time" and progress.finished:
        return
    patience, epochs = job.config.patience, job.config.epochs
    progress.reason = ""
    if (
        patience is not None
        and progress.epochs_without_improvement >= patience
        and progress.epoch < epochs
    ):
        progress.reason = "patience"
    elif progress.epoch < epochs and progress.step >= job.total_steps:
        progress.reason = "steps"
    elif progress.epoch < epochs and job.prune is not None and job.prune(progress):
        progress.reason = "pruned"
    progress.finished = bool(progress.reason) or progress.epoch >= epochs


def finish_swa(job: FitJob, progress: Progress, check_stop: CheckStop) -> None:
    """At the end of a run: evaluate the mean of the last epochs' weights and save it if it is best.

    Its batch norm statistics are recomputed over the training samples (arXiv:1803.05407). Raises:
    StopRequested after a signal; the resumed run begins here.
    """
    mean, module = job.model.averages.get("swa"), job.model.module
    if mean is None or not mean.n:
        return
    with mean.applied(module):
        refresh_batch_norms(module, _train_inputs(job, check_stop))
        job.world.share_buffers(module)
        module.eval()
        with job.clock.phase("evaluation"):
            result = job.validate(check_stop)
        score = Score.of(result, job.monitor)
        former = progress.best if progress.best is not None else math.nan
        best = score.beats(score_or_none(progress.best, progress.best_loss), job.monitor)
        if best:
            progress.best, progress.best_loss = score.value, score.loss
            progress.best_epoch = progress.epoch
            with job.clock.phase("saving"):
                job.files.save_model("best", result, progress.epoch)
    verdict = "it is the best model now" if best else "it is not saved"
    job.emit(
        Noted(
            f"the mean of the weights of {mean.n} epochs: val {job.monitor} {score.value:.4f}, the best "
            f"epoch's {former:.4f}; {verdict}"
        )
    )


def _train_inputs(job: FitJob, check_stop: CheckStop) -> Iterator[tuple[torch.Tensor, ...]]:
    """The training samples without augmentation, as the module takes them, in micro-batches."""
    for batch in job.batches.epoch(0):
        check_stop()
        if not batch.is_usable(int(job.world.sum(len(batch))[0])):
            continue
        for part in micro_batches(job, batch):
            enough = len(part) > 1 or job.model.sync_batch_norm
            sample = part if enough else job.batches.example()
            yield model_inputs(sample.inputs, job.task)


def check_weights(job: FitJob, progress: Progress) -> None:
    """Raises: Diverged when a weight, a running statistic or an average of weights is not finite.

    No later step corrects it.
    """
    module = job.model.module
    statistics = (b for b in module.named_buffers() if b[0].endswith(("running_mean", "running_var")))
    averages = (
        (f"{name} in the average {kind}", tensor)
        for kind, average in job.model.averages.items()
        for name, tensor in average.tensors().items()
        if tensor.is_floating_point()
    )
    for name, tensor in (*module.named_parameters(), *statistics, *averages):
        if not torch.isfinite(tensor).all():
            raise diverged(f"values of {name} are not finite", progress, job.files.run)


def check_best(job: FitJob, progress: Progress) -> None:
    """Raises: Diverged at the end of a run none of whose models has a finite validation."""
    if progress.best is None or not math.isfinite(progress.best):
        raise diverged("val loss was not finite after any epoch", progress, job.files.run)


def diverged(reason: str, progress: Progress, run: str) -> Diverged:
    """The error of a run that has diverged."""
    saved = progress.best is not None and math.isfinite(progress.best)
    best = f"{run}{os.sep}best.safetensors is intact" if saved else "no model was saved"
    states = f", and so are the states in {run}{os.sep}state" if saved else ""
    return Diverged(
        f"{reason}, up to step {progress.step}: training has diverged",
        hint=f"use a lower --lr, --clip-grad-norm 1 or --amp none; {best}{states}",
    )


def finished(job: FitJob, progress: Progress) -> RunFinished:
    """Return the last event of a run."""
    return RunFinished(
        run=job.files.run,
        step=progress.step,
        epochs_done=progress.epochs_begun,
        monitor=job.monitor,
        best=progress.best if progress.best is not None else math.nan,
        best_epoch=progress.best_epoch,
        elapsed_s=progress.elapsed_s,
        stopped_early=progress.stopped_early,
        reason=progress.reason,
        phase_s=progress.phase_s,
        samples_per_s=samples_per_s(progress),
        unit=kind_of(job.task).unit(job.task),
        streamed=job.batches.streams,
        core_wait=job.clock.core_wait(),
        cores=usable_cores(),
    )
