"""The training loop. It knows tensors, counters and events; it knows no files and no terminal.

Several processes run this loop, each on its share of every batch. They agree between two steps on
whether to stop, to save or to log, so all of them do it at the same step.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from dlcli.errors import DlcliError
from dlcli.events import CheckpointSaved, EpochDone, StepDone
from dlcli.training.loop.epoch_end import (
    advance,
    check_best,
    check_weights,
    diverged,
    finish_swa,
    finished,
    validate_epoch,
)
from dlcli.training.loop.epoch_stats import EpochStats, training_metrics
from dlcli.training.loop.interrupt import StopGuard, StopRequested
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.loader import Batch
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.phases import DeviceWork
from dlcli.training.loop.profiling import StepProfiler
from dlcli.training.loop.state import Progress
from dlcli.training.loop.step import StepOutput, non_finite_gradients, optimizer_step
from dlcli.training.loop.timing import Timing
from dlcli.training.optim.make import set_lr
from dlcli.zoo.device import peak_memory_mib

_SLOW_STEP_S = 1.0  # a signal then waits for no more than a micro-batch


@dataclass(frozen=True)
class FitResult:
    """How a run ended. ``signum`` is the signal that stopped it, or None.

    ``late_signum`` is one that came after the last step, and stopped nothing of this run.
    """

    progress: Progress
    signum: int | None = None
    late_signum: int | None = None


def fit(job: FitJob, progress: Progress) -> FitResult:
    """Train from ``progress`` to the last epoch, an early stop, a limit or a signal.

    ``progress`` is changed in place. After a signal the state is saved and the result has its number.
    Raises: DlcliError when training diverges, no sample can be read or memory runs out for a single
    sample; states saved before stay valid.
    """
    trainer = Trainer(job, progress)
    signum = trainer.run()
    if signum is not None:
        return FitResult(progress, signum)
    job.emit(finished(job, progress))
    return FitResult(progress, late_signum=trainer.guard.signum)


class Trainer:
    """A run while it trains: its counters, its timing and the signals that may stop it.

    ``lr`` and ``grad_norm`` are those of the last step that was logged.
    """

    def __init__(self, job: FitJob, progress: Progress) -> None:
        self.job = job
        self.progress = progress
        job.clock.start(progress.phase_s, progress.elapsed_s)
        self.timing = Timing(job.config, progress, job.total_steps, job.clock)
        self.device_work = DeviceWork(job.device)
        self.profiler = StepProfiler(job, progress)
        self.guard = StopGuard()
        # A run may resume after the last step of an epoch, whose rate is reported after validation.
        self.lr = self._learning_rate(max(progress.step - 1, 0))
        self.grad_norm = math.nan
        self.logged_step = progress.step
        self.step_s, self.slow_steps = math.inf, True  # the first step's time is not known
        self.stop_signum = 0
        job.batches.plan = job.batches.plan.limited(progress.micro)
        if job.model.masks is not None:
            job.model.masks.capture()

    def run(self) -> int | None:
        """Train to the end; returns the signal that stopped the run, or None."""
        progress = self.progress
        with self.guard:
            try:
                while not progress.finished:
                    stats = self._train_epoch()
                    if progress.batch:  # 0 where the time was up before the epoch's first step
                        self._end_epoch(stats)
                finish_swa(self.job, progress, self._check_stop)
                check_best(self.job, progress)
                if not progress.bad_streak:
                    self._save_state()
            except StopRequested:
                self._save_state()
                return self.stop_signum
        return None

    def _train_epoch(self) -> EpochStats:
        """Train on the current epoch from its current batch on, to its end or the end of the run."""
        job, progress = self.job, self.progress
        self._unfreeze()
        set_train_mode(job.model.module)
        stats = EpochStats(progress, job.device, main=job.world.main)
        self.timing.start_epoch(progress)
        batches = job.batches.epoch(progress.epoch, start=progress.batch, augmented=True)
        for batch in job.clock.waits(batches, self.device_work):
            if progress.step >= job.total_steps:
                break
            total, readable = self._synchronize_step(stats, batch)
            if progress.finished:
                break
            self.lr = self._learning_rate(progress.step)
            set_lr(job.optimizer, self.lr)
            if self._unfreeze():
                set_train_mode(job.model.module)
            self.profiler.before_step()
            if batch.is_usable(readable):
                with job.clock.phase("step"):
                    stats.add(self._step(stats, batch, total), len(batch))
                    progress.micro = job.batches.plan.memory_limit
                    self._check_bad_streak(stats.known_bad_streak)
                    job.model.after_update()
                    self.device_work.mark()
            progress.step += 1
            progress.batch += 1
        self.profiler.end(of_run=progress.step >= job.total_steps)
        self._log_step(stats)
        return stats

    def _step(self, stats: EpochStats, batch: Batch, total: float) -> StepOutput:
        """One optimizer step. Raises: StopRequested after a signal between two of its micro-batches."""
        started = time.perf_counter()
        check = self._check_stop if self.slow_steps else None
        try:
            output = optimizer_step(self.job, batch, total, check)
        except StopRequested:
            if self.progress.step > self.logged_step:
                self._log_step(stats)
            raise
        self.step_s = time.perf_counter() - started
        return output

    def _synchronize_step(self, stats: EpochStats, batch: Batch) -> tuple[float, int]:
        """Agree with the other processes on what is due before the next step, and log, save or stop.

        Returns the loss's count and the readable samples of the next step over all processes. Raises:
        StopRequested after a signal; DlcliError.
        """
        progress, world = self.progress, self.job.world
        due = self.timing.due(progress.step) if world.main else (False, False, False)
        world.record_step(progress.step)
        signum = self.guard.signum or 0  # read once: a signal may arrive at any time
        total, readable, signals, signums, slow, log_due, save_due, time_due = world.sum(
            batch.count, len(batch), signum > 0, signum, self.step_s > _SLOW_STEP_S, *due
        )
        # Only then, as the processes of a group have to agree between any two micro-batches.
        self.slow_steps = world.size == 1 or slow > 0
        trained = progress.step > self.logged_step  # since the last log, or since the resume
        if trained and (log_due or save_due or signals or time_due):
            self._log_step(stats)
        self._stop_if(signals, signums)
        if time_due:
            progress.finished, progress.reason = True, "time"
        elif save_due and trained and not progress.bad_streak:  # skipped steps may end the run
            self._save_state()
        return total, int(readable)

    def _end_epoch(self, stats: EpochStats) -> None:
        """Validate, save the best model, advance to the next epoch, save the state if due."""
        job, progress = self.job, self.progress
        if not progress.seen:
            raise job.batches.unreadable()
        if stats.steps and progress.bad_streak >= stats.steps:
            raise self._diverged(progress.bad_streak)
        check_weights(job, progress)
        epoch_s, samples_per_s = self.timing.epoch_speed(progress)
        loss, accuracy = training_metrics(progress, accuracy=job.objective.counts_correct)
        result, best = validate_epoch(job, progress, self._check_stop)
        self._write_times()
        job.emit(
            EpochDone(
                epoch=progress.epoch + 1,
                epochs=job.config.epochs,
                step=progress.step,
                loss=loss,
                accuracy=accuracy,
                lr=self.lr,
                val=result.metrics,
                monitor=job.monitor,
                improved=best,
                samples_per_s=samples_per_s,
                epoch_s=epoch_s,
                elapsed_s=progress.elapsed_s,
                grad_norm=self._finite_grad_norm,
                skipped=progress.skipped,
            )
        )
        job.snapshot(progress)
        advance(job, progress)
        self._after_epoch()

    def _after_epoch(self) -> None:
        """Stop when the time is up, else save the state if due. Raises: StopRequested."""
        progress, world = self.progress, self.job.world
        save_due, time_due = world.sum(
            world.main and self.timing.epoch_save_due(progress),
            world.main and self.timing.out_of_time(),
        )
        if progress.finished:  # `run` saves the last state
            return
        if time_due:
            progress.finished, progress.reason = True, "time"
            return
        if save_due and not progress.bad_streak:
            self._save_state()
        self._check_stop()

    def _check_stop(self) -> None:
        """Raises: StopRequested when any process of the group has a signal; all must call it."""
        signum = self.guard.signum or 0  # read once: a signal may arrive at any time
        self._stop_if(*self.job.world.sum(signum > 0, signum))

    def _stop_if(self, signals: float, signums: float) -> None:
        """Raises: StopRequested where processes have signals, whose numbers add up to ``signums``."""
        if signals:
            self.stop_signum = round(signums / signals)
            raise StopRequested

    def _log_step(self, stats: EpochStats) -> None:
        """Sum the statistics of all processes and emit the last step, unless it was logged."""
        job, progress = self.job, self.progress
        with job.clock.phase("step"):  # it waits for the device
            stats.write(progress, job.world)
        self._check_bad_streak(progress.bad_streak)
        self._write_times()
        if progress.step == self.logged_step:
            return
        self.logged_step, self.grad_norm = progress.step, float(stats.grad_norm)
        loss, accuracy = training_metrics(progress, accuracy=job.objective.counts_correct)
        job.emit(
            StepDone(
                step=progress.step,
                total_steps=job.total_steps,
                epoch=progress.epoch + 1,
                epochs=job.config.epochs,
                step_in_epoch=progress.batch,
                steps_per_epoch=len(job.batches),
                loss=loss,
                accuracy=accuracy,
                lr=self.lr,
                samples_per_s=self.timing.epoch_speed(progress)[1],
                elapsed_s=progress.elapsed_s,
                eta_s=self.timing.eta(progress),
                memory_mib=peak_memory_mib(job.device),
                grad_norm=self._finite_grad_norm,
                skipped=progress.skipped,
            )
        )

    def _save_state(self) -> None:
        job, progress = self.job, self.progress
        self._write_times()
        with job.clock.phase("saving"):
            path = job.files.save_state(replace(progress))
        self.timing.saved(progress.step)
        job.emit(CheckpointSaved(what="state", path=path, step=progress.step))

    def _write_times(self) -> None:
        self.progress.phase_s = self.job.clock.seconds()
        self.progress.elapsed_s = sum(self.progress.phase_s.values())

    def _learning_rate(self, step: int) -> float:
        factor = self.job.lr_factor(step, self.progress.plateau.factor)
        return self.job.optim.peak_lr * factor

    def _unfreeze(self) -> bool:
        """Unfreeze the layers that are due; True if any changed."""
        step = self.progress.step
        return self.job.model.unfreeze(step / self.job.planned_steps(step))

    @property
    def _finite_grad_norm(self) -> float | None:
        return self.grad_norm if math.isfinite(self.grad_norm) else None

    def _check_bad_streak(self, streak: int) -> None:
        """Raises: Diverged after too many skipped steps in a row."""
        if streak >= self.job.config.max_bad_steps:
            raise self._diverged(streak)

    def _diverged(self, streak: int) -> DlcliError:
        where = non_finite_gradients(self.job.model.module)
        reason = f"the gradient was not finite in the last {streak} steps{where}"
        return diverged(reason, self.progress, self.job.files.run)
