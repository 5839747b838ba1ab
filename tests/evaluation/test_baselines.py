"""What a model has to beat: fitted on the training split alone, paired sample by sample."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from dlcli.data.base import ArrayReader, Inputs, Listed, RaggedReader, Reader, Samples, Stacked
from dlcli.evaluation.baselines import fitted, forecasts
from dlcli.evaluation.baselines.compare import compare_with_baselines
from dlcli.evaluation.baselines.forecasts import find_season, naive_forecasts, prominent_lag
from dlcli.evaluation.differences import compared_metric, difference
from dlcli.evaluation.intervals import difference_interval
from dlcli.evaluation.metrics import BaselineRow, Counts, make_counts
from dlcli.task import (
    SPECIAL_TOKENS,
    CategoryColumn,
    ImageInput,
    InputSpec,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskKind,
    TaskSpec,
    TextInput,
)

TEXT = TextInput(vocabulary=SPECIAL_TOKENS, max_length=4)
TABLE = TabularInput(
    numbers=(NumberColumn(name="a"), NumberColumn(name="b")),
    categories=(CategoryColumn(name="c", values=("u", "v")),),
)


def reader(inputs: Inputs, targets: np.ndarray, items: Any = None) -> ArrayReader:
    ids = tuple(str(i) for i in range(len(targets)))
    return ArrayReader(Samples(ids, targets, items or Stacked(inputs[0])), inputs)


def counted(task: TaskSpec, test: Reader, outputs: np.ndarray) -> Counts:
    counts = make_counts(task)
    counts.update(outputs, test.targets(np.arange(len(test))))
    return counts


def one_hot(task: TaskSpec, classes: np.ndarray) -> np.ndarray:
    return np.eye(task.num_classes, dtype=np.float32)[classes]


def by_name(rows: tuple[BaselineRow, ...]) -> dict[str, BaselineRow]:
    return {row.name: row for row in rows}


# --- embeddings


def embedding(spec: InputSpec) -> TaskSpec:
    return TaskSpec(kind="embedding", input=spec, class_names=("x", "y"), embedding_size=3)


def retrieval(spec: InputSpec, test: Reader) -> BaselineRow:
    """The one baseline beside a model that finds everything."""
    task = embedding(spec)
    counts = counted(task, test, np.eye(3)[test.samples.targets])
    (row,) = compare_with_baselines(task, test, test, counts)
    assert row.metric == "recall_at_1"
    assert row.difference == pytest.approx(1 - row.value)
    return row


@pytest.mark.parametrize("side", [8, 40])
def test_an_embedding_is_held_against_the_pixels(side: int) -> None:
    spec = ImageInput(
        channels=3, height=side, width=side, resize_size=side, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    targets = np.arange(20) % 2
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 100, (20, side, side, 3)).astype(np.uint8)
    pixels[targets == 1, : side // 2] += 120
    row = retrieval(spec, reader((pixels,), targets))
    assert (row.name, row.value) == ("nearest pixels", 1.0)
    assert bool(row.note) == (side > 18)
    noise = reader((rng.integers(0, 255, pixels.shape).astype(np.uint8),), targets)
    assert retrieval(spec, noise).value < 0.9


def test_an_embedding_of_numbers_is_held_against_them() -> None:
    numbers = TabularInput(numbers=(NumberColumn(name="a"), NumberColumn(name="b")))
    targets = np.arange(20) % 2
    values = np.random.default_rng(0).normal(0, 0.1, (20, 2)) + np.array([[1, -1], [-1, 1]])[targets]
    row = retrieval(numbers, reader((values.astype(np.float32),), targets))
    assert (row.name, row.value) == ("nearest values", 1.0)


def test_an_embedding_of_texts_is_held_against_chance() -> None:
    ids = [np.array([4, 5 + i % 2]) for i in range(400)]
    samples = Samples(tuple(map(str, range(400))), np.arange(400) % 4, Listed(tuple(ids)))
    task = TaskSpec(kind="embedding", input=TEXT, class_names=tuple("abcd"), embedding_size=4)
    test = RaggedReader(samples, ids)
    (row,) = compare_with_baselines(task, test, test, counted(task, test, np.eye(4)[samples.targets]))
    assert row.name == "chance"
    assert row.value == pytest.approx(0.25, abs=0.08)
    assert row.better


# --- classes, labels, numbers


CLASSES = TaskSpec(input=TABLE, class_names=("x", "y", "z"))


def test_majority_is_of_the_training_split_and_the_difference_is_paired() -> None:
    train = reader((np.zeros((5, 3)),), np.array([2, 2, 2, 0, 1]))
    true = np.repeat([0, 1, 2], [60, 20, 20])
    test = reader((np.zeros((100, 3)),), true)
    answers = np.where(np.arange(100) < 90, true, 1)  # the model is right on the first 90
    (row,) = compare_with_baselines(
        CLASSES, train, test, counted(CLASSES, test, one_hot(CLASSES, answers))
    )
    assert (row.name, row.metric, row.value) == ("majority", "accuracy", 0.2)
    assert row.difference == pytest.approx(0.7)
    assert 0.5 < row.low < 0.7 < row.high < 0.85
    assert row.better is True


def test_a_model_worse_than_the_baseline_is_called_so_and_one_like_it_is_not_called() -> None:
    train = reader((np.zeros((2, 3)),), np.array([0, 0]))
    true = np.repeat([0, 1], [80, 20])
    test = reader((np.zeros((100, 3)),), true)
    wrong = counted(CLASSES, test, one_hot(CLASSES, np.full(100, 2)))
    assert compare_with_baselines(CLASSES, train, test, wrong)[0].better is False
    same = counted(CLASSES, test, one_hot(CLASSES, np.zeros(100, dtype=int)))
    (row,) = compare_with_baselines(CLASSES, train, test, same)
    assert (row.difference, row.better) == (0, None)
    assert row.low < 0 < row.high


def test_samples_that_could_not_be_read_are_left_out_on_both_sides() -> None:
    train = reader((np.zeros((2, 3)),), np.array([0, 0]))
    test = reader((np.zeros((40, 3)),), np.arange(40) % 2)
    test.bad["1"] = "damaged"
    kept = np.delete(np.arange(40), 1)
    counts = make_counts(CLASSES)
    counts.update(one_hot(CLASSES, kept % 2), test.targets(kept))
    (row,) = compare_with_baselines(CLASSES, train, test, counts)
    assert row.value == pytest.approx(20 / 39)
    test.bad.clear()
    with pytest.raises(ValueError, match="39 samples were counted, but 40"):
        compare_with_baselines(CLASSES, train, test, counts)
    assert compare_with_baselines(CLASSES, train, test, counts, indices=kept) == (row,)


def test_samples_counted_by_length_are_paired_by_length() -> None:
    """A model that is right where the baseline is: paired well they never differ."""
    rng = np.random.default_rng(0)
    sequences = [np.ones((n, 1)) for n in rng.integers(1, 30, 200)]
    true = rng.integers(0, 2, 200)
    ids = tuple(map(str, range(200)))
    test = RaggedReader(Samples(ids, true, Listed(tuple(sequences))), sequences)
    task = TaskSpec(
        input=SeriesInput(channels=("c",), mean=(0,), std=(1,), length=30, varies=True),
        class_names=("no", "yes"),
    )
    train = reader((np.zeros((2, 1, 1)),), np.array([1, 1]))
    order = test.by_length()
    assert (np.diff(test.lengths[order]) >= 0).all()
    counts = make_counts(task)
    counts.update(one_hot(task, np.ones(200, dtype=int)), true[order])
    row, mixed = (
        compare_with_baselines(task, train, test, counts, indices=kept)[0]
        for kept in (None, np.arange(200))
    )
    assert row.high - row.low < (mixed.high - mixed.low) / 5


def test_each_label_has_a_majority_of_its_own() -> None:
    task = TaskSpec(kind="multilabel", input=TABLE, class_names=("p", "q"))
    train = reader((np.zeros((3, 3)),), np.array([[1, 0], [1, 0], [0, 1]], dtype=np.uint8))
    true = np.array([[1, 0]] * 30 + [[0, 0]] * 10, dtype=np.uint8)
    test = reader((np.zeros((40, 3)),), true)
    counts = counted(task, test, 2.0 * true - 1)
    row, every = compare_with_baselines(task, train, test, counts, metric="accuracy")
    assert (row.name, row.metric, row.value, row.better) == ("majority", "accuracy", 0.75, True)
    assert (every.name, every.value) == ("every label", 0)
    # By the metric that selects the epoch of labels: q never occurs, so its F1 is 0 for all.
    row, every = compare_with_baselines(task, train, test, counts)
    assert (row.metric, row.value, every.value) == ("f1_macro", 6 / 7 / 2, 6 / 7 / 2)
    assert row.difference == pytest.approx(0.5 - 3 / 7)
    assert row.better is True
    assert row.low < row.difference < row.high


def test_the_mean_of_the_training_rows_is_in_the_units_of_the_data() -> None:
    rng = np.random.default_rng(0)
    task = TaskSpec(
        kind="regression", input=TABLE, targets=(TargetNumber(name="y", mean=90.0, std=3.0),)
    )
    train = reader((np.zeros((50, 3)),), rng.normal(100, 5, (50, 1)))
    true = rng.normal(100, 5, (300, 1))
    test = reader((np.zeros((300, 3)),), true)
    outputs = (true + rng.normal(0, 1, true.shape) - 90) / 3
    counts = counted(task, test, outputs)
    (row,) = compare_with_baselines(task, train, test, counts)
    expected = math.sqrt(((true - train.samples.targets.mean()) ** 2).mean())
    assert (row.name, row.metric, row.value) == ("mean", "rmse", pytest.approx(expected))
    assert row.difference == pytest.approx(counts.metrics()["rmse"] - expected)
    assert row.low < row.difference < row.high < 0
    assert row.better is True  # lower is better


def test_a_model_that_outputs_nan_is_not_called_better() -> None:
    task = TaskSpec(kind="regression", input=TABLE, targets=(TargetNumber(name="y"),))
    train, test = (reader((np.zeros((20, 3)),), np.ones((20, 1)) * k) for k in (1.0, 2.0))
    (row,) = compare_with_baselines(task, train, test, counted(task, test, np.full((20, 1), np.nan)))
    assert row.better is None
    assert math.isnan(row.difference)


def test_writing_has_no_baseline() -> None:
    task = TaskSpec(kind="seq2seq", input=PairsInput(source=TEXT, target=TEXT))
    targets = np.array([[4, 3]] * 6)
    test = reader((targets,), targets)
    counts = counted(task, test, np.zeros((6, 2, 5)))
    assert compare_with_baselines(task, test, test, counts, fitted=True) == ()


# --- forecasts

WINDOW, HORIZON = 48, 24


def hourly(steps: int, *, period: int = 12, noise: float = 0.3, drift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(steps)
    season = np.stack([10 + 5 * np.sin(2 * np.pi * t / period), 3 * np.cos(2 * np.pi * t / period)], 1)
    walk = drift * rng.normal(size=(steps, 2)).cumsum(axis=0)
    return season + noise * rng.normal(size=(steps, 2)) + walk


def forecast(rows: np.ndarray, targets: list[int]) -> tuple[TaskSpec, Reader]:
    mean, std = rows.mean(0), rows.std(0)
    names = ("load", "oil")
    task = TaskSpec(
        kind="forecast",
        horizon=HORIZON,
        input=SeriesInput(channels=names, mean=tuple(mean), std=tuple(std), length=WINDOW),
        # Other statistics than the channels', so that mixing them up shows.
        targets=tuple(TargetNumber(name=names[c], mean=1.0 + c, std=2.0 + c) for c in targets),
    )
    starts = range(len(rows) - WINDOW - HORIZON)
    past = np.stack([(rows[s : s + WINDOW] - mean) / std for s in starts]).astype(np.float32)
    future = np.stack([rows[s + WINDOW : s + WINDOW + HORIZON][:, targets] for s in starts])
    return task, reader((past,), future)


def test_naive_forecasts_repeat_the_last_value_and_the_last_season() -> None:
    rows = hourly(300)
    task, test = forecast(rows, [1, 0])
    true = test.samples.targets
    rows_of = by_name(
        compare_with_baselines(task, test, test, counted(task, test, (true - [2, 1]) / [3, 2]))
    )
    assert list(rows_of) == ["last value", "seasonal naive (12 steps)", "ridge regression"]
    assert rows_of["ridge regression"].value < rows_of["seasonal naive (12 steps)"].value
    starts = np.arange(len(test))[:, None] + WINDOW
    last = rows[starts - 1][:, :, [1, 0]]
    season = rows[starts - 12 + np.arange(HORIZON) % 12][:, :, [1, 0]]
    for row, naive in zip(rows_of.values(), (last, season), strict=False):
        errors = (((naive - true) / [3, 2]) ** 2).mean((1, 2))
        by_block = difference_interval(np.zeros(len(true)), errors, block=HORIZON)
        assert (row.low, row.high) == pytest.approx(by_block, rel=1e-4)
        assert row.metric == "mse"
        assert row.value == pytest.approx((((naive - true) / [3, 2]) ** 2).mean(), rel=1e-5)
        assert row.block == HORIZON
        assert row.better is True
    assert "season of 12 steps" in rows_of["seasonal naive (12 steps)"].note


@pytest.mark.parametrize(
    ("period", "noise", "drift"),
    [(24, 0.3, 0.0), (24, 3.0, 0.0), (24, 0.3, 1.0), (7, 1.0, 0.3), (4, 1, 0)],
)
def test_the_season_is_found_in_noise_and_drift(period: int, noise: float, drift: float) -> None:
    task, train = forecast(hourly(1500, period=period, noise=noise, drift=drift), [0, 1])
    assert find_season(task, train, [0, 1]) == period


@pytest.mark.parametrize(("noise", "drift"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.3)])
def test_there_is_no_season_in_noise_or_in_a_random_walk(noise: float, drift: float) -> None:
    rows = hourly(1500, noise=noise, drift=drift) - hourly(1500, noise=0.0)
    task, train = forecast(rows, [0, 1])
    assert find_season(task, train, [0, 1]) is None


def test_constant_series_and_short_windows_have_no_season() -> None:
    task, train = forecast(hourly(200), [0])
    train.samples.targets[:] = task.input.mean[0]
    train.array()[0][:] = 0
    assert find_season(task, train, [0]) is None
    assert prominent_lag(np.ones(4), 1) is None


def test_ridge_regression_of_a_forecast_is_that_of_scikit_learn() -> None:
    task, train = forecast(hourly(400), [1, 0])
    ridge = naive_forecasts(task, train, train)[-1]
    indices = np.arange(0, len(train), 7)
    mean, std = np.array(task.input.mean), np.array(task.input.std)

    def changes(which: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        past = (train.read(which)[0][0] * std + mean)[:, :, [1, 0]]
        past, future = (past - [2, 1]) / [3, 2], (train.targets(which) - [2, 1]) / [3, 2]
        past, last = past.transpose(0, 2, 1), past[:, -1][:, :, None]
        future = future.transpose(0, 2, 1) - last
        return (past - last).reshape(-1, WINDOW), future.reshape(-1, HORIZON), last

    model = Ridge(alpha=1.0, fit_intercept=False).fit(*changes(np.arange(len(train)))[:2])
    rows, _, last = changes(indices)
    expected = model.predict(rows).reshape(-1, 2, HORIZON) + last
    assert ridge.predict(indices) == pytest.approx(expected.transpose(0, 2, 1), rel=1e-4, abs=1e-4)


def test_a_linear_map_of_many_windows_is_fitted_on_some_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forecasts, "MULTIPLICATIONS", 0)
    task, train = forecast(hourly(1500), [0])
    ridge = naive_forecasts(task, train, train)[-1]
    assert f"fitted on 1,000 of {len(train):,} training windows" in ridge.note


def test_a_target_outside_the_input_is_held_against_the_training_mean() -> None:
    task, test = forecast(hourly(200), [0])
    task = task.model_copy(update={"targets": (TargetNumber(name="wind", mean=2.0, std=4.0),)})
    (row,) = compare_with_baselines(
        task, test, test, counted(task, test, np.zeros(test.samples.targets.shape))
    )
    assert (row.name, row.difference, row.better) == ("mean", 0.0, None)
    assert row.value == pytest.approx((((test.samples.targets - 2) / 4) ** 2).mean())


# --- by the metric that chose the model


def test_majority_predicts_the_frequencies_of_training() -> None:
    """So that its loss is that of knowing nothing, and its ROC AUC that of chance."""
    train = reader((np.zeros((98, 3)),), np.repeat([0, 1, 2], [59, 29, 10]))
    true = np.repeat([0, 1, 2], [60, 20, 20])
    test = reader((np.zeros((100, 3)),), true)
    counts = counted(CLASSES, test, 4 * one_hot(CLASSES, true))
    expected = {
        "accuracy": 0.6,
        "loss": -(0.6 * math.log(60 / 101) + 0.2 * math.log(30 / 101) + 0.2 * math.log(11 / 101)),
        "roc_auc": 0.5,
        "matthews_corrcoef": 0,
        "balanced_accuracy": 1 / 3,
    }
    for metric, value in expected.items():
        (row,) = compare_with_baselines(CLASSES, train, test, counts, metric=metric)
        assert (row.metric, row.value, row.better) == (metric, pytest.approx(value), True)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "f1_macro", "matthews_corrcoef"])
def test_a_difference_that_is_no_mean_has_an_interval_of_its_own(metric: str) -> None:
    """Of two models as good as each other it holds 0, of a better one it does not."""
    rng = np.random.default_rng(0)
    task = TaskSpec(input=TABLE, class_names=("no", "yes"))
    true = rng.integers(0, 2, 400)
    test = reader((np.zeros((400, 3)),), true)
    noise = rng.normal(size=(3, 400, 2)).astype(np.float32)
    one, other, better = (
        counted(task, test, k * one_hot(task, true) + part)
        for k, part in zip((1, 1, 3), noise, strict=True)
    )
    even = difference(one, other, metric, task)
    assert even.better is None
    assert even.low < 0 < even.high
    assert difference(better, one, metric, task).better is True
    assert difference(one, better, metric, task).better is False
    assert difference(one, other, metric, task) == even


def test_a_model_is_compared_by_its_own_metric_where_that_is_defined() -> None:
    task = TaskSpec(input=TABLE, class_names=("no", "yes"))
    both, one = (
        counted(task, reader((np.zeros((4, 3)),), true), np.eye(2)[true])
        for true in (np.array([0, 1, 0, 1]), np.ones(4, dtype=int))
    )
    assert compared_metric("roc_auc", both, task) == "roc_auc"
    assert compared_metric("roc_auc", one, task) == compared_metric(None, both, task) == "accuracy"


# --- by option, from scikit-learn


def table(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(n, 2)), rng.integers(0, 3, (n, 1))], 1).astype(np.float32)


def test_tables_get_a_linear_model_and_boosting_that_see_the_training_rows_only() -> None:
    task = TaskSpec(kind="regression", input=TABLE, targets=(TargetNumber(name="y", mean=5.0, std=2.0),))

    def truth(x: np.ndarray) -> np.ndarray:
        effect = np.array([0.0, 3.0, -3.0])[x[:, 2].astype(int)]  # no order: codes are categories
        return (5 + 2 * x[:, 0] + np.abs(x[:, 1]) * 2 + effect)[:, None].astype(np.float64)

    x, asked = table(0, 600), table(1, 200)
    train, test = reader((x,), truth(x)), reader((asked,), truth(asked))
    rows = by_name(
        compare_with_baselines(task, train, test, counted(task, test, np.zeros((200, 1))), fitted=True)
    )
    assert list(rows) == ["mean", "ridge regression", "gradient boosting"]
    spread = truth(asked).std()
    assert 1 - (rows["ridge regression"].value / spread) ** 2 > 0.8
    assert 1 - (rows["gradient boosting"].value / spread) ** 2 > 0.92
    assert rows["gradient boosting"].better is False
    # With the test targets turned round, what was fitted stays the same and is wrong.
    other = reader((asked,), -truth(asked))
    turned = by_name(
        compare_with_baselines(task, train, other, counted(task, other, np.zeros((200, 1))), fitted=True)
    )
    assert turned["ridge regression"].value > spread


def test_every_target_and_every_label_gets_a_model_of_its_own() -> None:
    x, asked = table(0, 400), table(1, 100)
    numbers = TaskSpec(
        kind="regression",
        input=TABLE,
        targets=(TargetNumber(name="y", std=2.0), TargetNumber(name="z", mean=1.0)),
    )
    train, test = (reader((t,), t[:, [1, 0]].astype(np.float64)) for t in (x, asked))
    predicted = np.stack(
        [b.predict(np.arange(100)) for b in fitted.fitted_baselines(numbers, train, test)]
    )
    for outputs in predicted:
        assert r2_score(asked[:, [1, 0]], outputs * [2, 1] + [0, 1]) > 0.9
    labels = TaskSpec(kind="multilabel", input=TABLE, class_names=("p", "q", "always"))

    def truth(t: np.ndarray) -> np.ndarray:
        return np.stack([t[:, 0] > 0, t[:, 1] > 0, t[:, 0] < 99], 1).astype(np.uint8)

    train, test = reader((x,), truth(x)), reader((asked,), truth(asked))
    rows = by_name(
        compare_with_baselines(
            labels, train, test, counted(labels, test, np.ones((100, 3))), fitted=True
        )
    )
    assert rows["logistic regression"].value > 0.9
    assert rows["gradient boosting"].value > 0.9


def test_texts_get_tfidf_from_the_raw_strings() -> None:
    rng = np.random.default_rng(0)
    subjects = ("Where is", "Who was", "How many")

    def texts(n: int) -> tuple[Listed, np.ndarray]:
        true = rng.integers(0, 3, n)
        return Listed(tuple(f"{subjects[c]} word{rng.integers(50)}?" for c in true)), true

    task = TaskSpec(input=TEXT, class_names=("x", "y", "z"))
    (known, classes), (asked, true) = texts(120), texts(60)
    train = reader((np.zeros((120, 4)),), classes, known)
    test = reader((np.zeros((60, 4)),), true, asked)
    counts = counted(task, test, one_hot(task, true))
    row = by_name(compare_with_baselines(task, train, test, counts, fitted=True))[
        "tf-idf + logistic regression"
    ]
    assert (row.value, row.difference, row.better) == (1.0, 0.0, None)
    silent = reader((np.zeros((120, 4)),), classes, Listed(("...",) * 120))
    assert [r.name for r in compare_with_baselines(task, silent, test, counts, fitted=True)] == [
        "majority"
    ]


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("side", [8, 40])
def test_images_get_a_linear_model_and_neighbours_of_few_pixels(kind: TaskKind, side: int) -> None:
    """A bright half says the class, the label or the number; a training image is damaged."""
    rng = np.random.default_rng(0)
    spec = ImageInput(
        channels=3, height=side, width=side, resize_size=side, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    names: dict[str, Any] = {"class_names": ("top", "bottom")}
    if kind == "regression":
        names = {"targets": (TargetNumber(name="y", mean=0.5, std=0.5),)}
    task = TaskSpec(kind=kind, input=spec, **names)

    class Damaged(ArrayReader):
        def read(self, indices: np.ndarray) -> tuple[Inputs, np.ndarray]:
            return super().read(indices[indices != 3])

    def images(n: int, make: type[ArrayReader]) -> ArrayReader:
        true = rng.integers(0, 2, n)
        pixels = rng.integers(0, 100, (n, side, side, 3)).astype(np.uint8)
        for image, low in zip(pixels, true, strict=True):
            image[low * side // 2 : (low + 1) * side // 2] += 60
        targets = {"multilabel": np.eye(2, dtype=np.uint8)[true], "regression": true[:, None] * 1.0}
        ids = tuple(map(str, range(n)))
        return make(Samples(ids, targets.get(kind, true), Stacked(pixels)), (pixels,))

    train, test = images(60, Damaged), images(40, ArrayReader)
    outputs = np.zeros((40, task.num_outputs))
    rows = compare_with_baselines(task, train, test, counted(task, test, outputs), fitted=True)[-2:]
    assert [row.name.split()[0] for row in rows] == ["pixels", "5"]
    for row in rows:
        assert row.value < 0.3 if kind == "regression" else row.value > 0.9
        assert row.better is False
        assert ("averaged over squares" in row.note) == (side > 18)


def test_predictions_of_scikit_learn_are_probabilities() -> None:
    task = TaskSpec(input=TABLE, class_names=("x", "y", "never"))
    x = table(0, 300)
    chance = np.random.default_rng(1).random(300)
    train = reader((x,), (chance < 1 / (1 + np.exp(-x[:, 0]))).astype(np.int64))
    counts = counted(task, train, one_hot(task, train.samples.targets))
    rows = by_name(compare_with_baselines(task, train, train, counts, metric="loss", fitted=True))
    assert 0.5 < rows["logistic regression"].value < rows["majority"].value < 0.75


def test_series_of_any_length_get_their_nearest_neighbour() -> None:
    rng = np.random.default_rng(0)

    def series(n: int) -> RaggedReader:
        true = rng.integers(0, 2, n)
        waves = [np.sin(np.arange(rng.integers(8, 20)) * (0.4 + c))[:, None] for c in true]
        waves = [wave + 0.1 * rng.normal(size=wave.shape) for wave in waves]
        return RaggedReader(Samples(tuple(map(str, range(n))), true, Listed(tuple(waves))), waves)

    task = TaskSpec(
        input=SeriesInput(channels=("c",), mean=(0,), std=(1,), length=20, varies=True),
        class_names=("slow", "fast"),
    )
    train, test = series(60), series(40)
    order = test.by_length()
    counts = make_counts(task)
    counts.update(one_hot(task, test.targets(order)), test.targets(order))
    row = by_name(compare_with_baselines(task, train, test, counts, fitted=True))["1-nearest-neighbour"]
    assert row.value > 0.95


def test_a_fit_that_would_take_minutes_takes_a_part_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "TREE_ROWS", 1000)
    task = TaskSpec(input=TABLE, class_names=("x", "y"))
    x = table(0, 1500)
    train = reader((x,), (x[:, 0] > 0).astype(np.int64))
    counts = counted(task, train, one_hot(task, train.samples.targets))
    rows = by_name(compare_with_baselines(task, train, train, counts, fitted=True))
    assert rows["gradient boosting"].note == "fitted on 1,000 of 1,500 training rows, drawn at random"
    assert rows["logistic regression"].note == ""


def test_the_same_data_give_the_same_rows() -> None:
    task = TaskSpec(input=TABLE, class_names=("x", "y"))
    x = table(0, 300)
    train = reader((x,), (x[:, 0] + x[:, 1] > 0).astype(np.int64))
    counts = counted(task, train, one_hot(task, (x[:, 0] > 0).astype(np.int64)))
    assert compare_with_baselines(task, train, train, counts, fitted=True) == compare_with_baselines(
        task, train, train, counts, fitted=True
    )
