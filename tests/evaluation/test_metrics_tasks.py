"""Counts of multi-label, regression, forecast and token tasks against independent figures."""

import itertools
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from dlcli.evaluation.metrics import Counts, default_monitor, directions, make_counts, metric_names
from dlcli.evaluation.metrics.base import MAX_POINTS, ROOTED
from dlcli.task import (
    PAD,
    SPECIAL_TOKENS,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)

TABLE = TabularInput(numbers=(NumberColumn(name="x"),))
TEXT = TextInput(vocabulary=(*SPECIAL_TOKENS, "a", "b", "c"), max_length=6)
PRICE = TargetNumber(name="price", mean=1000.0, std=50.0)
AGE = TargetNumber(name="age", mean=30.0, std=7.0)
SERIES = SeriesInput(channels=("t", "load", "oil"), mean=(0.0, 5.0, 20.0), std=(1.0, 2.0, 4.0), length=6)

CLASSES = TaskSpec(input=TABLE, class_names=tuple("abcdefg"))
LABELS = TaskSpec(kind="multilabel", input=TABLE, class_names=("p", "q", "r"))
NUMBERS = TaskSpec(kind="regression", input=TABLE, targets=(PRICE, AGE))
FORECAST = TaskSpec(
    kind="forecast",
    input=SERIES,
    horizon=4,
    targets=(TargetNumber(name="oil", mean=20.0, std=4.0), TargetNumber(name="load", mean=5.0, std=2.0)),
)
WRITING = TaskSpec(kind="seq2seq", input=PairsInput(source=TEXT, target=TEXT))

Sample = tuple[np.ndarray, ...]  # outputs, targets, and for a forecast the inputs


def labels(rng: np.random.Generator, n: int) -> Sample:
    return rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 2, (n, 3)).astype(np.uint8)


def numbers(rng: np.random.Generator, n: int) -> Sample:
    true = rng.normal(size=(n, 2))
    outputs = (true + 0.5 * rng.normal(size=(n, 2))).astype(np.float32)
    return outputs, true * [50, 7] + [1000, 30]


def windows(rng: np.random.Generator, n: int) -> Sample:
    true = rng.normal(size=(n, 4, 2))
    outputs = (true + 0.5 * rng.normal(size=true.shape)).astype(np.float32)
    return outputs, true * [4, 2] + [20, 5], rng.normal(size=(n, 6, 3)).astype(np.float32)


def texts(rng: np.random.Generator, n: int) -> Sample:
    targets = rng.integers(1, 7, (n, 5))
    targets[np.arange(5)[None] >= rng.integers(1, 6, n)[:, None]] = PAD
    return rng.normal(size=(n, 5, 7)).astype(np.float32), targets


def classes(rng: np.random.Generator, n: int) -> Sample:
    return rng.normal(size=(n, 7)).astype(np.float32), rng.integers(0, 7, n)


MAKERS: list[tuple[TaskSpec, Callable[[np.random.Generator, int], Sample]]] = [
    (CLASSES, classes),
    (LABELS, labels),
    (NUMBERS, numbers),
    (FORECAST, windows),
    (WRITING, texts),
]
EACH = pytest.mark.parametrize(("task", "make"), MAKERS, ids=[task.kind for task, _ in MAKERS])


def count(task: TaskSpec, sample: Sample, batch: int = 1000) -> Counts:
    counts = make_counts(task)
    for start in range(0, len(sample[0]), batch):
        outputs, targets, *inputs = (part[start : start + batch] for part in sample)
        counts.update(outputs, targets, tuple(inputs) or None)
    return counts


@EACH
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 20))
def test_order_and_batching_change_nothing(
    task: TaskSpec, make: Callable[[np.random.Generator, int], Sample], seed: int, batch: int
) -> None:
    rng = np.random.default_rng(seed)
    sample = make(rng, 21)
    order = rng.permutation(21)
    one, other = count(task, sample), count(task, tuple(part[order] for part in sample), batch)
    assert other.metrics() == one.metrics()  # to the last bit
    assert other.result("val").per_target == one.result("val").per_target
    assert other.samples == 21
    for metric in one.metrics():
        scores, others = one.scores(metric), other.scores(metric)
        assert (scores is None) == (others is None)
        assert scores is None or np.array_equal(others, scores[order])


@EACH
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), parts=st.integers(1, 3), batch=st.integers(1, 9), bad=st.booleans())
def test_counts_of_parts_merge_to_the_counts_of_the_whole(
    task: TaskSpec,
    make: Callable[[np.random.Generator, int], Sample],
    seed: int,
    parts: int,
    batch: int,
    bad: bool,
) -> None:
    """23 samples, dealt out in batches as ranks count them; each part travels by pickle."""
    sample = make(np.random.default_rng(seed), 23)
    if bad:
        sample[0][11] = math.nan
    batches = [np.arange(start, min(start + batch, 23)) for start in range(0, 23, batch)]
    empty = np.zeros(0, dtype=np.int64)
    dealt = [np.concatenate([empty, *batches[part::parts]]) for part in range(parts)]
    whole = count(task, tuple(part[np.concatenate(dealt)] for part in sample), batch)
    merged, *others = (
        pickle.loads(pickle.dumps(count(task, tuple(part[rows] for part in sample), batch)))
        for rows in dealt
    )
    for other in others:
        before = repr(other.result("val"))
        merged.merge(other)
        assert repr(other.result("val")) == before  # it is left as it is
    assert repr(merged.metrics()) == repr(whole.metrics())
    assert repr(merged.result("val")) == repr(whole.result("val"))
    for metric in whole.metrics():
        scores = merged.scores(metric)
        if scores is not None:
            assert np.array_equal(scores, whole.scores(metric), equal_nan=True)
    merged.update(sample[0][:0], sample[1][:0])
    merged.merge(make_counts(task))
    assert merged.samples == 23


def test_counts_of_other_tasks_are_not_merged() -> None:
    for task, other in itertools.permutations((LABELS, NUMBERS, FORECAST, WRITING), 2):
        with pytest.raises(AssertionError):
            make_counts(task).merge(make_counts(other))
    renamed = LABELS.model_copy(update={"class_names": ("p", "r", "q")})
    with pytest.raises(AssertionError):
        make_counts(LABELS).merge(make_counts(renamed))


def test_the_std_of_a_target_far_from_its_scale_is_exact() -> None:
    """Squares about a mean a million deviations away: a plain sum of squares would lose them."""
    rng = np.random.default_rng(4)
    outputs, _, inputs = windows(rng, 40)
    targets = rng.normal(size=(40, 4, 2)) + 1e8
    rows = count(FORECAST, (outputs, targets, inputs), 7).result("val").per_target
    predicted = outputs.astype(np.float64) * [4, 2] + [20, 5]
    for i, row in enumerate(rows):
        assert row.r2 == pytest.approx(
            oracle.r2_score(targets[..., i].ravel(), predicted[..., i].ravel()), rel=1e-9
        )
    constant = np.full_like(targets, 0.1)
    rows = count(FORECAST, (outputs, constant, inputs), 7).result("val").per_target
    assert [row.r2 for row in rows] == [0.0, 0.0]


@EACH
def test_the_names_are_those_reported_and_each_is_a_mean_of_scores_or_a_value_of_samples(
    task: TaskSpec, make: Callable[[np.random.Generator, int], Sample]
) -> None:
    counts = count(task, make(np.random.default_rng(1), 30), 8)
    found = counts.metrics()
    assert set(metric_names(task)) == set(found) <= set(directions())
    assert default_monitor(task) in found
    for metric, value in found.items():
        scores = counts.scores(metric)
        if scores is None:
            assert counts.value(metric, np.arange(30)) == pytest.approx(value, rel=1e-12)
        else:
            mean = scores.mean()
            assert value == pytest.approx(math.sqrt(mean) if metric in ROOTED else mean)
    result = counts.result("val", {"3": "damaged"})
    assert (result.task, result.samples, result.metrics) == (task.kind, 30, found)
    assert result.bad_samples == {"3": "damaged"}


@EACH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_output_that_is_not_finite_is_seen(
    task: TaskSpec, make: Callable[[np.random.Generator, int], Sample], bad: float
) -> None:
    sample = make(np.random.default_rng(2), 10)
    sample[0][3] = bad
    counts = count(task, sample, 4)
    assert counts.result("val").non_finite == 1
    assert not math.isfinite(counts.metrics()["loss"])


@EACH
def test_no_samples_have_no_figures(
    task: TaskSpec, make: Callable[[np.random.Generator, int], Sample]
) -> None:
    counts = make_counts(task)
    outputs, targets, *_ = make(np.random.default_rng(0), 0)
    counts.update(outputs, targets)
    assert counts.samples == 0
    assert math.isnan(counts.metrics()["loss"])
    assert counts.result("val").points == ()


def test_multilabel_figures_are_those_of_scikit_learn_and_torch() -> None:
    outputs, targets = labels(np.random.default_rng(3), 200)
    targets[:, 2] = 0
    outputs[:, 2] = -1  # a label that is neither true nor predicted counts as 0, as there
    counts = count(LABELS, (outputs, targets), 64)
    got, predicted = counts.metrics(), outputs > 0
    p, r, f, support = oracle.precision_recall_fscore_support(targets, predicted, zero_division=0)
    assert got["f1_macro"] == pytest.approx(f.mean())
    assert got["precision_macro"] == pytest.approx(p.mean())
    assert got["recall_macro"] == pytest.approx(r.mean())
    assert got["accuracy"] == pytest.approx(oracle.accuracy_score(targets, predicted))
    both = [k for k in range(targets.shape[1]) if 0 < targets[:, k].sum() < len(targets)]
    pairs = [(targets[:, k], predicted[:, k]) for k in both]
    assert got["matthews_corrcoef"] == pytest.approx(
        np.mean([oracle.matthews_corrcoef(*pair) for pair in pairs])
    )
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(outputs).double(), torch.from_numpy(targets).double()
    )
    assert got["loss"] == got["log_loss"] == pytest.approx(float(loss))
    rows = counts.result("val").per_class
    assert [row.f1 for row in rows] == pytest.approx(f.tolist())
    assert [row.samples for row in rows] == support.tolist()
    assert [row.predicted for row in rows] == predicted.sum(0).tolist()


def test_a_label_without_a_number_is_wrong_whatever_the_truth() -> None:
    targets = np.array([[0, 0, 0], [1, 1, 1]], dtype=np.uint8)
    outputs = np.where(targets, 9.0, -9.0).astype(np.float32)
    outputs[:, 1] = math.nan
    counts = count(LABELS, (outputs, targets))
    assert [row.f1 for row in counts.result("val").per_class] == [1, 0, 1]
    assert counts.metrics()["accuracy"] == 0


def test_regression_figures_are_those_of_scikit_learn() -> None:
    outputs, targets = numbers(np.random.default_rng(4), 300)
    counts = count(NUMBERS, (outputs, targets), 7)
    predicted = outputs.astype(np.float64) * [50, 7] + [1000, 30]
    got = counts.metrics()
    assert got["mae"] == pytest.approx(oracle.mean_absolute_error(targets, predicted))
    assert got["mse"] == pytest.approx(oracle.mean_squared_error(targets, predicted))
    assert got["rmse"] == pytest.approx(math.sqrt(got["mse"]))
    assert got["r2"] == pytest.approx(oracle.r2_score(targets, predicted))
    scaled = (targets - [1000, 30]) / [50, 7]
    assert got["loss"] == pytest.approx(oracle.mean_squared_error(scaled, outputs))
    rows = counts.result("val").per_target
    assert [row.name for row in rows] == ["price", "age"]
    for i, row in enumerate(rows):
        assert row.r2 == pytest.approx(oracle.r2_score(targets[:, i], predicted[:, i]))
        assert row.rmse == pytest.approx(oracle.root_mean_squared_error(targets[:, i], predicted[:, i]))
        assert row.mae == pytest.approx(oracle.mean_absolute_error(targets[:, i], predicted[:, i]))


@pytest.mark.parametrize("kind", ["regression", "forecast"])
def test_r2_far_from_zero_cancels_nothing(kind: str) -> None:
    """Squares of such numbers have no digit left for the spread; scikit-learn takes two passes."""
    rng = np.random.default_rng(5)
    number = TargetNumber(name="load", mean=1e9, std=1.0)
    forecast = TaskSpec(kind="forecast", input=SERIES, horizon=2, targets=(number,))
    task = (
        forecast if kind == "forecast" else TaskSpec(kind="regression", input=TABLE, targets=(number,))
    )
    shape = (400, 2, 1) if kind == "forecast" else (400, 1)
    outputs = rng.normal(size=shape).astype(np.float32)
    targets = 1e9 + outputs.astype(np.float64) + 0.3 * rng.normal(size=shape)
    row = count(task, (outputs, targets), 13).result("val").per_target[0]
    true, predicted = targets.ravel(), outputs.astype(np.float64).ravel() + 1e9
    assert row.r2 == pytest.approx(oracle.r2_score(true, predicted), rel=1e-9)


def test_r2_of_constant_targets_is_that_of_scikit_learn() -> None:
    task = TaskSpec(kind="regression", input=TABLE, targets=(TargetNumber(name="y"),))
    targets = np.full((9, 1), 0.1)
    missed = count(task, (np.ones((9, 1), dtype=np.float32), targets), 2).metrics()
    hit = count(task, (np.full((9, 1), 0.1), targets), 2).metrics()
    assert (missed["r2"], hit["r2"]) == (0.0, 1.0)


def test_points_cover_all_samples_and_are_finite() -> None:
    n = 3 * MAX_POINTS
    task = TaskSpec(kind="regression", input=TABLE, targets=(PRICE,))
    outputs = np.linspace(-1, 1, n)[:, None].astype(np.float32)
    outputs[5] = math.nan
    points = count(task, (outputs, np.arange(n, dtype=np.float64)[:, None]), 999).result("val").points
    assert len(points) == MAX_POINTS
    assert (points[0][0], points[-1][0]) == (0, n - 1)
    assert np.diff([true for true, _ in points]).max() <= 4
    assert points[0][1] == pytest.approx(950.0)
    assert np.isfinite(points).all()


def test_forecast_figures_by_hand() -> None:
    rng = np.random.default_rng(6)
    outputs, targets, inputs = windows(rng, 50)
    counts = count(FORECAST, (outputs, targets, inputs), 7)
    got = counts.metrics()
    scaled = (targets - [20, 5]) / [4, 2]
    predicted = outputs.astype(np.float64) * [4, 2] + [20, 5]
    flat = scaled.reshape(50, -1), outputs.reshape(50, -1)
    assert got["mse"] == got["loss"] == pytest.approx(oracle.mean_squared_error(*flat))
    assert got["mae"] == pytest.approx(oracle.mean_absolute_error(*flat))
    assert got["rmse"] == pytest.approx(math.sqrt(got["mse"]))
    parts = 2 * np.abs(targets - predicted) / (np.abs(targets) + np.abs(predicted))
    assert got["smape"] == pytest.approx(100 * parts.mean())
    # The naive error is of the targets' own channels, oil and load, in their units.
    naive = np.abs(np.diff(inputs[:, :, [2, 1]].astype(np.float64), axis=1)).mean((0, 1)) * [4, 2]
    assert got["mase"] == pytest.approx((np.abs(targets - predicted).mean((0, 1)) / naive).mean())
    result = counts.result("test")
    for i, row in enumerate(result.per_target):
        assert row.r2 == pytest.approx(
            oracle.r2_score(targets[..., i].ravel(), predicted[..., i].ravel())
        )
        assert row.mae == pytest.approx(np.abs(targets - predicted)[..., i].mean())
        assert row.rmse == pytest.approx(math.sqrt(((targets - predicted)[..., i] ** 2).mean()))
    assert np.allclose(result.points, np.stack([targets[:, -1, 0], predicted[:, -1, 0]], 1))


def test_mase_ignores_padding_and_is_left_out_without_what_it_needs() -> None:
    outputs, targets, inputs = windows(np.random.default_rng(7), 8)
    lengths = np.array([6, 5, 4, 3, 2, 6, 6, 6])
    padded = np.where(np.arange(6)[None, :, None] < lengths[:, None, None], inputs, 99).astype(
        np.float32
    )
    varying = SERIES.model_copy(update={"varies": True})
    counts = make_counts(FORECAST.model_copy(update={"input": varying}))
    counts.update(outputs, targets, (padded, lengths))
    steps = [
        np.abs(np.diff(x[:n].astype(np.float64), axis=0)) for x, n in zip(inputs, lengths, strict=True)
    ]
    naive = np.concatenate(steps).mean(0)[[2, 1]] * [4, 2]
    mae = np.array([row.mae for row in counts.result("val").per_target])
    assert counts.metrics()["mase"] == pytest.approx((mae / naive).mean())
    without = make_counts(FORECAST)
    without.update(outputs, targets)
    assert "mase" not in without.metrics()
    other = FORECAST.model_copy(update={"targets": (TargetNumber(name="wind"), AGE)})
    assert "mase" not in metric_names(other)
    assert "mase" not in count(other, (outputs, targets, inputs)).metrics()


def test_zero_predicted_as_zero_has_no_percentage_error() -> None:
    task = TaskSpec(kind="forecast", input=SERIES, horizon=2, targets=(TargetNumber(name="t"),))
    got = count(task, (np.zeros((3, 2, 1), dtype=np.float32), np.zeros((3, 2, 1)))).metrics()
    assert got["smape"] == got["mse"] == 0


def test_token_figures_are_those_of_torch_without_padding() -> None:
    outputs, targets = texts(np.random.default_rng(8), 60)
    got = count(WRITING, (outputs, targets), 7).metrics()
    loss = torch.nn.functional.cross_entropy(
        torch.from_numpy(outputs).double().flatten(0, 1),
        torch.from_numpy(targets).flatten(),
        ignore_index=PAD,
    )
    real = targets != PAD
    assert got["loss"] == pytest.approx(float(loss))
    assert got["accuracy"] == pytest.approx((outputs.argmax(2) == targets)[real].mean())


def test_padding_of_any_width_and_content_changes_no_token_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs, targets = texts(np.random.default_rng(9), 20)
    one = count(WRITING, (outputs, targets)).metrics()
    wide = np.concatenate([outputs, np.full((20, 3, 7), math.nan, dtype=np.float32)], axis=1)
    wide[:, :5][targets == PAD] = math.inf
    assert count(WRITING, (wide, np.pad(targets, ((0, 0), (0, 5))))).metrics() == one
    monkeypatch.setattr("dlcli.evaluation.metrics.tokens.CHUNK", 30)
    assert count(WRITING, (outputs, targets)).metrics() == one
    with pytest.raises(ValueError, match="targets of 5 tokens, but logits of 3"):
        count(WRITING, (outputs[:, :3], np.ones((20, 5), dtype=np.int64)))
