"""The samples with the largest loss, with their targets and predictions. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dlcli.data.base import Indices, Listed, Reader, Targets
from dlcli.errors import UsageError
from dlcli.evaluation.ensemble import Ensemble
from dlcli.evaluation.metrics import Counts, cross_entropy, default_monitor
from dlcli.evaluation.metrics.base import Floats, WorstRow
from dlcli.evaluation.metrics.multilabel import binary_cross_entropy
from dlcli.evaluation.predict import row_function
from dlcli.formats.base import Outputs
from dlcli.task import PairsInput, TaskSpec


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
                target=_target(reader, one, ensemble.task),
                prediction="; ".join(_prediction(row) for row in predicted),
                probability=predicted[0].get("probability"),
            )
        )
    return tuple(rows)


def _target(reader: Reader, one: Indices, task: TaskSpec) -> str:
    if isinstance(task.input, PairsInput):
        assert isinstance(reader.samples.items, Listed)
        return str(reader.samples.items.values[int(one[0])][1])
    target, series = reader.targets(one)[0], reader.series(one)
    if series is not None:
        target = target * series.std[0] + series.mean[0]
    if task.kind == "classification":
        return task.class_names[int(target)]
    if task.kind == "multilabel":
        return _labels([name for name, yes in zip(task.class_names, target, strict=True) if yes])
    return "; ".join(_numbers(step) for step in np.atleast_2d(target).tolist())


def _prediction(row: dict[str, Any]) -> str:
    if "label" in row:
        return str(row["label"])
    if "labels" in row:
        return _labels(row["labels"])
    if "text" in row:
        return str(row["text"])
    return _numbers(row["values"].values() if "values" in row else [row["value"]])


def _labels(names: list[str]) -> str:
    return "|".join(names)


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
