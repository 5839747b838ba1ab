"""Importance of channels by the loss without them, estimated by gradients (Taylor)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from dlcli.compress.channels.groups import Group
from dlcli.compress.channels.importance.base import ImportanceContext, register_importance, unit_sums
from dlcli.errors import DlcliError, UsageError


@register_importance("taylor", needs_gradients=True)
def taylor(groups: Sequence[Group], context: ImportanceContext) -> list[torch.Tensor]:
    """Return the sum over a unit's weights of (gradient x weight)^2, over the batches.

    The first-order estimate of the squared change of the loss without it: Molchanov et al., "Importance
    Estimation for Neural Network Pruning", arXiv:1906.10771. Statistics of batch norms stay fixed.
    Raises: UsageError without data; DlcliError without batches, or when gradients are not finite.
    """
    if context.batches is None or context.loss is None:
        raise UsageError("--importance taylor needs data to compute gradients on")
    model = copy.deepcopy(context.module).eval()
    named = [
        (name, p.requires_grad_(True)) for name, p in model.named_parameters() if p.is_floating_point()
    ]
    total = {name: torch.zeros(p.shape) for name, p in named}
    count = 0
    # cuDNN's recurrent kernels give no gradients in eval mode.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for inputs, targets in context.batches():
            model.zero_grad(set_to_none=True)
            context.loss(model(*inputs), targets).backward()  # type: ignore[no-untyped-call]
            for name, p in named:
                if p.grad is not None:
                    total[name] += (p.grad * p.detach()).float().square().cpu()
            count += 1
    if count == 0:
        raise DlcliError("--importance taylor needs training samples, and there is none")
    if not all(bool(t.isfinite().all()) for t in total.values()):
        raise DlcliError(
            "the loss has gradients that are not finite, so Taylor importance cannot be computed"
        )
    return [_group_scores(group, total) for group in groups]


def _group_scores(group: Group, values: dict[str, torch.Tensor]) -> torch.Tensor:
    scores = torch.zeros(group.size)
    for owner, sums in unit_sums(group, values):
        scores.index_add_(0, owner, sums)
    return scores
