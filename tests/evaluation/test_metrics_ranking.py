"""ROC AUC and average precision against scikit-learn: ties, batches, undefined, too many outputs."""

import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from dlcli.evaluation.metrics import Counts, make_counts, registered
from dlcli.evaluation.probabilities import softmax
from dlcli.task import NumberColumn, TabularInput, TaskKind, TaskSpec

TABLE = TabularInput(numbers=(NumberColumn(name="a"),))


def task_of(kind: TaskKind, classes: int) -> TaskSpec:
    return TaskSpec(kind=kind, input=TABLE, class_names=tuple(f"c{i}" for i in range(classes)))


def count(task: TaskSpec, outputs: np.ndarray, targets: np.ndarray, batch: int = 1000) -> Counts:
    counts = make_counts(task)
    for start in range(0, len(targets), batch):
        counts.update(outputs[start : start + batch], targets[start : start + batch])
    return counts


def expected(
    task: TaskSpec, outputs: np.ndarray, targets: np.ndarray, metric: Callable[..., float]
) -> float:
    """scikit-learn's metric of the second of two classes, else the mean over those with both values."""
    if task.kind == "multilabel":
        pairs = [(targets[:, k], outputs[:, k]) for k in range(task.num_classes)]
    else:
        probabilities = softmax(outputs)
        classes = [1] if task.num_classes == 2 else range(task.num_classes)
        pairs = [(targets == c, probabilities[:, c]) for c in classes]
    return float(np.mean([metric(*pair) for pair in pairs if 0 < pair[0].sum() < len(targets)]))


def sample(task: TaskSpec, seed: int, n: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(n, task.num_classes)) * 2
    outputs = (outputs.round() if ties else outputs).astype(np.float32)
    if task.kind == "multilabel":
        return outputs, rng.integers(0, 2, outputs.shape).astype(np.uint8)
    return outputs, rng.integers(0, task.num_classes, n)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["classification", "multilabel"]),
    classes=st.integers(2, 6),
    seed=st.integers(0, 10_000),
    n=st.integers(6, 60),
    ties=st.booleans(),
)
def test_they_are_those_of_scikit_learn(
    kind: TaskKind, classes: int, seed: int, n: int, ties: bool
) -> None:
    task = task_of(kind, classes)
    outputs, targets = sample(task, seed, n, ties=ties)
    counts = count(task, outputs, targets)
    got = counts.metrics()
    if "roc_auc" not in got:  # of one class, by chance
        assert len(np.unique(targets)) == 1
        return
    if classes == 2 or kind == "multilabel" or not ties:  # equal softmax values differ by a rounding
        assert got["roc_auc"] == pytest.approx(expected(task, outputs, targets, oracle.roc_auc_score))
        assert got["average_precision"] == pytest.approx(
            expected(task, outputs, targets, oracle.average_precision_score)
        )


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["classification", "multilabel"]),
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 40),
    ties=st.booleans(),
)
def test_batches_ranks_and_order_change_no_bit(
    kind: TaskKind, seed: int, batch: int, ties: bool
) -> None:
    task = task_of(kind, 4)
    outputs, targets = sample(task, seed, 41, ties=ties)
    order = np.random.default_rng(seed + 1).permutation(41)
    outputs[5] = math.nan
    whole = count(task, outputs, targets)
    first, second = (count(task, outputs[part], targets[part], batch) for part in np.split(order, [17]))
    second.merge(pickle.loads(pickle.dumps(first)))
    for name in ("roc_auc", "average_precision", "matthews_corrcoef"):
        assert second.metrics()[name] == whole.metrics()[name]
    assert first.samples == 17


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_a_perfect_model_a_reversed_one_and_a_constant_one(kind: TaskKind) -> None:
    task = task_of(kind, 3)
    true = np.arange(30) % 3
    targets = true if kind == "classification" else np.eye(3, dtype=np.uint8)[true]
    right = np.eye(3, dtype=np.float32)[true]
    values = [count(task, right * k, targets).metrics() for k in (1, -1, 0)]
    assert [v["roc_auc"] for v in values] == [1, 0, 0.5]
    assert values[0]["average_precision"] == 1
    assert values[2]["average_precision"] == pytest.approx(1 / 3)  # the share of positives
    assert values[2]["matthews_corrcoef"] == 0


def test_probabilities_that_round_to_1_are_still_ranked() -> None:
    task = task_of("classification", 2)
    outputs = np.array([[0, 50], [0, 60], [0, 70], [0, 80]], dtype=np.float32)
    assert count(task, outputs, np.array([0, 0, 1, 1])).metrics()["roc_auc"] == 1


@pytest.mark.parametrize(("good", "bad"), [(1.0, 0.0)])
def test_an_output_that_is_not_finite_is_ranked_last_of_its_class(good: float, bad: float) -> None:
    task = task_of("classification", 2)
    outputs = np.array([[9, 0], [9, 0], [0, 9], [0, 9]], dtype=np.float32)
    targets = np.array([0, 0, 1, 1])
    assert count(task, outputs, targets).metrics()["roc_auc"] == good
    outputs[:] = math.nan
    assert count(task, outputs, targets).metrics()["roc_auc"] == bad
    outputs[:] = [[9, 0], [9, 0], [0, 9], [math.nan, 9]]
    assert count(task, outputs, targets).metrics()["roc_auc"] == 0.5


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_samples_of_one_class_leave_them_undefined_with_a_reason(kind: TaskKind) -> None:
    task = task_of(kind, 3)
    targets = np.zeros(5, dtype=np.int64) if kind == "classification" else np.ones((5, 3), np.uint8)
    counts = count(task, np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), targets)
    result = counts.result("test")
    names = {"roc_auc", "average_precision", "matthews_corrcoef"}
    assert set(result.undefined) == names
    assert not names & set(result.metrics)
    reason = "of one class" if kind == "classification" else "no label is present"
    assert all(reason in text for text in result.undefined.values())
    assert math.isnan(counts.value("roc_auc", np.arange(5)))


def test_more_outputs_than_are_held_leave_them_undefined_in_any_division(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registered, "MAX_NUMBERS", 90)
    task = task_of("classification", 3)
    outputs, targets = sample(task, 0, 31, ties=False)
    whole = count(task, outputs, targets, 10)
    parts = [count(task, outputs[p], targets[p]) for p in (slice(0, 15), slice(15, 31))]
    assert all("roc_auc" in part.metrics() for part in parts)
    parts[0].merge(parts[1])
    for counts in (whole, parts[0]):
        assert "31 samples of 3 outputs are more than the 90 numbers" in counts.undefined()["roc_auc"]
        assert "matthews_corrcoef" in counts.metrics()
    assert "roc_auc" in count(task, outputs[:30], targets[:30]).metrics()


def test_a_metric_of_a_resample_is_that_of_these_samples() -> None:
    for kind in ("classification", "multilabel"):
        task = task_of(kind, 3)
        outputs, targets = sample(task, 1, 50, ties=False)
        rows = np.random.default_rng(2).integers(0, 50, 50)
        counts, again = count(task, outputs, targets), count(task, outputs[rows], targets[rows])
        for name, value in again.metrics().items():
            if counts.scores(name) is None:
                assert counts.value(name, rows) == value
