"""What makes a channel worth keeping: its weights, its batch norm's scale, or the loss without it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import nn

from dlcli.compress.channels.groups import Group
from dlcli.compress.channels.sites import Places
from dlcli.errors import DlcliError, UsageError
from dlcli.zoo.structures.channels import BATCH_NORMS

Importance = Literal["magnitude", "bn-scale", "taylor"]
Batches = Callable[[], Iterable[tuple[Sequence[torch.Tensor], torch.Tensor]]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def magnitude(module: nn.Module, groups: Sequence[Group], places: Places) -> list[torch.Tensor]:
    """The mean over a unit's tensors of the L2 norm of its weights, each relative to the tensor's mean;
    times |scale| of its batch norms, where it has any: what they scale to 0 tells nothing.

    Li et al., "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, have the L1 norm of the
    outgoing filters alone; here the weights that read the channel count as well, as in arXiv:2301.12900.
    """
    # Of matrices and kernels only: norms and biases have scales of their own.
    squares = {
        name: p.detach().float().square().cpu() for name, p in module.named_parameters() if p.ndim > 1
    }
    found = []
    for group in groups:
        scores = torch.zeros(group.size)
        for owner, sums in _entries(group, squares):
            own = torch.zeros(group.size).index_add_(0, owner, sums).sqrt()
            scores += own / own.mean().clamp(min=1e-30)
        scale = _scale(module, group, places)
        found.append(scores if scale is None else scores * scale)
    return found


def batch_norm_scale(
    module: nn.Module, groups: Sequence[Group], places: Places
) -> tuple[list[torch.Tensor], list[str]]:
    """|scale| of the unit's batch norms (Liu et al., "Network Slimming", arXiv:1708.06519).

    Groups without a batch norm are ranked by magnitude; their names are the second answer. Raises:
    UsageError when no group has one.
    """
    scales = [_scale(module, group, places) for group in groups]
    without = [group.name for group, scale in zip(groups, scales, strict=True) if scale is None]
    if len(without) == len(groups):
        raise UsageError(
            "--importance bn-scale ranks channels by their batch norms, and this model has none",
            hint="--importance magnitude or taylor",
        )
    others = magnitude(module, groups, places)
    found = [other if scale is None else scale for scale, other in zip(scales, others, strict=True)]
    return found, without


def _scale(module: nn.Module, group: Group, places: Places) -> torch.Tensor | None:
    """The sum of |scale| of a unit's batch norms; None where there are none."""
    norms = [m for m in group.members if isinstance(places.parts.get(m[0].path), BATCH_NORMS)]
    found = None
    for place, (owner, nodes) in norms:
        weight = getattr(module.get_submodule(place.path), "weight", None)
        if weight is not None:
            found = torch.zeros(group.size) if found is None else found
            found.index_add_(0, owner, weight.detach().float().abs().cpu()[nodes])
    return found


def taylor(
    module: nn.Module, groups: Sequence[Group], batches: Batches, loss: Loss
) -> list[torch.Tensor]:
    """The sum over a unit's weights of (gradient x weight)^2, over the batches.

    The first-order estimate of the squared change of the loss without it: Molchanov et al., "Importance
    Estimation for Neural Network Pruning", arXiv:1906.10771. Statistics of batch norms stay fixed.
    Raises: DlcliError without batches, or when the gradients are no numbers.
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
            "the loss has gradients that are no numbers, so channels cannot be ranked by it"
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
    """For each cut of the group: units, and the sum of the ``values`` that go with each."""
    for place, (owner, nodes) in group.members:
        for cut in place.slices:
            tensor = values.get(cut.tensor)
            if tensor is not None:
                sums = tensor.movedim(cut.dim, 0).flatten(1).sum(1) if tensor.ndim > 1 else tensor
                yield owner, sums[cut.index[nodes]].sum(1)
