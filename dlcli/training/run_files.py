"""Models and states in a run folder, for the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from dlcli.evaluation.metrics import EvalResult
from dlcli.files import atomic_file
from dlcli.formats.checkpoint import save_model
from dlcli.runs.folder import RunFolder
from dlcli.training.distributed.world import World
from dlcli.training.loop.determinism import capture_rng
from dlcli.training.loop.state import Progress, save_state
from dlcli.training.model_card import make_card
from dlcli.training.plan import Plan
from dlcli.training.weight_averaging import WeightAverage


@dataclass(frozen=True)
class RunFolderFiles:
    """Models and states of a plan's module in a run folder: the `RunFiles` of a training loop.

    The main process writes; an error there, such as a full disk, is raised in all processes.
    """

    plan: Plan
    folder: RunFolder
    world: World
    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averages: Mapping[str, WeightAverage]

    @property
    def run(self) -> str:
        """The run's folder."""
        return str(self.folder.path)

    def save_model(self, name: str, result: EvalResult, epoch: int) -> str:
        """Save the module with its card; returns the path. Raises: DlcliError."""
        path = self.folder.model(name)

        def save() -> None:
            card = make_card(self.plan, self.module, metrics={"val": result.metrics}, epoch=epoch)
            save_model(path, self.module, card)

        self.world.run_on_main(save)
        return str(path)

    def drop_model(self, name: str) -> None:
        """Delete a saved model."""
        if self.world.main:
            self.folder.model(name).unlink(missing_ok=True)

    def save_trace(self, step: int, write: Callable[[str], object]) -> str:
        """Save the trace that ``write`` writes to a path; returns its path. Raises: DlcliError."""
        path = self.folder.trace(step)
        with atomic_file(path) as tmp:
            write(str(tmp))
        return str(path)

    def save_state(self, progress: Progress) -> str:
        """Save the training state, the generators of all processes included. Raises: DlcliError."""
        generators = self.world.gather(capture_rng())

        def save() -> str:
            path = save_state(
                self.folder.state,
                module=self.module,
                optimizer=self.optimizer,
                scaler=self.scaler,
                averages=self.averages,
                progress=progress,
                generators=generators,
                keep=self.plan.config.fit.keep_states,
            )
            return str(path)

        return self.world.run_on_main(save)
