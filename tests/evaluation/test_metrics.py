"""Classification counts against scikit-learn and torchmetrics, and exactness under any batching."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from dlcli.evaluation.metrics import (
    ClassificationCounts,
    cross_entropy,
    directions,
    make_counts,
)
from dlcli.evaluation.probabilities import softmax
from dlcli.task import SPECIAL_TOKENS, TaskSpec, TextInput


def sample(seed: int, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    return logits, rng.integers(0, classes, n)


def counted(logits: np.ndarray, targets: np.ndarray, batch: int) -> ClassificationCounts:
    counts = ClassificationCounts(logits.shape[1])
    for start in range(0, len(targets), batch):
        counts.update(logits[start : start + batch], targets[start : start + batch])
    return counts


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 12), st.integers(1, 60))
def test_any_batching_gives_the_same_figures_as_scikit_learn(
    seed: int, n: int, classes: int, batch: int
) -> None:
    logits, targets = sample(seed, n, classes)
    got = counted(logits, targets, batch).metrics()
    predicted = logits.argmax(1)
    p, r, f, _ = oracle.precision_recall_fscore_support(
        targets, predicted, average="macro", zero_division=0
    )
    present = np.unique(targets)
    recalls = [(predicted[targets == c] == c).mean() for c in present]
    assert got["accuracy"] == pytest.approx(oracle.accuracy_score(targets, predicted))
    assert got["precision_macro"] == pytest.approx(p)
    assert got["recall_macro"] == pytest.approx(r)
    assert got["f1_macro"] == pytest.approx(f)
    assert got["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert got["log_loss"] == got["loss"]
    if len(present) > 1:
        assert got["matthews_corrcoef"] == pytest.approx(oracle.matthews_corrcoef(targets, predicted))
    else:
        assert "matthews_corrcoef" not in got
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(targets)
    )
    assert got["loss"] == pytest.approx(float(expected))
    assert set(got) <= set(directions())


def test_top5_and_macro_figures_agree_with_torchmetrics() -> None:
    from torchmetrics.functional import classification as tm

    logits, targets = sample(0, 500, 9)
    got = counted(logits, targets, 64).metrics()
    x, y = torch.from_numpy(logits), torch.from_numpy(targets)
    assert got["top5_accuracy"] == pytest.approx(
        float(tm.multiclass_accuracy(x, y, 9, top_k=5, average="micro"))
    )
    assert got["f1_macro"] == pytest.approx(float(tm.multiclass_f1_score(x, y, 9)))
    assert got["precision_macro"] == pytest.approx(float(tm.multiclass_precision(x, y, 9)))


def test_result_rows_are_the_confusion_matrix_read_by_class() -> None:
    logits, targets = sample(3, 200, 4)
    result = counted(logits, targets, 50).result("test", list("abcd"))
    table = oracle.confusion_matrix(targets, logits.argmax(1))
    assert np.array_equal(result.confusion, table)
    for i, row in enumerate(result.per_class):
        assert row.samples == table[i].sum()
        assert row.predicted == table[:, i].sum()
        assert row.recall == pytest.approx(table[i, i] / table[i].sum())


def test_counts_of_a_task_know_its_classes() -> None:
    logits, targets = sample(4, 50, 3)
    task = TaskSpec(
        input=TextInput(vocabulary=SPECIAL_TOKENS, max_length=4), class_names=("x", "y", "z")
    )
    counts = make_counts(task)
    counts.update(logits, targets)
    result = counts.result("val", {"a.jpg": "damaged"})
    alone = counted(logits, targets, 50).result("val", ["x", "y", "z"], {"a.jpg": "damaged"})
    assert result.metrics.items() >= alone.metrics.items()
    assert replace(result, metrics=alone.metrics) == alone
    assert result.task == "classification"
    assert counts.scores("accuracy").tolist() == (logits.argmax(1) == targets).tolist()


def test_top5_is_left_out_where_it_says_nothing() -> None:
    logits, targets = sample(0, 20, 5)
    assert "top5_accuracy" not in counted(logits, targets, 20).metrics()


def test_constant_logits_hit_only_the_five_classes_that_would_be_listed() -> None:
    logits, targets = np.zeros((40, 10), dtype=np.float32), np.arange(40) % 10
    got = counted(logits, targets, 7).metrics()
    assert got["top5_accuracy"] == 0.5
    assert got["accuracy"] == 0.1


def test_a_tie_at_the_fifth_place_goes_to_the_class_that_predict_lists() -> None:
    logits = np.array([[5, 4, 3, 2, 1, 1, 0]], dtype=np.float32)
    hits = [counted(logits, np.array([c]), 1).metrics()["top5_accuracy"] for c in range(7)]
    assert hits == [1, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_output_without_a_largest_logit_is_wrong_and_seen(bad: float) -> None:
    logits, targets = sample(5, 30, 8)
    targets[:3] = logits[:3].argmax(1)
    logits[0] = math.nan
    logits[1, targets[1]] = bad
    counts = counted(logits, targets, 30)
    got, result = counts.metrics(), counts.result("test", list("abcdefgh"))
    hits = (logits[2:].argmax(1) == targets[2:]).sum()
    assert math.isnan(got["loss"])
    assert got["accuracy"] == pytest.approx(hits / 30)
    assert counts.scores("accuracy")[:3].tolist() == [0, 0, 1]
    assert got["top5_accuracy"] <= 28 / 30
    assert result.non_finite == 2
    assert result.samples == 30
    assert sum(row.samples for row in result.per_class) == 30
    assert sum(row.predicted for row in result.per_class) == 28
    predicted = np.where([True, True] + [False] * 28, 8, logits.argmax(1))  # as a class of its own
    assert got["matthews_corrcoef"] == pytest.approx(oracle.matthews_corrcoef(targets, predicted))


def test_minus_infinity_excludes_a_class_and_costs_everything_where_it_was_right() -> None:
    logits = np.array([[0, -math.inf], [0, -math.inf]], dtype=np.float32)
    counts = counted(logits, np.array([0, 1]), 2)
    assert cross_entropy(logits, np.array([0, 1])).tolist() == [0, math.inf]
    assert counts.metrics()["loss"] == math.inf
    assert counts.metrics()["accuracy"] == 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_order_and_batching_change_no_bit(seed: int, batch: int) -> None:
    logits, targets = sample(seed, 41, 7)
    logits *= np.float32(10.0) ** np.random.default_rng(seed).integers(-4, 4, (41, 1)).astype(np.float32)
    order = np.random.default_rng(seed + 1).permutation(41)
    one = counted(logits, targets, 41).metrics()
    assert counted(logits[order], targets[order], batch).metrics() == one


def test_no_samples_have_no_figures() -> None:
    counts = ClassificationCounts(3)
    assert all(math.isnan(value) for value in counts.metrics().values())
    assert "matthews_corrcoef" in counts.undefined()


def test_losses_of_extreme_logits_are_finite() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype=np.float32)
    loss = cross_entropy(logits, np.array([0, 0]))
    assert loss == pytest.approx([0.0, 2e4])
    assert softmax(logits).sum(1) == pytest.approx([1.0, 1.0])
