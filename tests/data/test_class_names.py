"""Names of classes for people: the forms of the file, and that a trained model goes on with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import text as text_input
from tiny_data import write_csv

from dlcli.config import DataConfig
from dlcli.data.base import DataSource
from dlcli.data.sources import open_other, open_source, open_undivided
from dlcli.data.splits import apply_splits, write_splits
from dlcli.errors import UsageError
from dlcli.task import TaskSpec

CLASSES = ("n01", "n02", "n10")


def write_texts(root: Path, *, classes: tuple[str, ...] = CLASSES) -> Path:
    rows = [(f"text number {i}", classes[i % len(classes)]) for i in range(30)]
    return write_csv(root / "t.csv", ("text", "label"), rows)


def opened(root: Path, content: str, name: str = "names.txt", **values: Any) -> DataSource:
    (root / name).write_text(content, encoding="utf-8")
    data = DataConfig(data=str(write_texts(root)), class_names=str(root / name), **values)
    return open_source(data, seed=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps({"n01": "fish", "n02": "red cat", "n10": "dog"})),
        ("a.json", json.dumps(["fish", "red cat", "dog"])),
        ("a.json", json.dumps({"0": "fish", "1": "red cat", "2": "dog"})),
        ("a.json", json.dumps({"0": ["n01", "fish"], "1": ["n02", "red cat"], "2": ["n10", "dog"]})),
        ("a.yaml", "n01: fish\nn02: red cat\nn10: dog\n"),
        ("a.txt", "fish\nred cat\ndog\n"),
        ("a.txt", "n01 fish\nn02 red cat\nn10 dog\n"),
        ("a.tsv", "n01\tfish\nn02\tred cat\nn10\tdog\n"),
        ("a.csv", 'class,name\nn01,fish\n"n02","red cat"\nn10,dog\n'),
    ],
)
def test_forms_of_the_file(name: str, content: str, tmp_path: Path) -> None:
    source = opened(tmp_path, content, name)
    assert source.class_names == ("fish", "red cat", "dog")
    assert source.options["class_names"] == {"n01": "fish", "n02": "red cat", "n10": "dog"}


def test_a_part_of_the_classes_is_renamed(tmp_path: Path) -> None:
    assert opened(tmp_path, "n02: cat", "a.yaml").class_names == ("n01", "cat", "n10")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ('{"n3": "x"}', "a.json", "the data has no class 'n3'"),
        ('{"n01": "x", "n02": "x"}', "a.json", "several classes the name x"),
        ("one\ntwo\n", "a.txt", "has 2 names, and the data 3 classes: n01, n02, n10"),
        ("{", "a.json", "is damaged"),
        ('{"n01": ""}', "a.json", "'' is no name"),
        ("3", "a.yaml", "neither a mapping nor a list"),
    ],
)
def test_files_that_do_not_fit(content: str, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, content, name)


def test_a_missing_file_and_data_without_classes(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", ("a", "b"), [(i, i * 1.5) for i in range(60)])
    with pytest.raises(UsageError, match="cannot read --class-names"):
        open_source(DataConfig(data=str(write_texts(tmp_path)), class_names="absent.txt"), seed=0)
    (tmp_path / "names.txt").write_text("a\nb\n")
    names = str(tmp_path / "names.txt")
    with pytest.raises(UsageError, match="is for classes or labels"):
        open_source(DataConfig(data=str(path), target="b", class_names=names), seed=0)


def test_recorded_splits_and_other_data_are_renamed_alike(tmp_path: Path) -> None:
    source = opened(tmp_path, "n01: fish\nn02: cat\nn10: dog\n", "a.yaml")
    write_splits(tmp_path / "splits.json", source)
    (tmp_path / "a.yaml").unlink()
    config = DataConfig(data=source.origin, **source.options)
    again, changed = apply_splits(tmp_path / "splits.json", open_undivided(config))
    assert not changed
    assert again.splits["val"].targets.tolist() == source.splits["val"].targets.tolist()
    task = TaskSpec(input=text_input(column="text"), class_names=source.class_names)
    (tmp_path / "other").mkdir()
    for classes, wanted in ((("n10",), {2}), (("dog", "fish"), {2, 0})):
        other = write_texts(tmp_path / "other", classes=classes)
        part = open_other(config.model_copy(update={"data": str(other)}), task).splits["all"]
        assert set(part.targets.tolist()) == wanted
