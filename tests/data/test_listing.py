"""Tables as data sets: one format for all files, targets of competitions, row numbers."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from tabular import TABULAR, fit, read, save

from dlcli.config import DataConfig
from dlcli.data.kinds import ReadOptions
from dlcli.data.notices import for_split, messages
from dlcli.data.sources import open_source
from dlcli.data.tables.columns import encode_columns, fit_columns
from dlcli.data.tables.frames import stdin_bytes
from dlcli.data.tables.relations import column_sums, target_relations
from dlcli.errors import DlcliError, UsageError
from dlcli.task import TaskSpec


def encoded(samples, task: TaskSpec) -> np.ndarray:
    return TABULAR.reader(samples, task, ReadOptions()).array()[0]


def dated(tmp_path: Path) -> Path:
    """Dates with the day first, and prices with thousands and decimal commas."""
    rows = [
        f'{1 + i % 28:02}/{1 + i % 12:02}/20{20 + i % 3},"{1 + i % 9}.{100 + i},50",{i}.5'
        for i in range(60)
    ]
    return save(tmp_path / "train.csv", ["day,price,y", *rows])


def test_a_cell_means_the_same_alone_and_beside_others(tmp_path):
    task, _ = fit(read(dated(tmp_path)))
    formats = {c.source: c.format for c in task.input.numbers}
    assert formats == {"day": "%d/%m/%Y", "price": "1.234,5"}
    alone = save(tmp_path / "one.csv", ["day,price", '03/04/2020,"1.234"'])
    both = save(tmp_path / "two.csv", ["day,price", '03/04/2020,"1.234"', '25/04/2020,"2.345,75"'])
    one, two = (encoded(TABULAR.inputs([str(path)], task), task) for path in (alone, both))
    assert np.array_equal(one[0], two[0])
    price = next(c for c in task.input.numbers if c.name == "price")
    assert one[0, task.input.numbers.index(price)] * price.std + price.mean == pytest.approx(
        1234, rel=1e-5
    )


def test_given_test_files_are_read_by_the_format_of_training(tmp_path):
    dated(tmp_path)
    save(tmp_path / "test.csv", ["day,price,y", '03/04/2020,"1.234",1.5', '05/04/2020,"NA",2.5'])
    items = read(tmp_path).splits["test"].items
    assert [str(day)[:10] for day in items.frame["day"].to_list()] == ["2020-04-03", "2020-04-05"]
    assert items.frame["price"].to_list() == [1234, None]


def test_other_data_is_read_by_the_card_and_its_target_by_the_options(tmp_path):
    rows = [f"{i};{1 + i % 9}.{100 + i},50" for i in range(60)]
    listing = read(save(tmp_path / "t.csv", ["x;y", *rows]))
    assert listing.options["formats"] == {"y": "1.234,5"}
    task, _ = fit(read(dated(tmp_path)))
    new = save(tmp_path / "new.csv", ["x;y", "1;1.234", "2;927"])
    again = read(new, other=True, **listing.options)
    assert again.splits["all"].targets[:, 0].tolist() == [1234, 927]
    other = save(tmp_path / "other.csv", ["day,price,y", '03/04/2020,"1.234",1.5'])
    samples = read(other, other=True, target="y", task="regression").splits["all"]
    assert np.array_equal(encoded(samples, task), encoded(TABULAR.inputs([str(other)], task), task))


def test_formats_of_the_settings_are_used_and_checked(tmp_path):
    path = save(tmp_path / "t.csv", ["d,y", "01/02/2020,1.5", "03/04/2020,2.5", "02/01/2020,2.25"])
    frame = read(path, formats={"d": "%m/%d/%Y"}).splits["all"].items.frame
    assert str(frame["d"][0])[:10] == "2020-01-02"
    with pytest.raises(UsageError, match="no format"):
        read(path, formats={"d": "dayfirst"})
    with pytest.raises(DlcliError, match="no column 'e'"):
        read(path, formats={"e": "%m/%d/%Y"})


def test_the_column_that_the_test_file_lacks_is_the_target(tmp_path):
    save(tmp_path / "train.csv", ["id,Survived,sex,age", *[f"{i},{i % 2},m,{i % 7}" for i in range(20)]])
    save(tmp_path / "test.csv", ["id,sex,age", "21,m,3"])
    listing = read(tmp_path)
    assert listing.options["target"] == "Survived"
    assert any("as test.csv lacks it" in note for note in messages(listing.notices))


def test_inputs_that_the_test_file_lacks_too_are_not_used(tmp_path):
    rows = [f"{i % 5},{i % 3},{i % 7},{i % 4},{i % 7 + i % 4}" for i in range(30)]
    save(tmp_path / "train.csv", ["season,hour,casual,registered,count", *rows])
    save(tmp_path / "test.csv", ["season,hour", "1,2"])
    listing = read(tmp_path, task="regression", target="count")
    assert listing.splits["train"].items.frame.columns == ["season", "hour"]
    save(tmp_path / "test.csv", ["season,hour,casual", "1,2,3"])
    listing = read(tmp_path, task="regression")
    assert listing.options["target"] == "count"
    assert listing.splits["train"].items.frame.columns == ["season", "hour", "casual"]


def test_a_misspelled_column_of_the_test_file_makes_no_target(tmp_path):
    save(tmp_path / "train.csv", ["a,width,c,price", "1,2,3,4.5", "2,3,4,5.5"])
    save(tmp_path / "test.csv", ["a,widht,c,price", "1,2,3,4.5"])
    with pytest.raises(DlcliError, match="no column 'width'"):
        read(tmp_path)


def test_a_model_of_a_table_without_a_header_reads_one_without(tmp_path):
    rows = [
        f"{i % 30 + 17}, {('Private', 'State')[i % 2]}, {('>50K', '<=50K')[i % 2]}" for i in range(60)
    ]
    task, _ = fit(read(save(tmp_path / "t.csv", rows)))
    new = save(tmp_path / "new.csv", ["61, Private"])
    assert len(TABULAR.inputs([str(new)], task)) == 1
    other = read(
        save(tmp_path / "one.csv", ["61, Private, >50K"]),
        other=True,
        target="column_3",
        task="classification",
    )
    assert len(other.splits["all"]) == 1


def test_a_table_on_standard_input(tmp_path, monkeypatch):
    path = dated(tmp_path)
    task, _ = fit(read(path))
    for name in ("-", "/dev/stdin"):
        stdin_bytes.cache_clear()
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(path.read_bytes())))
        samples = TABULAR.inputs([name], task)
        assert samples.ids[:2] == ("stdin:0", "stdin:1")
        assert np.array_equal(encoded(samples, task), encoded(TABULAR.inputs([str(path)], task), task))
    stdin_bytes.cache_clear()


def test_a_name_twice_in_a_file_to_predict_is_said(tmp_path):
    task, _ = fit(
        read(save(tmp_path / "t.csv", ["a,b,y", *[f"{i % 7},{i % 5}.5,{i}.5" for i in range(30)]]))
    )
    twice = save(tmp_path / "new.csv", ["a,b,a", "1,2.5,3"])
    reader = TABULAR.reader(TABULAR.inputs([str(twice)], task), task, ReadOptions())
    assert any(
        "several columns named 'a': the first is read" in note for note in messages(reader.notices)
    )
    once = save(tmp_path / "once.csv", ["a,b", "1,2.5"])
    assert TABULAR.reader(TABULAR.inputs([str(once)], task), task, ReadOptions()).notices == []


def test_a_target_that_two_columns_are_named_is_an_error(tmp_path):
    rows = [f"{i % 7},{i % 2},{i % 5},{i % 3}" for i in range(40)]
    path = save(tmp_path / "a.csv", ["a,y,a,y", *rows])
    for settings in ({}, {"target": "y"}):
        with pytest.raises(DlcliError, match="columns 2, 4 are all named 'y', and this is") as error:
            read(path, **settings)
        assert "--target y_2" in error.value.hint
    listing = read(path, target="y_2")
    assert any("duplicate column names" in message for message in messages(listing.notices))
    by_position = save(tmp_path / "b.csv", ["a,b,z,z", *rows])
    with pytest.raises(DlcliError, match="columns 3, 4 are all named 'z'"):
        read(by_position)
    read(by_position, target="a")


def test_values_far_outside_those_of_training_are_said():
    spec, _ = fit_columns(pl.DataFrame({"x": [1.5, 5.0, 2.0, 9.0]}), np.arange(4))
    for values, number in (([2.0, 8e6], 1), ([3.0, -1.0], 0), ([-900.0, 1e9], 2)):
        notices = messages(encode_columns(pl.DataFrame({"x": values}), spec)[1])
        assert len(notices) == bool(number)
        assert all(f"{number} cell" in note and "(1.5 to 9)" in note for note in notices)


def columns(frame: pl.DataFrame, **options):
    spec, notices = fit_columns(frame, np.arange(frame.height), **options)
    return list(
        dict.fromkeys([*(c.source for c in spec.numbers), *(c.name for c in spec.categories)])
    ), messages(notices)


@pytest.mark.parametrize("start", [0, 1, 5000])
def test_row_numbers_in_any_order_and_of_any_name_are_left_out(start):
    rng = np.random.default_rng(0)
    number = rng.permutation(60)[:50] + start  # as in a training split of 60 rows
    frame = pl.DataFrame({"nr": number, "x": rng.normal(size=50)})
    used, notes = columns(frame)
    assert used == ["x"]
    assert any("of row numbers: 'nr'" in note for note in notes)
    assert columns(frame, keep=("nr",))[0] == ["nr", "x"]


def test_whole_numbers_that_number_nothing_stay():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "price": rng.permutation(100_000)[:50],
            "age": rng.integers(0, 90, 50),
            "year": rng.permutation(np.arange(1950, 2000)),
        }
    )
    assert columns(frame)[0] == ["price", "age", "year"]


def test_an_index_without_a_name_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    order = rng.permutation(500)[:30]
    rows = [f"{i},{rng.normal():.3f},{('neg', 'pos')[i // 251]}" for i in order]
    for name in ("", "Unnamed: 0"):
        task, notes = fit(read(save(tmp_path / "t.csv", [f"{name},a,label", *rows])))
        assert [c.name for c in task.input.numbers] == ["a"]
        assert any("of row numbers" in note for note in notes)


def test_sorted_ids_are_warned_of():
    rng = np.random.default_rng(0)
    ids = np.cumsum(rng.integers(5, 90, 40))
    used, notes = columns(pl.DataFrame({"code": ids, "x": rng.normal(size=40)}))
    assert used == ["code", "x"]
    assert any("'code' increase or decrease with every row" in note for note in notes)
    frame = pl.DataFrame({"code": rng.permutation(ids), "x": rng.normal(size=40)})
    assert not any("every row" in note for note in columns(frame)[1])


def test_a_target_that_is_a_sum_of_columns_is_warned_of():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({name: rng.integers(0, 100, 80) for name in "abcd"})
    target = (frame["a"] + frame["b"] - frame["d"]).to_numpy().astype(float)
    (notice,) = target_relations(frame, target[:, None], ["y"])
    assert "'y' is a + b - d" in notice.message
    assert notice.level == "warning"
    noisy = target + rng.normal(size=80)
    assert target_relations(frame, noisy[:, None], ["y"]) == []
    weighted = (2 * frame["a"] + 3 * frame["b"]).to_numpy().astype(float)
    assert target_relations(frame, weighted[:, None], ["y"]) == []


def test_columns_that_are_sums_of_others_are_listed_once():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({name: rng.normal(size=80) for name in "abc"})
    frame = frame.with_columns(total=pl.col("a") + pl.col("c"))
    assert column_sums(frame) == ["a = total - c"]
    assert column_sums(frame.drop("total")) == []


def test_times_have_the_cycles_that_they_span():
    hours = pl.datetime_range(pl.datetime(2020, 1, 1), pl.datetime(2020, 1, 20), "1h", eager=True)
    frame = pl.DataFrame({"at": hours})
    spec, notices = fit_columns(frame, np.arange(len(hours)))
    names = [c.name for c in spec.numbers]
    assert names == [
        "at",
        *(f"at ({c}, {f})" for c in ("time of day", "day of the week") for f in ("sin", "cos")),
    ]
    assert any(
        "sine and cosine of time of day and day of the week" in note for note in messages(notices)
    )
    out, _ = encode_columns(frame, spec)
    sine = out[:, 1] * spec.numbers[1].std + spec.numbers[1].mean
    assert sine == pytest.approx(np.sin(2 * np.pi * np.arange(len(hours)) / 24), abs=1e-5)


def test_parts_of_names_that_could_be_used_are_said():
    names = [f"{'abcdefgh'[i % 8]}{i}, {('Mr', 'Mrs', 'Miss')[i % 3]}. {i}" for i in range(60)]
    cabins = [f"{'ABC'[i % 3]}{i}" for i in range(60)]
    frame = pl.DataFrame({"Name": names, "Cabin": cabins, "x": np.random.default_rng(0).normal(size=60)})
    used, notes = columns(frame)
    assert used == ["x"]
    assert any("'Name': the title" in note and "'Mr'" in note for note in notes)
    assert any("'Cabin': the first letter" in note for note in notes)


def test_rare_words_are_no_names_of_rows():
    cells = [f"C{i % 147}" for i in range(204)] + [None] * 600
    frame = pl.DataFrame({"Cabin": cells, "x": np.random.default_rng(0).normal(size=804)})
    _, notes = columns(frame)
    assert any(
        "no value occurs 5 times (147 values in 204 rows, 600 missing): 'Cabin'" in note
        for note in notes
    )


def test_training_is_not_unlike_itself():
    words = [f"w{i}" for i in range(150)] + ["often", "also"] * 20
    frame = pl.DataFrame({"c": words})
    spec, _ = fit_columns(frame, np.arange(len(words)))
    _, notices = encode_columns(frame, spec)
    assert for_split(notices, "train") == []
    assert "val: 150 cells of 'c' with an unknown value" in for_split(notices, "val")[0].message


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["x,y", "1,a", "2,a"], "one value"),
        (["x,y", "1,", "2,"], "is empty in every row"),
        (["x,y", *[f"{i},w{i}" for i in range(30)]], "no classes"),
        (["y"], "rows"),
        (["x,y", '1,"a', "2,b,c"], "quoted field"),
    ],
)
def test_errors_of_a_data_set_name_its_file(tmp_path, rows, says):
    path = save(tmp_path / "named.csv", rows)
    with pytest.raises(DlcliError, match=says) as caught:
        open_source(DataConfig(data=str(path)), seed=0)
    assert "named.csv" in caught.value.message
