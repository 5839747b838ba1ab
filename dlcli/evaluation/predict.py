"""Streaming prediction, in input order, in bounded memory. No torch here.

B is the number of samples in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from dlcli.data.base import Floats, Indices, Inputs, Reader, SeriesRows
from dlcli.data.kinds import kind_of
from dlcli.data.prefetch import prefetch
from dlcli.evaluation.decisions import decision_scores
from dlcli.evaluation.evaluate import default_batch_size
from dlcli.evaluation.probabilities import sigmoid, softmax
from dlcli.formats.base import Outputs
from dlcli.task import TaskSpec

Predict = Callable[[Inputs], Outputs]
Widths = Callable[[Inputs], Floats]
Rows = tuple[dict[str, Any], ...]
_NOTHING: dict[str, Any] = {}


@dataclass(frozen=True)
class Prediction:
    """The prediction of one input as JSON-ready rows, or the reason why there is none.

    Every row has ``input``, then what is carried over from its row of a table. Classification:
    ``label``, ``probability``, and ``top_k`` or ``probabilities`` by name. Multilabel:
    ``labels`` (above 0.5, or their threshold), ``probabilities`` by name. Regression: ``value``, or
    ``values`` by name where there are several targets. Forecast: a row per step, ``step`` from 1, its
    ``time``, the ``series`` where the table has several, and ``value`` or
    ``values``. Seq2seq: ``text``. Embedding: ``embedding``, a list of its numbers. Values
    are in the data's own units. Intervals add their ends ``low`` and ``high``, by name as the values.
    """

    input: str
    rows: Rows = ()
    error: str | None = None


def predict(
    model: Predict,
    reader: Reader,
    task: TaskSpec,
    *,
    top_k: int | None = 1,
    batch_size: int | None = None,
    beams: int = 1,
    carried: Callable[[int], Mapping[str, Any]] = lambda index: _NOTHING,
    half_widths: Widths | None = None,
) -> Iterator[Prediction]:
    """Predictions in the order of the reader's samples; a few batches are in memory at a time.

    ``model`` is an artifact's `predict`. ``top_k`` is for classification, where None is the
    probabilities of all classes in their order; ``beams`` for seq2seq, where 1 is greedy. ``carried``
    gives the cells of the input that a sample's rows begin with. ``half_widths`` gives half the widths
    of the intervals around the numbers of a batch, ([n,] [H,] R).
    """
    if beams > 1:
        from dlcli.evaluation.translation import check_beams

        check_beams(task, beams)
    predict_rows = row_function(model, task, top_k, beams, half_widths)
    names = reader.samples.ids
    try:
        for indices, inputs, readable in prefetch(
            _in_order(reader, batch_size or default_batch_size(task))
        ):
            predicted = predict_rows(inputs, reader.series(readable)) if len(readable) else []
            rows = dict(zip(readable.tolist(), predicted, strict=True))
            for index in indices.tolist():
                name = names[index]
                if index in rows:
                    keys = reader.row_keys(index)
                    named = zip_longest(rows[index], keys, fillvalue=_NOTHING)
                    first = {"input": name, **carried(index)}
                    yield Prediction(name, tuple({**first, **key, **row} for row, key in named))
                else:
                    yield Prediction(name, error=_reason(name, reader, task))
    finally:
        reader.close()


def _in_order(reader: Reader, batch_size: int) -> Iterator[tuple[Indices, Inputs, Indices]]:
    """Batches in input order: sorting by length would delay the first predictions."""
    for start in range(0, len(reader), batch_size):
        indices = np.arange(start, min(start + batch_size, len(reader)), dtype=np.int64)
        yield indices, *reader.read(indices)


def _reason(name: str, reader: Reader, task: TaskSpec) -> str:
    """Why there is no prediction."""
    return kind_of(task).why_missing(name) or reader.bad.get(name) or "it cannot be read"


def row_function(
    model: Predict, task: TaskSpec, top_k: int | None, beams: int, half_widths: Widths | None = None
) -> Callable[[Inputs, SeriesRows | None], list[Rows]]:
    """The function from the inputs of a batch, and its series, to the rows of each sample.

    The rows have no ``input`` yet.
    """
    if task.kind == "seq2seq":
        from dlcli.evaluation.translation import translate

        return lambda inputs, series: [
            ({"text": text},) for text in translate(model, inputs, task, beams=beams)
        ]

    def around(inputs: Inputs) -> Floats | None:
        return None if half_widths is None else half_widths(inputs)

    if task.kind == "forecast":
        return lambda inputs, series: _steps(model(inputs), series, around(inputs), task)
    if task.kind == "regression":
        return lambda inputs, series: _numbers(model(inputs), around(inputs), task)
    row_functions: dict[str, Callable[[Outputs], list[Rows]]] = {
        "classification": partial(_ranked, task=task, top_k=top_k),
        "multilabel": partial(_labels, task=task),
        "embedding": _vectors,
    }
    rows_of = row_functions[task.kind]
    return lambda inputs, series: rows_of(model(inputs))


def _ranked(logits: Outputs, *, task: TaskSpec, top_k: int | None) -> list[Rows]:
    """The top classes of each row of (B, K), the predicted one first; of equal ones as in the task."""
    names = task.class_names
    order = np.argsort(-decision_scores(logits, task), axis=1, kind="stable")[:, : top_k or 1]
    rows: list[Rows] = []
    for probabilities, best in zip(softmax(logits), order.tolist(), strict=True):
        top = [{"label": names[c], "probability": float(probabilities[c])} for c in best]
        by_name = dict(zip(names, probabilities.tolist(), strict=True))
        rows.append(({**top[0], **({"probabilities": by_name} if top_k is None else {"top_k": top})},))
    return rows


def _labels(logits: Outputs, *, task: TaskSpec) -> list[Rows]:
    """The predicted labels and the probability of each label, from (B, K)."""
    names, predicted = task.class_names, decision_scores(logits, task) > 0
    rows: list[Rows] = []
    for row, above in zip(sigmoid(logits).tolist(), predicted.tolist(), strict=True):
        labels = [name for name, yes in zip(names, above, strict=True) if yes]
        rows.append(({"labels": labels, "probabilities": dict(zip(names, row, strict=True))},))
    return rows


def _numbers(outputs: Outputs, half_widths: Floats | None, task: TaskSpec) -> list[Rows]:
    """Values of (B, R) in the data's units."""
    return [(row,) for row in _value_rows(unscale(outputs, task), half_widths, task)]


def _steps(
    outputs: Outputs, series: SeriesRows | None, half_widths: Floats | None, task: TaskSpec
) -> list[Rows]:
    """A row per step, from (B, horizon, R)."""
    values, widths = unscale(outputs, task), half_widths
    if series is not None:
        values = values * series.std[:, None] + series.mean[:, None]
        widths = None if widths is None else widths * series.std[:, None]
    own = [None] * len(values) if widths is None else np.broadcast_to(widths, values.shape)
    return [
        tuple({"step": step, **row} for step, row in enumerate(_value_rows(*window, task), 1))
        for window in zip(values, own, strict=True)
    ]


def _vectors(outputs: Outputs) -> list[Rows]:
    """The vectors of (B, D), rounded to the digits that float32 holds in a vector of length 1."""
    return [({"embedding": row},) for row in outputs.astype(np.float64).round(7).tolist()]


def _value_rows(values: Floats, half_widths: Floats | None, task: TaskSpec) -> list[dict[str, Any]]:
    """A row for each of the values (n, R) in the data's units, with the ends of intervals ([n,] R)."""
    parts = [values] if half_widths is None else [values, values - half_widths, values + half_widths]
    rows = np.stack(parts, axis=1).tolist()
    if len(task.targets) == 1:
        return [
            {key: number for key, (number,) in zip(("value", "low", "high"), row, strict=False)}
            for row in rows
        ]
    names = [target.name for target in task.targets]
    return [
        {
            key: dict(zip(names, numbers, strict=True))
            for key, numbers in zip(("values", "low", "high"), row, strict=False)
        }
        for row in rows
    ]


def unscale(outputs: Outputs, task: TaskSpec) -> Floats:
    """Scaled numbers (..., R) in the units of the task's targets, in float64."""
    mean = np.array([target.mean for target in task.targets])
    std = np.array([target.std for target in task.targets])
    return outputs.astype(np.float64) * std + mean  # type: ignore[no-any-return]
