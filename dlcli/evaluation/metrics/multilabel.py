"""Multilabel metrics: each label is a binary decision. NumPy only.

Definitions are scikit-learn's for indicator matrices with ``zero_division=0``: macro averages are over
all labels; accuracy is the share of samples with every label correct (subset accuracy).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlcli.data.base import Inputs, SeriesRows, Targets
from dlcli.evaluation.metrics.base import Counts, EvalResult, Floats, Outputs, PerSample
from dlcli.evaluation.metrics.classification import class_rows, mean, precision_recall_f1


class MultilabelCounts(Counts):
    """Sums over samples of (n, labels) logits; a label is predicted where its logit is above 0.

    A logit that is NaN or infinite counts as a wrong prediction, and makes the loss NaN. The monitored
    f1_macro is not a mean over samples, so `scores` belong to the accuracy.
    """

    scored = "accuracy"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        # Rows: true positives, support, predictions of each label.
        self.totals = np.zeros((3, len(self.class_names)), dtype=np.int64)
        self._rows = PerSample("loss", "correct")

    @property
    def samples(self) -> int:
        """The number of samples counted."""
        return len(self._rows)

    def update(
        self,
        outputs: Outputs,
        targets: Targets,
        inputs: Inputs | None = None,
        series: SeriesRows | None = None,
    ) -> None:
        """Add a batch: logits (n, labels), targets 0 or 1 (n, labels)."""
        if not len(targets):
            return
        true = targets.astype(bool)
        finite = np.isfinite(outputs)
        predicted = np.where(finite, outputs > 0, ~true)
        self.totals += np.stack([(true & predicted).sum(0), true.sum(0), predicted.sum(0)])
        self.non_finite += int((~finite.all(axis=1)).sum())
        losses = binary_cross_entropy(outputs, true)
        self._rows.add(losses.mean(axis=1), (predicted == true).all(axis=1))

    def merge(self, other: Counts) -> None:
        """Add the counts of ``other``, of the same labels, on other samples."""
        assert isinstance(other, MultilabelCounts)
        assert self.class_names == other.class_names
        self.totals += other.totals
        self.non_finite += other.non_finite
        self._rows.extend(other._rows)

    def metrics(self) -> dict[str, float]:
        """The metrics by name; loss is the mean over samples and labels."""
        precision, recall, f1 = precision_recall_f1(*self.totals)
        return {
            "loss": self._rows.mean("loss"),
            "accuracy": self._rows.mean("correct"),
            "precision_macro": mean(precision),
            "recall_macro": mean(recall),
            "f1_macro": mean(f1),
        }

    def scores(self) -> Floats:
        """1 for samples with every label correct, else 0, (N,)."""
        return self._rows.column("correct")

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            task="multilabel",
            per_class=class_rows(self.class_names, *self.totals),
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
        )


def binary_cross_entropy(logits: Outputs, true: Targets) -> Floats:
    """Negative log-likelihood of each label in nats, in float64; NaN where a logit is not finite."""
    wide = np.where(true.astype(bool), -logits.astype(np.float64), logits.astype(np.float64))
    with np.errstate(invalid="ignore"):
        losses: Floats = np.logaddexp(0.0, np.where(np.isfinite(wide), wide, np.nan))
    return losses
