"""Intervals of logging and saving, elapsed time and speed of a run."""

from __future__ import annotations

import time

from dlcli.config import FitConfig
from dlcli.config.durations import CheckpointEvery, parse_time
from dlcli.training.loop.phases import PhaseClock
from dlcli.training.loop.state import Progress


class Timing:
    """When to log and to save in a run, and its elapsed time in seconds."""

    def __init__(
        self, config: FitConfig, progress: Progress, total_steps: int, clock: PhaseClock
    ) -> None:
        self._every = CheckpointEvery.parse(config.checkpoint_every)
        self._log_every_s = config.log_every
        self._limit_s = parse_time(config.max_time)
        self._total_steps = total_steps
        now = time.perf_counter()
        self._clock = clock
        self._first_step, self._first_elapsed = progress.step, progress.elapsed_s
        self._last_log = self._last_save = now
        self._saved_step = progress.step
        self._save_due = False
        self._epoch_t0, self._epoch_first_seen = now, progress.seen

    def start_epoch(self, progress: Progress) -> None:
        """Measure the epoch's speed from here on."""
        self._epoch_t0, self._epoch_first_seen = time.perf_counter(), progress.seen

    def elapsed(self) -> float:
        """Seconds of training in all, those before a resume included."""
        return self._clock.elapsed()

    def epoch_speed(self, progress: Progress) -> tuple[float, float]:
        """Seconds of the epoch's steps so far, and samples per second over them."""
        seconds = max(time.perf_counter() - self._epoch_t0, 1e-9)
        return seconds, (progress.seen - self._epoch_first_seen) / seconds

    def eta(self, progress: Progress) -> float:
        """Seconds that the remaining steps will take."""
        done = max(progress.step - self._first_step, 1)
        return (progress.elapsed_s - self._first_elapsed) / done * (self._total_steps - progress.step)

    def due(self, step: int) -> tuple[bool, bool, bool]:
        """Return (log, save, out of time) before the next step."""
        now, minutes = time.perf_counter(), self._every.minutes
        self._save_due |= self._steps_due(step)
        self._save_due |= minutes is not None and now - self._last_save >= minutes * 60
        log = now - self._last_log >= self._log_every_s
        # And at least a hundred times a run, for its curves.
        log |= step % max(1, self._total_steps // 100) == 0
        if log:
            self._last_log = now
        return log, self._save_due, step > 0 and self.out_of_time()

    def out_of_time(self) -> bool:
        """Return whether the run has reached its time limit."""
        return self._limit_s is not None and self.elapsed() >= self._limit_s

    def epoch_save_due(self, progress: Progress) -> bool:
        """Whether to save after this epoch's validation."""
        epochs = self._every.epochs
        due = self._save_due or self._steps_due(progress.step)
        return due or (epochs is not None and progress.epoch % epochs == 0)

    def saved(self, step: int) -> None:
        """Restart the interval between saves."""
        self._last_save, self._save_due, self._saved_step = time.perf_counter(), False, step

    def _steps_due(self, step: int) -> bool:
        steps = self._every.steps
        return steps is not None and step > self._saved_step and step % steps == 0
