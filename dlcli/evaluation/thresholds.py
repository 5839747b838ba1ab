"""Thresholds of labels: the probabilities from which they are predicted, fitted to a metric. No torch.

For each label the threshold with the best metric on held-out samples, halfway between two logits: Lipton
et al., "Thresholding Classifiers to Maximize F1 Score", arXiv:1402.1892. As it is chosen among as many
as there are samples, what it gains is judged on samples that it was not fitted on. N samples, L labels:
those of a multi-label model, or the second of two classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Targets
from dlcli.errors import DlcliError
from dlcli.evaluation.decisions import log_odds, probability_of
from dlcli.evaluation.metrics.base import Floats
from dlcli.task import TaskSpec, Thresholds

Booleans = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]

# Of the samples that have a label, and of those that have not: fewer define no threshold.
FEWEST = 10
_FOLDS = 5
_LIMIT = 30.0  # of the log-odds of a threshold


def _f1(tp: Numbers, fp: Numbers, positive: int, negative: int) -> Floats:
    f1: Floats = 2 * tp / np.maximum(tp + fp + positive, 1)
    return f1


def _balanced_accuracy(tp: Numbers, fp: Numbers, positive: int, negative: int) -> Floats:
    mean: Floats = (tp / positive + 1 - fp / negative) / 2
    return mean


def _matthews_corrcoef(tp: Numbers, fp: Numbers, positive: int, negative: int) -> Floats:
    predicted = (tp + fp).astype(np.float64)
    rest = positive + negative - predicted
    product = np.sqrt(predicted * rest) * np.sqrt(float(positive) * negative)
    return np.where(
        product > 0, (tp * float(negative) - fp * float(positive)) / np.maximum(product, 1), 0
    )


# Metrics of one label from true and false positives, of so many positive and negative samples.
METRICS: Mapping[str, Callable[[Numbers, Numbers, int, int], Floats]] = MappingProxyType(
    {"f1": _f1, "balanced_accuracy": _balanced_accuracy, "matthews_corrcoef": _matthews_corrcoef}
)


@dataclass(frozen=True)
class LabelFit:
    """The threshold of a label, and the metric of it on the val samples.

    ``before`` is with the threshold as it was, ``fitted`` with ``threshold``, ``held_out`` where each
    fifth of the samples has the threshold of the other four. ``positive`` samples have the label;
    ``threshold`` is None where they are too few, or those without it.
    """

    name: str
    positive: int
    earlier: float
    before: float
    threshold: float | None = None
    fitted: float | None = None
    held_out: float | None = None

    @property
    def helps(self) -> bool:
        """Whether the metric gets higher on samples that the threshold was not fitted on."""
        return self.held_out is not None and self.held_out > self.before

    @property
    def chosen(self) -> float:
        """The threshold that the label has after the fit."""
        return self.threshold if self.threshold is not None and self.helps else self.earlier


@dataclass(frozen=True)
class ThresholdFit:
    """The fits of all labels to a ``metric`` on val ``samples``."""

    metric: str
    samples: int
    labels: tuple[LabelFit, ...]

    @property
    def helps(self) -> bool:
        """Whether there is a label whose threshold helps."""
        return any(label.helps for label in self.labels)

    @property
    def thresholds(self) -> Thresholds:
        """Those of the model after it."""
        values = tuple(label.chosen for label in self.labels)
        return Thresholds(values=values, metric=self.metric, samples=self.samples)

    @property
    def before(self) -> float:
        """The mean metric of the labels with the thresholds as they were."""
        return float(np.mean([label.before for label in self.labels]))

    @property
    def held_out(self) -> float:
        """The mean metric of the labels with thresholds that were not fitted on the same samples."""
        values = [
            one.held_out if one.held_out is not None and one.helps else one.before for one in self.labels
        ]
        return float(np.mean(values))


def fit_thresholds(logits: Numbers, targets: Targets, task: TaskSpec, metric: str) -> ThresholdFit:
    """Fit thresholds of logits (N, C) to targets, (N,) classes or (N, C) labels of 0 and 1.

    Raises: DlcliError where a logit is not finite, or no label is frequent enough.
    """
    broken = int((~np.isfinite(logits).all(axis=1)).sum())
    if broken:
        raise DlcliError(f"the model's output of {broken} val samples is NaN or infinite")
    wide = logits.astype(np.float64)
    if task.kind == "multilabel":
        names, scores, true = task.class_names, wide, targets.astype(bool)
    else:
        names, scores, true = task.class_names[1:], wide[:, 1:] - wide[:, :1], (targets == 1)[:, None]
    earlier = (0.5,) * len(names) if task.thresholds is None else task.thresholds.values
    labels = tuple(
        _fit_label(name, scores[:, i], true[:, i], earlier[i], metric) for i, name in enumerate(names)
    )
    if all(label.threshold is None for label in labels):
        what = "class has" if task.kind == "classification" else "label has, and has not,"
        raise DlcliError(
            f"a threshold needs {FEWEST} val samples of each side, and no {what} so many of "
            f"{len(logits)}",
            hint="hold out more: train with a larger --val-fraction",
        )
    return ThresholdFit(metric, len(logits), labels)


def _fit_label(name: str, scores: Floats, true: Booleans, earlier: float, metric: str) -> LabelFit:
    """The fit of one label, from its log-odds (N,) and whether samples have it (N,)."""
    positive = int(true.sum())
    if not positive or positive == len(true):  # its metric is not defined
        return LabelFit(name, positive, earlier, 0.0)
    before = _metric(scores > log_odds(earlier), true, metric)
    if min(positive, len(true) - positive) < FEWEST:
        return LabelFit(name, positive, earlier, before)
    cut = _best_cut(scores, true, log_odds(earlier), metric)
    folds = np.zeros(len(true), np.int64)  # each has its share of both sides
    for side in (true, ~true):
        folds[side] = np.arange(int(side.sum())) % _FOLDS
    predicted = np.zeros(len(true), bool)
    for i in range(_FOLDS):
        rest = folds != i
        own = _best_cut(scores[rest], true[rest], log_odds(earlier), metric)
        predicted[~rest] = scores[~rest] > own
    return LabelFit(
        name,
        positive,
        earlier,
        before,
        threshold=probability_of(cut),
        fitted=_metric(scores > cut, true, metric),
        held_out=_metric(predicted, true, metric),
    )


def _best_cut(scores: Floats, true: Booleans, earlier: float, metric: str) -> float:
    """The log-odds above which the metric is best, of equal ones the nearest to ``earlier``."""
    order = np.argsort(-scores, kind="stable")
    ordered, own = scores[order], true[order]
    tp = np.cumsum(own)
    fp = np.arange(1, len(own) + 1) - tp
    middles = (ordered[:-1] + ordered[1:]) / 2
    usable = (ordered[:-1] > middles) & (np.abs(middles) < _LIMIT)
    candidates = np.append(middles[usable], earlier)
    above = scores > earlier
    tps = np.append(tp[:-1][usable], int((above & true).sum()))
    fps = np.append(fp[:-1][usable], int((above & ~true).sum()))
    values = METRICS[metric](tps, fps, int(true.sum()), int((~true).sum()))
    best = candidates[values >= values.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - earlier))])


def _metric(predicted: Booleans, true: Booleans, metric: str) -> float:
    tp, fp = (predicted & true).sum(), (predicted & ~true).sum()
    return float(METRICS[metric](tp, fp, int(true.sum()), int((~true).sum())))
