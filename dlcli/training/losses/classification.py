"""Losses of logits (B, K) against class indices int64 (B,) or class probabilities float (B, K)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dlcli.training.losses.base import (
    Loss,
    LossContext,
    class_probabilities,
    class_weights,
    focal_factor,
    register_loss,
    sample_count,
)


@register_loss("cross_entropy", "classification")
def cross_entropy(context: LossContext, *, label_smoothing: float) -> Loss:
    """Cross-entropy with class weights and label smoothing, as in torch."""
    weights = class_weights(context)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(
            outputs,
            targets.to(outputs.dtype) if targets.is_floating_point() else targets,
            weight=weights(outputs),
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        return total, sample_count(outputs)

    return loss


@register_loss("focal", "classification")
def focal_cross_entropy(context: LossContext, *, label_smoothing: float, focal_gamma: float) -> Loss:
    """Focal loss: cross-entropy with the term of a class of probability p multiplied by (1 - p)^gamma.

    Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, with a softmax instead of the
    sigmoid. Targets that are probabilities weight the terms of the classes.
    """
    weights = class_weights(context)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(outputs, dim=1)  # (B, K)
        terms = -log_p * focal_factor(log_p, focal_gamma)
        weight = weights(outputs)
        if weight is not None:
            terms = terms * weight
        probabilities = class_probabilities(targets, outputs, label_smoothing)
        return (terms * probabilities).sum(), sample_count(outputs)

    return loss


@register_loss("bce", "classification")
def one_vs_rest(context: LossContext, *, label_smoothing: float) -> Loss:
    """Binary cross-entropy of each class against the rest; the mean over the classes.

    Wightman et al., "ResNet strikes back", arXiv:2110.00476, section 2.1. Class weights multiply the
    positive terms.
    """
    weights = class_weights(context)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        positive = class_probabilities(targets, outputs, label_smoothing)  # (B, K)
        weight = weights(outputs)
        if weight is not None:
            positive = positive * weight
        negative = positive.sum(dim=1, keepdim=True) - positive
        terms = positive * F.softplus(-outputs) + negative * F.softplus(outputs)
        return terms.sum() / outputs.shape[1], sample_count(outputs)

    return loss
