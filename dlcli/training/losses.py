"""What training minimises: losses that return a sum and what to divide it by.

The sum and the count are 0-d tensors on the device of the answers. Both add up over parts of a batch,
so micro-batches, ragged last batches and ranks give the loss of the whole exactly, when the sums are
divided once at the end (but for `triplet`, whose samples need each other). The count is in samples, for
tokens in tokens.

B: samples, K: classes or labels, R: numbers, T: tokens, V: vocabulary, D: numbers of an embedding.
Answers are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from dlcli.config import LossConfig, LossName
from dlcli.errors import UsageError
from dlcli.task import PAD, TaskKind, TaskSpec

# (answers, targets on the same device) -> (sum, count)
Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# What fits a task; the first is what it gets unless the user names another.
FITTING: dict[TaskKind, tuple[LossName, ...]] = {
    "classification": ("cross_entropy", "focal", "bce"),
    "multilabel": ("bce", "focal"),
    "regression": ("mse", "l1", "smooth_l1", "huber"),
    "forecast": ("mse", "l1", "smooth_l1", "huber"),
    "seq2seq": ("cross_entropy",),
    "embedding": ("triplet",),
}
# Settings that only some losses know.
_ONLY_FOR: dict[str, tuple[LossName, ...]] = {
    "label_smoothing": ("cross_entropy", "focal", "bce"),
    "focal_gamma": ("focal",),
    "huber_delta": ("huber", "smooth_l1"),
    "margin": ("triplet",),
}
# The least of (1 - p) that is raised to a power: below 1, the slope of a power is infinite at 0.
_LEAST_MISS = 1e-30


@dataclass(frozen=True)
class LossOptions:
    """What a loss may know beside answers and targets. ``class_weights`` are float32 (K,), or None."""

    task: TaskSpec
    config: LossConfig
    class_weights: Tensor | None = None


def loss_name(task: TaskSpec, config: LossConfig, *, focal: bool = False) -> LossName:
    """The loss that the settings mean: the one they name, or the task's own.

    ``focal`` is what ``--balance focal`` asks for. Raises: UsageError when the loss does not fit the
    task, naming what does, and when two losses are asked for.
    """
    fitting = FITTING[task.kind]
    name = config.name or ("focal" if focal else fitting[0])
    if name not in fitting:
        asked = f"--loss {name}" if config.name else "--balance focal"
        raise UsageError(
            f"{asked} does not fit {task.kind}", hint=f"what fits: {', '.join(fitting)}{_instead(asked)}"
        )
    if focal and name != "focal":
        raise UsageError(
            f"--loss {name} and --balance focal exclude each other", hint="leave one of them out"
        )
    return name


def _instead(asked: str) -> str:
    return "; triplet is for --task embedding" if asked == "triplet" else ""


def check_loss(task: TaskSpec, config: LossConfig, *, focal: bool = False) -> None:
    """Refuse a loss that does not fit the task, and settings that the loss would ignore.

    Raises: UsageError.
    """
    name = loss_name(task, config, focal=focal)
    plain = LossConfig()
    for key, users in _ONLY_FOR.items():
        value = getattr(config, key)
        if value != getattr(plain, key) and name not in users:
            raise UsageError(
                f"loss.{key} {value:g} is for {', '.join(users)}, and the loss here is {name}",
                hint="leave it out, or name another --loss",
            )


def make_loss(
    task: TaskSpec, config: LossConfig, *, class_weights: Tensor | None = None, focal: bool = False
) -> Loss:
    """The loss that the settings mean for a task.

    ``class_weights`` weigh each class of a classifier, or the positive samples of each label of a
    multi-label task (`dlcli.training.class_balance` makes both); they change the sum, never the count,
    so weights of classes should have a mean of 1 over the training samples. ``focal`` is what
    ``--balance focal`` passes. Raises: UsageError when the loss does not fit the task.
    """
    name = loss_name(task, config, focal=focal)
    options = LossOptions(task, config, class_weights)
    if task.kind in ("classification", "multilabel"):
        return CLASSES[task.kind, name](options)
    assert class_weights is None, f"{task.kind} has no classes to weigh"
    if task.kind == "embedding":
        return triplet(options)
    return token_cross_entropy(options) if task.kind == "seq2seq" else scaled_error(options, name)


def cross_entropy(options: LossOptions) -> Loss:
    """Of logits (B, K) against class indices int64 (B,) or probabilities float (B, K)."""
    weights = _weights(options)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(
            outputs,
            targets.to(outputs.dtype) if targets.is_floating_point() else targets,
            weight=weights(outputs),
            label_smoothing=options.config.label_smoothing,
            reduction="sum",
        )
        return total, _samples(outputs)

    return loss


def focal_cross_entropy(options: LossOptions) -> Loss:
    """Cross-entropy where a class of probability p counts (1 - p)^gamma as much; otherwise as above.

    Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, with a softmax in place of
    their sigmoid. A target of probabilities is the sum of its classes' losses by their shares.
    """
    weights, gamma = _weights(options), options.config.focal_gamma

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(outputs, dim=1)  # (B, K)
        terms = -log_p * _hardness(log_p, gamma)
        weight = weights(outputs)
        if weight is not None:
            terms = terms * weight
        shares = _smoothed(targets, outputs, options.config.label_smoothing)
        return (terms * shares).sum(), _samples(outputs)

    return loss


def one_vs_rest(options: LossOptions) -> Loss:
    """One yes or no for each class, of logits (B, K) as in `cross_entropy`; the mean over the classes.

    Wightman et al., "ResNet strikes back", arXiv:2110.00476, section 2.1. A target of probabilities is
    the sum of its classes' losses by their shares, each by its class's weight.
    """
    weights = _weights(options)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        yes = _smoothed(targets, outputs, options.config.label_smoothing)  # (B, K)
        weight = weights(outputs)
        if weight is not None:
            yes = yes * weight
        no = yes.sum(dim=1, keepdim=True) - yes
        terms = yes * F.softplus(-outputs) + no * F.softplus(outputs)
        return terms.sum() / outputs.shape[1], _samples(outputs)

    return loss


def binary_cross_entropy(options: LossOptions) -> Loss:
    """Of logits (B, K) against 0 and 1, or shares between them, (B, K); the mean over the labels."""
    weights = _weights(options)

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total = F.binary_cross_entropy_with_logits(
            outputs,
            _smoothed_labels(targets, outputs, options.config.label_smoothing),
            pos_weight=weights(outputs),
            reduction="sum",
        )
        return total / outputs.shape[1], _samples(outputs)

    return loss


def focal_binary_cross_entropy(options: LossOptions) -> Loss:
    """The focal loss of arXiv:1708.02002 for each label, without its alpha; the mean over the labels."""
    weights, gamma = _weights(options), options.config.focal_gamma

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        shares = _smoothed_labels(targets, outputs, options.config.label_smoothing)
        log_p, log_q = F.logsigmoid(outputs), F.logsigmoid(-outputs)
        positive = -log_p * _hardness(log_p, gamma) * shares
        weight = weights(outputs)
        if weight is not None:
            positive = positive * weight
        terms = positive - log_q * _hardness(log_q, gamma) * (1 - shares)
        return terms.sum() / outputs.shape[1], _samples(outputs)

    return loss


def scaled_error(options: LossOptions, name: LossName) -> Loss:
    """The error ``name`` of scaled numbers (B, R) or (B, horizon, R), the mean over a sample's numbers.

    Targets are in the data's own units; they are scaled here, in their own precision: a year or a price
    in float32 would lose what differs from sample to sample.
    """
    statistics = _Placed(
        torch.tensor([(n.mean, n.std) for n in options.task.targets], dtype=torch.float64).T
    )
    delta = options.config.huber_delta
    error: Callable[[Tensor, Tensor], Tensor] = {
        "mse": partial(F.mse_loss, reduction="sum"),
        "l1": partial(F.l1_loss, reduction="sum"),
        "smooth_l1": partial(F.smooth_l1_loss, reduction="sum", beta=delta),
        "huber": partial(F.huber_loss, reduction="sum", delta=delta),
    }[name]

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        # Else (B,) against (B, 1) would be broadcast to (B, B), and nobody would notice.
        assert outputs.shape == targets.shape, (outputs.shape, targets.shape)
        mean, std = statistics.like(targets)
        scaled = ((targets - mean) / std).to(outputs.dtype)
        return error(outputs, scaled) / outputs[0].numel(), _samples(outputs)

    return loss


def token_cross_entropy(options: LossOptions) -> Loss:
    """Of logits (B, T, V) against the next tokens int64 (B, T); padding counts nowhere."""

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(
            outputs.flatten(0, 1),
            targets.flatten(),
            ignore_index=PAD,
            label_smoothing=options.config.label_smoothing,
            reduction="sum",
        )
        return total, (targets != PAD).sum().to(outputs.dtype)

    return loss


def triplet(options: LossOptions) -> Loss:
    """Of embeddings (B, D) against class indices int64 (B,): one triplet for each sample, the hardest.

    A sample's farthest one of its class should be nearer, by ``loss.margin``, than the nearest one of
    another class: Hermans et al., "In Defense of the Triplet Loss", arXiv:1703.07737, "batch hard".
    Distances are Euclidean, between vectors that were scaled to length 1. A sample that is alone in its
    class, or whose class is alone, costs 0 but counts.

    Triplets are formed among the samples that come together, so this loss is by micro-batch: dividing a
    batch leaves fewer to choose the hardest from. As in the paper, an untrained model first draws all
    embeddings together: the loss is the margin until, some hundred steps later, classes come apart.
    """
    margin = options.config.margin

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        unit = F.normalize(outputs, dim=1)
        same = targets[:, None] == targets[None, :]  # (B, B)
        other = ~same
        partner = same & ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
        with torch.no_grad():  # the choice needs all pairs, the gradient two of each sample
            cosine = unit @ unit.T
            far = cosine.masked_fill(~partner, torch.inf).argmin(dim=1)
            near = cosine.masked_fill(~other, -torch.inf).argmax(dim=1)
        # The gradient of torch's norm is 0 at 0, so equal embeddings do no harm.
        pull = torch.linalg.vector_norm(unit - unit[far], dim=1)
        push = torch.linalg.vector_norm(unit - unit[near], dim=1)
        asked = partner.any(dim=1) & other.any(dim=1)
        terms = torch.where(asked, F.relu(margin + pull - push), 0.0)
        return terms.sum(), _samples(outputs)

    return loss


CLASSES: dict[tuple[TaskKind, LossName], Callable[[LossOptions], Loss]] = {
    ("classification", "cross_entropy"): cross_entropy,
    ("classification", "focal"): focal_cross_entropy,
    ("classification", "bce"): one_vs_rest,
    ("multilabel", "bce"): binary_cross_entropy,
    ("multilabel", "focal"): focal_binary_cross_entropy,
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


def _hardness(log_p: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma; by expm1, since 1 - exp(log p) of an easy sample would be rounded to 0."""
    return (-torch.expm1(log_p)).clamp_min(_LEAST_MISS).pow(gamma)


def _smoothed(targets: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
    """Targets of classes as shares (B, K); ``smoothing`` of each is spread over all classes."""
    classes = outputs.shape[1]
    if not targets.is_floating_point():
        targets = F.one_hot(targets, classes)
    return targets.to(outputs.dtype) * (1 - smoothing) + smoothing / classes


def _smoothed_labels(targets: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
    """Targets of labels as shares (B, K): yes and no are drawn towards one half."""
    return targets.to(outputs.dtype) * (1 - smoothing) + smoothing / 2
