"""Folders of samples as people unpack them: names of splits, doubled folders, links, names without
extension, forms of Unicode, what is no file."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from tiny import image
from tiny_data import write_image

from dlcli.checksums import with_checksums
from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.class_folders import natural
from dlcli.data.images.kind import fit
from dlcli.data.kinds import ModelNeeds
from dlcli.data.notices import messages
from dlcli.data.sources import open_other, open_source
from dlcli.data.splits import apply_splits, write_splits
from dlcli.datacheck.base import CheckOptions
from dlcli.datacheck.checking import check_data
from dlcli.errors import DlcliError
from dlcli.task import TaskSpec

CLASSES = ("a", "b")


def write_photo(path: Path) -> None:
    seed = sum(map(ord, str(path)))
    write_image(path, np.random.default_rng(seed).integers(0, 256, (8, 8, 3)))


def write_text(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"the text of {path.parent.name} {path.name}, quite short")


def folder(
    root: Path,
    parents: Iterable[str],
    *,
    names: Iterable[str] = CLASSES,
    count: int = 4,
    write: Callable[[Path], None] = write_photo,
    suffix: str = ".png",
) -> Path:
    for parent in parents:
        for name in names:
            for i in range(count):
                write(root / parent / name / f"{i}{suffix}")
    return root


def opened(root: Path) -> DataSource:
    return open_source(DataConfig(data=str(root)), seed=0)


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Testing", "test"),
        ("train", "dev", "val"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("train/train", "valid", "val"),
        ("20news-bydate-train", "20news-bydate-test", "test"),
        ("data/train", "data/test", "test"),
    ],
)
@pytest.mark.parametrize(("write", "suffix"), [(write_photo, ".png"), (write_text, ".txt")])
def test_names_of_splits(
    train: str, other: str, split: str, write: Callable[[Path], None], suffix: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    source = opened(folder(root, (train, other), write=write, suffix=suffix))
    assert source.class_names == CLASSES
    assert split in source.given
    assert {id_.rsplit("/", 2)[0] for id_ in source.splits[split].ids} == {other}
    assert len(source.splits[split]) == 8
    assert len(source.splits["train"]) + len(source.splits["val"]) >= 8


def test_classes_with_the_word_of_a_split_are_classes(tmp_path: Path) -> None:
    names = ("test tube", "train station")
    root = tmp_path / "d"
    for name in names:
        folder(root / name, ("winter",), names=("x",))
    assert opened(root).class_names == names


def test_a_split_without_class_folders_is_no_class(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ("asl_train/asl_train",))
    for i in range(3):
        write_photo(root / f"asl_test/asl_test/{i}.png")
    source = opened(root)
    assert source.class_names == CLASSES
    assert "test has no photos and is ignored" in messages(source.notices)


def test_class_folders_of_the_same_folders_are_suspicious(tmp_path: Path) -> None:
    source = opened(folder(tmp_path / "d", ("one", "two")))
    assert source.class_names == ("one", "two")
    found = [notice for notice in source.notices if notice.code == "same-folders"]
    assert [notice.level for notice in found] == ["warning"]
    assert "all class folders hold the same folders (a, b)" in found[0].message


@pytest.mark.parametrize(("write", "suffix"), [(write_photo, ".png"), (write_text, ".txt")])
def test_class_folders_may_be_links(write: Callable[[Path], None], suffix: str, tmp_path: Path) -> None:
    pool = folder(tmp_path / "pool", ("",), write=write, suffix=suffix)
    root = tmp_path / "d"
    root.mkdir()
    for name in CLASSES:
        (root / name).symlink_to(pool / name)
    source = opened(root)
    assert source.class_names == CLASSES
    assert sum(map(len, source.splits.values())) == 8


def test_class_folders_may_be_links_into_a_folder_next_to_the_splits(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ("all",), names=("a", "b", "c", "d"))
    for split, classes in (("train", "ab"), ("test", "ab")):
        (root / split).mkdir()
        for name in classes:
            target = name if split == "train" else {"a": "c", "b": "d"}[name]
            (root / split / name).symlink_to(root / "all" / target)
    source = opened(root)
    assert source.class_names == CLASSES
    assert len(source.splits["test"]) == 8


@pytest.mark.parametrize(("write", "kind"), [(write_photo, "image"), (write_text, "text")])
def test_files_without_extension(write: Callable[[Path], None], kind: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ("",), names=("alt.atheism", "sci.space"), suffix=".png", write=write)
    for path in list(root.rglob("*.png")):
        path.rename(path.with_name(f"{path.stem}{51_119}"))
    source = opened(root)
    assert source.kind == kind
    assert source.class_names == ("alt.atheism", "sci.space")
    assert sum(map(len, source.splits.values())) == 8


def test_files_without_extension_are_no_samples_next_to_others(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ("",), write=write_text, suffix=".txt")
    (root / "a" / "LICENSE").write_text("Free.")
    source = opened(root)
    assert sum(map(len, source.splits.values())) == 8
    assert messages(source.notices) == ["1 file of other kinds left out (no extension: 1)"]


def test_one_name_in_two_forms_of_unicode_is_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    root = folder(tmp_path / "d", ("train",), names=("Bar", decomposed))
    folder(root, ("val",), names=("Bar", composed))
    source = opened(root)
    assert source.class_names == ("Bar", composed)
    assert source.splits["val"].targets.tolist() == [0] * 4 + [1] * 4
    both = opened(folder(tmp_path / "e", ("",), names=("Bar", composed, decomposed)))
    assert both.class_names == ("Bar", composed)
    assert sum(map(len, both.splits.values())) == 12
    assert any("differ in the form of Unicode" in message for message in messages(both.notices))


def test_a_run_that_recorded_the_other_form_goes_on(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    source = opened(folder(tmp_path / "d", ("",), names=("Bar", composed)))
    record = tmp_path / "splits.json"
    write_splits(record, source)
    old = json.loads(record.read_text())
    old["class_names"] = ["Bar", decomposed]
    record.write_text(json.dumps(with_checksums(old)))
    again, changed = apply_splits(record, source)
    assert not changed
    assert [len(part) for part in again.splits.values()] == [len(p) for p in source.splits.values()]
    task = TaskSpec(input=image(), class_names=("Bar", decomposed))
    other = open_other(DataConfig(data=str(tmp_path / "d")), task)
    assert np.bincount(other.splits["all"].targets).tolist() == [4, 4]


@pytest.mark.parametrize(("write", "suffix"), [(write_photo, ".png"), (write_text, ".txt")])
def test_pipes_and_sockets_are_skipped_and_counted(
    write: Callable[[Path], None], suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "d", ("",), write=write, suffix=suffix)
    os.mkfifo(root / "a" / f"pipe{suffix}")
    (root / "b" / f"gone{suffix}").symlink_to(root / "nowhere")
    monkeypatch.chdir(root / "b")  # the path of a socket may have about 100 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"s{suffix}")
        source = opened(root)
    assert sum(map(len, source.splits.values())) == 8
    expected = "3 files of other kinds left out (pipes, devices or broken links: 3)"
    assert messages(source.notices) == [expected]


def test_a_class_of_unreadable_photos_is_an_error(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ("",), count=8)
    for path in (root / "b").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    source = opened(root)
    with pytest.raises(DlcliError, match=r"no image of b in train can be read; .*/b/\d.png: ") as info:
        fit(source, TrainConfig(), ModelNeeds(photo_size=8))
    assert info.value.hint == "repair the files, or remove the class"
    report = check_data(source, CheckOptions(TrainConfig()), ModelNeeds(photo_size=8))
    assert {f.code for f in report.findings if f.level == "error"} == {"cannot-be-encoded", "unreadable"}


def test_a_class_that_cannot_be_read_in_val_alone_is_a_warning(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ("train", "val"))
    for path in (root / "val" / "b").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    _, notices = fit(opened(root), TrainConfig(), ModelNeeds(photo_size=8))
    assert [(n.code, n.level) for n in notices] == [("unreadable-class", "warning")]
    assert "no image of b in val can be read" in notices[0].message


_NAMES = """
import sys
from dlcli.config import DataConfig
from dlcli.data.sources import open_source
source = open_source(DataConfig(data=sys.argv[1]), seed=0)
sys.stdout.buffer.write(ascii((source.class_names, source.splits["train"].ids)).encode())
"""


def test_names_are_the_same_in_every_locale(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ("",), names=("bar", "café"))
    (root / os.fsdecode(b"no\xff")).mkdir()
    write_photo(root / os.fsdecode(b"no\xff") / "x.png")
    outputs = set()
    for settings in (
        {"LC_ALL": "C.UTF-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ):
        command = [sys.executable, "-c", _NAMES, str(root)]
        environment = {**os.environ, **settings}
        outputs.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert len(outputs) == 1
    assert b"'caf\\xe9'" in outputs.pop()


def test_natural_order_takes_numbers_of_any_length() -> None:
    names = ["b", "a10", "a2", "a02", "1" * 5000, "9" * 4999, "0", ""]
    assert sorted(names, key=natural) == ["", "0", "9" * 4999, "1" * 5000, "a02", "a2", "a10", "b"]
