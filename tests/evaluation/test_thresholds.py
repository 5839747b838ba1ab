"""Thresholds: the best on the samples, wherever labels are predicted; no probability changes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef

from dlcli.errors import DlcliError
from dlcli.evaluation.agreement import agreement_of
from dlcli.evaluation.decisions import aligned_thresholds, decision_scores, divided
from dlcli.evaluation.metrics import make_counts
from dlcli.evaluation.predict import row_function
from dlcli.evaluation.thresholds import METRICS, fit_thresholds
from dlcli.serve.tensors import output_array
from dlcli.task import NumberColumn, TabularInput, TaskSpec, Thresholds

TABLE = TabularInput(numbers=(NumberColumn(name="x"),))
BINARY = TaskSpec(input=TABLE, class_names=("no", "yes"))
LABELS = TaskSpec(kind="multilabel", input=TABLE, class_names=("a", "b", "c"))
SCORES = {
    "f1": f1_score,
    "balanced_accuracy": balanced_accuracy_score,
    "matthews_corrcoef": matthews_corrcoef,
}


def rare(n: int, seed: int = 0, shift: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated log-odds of a label that few samples have, and which have it."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n) * 1.5 - shift
    return scores, rng.random(n) < 1 / (1 + np.exp(-scores))


def two(scores: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(scores), scores], axis=1)


def with_values(task: TaskSpec, *values: float) -> TaskSpec:
    return task.with_thresholds(Thresholds(values=values, metric="f1", samples=1))


@pytest.mark.parametrize("metric", METRICS)
def test_no_other_threshold_is_better_by_scikit_learn(metric: str) -> None:
    scores, true = rare(400)
    (label,) = fit_thresholds(two(scores), true.astype(np.int64), BINARY, metric).labels
    best = max(SCORES[metric](true, scores > cut) for cut in np.r_[scores, 0])
    assert label.fitted == pytest.approx(best)
    assert label.before == pytest.approx(SCORES[metric](true, scores > 0))
    predicted = decision_scores(two(scores), with_values(BINARY, label.threshold)).argmax(axis=1)
    assert SCORES[metric](true, predicted) == pytest.approx(best)


def test_what_helps_is_judged_on_other_samples_and_the_rest_stays() -> None:
    scores, true = rare(2000)
    random = np.random.default_rng(1).normal(size=2000)
    few = np.zeros(2000, bool)
    few[:5] = True
    logits = np.stack([scores, np.where(np.arange(2000) % 2, 3, -3) + random * 0.1, random], axis=1)
    targets = np.stack([true, np.arange(2000) % 2 == 1, few], axis=1)
    fit = fit_thresholds(logits, targets, LABELS, "f1")
    assert [one.helps for one in fit.labels] == [True, False, False]
    first, _, third = fit.labels
    assert first.before < first.held_out <= first.fitted
    assert fit.thresholds.values == (first.threshold, 0.5, 0.5)
    assert third.threshold is None
    assert fit.held_out > fit.before
    # A fit to noise finds something better on its samples, and rarely on others.
    noise = [
        fit_thresholds(two(rare(100, s, 0)[0]), rare(100, s + 99, 0)[1], BINARY, "balanced_accuracy")
        for s in range(20)
    ]
    assert sum(one.helps for one in noise) < sum(one.labels[0].fitted > one.before for one in noise)
    with pytest.raises(DlcliError, match="needs 10 val samples"):
        fit_thresholds(two(scores), few, BINARY, "f1")


def test_labels_change_everywhere_and_probabilities_nowhere() -> None:
    scores, true = rare(300)
    logits = two(scores).astype(np.float32)
    task = with_values(BINARY, 0.2)
    expected = 1 / (1 + np.exp(-scores)) > 0.2
    names = np.where(expected, "yes", "no").tolist()
    rows = [row for (row,) in row_function(lambda _: logits, task, 2, 1)((), None)]
    assert [row["label"] for row in rows] == [row["top_k"][0]["label"] for row in rows] == names
    assert output_array("label", logits, task).tolist() == names
    results = []
    for own in (BINARY, task):
        counts = make_counts(own)
        counts.update(logits, true.astype(np.int64))
        results.append(counts.metrics())
    assert results[1]["accuracy"] == pytest.approx((expected == true).mean())
    same = ("loss", "log_loss", "ece", "roc_auc", "average_precision")
    assert all(results[0][name] == results[1][name] for name in same)
    assert np.array_equal(
        output_array("probabilities", logits, task), output_array("probabilities", logits, BINARY)
    )
    # Two models on both sides of the threshold disagree, on both sides of 0.5 they agree.
    low, high = two(np.array([-2.0])), two(np.array([0.5]))
    assert agreement_of(low, high, task) == 0
    assert agreement_of(two(np.array([-1.0])), high, task) == 1

    several = with_values(LABELS, 0.5, 0.1, 0.9)
    (row,) = row_function(lambda _: np.array([[1.0, -1.0, 1.0]]), several, None, 1)((), None)[0]
    assert row["labels"] == ["a", "b"]
    counts = make_counts(several)
    counts.update(np.array([[1.0, -1.0, 1.0]], np.float32), np.array([[1, 1, 0]], np.float32))
    assert counts.metrics()["accuracy"] == 1


def test_a_temperature_and_another_order_of_classes_change_no_label() -> None:
    scores, _ = rare(500)
    task = with_values(BINARY, 0.23)
    expected = decision_scores(two(scores), task).argmax(axis=1)
    for ratio in (0.4, 3.0):
        other = task.with_thresholds(divided(task.thresholds, ratio))
        assert np.array_equal(decision_scores(two(scores / ratio), other).argmax(axis=1), expected)
    swapped = BINARY.model_copy(update={"class_names": ("yes", "no")})
    swapped = swapped.with_thresholds(aligned_thresholds(task, swapped))
    assert np.array_equal(decision_scores(two(scores)[:, ::-1], swapped).argmax(axis=1), 1 - expected)
    order = LABELS.model_copy(update={"class_names": ("c", "a", "b")})
    moved = aligned_thresholds(with_values(LABELS, 0.1, 0.2, 0.3), order)
    assert moved is not None
    assert moved.values == (0.3, 0.1, 0.2)


@pytest.mark.parametrize("values", [(0.0,), (1.0,), (float("nan"),), (0.5, 0.5), ()])
def test_a_card_with_thresholds_that_are_none_is_refused(values: tuple[float, ...]) -> None:
    thresholds = {"values": values, "metric": "f1", "samples": 1}
    with pytest.raises(ValueError, match=r"threshold|values"):
        TaskSpec.model_validate({**BINARY.model_dump(), "thresholds": thresholds})
