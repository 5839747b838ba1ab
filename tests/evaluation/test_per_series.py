"""Forecast metrics of several series: of each, and of all in their own scales."""

from __future__ import annotations

import numpy as np
import pytest

from dlcli.data.base import Indices, Samples, SeriesRows
from dlcli.data.series.windows import ForecastReader, LongSeries, Windows
from dlcli.errors import UsageError
from dlcli.evaluation.baselines.compare import compare_with_baselines
from dlcli.evaluation.ensemble import check_members
from dlcli.evaluation.evaluate import evaluate
from dlcli.evaluation.metrics import Counts, make_counts
from dlcli.evaluation.predict import predict
from dlcli.task import SeriesInput, SeriesScale, TargetNumber, TaskSpec

IDS = ("small", "large")
LEVELS, UNITS = (0.0, 500.0), (1.0, 100.0)


def task_of(*, each: bool) -> TaskSpec:
    scales = tuple(
        SeriesScale(id=name, mean=(level,), std=(unit,)) if each else SeriesScale(id=name)
        for name, level, unit in zip(IDS, LEVELS, UNITS, strict=True)
    )
    mean, std = (0.0, 1.0) if each else (250.0, 200.0)
    return TaskSpec(
        kind="forecast",
        input=SeriesInput(
            channels=("x",), mean=(mean,), std=(std,), length=4, series_column="id", series=scales
        ),
        targets=(TargetNumber(name="x", mean=mean, std=std),),
        horizon=2,
    )


def reader_of(task: TaskSpec, *, only: str | None = None) -> ForecastReader:
    """Windows of two series of noise, in other units."""
    rng = np.random.default_rng(0)
    series = []
    for name, level, unit in zip(IDS, LEVELS, UNITS, strict=True):
        values = level + unit * rng.normal(size=(30, 1))
        series.append(
            LongSeries(
                values=values,
                target_values=values,
                channels=("x",),
                times=tuple(map(str, range(30))),
                id=name,
                series_column="id",
            )
        )
    chosen = [i for i, name in enumerate(IDS) if only in (None, name)]
    starts = np.concatenate([np.arange(4, 29) for _ in chosen])
    which = np.repeat(chosen, 25)
    ids = tuple(f"{IDS[i]} {start}" for i, start in zip(which, starts, strict=True))
    items = Windows(tuple(series), which, starts)
    return ForecastReader(Samples(ids, np.zeros((len(ids), 0)), items), task)


def model(inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """The last value, and half of it."""
    last = inputs[0][:, -1:]
    return np.concatenate([last, last / 2], axis=1)


@pytest.mark.parametrize("each", [True, False])
def test_the_metrics_of_a_series_are_those_of_its_windows_alone(each: bool) -> None:
    task = task_of(each=each)
    result = evaluate(model, reader_of(task), task, split="val", batch_size=7)
    assert [row.id for row in result.per_series] == list(IDS)
    for row in result.per_series:
        alone = evaluate(model, reader_of(task, only=row.id), task, split="val", batch_size=11)
        assert row.samples == alone.samples == 25
        for name in ("mse", "mae", "r2", "smape", "mase"):
            np.testing.assert_allclose(getattr(row, name), alone.metrics[name], rtol=1e-9)
    means = np.mean([[row.mse, row.smape] for row in result.per_series], axis=0)
    np.testing.assert_allclose([result.metrics["mse"], result.metrics["smape"]], means)


def test_in_its_own_scale_the_unit_of_a_series_does_not_count() -> None:
    def mses(task: TaskSpec) -> list[float]:
        result = evaluate(
            lambda inputs: np.repeat(inputs[0][:, -1:], 2, axis=1), reader_of(task), task, split="val"
        )
        return [row.mse for row in result.per_series]

    small, large = mses(task_of(each=True))
    assert 0.3 < small / large < 3
    small, large = mses(task_of(each=False))
    assert small < large / 1000


def test_errors_of_targets_and_smape_are_in_the_units_of_the_data() -> None:
    task = task_of(each=True)
    reader = reader_of(task)
    result = evaluate(model, reader, task, split="val")
    every = np.arange(len(reader))
    inputs, _ = reader.read(every)
    series = reader.series(every)
    assert series is not None
    true = reader.targets(every) * series.std[:, None] + series.mean[:, None]
    predicted = model(inputs) * series.std[:, None] + series.mean[:, None]
    np.testing.assert_allclose(result.per_target[0].mae, np.abs(true - predicted).mean(), rtol=1e-6)
    smape = (200 * np.abs(true - predicted) / (np.abs(true) + np.abs(predicted))).mean()
    np.testing.assert_allclose(result.metrics["smape"], smape, rtol=1e-6)
    scaled = reader.targets(every)[:, :, 0]
    residual = ((scaled - model(inputs)[:, :, 0]) ** 2).sum()
    r2 = 1 - residual / ((scaled - scaled.mean()) ** 2).sum()
    np.testing.assert_allclose(result.metrics["r2"], r2, rtol=1e-6)


def test_counts_of_several_processes_are_those_of_one() -> None:
    task = task_of(each=True)
    reader = reader_of(task)

    def counted(indices: Indices) -> Counts:
        counts = make_counts(task)
        inputs, read = reader.read(indices)
        counts.update(model(inputs), reader.targets(read), inputs, reader.series(read))
        return counts

    every = np.arange(len(reader))
    whole, one, two = counted(every), counted(every[1::2]), counted(every[::2])
    one.merge(two)
    assert one.result("val").per_series == whole.result("val").per_series
    assert one.metrics() == whole.metrics()


def test_baselines_have_a_value_for_each_series() -> None:
    task = task_of(each=True)
    reader = reader_of(task)
    counts = make_counts(task)
    every = np.arange(len(reader))
    inputs, _ = reader.read(every)
    counts.update(model(inputs), reader.targets(every), inputs, reader.series(every))
    (row, *_) = compare_with_baselines(task, reader, reader, counts)
    assert row.name == "last value"
    for name in IDS:
        own = reader_of(task, only=name)
        values, _ = own.read(np.arange(25))
        error = values[0][:, -1:] - own.targets(np.arange(25))
        np.testing.assert_allclose(row.by_series[name], (error**2).mean(), rtol=1e-6)
    np.testing.assert_allclose(row.value, np.mean(list(row.by_series.values())))


def test_predictions_are_in_the_units_of_the_data_and_name_series_and_time() -> None:
    task = task_of(each=True)
    reader = reader_of(task)
    rows = [row for one in predict(model, reader, task) for row in one.rows]
    assert len(rows) == 100
    last = rows[-2]
    assert {**last, "value": 0} == {
        "input": "large 28", "series": "large", "time": "28", "step": 1, "value": 0
    }  # fmt: skip
    inputs, _ = reader.read(np.array([49]))
    np.testing.assert_allclose(last["value"], inputs[0][0, -1, 0] * 100 + 500, rtol=1e-6)


def test_models_with_other_scales_of_the_series_are_no_ensemble() -> None:
    with pytest.raises(UsageError, match="their series are scaled by other numbers"):
        check_members([("a", task_of(each=True)), ("b", task_of(each=False))])


def test_data_of_one_series_has_no_rows_of_series() -> None:
    task = task_of(each=False)
    values = LongSeries(np.zeros((9, 1)), np.zeros((9, 1)), ("x",))
    alone = Windows((values,), np.zeros(2, np.int64), np.array([4, 5]))
    one = ForecastReader(Samples(("a", "b"), np.zeros((2, 0)), alone), task)
    assert one.series(np.array([0])) is None
    assert isinstance(reader_of(task, only="small").series(np.array([0])), SeriesRows)
