"""Batches and loss for importances that need gradients, from the training split of a plan."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch

from dlcli.compress.channels.importance.base import Batches, Loss
from dlcli.training.class_balance import balance_plan
from dlcli.training.loop.batch_plan import BatchPlan
from dlcli.training.loop.loader import TrainBatches
from dlcli.training.losses.make import make_loss
from dlcli.training.plan import Plan
from dlcli.training.readers import make_reader
from dlcli.zoo.forward import model_inputs

_BATCHES = 8


def gradient_data(plan: Plan) -> tuple[Batches, Loss]:
    """Return the first training batches of a plan's run, without augmentation, and its mean loss."""
    reader, device = make_reader(plan, "train", 0.0), torch.device("cpu")
    config = plan.config
    balance = balance_plan(config.data.balance, plan.task, reader.samples.targets)
    focal = balance.kind == "focal"
    summed_loss = make_loss(plan.task, config.loss, class_weights=balance.weights, focal=focal)
    loader = TrainBatches(
        reader, BatchPlan(config.fit.step_samples), seed=config.fit.seed, device=device
    )

    def batches() -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        for batch in islice(loader.epoch(0), _BATCHES):
            yield model_inputs(batch.inputs, plan.task), batch.targets

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        total, count = summed_loss(outputs, targets)
        return total / count

    return batches, loss
