"""What is said of inputs: values in the data's units, in the order asked for, whatever the batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from dlcli.data.base import ArrayReader, Indices, Inputs, Listed, RaggedReader, Samples
from dlcli.evaluation.metrics import make_counts
from dlcli.evaluation.predict import Prediction, predict, unscale
from dlcli.task import (
    END,
    SPECIAL_TOKENS,
    START,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)

TABLE = TabularInput(numbers=(NumberColumn(name="x"), NumberColumn(name="y"), NumberColumn(name="z")))
PRICE, AGE = (
    TargetNumber(name="price", mean=200.0, std=10.0),
    TargetNumber(name="age", mean=-1.0, std=0.5),
)
WORDS = TextInput(vocabulary=(*SPECIAL_TOKENS, "one", "two", "three"), max_length=5)

Answer = Callable[[Inputs], Any]


def samples(n: int) -> Samples:
    ids = tuple(f"row {i}" for i in range(n))
    return Samples(ids=ids, targets=np.zeros(0, dtype=np.int64), items=Listed(ids))


def said(task: TaskSpec, inputs: Any, answer: Answer = lambda inputs: inputs[0], **kwargs: Any) -> Any:
    """Predictions of a model that answers with its input; the rows of all of them."""
    reader = ArrayReader(samples(len(inputs)), (np.asarray(inputs, dtype=np.float32),))
    found = list(predict(answer, reader, task, **kwargs))
    assert [p.input for p in found] == list(reader.samples.ids)
    assert all(p.error is None for p in found)
    return [row for p in found for row in p.rows]


def test_classes_are_ranked_and_equal_ones_keep_the_models_order() -> None:
    task = TaskSpec(input=TABLE, class_names=("a", "b", "c"))
    first, second = said(task, [[0.0, 2.0, 1.0], [5.0, 5.0, 5.0]], top_k=2)
    assert [item["label"] for item in first["top_k"]] == ["b", "c"]
    assert (first["label"], first["probability"]) == ("b", first["top_k"][0]["probability"])
    assert first["probability"] == pytest.approx(np.exp(2) / (1 + np.exp(1) + np.exp(2)))
    assert [item["label"] for item in second["top_k"]] == ["a", "b"]


def test_an_embedding_is_a_list_of_its_numbers() -> None:
    task = TaskSpec(kind="embedding", input=TABLE, class_names=("a", "b"), embedding_size=3)
    (row,) = said(task, [[0.6, -0.8, 1 / 3]])
    assert row == {"input": "row 0", "embedding": [0.6, -0.8, 0.3333333]}


def test_labels_are_those_above_a_half_without_overflow() -> None:
    task = TaskSpec(kind="multilabel", input=TABLE, class_names=("a", "b", "c"))
    rows = said(task, [[1e4, -1e4, 0.0], [-1.0, 1.0, 0.001]])
    assert rows[0] == {
        "input": "row 0", "labels": ["a"], "probabilities": {"a": 1.0, "b": 0.0, "c": 0.5},
    }  # fmt: skip
    assert rows[1]["labels"] == ["b", "c"]
    assert rows[1]["probabilities"]["b"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_labels_agree_with_what_is_counted() -> None:
    task = TaskSpec(kind="multilabel", input=TABLE, class_names=("a", "b", "c"))
    logits = np.random.default_rng(0).normal(0, 1e-3, (50, 3)).astype(np.float32)
    named = np.array([[n in row["labels"] for n in task.class_names] for row in said(task, logits)])
    counts = make_counts(task)
    counts.update(logits, named.astype(np.uint8))
    assert counts.metrics()["accuracy"] == 1.0


def test_numbers_are_in_the_datas_units() -> None:
    one = TaskSpec(kind="regression", input=TABLE, targets=(PRICE,))
    assert said(one, [[0.0], [-2.5]]) == [
        {"input": "row 0", "value": 200.0},
        {"input": "row 1", "value": 175.0},
    ]
    two = TaskSpec(kind="regression", input=TABLE, targets=(PRICE, AGE))
    assert said(two, [[1.0, 4.0]]) == [{"input": "row 0", "values": {"price": 210.0, "age": 1.0}}]


def test_unscaling_is_what_the_metrics_do() -> None:
    task = TaskSpec(kind="regression", input=TABLE, targets=(PRICE, AGE))
    outputs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    counts = make_counts(task)
    counts.update(outputs, unscale(outputs, task))
    assert counts.metrics()["mae"] == 0.0


def test_a_forecast_has_a_row_a_step() -> None:
    spec = SeriesInput(channels=("p",), mean=(0.0,), std=(1.0,), length=4)
    task = TaskSpec(kind="forecast", input=spec, targets=(PRICE,), horizon=2)
    assert said(task, [[[0.0], [1.0]], [[2.0], [3.0]]]) == [
        {"input": "row 0", "step": 1, "value": 200.0},
        {"input": "row 0", "step": 2, "value": 210.0},
        {"input": "row 1", "step": 1, "value": 220.0},
        {"input": "row 1", "step": 2, "value": 230.0},
    ]
    both = TaskSpec(kind="forecast", input=spec, targets=(PRICE, AGE), horizon=1)
    (row,) = said(both, [[[0.0, 4.0]]])
    assert row == {"input": "row 0", "step": 1, "values": {"price": 200.0, "age": 1.0}}


def copying(inputs: Inputs) -> Any:
    """Logits (B, T, V) of a model that repeats its source, then stops."""
    source, lengths, prefix = inputs
    logits = np.zeros((*prefix.shape, 7), dtype=np.float32)
    for row in range(len(prefix)):
        for t in range(prefix.shape[1]):
            logits[row, t, source[row, t] if t < lengths[row] else END] = 9.0
    assert (prefix[:, 0] == START).all()
    return logits


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_translations_are_texts_in_order(beams: int, batch_size: int) -> None:
    task = TaskSpec(kind="seq2seq", input=PairsInput(source=WORDS, target=WORDS))
    sequences = [np.array(ids, dtype=np.int64) for ids in ([4, 5, 6], [6], [5, 4])]
    reader = RaggedReader(samples(3), sequences)
    found = list(predict(copying, reader, task, beams=beams, batch_size=batch_size))
    assert [p.rows[0] for p in found] == [
        {"input": "row 0", "text": "one two three"},
        {"input": "row 1", "text": "three"},
        {"input": "row 2", "text": "two one"},
    ]


class Torn(ArrayReader):
    """A reader that cannot read some samples, one of them for no reason, and knows if it is closed."""

    def __init__(self, n: int, broken: Sequence[int]) -> None:
        super().__init__(samples(n), (np.arange(n, dtype=np.float32)[:, None],))
        self.broken, self.closed = set(broken), False

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        kept = np.array([i for i in indices.tolist() if i not in self.broken], dtype=np.int64)
        self.bad |= {f"row {i}": "torn" for i in indices.tolist() if i in self.broken and i != 4}
        return super().read(kept)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100, None])
def test_bad_samples_are_named_in_their_place(batch_size: int | None) -> None:
    task = TaskSpec(kind="regression", input=TABLE, targets=(PRICE,))
    reader = Torn(7, broken=[0, 3, 4])
    calls: list[int] = []

    def answer(inputs: Inputs) -> Any:
        calls.append(len(inputs[0]))
        return inputs[0]

    found = list(predict(answer, reader, task, batch_size=batch_size))
    assert [p.input for p in found] == [f"row {i}" for i in range(7)]
    assert found[0] == Prediction("row 0", error="torn")
    assert [p.error for p in found] == ["torn", None, None, "torn", "it cannot be read", None, None]
    assert [p.rows[0]["value"] for p in found if not p.error] == [200.0 + 10 * i for i in (1, 2, 5, 6)]
    assert 0 not in calls  # a batch of nothing is not asked about
    assert reader.closed


def test_leaving_early_closes_the_reader() -> None:
    task = TaskSpec(kind="regression", input=TABLE, targets=(PRICE,))
    reader = Torn(7, broken=[])
    found = predict(lambda inputs: inputs[0], reader, task, batch_size=1)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert reader.closed


def test_ragged_inputs_keep_their_order() -> None:
    task = TaskSpec(kind="regression", input=TABLE, targets=(TargetNumber(name="n", std=10.0),))
    lengths = [5, 1, 3, 2, 4]
    reader = RaggedReader(samples(5), [np.ones((n, 1), dtype=np.float32) for n in lengths])
    found = predict(lambda inputs: inputs[0].sum(axis=1) / 10, reader, task, batch_size=2)
    assert [p.rows[0]["value"] for p in found] == pytest.approx(lengths)
