"""Whole series: sources, what is fitted, what the reader gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_data import random_series, write_ts

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource, Samples
from dlcli.data.kinds import KINDS, ModelNeeds, ReadOptions, find_kind
from dlcli.data.notices import messages
from dlcli.data.series.kind import UnequalLengths, fit, make_reader, series_inputs
from dlcli.data.series.reader import channel_statistics
from dlcli.data.sources import open_other, open_source
from dlcli.errors import DlcliError, UsageError
from dlcli.task import SeriesInput, TaskSpec
from dlcli.timeline.gaps import interpolate


def fitted(source: DataSource, **settings: object) -> tuple[TaskSpec, list[str]]:
    config = TrainConfig(data=DataConfig(**settings))  # type: ignore[arg-type]
    task, notices = fit(source, config, ModelNeeds(name="any"))
    return task, messages(notices)


def spec_of(task: TaskSpec) -> SeriesInput:
    assert isinstance(task.input, SeriesInput)
    return task.input


def opened(path: Path | str, **settings: object) -> DataSource:
    return open_source(DataConfig(data=str(path), **settings), seed=0)  # type: ignore[arg-type]


def pair(
    folder: Path, train: Sequence[int], test: Sequence[int], *, name: str = "Made", channels: int = 2
) -> Path:
    """NAME_TRAIN.ts and NAME_TEST.ts of the lengths, classes a and b in turn."""
    folder.mkdir(exist_ok=True)
    for split, lengths in (("TRAIN", train), ("TEST", test)):
        labels = ["ab"[i % 2] for i in range(len(lengths))]
        write_ts(folder / f"{name}_{split}.ts", random_series(lengths, channels), labels)
    return folder


@pytest.mark.parametrize("said", [".", "Made", "Made_TRAIN.ts"])
def test_train_and_test_files_are_one_source(tmp_path: Path, said: str) -> None:
    pair(tmp_path / "set", [9] * 20, [9] * 6)
    source = opened(tmp_path / "set" / said)
    assert source.kind == "series"
    assert {split: len(samples) for split, samples in source.splits.items()} == {
        "train": 18,
        "val": 2,
        "test": 6,
    }
    assert source.given == {"train", "test"}
    assert source.class_names == ("a", "b")
    assert set(source.splits["test"].ids) == {f"test/{i}" for i in range(6)}


def test_a_folder_of_two_sets_names_both_and_a_stem_chooses(tmp_path: Path) -> None:
    folder = pair(tmp_path / "set", [9] * 6, [9] * 4)
    pair(folder, [8] * 6, [8] * 4, name="Made_eq")
    with pytest.raises(DlcliError, match=r"Made_TRAIN\.ts.*Made_eq_TRAIN\.ts"):
        opened(folder)
    assert spec_of(fitted(opened(folder / "Made_eq"))[0]).length == 8
    assert spec_of(fitted(opened(folder / "Made"))[0]).length == 9


def test_a_single_file_is_divided_in_three(tmp_path: Path) -> None:
    write_ts(tmp_path / "one.ts", random_series([5] * 40, 1), ["a", "b"] * 20)
    source = opened(tmp_path / "one.ts")
    assert set(source.splits) == {"train", "val", "test"}
    ids = [id_ for samples in source.splits.values() for id_ in samples.ids]
    assert sorted(ids, key=int) == [str(i) for i in range(40)]


def test_other_text_files_next_to_series_are_ignored(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.random.default_rng(0).normal(size=(20, 5)), y=["a", "b"] * 10)
    (tmp_path / "readme.txt").write_text("some words\n")
    (tmp_path / "licence.txt").write_text("more words\n")
    assert find_kind(tmp_path, DataConfig()) is KINDS.get("series")
    assert set(opened(tmp_path).splits) == {"train", "val", "test"}


def test_arrays_next_to_their_labels_are_a_source(tmp_path: Path) -> None:
    for split in ("train", "test"):
        np.save(tmp_path / f"X_{split}.npy", np.random.default_rng(0).normal(size=(10, 6, 3)))
        np.save(tmp_path / f"y_{split}.npy", np.array(["a", "b"] * 5))
    source = opened(tmp_path)
    assert source.given == {"train", "test"}
    assert spec_of(fitted(source)[0]).shape == (6, 3)


def test_scales_come_from_the_training_split_alone(tmp_path: Path) -> None:
    source = opened(pair(tmp_path / "set", [9] * 20, [9] * 6))
    task, _ = fitted(source)
    raw = np.stack([np.asarray(values) for values in source.splits["train"].items.values])  # type: ignore[attr-defined]
    np.testing.assert_allclose(spec_of(task).mean, raw.mean(axis=(0, 1)))
    np.testing.assert_allclose(spec_of(task).std, raw.std(axis=(0, 1)))
    test = source.splits["test"]
    other = replace(test, items=type(test.items)(test.items.values * 100 + 7))  # type: ignore[attr-defined, call-arg]
    changed = replace(source, splits={**source.splits, "test": other})
    assert fitted(changed)[0] == task


def test_a_fixed_length_reads_as_one_scaled_array(tmp_path: Path) -> None:
    source = opened(pair(tmp_path / "set", [9] * 20, [9] * 6))
    task, notes = fitted(source)
    assert (spec_of(task).varies, notes) == (False, [])
    reader = make_reader(source.splits["train"], task, ReadOptions())
    whole = reader.array()
    assert whole is not None
    assert whole[0].dtype == np.float32
    np.testing.assert_allclose(whole[0].mean(axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(whole[0].std(axis=(0, 1)), 1, atol=1e-6)
    indices = np.array([3, 0, 3])
    (batch,), kept = reader.read(indices)
    np.testing.assert_array_equal(batch, whole[0][indices])
    np.testing.assert_array_equal(kept, indices)


def test_series_of_varying_length_are_padded_with_zeros(tmp_path: Path) -> None:
    source = opened(pair(tmp_path / "set", [5, 9, 7, 6] * 5, [4, 12]))
    task, notes = fitted(source)
    assert (spec_of(task).varies, spec_of(task).length) == (True, 9)
    assert notes == ["test: 1 of 2 series are longer than 9 steps and are truncated"]
    reader = make_reader(source.splits["test"], task, ReadOptions())
    (values, lengths), kept = reader.read(np.arange(2))
    assert values.shape == (2, 9, 2)
    assert lengths.tolist() == [4, 9]
    assert kept.tolist() == [0, 1]
    assert not values[0, 4:].any()
    assert values[0, :4].all()
    raw = source.splits["test"].items.values[1]  # type: ignore[attr-defined]
    spec = spec_of(task)
    expected = (raw[:9] - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(values[1], expected, rtol=1e-5)
    assert reader.array() is None


def test_encoding_does_not_depend_on_the_other_series_of_a_batch(tmp_path: Path) -> None:
    source = opened(pair(tmp_path / "set", [5, 9, 7, 6] * 5, [4, 6, 5]))
    task, _ = fitted(source)
    reader = make_reader(source.splits["test"], task, ReadOptions())
    (together, lengths), _ = reader.read(np.arange(3))
    for i, length in enumerate(lengths.tolist()):
        (alone, _), _ = reader.read(np.array([i]))
        np.testing.assert_array_equal(alone[0], together[i, :length])


def test_unequal_lengths_in_the_header_mean_varying_lengths(tmp_path: Path) -> None:
    for split in ("TRAIN", "TEST"):
        path = tmp_path / f"Made_{split}.ts"
        write_ts(path, random_series([5] * 8, 1), ["a", "b"] * 4, header="@equalLength false")
    source = opened(tmp_path)
    assert isinstance(source.splits["train"].items, UnequalLengths)
    assert spec_of(fitted(source)[0]).varies


def test_another_length_than_a_fixed_model_takes_is_a_bad_sample(tmp_path: Path) -> None:
    source = opened(pair(tmp_path / "set", [9] * 20, [9, 7, 9]))
    task, _ = fitted(source)
    reader = make_reader(source.splits["test"], task, ReadOptions())
    (values,), kept = reader.read(np.array([1, 2, 0]))
    assert kept.tolist() == [2, 0]
    assert values.shape == (2, 9, 2)
    assert reader.bad == {"test/1": "it has 7 steps, not 9"}
    assert reader.array() is None
    strict = make_reader(source.splits["test"], task, ReadOptions(on_bad_sample="fail"))
    with pytest.raises(DlcliError, match="test/1: it has 7 steps"):
        strict.read(np.arange(3))


def test_max_length_truncates_with_a_notice(tmp_path: Path) -> None:
    source = opened(pair(tmp_path / "set", [9] * 20, [9] * 4))
    task, notes = fitted(source, max_length=6)
    assert spec_of(task).length == 6
    assert "train: 18 of 18 series are longer than 6 steps and are truncated" in notes
    (values, lengths), _ = make_reader(source.splits["test"], task, ReadOptions()).read(np.arange(4))
    assert values.shape == (4, 6, 2)
    assert lengths.tolist() == [6] * 4


def test_gaps_are_interpolated_linearly() -> None:
    values = np.array([[np.nan, 1], [2, np.nan], [np.nan, np.nan], [4, 7], [np.nan, np.nan]])
    np.testing.assert_allclose(interpolate(values), [[2, 1], [2, 3], [3, 5], [4, 7], [4, 7]])
    assert np.isnan(values).sum() == 6  # the caller's array is left alone


def test_missing_values_are_counted_filled_and_kept_out_of_the_scales(tmp_path: Path) -> None:
    series = random_series([8] * 20, 2)
    series[0][3, 1] = np.nan
    series[0][:, 0] = np.inf
    series[5][:] = np.nan
    write_ts(tmp_path / "a.ts", series, ["a", "b"] * 10, header="@equalLength true")
    found = KINDS.get("series").read(tmp_path / "a.ts", DataConfig(), False)
    assert "25 values are missing in 2 of 20 series" in " ".join(messages(found.notices))
    mean, std, _ = channel_statistics([series[0], series[5]], 2)
    kept = np.delete(series[0][:, 1], 3)
    np.testing.assert_allclose([mean[1], std[1]], [kept.mean(), kept.std()])
    source = opened(tmp_path / "a.ts")
    task, _ = fitted(source)
    whole: Samples = found.splits["all"]
    reader = make_reader(whole, task, ReadOptions())
    (values,), kept_rows = reader.read(np.arange(20))
    assert reader.bad == {"5": "all its values are missing"}
    assert len(kept_rows) == 19
    assert np.isfinite(values).all()
    assert not values[0, :, 0].any()  # a channel without any value stands at its mean
    np.testing.assert_allclose(values[0, 3, 1], values[0, [2, 4], 1].mean(), rtol=1e-5)


def test_a_constant_channel_has_std_1_and_a_notice(tmp_path: Path) -> None:
    series = random_series([8] * 20, 2)
    for values in series:
        values[:, 1] = 0.1
    write_ts(tmp_path / "a.ts", series, ["a", "b"] * 10)
    source = opened(tmp_path / "a.ts")
    task, notes = fitted(source)
    assert spec_of(task).std[1] == 1
    assert "channel 1" in notes[0]
    whole = make_reader(source.splits["train"], task, ReadOptions()).array()
    assert whole is not None
    np.testing.assert_allclose(whole[0][..., 1], 0, atol=1e-6)


def test_values_that_cannot_be_scaled_are_refused() -> None:
    with pytest.raises(DlcliError, match=r"1e\+200"):
        channel_statistics([np.array([[1e200], [-1e200]])], 1)


def test_one_class_is_refused_for_training_and_fine_for_a_model(tmp_path: Path) -> None:
    pair(tmp_path / "two", [9] * 20, [9] * 4)
    task, _ = fitted(opened(tmp_path / "two"))
    write_ts(tmp_path / "one.ts", random_series([9] * 4, 2), ["b"] * 4)
    with pytest.raises(DlcliError, match="one value, 'b'") as caught:
        opened(tmp_path / "one.ts")
    assert caught.value.hint is None or "--target" not in caught.value.hint
    other = open_other(DataConfig(data=str(tmp_path / "one.ts")), task)
    assert other.splits["all"].targets.tolist() == [1] * 4


def test_a_class_that_is_not_in_train_is_refused(tmp_path: Path) -> None:
    write_ts(tmp_path / "M_TRAIN.ts", random_series([5] * 8, 1), ["a", "b"] * 4)
    write_ts(tmp_path / "M_TEST.ts", random_series([5] * 4, 1), ["a", "b", "c", "a"])
    with pytest.raises(DlcliError, match="'c'"):
        opened(tmp_path)


def test_other_data_may_bring_its_classes_in_any_split(tmp_path: Path) -> None:
    pair(tmp_path / "two", [9] * 20, [9] * 4)
    task, _ = fitted(opened(tmp_path / "two"))
    folder = tmp_path / "other"
    folder.mkdir()
    write_ts(folder / "M_TRAIN.ts", random_series([9] * 4, 2), ["a"] * 4)
    write_ts(folder / "M_TEST.ts", random_series([9] * 9, 2), ["b"] * 9)
    other = open_other(DataConfig(data=str(folder)), task)
    assert [len(samples) for samples in other.splits.values()] == [4, 9]
    assert set(other.splits["test"].targets.tolist()) == {1}


def test_numbers_are_predicted_as_regression(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6, 2)), rng.normal(size=(40, 2)) * 5
    np.savez(tmp_path / "a.npz", X=x, y=y)
    source = opened(tmp_path / "a.npz")
    task, _ = fitted(source)
    assert task.kind == "regression"
    train = source.splits["train"]
    np.testing.assert_array_equal(train.targets, y[[int(id_) for id_ in train.ids]])
    np.testing.assert_allclose([t.std for t in task.targets], train.targets.std(axis=0))


def test_series_without_labels_cannot_be_trained_on(tmp_path: Path) -> None:
    write_ts(tmp_path / "a.ts", random_series([5] * 8, 1), None)
    with pytest.raises(DlcliError, match="no labels"):
        opened(tmp_path / "a.ts")


def test_splits_of_other_channels_are_refused(tmp_path: Path) -> None:
    write_ts(tmp_path / "M_TRAIN.ts", random_series([5] * 8, 1), ["a", "b"] * 4)
    write_ts(tmp_path / "M_TEST.ts", random_series([5] * 4, 2), ["a", "b"] * 2)
    with pytest.raises(DlcliError, match="train 1, test 2"):
        opened(tmp_path)


@pytest.mark.parametrize("setting", ["split_column", "group_column", "target"])
def test_settings_of_tables_are_not_ignored(tmp_path: Path, setting: str) -> None:
    write_ts(tmp_path / "a.ts", random_series([5] * 8, 1), ["a", "b"] * 4)
    with pytest.raises(UsageError, match=setting.replace("_", "-")):
        opened(tmp_path / "a.ts", **{setting: "x"})


def test_inputs_with_and_without_labels_are_the_same_series(tmp_path: Path) -> None:
    pair(tmp_path / "set", [9] * 20, [9] * 4)
    task, _ = fitted(opened(tmp_path / "set"))
    series = random_series([9] * 3, 2)
    files = [
        str(write_ts(tmp_path / "with.ts", series, ["a", "b", "zebra"])),
        str(write_ts(tmp_path / "without.ts", series, None)),
        str(tmp_path / "a.npy"),
    ]
    np.save(files[2], np.stack(series))
    samples = series_inputs(files, task)
    assert samples.ids == tuple(f"{file}:{row}" for file in files for row in range(3))
    assert not len(samples.targets)
    (values,), kept = make_reader(samples, task, ReadOptions()).read(np.arange(9))
    assert len(kept) == 9
    np.testing.assert_allclose(values[3:6], values[:3], rtol=1e-6)
    np.testing.assert_allclose(values[6:], values[:3], rtol=1e-6)


def test_inputs_that_do_not_fit_are_named(tmp_path: Path) -> None:
    pair(tmp_path / "set", [9] * 20, [9] * 4)
    task, _ = fitted(opened(tmp_path / "set"))
    three = write_ts(tmp_path / "three.ts", random_series([9], 3), None)
    with pytest.raises(DlcliError, match="3 channels, the input of the model has 2"):
        series_inputs([str(three)], task)
    with pytest.raises(DlcliError, match="does not exist"):
        series_inputs([str(tmp_path / "none.ts")], task)
    short = write_ts(tmp_path / "short.ts", random_series([8], 2), None)
    reader = make_reader(series_inputs([str(short)], task), task, ReadOptions())
    reader.read(np.arange(1))
    assert list(reader.bad.values()) == ["it has 8 steps, not 9"]


def test_the_fingerprint_notices_a_changed_value(tmp_path: Path) -> None:
    series = random_series([5] * 20, 1)
    first = opened(write_ts(tmp_path / "a.ts", series, ["a", "b"] * 10)).fingerprint
    assert opened(write_ts(tmp_path / "b.ts", series, ["a", "b"] * 10)).fingerprint == first
    series[7][2, 0] += 1
    assert opened(write_ts(tmp_path / "a.ts", series, ["a", "b"] * 10)).fingerprint != first
