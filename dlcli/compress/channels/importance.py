"""Importance of channels: by magnitude, by batch norm scale, or by the loss without them (Taylor)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import nn

from dlcli.compress.channels.groups import Group
from dlcli.compress.channels.sites import Sites
from dlcli.errors import DlcliError, UsageError
from dlcli.zoo.structures.channels import BATCH_NORMS

Importance = Literal["magnitude", "bn-scale", "taylor"]
Batches = Callable[[], Iterable[tuple[Sequence[torch.Tensor], torch.Tensor]]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def magnitude(module: nn.Module, groups: Sequence[Group], sites: Sites) -> list[torch.Tensor]:
    """Return the L2 norm of each unit's weights, relative to the tensor's mean, averaged over tensors.

    It is multiplied by |scale| of the unit's batch norms, where it has any: a channel scaled to 0 has no
    effect.

    Li et al., "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, use the L1 norm of the
    filters alone; here the weights that read the channel count as well, as in arXiv:2301.12900.
    """
    # Only matrices and kernels: norms and biases have scales of their own.
    squares = {
        name: p.detach().float().square().cpu() for name, p in module.named_parameters() if p.ndim > 1
    }
    scores_by_group = []
    for group in groups:
        scores = torch.zeros(group.size)
        for owner, sums in _entries(group, squares):
            norms = torch.zeros(group.size).index_add_(0, owner, sums).sqrt()
            scores += norms / norms.mean().clamp(min=1e-30)
        scale = _batch_norm_scale(module, group, sites)
        scores_by_group.append(scores if scale is None else scores * scale)
    return scores_by_group


def batch_norm_scale(
    module: nn.Module, groups: Sequence[Group], sites: Sites
) -> tuple[list[torch.Tensor], list[str]]:
    """Return |scale| of the units' batch norms (Liu et al., "Network Slimming", arXiv:1708.06519).

    Groups without a batch norm are scored by magnitude; their names are returned too. Raises: UsageError
    when no group has one.
    """
    scales = [_batch_norm_scale(module, group, sites) for group in groups]
    without = [group.name for group, scale in zip(groups, scales, strict=True) if scale is None]
    if len(without) == len(groups):
        raise UsageError(
            "--importance bn-scale ranks channels by their batch norms, and this model has none",
            hint="--importance magnitude or taylor",
        )
    magnitudes = magnitude(module, groups, sites)
    pairs = zip(scales, magnitudes, strict=True)
    return [other if scale is None else scale for scale, other in pairs], without


def _batch_norm_scale(module: nn.Module, group: Group, sites: Sites) -> torch.Tensor | None:
    """Return the sum of |scale| of each unit's batch norms; None where there are none."""
    norms = [m for m in group.members if isinstance(sites.modules.get(m[0].path), BATCH_NORMS)]
    total = None
    for site, (owner, nodes) in norms:
        weight = getattr(module.get_submodule(site.path), "weight", None)
        if weight is not None:
            total = torch.zeros(group.size) if total is None else total
            total.index_add_(0, owner, weight.detach().float().abs().cpu()[nodes])
    return total


def taylor(
    module: nn.Module, groups: Sequence[Group], batches: Batches, loss: Loss
) -> list[torch.Tensor]:
    """Return the sum over a unit's weights of (gradient x weight)^2, over the batches.

    The first-order estimate of the squared change of the loss without it: Molchanov et al., "Importance
    Estimation for Neural Network Pruning", arXiv:1906.10771. Statistics of batch norms stay fixed.
    Raises: DlcliError without batches, or when gradients are not finite.
    """
    model = copy.deepcopy(module).eval()
    named = [
        (name, p.requires_grad_(True)) for name, p in model.named_parameters() if p.is_floating_point()
    ]
    total = {name: torch.zeros(p.shape) for name, p in named}
    count = 0
    # cuDNN's recurrent kernels give no gradients in eval mode.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for inputs, targets in batches():
            model.zero_grad(set_to_none=True)
            loss(model(*inputs), targets).backward()  # type: ignore[no-untyped-call]
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
    return [_total(group, total) for group in groups]


def _total(group: Group, values: dict[str, torch.Tensor]) -> torch.Tensor:
    scores = torch.zeros(group.size)
    for owner, sums in _entries(group, values):
        scores.index_add_(0, owner, sums)
    return scores


def _entries(
    group: Group, values: dict[str, torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, for each slice of the group, its units and the sum of ``values`` that belongs to each."""
    for site, (owner, nodes) in group.members:
        for entry in site.slices:
            tensor = values.get(entry.tensor)
            if tensor is not None:
                sums = tensor.movedim(entry.dim, 0).flatten(1).sum(1) if tensor.ndim > 1 else tensor
                yield owner, sums[entry.index[nodes]].sum(1)
