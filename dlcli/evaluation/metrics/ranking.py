"""Metrics of how scores rank the samples: area under the ROC curve, average precision. NumPy only.

Definitions are scikit-learn's. Scores are log-odds, which rank as probabilities do, but are not rounded
to 0 and 1. Of two classes the second is the positive one; of more, each is held against the rest, and
the metric is the mean over the classes (labels) that some samples have and others have not. Samples of
equal score are one step of a curve, so order does not matter. A sample with an output that is not finite
is ranked last of its class (label).

N: samples, C: classes or labels, G: distinct scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Labels, Targets
from dlcli.evaluation.metrics.base import Floats, Outputs, Undefined, exact_mean
from dlcli.evaluation.metrics.classification import ONE_CLASS, predicted_classes
from dlcli.evaluation.metrics.multilabel import NO_LABEL
from dlcli.evaluation.metrics.registered import register_metric
from dlcli.task import TaskSpec

CHUNK = 2**20  # logits converted to float64 at a time

Positives = npt.NDArray[np.bool_]
Totals = npt.NDArray[np.int64]


@register_metric("roc_auc", "classification", "multilabel", higher_is_better=True)
def roc_auc(outputs: Outputs, targets: Targets, task: TaskSpec) -> float:
    """Area under the ROC curve, macro one-vs-rest for more than two classes."""
    return _macro(area_under_roc, outputs, targets, task)


@register_metric("average_precision", "classification", "multilabel", higher_is_better=True)
def average_precision(outputs: Outputs, targets: Targets, task: TaskSpec) -> float:
    """Average precision, macro one-vs-rest for more than two classes."""
    return _macro(precision_by_recall, outputs, targets, task)


def area_under_roc(scores: Floats, positive: Positives) -> float:
    """The share of pairs, a positive and a negative sample, that are in order; ties count half.

    Both values must occur among the positives (N,). Counted in integers (Mann-Whitney U).
    """
    positives, negatives = steps(scores, positive)
    below = negatives.cumsum() - negatives
    twice = int((positives * (2 * below + negatives)).sum())
    return twice / (2 * int(positives.sum()) * int(negatives.sum()))


def precision_by_recall(scores: Floats, positive: Positives) -> float:
    """The mean of the precision at each threshold, weighted by the increase in recall."""
    positives, negatives = (counts[::-1] for counts in steps(scores, positive))
    correct = positives.cumsum()
    precision = correct / (correct + negatives.cumsum())
    return float((precision * positives).sum() / positives.sum())


def steps(scores: Floats, positive: Positives) -> tuple[Totals, Totals]:
    """Positive and negative samples of each distinct score, ascending. (N,), (N,) -> (G,), (G,)."""
    order = np.argsort(scores, kind="stable")
    ordered, is_positive = scores[order], positive[order].astype(np.int64)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    positives = np.add.reduceat(is_positive, starts)
    return positives, np.diff(np.append(starts, len(scores))) - positives


def _macro(
    metric: Callable[[Floats, Positives], float], outputs: Outputs, targets: Targets, task: TaskSpec
) -> float:
    """The mean over the classes that have positive and negative samples. Raises: Undefined."""
    labels = task.kind == "multilabel"
    curves = _labels(outputs, targets) if labels else _classes(outputs, targets)
    values = [metric(scores, true) for scores, true in curves if true.any() and not true.all()]
    if not values:
        raise Undefined(NO_LABEL if labels else ONE_CLASS)
    return exact_mean(np.array(values))


def _labels(outputs: Outputs, targets: Targets) -> Iterator[tuple[Floats, Positives]]:
    """Scores and targets of each label."""
    for column, target in zip(outputs.T, targets.astype(bool).T, strict=True):
        yield np.where(np.isfinite(column), column, np.where(target, -np.inf, np.inf)), target


def _classes(outputs: Outputs, targets: Labels) -> Iterator[tuple[Floats, Positives]]:
    """Scores and targets of each class against the rest; of two classes the second alone."""
    best, valid = predicted_classes(outputs)
    largest = np.where(valid, outputs.max(axis=1), 0).astype(np.float64)
    if outputs.shape[1] == 2:
        with np.errstate(invalid="ignore"):
            scores = outputs[:, 1].astype(np.float64) - outputs[:, 0]
        yield np.where(valid, scores, np.where(targets == 1, -np.inf, np.inf)), targets == 1
        return
    others, total = _exponential_sums(outputs, largest, best)
    for c in range(outputs.shape[1]):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            scaled = outputs[:, c].astype(np.float64) - largest
            # Without its own part; the sum over all minus the largest part would be rounded to 0.
            scores = scaled - np.log(np.where(best == c, others, total - np.exp(scaled)))
        worst = np.where(targets == c, -np.inf, np.inf)
        yield np.where(valid, scores, worst), targets == c


def _exponential_sums(outputs: Outputs, largest: Floats, best: Labels) -> tuple[Floats, Floats]:
    """Sums of exp(logit - largest): over all classes but the largest, and over all, (N,)."""
    others = np.empty(len(outputs))
    rows = max(1, CHUNK // outputs.shape[1])
    for start in range(0, len(outputs), rows):
        part = slice(start, start + rows)
        # In C order, so that a row's sum does not depend on the batch.
        wide = outputs[part].astype(np.float64, order="C") - largest[part, None]
        with np.errstate(invalid="ignore", over="ignore"):
            exponentials = np.exp(wide)
        np.put_along_axis(exponentials, best[part, None], 0.0, axis=1)
        others[part] = exponentials.sum(axis=1)
    return others, others + 1.0
