"""The loss of a micro-batch: augmentation, forward pass, teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dlcli.errors import DlcliError
from dlcli.task import TaskSpec
from dlcli.training.augmentation.augment import Augment
from dlcli.training.distillation import Teacher
from dlcli.training.loop.loader import Batch
from dlcli.training.loop.model import Forward
from dlcli.zoo.forward import model_inputs
from dlcli.zoo.precision import Precision


@dataclass(frozen=True)
class LossSums:
    """Scalars on the device: the summed loss, what it counts (samples or tokens), correct predictions.

    ``correct`` is 0 where it is not counted.
    """

    loss: torch.Tensor
    count: torch.Tensor
    correct: torch.Tensor

    def __add__(self, other: LossSums) -> LossSums:
        return LossSums(self.loss + other.loss, self.count + other.count, self.correct + other.correct)

    @staticmethod
    def zero(device: torch.device) -> LossSums:
        """The sums over no sample."""
        zero = torch.zeros((), device=device)
        return LossSums(zero, zero, zero.long())


@dataclass
class Objective:
    """What a training step minimises.

    ``loss`` takes outputs, targets and, with a ``teacher``, the teacher's outputs; it returns the sum
    over the samples and their count. ``head`` takes the batches that are features. ``undivided`` is
    the reason why a step's batch may not be divided into parts, where it may not: see `loss_check`.
    """

    task: TaskSpec
    precision: Precision
    loss: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    teacher: Teacher | None = None
    augment: Augment | None = None
    head: nn.Module | None = None
    undivided: str = ""

    @property
    def counts_correct(self) -> bool:
        """Whether a training sample has a single class, so that its prediction can be correct."""
        return self.task.kind == "classification" and not (self.augment and self.augment.mixes)

    def __call__(self, forward: Forward, batch: Batch) -> LossSums:
        """The loss of a micro-batch by ``forward``, ready for a backward pass. Raises: DlcliError."""
        if batch.is_features:
            return self._of_features(batch.inputs, batch.targets)
        inputs, targets = self.augmented(batch)
        teacher_outputs = () if self.teacher is None else (self.teacher(inputs),)
        try:
            with self.precision.autocast():
                outputs = forward(*model_inputs(inputs, self.task))
            loss, count = self._of_outputs(outputs.float(), targets, *teacher_outputs)
        except ValueError as exc:
            if "more than 1 value per channel" not in str(exc):
                raise
            raise DlcliError(
                "batch normalisation cannot train on a batch of one sample",
                hint="use --batch-size 2 or more for each device and micro-batch, at least two "
                "training samples, and leave --no-sync-bn out",
            ) from exc
        return LossSums(loss, count, self._correct(outputs.detach(), targets))

    def augmented(self, batch: Batch) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """The inputs and targets of a batch, augmented where there is an augmentation."""
        if self.augment is None:
            return batch.inputs, batch.targets
        return self.augment(batch.inputs, batch.targets, batch.indices, batch.epoch)

    def _of_features(self, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> LossSums:
        assert self.head is not None
        with self.precision.autocast():
            outputs = self.head(*inputs)
        loss, count = self._of_outputs(outputs.float(), targets)
        return LossSums(loss, count, self._correct(outputs.detach(), targets))

    def _has_members(self, outputs: torch.Tensor) -> bool:
        """Whether outputs are (B, k, ...), of k models that share their weights, as of `zoo.tabm`."""
        return outputs.ndim == len(self.task.output_shape) + 2

    def _of_outputs(
        self, outputs: torch.Tensor, targets: torch.Tensor, *teacher_outputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum and count of the loss; of (B, k, ...) outputs the mean of the k members' losses."""
        if not self._has_members(outputs):
            return self.loss(outputs, targets, *teacher_outputs)
        k = outputs.shape[1]
        if self.undivided:  # it compares samples with each other, so each member is one batch
            losses = [self.loss(one, targets, *teacher_outputs) for one in outputs.unbind(1)]
            return torch.stack([loss for loss, _ in losses]).mean(), losses[0][1]
        repeated = [tensor.repeat_interleave(k, dim=0) for tensor in (targets, *teacher_outputs)]
        loss, count = self.loss(outputs.flatten(0, 1), *repeated)
        return loss / k, count / k

    def _correct(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not self.counts_correct:
            return torch.zeros((), dtype=torch.int64, device=outputs.device)
        if self._has_members(outputs):
            outputs = outputs.softmax(2).mean(1)
        return (outputs.argmax(1) == targets).sum()
