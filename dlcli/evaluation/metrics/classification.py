"""Classification metrics from counts and sums over samples: exact for any batching. NumPy only.

Definitions are scikit-learn's with ``zero_division=0``: macro figures average over the classes that
occur among the targets or the predictions; balanced accuracy over those that occur in the targets.

A row of logits whose largest is NaN or infinite names no class: it is wrong whatever the target, is
predicted as nothing, and its loss is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs, Labels, Targets
from dlcli.evaluation.metrics.base import ClassRow, Counts, EvalResult, Floats, Outputs, PerSample

TOP = 5


class ClassificationCounts:
    """What is summed over samples; batches may come in any number and order.

    ``confusion[t][p]`` counts targets t predicted as p, ``unanswered[t]`` targets t with no prediction.
    """

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
        self.unanswered = np.zeros(num_classes, dtype=np.int64)
        self.non_finite = 0
        self._rows = PerSample("loss", "hit", "top5")

    @property
    def samples(self) -> int:
        """How many were counted."""
        return len(self._rows)

    def update(self, logits: Outputs, targets: Labels) -> None:
        """Count a batch: logits (n, C), targets (n,) in 0..C-1."""
        if not len(targets):
            return
        classes = self.confusion.shape[0]
        predicted, answered = predicted_classes(logits)
        cells = (targets * classes + predicted)[answered]
        self.confusion += np.bincount(cells, minlength=classes**2).reshape(classes, classes)
        self.unanswered += np.bincount(targets[~answered], minlength=classes)
        self.non_finite += int((~np.isfinite(logits).all(axis=1)).sum())
        hits = answered & (predicted == targets)
        self._rows.add(cross_entropy(logits, targets), hits, answered & (rank(logits, targets) < TOP))

    def merge(self, other: ClassificationCounts) -> None:
        """Add what ``other`` has counted on other samples."""
        assert self.confusion.shape == other.confusion.shape
        self.confusion += other.confusion
        self.unanswered += other.unanswered
        self.non_finite += other.non_finite
        self._rows.extend(other._rows)

    def metrics(self) -> dict[str, float]:
        """The derived figures; top-5 only where there are more than five classes."""
        hits, support, predicted = self._totals()
        precision, recall, f1 = precision_recall_f1(hits, support, predicted)
        seen = (support + predicted) > 0
        out = {
            "loss": self._rows.mean("loss"),
            "accuracy": self._rows.mean("hit"),
            "precision_macro": mean(precision[seen]),
            "recall_macro": mean(recall[seen]),
            "f1_macro": mean(f1[seen]),
            "balanced_accuracy": mean(recall[support > 0]),
        }
        if self.confusion.shape[0] > TOP:
            out["top5_accuracy"] = self._rows.mean("top5")
        return out

    def scores(self) -> Floats:
        """1 where the class is right, else 0, (N,), in the order counted."""
        return self._rows.column("hit")

    def result(
        self, split: str, class_names: Sequence[str], bad_samples: dict[str, str] | None = None
    ) -> EvalResult:
        """Everything `eval` reports."""
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            per_class=class_rows(class_names, *self._totals()),
            confusion=tuple(tuple(row) for row in self.confusion.tolist()),
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
        )

    def _totals(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        support = self.confusion.sum(axis=1) + self.unanswered
        return np.diag(self.confusion), support, self.confusion.sum(axis=0)


class NamedClasses(Counts):
    """`ClassificationCounts` that know their classes' names."""

    scored = "accuracy"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.counts = ClassificationCounts(len(self.class_names))

    @property
    def samples(self) -> int:
        """How many were counted."""
        return self.counts.samples

    def update(self, outputs: Outputs, targets: Targets, inputs: Inputs | None = None) -> None:
        """Count a batch: logits (n, C), targets (n,) in 0..C-1."""
        self.counts.update(outputs, targets)
        self.non_finite = self.counts.non_finite

    def merge(self, other: Counts) -> None:
        """Add what ``other`` has counted on other samples of the same classes."""
        assert isinstance(other, NamedClasses)
        assert self.class_names == other.class_names
        self.counts.merge(other.counts)
        self.non_finite = self.counts.non_finite

    def metrics(self) -> dict[str, float]:
        """The derived figures; top-5 only where there are more than five classes."""
        return self.counts.metrics()

    def scores(self) -> Floats:
        """1 where the class is right, else 0, (N,)."""
        return self.counts.scores()

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """Everything `eval` reports."""
        return self.counts.result(split, self.class_names, bad_samples)


def predicted_classes(logits: Outputs) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """The largest logit's class, of equal ones the first, (n,); and whether it names one, (n,)."""
    with np.errstate(invalid="ignore"):
        answered = np.isfinite(logits.max(axis=1))
    return logits.argmax(axis=1).astype(np.int64), answered


def rank(logits: Outputs, targets: Labels) -> npt.NDArray[np.int64]:
    """How many classes come before the target's, as `predict` lists them: of equal logits the first.

    A tie is a hit only for the classes that fit into the list, so constant logits do not look perfect.
    """
    own = np.take_along_axis(logits, targets[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None, :] < targets[:, None]
    before: npt.NDArray[np.int64] = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return before


def cross_entropy(logits: Outputs, targets: Labels) -> Floats:
    """Per-sample negative log-likelihood in nats, computed in float64. (N, C), (N,) -> (N,).

    Infinite where the target's logit is -inf; NaN where a logit is NaN or inf.
    """
    wide = logits.astype(np.float64, order="C")  # rows are then summed alike in every batch
    with np.errstate(invalid="ignore"):
        wide -= wide.max(axis=1, keepdims=True)
        log_sum: Floats = np.log(np.exp(wide).sum(axis=1))
        return log_sum - np.take_along_axis(wide, targets[:, None], axis=1)[:, 0]


def softmax(logits: Outputs) -> Floats:
    """Probabilities in float64. (N, C) -> (N, C); rows with NaN or inf become NaN."""
    with np.errstate(invalid="ignore"):
        wide = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        shares: Floats = wide / wide.sum(axis=1, keepdims=True)
    return shares


def precision_recall_f1(
    hits: npt.NDArray[np.int64], support: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]
) -> tuple[Floats, Floats, Floats]:
    """Of each class, from its hits, how often it is true and how often predicted; 0 where undefined."""
    return (
        hits / np.maximum(predicted, 1),
        hits / np.maximum(support, 1),
        2 * hits / np.maximum(support + predicted, 1),
    )


def class_rows(
    names: Sequence[str],
    hits: npt.NDArray[np.int64],
    support: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
) -> tuple[ClassRow, ...]:
    """A line for each class or label."""
    figures = zip(*precision_recall_f1(hits, support, predicted), strict=True)
    totals = zip(support.tolist(), predicted.tolist(), strict=True)
    return tuple(
        ClassRow(name, true, guessed, float(p), float(r), float(f))
        for name, (true, guessed), (p, r, f) in zip(names, totals, figures, strict=True)
    )


def mean(values: Floats) -> float:
    """The plain mean; NaN for none."""
    return float(values.mean()) if values.size else math.nan
