"""NumPy files of images, as Keras and MedMNIST name their arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import image

from dlcli.config import DataConfig
from dlcli.data.base import DataSource, Stacked
from dlcli.data.images.kind import KINDS
from dlcli.data.notices import messages
from dlcli.data.sources import open_other, open_source
from dlcli.errors import DlcliError, UsageError
from dlcli.task import TaskSpec

RNG = np.random.default_rng(0)
LABELS = np.arange(20) % 3


def pixels(count: int = 20, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def opened(path: Path, **values: Any) -> DataSource:
    return open_source(DataConfig(data=str(path), **values), seed=0)


def values(source: DataSource, split: str) -> np.ndarray:
    items = source.splits[split].items
    assert isinstance(items, Stacked)
    return items.values


@pytest.mark.parametrize("shape", [(8, 8), (8, 9, 3), (8, 8, 1)])
@pytest.mark.parametrize(
    ("samples", "labels"),
    [("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("X{}", "Y{}"), ("images_{}", "labels_{}")],
)
def test_names_of_arrays(samples: str, labels: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[samples.format(split)] = pixels(shape=shape)
        arrays[labels.format(split)] = LABELS[:, None]
    np.savez(tmp_path / "set.npz", **arrays)
    source = opened(tmp_path / "set.npz")
    assert (source.kind, source.task, source.name) == ("image", "classification", "set")
    assert source.class_names == ("0", "1", "2")
    assert source.given == {"train", "val", "test"}
    for split in source.splits:
        whole = arrays[samples.format(split)]
        assert np.array_equal(values(source, split), whole.reshape(20, *shape[:2], -1))
        assert source.splits[split].targets.tolist() == LABELS.tolist()
    assert source.native == ((*shape, 1)[2], *shape[:2])
    assert source.splits["val"].ids[:2] == ("val/0", "val/1")


def test_x_and_y_are_divided(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=pixels(40), y=np.array(["cat", "dog"] * 20))
    source = opened(tmp_path / "a.npz")
    assert source.class_names == ("cat", "dog")
    assert {name: len(part) for name, part in source.splits.items()} == {
        "train": 32,
        "val": 4,
        "test": 4,
    }


def test_npy_files_next_to_each_other(tmp_path: Path) -> None:
    images = pixels()
    np.save(tmp_path / "X.npy", images)
    np.save(tmp_path / "y.npy", LABELS)
    for path in (tmp_path, tmp_path / "X.npy"):
        source = opened(path, val_fraction=0.2, test_fraction=0.0)
        assert source.kind == "image"
        assert source.class_names == ("0", "1", "2")


def test_channels_first_floats_and_one_hot_labels(tmp_path: Path) -> None:
    images = pixels(shape=(3, 8, 10))
    np.savez(tmp_path / "a.npz", x_train=images / np.float32(255), y_train=np.eye(3)[LABELS])
    source = opened(tmp_path / "a.npz", val_fraction=0.2, test_fraction=0.0)
    assert source.native == (3, 8, 10)
    assert source.task == "classification"
    where = [int(id_.split("/")[-1]) for id_ in source.splits["train"].ids]
    assert np.array_equal(values(source, "train"), np.moveaxis(images, 1, 3)[where])
    assert source.splits["train"].targets.tolist() == LABELS[where].tolist()
    assert any("the second axis is read as the channels" in m for m in messages(source.notices))
    assert any("are multiplied by 255" in m for m in messages(source.notices))


def test_several_labels_of_an_image(tmp_path: Path) -> None:
    labels = RNG.integers(0, 2, (30, 4))
    labels[0] = 1
    np.savez(tmp_path / "a.npz", train_images=pixels(30), train_labels=labels)
    source = opened(tmp_path / "a.npz")
    assert source.task == "multilabel"
    assert len(source.class_names) == 4


def test_small_or_wide_numbers_are_series(tmp_path: Path) -> None:
    for array in (RNG.normal(size=(20, 8, 8)), pixels(shape=(50, 3)), RNG.normal(size=(20, 30))):
        np.savez(tmp_path / "a.npz", X=array, y=LABELS)
        assert opened(tmp_path / "a.npz").kind == "series"
    np.savez(tmp_path / "a.npz", X=pixels(), y=LABELS)
    assert opened(tmp_path / "a.npz", kind="series").kind == "series"


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (pixels(shape=(8, 8, 8)), r"shape \(20, 8, 8, 8\)"),
        (pixels(shape=(8, 8, 3)) * 10.0, "values from 0 to"),
        (pixels(19), "y has shape"),
    ],
)
def test_what_is_no_set_of_images_is_refused(images: np.ndarray, reason: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=images, y=LABELS)
    with pytest.raises(DlcliError, match=reason):
        opened(tmp_path / "a.npz")


def test_settings_of_tables_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=pixels(), y=LABELS)
    with pytest.raises(UsageError, match="--target is for tables"):
        opened(tmp_path / "a.npz", target="y")


def test_other_data_and_predict(tmp_path: Path) -> None:
    images = pixels(shape=(8, 8, 3))
    np.savez(tmp_path / "a.npz", X=images, y=np.ones(20, dtype=int))
    np.save(tmp_path / "b.npy", images[:4])
    task = TaskSpec(input=image(), class_names=("0", "1", "2"))
    other = open_other(DataConfig(data=str(tmp_path / "a.npz")), task)
    assert other.splits["all"].targets.tolist() == [1] * 20
    samples = KINDS.get("image").inputs([str(tmp_path / "a.npz"), str(tmp_path / "b.npy")], task)
    assert len(samples) == 24
    assert samples.ids[-1] == f"{tmp_path / 'b.npy'}:3"
