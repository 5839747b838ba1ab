"""Classification metrics from counts and sums over samples: exact for any batching. NumPy only.

Definitions are scikit-learn's with ``zero_division=0``: macro averages are over the classes that occur
among the targets or the predictions; balanced accuracy is over those that occur among the targets.

A row of logits whose largest is NaN or infinite has no predicted class: it counts as misclassified and
its loss is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs, Labels, SeriesRows, Targets
from dlcli.evaluation.metrics.base import ClassRow, Counts, EvalResult, Floats, Outputs, PerSample

TOP = 5

Totals = npt.NDArray[np.int64]  # counts of each class or label, (C,)


class ClassificationCounts:
    """Confusion matrix and per-sample scores of a classifier.

    ``confusion[t][p]`` counts targets t predicted as p, ``unpredicted[t]`` targets t without a
    predicted class.
    """

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
        self.unpredicted = np.zeros(num_classes, dtype=np.int64)
        self.non_finite = 0
        self._rows = PerSample("loss", "correct", "top5")

    @property
    def samples(self) -> int:
        """The number of samples counted."""
        return len(self._rows)

    def update(self, logits: Outputs, targets: Labels) -> None:
        """Add a batch: logits (n, C), targets (n,) in 0..C-1."""
        if not len(targets):
            return
        classes = self.confusion.shape[0]
        predicted, valid = predicted_classes(logits)
        cells = (targets * classes + predicted)[valid]
        self.confusion += np.bincount(cells, minlength=classes**2).reshape(classes, classes)
        self.unpredicted += np.bincount(targets[~valid], minlength=classes)
        self.non_finite += int((~np.isfinite(logits).all(axis=1)).sum())
        correct = valid & (predicted == targets)
        self._rows.add(cross_entropy(logits, targets), correct, valid & (rank(logits, targets) < TOP))

    def merge(self, other: ClassificationCounts) -> None:
        """Add the counts of ``other`` on other samples."""
        assert self.confusion.shape == other.confusion.shape
        self.confusion += other.confusion
        self.unpredicted += other.unpredicted
        self.non_finite += other.non_finite
        self._rows.extend(other._rows)

    def metrics(self) -> dict[str, float]:
        """The metrics by name; top-5 accuracy only for more than five classes."""
        correct, support, predicted = self._totals()
        precision, recall, f1 = precision_recall_f1(correct, support, predicted)
        occurs = (support + predicted) > 0
        out = {
            "loss": self._rows.mean("loss"),
            "accuracy": self._rows.mean("correct"),
            "precision_macro": mean(precision[occurs]),
            "recall_macro": mean(recall[occurs]),
            "f1_macro": mean(f1[occurs]),
            "balanced_accuracy": mean(recall[support > 0]),
        }
        if self.confusion.shape[0] > TOP:
            out["top5_accuracy"] = self._rows.mean("top5")
        return out

    def scores(self) -> Floats:
        """1 for a correct prediction, else 0, (N,), in the order of `update`."""
        return self._rows.column("correct")

    def result(
        self, split: str, class_names: Sequence[str], bad_samples: dict[str, str] | None = None
    ) -> EvalResult:
        """The result that `eval` reports."""
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            per_class=class_rows(class_names, *self._totals()),
            confusion=tuple(tuple(row) for row in self.confusion.tolist()),
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
        )

    def _totals(self) -> tuple[Totals, Totals, Totals]:
        """Correct predictions, targets and predictions of each class."""
        support = self.confusion.sum(axis=1) + self.unpredicted
        return np.diag(self.confusion), support, self.confusion.sum(axis=0)


class NamedClasses(Counts):
    """`ClassificationCounts` with class names."""

    scored = "accuracy"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.counts = ClassificationCounts(len(self.class_names))

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

    def scores(self) -> Floats:
        """1 for a correct prediction, else 0, (N,)."""
        return self.counts.scores()

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
    wide = logits.astype(np.float64, order="C")  # so that a row's sum does not depend on the batch
    with np.errstate(invalid="ignore"):
        wide -= wide.max(axis=1, keepdims=True)
        log_sum: Floats = np.log(np.exp(wide).sum(axis=1))
        return log_sum - np.take_along_axis(wide, targets[:, None], axis=1)[:, 0]


def softmax(logits: Outputs) -> Floats:
    """Probabilities in float64. (N, C) -> (N, C); rows with NaN or inf become NaN."""
    with np.errstate(invalid="ignore"):
        wide = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        probabilities: Floats = wide / wide.sum(axis=1, keepdims=True)
    return probabilities


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
