"""Labels that out-of-fold predictions contradict, the least probable first.

By the probability of the given label ("self-confidence"): Northcutt, Jiang and Chuang, "Confident
Learning", arXiv:1911.00068.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LabelIssue:
    """A sample that a model, which has not seen it, gives another class than its label.

    ``label_probability`` is that of the label, ``probability`` that of the prediction.
    """

    input: str
    label: str
    label_probability: float
    prediction: str
    probability: float


class LabelIssues:
    """Collects the issues of rows of `FoldModels.predictions` while they pass."""

    def __init__(self) -> None:
        self._issues: list[LabelIssue] = []

    def collect(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same rows. Those of other tasks than classification have no issues."""
        for row in rows:
            if "label" in row and row["label"] != row["true"][0]:
                true, predicted = row["true"][0], row["label"]
                probabilities = row["probabilities"]
                self._issues.append(
                    LabelIssue(
                        row["input"], true, probabilities[true], predicted, probabilities[predicted]
                    )
                )
            yield row

    def ranked(self) -> list[LabelIssue]:
        """The issues, least probable label first; of equal ones by name."""
        return sorted(self._issues, key=lambda issue: (issue.label_probability, issue.input))
