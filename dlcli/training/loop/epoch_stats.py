"""What an epoch adds up while it runs, and the guard against gradients that are no numbers.

Everything stays on the device until somebody asks, since reading it there means waiting for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from dlcli.errors import Diverged
from dlcli.training.loop.state import Progress
from dlcli.training.loop.step import Taken

if TYPE_CHECKING:
    from dlcli.training.loop.fit import FitJob


class Tally:
    """Sums over this process's samples of an epoch. The main process starts from what a state held."""

    def __init__(self, progress: Progress, job: FitJob) -> None:
        device, world = job.precision.device, job.world
        kind = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        start = progress if world.main else Progress()
        self.loss = torch.tensor(start.loss_sum, dtype=kind, device=device)
        self.count = torch.tensor(start.loss_count, dtype=kind, device=device)
        self.hits = torch.tensor(start.hits, dtype=torch.int64, device=device)
        self.seen = start.seen
        self.steps = 0  # of this epoch, in this process's life
        self.world = world
        self.max_bad_steps, self.run = job.config.max_bad_steps, job.run
        self.skipped: int | torch.Tensor = progress.skipped
        self.streak: int | torch.Tensor = progress.bad_streak
        self.grad_norm = torch.zeros((), device=device)

    def add(self, taken: Taken, samples: int, progress: Progress) -> None:
        """Count a step. One whose update was left out adds no loss. Raises: Diverged."""
        finite = taken.finite
        self.grad_norm = taken.grad_norm
        self.steps += 1
        self.seen += samples
        if isinstance(finite, bool):
            if finite:
                self.loss += taken.loss_sum
                self.count += taken.count
                self.hits += taken.hits
            self.skipped += not finite
            self.streak = 0 if finite else self.streak + 1
            if not finite:
                self._check(int(self.streak), progress)
            return
        self.loss += torch.where(finite, taken.loss_sum, 0.0)
        self.count += torch.where(finite, taken.count, 0.0)
        self.hits += torch.where(finite, taken.hits, 0)
        bad = (~finite).long()
        self.skipped = self.skipped + bad
        self.streak = (self.streak + bad) * bad

    def store(self, progress: Progress) -> None:
        """Put the sums over all processes into ``progress``. Raises: Diverged after divergence."""
        loss, count, hits, seen = self.world.sum(
            float(self.loss), float(self.count), int(self.hits), self.seen
        )
        progress.loss_sum, progress.loss_count = loss, count
        progress.hits, progress.seen = int(hits), int(seen)
        progress.skipped, progress.bad_streak = int(self.skipped), int(self.streak)
        self._check(progress.bad_streak, progress)

    def end(self, progress: Progress) -> None:
        """Raises: Diverged when no step of the epoch made an update."""
        if self.steps and progress.bad_streak >= self.steps:
            raise self._diverged(progress.bad_streak, progress)

    def _check(self, streak: int, progress: Progress) -> None:
        if streak >= self.max_bad_steps:
            raise self._diverged(streak, progress)

    def _diverged(self, streak: int, progress: Progress) -> Diverged:
        said = f"the gradient was no finite number in the last {streak} steps"
        return diverged(said, progress, self.run)


def diverged(evidence: str, progress: Progress, run: str) -> Diverged:
    """The error of a run that no longer learns."""
    before = (
        f"{run}{os.sep}best.safetensors is whole" if progress.best_epoch else "no model was saved yet"
    )
    return Diverged(
        f"{evidence}, up to step {progress.step}: training has diverged",
        hint=f"use a lower --lr, --clip-grad-norm 1 or --amp none; {before}, and so are the states in "
        f"{run}{os.sep}state",
    )
