"""The loss interface, its registry, and functions that losses share.

A loss function returns a sum and the count to divide it by, both 0-d tensors on the device of the
outputs. Both are additive over parts of a batch: accumulated over micro-batches and ranks and divided
once, they give exactly the loss of the whole batch (except `triplet`, which compares samples within a
micro-batch). The count is in samples, for seq2seq in tokens.

B: samples, K: classes or labels, R: numbers, T: tokens, V: vocabulary, D: embedding dimensions.
Outputs are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dlcli.registry import Registry
from dlcli.task import TaskKind, TaskSpec

# (outputs, targets on the same device) -> (sum, count)
Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LossContext:
    """The task that a loss is built for, and class weights: float32 (K,), or None."""

    task: TaskSpec
    class_weights: Tensor | None = None


# (context, *, settings) -> the loss; the settings are keyword-only: see `dlcli.keyword_settings`.
LossBuilder = Callable[..., Loss]

# By "TASK/NAME": a name may mean a different loss in each task.
LOSSES: Registry[LossBuilder] = Registry("loss", "dlcli.training.losses")


def register_loss(name: str, *tasks: TaskKind) -> Callable[[LossBuilder], LossBuilder]:
    """Decorator: register the function that builds ``--loss NAME`` for these tasks.

    The function takes a `LossContext` and keyword-only settings, and returns the loss. A setting with
    the name of a field of `dlcli.config.LossConfig` (``label_smoothing``) gets its value; any other is
    set by ``--set loss.args.SETTING=value``. ``name`` must be a string literal.
    """

    def add(build: LossBuilder) -> LossBuilder:
        for task in tasks:
            LOSSES.register(f"{task}/{name}")(build)
        return build

    return add


class DeviceConstant:
    """A constant tensor, copied to its device once: a copy at every step would synchronise with it."""

    def __init__(self, tensor: Tensor) -> None:
        self._original = self._tensor = tensor

    def like(self, other: Tensor) -> Tensor:
        """The constant with the device and dtype of ``other``."""
        if (self._tensor.device, self._tensor.dtype) != (other.device, other.dtype):
            self._tensor = self._original.to(device=other.device, dtype=other.dtype)
        return self._tensor


def class_weights(context: LossContext) -> Callable[[Tensor], Tensor | None]:
    """A function that returns the class weights with the device and dtype of a tensor, or None."""
    if context.class_weights is None:
        return lambda other: None
    return DeviceConstant(context.class_weights).like


def target_scaler(task: TaskSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """A function (outputs, targets) -> the standardised targets, with the dtype of the outputs.

    Targets are in the data's own units and standardised here, in float64: in float32 large values such
    as years or prices would lose the digits in which samples differ.
    """
    statistics = DeviceConstant(
        torch.tensor([(n.mean, n.std) for n in task.targets], dtype=torch.float64).T
    )

    def scale(outputs: Tensor, targets: Tensor) -> Tensor:
        mean, std = statistics.like(targets)
        scaled: Tensor = (targets - mean) / std
        return scaled.to(outputs.dtype)

    return scale


def sample_count(outputs: Tensor) -> Tensor:
    """The number of samples, created on the device, without synchronisation."""
    return torch.full((), len(outputs), dtype=outputs.dtype, device=outputs.device)


# Lower bound of (1 - p) before the power: for gamma below 1 the derivative at 0 is infinite.
_MIN_ONE_MINUS_P = 1e-30


def focal_factor(log_p: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma, by expm1: for p near 1, 1 - exp(log p) would be rounded to 0."""
    return (-torch.expm1(log_p)).clamp_min(_MIN_ONE_MINUS_P).pow(gamma)


def class_probabilities(targets: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
    """Smoothed probabilities (B, K), in the dtype of outputs, of class indices (B,) or probabilities."""
    classes = outputs.shape[1]
    if not targets.is_floating_point():
        targets = F.one_hot(targets, classes)
    return targets.to(outputs.dtype) * (1 - smoothing) + smoothing / classes


def label_probabilities(targets: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
    """Labels (B, K) as probabilities in the dtype of outputs, smoothed towards 0.5."""
    return targets.to(outputs.dtype) * (1 - smoothing) + smoothing / 2
