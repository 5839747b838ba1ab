"""Classification metrics from counts and sums over samples: exact for any batching. NumPy only.

Definitions are scikit-learn's with ``zero_division=0``: macro figures average over the classes that
occur among the targets or the predictions; balanced accuracy over those that occur in the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Labels
from dlcli.formats.base import Logits

# Direction of every metric that dlcli reports: +1 higher is better, -1 lower is better.
DIRECTIONS = {
    "loss": -1,
    "accuracy": 1,
    "top5_accuracy": 1,
    "precision_macro": 1,
    "recall_macro": 1,
    "f1_macro": 1,
    "balanced_accuracy": 1,
}


@dataclass(frozen=True)
class ClassRow:
    """One class's line: ``samples`` of it in the split, ``predicted`` as it."""

    name: str
    samples: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class EvalResult:
    """The metrics of a model on a split; ``confusion[t][p]`` counts targets t predicted as p."""

    split: str
    samples: int
    metrics: dict[str, float]
    per_class: tuple[ClassRow, ...]
    confusion: tuple[tuple[int, ...], ...]
    bad_samples: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class ClassificationCounts:
    """What is summed over samples; batches may come in any number and order.

    Losses are summed in float64 from per-sample values, so batching changes nothing that is printed.
    """

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
        self.loss_sum = 0.0
        self.top5 = 0

    @property
    def samples(self) -> int:
        return int(self.confusion.sum())

    def update(self, logits: Logits, targets: Labels) -> None:
        """Count a batch: logits (N, C), targets (N,) in 0..C-1."""
        if not len(targets):
            return
        classes = self.confusion.shape[0]
        predicted = logits.argmax(axis=1)
        cells = targets * classes + predicted
        self.confusion += np.bincount(cells, minlength=classes**2).reshape(classes, classes)
        self.loss_sum += float(cross_entropy(logits, targets).sum())
        own = np.take_along_axis(logits, targets[:, None], axis=1)
        self.top5 += int(((logits > own).sum(axis=1) < 5).sum())

    def metrics(self) -> dict[str, float]:
        """The derived figures; top-5 only where there are more than five classes."""
        n = max(self.samples, 1)
        precision, recall, f1 = _precision_recall_f1(self.confusion)
        support, predicted = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        seen = (support + predicted) > 0
        out = {
            "loss": self.loss_sum / n,
            "accuracy": float(np.trace(self.confusion)) / n,
            "precision_macro": _mean(precision[seen]),
            "recall_macro": _mean(recall[seen]),
            "f1_macro": _mean(f1[seen]),
            "balanced_accuracy": _mean(recall[support > 0]),
        }
        if self.confusion.shape[0] > 5:
            out["top5_accuracy"] = self.top5 / n
        return out

    def result(
        self, split: str, class_names: Sequence[str], bad_samples: dict[str, str] | None = None
    ) -> EvalResult:
        """Everything `eval` reports."""
        precision, recall, f1 = _precision_recall_f1(self.confusion)
        rows = tuple(
            ClassRow(
                name=name,
                samples=int(self.confusion[i].sum()),
                predicted=int(self.confusion[:, i].sum()),
                precision=float(precision[i]),
                recall=float(recall[i]),
                f1=float(f1[i]),
            )
            for i, name in enumerate(class_names)
        )
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            per_class=rows,
            confusion=tuple(tuple(int(n) for n in row) for row in self.confusion),
            bad_samples=dict(bad_samples or {}),
        )


def cross_entropy(logits: Logits, targets: Labels) -> npt.NDArray[np.float64]:
    """Per-sample negative log-likelihood in nats, computed in float64. (N, C), (N,) -> (N,)."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    log_sum: npt.NDArray[np.float64] = np.log(np.exp(wide).sum(axis=1))
    return log_sum - np.take_along_axis(wide, targets[:, None], axis=1)[:, 0]


def softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Probabilities in float64. (N, C) -> (N, C)."""
    wide = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return wide / wide.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _precision_recall_f1(
    confusion: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    hits = np.diag(confusion).astype(np.float64)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return (
        hits / np.maximum(predicted, 1),
        hits / np.maximum(support, 1),
        2 * hits / np.maximum(support + predicted, 1),
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else 0.0
