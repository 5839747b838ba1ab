"""Counts against scikit-learn and torchmetrics, and exactness under any batching."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from dlcli.engine.metrics import DIRECTIONS, ClassificationCounts, cross_entropy, softmax


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
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(targets)
    )
    assert got["loss"] == pytest.approx(float(expected))
    assert set(got) <= set(DIRECTIONS)


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


def test_top5_is_left_out_where_it_says_nothing() -> None:
    logits, targets = sample(0, 20, 5)
    assert "top5_accuracy" not in counted(logits, targets, 20).metrics()


def test_losses_of_extreme_logits_are_finite() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype=np.float32)
    loss = cross_entropy(logits, np.array([0, 0]))
    assert loss == pytest.approx([0.0, 2e4])
    assert softmax(logits).sum(1) == pytest.approx([1.0, 1.0])
