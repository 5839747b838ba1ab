"""The samples with the largest loss, with their targets and predictions. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlcli.data.base import Indices, Inputs, Items, Reader, Targets
from dlcli.data.kinds import kind_of
from dlcli.data.prepare import trim
from dlcli.data.series.windows import Windows
from dlcli.errors import UsageError
from dlcli.evaluation.evaluate import default_batch_size
from dlcli.evaluation.examples import window_lines
from dlcli.evaluation.explanations import Explainer, Explanation
from dlcli.evaluation.metrics import Counts, cross_entropy, default_monitor
from dlcli.evaluation.metrics.base import Floats, ForecastLine, Outputs, WorstRow
from dlcli.evaluation.metrics.multilabel import binary_cross_entropy
from dlcli.evaluation.predict import Predict, row_function
from dlcli.evaluation.true_values import true_values
from dlcli.task import TaskSpec

SHOWN = 12  # of the worst samples that a run's report shows


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

    @property
    def indices(self) -> Indices:
        """The samples that were counted, in that order, (N,)."""
        return np.concatenate(self._indices)

    def sorted(self, counts: Counts) -> tuple[Indices, Floats]:
        """The indices and losses of all samples, worst first; NaN is worst of all.

        Of numbers the loss is the squared error, of translations the mean loss of a text's tokens over
        that of all texts: `Counts.scores` of the task's own metric.
        """
        if self._losses:
            losses = np.concatenate(self._losses)
        else:
            scores = counts.scores(default_monitor(self.task))
            assert scores is not None
            losses = scores
        order = np.argsort(-np.where(np.isnan(losses), np.inf, losses), kind="stable")
        return np.concatenate(self._indices)[order], losses[order]


def worst_rows(
    predict: Predict,
    task: TaskSpec,
    reader: Reader,
    losses: SampleLosses,
    counts: Counts,
    *,
    number: int = 0,
    shown: int = 0,
    beams: int = 1,
    explainer: Explainer | None = None,
) -> tuple[WorstRow, ...]:
    """The ``number`` worst samples, predicted again, and those that complete ``shown`` to look at.

    With an ``explainer``, what these predictions depend on is part of what is looked at.

    Windows to look at do not overlap: next to a bad window are others of the same steps.
    """
    picked = _picked(reader.samples.items, *losses.sorted(counts), number, shown, task)
    rows_of = row_function(predict, task, 1, beams)
    size, rows = default_batch_size(task), list[WorstRow]()
    for start in range(0, len(picked), size):
        part = {index: (loss, look) for index, loss, look in picked[start : start + size]}
        # Without those whose file has gone since they were counted.
        inputs, readable = reader.read(np.array(list(part), np.int64))
        predicted = rows_of(inputs, reader.series(readable)) if len(readable) else []
        for place, (index, steps) in enumerate(zip(readable.tolist(), predicted, strict=True)):
            loss, look = part[index]
            own = tuple(array[place : place + 1] for array in inputs)
            row = WorstRow(
                input=reader.samples.ids[index],
                loss=loss,
                target="; ".join(map(_cells, true_values(reader, index, task))),
                prediction="; ".join(_prediction(step) for step in steps),
                probability=steps[0].get("probability"),
            )
            row = _to_look_at(row, reader, index, own, steps, task) if look else row
            if look and explainer is not None:
                row = replace(
                    row, preview=_explained(explainer, reader, index, own).added_to(row.preview)
                )
            rows.append(row)
    return tuple(rows)


def _picked(
    items: Items, indices: Indices, losses: Floats, number: int, shown: int, task: TaskSpec
) -> list[tuple[int, float, bool]]:
    """Index, loss and whether it is to be looked at, of the samples of `worst_rows`, worst first."""
    picked, looks = list[tuple[int, float, bool]](), list[int]()
    for index, loss in zip(indices.tolist(), losses.tolist(), strict=True):
        look = len(looks) < shown and _is_apart(items, index, looks, task)
        if len(picked) >= number and not look:
            if len(looks) >= shown:
                break
            continue
        looks += [index] if look else []
        picked.append((index, loss, look))
    return picked


def _is_apart(items: Items, index: int, others: Sequence[int], task: TaskSpec) -> bool:
    """Whether a sample predicts no step that one of the others predicts."""
    if not isinstance(items, Windows):
        return True
    same = items.which[others] == items.which[index]
    return not bool((same & (np.abs(items.starts[others] - items.starts[index]) < task.horizon)).any())


def _to_look_at(
    row: WorstRow,
    reader: Reader,
    index: int,
    inputs: Inputs,
    steps: Sequence[dict[str, Any]],
    task: TaskSpec,
) -> WorstRow:
    """The row with what people see of its sample: of a window its forecast."""
    if isinstance(reader.samples.items, Windows):
        return replace(row, forecast=_forecast(reader.samples.items, index, steps, task))
    one = reader.samples.take(np.array([index], np.int64))
    return replace(row, preview=kind_of(task).preview(one, trim(inputs, task), task.input))


def _explained(explainer: Explainer, reader: Reader, index: int, inputs: Inputs) -> Explanation:
    """The explanation of a sample whose inputs (1, ...) were read."""
    where = np.array([index], np.int64)
    items, name = reader.samples.items.take(where), reader.samples.ids[index]
    return explainer.explain_inputs(
        name, items, trim(inputs, explainer.task), series=reader.series(where)
    )


def _forecast(
    windows: Windows, index: int, steps: Sequence[dict[str, Any]], task: TaskSpec
) -> ForecastLine:
    """The target of a window that is furthest from its prediction, in units of its std."""
    lines = window_lines(windows, index, steps, task)
    errors = [
        float(np.abs(np.subtract(line.true[-len(line.predicted) :], line.predicted)).mean()) / target.std
        for line, target in zip(lines, task.targets, strict=True)
    ]
    return lines[int(np.argmax(errors))]


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
