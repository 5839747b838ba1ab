from __future__ import annotations

import json
from datetime import date, time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tabular import TABULAR, fit, read, save

from dlcli.config import DataConfig
from dlcli.data.kinds import KINDS, ReadOptions, find_kind
from dlcli.data.notices import messages
from dlcli.data.tables.columns import encode_columns, fit_columns
from dlcli.data.tables.rows import TableRows
from dlcli.errors import DlcliError, UsageError
from dlcli.task import TaskSpec

RNG = np.random.default_rng(0)


def columns(frame: pl.DataFrame, **options):
    spec, notices = fit_columns(frame, np.arange(frame.height), **options)
    return spec, messages(notices)


def mixed(tmp_path: Path, rows: int = 40) -> Path:
    lines = ["size,colour,ok,price"]
    lines += [
        f"{i * 7 % 11 + 0.5},{['red', 'green', 'blue'][i % 3]},{i % 2 == 0},{i * 1.5}"
        for i in range(rows)
    ]
    return save(tmp_path / "t.csv", lines)


def test_a_table_is_recognised_last(tmp_path):
    path = mixed(tmp_path)
    assert find_kind(path, DataConfig()) is TABULAR
    assert TABULAR.order == max(entry.order for _, entry in KINDS.entries())
    assert TABULAR.recognises(tmp_path, DataConfig())
    assert not TABULAR.recognises(save(tmp_path / "t.txt", ["a,b"]), DataConfig())


def test_the_last_column_is_the_target_with_a_notice(tmp_path):
    listing = read(mixed(tmp_path))
    assert listing.task == "regression"
    assert listing.target_names == ("price",)
    assert listing.options == {"target": "price", "task": "regression"}
    assert "'price' is the target" in messages(listing.notices)[0]
    samples = listing.splits["all"]
    assert samples.ids[:2] == ("0", "1")
    assert samples.targets.shape == (40, 1)
    assert samples.items.frame.columns == ["size", "colour", "ok"]


def test_a_column_called_label_is_the_target(tmp_path):
    listing = read(save(tmp_path / "t.csv", ["Label,x", "a,1", "b,2"]))
    assert listing.class_names == ("a", "b")


def test_detected_options_reproduce_the_listing(tmp_path):
    path = mixed(tmp_path)
    listing = read(path)
    again = read(path, **listing.options)
    assert again.task == listing.task
    assert again.splits["all"].ids == listing.splits["all"].ids
    assert again.fingerprint == listing.fingerprint


def test_encoded_rows_are_standard_numbers_then_codes(tmp_path):
    listing = read(mixed(tmp_path))
    task, notes = fit(listing)
    assert notes == []
    assert [c.name for c in task.input.numbers] == ["size"]
    assert [c.values for c in task.input.categories] == [("blue", "green", "red"), ("False", "True")]
    (array,) = TABULAR.reader(listing.splits["all"], task, ReadOptions()).array()
    assert array.dtype == np.float32
    assert array.shape == (40, *task.input.shape)
    assert abs(array[:, 0].mean()) < 1e-6
    assert abs(array[:, 0].std() - 1) < 1e-6
    assert array[:3, 1:].tolist() == [[3, 2], [2, 1], [1, 2]]
    target = task.targets[0]
    assert target.mean == pytest.approx(listing.splits["all"].targets.mean())
    assert target.std == pytest.approx(listing.splits["all"].targets.std())


def test_encoders_see_training_rows_only(tmp_path):
    rows = [f"{i},{'ab'[i % 2]},train,{i % 2}" for i in (3, 1, 4, 1, 5, 9)]
    rows += ["1000,z,test,0", "2000,z,val,1"]
    listing = read(save(tmp_path / "t.csv", ["x,c,part,y", *rows]), split_column="part")
    assert {name: split.ids for name, split in listing.splits.items()} == {
        "train": ("0", "1", "2", "3", "4", "5"),
        "val": ("7",),
        "test": ("6",),
    }
    task, _ = fit(listing)
    assert "part" not in [c.name for c in task.input.categories]
    assert task.input.numbers[0].mean < 10
    assert task.input.categories[0].values == ("a", "b")


def test_missing_numbers_become_the_median_and_a_feature(tmp_path):
    listing = read(save(tmp_path / "t.csv", ["x,y", "1,a", ",b", "3,a", "8,b", "2,a"]))
    task, notes = fit(listing)
    (number,) = task.input.numbers
    assert (number.fill, number.indicator) == (2.5, True)
    assert any("'x'" in note and "median" in note for note in notes)
    (array,) = TABULAR.reader(listing.splits["all"], task, ReadOptions()).array()
    assert array[:, 1].tolist() == [0, 1, 0, 0, 0]
    assert array[1, 0] == pytest.approx((2.5 - number.mean) / number.std, abs=1e-6)


def test_missing_values_unseen_in_training_are_counted():
    spec, _ = columns(pl.DataFrame({"x": [1.0, 5.0, 2.0]}))
    out, notices = encode_columns(pl.DataFrame({"x": [None, 5.0]}), spec)
    assert np.isfinite(out).all()
    assert messages(notices) == ["1 cell of 'x' missing, unlike in training: replaced by 2"]


def test_times_unlike_those_of_training_are_shown_as_times():
    days = pl.Series([date(2023, 1, day) for day in range(1, 29)] * 2)
    spec, _ = columns(pl.DataFrame({"day": days}), formats={"day": "%d.%m.%Y"})
    _, notices = encode_columns(pl.DataFrame({"day": ["", "01.01.2033"]}), spec)
    assert messages(notices) == [
        "1 cell of 'day' far outside the values of training (2023-01-01 to 2023-01-28): 2033-01-01",
        "1 cell of 'day' missing, unlike in training: replaced by 2023-01-14 12:00:00",
    ]
    spec, _ = columns(pl.DataFrame({"hour": [time(hour, 30) for hour in range(1, 24)] * 2}))
    _, (notice,) = encode_columns(pl.DataFrame({"hour": pl.Series([None], dtype=pl.Time)}), spec)
    assert notice.message.endswith("replaced by 12:30:00")


def test_infinite_numbers_count_as_missing_and_are_counted():
    spec, notes = columns(pl.DataFrame({"x": [1.0, float("inf"), 5.0, float("-inf"), float("nan")]}))
    assert any(note == "2 cells of 'x' infinite, count as missing" for note in notes)
    assert spec.numbers[0].indicator
    out, _ = encode_columns(pl.DataFrame({"x": [float("inf"), 1.0]}), spec)
    assert np.isfinite(out).all()


def test_only_skewed_columns_are_log_transformed():
    size = 400
    frame = pl.DataFrame(
        {
            "count": np.exp(RNG.normal(5, 1.2, size)).astype(np.int64),
            "normal": RNG.normal(size=size),
            "signed": RNG.normal(size=size) ** 3,
            "tiny": np.exp(RNG.normal(-12, 1.2, size)),
        }
    )
    spec, notes = columns(frame)
    assert [c.name for c in spec.numbers if c.log] == ["count"]
    assert any("log(1 + x)" in note and "'count'" in note for note in notes)
    out, _ = encode_columns(frame, spec)
    expected = np.log1p(frame["count"].to_numpy())
    assert out[:, 0] == pytest.approx((expected - expected.mean()) / expected.std(), abs=1e-5)


def test_unusable_columns_are_dropped_with_a_notice():
    size = 60
    frame = pl.DataFrame(
        {
            "row": np.arange(size) + 100,
            "name": [f"n{i}" for i in range(size)],
            "user_id": RNG.permutation(size) * 17,
            "same": ["x"] * size,
            "empty": pl.Series([None] * size, dtype=pl.String),
            "review": [f"this is the long text number {i}" for i in range(size)],
            "list": [[1, 2]] * size,
            "good": RNG.normal(size=size),
        }
    )
    spec, notes = columns(frame)
    assert [c.name for c in spec.numbers] == ["good"]
    assert spec.categories == ()
    told = " ".join(notes)
    assert all(f"'{name}'" in told for name in frame.columns if name != "good")


def test_a_row_number_column_is_detected_in_a_training_split():
    rows = np.sort(RNG.choice(1000, 50, replace=False))
    frame = pl.DataFrame({"n": 3 * rows + 7, "x": RNG.integers(0, 9, 50)})
    assert [c.name for c in fit_columns(frame, rows)[0].numbers] == ["x"]


def test_the_only_column_is_kept_even_if_it_numbers_the_rows():
    spec, _ = columns(pl.DataFrame({"t": list(range(30))}))
    assert [c.name for c in spec.numbers] == ["t"]


def test_no_column_left_is_an_error():
    with pytest.raises(DlcliError, match=r"no usable column remains.*'a'"):
        columns(pl.DataFrame({"a": ["x"] * 5}))


def test_rare_words_of_many_are_unknown():
    words = [f"w{i}" for i in range(150)] + ["often", "also"] * 20
    spec, notes = columns(pl.DataFrame({"c": words}))
    assert spec.categories[0].values == ("also", "often")
    assert any("152 distinct values" in note for note in notes)


def test_a_column_may_have_any_name():
    spec, _ = columns(pl.DataFrame({name: ["a", "b", "b"] for name in ("count", "word", "")}))
    assert [column.name for column in spec.categories] == ["count", "word", ""]


def test_huge_words_are_no_category():
    spec, notes = columns(pl.DataFrame({"c": ["a", "b", "x" * 100_000] * 3}))
    assert spec.categories[0].values == ("a", "b")
    assert any("longer than" in note and len(note) < 200 for note in notes)


def test_unseen_words_have_code_0_and_are_counted():
    spec, _ = columns(pl.DataFrame({"c": ["a", "b", None, "a"]}))
    out, notices = encode_columns(pl.DataFrame({"c": ["b", "new", None, "new", "a"]}), spec)
    assert out[:, 0].tolist() == [2, 0, 0, 0, 1]
    assert messages(notices) == ["2 cells of 'c' with an unknown value: 'new'"]


def test_times_are_encoded_in_seconds_with_a_notice(tmp_path):
    rows = ["2020-01-01,a", "2020-01-03,b", "2020-01-02,a", "2020-01-09,b"]
    listing = read(save(tmp_path / "t.csv", ["day,y", *rows]))
    task, notes = fit(listing)
    assert any("seconds" in note for note in notes)
    assert not task.input.numbers[0].log
    (array,) = TABULAR.reader(listing.splits["all"], task, ReadOptions()).array()
    steps = np.diff(array[:, 0]) * task.input.numbers[0].std / 86_400
    assert steps == pytest.approx([2, -1, 7], abs=1e-4)


def test_numbers_beyond_32_bits_count_as_infinite_and_large_ones_do_not_overflow():
    frame = pl.DataFrame({"x": [9e37, -9e37, 1e300, 0.0]})
    spec, notes = columns(frame)
    assert any("1 cell of 'x' infinite" in note for note in notes)
    out, _ = encode_columns(frame, spec)
    assert np.isfinite(out).all()
    assert out[:, 0].std() == pytest.approx(1, abs=1e-5)


def test_rows_without_a_target_are_left_out_and_counted(tmp_path):
    listing = read(save(tmp_path / "t.csv", ["x,y", "1,a", "2,", "3,b", "4,"]))
    assert listing.splits["all"].ids == ("0", "2")
    assert len(listing.splits["all"].items) == 2
    assert any("2 rows of t.csv left out" in warning for warning in messages(listing.notices))


def test_cells_of_labels_and_columns_of_zero_and_one_are_the_same_data(tmp_path):
    sets = [["red"], [], ["red", "old"], ["old"], [], ["big"], ["red"], ["big", "old"]] * 3
    cells = [f"{i * 0.7:.2f},{'|'.join(labels)}" for i, labels in enumerate(sets)]
    names = ("big", "old", "red")
    ones = [
        f"{i * 0.7:.2f}," + ",".join(str(int(name in labels)) for name in names)
        for i, labels in enumerate(sets)
    ]
    one = read(save(tmp_path / "cells.csv", ["a,tags", *cells]))
    other = read(save(tmp_path / "columns.csv", ["a,big,old,red", *ones]), target="big,old,red")
    assert one.task == other.task == "multilabel"
    assert one.class_names == other.class_names == names
    np.testing.assert_array_equal(one.splits["all"].targets, other.splits["all"].targets)
    assert len(one.splits["all"]) == len(sets)
    assert not [notice for notice in one.notices if notice.level == "warning"]
    assert one.options == {"target": "tags", "task": "multilabel"}


def test_columns_of_zero_and_one_before_the_target_are_named(tmp_path):
    lines = [f"{i * 0.7:.2f},{i % 2},{i % 3 % 2},{int(i % 4 > 2)}" for i in range(24)]
    listing = read(save(tmp_path / "t.csv", ["a,red,big,old", *lines]))
    assert listing.task == "classification"
    (notice,) = [text for text in messages(listing.notices) if "before it" in text]
    assert "'red', 'big'" in notice
    assert "--target red,big,old" in notice
    assert not any("before it" in t for t in messages(read(tmp_path / "t.csv", target="old").notices))


def test_a_missing_target_names_the_nearest(tmp_path):
    with pytest.raises(DlcliError, match="no column 'prise'") as caught:
        read(mixed(tmp_path), target="prise")
    assert "'price'" in caught.value.hint


def test_several_targets(tmp_path):
    path = save(tmp_path / "t.csv", ["x,a,b", *[f"{i},{i * 1.5},{i - 0.25}" for i in range(30)]])
    listing = read(path, target="a, b")
    assert listing.target_names == ("a", "b")
    assert listing.splits["all"].targets.shape == (30, 2)
    assert listing.splits["all"].items.frame.columns == ["x"]


def test_one_class_is_an_error_for_training_and_none_for_evaluation(tmp_path):
    path = save(tmp_path / "t.csv", ["x,y", "1,a", "2,a"])
    with pytest.raises(DlcliError, match="one value, 'a'"):
        read(path)
    assert read(path, other=True, task="classification", target="y").class_names == ("a",)


def test_a_target_of_few_numbers_has_a_notice(tmp_path):
    path = save(tmp_path / "t.csv", ["x,y", *[f"{i * 3},{i % 3}" for i in range(12)]])
    assert any("--task regression" in warning for warning in messages(read(path).notices))
    assert read(path, task="regression").task == "regression"


def test_train_and_test_files(tmp_path):
    save(tmp_path / "train.csv", ["x,c,y", *[f"{i % 5},{i % 3},{'ab'[i % 2]}" for i in range(20)]])
    save(tmp_path / "test.csv", ["y,extra,c,x", "a,0,1,2.5", "b,0,zzz,oops"])
    for path in (tmp_path, tmp_path / "train.csv"):
        listing = read(path)
        assert listing.splits["test"].ids == ("test/0", "test/1")
        assert listing.splits["train"].ids[0] == "train/0"
        assert any("'x' are not numbers" in warning for warning in messages(listing.notices))
    task, _ = fit(listing)
    reader = TABULAR.reader(listing.splits["test"], task, ReadOptions())
    assert reader.array()[0].shape == (2, *task.input.shape)
    joined = TableRows.gather(
        [listing.splits["train"].items, listing.splits["test"].items], np.array([20, 0])
    )
    assert joined.frame["x"].to_list() == [2.5, 0]


def test_a_test_file_without_the_target_is_no_split(tmp_path):
    save(tmp_path / "train.csv", ["x,y", "1,a", "2,b"])
    save(tmp_path / "test.csv", ["x", "1"])
    listing = read(tmp_path)
    assert set(listing.splits) == {"train"}
    assert any("no test split" in warning for warning in messages(listing.notices))


def test_a_test_file_without_a_feature_is_an_error(tmp_path):
    save(tmp_path / "train.csv", ["width,y", "1,a", "2,b"])
    save(tmp_path / "test.csv", ["widht,y", "1,a"])
    with pytest.raises(DlcliError, match="no column 'width'") as caught:
        read(tmp_path)
    assert "'widht'" in caught.value.hint


def test_a_class_only_in_the_test_file_is_an_error(tmp_path):
    save(tmp_path / "train.csv", ["x,y", "1,a", "2,b"])
    save(tmp_path / "test.csv", ["x,y", "1,c"])
    with pytest.raises(DlcliError, match=r"test\.csv.*'c'"):
        read(tmp_path)


def test_split_files_and_a_split_column_contradict(tmp_path):
    save(tmp_path / "train.csv", ["x,part,y", "1,train,a", "2,val,b"])
    save(tmp_path / "test.csv", ["x,part,y", "1,test,a"])
    with pytest.raises(UsageError, match="already are splits"):
        read(tmp_path, split_column="part")


def test_groups_are_kept_and_no_feature(tmp_path):
    path = save(tmp_path / "t.csv", ["who,x,y", "p1,1,a", "p2,2,b", ",3,a", "p1,4,"])
    listing = read(path, group_column="who")
    assert listing.splits["all"].groups == ("p1", "p2", "row 2")
    assert listing.splits["all"].items.frame.columns == ["x"]
    with pytest.raises(DlcliError, match="no column 'whom'"):
        read(path, group_column="whom")


def test_dropped_columns_are_gone(tmp_path):
    listing = read(mixed(tmp_path), drop=("colour",))
    assert listing.splits["all"].items.frame.columns == ["size", "ok"]


def test_predict_gives_the_arrays_of_training(tmp_path):
    path = mixed(tmp_path)
    listing = read(path)
    task, _ = fit(listing)
    (expected,) = TABULAR.reader(listing.splits["all"], task, ReadOptions()).array()
    frame = listing.splits["all"].items.frame
    frame.write_parquet(tmp_path / "new.parquet")
    frame.select("ok", "colour", "size").write_csv(tmp_path / "new.csv")
    lines = [json.dumps(row) for row in frame.to_dicts()]
    save(tmp_path / "new.jsonl", lines)
    for name in ("t.csv", "new.csv", "new.parquet", "new.jsonl"):
        samples = TABULAR.inputs([str(tmp_path / name)], task)
        assert samples.ids[7] == f"{tmp_path / name}:7"
        assert len(samples.targets) == 0
        reader = TABULAR.reader(samples, task, ReadOptions())
        assert np.array_equal(reader.array()[0], expected)
        assert reader.notices == []


def test_predict_joins_files_of_several_formats(tmp_path):
    path = mixed(tmp_path)
    listing = read(path)
    task, _ = fit(listing)
    listing.splits["all"].items.frame.write_parquet(tmp_path / "new.parquet")
    samples = TABULAR.inputs([str(path), str(tmp_path / "new.parquet")], task)
    (array,) = TABULAR.reader(samples, task, ReadOptions()).array()
    assert np.array_equal(array[:40], array[40:])
    assert len(TABULAR.inputs([str(tmp_path / "*.csv")], task)) == 40
    assert len(TABULAR.inputs([str(tmp_path)], task)) == 80


def test_predict_counts_what_it_cannot_read(tmp_path):
    task, _ = fit(read(mixed(tmp_path)))
    path = save(tmp_path / "new.csv", ["size,colour,ok", "big,red,True", "1,pink,True"])
    reader = TABULAR.reader(TABULAR.inputs([str(path)], task), task, ReadOptions())
    assert np.isfinite(reader.array()[0]).all()
    assert "1 cell of 'size' not a number, count as missing: 'big' (row 0)" in messages(reader.notices)
    assert any("'pink'" in note for note in messages(reader.notices))


def test_predict_without_a_feature_names_the_nearest(tmp_path):
    task, _ = fit(read(mixed(tmp_path)))
    path = save(tmp_path / "new.csv", ["size,color,ok", "1,red,True"])
    with pytest.raises(DlcliError, match="no column 'colour'") as caught:
        TABULAR.inputs([str(path)], task)
    assert "'color'" in caught.value.hint
    path = save(tmp_path / "fewer.csv", ["x", "1"])
    with pytest.raises(DlcliError, match=r"lacks 3 of 3 columns .*'colour'") as caught:
        TABULAR.inputs([str(path)], task)
    assert caught.value.hint == "it has 'x'"
    with pytest.raises(DlcliError, match="does not exist"):
        TABULAR.inputs([str(tmp_path / "gone.csv")], task)


def test_a_card_gives_the_same_arrays(tmp_path):
    listing = read(mixed(tmp_path))
    task, _ = fit(listing)
    again = TaskSpec.model_validate_json(task.model_dump_json())
    (one,) = TABULAR.reader(listing.splits["all"], task, ReadOptions()).array()
    (two,) = TABULAR.reader(listing.splits["all"], again, ReadOptions()).array()
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    ("name", "task", "rows", "features", "classes"),
    [
        ("iris", "classification", 150, 4, 3),
        ("wine", "classification", 178, 13, 3),
        ("breast-cancer", "classification", 569, 30, 2),
        ("diabetes", "regression", 442, 10, 0),
    ],
)
def test_built_in_tables(name, task, rows, features, classes):
    from dlcli.data.sets.named import DATASETS

    entry = DATASETS.get(name)
    assert entry.kind == "tabular"
    listing = entry.read(Path("nowhere"))
    assert listing.task == task
    assert len(listing.splits["all"]) == rows
    spec, _ = fit(listing)
    assert spec.input.shape == (features,)
    assert spec.num_classes == classes


def test_a_table_of_one_column_is_an_error(tmp_path):
    with pytest.raises(DlcliError, match="1 column"):
        read(save(tmp_path / "t.csv", ["y", "a", "b"]))
    with pytest.raises(DlcliError, match="no input column besides the target"):
        read(tmp_path / "t.csv", target="y")
