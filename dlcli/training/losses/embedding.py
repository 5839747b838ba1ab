"""The loss of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dlcli.training.losses.base import Loss, LossContext, register_loss, sample_count


@register_loss("triplet", "embedding")
def triplet(context: LossContext, *, margin: float) -> Loss:
    """Triplet loss of embeddings (B, D) and class indices int64 (B,), with the hardest triplets.

    For each sample: relu(margin + distance to the farthest sample of its class - distance to the nearest
    sample of another class). Hermans et al., "In Defense of the Triplet Loss", arXiv:1703.07737, "batch
    hard". Distances are Euclidean, between vectors normalised to length 1. A sample that is alone in its
    class, or whose class is alone, costs 0 but counts.

    Triplets are formed among the samples of a micro-batch, so dividing a batch leaves fewer to choose
    the hardest from. As in the paper, an untrained model first collapses all embeddings: the loss
    stays at the margin until, some hundred steps later, classes separate.
    """

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        unit = F.normalize(outputs, dim=1)
        same = targets[:, None] == targets[None, :]  # (B, B)
        other = ~same
        partner = same & ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
        with torch.no_grad():  # mining needs all pairs, the gradient two for each sample
            cosine = unit @ unit.T
            hardest_positive = cosine.masked_fill(~partner, torch.inf).argmin(dim=1)
            hardest_negative = cosine.masked_fill(~other, -torch.inf).argmax(dim=1)
        # The gradient of torch's norm is 0 at 0, so equal embeddings do no harm.
        positive = torch.linalg.vector_norm(unit - unit[hardest_positive], dim=1)
        negative = torch.linalg.vector_norm(unit - unit[hardest_negative], dim=1)
        valid = partner.any(dim=1) & other.any(dim=1)
        terms = torch.where(valid, F.relu(margin + positive - negative), 0.0)
        return terms.sum(), sample_count(outputs)

    return loss
