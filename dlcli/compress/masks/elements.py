"""Methods that prune single weights: by magnitude or at random."""

from __future__ import annotations

import torch

from dlcli.compress.masks.base import Weight, register_mask_method, without_embeddings


@register_mask_method("l1", ranking="layer")
@register_mask_method("global-l1", ranking="global")
def magnitude(weight: Weight, generator: torch.Generator) -> torch.Tensor:
    """Return |weight|."""
    return weight.tensor.abs()


@register_mask_method("semi-structured", ranking="2:4", select=without_embeddings)
def magnitude_of_neighbours(weight: Weight, generator: torch.Generator) -> torch.Tensor:
    """Return |weight|: the two largest of four neighbours are kept (Mishra et al., arXiv:2104.08378)."""
    return weight.tensor.abs()


@register_mask_method("random", ranking="layer")
@register_mask_method("global-random", ranking="global")
def random(weight: Weight, generator: torch.Generator) -> torch.Tensor:
    """Return random scores, the same on every device."""
    tensor = weight.tensor
    # 1 is added for equal masks: the sum is rounded, and seeds have always meant these scores.
    scores = torch.rand(tensor.numel(), generator=generator) + 1
    return scores.view_as(tensor).to(tensor.device)
