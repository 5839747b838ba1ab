"""Folders of photos in the shapes people have them, and in the shapes they get wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlcli.config import DataConfig
from dlcli.data.base import DataSource
from dlcli.data.class_folders import natural
from dlcli.data.notices import messages
from dlcli.data.sources import open_other, open_source
from dlcli.errors import DlcliError, UsageError
from dlcli.task import ImageInput, TaskSpec

Make = Callable[..., Path]


def opened(root: Path, seed: int = 0, **values: object) -> DataSource:
    return open_source(DataConfig.model_validate({"data": str(root), **values}), seed=seed)


def refused(root: Path) -> DlcliError:
    with pytest.raises(DlcliError) as info:
        opened(root)
    return info.value


def all_ids(source: DataSource) -> list[str]:
    return sorted(id_ for part in source.splits.values() for id_ in part.ids)


def photo(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8)).save(path)


def test_class_folders_are_split_in_three(photo_folder: Make) -> None:
    root = photo_folder(per_class=10)
    source = opened(root)
    assert source.class_names == ("blue", "green", "red")
    assert {name: len(part) for name, part in source.splits.items()} == {
        "train": 24,
        "val": 3,
        "test": 3,
    }
    assert source.given == frozenset()
    assert (source.name, source.origin, source.native) == ("photos", str(root), (3, 0, 0))
    assert source.notices == ()
    for part in source.splits.values():
        for id_, path, target in zip(part.ids, part.items.values, part.targets, strict=True):
            assert path == root / id_
            assert id_.split("/")[0] == source.class_names[target]
    assert list(opened(root, test_fraction=0).splits) == ["train", "val"]


def test_the_split_is_a_function_of_the_seed(photo_folder: Make) -> None:
    root = photo_folder(per_class=20)
    assert opened(root).splits["val"].ids == opened(root).splits["val"].ids
    assert opened(root).splits["val"].ids != opened(root, seed=1).splits["val"].ids


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_given_splits_are_kept(val: str, photo_folder: Make) -> None:
    source = opened(photo_folder(splits=("train", val, "test")))
    assert source.given == {"train", "val", "test"}
    assert list(source.splits) == ["train", "val", "test"]
    for name, part in source.splits.items():
        folder = val if name == "val" else name
        assert len(part) == 18
        assert all(id_.startswith(f"{folder}/") for id_ in part.ids)


def test_a_missing_val_is_held_out_of_train_and_test_is_not_touched(photo_folder: Make) -> None:
    root = photo_folder(splits=("train", "test"), per_class=10)
    source = opened(root)
    assert source.given == {"train", "test"}
    assert all(id_.startswith("train/") for id_ in source.splits["val"].ids)
    assert {name: len(part) for name, part in source.splits.items()} == {
        "train": 27,
        "val": 3,
        "test": 30,
    }
    assert "test" not in opened(photo_folder(splits=("train",), name="b")).splits


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for label in ("train", "plane", "car"):
        for i in range(4):
            photo(tmp_path / label / f"{i}.png")
    assert opened(tmp_path).class_names == ("car", "plane", "train")


def test_classes_are_sorted_as_people_count(tmp_path: Path) -> None:
    for label in ("10", "2", "1", "b", "a10", "a9"):
        for i in range(3):
            photo(tmp_path / label / f"{i}.png")
    assert opened(tmp_path).class_names == ("1", "2", "10", "a9", "a10", "b")
    assert natural("x²") > natural("x")  # a digit that int() does not read


def test_nested_files_any_capitals_and_hidden_names(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for name in ("1.JPG", "2.Png", "deep/er/3.jpeg", "4.tiff"):
            photo(tmp_path / label / name)
        photo(tmp_path / label / ".hidden.jpg")
        photo(tmp_path / label / ".thumbs" / "5.jpg")
        photo(tmp_path / label / "__MACOSX" / "6.jpg")
    photo(tmp_path / ".cache" / "7.jpg")
    source = opened(tmp_path)
    assert source.class_names == ("a", "b")
    assert all_ids(source) == sorted(
        f"{label}/{name}" for label in "ab" for name in ("1.JPG", "2.Png", "deep/er/3.jpeg", "4.tiff")
    )
    assert source.notices == ()


def test_other_files_are_counted_in_one_sentence(photo_folder: Make) -> None:
    root = photo_folder()
    for name in ("notes.txt", "b.txt", "clip.mp4", "README"):
        (root / "red" / name).write_text("x")
    photo(root / "stray.jpg")
    source = opened(root)
    assert messages(source.notices) == [
        "1 photo outside any class folder left out",
        "4 files of other kinds left out (.txt: 2, .mp4: 1, no extension: 1)",
    ]
    assert len(all_ids(source)) == 18


# ---- links


def test_link_loops_are_not_followed(photo_folder: Make) -> None:
    root = photo_folder()
    before = all_ids(opened(root))
    os.symlink(root, root / "red" / "up")
    os.symlink(root / "red", root / "red" / "itself")
    os.symlink(root / "blue", root / "green" / "other")
    os.symlink(root / "blue", root / "azure")
    os.symlink(root.parent, root / "above")
    os.symlink("ring", root / "red" / "ring")
    os.symlink(root / "nowhere", root / "red" / "broken.jpg")
    source = opened(root)
    assert all_ids(source) == before
    assert source.class_names == ("blue", "green", "red")
    assert "5 linked folders not followed: in the data set, or repeated" in messages(source.notices)


def test_links_to_files_and_to_folders_elsewhere_count_once(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for label in ("a", "b"):
        for i in range(4):
            photo(store / label / f"{i}.png")
    os.symlink(store, store / "a" / "loop")
    os.symlink(tmp_path, store / "a" / "top")
    root = tmp_path / "data"
    root.mkdir()
    os.symlink(store / "a", root / "a")
    os.symlink(store / "b", root / "b")
    os.symlink(store / "b", root / "b2")
    (root / "c").mkdir()
    os.symlink(store / "a" / "0.png", root / "c" / "0.png")
    source = opened(root)
    expected = [f"{label}/{i}.png" for label in "ab" for i in range(4)]
    assert all_ids(source) == sorted([*expected, "c/0.png"])


# ---- what is refused or warned of


def test_missing_paths(photo_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photo_folder()
    error = refused(root.parent / "photo")
    assert error.message == f"--data {root.parent / 'photo'} does not exist"
    assert "did you mean 'photos'?" in str(error.hint)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DlcliError, match=r"'fasion-mnist' is neither a folder or file here nor") as info:
        open_source(DataConfig(data="fasion-mnist"), seed=0)
    assert "did you mean 'fashion-mnist'" in str(info.value.hint)
    with pytest.raises(UsageError, match="--data is missing"):
        open_source(DataConfig(), seed=0)


def test_an_archive_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "imgs.zip").write_bytes(b"PK")
    error = refused(tmp_path / "imgs.zip")
    assert error.message == f"{tmp_path / 'imgs.zip'} is no data that dlcli knows"
    assert error.hint == "unpack it first"


def test_an_empty_folder_explains_the_layouts(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert error.message == f"{tmp_path} has no photos"
    assert "DIR/CLASS/photo.jpg, or DIR/train/CLASS/photo.jpg" in str(error.hint)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.doc").write_text("x")
    assert "only other files (.doc: 1)" in refused(tmp_path).message


def test_a_flat_folder_says_that_classes_are_missing(tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / f"{i}.jpg")
    error = refused(tmp_path)
    assert error.message == f"{tmp_path} has 3 photos but no class folders with photos"
    assert "DIR/CLASS" in str(error.hint)


def test_one_class_is_an_error_that_looks_one_folder_deeper(photo_folder: Make) -> None:
    error = refused(photo_folder(classes=("red",)))
    assert "has one class, 'red'; a classifier needs at least two" in error.message
    root = photo_folder(name="wrapped/imgs")
    error = refused(root.parent)
    assert f"--data {root}" in str(error.hint)


def test_an_empty_class_folder_is_dropped_with_a_warning(photo_folder: Make) -> None:
    root = photo_folder()
    (root / "yellow").mkdir()
    source = opened(root)
    assert source.class_names == ("blue", "green", "red")
    assert messages(source.notices) == ["class folders without photos, left out: yellow"]


def test_a_class_that_train_lacks_is_an_error_naming_it(photo_folder: Make) -> None:
    root = photo_folder(splits=("train", "val"))
    photo(root / "val" / "violet" / "1.jpg")
    assert "val has photos of violet, but train has none" in refused(root).message
    (root / "train" / "violet").mkdir()
    assert "val has photos of violet, but train has none" in refused(root).message
    photo(root / "train" / "violet" / "1.jpg")
    assert opened(root).class_names == ("blue", "green", "red", "violet")


def test_a_class_that_val_lacks_is_a_warning(photo_folder: Make) -> None:
    root = photo_folder(splits=("train", "val", "test"))
    photo(root / "train" / "violet" / "1.jpg")
    assert messages(opened(root).notices) == [
        "val has no photos of violet",
        "test has no photos of violet",
    ]


def test_splits_without_train_two_vals_and_splits_without_classes(photo_folder: Make) -> None:
    assert "no train" in refused(photo_folder(splits=("val", "test"), name="a")).message
    error = refused(photo_folder(splits=("train", "val", "valid"), name="b"))
    assert "2 folders for val: val, valid" in error.message
    assert (
        "no class folders in them" in refused(photo_folder(classes=("train", "val"), name="c")).message
    )


def test_folders_next_to_train_are_named(photo_folder: Make) -> None:
    root = photo_folder(splits=("train", "val"))
    photo(root / "annotations" / "1.jpg")
    assert messages(opened(root).notices) == ["next to train, these folders are not used: annotations"]


def test_unlabelled_test_photos_are_no_test_split(photo_folder: Make) -> None:
    root = photo_folder(splits=("train",))
    photo(root / "test" / "1.jpg")
    source = opened(root)
    assert list(source.splits) == ["train", "val"]
    assert "test has no photos and is ignored" in messages(source.notices)


def test_fractions_that_leave_nothing(photo_folder: Make) -> None:
    with pytest.raises(UsageError, match="leave nothing to train on"):
        opened(photo_folder(), val_fraction=0.5, test_fraction=0.5)


def test_classes_too_small_for_validation_are_named(photo_folder: Make) -> None:
    root = photo_folder()
    photo(root / "violet" / "1.jpg")
    assert messages(opened(root).notices) == ["too few samples to hold one out for validation: violet"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_may_not_be_listed(photo_folder: Make) -> None:
    root = photo_folder()
    (root / "red").chmod(0)
    assert "cannot list" in refused(root).message


def test_names_that_are_no_unicode_can_be_written(tmp_path: Path) -> None:
    for label in (b"a", b"b"):
        for i in range(3):
            folder = os.path.join(os.fsencode(tmp_path), label)
            os.makedirs(folder, exist_ok=True)
            name = os.path.join(folder, b"caf\xe9%d.png" % i)
            try:
                Image.new("L", (8, 8)).save(os.fsdecode(name))
            except OSError:
                pytest.skip("this file system takes only Unicode")
    source = opened(tmp_path)
    assert len(all_ids(source)) == 6
    for id_ in all_ids(source):
        id_.encode("utf-8")


# ---- fingerprint, channels, other data


def test_the_fingerprint_knows_names_and_sizes(photo_folder: Make) -> None:
    root = photo_folder()
    first = opened(root).fingerprint
    assert opened(root, seed=3, test_fraction=0).fingerprint == first
    (root / "red" / "0.jpg").write_bytes(b"x")
    second = opened(root).fingerprint
    (root / "red" / "1.jpg").rename(root / "red" / "one.jpg")
    assert len({first, second, opened(root).fingerprint}) == 3


def test_grey_photos_have_one_channel_and_one_colour_photo_makes_three(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for i in range(5):
            photo(tmp_path / label / f"{i}.png", "L")
    assert opened(tmp_path).native == (1, 0, 0)
    photo(tmp_path / "b" / "4.png", "RGB")
    assert opened(tmp_path).native == (3, 0, 0)


def other(root: Path, names: tuple[str, ...]) -> DataSource:
    image = ImageInput(channels=3, height=8, width=8, resize_size=8, mean=(0, 0, 0), std=(1, 1, 1))
    return open_other(DataConfig(data=str(root)), TaskSpec(input=image, class_names=names))


def test_other_data_is_matched_by_name(photo_folder: Make) -> None:
    source = other(photo_folder(), ("red", "white", "green", "blue"))
    assert list(source.splits) == ["all"]
    assert source.class_names == ("red", "white", "green", "blue")
    part = source.splits["all"]
    for id_, target in zip(part.ids, part.targets, strict=True):
        assert source.class_names[target] == id_.split("/")[0]
    given = other(photo_folder(splits=("val", "test"), name="b"), ("red", "green", "blue"))
    assert list(given.splits) == ["val", "test"]
    one = other(photo_folder(classes=("red",), name="c"), ("blue", "red"))
    assert np.array_equal(one.splits["all"].targets, np.ones(6))


def test_other_data_of_unknown_classes_is_refused(photo_folder: Make) -> None:
    with pytest.raises(
        DlcliError, match="has samples of classes that the model does not know: green"
    ) as info:
        other(photo_folder(), ("red", "blue"))
    assert info.value.hint == "it knows red, blue"


def test_nothing_is_written_into_the_data_folder(photo_folder: Make) -> None:
    root = photo_folder()
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    opened(root)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


@pytest.mark.parametrize(
    "said", [{"target": "x"}, {"group_column": "x"}, {"split_column": "x"}, {"task": "regression"}]
)
def test_class_folders_refuse_what_they_would_ignore(said: dict[str, str], photo_folder: Make) -> None:
    with pytest.raises(UsageError, match="class folders"):
        opened(photo_folder(), **said)
