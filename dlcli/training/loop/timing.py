"""When to log and to save, and how fast it goes."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dlcli.errors import UsageError
from dlcli.events import CheckpointSaved, StepDone
from dlcli.training.loop.state import Progress
from dlcli.zoo.device import peak_memory_mib

if TYPE_CHECKING:
    from dlcli.training.loop.epoch_stats import Tally
    from dlcli.training.loop.fit import FitJob


@dataclass(frozen=True)
class CheckpointEvery:
    """How often the state is saved: after so many steps, minutes, epochs; None is never."""

    steps: int | None = None
    minutes: float | None = None
    epochs: int | None = None

    @classmethod
    def parse(cls, text: str) -> CheckpointEvery:
        """ "200", "5min", "1ep", or several with commas. Raises: UsageError."""
        found: dict[str, Any] = {}
        for part in text.split(","):
            match = re.fullmatch(r"(\d+(?:\.\d+)?)(min|ep)?", part.strip())
            if match is None or float(match[1]) <= 0 or (match[2] != "min" and "." in match[1]):
                raise UsageError(
                    f"--checkpoint-every {text!r}: {part.strip()!r} is not N, Nmin or Nep",
                    hint="200 is steps, 5min minutes, 1ep epochs; join them with commas",
                )
            if match[2] == "min":
                found["minutes"] = float(match[1])
            else:
                found["epochs" if match[2] else "steps"] = int(match[1])
        return cls(**found)


def parse_time(text: str | None) -> float | None:
    """ "90s", "30min", "2h" or "1h30min" in seconds. Raises: UsageError."""
    if text is None:
        return None
    match = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)min)?(?:(\d+(?:\.\d+)?)s)?", text.strip()
    )
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    if not any(parts):
        raise UsageError(f"--max-time {text!r} is no length of time", hint="90s, 30min, 2h or 1h30min")
    return sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=True))


class Clock:
    """The times of a run, in seconds: when the next event and the next state are due."""

    def __init__(self, job: FitJob, progress: Progress) -> None:
        self.job = job
        self.every = CheckpointEvery.parse(job.config.checkpoint_every)
        self.limit_s = parse_time(job.config.max_time)
        self.lr, self.grad_norm = 0.0, math.nan  # of the last step
        self.told = progress.step  # the step of the last event
        self.t0 = time.perf_counter() - progress.elapsed_s
        self.first_step, self.start_elapsed = progress.step, progress.elapsed_s
        self.last_log = self.last_save = time.perf_counter()
        self.save_owed = False
        self.saved = progress.step  # the step of the last state

    def start_epoch(self, progress: Progress) -> None:
        self.epoch_t0, self.epoch_seen = time.perf_counter(), progress.seen

    def read(self, progress: Progress) -> None:
        progress.elapsed_s = time.perf_counter() - self.t0

    def due(self, progress: Progress) -> tuple[bool, bool, bool]:
        """Whether to log, whether to save and whether the run's time is up, before the next step."""
        now, every = time.perf_counter(), self.every
        self.save_owed |= self._steps_due(progress)
        self.save_owed |= every.minutes is not None and now - self.last_save >= every.minutes * 60
        log = now - self.last_log >= self.job.config.log_every
        # Also a hundred times a run, so that its curves have points however short it is.
        log |= progress.step % max(1, self.job.total_steps // 100) == 0
        if log:
            self.last_log = now
        return log, self.save_owed, progress.step > 0 and self.out_of_time()

    def out_of_time(self) -> bool:
        """Whether the run has lasted as long as it may."""
        return self.limit_s is not None and time.perf_counter() - self.t0 >= self.limit_s

    def epoch_save_due(self, progress: Progress) -> bool:
        """Whether to save after this epoch's validation."""
        epochs = self.every.epochs
        owed = self.save_owed or self._steps_due(progress)
        return owed or (epochs is not None and progress.epoch % epochs == 0)

    def _steps_due(self, progress: Progress) -> bool:
        steps = self.every.steps
        return steps is not None and progress.step > self.saved and progress.step % steps == 0

    def save(self, progress: Progress) -> None:
        self.read(progress)
        path = self.job.save_state(replace(progress))
        self.last_save, self.save_owed, self.saved = time.perf_counter(), False, progress.step
        self.job.emit(CheckpointSaved(what="state", path=path, step=progress.step))

    def epoch_figures(self, progress: Progress) -> tuple[float, float]:
        """Seconds of the epoch's steps, and samples a second over them."""
        seconds = max(time.perf_counter() - self.epoch_t0, 1e-9)
        return seconds, (progress.seen - self.epoch_seen) / seconds

    def tell(self, progress: Progress, tally: Tally) -> None:
        """Add up what the processes have seen, and say how far they are."""
        tally.store(progress)
        self.read(progress)
        if progress.step != self.told:
            self.told, self.grad_norm = progress.step, float(tally.grad_norm)
            self.job.emit(self.step_event(progress))

    def step_event(self, progress: Progress) -> StepDone:
        """The event of the step that was done last."""
        loss, accuracy = means(progress, hits=self.job.counts_hits)
        total = self.job.total_steps
        done = max(progress.step - self.first_step, 1)
        spent = progress.elapsed_s - self.start_elapsed
        return StepDone(
            step=progress.step,
            total_steps=total,
            epoch=progress.epoch + 1,
            epochs=self.job.config.epochs,
            step_in_epoch=progress.batch,
            steps_per_epoch=len(self.job.batches),
            loss=loss,
            accuracy=accuracy,
            lr=self.lr,
            samples_per_s=self.epoch_figures(progress)[1],
            elapsed_s=progress.elapsed_s,
            eta_s=spent / done * (total - progress.step),
            memory_mib=peak_memory_mib(self.job.precision.device),
            grad_norm=self.grad_norm if math.isfinite(self.grad_norm) else None,
            skipped=progress.skipped,
        )


def means(progress: Progress, *, hits: bool) -> tuple[float, float | None]:
    """Training loss, and accuracy where ``hits`` are counted, over the epoch so far."""
    loss = progress.loss_sum / (progress.loss_count or 1)
    # Steps that were left out count neither in the hits nor in this count of samples.
    return loss, progress.hits / (progress.loss_count or 1) if hits else None
