"""Losses of regression (B, R) and forecasts (B, horizon, R); the mean over the values of a sample."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from dlcli.training.losses.base import (
    Loss,
    LossContext,
    register_loss,
    sample_count,
    target_scaler,
)


@register_loss("mse", "regression", "forecast")
def mse(context: LossContext) -> Loss:
    """Squared error."""
    return _scaled(context, partial(F.mse_loss, reduction="sum"))


@register_loss("l1", "regression", "forecast")
def l1(context: LossContext) -> Loss:
    """Absolute error."""
    return _scaled(context, partial(F.l1_loss, reduction="sum"))


@register_loss("smooth_l1", "regression", "forecast")
def smooth_l1(context: LossContext, *, huber_delta: float) -> Loss:
    """torch's smooth L1 loss with ``beta = huber_delta``."""
    return _scaled(context, partial(F.smooth_l1_loss, reduction="sum", beta=huber_delta))


@register_loss("huber", "regression", "forecast")
def huber(context: LossContext, *, huber_delta: float) -> Loss:
    """torch's Huber loss."""
    return _scaled(context, partial(F.huber_loss, reduction="sum", delta=huber_delta))


def _scaled(context: LossContext, error: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """Build the loss that applies ``error`` to outputs and standardised targets."""
    scale = target_scaler(context.task)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        # (B,) against (B, 1) would be broadcast to (B, B) without an error.
        assert outputs.shape == targets.shape, (outputs.shape, targets.shape)
        return error(outputs, scale(outputs, targets)) / outputs[0].numel(), sample_count(outputs)

    return loss
