"""Given splits that share samples: said where a model is trained, and an error by their share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_data import write_csv, write_image

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.sources import open_source
from dlcli.datacheck.base import CheckOptions
from dlcli.datacheck.checking import check_data


def write_texts(root: Path, *, split: str, shared: int, held_out: int = 1000, train: int = 1200) -> Path:
    """train.csv and another split, which has so many texts of train."""
    rows = [(f"text number {i}", "ab"[i % 2]) for i in range(train)]
    others = [(f"held out number {i}", "ab"[i % 2]) for i in range(held_out - shared)]
    root.mkdir(exist_ok=True)
    write_csv(root / "train.csv", ("text", "label"), rows)
    write_csv(root / f"{split}.csv", ("text", "label"), [*rows[:shared], *others])
    return root


@pytest.mark.parametrize(
    ("split", "shared", "level"),
    [("test", 1, "warning"), ("test", 500, "error"), ("val", 500, "error"), ("val", 50, "warning")],
)
def test_the_level_of_a_leak_depends_on_its_share(
    split: str, shared: int, level: str, tmp_path: Path
) -> None:
    source = open_source(
        DataConfig(data=str(write_texts(tmp_path / "d", split=split, shared=shared))), seed=0
    )
    report = check_data(source, CheckOptions(TrainConfig()))
    leaks = [finding for finding in report.findings if finding.code == "leak"]
    assert [finding.level for finding in leaks] == [level]
    said = [notice.message for notice in source.notices if notice.code == "leak"]
    assert bool(said) == (shared >= 10)


def test_photos_of_val_that_are_those_of_train_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, seed in (("train", 0), ("val", 0), ("test", 1)):
        rng = np.random.default_rng(seed)
        for i in range(8):
            write_image(tmp_path / split / "ab"[i % 2] / f"{i}.png", rng.integers(0, 256, (8, 8, 3)))
    notices = open_source(DataConfig(data=str(tmp_path)), seed=0).notices
    assert [(n.code, n.level, n.message) for n in notices] == [
        ("leak", "warning", "all 8 samples of val are in train too: they are remembered, not predicted")
    ]


def test_equal_rows_of_a_coarse_table_are_no_leak(tmp_path: Path) -> None:
    rows = [(i % 4, i % 3, "ab"[i % 2]) for i in range(40)]
    write_csv(tmp_path / "train.csv", ("x", "y", "label"), rows)
    write_csv(
        tmp_path / "test.csv", ("x", "y", "label"), [*rows[:4], *((i, 9, "b") for i in range(9, 20))]
    )
    source = open_source(DataConfig(data=str(tmp_path)), seed=0)
    assert not [notice for notice in source.notices if notice.code == "leak"]
