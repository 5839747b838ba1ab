"""Importance of channels by their weights, and by the scales of their batch norms."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dlcli.compress.channels.groups import Group
from dlcli.compress.channels.importance.base import ImportanceContext, register_importance, unit_sums
from dlcli.errors import UsageError
from dlcli.zoo.structures.channels import BATCH_NORMS


@register_importance("magnitude")
def magnitude(groups: Sequence[Group], context: ImportanceContext) -> list[torch.Tensor]:
    """Return the L2 norm of each unit's weights, relative to the tensor's mean, averaged over tensors.

    It is multiplied by |scale| of the unit's batch norms, where it has any: a channel scaled to 0 has no
    effect.

    Li et al., "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, use the L1 norm of the
    filters alone; here the weights that read the channel count as well, as in arXiv:2301.12900.
    """
    # Only matrices and kernels: norms and biases have scales of their own.
    squares = {
        name: p.detach().float().square().cpu()
        for name, p in context.module.named_parameters()
        if p.ndim > 1
    }
    scores_by_group = []
    for group in groups:
        scores = torch.zeros(group.size)
        for owner, sums in unit_sums(group, squares):
            norms = torch.zeros(group.size).index_add_(0, owner, sums).sqrt()
            scores += norms / norms.mean().clamp(min=1e-30)
        scale = _batch_norm_scale(group, context)
        scores_by_group.append(scores if scale is None else scores * scale)
    return scores_by_group


@register_importance("bn-scale")
def batch_norm_scale(groups: Sequence[Group], context: ImportanceContext) -> list[torch.Tensor | None]:
    """Return |scale| of the units' batch norms (Liu et al., "Network Slimming", arXiv:1708.06519).

    None for groups without a batch norm. Raises: UsageError when no group has one.
    """
    scales = [_batch_norm_scale(group, context) for group in groups]
    if all(scale is None for scale in scales):
        raise UsageError(
            "--importance bn-scale ranks channels by their batch norms, and this model has none",
            hint="--importance magnitude or taylor",
        )
    return scales


def _batch_norm_scale(group: Group, context: ImportanceContext) -> torch.Tensor | None:
    """Return the sum of |scale| of each unit's batch norms; None where there are none."""
    modules = context.sites.modules
    norms = [m for m in group.members if isinstance(modules.get(m[0].path), BATCH_NORMS)]
    total = None
    for site, (owner, nodes) in norms:
        weight = getattr(context.module.get_submodule(site.path), "weight", None)
        if weight is not None:
            total = torch.zeros(group.size) if total is None else total
            total.index_add_(0, owner, weight.detach().float().abs().cpu()[nodes])
    return total
