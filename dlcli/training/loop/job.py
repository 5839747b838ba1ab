"""The inputs of the training loop: model, data, objective, optimizer and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch

from dlcli.config import FitConfig, OptimConfig
from dlcli.evaluation.metrics import EvalResult
from dlcli.events import Emit
from dlcli.task import TaskSpec
from dlcli.training.distributed.world import World
from dlcli.training.loop.loader import TrainBatches
from dlcli.training.loop.model import TrainableModel
from dlcli.training.loop.objective import Objective
from dlcli.training.loop.phases import PhaseClock
from dlcli.training.loop.state import Progress
from dlcli.training.optim.schedule import lr_factor
from dlcli.training.optim.schedules.base import ScheduleEntry
from dlcli.training.optim.user_schedule import schedule_entry
from dlcli.zoo.precision import Precision

Prune = Callable[[Progress], bool]


class RunFiles(Protocol):
    """Where a run's models and states go. All processes of a group call the methods together."""

    @property
    def run(self) -> str:
        """The run's folder, for messages."""

    def save_model(self, name: str, result: EvalResult, epoch: int) -> str:
        """Save the model with its metrics; returns the path. Raises: DlcliError."""

    def drop_model(self, name: str) -> None:
        """Delete a saved model."""

    def save_trace(self, step: int, write: Callable[[str], object]) -> str:
        """Save the trace from a step on, which ``write`` writes to a path; returns its own path.

        The main process alone calls it. Raises: DlcliError.
        """

    def save_state(self, progress: Progress) -> str:
        """Save the training state; returns the path. Raises: DlcliError."""


@dataclass
class FitJob:
    """The inputs of `fit`.

    ``validate`` evaluates the module on the validation split; its argument is called repeatedly and
    may raise StopRequested. ``snapshot`` draws images and histograms after an epoch. ``prune`` is asked
    after each whole epoch, of a run in one process, and ends the run where it returns True: it has to be
    a function of the epochs so far, as a resumed run asks again.
    """

    task: TaskSpec
    config: FitConfig
    optim: OptimConfig
    world: World
    model: TrainableModel
    batches: TrainBatches
    objective: Objective
    precision: Precision
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    monitor: str
    validate: Callable[[Callable[[], None]], EvalResult]
    files: RunFiles
    snapshot: Callable[[Progress], None]
    emit: Emit
    prune: Prune | None = None
    clock: PhaseClock = field(default_factory=PhaseClock)

    @property
    def device(self) -> torch.device:
        """The training device."""
        return self.precision.device

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self._steps_of(self.config.epochs)

    def planned_steps(self, step: int) -> int:
        """The steps that the schedule spans at ``step``, counted from 0: a resume may change them."""
        return self._steps_of(self.config.planned_epochs(step))

    def lr_factor(self, step: int, plateau: float = 1.0) -> float:
        """The share of the peak learning rate at ``step``, counted from 0."""
        return lr_factor(
            step,
            self.planned_steps(step),
            len(self.batches),
            self.optim,
            plateau,
            self._schedule,
            head_steps=self.head_steps(step),
        )

    def head_steps(self, step: int) -> int:
        """The first steps of the run, which train the head alone, as planned at ``step``."""
        return self.config.head_steps(step, self.planned_steps(step))

    @cached_property
    def _schedule(self) -> ScheduleEntry:
        """The schedule: code of the user's is read once, not at every step."""
        return schedule_entry(self.optim)

    def _steps_of(self, epochs: int) -> int:
        steps = len(self.batches) * epochs
        return min(steps, self.config.max_steps or steps)
