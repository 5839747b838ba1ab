"""Multilabel losses: logits (B, K) against 0/1 labels or probabilities (B, K); the mean over labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dlcli.training.losses.base import (
    Loss,
    LossContext,
    class_weights,
    focal_factor,
    label_probabilities,
    register_loss,
    sample_count,
)


@register_loss("bce", "multilabel")
def binary_cross_entropy(context: LossContext, *, label_smoothing: float) -> Loss:
    """Binary cross-entropy; class weights are torch's ``pos_weight``."""
    weights = class_weights(context)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total = F.binary_cross_entropy_with_logits(
            outputs,
            label_probabilities(targets, outputs, label_smoothing),
            pos_weight=weights(outputs),
            reduction="sum",
        )
        return total / outputs.shape[1], sample_count(outputs)

    return loss


@register_loss("focal", "multilabel")
def focal_binary_cross_entropy(
    context: LossContext, *, label_smoothing: float, focal_gamma: float
) -> Loss:
    """The focal loss of arXiv:1708.02002 for each label, without its alpha."""
    weights = class_weights(context)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = label_probabilities(targets, outputs, label_smoothing)
        log_p, log_q = F.logsigmoid(outputs), F.logsigmoid(-outputs)
        positive = -log_p * focal_factor(log_p, focal_gamma) * probabilities
        weight = weights(outputs)
        if weight is not None:
            positive = positive * weight
        terms = positive - log_q * focal_factor(log_q, focal_gamma) * (1 - probabilities)
        return terms.sum() / outputs.shape[1], sample_count(outputs)

    return loss
