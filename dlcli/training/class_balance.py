"""Class imbalance: class weights, balanced sampling or focal loss; grouped batches for embeddings.

Embeddings are trained on pairs within a batch, so their epochs are ordered in groups of one class. N:
training samples; K: classes or labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from dlcli.data.base import Indices, Targets
from dlcli.errors import UsageError
from dlcli.task import TaskSpec

BalanceKind = Literal["none", "weights", "sampler", "focal"]
Counts = npt.NDArray[np.int64]  # (K,)

# Upper bound of weights: a single sample in thousands would dominate each step that it is in.
MAX_WEIGHT = 20.0
# From this ratio of the largest class to the smallest on, the imbalance is reported.
_REPORTED_RATIO = 5.0

# Consecutive samples of a class in an epoch for embeddings, the K of arXiv:1703.07737.
GROUP_SIZE = 4

# Keys of the generators, which no other order and no augmentation uses.
_SAMPLER_KEY, _GROUPS_KEY = 100, 101


@dataclass(frozen=True)
class BalancePlan:
    """How training treats class imbalance.

    ``counts`` (K,) are the training samples of each class, or the positive ones of each label; None
    where there are no classes. ``weights`` float32 (K,) are for
    `dlcli.training.losses.make.make_loss`. ``order(seed, epoch)`` gives the samples of an epoch
    instead of every sample once; with ``grouped`` neighbours stay together, so it must not be sorted
    by length. ``sentence`` is for the user, or empty.
    """

    kind: BalanceKind = "none"
    counts: Counts | None = None
    weights: torch.Tensor | None = None
    order: Callable[[int, int], Indices] | None = None
    sentence: str = ""
    grouped: bool = False


def balance_plan(kind: BalanceKind, task: TaskSpec, targets: Targets) -> BalancePlan:
    """The plan of ``--balance`` for the targets of the train split: int64 (N,), or 0 and 1 (N, K).

    Raises: UsageError for a task without classes, for balanced sampling of multi-label samples, and for
    a weighted or focal loss of embeddings.
    """
    if not task.class_names:
        if kind != "none":
            raise UsageError(
                f"--balance {kind} is for classes; a {task.kind} task has none", hint="--balance none"
            )
        return BalancePlan()
    if kind == "sampler" and task.kind == "multilabel":
        raise UsageError(
            "--balance sampler is for samples of one class; these have several labels",
            hint="--balance weights or focal",
        )
    counts = _counts(targets, task)
    sizes = _class_sizes(counts, task)
    if task.kind == "embedding":
        return _grouped_plan(kind, targets, counts, sizes)
    if kind == "weights":
        several = targets.ndim > 1
        weights, clipped = label_weights(counts, len(targets)) if several else class_weights(counts)
        nonempty = weights[counts > 0]
        span = (
            f"weights from {nonempty.min():.3g} to {nonempty.max():.3g}"
            if len(nonempty)
            else "no weights"
        )
        sentence = f"balance weights: {sizes}; {span}{f', {clipped} of them clipped' if clipped else ''}"
        return BalancePlan(kind, counts, torch.from_numpy(weights), None, sentence)
    if kind == "sampler":
        each = len(targets) / max(int((counts > 0).sum()), 1)
        sentence = f"balance sampler: {sizes}; an epoch draws about {each:.0f} of each class"
        return BalancePlan(kind, counts, None, BalancedOrder(targets), sentence)
    if kind == "focal":
        return BalancePlan(kind, counts, None, None, f"balance focal: {sizes}")
    present = counts[counts > 0]
    if not len(present) or present.max() < _REPORTED_RATIO * present.min():
        return BalancePlan(kind, counts)
    advice = "--balance weights, sampler or focal" if targets.ndim == 1 else "--balance weights or focal"
    return BalancePlan(kind, counts, sentence=f"unequal {sizes}; {advice} would balance them")


def class_weights(counts: Counts) -> tuple[npt.NDArray[np.float32], int]:
    """N / (K n_c) for a class of n_c samples, clipped at 20, then scaled to mean 1 over the samples.

    scikit-learn's "balanced", so the loss keeps its scale. A class without samples gets 0. Also returns
    how many were clipped.
    """
    present = counts > 0
    raw = counts.sum() / (max(int(present.sum()), 1) * np.maximum(counts, 1))
    weights = np.where(present, raw.clip(max=MAX_WEIGHT), 0.0)
    mean = (weights * counts).sum() / max(int(counts.sum()), 1)
    return (weights / (mean or 1.0)).astype(np.float32), int((raw > MAX_WEIGHT)[present].sum())


def label_weights(counts: Counts, samples: int) -> tuple[npt.NDArray[np.float32], int]:
    """The ratio of negative to positive samples of each label, clipped to 1/20 and 20: ``pos_weight``.

    Also returns how many were clipped.
    """
    ratio = (samples - counts) / np.maximum(counts, 1)
    weights = np.where(counts > 0, ratio.clip(1 / MAX_WEIGHT, MAX_WEIGHT), 1.0)
    return weights.astype(np.float32), int((weights != ratio)[counts > 0].sum())


@dataclass(frozen=True)
class BalancedOrder:
    """Epochs of N samples with equally many of each class, up to one sample.

    Small classes are repeated, each time completely before the next; of large ones another part is drawn
    in each epoch. A function of (seed, epoch).
    """

    targets: npt.NDArray[np.int64]

    def __call__(self, seed: int, epoch: int) -> Indices:
        """(N,) positions in the train split."""
        rng = np.random.default_rng([seed, epoch, _SAMPLER_KEY])
        by_class = np.argsort(self.targets, kind="stable")
        _, first = np.unique(self.targets[by_class], return_index=True)
        members = np.split(by_class, first[1:])
        quota = np.full(len(members), len(by_class) // len(members))
        quota[rng.permutation(len(members))[: len(by_class) % len(members)]] += 1
        drawn = [_cycled(rng, own, count) for own, count in zip(members, quota.tolist(), strict=True)]
        return rng.permutation(np.concatenate(drawn)).astype(np.int64)


@dataclass(frozen=True)
class GroupedOrder:
    """Epochs in groups of up to 4 samples of one class, so that every batch contains positive pairs.

    "PK batches" of Hermans et al., arXiv:1703.07737, for batches of any size: every sample of ``draw``
    occurs once (by default every sample). A class is divided into groups of almost equal size, which are
    distributed evenly over the epoch, so that neighbouring groups are of different classes where
    possible. A function of (seed, epoch).
    """

    targets: npt.NDArray[np.int64]
    draw: Callable[[int, int], Indices] | None = None

    def __call__(self, seed: int, epoch: int) -> Indices:
        """(N,) positions in the train split."""
        rng = np.random.default_rng([seed, epoch, _GROUPS_KEY])
        drawn = rng.permutation(len(self.targets)) if self.draw is None else self.draw(seed, epoch)
        drawn = drawn[np.argsort(self.targets[drawn], kind="stable")]  # class by class
        _, label, sizes = np.unique(self.targets[drawn], return_inverse=True, return_counts=True)
        starts = np.cumsum(sizes) - sizes
        groups = -(-sizes // GROUP_SIZE)  # of each class
        number = (np.arange(len(drawn)) - starts[label]) * groups[label] // sizes[label]
        first = np.cumsum(groups) - groups
        # The g-th of a class's G groups lies at a random place in the g-th of G parts of the epoch.
        of_class = np.repeat(np.arange(len(sizes)), groups)
        within = np.arange(len(of_class)) - first[of_class]
        place = (within + rng.random(len(of_class))) / groups[of_class]
        rank = np.empty(len(place), dtype=np.int64)
        rank[np.argsort(place, kind="stable")] = np.arange(len(place))
        return drawn[np.argsort(rank[first[label] + number], kind="stable")].astype(np.int64)


def _grouped_plan(kind: BalanceKind, targets: Targets, counts: Counts, sizes: str) -> BalancePlan:
    """The plan of an embedding. Raises: UsageError for weights and focal."""
    if kind in ("weights", "focal"):
        raise UsageError(
            f"--balance {kind} weighs single samples; the loss of embeddings is of triplets",
            hint="--balance sampler draws every class equally often",
        )
    balanced = BalancedOrder(targets) if kind == "sampler" else None
    sentence = f"batches: groups of up to {GROUP_SIZE} samples of a class"
    if balanced is not None:
        sentence += f", every class equally often ({sizes})"
    alone = int((counts == 1).sum())
    if alone:
        have = "class has" if alone == 1 else "classes have"
        sentence += f"; {alone:,} {have} one training sample, which has no positive pair"
    return BalancePlan(kind, counts, None, GroupedOrder(targets, balanced), sentence, grouped=True)


def _cycled(rng: np.random.Generator, members: Indices, count: int) -> Indices:
    """``count`` of the members: all of them as often as they fit, then a random part."""
    repeats, rest = divmod(count, len(members))
    return np.concatenate([np.tile(members, repeats), rng.permutation(members)[:rest]])


def _counts(targets: Targets, task: TaskSpec) -> Counts:
    if targets.ndim == 1:
        counts: Counts = np.bincount(targets, minlength=task.num_classes).astype(np.int64)
    else:
        counts = (targets != 0).sum(axis=0, dtype=np.int64)
    return counts


def _class_sizes(counts: Counts, task: TaskSpec) -> str:
    """Describe the largest and the smallest class."""
    what = "labels" if task.kind == "multilabel" else "classes"
    shown = np.where(counts > 0, counts, np.iinfo(np.int64).max)
    large, small = int(counts.argmax()), int(shown.argmin())
    if not counts[large]:
        return f"{what} without a sample"
    empty = int((counts == 0).sum())
    return (
        f"{what} from {counts[large]:,} ({task.class_names[large]}) to {counts[small]:,} "
        f"({task.class_names[small]}) training samples, {counts[large] / counts[small]:.1f} to 1"
        + (f", and {empty} without any" if empty else "")
    )
