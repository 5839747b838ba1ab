"""Classification metrics from counts and sums over samples: exact for any batching. NumPy only.

Definitions are scikit-learn's with ``zero_division=0``: macro averages are over the classes that occur
among the targets or the predictions; balanced accuracy is over those that occur among the targets.

A row of logits whose largest is NaN or infinite has no predicted class: it counts as misclassified and
its loss is NaN.

The Matthews correlation coefficient is Gorodkin's for any number of classes
(doi:10.1016/j.compbiolchem.2004.09.006), 0 where one class is predicted for all samples; "no class"
counts as one more prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices, Inputs, Labels, SeriesRows, Targets
from dlcli.evaluation.decisions import decision_scores
from dlcli.evaluation.metrics.base import ClassRow, Counts, EvalResult, Floats, Outputs, PerSample
from dlcli.evaluation.metrics.reliability import expected_calibration_error, reliability_bins
from dlcli.task import TaskSpec

TOP = 5

# Metrics that are means over samples, and the column of their scores.
_COLUMNS: Mapping[str, str] = MappingProxyType(
    {"loss": "loss", "log_loss": "loss", "accuracy": "correct", "top5_accuracy": "top5"}
)
ONE_CLASS = "all samples are of one class"

Totals = npt.NDArray[np.int64]  # counts of each class or label, (C,)


class ClassificationCounts:
    """The loss, the target and the predicted class of each sample of a classifier."""

    def __init__(self, num_classes: int, task: TaskSpec | None = None) -> None:
        self.num_classes = num_classes
        self._task = task  # its thresholds decide, if it has some
        self.non_finite = 0
        # ``cell`` is target * (C + 1) + predicted class, C for none.
        # ``likeliest``: whether the class of the largest probability is right, which is ``confidence``.
        self._rows = PerSample("loss", "correct", "top5", "cell", "confidence", "likeliest")

    @property
    def samples(self) -> int:
        """The number of samples counted."""
        return len(self._rows)

    def update(self, logits: Outputs, targets: Labels) -> None:
        """Add a batch: logits (n, C), targets (n,) in 0..C-1."""
        if not len(targets):
            return
        likeliest, valid = predicted_classes(logits)
        predicted = likeliest
        if self._task is not None and self._task.thresholds is not None:
            predicted, _ = predicted_classes(decision_scores(logits, self._task))
        cells = targets * (self.num_classes + 1) + np.where(valid, predicted, self.num_classes)
        self.non_finite += int((~np.isfinite(logits).all(axis=1)).sum())
        correct = valid & (predicted == targets)
        top5 = valid & (rank(logits, targets) < TOP)
        losses, confidence = _losses(logits, targets)
        self._rows.add(losses, correct, top5, cells, confidence, valid & (likeliest == targets))

    def merge(self, other: ClassificationCounts) -> None:
        """Add the counts of ``other`` on other samples."""
        assert self.num_classes == other.num_classes
        self.non_finite += other.non_finite
        self._rows.extend(other._rows)

    def metrics(self) -> dict[str, float]:
        """The metrics by name; top-5 accuracy only for more than five classes."""
        loss = self._rows.mean("loss")
        out = {"loss": loss, "accuracy": self._rows.mean("correct"), **confusion_metrics(self._table())}
        out["log_loss"] = loss
        if self.num_classes > TOP:
            out["top5_accuracy"] = self._rows.mean("top5")
        out["ece"] = expected_calibration_error(*self._confidence(None))
        return out

    def undefined(self) -> dict[str, str]:
        """The Matthews correlation coefficient, where all samples are of one class."""
        one = np.count_nonzero(self._table().sum(axis=1)) < 2
        return {"matthews_corrcoef": ONE_CLASS} if one else {}

    def scores(self, metric: str) -> Floats | None:
        """Losses, or 1 for correct predictions, else 0, (N,); None for metrics of all samples."""
        return self._rows.column(_COLUMNS[metric]) if metric in _COLUMNS else None

    def value(self, metric: str, indices: Indices) -> float:
        """The calibration error or a metric of the confusion matrix, of the samples at ``indices``."""
        if metric == "ece":
            return expected_calibration_error(*self._confidence(indices))
        return confusion_metrics(self._table(indices)).get(metric, math.nan)

    def result(
        self, split: str, class_names: Sequence[str], bad_samples: dict[str, str] | None = None
    ) -> EvalResult:
        """The result that `eval` reports."""
        table = self._table()
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            per_class=class_rows(class_names, *_totals(table)),
            confusion=tuple(tuple(row) for row in table[:, :-1].tolist()),
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
            undefined=self.undefined(),
            reliability=reliability_bins(*self._confidence(None)),
        )

    def _confidence(self, indices: Indices | None) -> tuple[Floats, Floats]:
        """Probabilities of the likeliest classes, and whether they are right, of all or some samples."""
        columns = self._rows.column("confidence"), self._rows.column("likeliest")
        return columns if indices is None else (columns[0][indices], columns[1][indices])

    def _table(self, indices: Indices | None = None) -> Totals:
        """Counts of targets by predictions, the last column for none, (C, C + 1)."""
        cells = self._rows.column("cell")
        cells = (cells if indices is None else cells[indices]).astype(np.int64)
        shape = (self.num_classes, self.num_classes + 1)
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)


class NamedClasses(Counts):
    """`ClassificationCounts` with the names and the thresholds of a task."""

    def __init__(self, task: TaskSpec) -> None:
        self.class_names = task.class_names
        self.counts = ClassificationCounts(len(self.class_names), task)

    @property
    def samples(self) -> int:
        """The number of samples counted."""
        return self.counts.samples

    def update(
        self,
        outputs: Outputs,
        targets: Targets,
        inputs: Inputs | None = None,
        series: SeriesRows | None = None,
    ) -> None:
        """Add a batch: logits (n, C), targets (n,) in 0..C-1."""
        self.counts.update(outputs, targets)
        self.non_finite = self.counts.non_finite

    def merge(self, other: Counts) -> None:
        """Add the counts of ``other``, of the same classes, on other samples."""
        assert isinstance(other, NamedClasses)
        assert self.class_names == other.class_names
        self.counts.merge(other.counts)
        self.non_finite = self.counts.non_finite

    def metrics(self) -> dict[str, float]:
        """The metrics by name; top-5 accuracy only for more than five classes."""
        return self.counts.metrics()

    def undefined(self) -> dict[str, str]:
        """As `ClassificationCounts.undefined`."""
        return self.counts.undefined()

    def scores(self, metric: str) -> Floats | None:
        """As `ClassificationCounts.scores`."""
        return self.counts.scores(metric)

    def value(self, metric: str, indices: Indices) -> float:
        """As `ClassificationCounts.value`."""
        return self.counts.value(metric, indices)

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""
        return self.counts.result(split, self.class_names, bad_samples)


def predicted_classes(logits: Outputs) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """Classes of the largest logit (n,), the first of equal ones, and whether it is finite (n,)."""
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(logits.max(axis=1))
    return logits.argmax(axis=1).astype(np.int64), valid


def rank(logits: Outputs, targets: Labels) -> npt.NDArray[np.int64]:
    """Rank of the target's class, from 0; of classes with equal logits the first ranks higher.

    This is the order in which `predict` lists classes. Breaking ties keeps constant logits from a
    perfect top-k accuracy.
    """
    own = np.take_along_axis(logits, targets[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None, :] < targets[:, None]
    before: npt.NDArray[np.int64] = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return before


def cross_entropy(logits: Outputs, targets: Labels) -> Floats:
    """Negative log-likelihood of each sample in nats, computed in float64. (N, C), (N,) -> (N,).

    Infinite where the target's logit is -inf; NaN where a logit is NaN or inf.
    """
    return _losses(logits, targets)[0]


def _losses(logits: Outputs, targets: Labels) -> tuple[Floats, Floats]:
    """As `cross_entropy`; and the largest probability of each sample, NaN without a finite one."""
    wide = logits.astype(np.float64, order="C")  # so that a row's sum does not depend on the batch
    with np.errstate(invalid="ignore"):
        wide -= wide.max(axis=1, keepdims=True)
        total: Floats = np.exp(wide).sum(axis=1)
        losses: Floats = np.log(total) - np.take_along_axis(wide, targets[:, None], axis=1)[:, 0]
        return losses, 1 / total


def confusion_metrics(table: Totals) -> dict[str, float]:
    """The metrics of counts of targets by predictions, the last column for none, (C, C + 1)."""
    correct, support, predicted = _totals(table)
    precision, recall, f1 = precision_recall_f1(correct, support, predicted)
    occurs = (support + predicted) > 0
    out = {
        "precision_macro": mean(precision[occurs]),
        "recall_macro": mean(recall[occurs]),
        "f1_macro": mean(f1[occurs]),
        "balanced_accuracy": mean(recall[support > 0]),
    }
    if np.count_nonzero(support) > 1:
        out["matthews_corrcoef"] = matthews_corrcoef(correct, support, table.sum(axis=0))
    return out


def matthews_corrcoef(correct: Totals, support: Totals, predicted: Totals) -> float:
    """The coefficient from counts of correct predictions (C,), targets (C,), predictions (C or more,).

    0 where one class is predicted for all samples. Integers are exact, and of any size.
    """
    right, true, guessed = (part.tolist() for part in (correct, support, predicted))
    total = sum(true)
    both = sum(right) * total - sum(t * p for t, p in zip(true, guessed, strict=False))
    spreads = [total**2 - sum(n**2 for n in part) for part in (true, guessed)]
    return both / math.sqrt(spreads[0]) / math.sqrt(spreads[1]) if all(spreads) else 0.0


def _totals(table: Totals) -> tuple[Totals, Totals, Totals]:
    """Correct predictions, targets and predictions of each class."""
    return np.diag(table), table.sum(axis=1), table.sum(axis=0)[:-1]


def precision_recall_f1(
    correct: Totals, support: Totals, predicted: Totals
) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class, from counts (C,); 0 where undefined."""
    return (
        correct / np.maximum(predicted, 1),
        correct / np.maximum(support, 1),
        2 * correct / np.maximum(support + predicted, 1),
    )


def class_rows(
    names: Sequence[str], correct: Totals, support: Totals, predicted: Totals
) -> tuple[ClassRow, ...]:
    """The metrics of each class or label."""
    metrics = zip(*precision_recall_f1(correct, support, predicted), strict=True)
    totals = zip(support.tolist(), predicted.tolist(), strict=True)
    return tuple(
        ClassRow(name, samples, predictions, float(p), float(r), float(f))
        for name, (samples, predictions), (p, r, f) in zip(names, totals, metrics, strict=True)
    )


def mean(values: Floats) -> float:
    """The mean; NaN for an empty array."""
    return float(values.mean()) if values.size else math.nan
