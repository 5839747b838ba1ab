"""The card of a model that a run trains."""

from __future__ import annotations

from torch import nn

from dlcli.card import Card
from dlcli.runs.folder import versions
from dlcli.training.plan import Plan


def make_card(
    plan: Plan,
    module: nn.Module,
    *,
    metrics: dict[str, dict[str, float]] | None = None,
    epoch: int | None = None,
) -> Card:
    """The card of a plan's module; ``metrics`` by split, ``epoch`` counted from 1."""
    return Card(
        model=plan.model,
        task=plan.task,
        transforms=plan.transforms,
        metrics=metrics or {},
        monitor=plan.monitor,
        data=plan.data_record(),
        weights_from=plan.weights_from,
        parent=plan.parent,
        params=sum(p.numel() for p in module.parameters()),
        epoch=epoch,
        versions=versions(),
    )
