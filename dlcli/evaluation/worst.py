"""The samples with the largest loss, with their targets and predictions. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlcli.data.base import Indices, Reader, Targets
from dlcli.errors import UsageError
from dlcli.evaluation.ensemble import Ensemble
from dlcli.evaluation.metrics import Counts, cross_entropy, default_monitor
from dlcli.evaluation.metrics.base import Floats, WorstRow
from dlcli.evaluation.metrics.multilabel import binary_cross_entropy
from dlcli.evaluation.predict import row_function
from dlcli.evaluation.true_values import true_values
from dlcli.formats.base import Outputs
from dlcli.task import TaskSpec


def check_worst(task: TaskSpec) -> None:
    """Raises: UsageError for an embedding, whose loss is of all samples together."""
    if task.kind == "embedding":
        raise UsageError("--worst is not for embeddings: no sample has a loss of its own")


@dataclass
class SampleLosses:
    """The losses of the samples that were counted, batch by batch, in the order of `Counts.update`."""

    task: TaskSpec

    def __post_init__(self) -> None:
        self._indices: list[Indices] = []
        self._losses: list[Floats] = []

    def update(self, outputs: Outputs, targets: Targets, indices: Indices) -> None:
        """Add a batch."""
        self._indices.append(indices)
        if self.task.kind == "classification":
            self._losses.append(cross_entropy(outputs, targets))
        elif self.task.kind == "multilabel":
            self._losses.append(binary_cross_entropy(outputs, targets).mean(axis=1))

    def largest(self, counts: Counts, number: int) -> tuple[Indices, Floats]:
        """The indices and losses of the ``number`` worst samples, worst first; NaN is worst of all.

        Of numbers the loss is the squared error, of translations the mean loss of a text's tokens over
        that of all texts: `Counts.scores` of the task's own metric.
        """
        if self._losses:
            losses = np.concatenate(self._losses)
        else:
            scores = counts.scores(default_monitor(self.task))
            assert scores is not None
            losses = scores
        order = np.argsort(-np.where(np.isnan(losses), np.inf, losses), kind="stable")[:number]
        return np.concatenate(self._indices)[order], losses[order]


def worst_rows(
    ensemble: Ensemble, reader: Reader, losses: SampleLosses, counts: Counts, number: int, *, beams: int
) -> tuple[WorstRow, ...]:
    """The worst samples, predicted again."""
    indices, values = losses.largest(counts, number)
    predict = row_function(ensemble.predict, ensemble.task, 1, beams)
    rows = []
    for index, loss in zip(indices.tolist(), values.tolist(), strict=True):
        one = np.array([index], np.int64)
        inputs, _ = reader.read(one)
        predicted = predict(inputs, reader.series(one))[0]
        rows.append(
            WorstRow(
                input=reader.samples.ids[index],
                loss=loss,
                target="; ".join(map(_cells, true_values(reader, index, ensemble.task))),
                prediction="; ".join(_prediction(row) for row in predicted),
                probability=predicted[0].get("probability"),
            )
        )
    return tuple(rows)


def _prediction(row: dict[str, Any]) -> str:
    if "label" in row:
        return str(row["label"])
    if "labels" in row:
        return "|".join(row["labels"])
    if "text" in row:
        return str(row["text"])
    return _cells(row["values"].values() if "values" in row else [row["value"]])


def _cells(values: Iterable[str | float]) -> str:
    return ", ".join(value if isinstance(value, str) else f"{value:.6g}" for value in values)
