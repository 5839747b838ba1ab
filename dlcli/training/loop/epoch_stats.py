"""The training statistics of an epoch, summed on the device and read only when they are logged."""

from __future__ import annotations

import torch

from dlcli.training.distributed.world import World
from dlcli.training.loop.state import Progress
from dlcli.training.loop.step import StepOutput


class EpochStats:
    """Sums over this process's samples of an epoch; skipped steps of the whole run.

    ``steps`` are those of the epoch in this process. The main process starts from the sums in
    ``progress``, the others from 0.
    """

    def __init__(self, progress: Progress, device: torch.device, *, main: bool) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        start = progress if main else Progress()
        self._loss = torch.tensor(start.loss_sum, dtype=dtype, device=device)
        self._count = torch.tensor(start.loss_count, dtype=dtype, device=device)
        self._correct = torch.tensor(start.correct, dtype=torch.int64, device=device)
        self._seen = start.seen
        self._skipped: int | torch.Tensor = progress.skipped
        self._bad_streak: int | torch.Tensor = progress.bad_streak
        self.steps = 0
        self.grad_norm = torch.zeros((), device=device)

    @property
    def known_bad_streak(self) -> int:
        """The last consecutive skipped steps; 0 where reading them would wait for the device."""
        return self._bad_streak if isinstance(self._bad_streak, int) else 0

    def add(self, output: StepOutput, samples: int) -> None:
        """Count a step on ``samples`` of this process. A skipped step adds no loss."""
        updated = output.updated
        self.grad_norm = output.grad_norm
        self.steps += 1
        self._seen += samples
        if isinstance(updated, bool):
            if updated:
                self._loss += output.loss_sum
                self._count += output.count
                self._correct += output.correct
            self._skipped += not updated
            self._bad_streak = 0 if updated else self._bad_streak + 1
            return
        self._loss += torch.where(updated, output.loss_sum, 0.0)
        self._count += torch.where(updated, output.count, 0.0)
        self._correct += torch.where(updated, output.correct, 0)
        bad = (~updated).long()
        self._skipped = self._skipped + bad
        self._bad_streak = (self._bad_streak + bad) * bad

    def write(self, progress: Progress, world: World) -> None:
        """Write the sums over all processes into ``progress``; every process must call it."""
        loss, count, correct, seen = world.sum(
            float(self._loss), float(self._count), int(self._correct), self._seen
        )
        progress.loss_sum, progress.loss_count = loss, count
        progress.trained += int(seen) - progress.seen
        progress.correct, progress.seen = int(correct), int(seen)
        progress.skipped, progress.bad_streak = int(self._skipped), int(self._bad_streak)


def training_metrics(progress: Progress, *, accuracy: bool) -> tuple[float, float | None]:
    """Mean training loss, and accuracy where it is counted, over the epoch so far."""
    # Skipped steps count neither as correct nor as samples here.
    count = progress.loss_count or 1
    return progress.loss_sum / count, progress.correct / count if accuracy else None
