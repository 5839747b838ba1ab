"""Forecasting: splits by time, windows, scales of the training rows, the order of time."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.kinds import KINDS, ModelNeeds, ReadOptions, find_kind
from dlcli.data.notices import messages
from dlcli.data.series.forecast import fit_forecast
from dlcli.data.series.forecast_inputs import forecast_inputs
from dlcli.data.series.windows import ForecastReader, LongSeries, Windows
from dlcli.data.sources import open_other, open_source
from dlcli.data.splits import apply_splits, write_splits
from dlcli.errors import DlcliError, UsageError
from dlcli.task import SeriesInput, TaskSpec

START = datetime(2024, 1, 1)


def hours(count: int) -> list[str]:
    return [str(START + timedelta(hours=i)) for i in range(count)]


def write_csv(path: Path, columns: dict[str, list[object]]) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join("" if v is None else str(v) for v in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def table(path: Path, rows: int = 200, **more: list[object]) -> Path:
    """A column `row` that counts, so that every value says where it comes from, and another."""
    return write_csv(
        path, {"date": hours(rows), "row": list(range(rows)), "up": [i / 2 for i in range(rows)], **more}
    )


def opened(path: Path, **settings: object) -> DataSource:
    return open_source(DataConfig(data=str(path), **settings), seed=0)  # type: ignore[arg-type]


def task_of(source: DataSource, **settings: object) -> tuple[TaskSpec, list[str]]:
    task, notices = fit_forecast(source, DataConfig(**settings))  # type: ignore[arg-type]
    return task, messages(notices)


def readers(source: DataSource, task: TaskSpec) -> dict[str, ForecastReader]:
    return {split: ForecastReader(samples, task) for split, samples in source.splits.items()}


def rows_of(reader: ForecastReader, task: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the file that inputs (N, window) and targets (N, horizon) are, by the column `row`."""
    everything = np.arange(len(reader))
    (values,), kept = reader.read(everything)
    np.testing.assert_array_equal(kept, everything)
    assert isinstance(task.input, SeriesInput)
    channel = task.input.channels.index("row")
    inputs = values[:, :, channel].astype(float) * task.input.std[channel] + task.input.mean[channel]
    target = [t.name for t in task.targets].index("row")
    return inputs.round().astype(int), reader.targets(everything)[:, :, target].astype(int)


@pytest.mark.parametrize(
    ("settings", "bounds"),
    [
        ({}, (160, 180, 200)),
        ({"val_fraction": 0.2, "test_fraction": 0.3}, (100, 140, 200)),
        ({"time_splits": (0.5, 0.25, 0.25)}, (100, 150, 200)),
        ({"time_splits": (90, 40, 50)}, (90, 130, 180)),
        ({"time_splits": (0.7, 0.3)}, (140, 200, 200)),
    ],
)
def test_targets_stay_inside_their_split_and_inputs_come_just_before(
    tmp_path: Path, settings: dict[str, object], bounds: tuple[int, int, int]
) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4, **settings)
    task, _ = task_of(source)
    first = 0
    for (split, reader), end in zip(readers(source, task).items(), bounds, strict=False):
        inputs, targets = rows_of(reader, task)
        assert targets.min() >= first
        assert targets.max() < end, split
        # All windows, one after the other.
        starts = np.arange(max(first, 10), end - 4 + 1)
        np.testing.assert_array_equal(targets, starts[:, None] + np.arange(4))
        np.testing.assert_array_equal(inputs, starts[:, None] + np.arange(-10, 0))
        first = end
    assert set(source.splits) == (
        {"train", "val", "test"} if bounds[2] > bounds[1] else {"train", "val"}
    )


def test_an_input_reaches_back_over_a_boundary(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    task, _ = task_of(source)
    inputs, targets = rows_of(readers(source, task)["val"], task)
    assert (inputs[0].tolist(), targets[0].tolist()) == (list(range(150, 160)), [160, 161, 162, 163])


def test_scales_are_those_of_the_training_rows(tmp_path: Path) -> None:
    rows = 200
    calm = table(tmp_path / "calm.csv", rows, wave=[float(i % 7) for i in range(rows)])
    wild = [float(i % 7) if i < 160 else 1e6 * i for i in range(rows)]
    storm = table(tmp_path / "storm.csv", rows, wave=wild)  # type: ignore[arg-type]
    tasks = [task_of(opened(path, window=10, horizon=4))[0] for path in (calm, storm)]
    assert tasks[0] == tasks[1]
    assert isinstance(tasks[0].input, SeriesInput)
    np.testing.assert_allclose(tasks[0].input.mean[0], np.arange(160).mean())
    np.testing.assert_allclose(tasks[0].targets[0].std, np.arange(160).std())


def test_targets_are_in_the_units_of_the_data_and_inputs_are_scaled(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4, target="up")
    task, _ = task_of(source)
    reader = readers(source, task)["train"]
    (values,), _ = reader.read(np.array([0]))
    assert values.dtype == np.float32
    assert values.shape == (1, 10, 2)  # every channel is seen, one is predicted
    assert isinstance(task.input, SeriesInput)
    np.testing.assert_allclose(
        values[0, :, 1], (np.arange(10) / 2 - task.input.mean[1]) / task.input.std[1], rtol=1e-5
    )
    targets = reader.targets(np.array([0]))
    assert targets.dtype == np.float64
    np.testing.assert_array_equal(targets, [[[5.0], [5.5], [6.0], [6.5]]])
    assert task.output_shape == (4, 1)


def test_the_whole_split_equals_its_batches(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    task, _ = task_of(source)
    reader = readers(source, task)["train"]
    whole = reader.array()
    assert whole is not None
    indices = np.array([7, 0, 7, 3])
    (some,), _ = reader.read(indices)
    np.testing.assert_array_equal(some, whole[0][indices])
    some[:] = 0  # the caller's own copy
    np.testing.assert_array_equal(reader.read(indices)[0][0], whole[0][indices])


def test_a_split_too_large_for_memory_is_read_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    task, _ = task_of(source)
    reader = readers(source, task)["train"]
    monkeypatch.setattr("dlcli.data.series.windows._MAX_ARRAY_BYTES", len(reader) * (10 * 2 * 4))
    assert reader.array() is None


def test_windows_share_one_series(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    parts = [samples.items for samples in source.splits.values()]
    assert all(isinstance(items, Windows) for items in parts)
    joined = Windows.gather(parts, np.array([200 - 60, 0]))  # type: ignore[arg-type]
    assert len(joined.series) == 1
    assert joined.series[0] is parts[0].series[0]  # type: ignore[attr-defined]


def test_windows_read_only_their_own_series() -> None:
    def series(offset: float) -> LongSeries:
        values = np.arange(20.0)[:, None] + offset
        return LongSeries(values=values, target_values=values, channels=("x",))

    one, two = series(0), series(100)
    a = Windows((one,), np.zeros(2, np.int64), np.array([5, 6]))
    b = Windows((two, one), np.array([0, 1, 0]), np.array([5, 7, 8]))
    joined = Windows.gather([a, b], np.array([4, 0, 3]))
    found = [
        (joined.series[w].values[0, 0], s) for w, s in zip(joined.which, joined.starts, strict=True)
    ]
    assert found == [(100.0, 8), (0.0, 5), (0.0, 7)]


def test_ids_are_the_times_of_the_first_predicted_rows(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    assert source.splits["train"].ids[:2] == ("2024-01-01 10:00:00", "2024-01-01 11:00:00")
    assert source.splits["val"].ids[0] == hours(200)[160]
    ids = [id_ for samples in source.splits.values() for id_ in samples.ids]
    assert len(set(ids)) == len(ids)


def test_recorded_splits_give_the_same_windows_again(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    write_splits(tmp_path / "splits.json", source)
    again, said = apply_splits(
        tmp_path / "splits.json", opened(tmp_path / "a.csv", window=10, horizon=4)
    )
    assert said == []
    task, _ = task_of(source)
    for split, reader in readers(source, task).items():
        other = ForecastReader(again.splits[split], task)
        np.testing.assert_array_equal(other.array(), reader.array())


def test_a_file_that_has_grown_keeps_its_splits_by_the_options(tmp_path: Path) -> None:
    before = opened(table(tmp_path / "a.csv", 200), window=10, horizon=4)
    table(tmp_path / "a.csv", 300)
    after = open_source(DataConfig(data=str(tmp_path / "a.csv"), **before.options), seed=0)
    for split, samples in before.splits.items():
        assert after.splits[split].ids == samples.ids


def test_default_settings_have_a_notice(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv", 1000))
    assert source.kind == "series"
    task, notes = task_of(source)
    assert (task.input.shape, task.horizon) == ((96, 2), 24)
    said = " ".join(notes)
    for part in ("window 96 and horizon 24", "--kind tabular", "by time", "--target"):
        assert part in said
    asked = opened(tmp_path / "a.csv", window=30, horizon=5, target="row")
    assert len(task_of(asked)[1]) == 1


@pytest.mark.parametrize("name", ["date", "Time", "timestamp", "ds", "datetime", "whenever"])
def test_a_table_over_time_is_recognised(tmp_path: Path, name: str) -> None:
    path = write_csv(tmp_path / "a.csv", {name: hours(30), "x": list(range(30))})
    kind = find_kind(path, DataConfig())
    assert kind is not None
    assert kind.name == "series"


@pytest.mark.parametrize(
    "columns",
    [
        {"x": list(range(30)), "y": list(range(30))},
        {"date": hours(30), "x": list(range(30)), "label": ["cat", "dog"] * 15},
        {"date": [hours(3)[i // 10] for i in range(30)], "x": list(range(30))},
        {"time": [i * i for i in range(30)], "x": list(range(30))},
    ],
)
def test_other_tables_are_left_to_others_unless_a_horizon_is_given(
    tmp_path: Path, columns: dict[str, list[object]]
) -> None:
    path = write_csv(tmp_path / "a.csv", columns)
    series = KINDS.get("series")
    assert not series.recognises(path, DataConfig())
    assert not series.recognises(path, DataConfig(task="regression", horizon=3))
    assert series.recognises(path, DataConfig(horizon=3))


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y %H:%M"])
def test_day_and_month_are_resolved_by_the_order_of_the_rows(tmp_path: Path, form: str) -> None:
    # Days 8 to 12 and then 1 to 12: each cell alone could be either.
    days = [datetime(2024, 1, 8) + timedelta(days=i) for i in range(5)]
    days += [datetime(2024, 2, 1) + timedelta(days=i) for i in range(12)]
    path = write_csv(tmp_path / "a.csv", {"date": [d.strftime(form) for d in days], "x": [*range(17)]})
    source = opened(path, window=3, horizon=1)
    assert source.splits["train"].ids[0] == "2024-01-11"


def test_ambiguous_dates_are_an_error(tmp_path: Path) -> None:
    days = [f"01/{day:02}/2024" for day in range(1, 13)]
    path = write_csv(tmp_path / "a.csv", {"date": days, "x": list(range(12))})
    with pytest.raises(DlcliError, match="'01/01/2024', which is not a time") as caught:
        opened(path, window=3, horizon=1, time_column="date", time_splits=(8, 2, 2))
    assert caught.value.hint is not None
    assert "2024-01-31" in caught.value.hint


def test_the_month_after_a_monthly_series_is_a_calendar_month(tmp_path: Path) -> None:
    months = [f"{2000 + i // 12}-{i % 12 + 1:02}" for i in range(61)]
    path = write_csv(tmp_path / "a.csv", {"Month": months, "x": [i % 12 for i in range(61)]})
    source = opened(path, window=12, horizon=3)
    assert source.notices == ()  # months differ in length, which is no gap
    task, _ = task_of(source)
    assert forecast_inputs([str(path)], task).ids == (f"{path} 2005-02-01",)


def test_a_table_newest_first_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", {"date": hours(200)[::-1], "row": list(range(200))[::-1]})
    kind = find_kind(path, DataConfig())
    assert kind is not None
    assert kind.name == "series"
    source = opened(path, window=10, horizon=4)
    assert "newest first; they are read in the order of 'date'" in " ".join(messages(source.notices))
    forwards = opened(table(tmp_path / "b.csv"), window=10, horizon=4, drop=("up",))
    task, _ = task_of(source)
    assert task == task_of(forwards)[0]
    for split, reader in readers(source, task).items():
        assert reader.samples.ids == forwards.splits[split].ids
        inputs, targets = rows_of(reader, task)
        np.testing.assert_array_equal(inputs[:, -1] + 1, targets[:, 0])


def test_rows_out_of_order_are_sorted_and_the_first_is_named(tmp_path: Path) -> None:
    stamps, rows = hours(50), list(range(50))
    stamps[20], stamps[21] = stamps[21], stamps[20]
    rows[20], rows[21] = rows[21], rows[20]
    path = write_csv(tmp_path / "a.csv", {"date": stamps, "row": rows})
    source = opened(path, window=5, horizon=2)
    (notice,) = source.notices
    assert (notice.code, notice.level) == ("sorted-time", "warning")
    assert "decreases at row 21, from 0); they are sorted by 'date'" in notice.message
    task, _ = task_of(source)
    inputs, targets = rows_of(readers(source, task)["train"], task)
    np.testing.assert_array_equal(np.diff(np.concatenate([inputs, targets], axis=1)), 1)


def test_numbers_out_of_order_are_no_time_unless_they_are_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", {"time": [i * 7 % 50 for i in range(50)], "x": [*range(50)]})
    with pytest.raises(DlcliError, match=r"decreases at row 8 .*49 is followed by 6") as caught:
        opened(path, window=5, horizon=2)
    assert caught.value.hint is not None
    assert "--time-column" in caught.value.hint
    assert opened(path, window=5, horizon=2, time_column="time").splits["train"].ids[0] == "5"


def test_a_split_that_begins_before_the_one_before_has_ended_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "a_train.csv", {"date": hours(60), "x": list(range(60))})
    write_csv(tmp_path / "a_test.csv", {"date": hours(80)[40:], "x": list(range(40, 80))})
    with pytest.raises(DlcliError, match="the time decreases at row 60"):
        opened(tmp_path / "a_train.csv", window=5, horizon=2)


def test_gaps_and_repeats_are_counted(tmp_path: Path) -> None:
    stamps = hours(60)
    del stamps[30:35]
    stamps[10] = stamps[9]
    path = write_csv(tmp_path / "a.csv", {"date": stamps, "x": list(range(55))})
    source = opened(path, window=5, horizon=2)
    said = " ".join(messages(source.notices))
    assert "1 rows have the same time" in said
    assert f"2 gaps, but each row is one step; the largest is 6 steps, after {hours(30)[29]}" in said
    ids = [id_ for samples in source.splits.values() for id_ in samples.ids]
    assert len(set(ids)) == len(ids)


def test_a_missing_time_is_an_error(tmp_path: Path) -> None:
    stamps: list[object] = [*hours(50)]
    stamps[7] = None
    path = write_csv(tmp_path / "a.csv", {"date": stamps, "x": list(range(50))})
    with pytest.raises(DlcliError, match=r"1 rows have no 'date', first row 7"):
        opened(path, window=5, horizon=2)


def test_a_table_without_time_counts_rows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", {"x": list(range(50)), "y": list(range(50))})
    source = opened(path, window=5, horizon=2)
    assert source.splits["train"].ids[0] == "row 5"
    assert "no time column" in messages(source.notices)[0]


def test_inputs_do_not_depend_on_later_values(tmp_path: Path) -> None:
    values: list[object] = [float(i) for i in range(100)]
    for i in (0, 1, 40, 41, 79, 80, 81):
        values[i] = None
    path = write_csv(tmp_path / "a.csv", {"date": hours(100), "row": values})
    source = opened(path, window=10, horizon=2)  # train ends behind row 79
    assert "7 of 100 values are missing" in " ".join(messages(source.notices))
    items = source.splits["train"].items
    assert isinstance(items, Windows)
    (series,) = items.series
    seen, truth = series.values[:, 0], series.target_values[:, 0]
    assert seen[[0, 1, 2]].tolist() == [2, 2, 2]
    assert seen[[40, 41, 42]].tolist() == [39, 39, 42]
    assert seen[[79, 80, 81, 82]].tolist() == [78, 78, 78, 82]
    # Targets are lines, but none across the boundary: row 79 is train's, 80 and 81 are val's.
    assert truth[[40, 41]].tolist() == [40, 41]
    assert truth[[79, 80, 81]].tolist() == [78, 82, 82]


def test_unusable_columns_are_dropped_and_named(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv",
        place=["north", "south"] * 100,
        blank=[None] * 200,
        late=[None] * 160 + [1.5] * 40,
        flat=[3] * 200,
    )
    source = opened(path, window=10, horizon=4)
    said = " ".join(messages(source.notices))
    assert "not numeric: 'place'" in said
    assert "empty: 'blank'" in said
    assert "empty in the training rows: 'late'" in said
    assert source.target_names == ("row", "up", "flat")
    task, notes = task_of(source)
    assert isinstance(task.input, SeriesInput)
    assert task.input.std[2] == 1
    assert any("constant in the training rows" in note and "'flat'" in note for note in notes)


def test_dropped_columns_are_not_read(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4, drop=("up",))
    assert source.target_names == ("row",)


def test_targets_are_named_and_checked(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", place=["north"] * 200)
    assert opened(path, window=10, horizon=4, target="up, row").target_names == ("up", "row")
    with pytest.raises(DlcliError, match="'rwo'") as caught:
        opened(path, window=10, horizon=4, target="rwo")
    assert caught.value.hint is not None
    assert "row" in caught.value.hint
    with pytest.raises(DlcliError, match="'place'"):
        opened(path, window=10, horizon=4, target="place")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": 150, "horizon": 20}, "its train split has 160 rows; window and horizon need 170"),
        ({"window": 10, "horizon": 21}, "its val split has 20 rows; window and horizon need 21"),
        ({"window": 10, "horizon": 4, "time_splits": (100, 97, 3)}, "its test split has 3 rows"),
    ],
)
def test_a_series_too_short_for_a_window_is_refused(
    tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(DlcliError, match=said) as caught:
        opened(table(tmp_path / "a.csv"), **settings)
    assert caught.value.hint is not None
    assert "--window" in caught.value.hint


@pytest.mark.parametrize(
    "sizes",
    [(0.5, 100, 20), (0.9, 0.2, 0.1), (150, 40, 11), (1.5, 2.5), (100,), (0, 100, 100), (-1, 3, 3)],
)
def test_time_splits_that_make_no_sense_are_refused(tmp_path: Path, sizes: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="time_splits"):
        opened(table(tmp_path / "a.csv"), window=10, horizon=4, time_splits=sizes)


@pytest.mark.parametrize(
    "settings", [{"split_column": "up"}, {"group_column": "up"}, {"task": "classification"}]
)
def test_settings_that_do_not_suit_a_long_series(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        opened(table(tmp_path / "a.csv"), kind="series", **settings)


def test_train_and_test_files_are_one_series(tmp_path: Path) -> None:
    whole = table(tmp_path / "whole.csv", 200).read_text().splitlines()
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_text("\n".join(whole[:151]) + "\n")
    (folder / "test.csv").write_text("\n".join([whole[0], *whole[151:]]) + "\n")
    source = opened(folder, window=10, horizon=4)
    task, _ = task_of(source)
    found = {split: rows_of(reader, task) for split, reader in readers(source, task).items()}
    assert found["train"][1].max() == 134
    assert (found["val"][1].min(), found["val"][1].max()) == (135, 149)
    assert (found["test"][1].min(), found["test"][1].max()) == (150, 199)
    assert found["test"][0].min() == 140  # reaches back into train.csv


def test_other_data_is_read_as_one_split_with_channels_by_name(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    task, _ = task_of(source)
    rows = 30
    path = write_csv(
        tmp_path / "b.csv",
        {
            "date": hours(rows),
            "more": [7] * rows,
            "up": [i / 2 for i in range(rows)],
            "row": list(range(rows)),
        },
    )
    other = open_other(DataConfig(data=str(path), **source.options), task)
    assert list(other.splits) == ["all"]
    inputs, targets = rows_of(ForecastReader(other.splits["all"], task), task)
    np.testing.assert_array_equal(targets, np.arange(10, 27)[:, None] + np.arange(4))
    np.testing.assert_array_equal(inputs, np.arange(10, 27)[:, None] + np.arange(-10, 0))
    lacking = write_csv(tmp_path / "c.csv", {"date": hours(rows), "row": list(range(rows))})
    found = open_other(DataConfig(data=str(lacking), **source.options), task)
    with pytest.raises(DlcliError, match="'up'"):
        ForecastReader(found.splits["all"], task)


def test_the_same_file_keeps_its_test_split_for_a_model_that_has_left_its_run(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    task, _ = task_of(source)
    other = open_other(DataConfig(data=str(tmp_path / "a.csv"), **source.options), task)
    assert other.splits["test"].ids == source.splits["test"].ids
    assert len(other.splits["all"]) == 200 - 10 - 4 + 1


def test_the_input_of_a_prediction_is_the_last_window(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    task, _ = task_of(source)
    path = write_csv(
        tmp_path / "new.csv",
        {"up": [i / 2 for i in range(12)], "date": hours(12), "row": list(range(12))},
    )
    samples = KINDS.get("series").inputs([str(path)], task)
    assert samples.ids == (f"{path} 2024-01-01 12:00:00",)
    reader = KINDS.get("series").reader(samples, task, ReadOptions())
    (values,), _ = reader.read(np.array([0]))
    assert isinstance(task.input, SeriesInput)
    seen = values[0] * np.array(task.input.std) + np.array(task.input.mean)
    np.testing.assert_allclose(
        seen, np.stack([np.arange(2, 12), np.arange(2, 12) / 2], axis=1), atol=1e-4
    )


def test_a_table_shorter_than_the_window_is_refused(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    task, _ = task_of(source)
    with pytest.raises(DlcliError, match="has 9 rows, but the input of the model is 10"):
        forecast_inputs([str(table(tmp_path / "b.csv", 9))], task)
    lacking = write_csv(tmp_path / "c.csv", {"date": hours(20), "row": list(range(20))})
    with pytest.raises(DlcliError, match="no column 'up'"):
        forecast_inputs([str(lacking)], task)


def test_the_kind_fits_and_reads_through_its_registered_functions(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "a.csv"), window=10, horizon=4)
    kind = KINDS.get("series")
    task, _ = kind.fit(source, TrainConfig(), ModelNeeds(name="any"))
    assert task == task_of(source)[0]
    assert isinstance(kind.reader(source.splits["val"], task, ReadOptions()), ForecastReader)
