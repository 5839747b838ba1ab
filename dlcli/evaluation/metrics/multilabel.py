"""Multilabel metrics: each label is a binary decision. NumPy only.

Definitions are scikit-learn's for indicator matrices with ``zero_division=0``: macro averages are over
all labels; accuracy is the share of samples with every label correct (subset accuracy). The Matthews
correlation coefficient is the mean over labels that are present in some samples and absent in others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices, Inputs, SeriesRows, Targets
from dlcli.evaluation.decisions import decision_scores
from dlcli.evaluation.metrics.base import Counts, EvalResult, Floats, Outputs, PerSample
from dlcli.evaluation.metrics.classification import (
    Totals,
    class_rows,
    matthews_corrcoef,
    mean,
    precision_recall_f1,
)
from dlcli.task import TaskSpec

# Metrics that are means over samples, and the column of their scores.
_COLUMNS: Mapping[str, str] = MappingProxyType(
    {"loss": "loss", "log_loss": "loss", "accuracy": "correct"}
)
NO_LABEL = "no label is present in some of the samples and absent in others"


class MultilabelCounts(Counts):
    """Targets and predictions of (n, labels) logits, by the thresholds of the task.

    A logit that is NaN or infinite counts as a wrong prediction, and makes the loss NaN.
    """

    def __init__(self, task: TaskSpec) -> None:
        self.class_names = task.class_names
        self._task = task
        # Of each sample: whether each label is true and predicted, (n, 2, labels).
        self._labels: list[npt.NDArray[np.bool_]] = [np.zeros((0, 2, len(self.class_names)), bool)]
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
        predicted = np.where(finite, decision_scores(outputs, self._task) > 0, ~true)
        self._labels.append(np.stack([true, predicted], axis=1))
        self.non_finite += int((~finite.all(axis=1)).sum())
        losses = binary_cross_entropy(outputs, true)
        self._rows.add(losses.mean(axis=1), (predicted == true).all(axis=1))

    def merge(self, other: Counts) -> None:
        """Add the counts of ``other``, of the same labels, on other samples."""
        assert isinstance(other, MultilabelCounts)
        assert self.class_names == other.class_names
        self._labels = [*self._labels, *other._labels]
        self.non_finite += other.non_finite
        self._rows.extend(other._rows)

    def metrics(self) -> dict[str, float]:
        """The metrics by name; loss is the mean over samples and labels."""
        loss = self._rows.mean("loss")
        out = {"loss": loss, "accuracy": self._rows.mean("correct"), **self._label_metrics(None)}
        return out | {"log_loss": loss}

    def undefined(self) -> dict[str, str]:
        """The Matthews correlation coefficient, where no label is both present and absent."""
        known = "matthews_corrcoef" in self._label_metrics(None)
        return {} if known else {"matthews_corrcoef": NO_LABEL}

    def scores(self, metric: str) -> Floats | None:
        """Losses, or 1 for samples with every label correct, else 0, (N,); None for other metrics."""
        return self._rows.column(_COLUMNS[metric]) if metric in _COLUMNS else None

    def value(self, metric: str, indices: Indices) -> float:
        """A metric of the labels, of the samples at ``indices``."""
        return self._label_metrics(indices).get(metric, math.nan)

    def _totals(self, indices: Indices | None) -> tuple[Totals, Totals, Totals]:
        """True positives, support and predictions of each label."""
        self._labels = [np.concatenate(self._labels)]
        labels = self._labels[0] if indices is None else self._labels[0][indices]
        true, predicted = labels[:, 0], labels[:, 1]
        return (true & predicted).sum(0), true.sum(0), predicted.sum(0)

    def _label_metrics(self, indices: Indices | None) -> dict[str, float]:
        """Macro averages over labels."""
        totals = self._totals(indices)
        samples = self.samples if indices is None else len(indices)
        names = ("precision_macro", "recall_macro", "f1_macro")
        out = {
            name: mean(column) for name, column in zip(names, precision_recall_f1(*totals), strict=True)
        }
        coefficients = [
            matthews_corrcoef(
                np.array([tp, samples - t - p + tp]), *np.array([[t, samples - t], [p, samples - p]])
            )
            for tp, t, p in zip(*(part.tolist() for part in totals), strict=True)
            if 0 < t < samples
        ]
        return out | ({"matthews_corrcoef": mean(np.array(coefficients))} if coefficients else {})

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            task="multilabel",
            per_class=class_rows(self.class_names, *self._totals(None)),
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
            undefined=self.undefined(),
        )


def binary_cross_entropy(logits: Outputs, true: Targets) -> Floats:
    """Negative log-likelihood of each label in nats, in float64; NaN where a logit is not finite."""
    wide = np.where(true.astype(bool), -logits.astype(np.float64), logits.astype(np.float64))
    with np.errstate(invalid="ignore"):
        losses: Floats = np.logaddexp(0.0, np.where(np.isfinite(wide), wide, np.nan))
    return losses
