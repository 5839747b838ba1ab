"""What an epoch draws, and what is done about classes of unequal size.

Against those: a weighted loss, a balanced draw, or a focal loss. Embeddings are learnt from samples side
by side, so their epochs are laid out in groups of one class. N: training samples; K: classes or labels.
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

# A sample of a tiny class, or a positive one of a rare label, counts for no more than this many average
# ones: a single sample in thousands would throw each step that it is in.
LARGEST_WEIGHT = 20.0
# From this ratio of the largest class to the smallest on, the user is told though nothing was asked for.
_WORTH_A_WORD = 5.0

# Samples of a class side by side in an epoch for embeddings, the K of arXiv:1703.07737.
GROUP = 4

# Of the generators: none of another order or of an operation in `augment_draw`.
_TAG, _TAG_GROUPS = 100, 101


@dataclass(frozen=True)
class BalancePlan:
    """What training does with the sizes of the classes.

    ``counts`` (K,) are the training samples of each class, or the positive ones of each label; None
    where there are no classes. ``weights`` float32 (K,) are for `dlcli.training.losses.make.make_loss`.
    ``order(seed, epoch)`` is what an epoch draws instead of every sample once; with ``grouped`` its
    neighbours belong together, so it must not be sorted by length. ``sentence`` is for the user, empty
    where there is nothing to say.
    """

    kind: BalanceKind = "none"
    counts: Counts | None = None
    weights: torch.Tensor | None = None
    order: Callable[[int, int], Indices] | None = None
    sentence: str = ""
    grouped: bool = False


def balance_plan(kind: BalanceKind, task: TaskSpec, targets: Targets) -> BalancePlan:
    """What ``--balance`` means for the targets of the train split: int64 (N,), or 0 and 1 (N, K).

    Raises: UsageError for a task without classes, for a balanced draw of samples with several labels, of
    which no draw makes each as frequent as the others, and for a weighted or focal loss of embeddings.
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
    said = _sizes(counts, task)
    if task.kind == "embedding":
        return _grouped_plan(kind, targets, counts, said)
    if kind == "weights":
        several = targets.ndim > 1
        weights, cut = label_weights(counts, len(targets)) if several else class_weights(counts)
        there = weights[counts > 0]
        span = f"weights from {there.min():.3g} to {there.max():.3g}" if len(there) else "no weights"
        sentence = f"balance weights: {said}; {span}{f', {cut} of them cut' if cut else ''}"
        return BalancePlan(kind, counts, torch.from_numpy(weights), None, sentence)
    if kind == "sampler":
        each = len(targets) / max(int((counts > 0).sum()), 1)
        sentence = f"balance sampler: {said}; an epoch draws about {each:.0f} of each class"
        return BalancePlan(kind, counts, None, BalancedOrder(targets), sentence)
    if kind == "focal":
        return BalancePlan(kind, counts, None, None, f"balance focal: {said}")
    present = counts[counts > 0]
    if not len(present) or present.max() < _WORTH_A_WORD * present.min():
        return BalancePlan(kind, counts)
    advice = "--balance weights, sampler or focal" if targets.ndim == 1 else "--balance weights or focal"
    return BalancePlan(kind, counts, sentence=f"unequal {said}; {advice} would answer that")


def class_weights(counts: Counts) -> tuple[npt.NDArray[np.float32], int]:
    """N / (K n_c) for a class of n_c samples, cut at 20, then scaled to a mean of 1 over the samples.

    So every class counts alike in sum, as long as none is cut, and the loss keeps its size. A class
    without samples gets 0: nothing is known of it. Also how many were cut.
    """
    present = counts > 0
    raw = counts.sum() / (max(int(present.sum()), 1) * np.maximum(counts, 1))
    weights = np.where(present, raw.clip(max=LARGEST_WEIGHT), 0.0)
    mean = (weights * counts).sum() / max(int(counts.sum()), 1)
    return (weights / (mean or 1.0)).astype(np.float32), int((raw > LARGEST_WEIGHT)[present].sum())


def label_weights(counts: Counts, samples: int) -> tuple[npt.NDArray[np.float32], int]:
    """Negative to positive samples of each label, cut at 20 and 1/20: what a positive one counts.

    So both answers count alike in sum, for each label, as long as none is cut. Also how many were cut.
    """
    ratio = (samples - counts) / np.maximum(counts, 1)
    weights = np.where(counts > 0, ratio.clip(1 / LARGEST_WEIGHT, LARGEST_WEIGHT), 1.0)
    return weights.astype(np.float32), int((weights != ratio)[counts > 0].sum())


@dataclass(frozen=True)
class BalancedOrder:
    """Epochs of N draws in which every class is as frequent as any other, up to one sample.

    A class that is too small is gone through again and again, each time whole before it repeats; of
    one that is too large another part is drawn in each epoch. A function of (seed, epoch).
    """

    targets: npt.NDArray[np.int64]

    def __call__(self, seed: int, epoch: int) -> Indices:
        """(N,) positions in the train split."""
        rng = np.random.default_rng([seed, epoch, _TAG])
        by_class = np.argsort(self.targets, kind="stable")
        _, first = np.unique(self.targets[by_class], return_index=True)
        members = np.split(by_class, first[1:])
        quota = np.full(len(members), len(by_class) // len(members))
        quota[rng.permutation(len(members))[: len(by_class) % len(members)]] += 1
        drawn = [_cycled(rng, own, wanted) for own, wanted in zip(members, quota.tolist(), strict=True)]
        return rng.permutation(np.concatenate(drawn)).astype(np.int64)


@dataclass(frozen=True)
class GroupedOrder:
    """Epochs in groups of up to 4 samples of one class: any few neighbours hold pairs of a class.

    "PK batches" of Hermans et al., arXiv:1703.07737, for batches of any size: every sample of ``draw``
    comes once (by default every sample). A class is cut into groups of almost one size, which are spread
    evenly over the epoch, so that neighbouring groups are of different classes as far as there are
    others. A function of (seed, epoch).
    """

    targets: npt.NDArray[np.int64]
    draw: Callable[[int, int], Indices] | None = None

    def __call__(self, seed: int, epoch: int) -> Indices:
        """(N,) positions in the train split."""
        rng = np.random.default_rng([seed, epoch, _TAG_GROUPS])
        drawn = rng.permutation(len(self.targets)) if self.draw is None else self.draw(seed, epoch)
        drawn = drawn[np.argsort(self.targets[drawn], kind="stable")]  # class by class
        _, label, sizes = np.unique(self.targets[drawn], return_inverse=True, return_counts=True)
        starts = np.cumsum(sizes) - sizes
        groups = -(-sizes // GROUP)  # of each class
        number = (np.arange(len(drawn)) - starts[label]) * groups[label] // sizes[label]
        first = np.cumsum(groups) - groups
        # The g-th of a class's G groups lies at a random place in the g-th of G parts of the epoch.
        of_class = np.repeat(np.arange(len(sizes)), groups)
        within = np.arange(len(of_class)) - first[of_class]
        place = (within + rng.random(len(of_class))) / groups[of_class]
        rank = np.empty(len(place), dtype=np.int64)
        rank[np.argsort(place, kind="stable")] = np.arange(len(place))
        return drawn[np.argsort(rank[first[label] + number], kind="stable")].astype(np.int64)


def _grouped_plan(kind: BalanceKind, targets: Targets, counts: Counts, said: str) -> BalancePlan:
    """What an embedding's epochs draw. Raises: UsageError for weights and focal."""
    if kind in ("weights", "focal"):
        raise UsageError(
            f"--balance {kind} is for a loss of single samples; an embedding is learnt from triplets",
            hint="--balance sampler draws every class equally often",
        )
    balanced = BalancedOrder(targets) if kind == "sampler" else None
    sentence = f"batches: groups of up to {GROUP} samples of a class"
    if balanced is not None:
        sentence += f", every class equally often ({said})"
    alone = int((counts == 1).sum())
    if alone:
        have = "class has" if alone == 1 else "classes have"
        sentence += f"; {alone:,} {have} one training sample, which can only be told from others"
    return BalancePlan(kind, counts, None, GroupedOrder(targets, balanced), sentence, grouped=True)


def _cycled(rng: np.random.Generator, members: Indices, wanted: int) -> Indices:
    """``wanted`` of the members: all of them as often as they fit, then some of them."""
    whole, rest = divmod(wanted, len(members))
    return np.concatenate([np.tile(members, whole), rng.permutation(members)[:rest]])


def _counts(targets: Targets, task: TaskSpec) -> Counts:
    if targets.ndim == 1:
        counts: Counts = np.bincount(targets, minlength=task.num_classes).astype(np.int64)
    else:
        counts = (targets != 0).sum(axis=0, dtype=np.int64)
    return counts


def _sizes(counts: Counts, task: TaskSpec) -> str:
    """The largest and the smallest class as words."""
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
