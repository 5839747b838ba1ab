"""Parsers of whole series: what was written is what is read, and what is odd is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_data import random_series, write_ts

from dlcli.data.series.array_files import read_npy, read_npz
from dlcli.data.series.ts_files import is_wide, read_ts, read_wide
from dlcli.errors import DlcliError


@pytest.mark.parametrize("channels", [1, 3])
def test_a_ts_file_reads_back_as_written(tmp_path: Path, channels: int) -> None:
    series = random_series([5, 5, 5], channels)
    read = read_ts(write_ts(tmp_path / "a.ts", series, ["b", "a", "b"]))
    assert isinstance(read.series, np.ndarray)
    np.testing.assert_array_equal(read.series, np.stack(series))
    assert read.labels is not None
    assert read.labels["class"].to_list() == ["b", "a", "b"]
    assert (read.task, read.unequal) == ("classification", False)


def test_unequal_lengths_of_a_ts_file(tmp_path: Path) -> None:
    series = random_series([4, 7], 2)
    read = read_ts(write_ts(tmp_path / "a.ts", series, ["1", "2"], header="@equalLength false"))
    assert read.unequal
    for one, two in zip(read.series, series, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_header_that_claims_equal_lengths_is_not_believed(tmp_path: Path) -> None:
    series = random_series([4, 7], 1)
    read = read_ts(write_ts(tmp_path / "a.ts", series, ["1", "2"], header="@equalLength true"))
    assert [len(values) for values in read.series] == [4, 7]
    assert "equalLength" in read.notices[0].message


@pytest.mark.parametrize("missing", ["?", "NaN", ""])
def test_missing_values_of_a_ts_file(tmp_path: Path, missing: str) -> None:
    series = random_series([6], 2)
    series[0][2, 1] = np.nan
    read = read_ts(write_ts(tmp_path / "a.ts", series, ["x"], missing=missing))
    np.testing.assert_array_equal(read.series[0], series[0])


def test_a_short_dimension_lacks_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_text("@classLabel true a\n@data\n1,2,3:4,5:a\n")
    (values,) = read_ts(path).series
    np.testing.assert_array_equal(values, [[1, 4], [2, 5], [3, np.nan]])


def test_a_ts_file_without_labels_keeps_its_last_dimension(tmp_path: Path) -> None:
    series = random_series([3, 3], 2)
    read = read_ts(write_ts(tmp_path / "a.ts", series, None))
    assert read.labels is None
    np.testing.assert_array_equal(read.series, np.stack(series))


def test_numbers_as_targets_of_a_ts_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_text("@targetLabel true\n@data\n1,2,3:0.5\n4,5,6:?\n")
    read = read_ts(path)
    assert read.task == "regression"
    assert read.labels is not None
    assert read.labels["target"].to_list() == ["0.5", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@timeStamps true\n@classLabel true a\n@data\n(0,1):a\n", "line 1: values with timestamps"),
        ("@classLabel true a\n@data\n(2020-01-01,1):a\n", "line 3: values with timestamps"),
        ("@classLabel true a\n@data\n1,x,3:a\n", "line 3: value 1 is 'x'"),
        ("@classLabel true a\n@data\n1,2\n", "line 3: a label without values"),
        ("@classLabel true a\n@data\n1,2:3,4:a\n1,2:a\n", "line 4: 1 dimensions, but 2"),
        (
            "@dimensions 2\n@classLabel true a\n@data\n1,2:a\n",
            "line 4: 1 dimensions, but 2 in the header",
        ),
        ("@classLabel maybe\n@data\n1,2:a\n", "line 1: 'maybe'"),
        ("1,2,3\n", "line 1: values before @data"),
        ("@classLabel true a\n@data\n", "no series"),
    ],
)
def test_errors_in_a_ts_file_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.ts"
    path.write_text(text)
    with pytest.raises(DlcliError, match=message):
        read_ts(path)


@pytest.mark.parametrize(("suffix", "between"), [(".tsv", "\t"), (".txt", "  "), (".txt", ",")])
def test_wide_rows_have_the_class_first(tmp_path: Path, suffix: str, between: str) -> None:
    values = random_series([12, 12], 1)
    path = tmp_path / f"a{suffix}"
    rows = [["-1.0000000e+00", *map(repr, map(float, values[0][:, 0]))],
            ["2", *map(repr, map(float, values[1][:, 0]))]]  # fmt: skip
    path.write_text("\n".join(between.join(row) for row in rows) + "\n")
    assert is_wide(path)
    read = read_wide(path)
    np.testing.assert_array_equal(read.series, np.stack(values))
    assert read.labels is not None
    assert read.labels["class"].to_list() == ["-1", "2"]
    assert read.task == "classification"


def test_trailing_nan_of_a_wide_row_is_padding_and_inner_nan_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("1\t1\t2\t3\t4\n2\t5\tNaN\t7\tNaN\n")
    read = read_wide(path)
    assert [len(values) for values in read.series] == [4, 3]
    assert np.isnan(read.series[1][1, 0])
    assert "1 of 2 series end in NaN" in read.notices[0].message


def test_wide_rows_without_a_class_are_seen_by_their_length(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("1\t2\t3\n4\t5\t6\n")
    assert read_wide(path, steps=3).labels is None
    labelled = read_wide(path, steps=2)
    assert labelled.labels is not None
    assert labelled.series[0].shape == (2, 1)


@pytest.mark.parametrize(
    "text", ["a\tb\tc\n1\t2\t3\n", "1\tsome words\n2\tmore words\n", "1 2 3\n4 5 6\n", "", "\n\n"]
)
def test_other_tables_and_texts_are_no_wide_rows(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(text)
    assert not is_wide(path)


def test_arrays_read_back_as_written(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32)
    np.savez(tmp_path / "a.npz", X_train=x, y_train=np.arange(4) % 2, X_test=x[:2], y_test=[0, 1])
    parts = read_npz(tmp_path / "a.npz")
    assert set(parts) == {"train", "test"}
    np.testing.assert_array_equal(parts["train"].series, x)
    assert isinstance(parts["train"].series, np.ndarray)
    assert parts["train"].series.dtype == np.float32
    labels = parts["test"].labels
    assert labels is not None
    assert labels["y"].to_list() == [0, 1]


def test_labels_are_read_from_the_file_next_to_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "X_train.npy", np.zeros((3, 5)))
    np.save(tmp_path / "y_train.npy", np.array(["b", "a", "b"]))
    read = read_npy(tmp_path / "X_train.npy")
    assert read.series[0].shape == (5, 1)
    assert read.labels is not None
    assert read.labels["y"].to_list() == ["b", "a", "b"]


def test_trailing_nan_in_all_channels_of_an_array_is_padding(tmp_path: Path) -> None:
    x = np.ones((2, 4, 2))
    x[0, 2:] = np.nan
    x[1, 3, 0] = np.nan  # one channel alone is a missing value
    np.save(tmp_path / "X.npy", x)
    assert [len(values) for values in read_npy(tmp_path / "X.npy").series] == [2, 4]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"values": np.zeros((2, 3))}, "no array X"),
        ({"X": np.zeros(3)}, r"shape \(3,\)"),
        ({"X": np.zeros((2, 0, 1))}, r"shape \(2, 0, 1\)"),
        ({"X": np.array([["a", "b"]])}, "not numbers"),
        ({"X": np.zeros((2, 3)), "y": np.zeros(3)}, r"y has shape \(3,\)"),
        ({"X": np.zeros((2, 3)), "X_test": np.zeros((2, 3))}, "also X of a split"),
    ],
)
def test_arrays_of_other_shapes_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]  # numpy's own stub
    with pytest.raises(DlcliError, match=message):
        read_npz(tmp_path / "a.npz")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    ragged = np.array([np.zeros(2), np.zeros(3)], dtype=object)
    np.save(tmp_path / "X.npy", ragged, allow_pickle=True)
    np.savez(tmp_path / "a.npz", X=ragged)
    for read, name in ((read_npy, "X.npy"), (read_npz, "a.npz")):
        with pytest.raises(DlcliError, match="not unpickled"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["X.npy", "a.npz"])
@pytest.mark.parametrize("keep", [0, 20, 150])
def test_damaged_arrays_are_errors(tmp_path: Path, name: str, keep: int) -> None:
    path = tmp_path / name
    if name == "X.npy":
        np.save(path, np.zeros((20, 30)))
    else:
        np.savez(path, X=np.zeros((20, 30)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DlcliError, match=name):
        (read_npy if name == "X.npy" else read_npz)(path)
