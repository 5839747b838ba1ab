"""Memory of a training step, counted tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from dlcli.training.activation_checkpointing import step_bytes
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.loader import Batch


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device during a step.

    ``activations`` are what autograd saves of one micro-batch of ``micro`` samples for the backward
    pass, ``batch`` are the inputs and targets of a step. Workspace of kernels is not included.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    batch: int
    activations: int
    micro: int

    @property
    def total(self) -> int:
        """The sum, which is reached at the end of a forward pass."""
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.averages
            + self.batch
            + self.activations
        )


def estimate_memory(job: FitJob, batch: Batch, part: Batch) -> MemoryEstimate:
    """Estimate the memory of a job after its first step, when the optimizer's state exists.

    ``part`` is a micro-batch of ``batch``. Only layers that are not frozen now have gradients.
    """
    state = job.optimizer.state.values()
    return MemoryEstimate(
        weights=bytes_of([*job.model.module.parameters(), *job.model.module.buffers()]),
        gradients=bytes_of(p for p in job.model.module.parameters() if p.requires_grad),
        optimizer=bytes_of(t for entry in state for t in entry.values() if torch.is_tensor(t)),
        averages=bytes_of(
            t for average in job.model.averages.values() for t in average.tensors().values()
        ),
        batch=bytes_of([*batch.inputs, batch.targets]),
        activations=activation_bytes(job, part),
        micro=len(part),
    )


def activation_bytes(job: FitJob, part: Batch) -> int:
    """Bytes that a backward pass over a micro-batch needs; it costs one or two forward passes."""
    return step_bytes(job.model.module, lambda: job.objective(job.model.forward, part).loss)


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """The total size of tensors in bytes; repeated ones count once."""
    unique = {id(tensor): tensor for tensor in tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in unique.values())
