"""What training minimises: for each task a loss that returns a sum and what to divide it by.

The sum and the count are 0-d tensors on the device of the answers. Both add up over parts of a batch,
so micro-batches, ragged last batches and ranks give the loss of the whole exactly, when the sums are
divided once at the end. The count is in samples, for tokens in tokens.

B: samples, K: classes or labels, T: tokens, V: vocabulary. Answers are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dlcli.config import OptimConfig
from dlcli.task import PAD, TaskSpec

# (answers, targets on the same device) -> (sum, count)
Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

GAMMA = 2.0  # of the focal losses: the value that their paper settles on


@dataclass(frozen=True)
class LossOptions:
    """What a loss may know beside answers and targets. ``class_weights`` are float32 (K,), or None."""

    task: TaskSpec
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None


def make_loss(
    task: TaskSpec, optim: OptimConfig, *, class_weights: Tensor | None = None, focal: bool = False
) -> Loss:
    """The loss of a task.

    ``class_weights`` weigh each class of a classifier, or the positive samples of each label of a
    multi-label task (`dlcli.engine.balance` makes both); they change the sum, never the count, so
    weights of classes should have a mean of 1 over the training samples. ``focal`` lets what is
    right already count less; it is for these two tasks as well. Label smoothing applies where there
    are classes or tokens; numbers have none.
    """
    name = {"classification": "cross_entropy", "multilabel": "binary_cross_entropy"}.get(task.kind)
    if name is not None:
        name = f"focal_{name}" if focal else name
    else:
        assert class_weights is None, f"{task.kind} has no classes to weigh"
        assert not focal, f"{task.kind} has no focal loss"
        name = "token_cross_entropy" if task.kind == "seq2seq" else "scaled_mse"
    return LOSSES[name](LossOptions(task, optim.label_smoothing, class_weights))


def cross_entropy(options: LossOptions) -> Loss:
    """Of logits (B, K) against class indices int64 (B,) or probabilities float (B, K)."""
    weights = _weights(options)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(
            outputs,
            targets.to(outputs.dtype) if targets.is_floating_point() else targets,
            weight=weights(outputs),
            label_smoothing=options.label_smoothing,
            reduction="sum",
        )
        return total, _samples(outputs)

    return loss


def focal_cross_entropy(options: LossOptions) -> Loss:
    """Cross-entropy where a class of probability p counts (1 - p)^2 as much; otherwise as above.

    Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, with a softmax in place of
    their sigmoid. A target of probabilities is the sum of its classes' losses by their shares.
    """
    weights = _weights(options)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(outputs, dim=1)  # (B, K)
        terms = -log_p * _hardness(log_p)
        weight = weights(outputs)
        if weight is not None:
            terms = terms * weight
        shares = _smoothed(targets, outputs, options.label_smoothing)
        return (terms * shares).sum(), _samples(outputs)

    return loss


def binary_cross_entropy(options: LossOptions) -> Loss:
    """Of logits (B, K) against 0 and 1, or shares between them, (B, K); the mean over the labels."""
    weights = _weights(options)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total = F.binary_cross_entropy_with_logits(
            outputs,
            _smoothed_labels(targets, outputs, options.label_smoothing),
            pos_weight=weights(outputs),
            reduction="sum",
        )
        return total / outputs.shape[1], _samples(outputs)

    return loss


def focal_binary_cross_entropy(options: LossOptions) -> Loss:
    """The focal loss of arXiv:1708.02002 for each label, without its alpha; the mean over the labels."""
    weights = _weights(options)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        shares = _smoothed_labels(targets, outputs, options.label_smoothing)
        log_p, log_q = F.logsigmoid(outputs), F.logsigmoid(-outputs)
        positive = -log_p * _hardness(log_p) * shares
        weight = weights(outputs)
        if weight is not None:
            positive = positive * weight
        terms = positive - log_q * _hardness(log_q) * (1 - shares)
        return terms.sum() / outputs.shape[1], _samples(outputs)

    return loss


def scaled_mse(options: LossOptions) -> Loss:
    """Squared error of scaled numbers (B, R) or (B, horizon, R), the mean over a sample's numbers.

    Targets are in the data's own units; they are scaled here, in their own precision: a year or a price
    in float32 would lose what differs from sample to sample.
    """
    statistics = _Placed(
        torch.tensor([(n.mean, n.std) for n in options.task.targets], dtype=torch.float64).T
    )

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        # Else (B,) against (B, 1) would be broadcast to (B, B), and nobody would notice.
        assert outputs.shape == targets.shape, (outputs.shape, targets.shape)
        mean, std = statistics.like(targets)
        scaled = ((targets - mean) / std).to(outputs.dtype)
        return F.mse_loss(outputs, scaled, reduction="sum") / outputs[0].numel(), _samples(outputs)

    return loss


def token_cross_entropy(options: LossOptions) -> Loss:
    """Of logits (B, T, V) against the next tokens int64 (B, T); padding counts nowhere."""

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(
            outputs.flatten(0, 1),
            targets.flatten(),
            ignore_index=PAD,
            label_smoothing=options.label_smoothing,
            reduction="sum",
        )
        return total, (targets != PAD).sum().to(outputs.dtype)

    return loss


LOSSES: dict[str, Callable[[LossOptions], Loss]] = {
    "cross_entropy": cross_entropy,
    "focal_cross_entropy": focal_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "focal_binary_cross_entropy": focal_binary_cross_entropy,
    "scaled_mse": scaled_mse,
    "token_cross_entropy": token_cross_entropy,
}


class _Placed:
    """A constant, copied once to wherever it is needed: a copy at every step would wait for a GPU."""

    def __init__(self, tensor: Tensor) -> None:
        self._original = self._tensor = tensor

    def like(self, other: Tensor) -> Tensor:
        """The constant on the device and in the type of ``other``."""
        if (self._tensor.device, self._tensor.dtype) != (other.device, other.dtype):
            self._tensor = self._original.to(device=other.device, dtype=other.dtype)
        return self._tensor


def _weights(options: LossOptions) -> Callable[[Tensor], Tensor | None]:
    """The class weights beside a tensor, where there are any."""
    if options.class_weights is None:
        return lambda other: None
    return _Placed(options.class_weights).like


def _samples(outputs: Tensor) -> Tensor:
    """The number of samples, made on the device, so that nothing waits."""
    return torch.full((), len(outputs), dtype=outputs.dtype, device=outputs.device)


def _hardness(log_p: Tensor) -> Tensor:
    """(1 - p)^gamma; by expm1, since 1 - exp(log p) of an easy sample would be rounded to 0."""
    return (-torch.expm1(log_p)).pow(GAMMA)


def _smoothed(targets: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
    """Targets of classes as shares (B, K); ``smoothing`` of each is spread over all classes."""
    classes = outputs.shape[1]
    if not targets.is_floating_point():
        targets = F.one_hot(targets, classes)
    return targets.to(outputs.dtype) * (1 - smoothing) + smoothing / classes


def _smoothed_labels(targets: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
    """Targets of labels as shares (B, K): yes and no are drawn towards one half."""
    return targets.to(outputs.dtype) * (1 - smoothing) + smoothing / 2
