"""Several series in one long table: how they are told apart, divided in time, scaled and read."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from dlcli.config import DataConfig
from dlcli.data.base import DataSource
from dlcli.data.kinds import KINDS, find_kind
from dlcli.data.notices import messages
from dlcli.data.series.forecast import fit_forecast
from dlcli.data.series.forecast_inputs import forecast_inputs
from dlcli.data.series.windows import ForecastReader, Windows
from dlcli.data.sources import open_other, open_source
from dlcli.data.splits import apply_splits, write_splits
from dlcli.errors import DlcliError, UsageError
from dlcli.task import SeriesInput, TaskSpec

Row = tuple[object, ...]


def days(count: int, start: int = 0) -> list[str]:
    return [str(date(2024, 1, 1) + timedelta(days=start + i)) for i in range(count)]


def write(path: Path, header: str, rows: list[Row]) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def shops(path: Path, rows: int = 100, names: str = "abc", order: int = 1, **starts: int) -> Path:
    """Shops one after the other, the value of day i 1000 * shop + i; newest first with ``order`` -1."""
    table: list[Row] = []
    for number, name in enumerate(names):
        first = starts.get(name, 0)
        own = [
            (f"shop {name}", day, 1000 * number + first + i) for i, day in enumerate(days(rows, first))
        ]
        table += own[::order]
    return write(path, "shop,day,sales", table)


def opened(path: Path, **settings: object) -> DataSource:
    return open_source(DataConfig(data=str(path), **settings), seed=0)  # type: ignore[arg-type]


def task_of(source: DataSource, **settings: object) -> TaskSpec:
    return fit_forecast(source, DataConfig(**settings))[0]  # type: ignore[arg-type]


def rows_of(reader: ForecastReader, task: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (N, window) and targets (N, horizon) of the first channel, in the data's own units."""
    every = np.arange(len(reader))
    (values,), read = reader.read(every)
    series = reader.series(every)
    assert series is not None
    np.testing.assert_array_equal(read, every)
    assert isinstance(task.input, SeriesInput)
    inputs = values[:, :, 0] * task.input.std[0] + task.input.mean[0]
    inputs = inputs * series.std + series.mean
    targets = reader.targets(every)[:, :, 0] * series.std + series.mean
    return inputs.round(2), targets.round(6)


@pytest.mark.parametrize("scale", ["each", "together"])
@pytest.mark.parametrize("order", [1, -1])
def test_windows_stay_inside_one_series_and_split_at_the_same_times(
    tmp_path: Path, scale: str, order: int
) -> None:
    source = opened(shops(tmp_path / "a.csv", order=order), window=7, horizon=3)
    assert (source.kind, source.task, source.target_names) == ("series", "forecast", ("sales",))
    task = task_of(source, series_scale=scale)
    assert isinstance(task.input, SeriesInput)
    assert (task.input.series_column, task.input.scaled_by_series) == ("shop", scale == "each")
    first = 0
    for split, end in (("train", 80), ("val", 90), ("test", 100)):
        inputs, targets = rows_of(ForecastReader(source.splits[split], task), task)
        # All windows of each shop, in the order of the shops.
        starts = np.arange(max(first, 7), end - 3 + 1)
        expected = np.concatenate([1000 * shop + starts for shop in range(3)])
        np.testing.assert_allclose(targets, expected[:, None] + np.arange(3), atol=1e-6)
        np.testing.assert_allclose(inputs, expected[:, None] + np.arange(-7, 0), atol=0.02)
        first = end
    assert ("newest first" in " ".join(messages(source.notices))) == (order == -1)


def test_each_series_has_the_scale_of_its_own_training_rows(tmp_path: Path) -> None:
    source = opened(shops(tmp_path / "a.csv"), window=7, horizon=3)
    task, notices = fit_forecast(source, DataConfig())
    assert isinstance(task.input, SeriesInput)
    for number, one in enumerate(task.input.series):
        np.testing.assert_allclose(one.mean, 1000 * number + 39.5)
        np.testing.assert_allclose(one.std, np.arange(80).std())
    assert (task.input.mean, task.input.std) == ((0.0,), (1.0,))
    assert [one.id for one in task.input.series] == ["shop a", "shop b", "shop c"]
    said = " ".join(messages(notices))
    assert "3 series, told apart by 'shop'; windows stay inside one; --series-column" in said
    assert "each is scaled by its own training rows" in said
    # In one scale the level of a shop does not count.
    (values,), _ = ForecastReader(source.splits["val"], task).read(np.array([0, 8, 16]))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    together, notices = fit_forecast(source, DataConfig(series_scale="together"))
    assert isinstance(together.input, SeriesInput)
    np.testing.assert_allclose(together.input.mean, 1039.5)
    assert "scaled together" in " ".join(messages(notices))
    assert TaskSpec.model_validate(task.model_dump(mode="json")) == task


def test_ids_are_series_and_time_and_recorded_splits_give_them_again(tmp_path: Path) -> None:
    source = opened(shops(tmp_path / "a.csv"), window=7, horizon=3)
    assert source.splits["train"].ids[0] == "shop a 2024-01-08"
    ids = [id_ for samples in source.splits.values() for id_ in samples.ids]
    assert len(set(ids)) == len(ids)
    assert source.options == {
        "window": 7, "horizon": 3, "series_column": "shop", "time_splits": [80, 10, 10]
    }  # fmt: skip
    write_splits(tmp_path / "splits.json", source)
    again, said = apply_splits(tmp_path / "splits.json", opened(tmp_path / "a.csv", **source.options))
    assert said == []
    task = task_of(source)
    for split, samples in source.splits.items():
        assert again.splits[split].ids == samples.ids
        np.testing.assert_array_equal(
            ForecastReader(again.splits[split], task).array(), ForecastReader(samples, task).array()
        )


def test_series_of_other_lengths_take_part_where_they_have_rows(tmp_path: Path) -> None:
    """Shop b opens on day 60, shop c on day 85, after training has ended."""
    table: list[Row] = [
        (f"shop {name}", day, 1000 * number + first + i)
        for number, (name, first) in enumerate((("a", 0), ("b", 60), ("c", 85)))
        for i, day in enumerate(days(120 - first, first))
    ]
    path = write(tmp_path / "a.csv", "shop,day,sales", table)
    source = opened(path, window=7, horizon=3, time_splits=(80, 20, 20))
    task = task_of(source)
    assert isinstance(task.input, SeriesInput)
    assert [one.id for one in task.input.series] == ["shop a", "shop b"]
    counts = {}
    for split, samples in source.splits.items():
        assert isinstance(samples.items, Windows)
        counts[split] = np.bincount(samples.items.which, minlength=3).tolist()
    assert counts == {"train": [71, 11, 0], "val": [18, 18, 6], "test": [18, 18, 18]}
    reader = ForecastReader(source.splits["val"], task)
    (notice,) = reader.notices
    assert notice.code == "unseen-series"
    expected = "1 series that training did not see, 'shop c': each is scaled by its rows before"
    assert expected in notice.message
    series = reader.series(np.arange(len(reader)))
    assert series is not None
    # Days 85 to 91 come before the first forecast of shop c.
    np.testing.assert_allclose(series.mean[-1], 2000 + np.arange(85, 92).mean())
    _, targets = rows_of(reader, task)
    assert targets[-1].tolist() == [2097, 2098, 2099]


def test_series_that_are_too_short_are_left_out_and_named(tmp_path: Path) -> None:
    path = shops(tmp_path / "a.csv")
    path.write_text(path.read_text() + "tiny,2024-02-01,1\ntiny,2024-02-02,2\n")
    source = opened(path, window=7, horizon=3)
    said = " ".join(messages(source.notices))
    assert "1 of 4 series are left out, too short for a window: 'tiny'" in said
    items = source.splits["train"].items
    assert isinstance(items, Windows)
    assert [series.id for series in items.series] == ["shop a", "shop b", "shop c"]


def test_files_that_are_splits_divide_each_series(tmp_path: Path) -> None:
    for split, first, count in (("train", 0, 60), ("val", 60, 20), ("test", 80, 20)):
        rows: list[Row] = [
            (name, day, 1000 * number + first + i)
            for number, name in enumerate(("north", "south"))
            for i, day in enumerate(days(count, first))
        ]
        write(tmp_path / f"a_{split}.csv", "region,day,sales", rows)
    source = opened(tmp_path, window=7, horizon=3)
    assert source.given == {"train", "val", "test"}
    task = task_of(source)
    _, targets = rows_of(ForecastReader(source.splits["val"], task), task)
    assert targets[:, 0].tolist() == [*range(60, 78), *range(1060, 1078)]


@pytest.mark.parametrize(
    ("header", "ids", "expected"),
    [
        ("shop,item,day,sales", [("a", "x"), ("a", "y"), ("b", "x")], "shop,item"),
        ("code,place,day,sales", [("A", "Ulm"), ("B", "Bonn")], "code"),
        ("kind,place,day,sales", [("shop", "Ulm"), ("shop", "Bonn")], "place"),
        ("store_id,day,sales", [(1,), (2,)], "store_id"),
    ],
)
def test_the_fewest_columns_that_tell_rows_apart_are_chosen(
    tmp_path: Path, header: str, ids: list[Row], expected: str
) -> None:
    rows: list[Row] = [(*id_, day, i) for id_ in ids for i, day in enumerate(days(40))]
    path = write(tmp_path / "a.csv", header, rows)
    kind = find_kind(path, DataConfig())
    assert kind is not None
    assert kind.name == "series"
    source = opened(path, window=5, horizon=2)
    assert source.options["series_column"] == expected
    items = source.splits["train"].items
    assert isinstance(items, Windows)
    names = header.split(",")
    where = [names.index(name) for name in expected.split(",")]
    assert [one.id for one in items.series] == ["/".join(str(id_[i]) for i in where) for id_ in ids]


def test_times_that_repeat_without_an_id_are_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    rows: list[Row] = [(day, i) for i, day in enumerate([*days(40), *days(40)])]
    path = write(tmp_path / "a.csv", "day,sales", rows)
    with pytest.raises(DlcliError, match="several rows have the time 2024-01-01 00:00:00") as caught:
        opened(path, window=5, horizon=2)
    assert caught.value.hint is not None
    for way in ("--series-column", "data.drop=[day]", "--kind tabular"):
        assert way in caught.value.hint
    assert "no time column" in messages(opened(path, window=5, horizon=2, drop=("day",)).notices)[0]


def test_a_column_that_does_not_tell_rows_apart_is_named(tmp_path: Path) -> None:
    rows: list[Row] = [(day, "weekday", i) for i, day in enumerate([*days(40), *days(40)])]
    path = write(tmp_path / "a.csv", "day,kind,sales", rows)
    with pytest.raises(DlcliError, match="apart; 'kind' does not"):
        opened(path, window=5, horizon=2)


def test_a_named_column_is_checked(tmp_path: Path) -> None:
    path = shops(tmp_path / "a.csv")
    assert opened(path, series_column="shop").options["series_column"] == "shop"
    with pytest.raises(DlcliError, match="no column 'shopp'"):
        opened(path, series_column="shopp")
    with pytest.raises(UsageError, match="it is the time column"):
        opened(path, series_column="day")


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        # Classes of measurements that share their times.
        ("day,x,label", [(day, i, name) for name in "ab" for i, day in enumerate(days(40))]),
        # A column of words that varies besides the id.
        ("shop,day,sky,x", [(n, day, "fi"[i % 2], i) for n in "ab" for i, day in enumerate(days(40))]),
        # Events of users, at no regular times.
        ("user,day,x", [(n, days(400)[i * i % 397], i) for n in "ab" for i in range(40)]),
        # Two rows of each.
        ("name,day,x", [(f"n{i}", day, i) for i in range(20) for day in days(2)]),
    ],
)
def test_other_tables_with_dates_are_left_to_others(
    tmp_path: Path, header: str, rows: list[Row]
) -> None:
    path = write(tmp_path / "a.csv", header, rows)
    assert not KINDS.get("series").recognises(path, DataConfig())


def test_predict_forecasts_each_series_with_the_times_of_its_steps(tmp_path: Path) -> None:
    source = opened(shops(tmp_path / "a.csv"), window=7, horizon=3)
    task = task_of(source)
    path = shops(tmp_path / "new.csv", 20, "bz", -1)  # newest first, and a shop of its own
    path.write_text(path.read_text() + "tiny,2024-02-01,1\n")
    samples = forecast_inputs([str(path)], task)
    assert samples.ids[:2] == (f"{path} shop b 2024-01-21", f"{path} shop z 2024-01-21")
    reader = ForecastReader(samples, task)
    assert reader.row_keys(1) == [{"series": "shop z", "time": f"2024-01-{day}"} for day in (21, 22, 23)]
    (values,), read = reader.read(np.arange(3))
    assert read.tolist() == [0, 1]
    assert reader.bad == {f"{path} tiny 2024-02-02": "only 1 rows before it; the input is 7"}
    series = reader.series(read)
    assert series is not None
    last = values[:, -1, 0] * series.std[:, 0] + series.mean[:, 0]
    np.testing.assert_allclose(last, [19, 1019], rtol=1e-4)
    # The known shop has the scale of training, the new one that of its history.
    np.testing.assert_allclose(series.mean[:, 0], [1039.5, 1009.5])
    assert {notice.code for notice in reader.notices} == {"sorted-time", "unseen-series"}


def test_a_model_of_one_series_reads_a_table_of_several_by_series(tmp_path: Path) -> None:
    rows: list[Row] = [(day, i) for i, day in enumerate(days(100))]
    source = opened(write(tmp_path / "one.csv", "day,sales", rows), window=7, horizon=3)
    task = task_of(source)
    path = shops(tmp_path / "new.csv", 20, "ab")
    assert len(forecast_inputs([str(path)], task)) == 2
    other = open_other(DataConfig(data=str(path), window=7, horizon=3), task)
    _, targets = rows_of(ForecastReader(other.splits["all"], task), task)
    assert targets[:, 0].tolist() == [*range(7, 18), *range(1007, 1018)]


def test_a_table_without_the_series_column_is_refused(tmp_path: Path) -> None:
    source = opened(shops(tmp_path / "a.csv"), window=7, horizon=3)
    rows: list[Row] = [(day, i) for i, day in enumerate(days(20))]
    path = write(tmp_path / "one.csv", "day,sales", rows)
    with pytest.raises(DlcliError, match="no column 'shop'"):
        forecast_inputs([str(path)], task_of(source))


def test_a_series_without_any_value_in_a_column_is_left_out(tmp_path: Path) -> None:
    rows: list[Row] = [
        (name, day, i, "" if name == "b" else i * 2) for name in "ab" for i, day in enumerate(days(60))
    ]
    source = opened(write(tmp_path / "a.csv", "shop,day,sales,visits", rows), window=5, horizon=2)
    said = " ".join(messages(source.notices))
    assert "1 of 2 series are left out, a column without any value: 'b'" in said
