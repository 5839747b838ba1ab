"""Losses of sequence models."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dlcli.task import PAD
from dlcli.training.losses.base import Loss, LossContext, register_loss


@register_loss("cross_entropy", "seq2seq")
def token_cross_entropy(context: LossContext, *, label_smoothing: float) -> Loss:
    """Cross-entropy of logits (B, T, V) against the next tokens int64 (B, T), without padding."""

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(
            outputs.flatten(0, 1),
            targets.flatten(),
            ignore_index=PAD,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        return total, (targets != PAD).sum().to(outputs.dtype)

    return loss
