"""Losses of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dlcli.training.losses.base import Loss, LossContext, register_loss, sample_count


@register_loss("triplet", "embedding")
def triplet(context: LossContext, *, margin: float) -> Loss:
    """Batch-hard triplet loss of embeddings (B, D) and class indices int64 (B,).

    For each sample: relu(margin + distance to the farthest sample of its class - distance to the nearest
    sample of another class). Hermans et al., "In Defense of the Triplet Loss", arXiv:1703.07737.
    Distances are Euclidean, between vectors normalised to length 1. A sample without a positive or a
    negative in the micro-batch has a loss of 0 but is counted.

    Triplets are mined within a micro-batch, so splitting a batch gives easier ones. As in the paper, an
    untrained model first collapses all embeddings: the loss stays at the margin until, some hundred
    steps later, classes separate.
    """

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        unit = F.normalize(outputs, dim=1)
        same = targets[:, None] == targets[None, :]  # (B, B)
        negatives = ~same
        positives = same & ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
        with torch.no_grad():  # mining needs all pairs, the gradient only two per sample
            cosine = unit @ unit.T
            hardest_positive = cosine.masked_fill(~positives, torch.inf).argmin(dim=1)
            hardest_negative = cosine.masked_fill(~negatives, -torch.inf).argmax(dim=1)
        # The gradient of torch's vector_norm at 0 is 0, so equal embeddings give no NaN.
        positive = torch.linalg.vector_norm(unit - unit[hardest_positive], dim=1)
        negative = torch.linalg.vector_norm(unit - unit[hardest_negative], dim=1)
        valid = positives.any(dim=1) & negatives.any(dim=1)
        terms = torch.where(valid, F.relu(margin + positive - negative), 0.0)
        return terms.sum(), sample_count(outputs)

    return loss
