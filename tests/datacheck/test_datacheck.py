"""The checks of `dlcli data`: what is wrong is found, at the right level, and what is fine is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_data import write_csv

from dlcli.config import TrainConfig
from dlcli.data.sources import open_source
from dlcli.datacheck.base import CheckOptions, DataReport, Finding
from dlcli.datacheck.checking import check_data
from dlcli.datacheck.leaks import leak_score
from dlcli.datacheck.shift import ks_statistic
from dlcli.datacheck.targets import piled_ends
from dlcli.settings import merge, validate
from dlcli.task import ImageInput


def check(path: Path | str, max_decoded: int | None = None, **data: Any) -> DataReport:
    config = validate(TrainConfig, {"data": {"data": str(path), **data}})
    source = open_source(config.data, seed=0)
    return check_data(source, CheckOptions(config, max_decoded))


def found(report: DataReport, code: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == code]


def levels(report: DataReport, code: str) -> list[str]:
    return [finding.level for finding in found(report, code)]


def texts(path: Path, rows: list[tuple[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))


def talk(word: str, count: int = 12) -> list[tuple[str, str]]:
    """Texts of two classes that all differ."""
    return [(f"{word} number {i} says {'yes please' if i % 2 else 'no thanks'}", "ab"[i % 2])
            for i in range(count)]  # fmt: skip


def test_clean_data_has_no_errors_and_no_warnings(photo_folder: Callable[..., Path]) -> None:
    report = check(photo_folder(per_class=12))
    assert not [f for f in report.findings if f.level in ("error", "warning")]
    assert {split: facts["samples"] for split, facts in report.splits.items()} == {
        "train": 30, "val": 3, "test": 3}  # fmt: skip
    assert report.splits["train"]["classes"] == {"blue": 10, "green": 10, "red": 10}
    assert report.facts["width"].startswith("median 48")


def test_photos_that_cannot_be_read_are_errors_by_name(photo_folder: Callable[..., Path]) -> None:
    root = photo_folder(per_class=12)
    whole = (root / "red" / "0.jpg").read_bytes()
    (root / "red" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "red" / "1.jpg").write_bytes(b"")
    (finding,) = found(check(root), "unreadable")
    assert finding.level == "error"
    assert finding.message.startswith("2 photos of 36")
    assert any(example.startswith("red/1.jpg: the file is empty") for example in finding.examples)
    assert any(example.startswith("red/0.jpg") for example in finding.examples)


def test_blank_turned_and_small_photos(photo_folder: Callable[..., Path]) -> None:
    root = photo_folder(per_class=12)
    Image.new("RGB", (40, 40), "white").save(root / "blue" / "0.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.open(root / "blue" / "1.jpg")
    photo.load()
    photo.save(root / "blue" / "1.jpg", exif=exif)
    report = check(root)
    assert [f.examples for f in found(report, "blank")] == [("blue/0.jpg",)]
    assert found(report, "turned-photos")[0].message.startswith("1 photo ")
    assert levels(report, "small-photos") == ["note"]  # 40 x 48 for an input of 96 x 96


def test_the_same_photo_in_train_and_test_is_an_error(photo_folder: Callable[..., Path]) -> None:
    root = photo_folder(per_class=12, splits=("train", "test"))
    assert not found(check(root), "leak")
    shutil.copy(root / "train" / "red" / "3.jpg", root / "test" / "red" / "copy.jpg")
    shutil.copy(root / "train" / "red" / "4.jpg", root / "test" / "blue" / "other.jpg")
    (finding,) = found(check(root), "leak")
    assert finding.level == "error"
    assert finding.message.startswith(
        "2 photos of the 38 in test are in train too, 1 of them with another"
    )
    assert finding.examples[0] == "train/red/4.jpg (red) = test/blue/other.jpg (blue)"


def test_only_a_part_of_many_photos_is_read(photo_folder: Callable[..., Path]) -> None:
    seen: list[tuple[int, int]] = []
    config = validate(TrainConfig, {"data": {"data": str(photo_folder(per_class=12))}})
    source = open_source(config.data, seed=0)
    report = check_data(source, CheckOptions(config, 12, lambda done, total: seen.append((done, total))))
    (finding,) = found(report, "sampled")
    assert finding.message.startswith("12 of 36 photos were read")
    assert seen[-1] == (12, 12)
    assert report.facts["formats"] == "JPEG 12"


@pytest.mark.parametrize(
    ("held", "label", "level"),
    [("val", "a", "warning"), ("val", "b", "error"), ("test", "a", "error"), ("test", "b", "error")],
)
def test_the_level_of_a_leak_depends_on_the_split(
    tmp_path: Path, held: str, label: str, level: str
) -> None:
    texts(tmp_path / "d" / "train.csv", [*talk("train"), ("the  Same Text twice", "a")])
    texts(tmp_path / "d" / "val.csv", talk("val"))
    texts(tmp_path / "d" / "test.csv", talk("test"))
    with (tmp_path / "d" / f"{held}.csv").open("a") as file:
        file.write(f"the same text twice,{label}\n")
    report = check(tmp_path / "d")
    assert levels(report, "leak") == [level]
    assert report.count("error") == (level == "error")


def test_copies_are_in_one_of_the_splits_that_dlcli_makes(tmp_path: Path) -> None:
    rows = [("one and the same text", "a"), *talk("x", 30)] * 2
    texts(tmp_path / "t.csv", rows)
    report = check(tmp_path / "t.csv")
    assert report.count("error") == 0
    assert not levels(report, "leak")
    assert set(levels(report, "duplicates")) == {"warning"}


def test_copies_of_two_groups_in_splits_that_dlcli_made_are_warnings(tmp_path: Path) -> None:
    rows = [(f"the same text {i % 30}", "ab"[i % 2], f"g{i}") for i in range(60)]
    write_csv(tmp_path / "t.csv", ("text", "label", "group"), rows)
    report = check(tmp_path / "t.csv", group_column="group")
    assert report.count("error") == 0
    assert set(levels(report, "leak")) == {"warning"}


def test_one_text_with_two_labels_in_a_split(tmp_path: Path) -> None:
    texts(
        tmp_path / "d" / "train.csv",
        [*talk("train"), ("which is it then", "a"), ("which is it then", "b")],
    )
    texts(tmp_path / "d" / "test.csv", talk("test"))
    report = check(tmp_path / "d", val_fraction=0.01)
    conflicts = found(report, "conflicting-targets") + found(report, "leak")
    assert conflicts
    assert any("(a)" in e and "(b)" in e for f in conflicts for e in f.examples)


def test_classes_that_are_missing_small_or_too_large(tmp_path: Path) -> None:
    rows = [(f"question {i} is here", "big") for i in range(120)]
    rows += [(f"answer {i} is there", "small") for i in range(5)]
    texts(tmp_path / "d" / "train.csv", rows)
    texts(tmp_path / "d" / "test.csv", [(f"query {i} is where", "big") for i in range(9)])
    report = check(tmp_path / "d")
    missing = [f for f in found(report, "missing-class") if "test" in f.message]
    assert [(f.level, f.examples) for f in missing] == [("warning", ("small",))]
    assert levels(report, "imbalance") == ["warning"]
    assert found(report, "few-samples")[0].examples == ("small 4",)
    assert not found(report, "reading")  # the reader's own sentence on it is not said twice


def test_texts_are_measured_before_truncation(tmp_path: Path) -> None:
    rows = [("short text of five words", "a"), *talk("common", 40), ("word " * 30, "b")]
    texts(tmp_path / "d" / "train.csv", rows)
    texts(
        tmp_path / "d" / "test.csv",
        [("never heard strange things", "a"), ("  ", "b"), ("a\ufffdb c d", "a")],
    )
    report = check(tmp_path / "d", max_length=10)
    table = {row["split"]: row for t in report.tables if t.name == "tokens" for row in t.to_dicts()}
    assert table["train"]["longest"] == 30
    assert table["train"]["cut"] == 1
    assert table["test"]["empty"] == 1
    assert [f.level for f in found(report, "unknown-words") if "test" in f.message] == ["warning"]
    assert found(report, "empty-text")[0].examples == ("test/1",)
    assert levels(report, "lost-characters") == ["warning"]


def table(rows: int = 200, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "id": np.arange(1000, 1000 + rows),
        "size": rng.normal(size=rows).round(4),
        "colour": rng.choice(["red", "green"], rows),
        "same": ["x"] * rows,
        "price": rng.normal(size=rows).round(4) * 1000,
    }


def write(path: Path, columns: dict[str, Any]) -> Path:
    import polars as pl

    pl.DataFrame(columns).write_csv(path)
    return path


def test_unusable_columns_are_named(tmp_path: Path) -> None:
    columns = table()
    columns["empty"] = [None] * 200
    columns["rare"] = [1.5 * i if i % 4 == 0 else None for i in range(200)]
    columns["twin"] = columns["size"]
    columns["name"] = [f"name{i}" if i % 9 else None for i in range(200)]
    report = check(write(tmp_path / "t.csv", columns), target="price")
    assert found(report, "constant-column")[0].examples == ("same",)
    assert found(report, "empty-column")[0].examples == ("empty",)
    assert set(found(report, "identifier-column")[0].examples) == {"id", "name"}
    assert found(report, "mostly-missing")[0].examples == ("rare 75.0 %",)
    assert found(report, "equal-columns")[0].examples == ("size = twin",)
    assert report.count("error") == 0
    assert not found(report, "leaking-column")
    numbers = {row["column"]: row for t in report.tables if t.name == "numbers" for row in t.to_dicts()}
    assert numbers["rare"]["missing"] == 150
    assert numbers["id"]["min"] == 1000
    words = {row["column"]: row for t in report.tables if t.name == "words" for row in t.to_dicts()}
    assert words["colour"]["distinct"] == 2


def test_a_column_that_leaks_a_number_is_reported(tmp_path: Path) -> None:
    columns = table(400)
    rng = np.random.default_rng(1)
    columns["noisy"] = columns["price"] + rng.normal(size=400) * 20
    columns["copied"] = columns["price"] * 2 + 7
    report = check(write(tmp_path / "t.csv", columns), target="price")
    (copy,), (telling,) = found(report, "target-copy"), found(report, "leaking-column")
    assert (copy.level, telling.level) == ("error", "warning")
    assert [e.split(":")[0] for e in copy.examples] == ["copied"]
    assert [e.split(":")[0] for e in telling.examples] == ["noisy"]


def test_a_column_that_leaks_a_class_is_reported(tmp_path: Path) -> None:
    columns = table(400)
    rng = np.random.default_rng(1)
    columns["class"] = np.where(rng.random(400) < 0.03, "rare", "usual")
    columns["code"] = np.where(columns["class"] == "rare", 17, 4)
    columns["score"] = np.where(columns["class"] == "rare", 5.0, 0.0) + rng.random(400).round(4)
    columns["hint"] = rng.choice(["a", "b"], 400)
    report = check(write(tmp_path / "t.csv", columns), target="class")
    assert [e.split(":")[0] for e in found(report, "target-copy")[0].examples] == ["code"]
    assert [e.split(":")[0] for e in found(report, "leaking-column")[0].examples] == ["score"]


def test_equal_rows_are_notes_since_they_may_be_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {
        "a": rng.integers(0, 3, 300),
        "b": rng.integers(0, 3, 300),
        "y": rng.choice(["p", "q"], 300),
    }
    report = check(write(tmp_path / "t.csv", columns))
    assert set(levels(report, "duplicates")) == {"note"}
    assert set(levels(report, "conflicting-targets")) == {"note"}
    assert report.count("error") == 0


def test_groups_in_several_given_splits_are_reported(tmp_path: Path) -> None:
    columns = table(60)
    columns["split"] = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    columns["patient"] = [f"p{i // 6}" for i in range(60)]
    report = check(write(tmp_path / "t.csv", columns), target="price", split_column="split",
                   group_column="patient")  # fmt: skip
    assert [f.examples for f in found(report, "torn-groups")] == [("p6",)]


def test_leak_score_is_0_for_noise_and_1_for_a_function() -> None:
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=2000), rng.normal(size=500)
    noise, rest = rng.normal(size=2000), rng.normal(size=500)
    assert leak_score(x, noise, other, rest, "regression") < 0.1
    assert leak_score(x, np.sin(x), other, np.sin(other), "regression") > 0.99
    # Nearly always right is not enough where one class is rare.
    labels, held = (rng.random(2000) < 0.01).astype(int), (rng.random(500) < 0.01).astype(int)
    assert leak_score(x, labels, other, held, "classification") <= 0
    assert (
        leak_score(x, (x > 0.3).astype(int), other, (other > 0.3).astype(int), "classification") > 0.95
    )
    # What is missing tells too.
    gone, gone_too = np.where(labels == 1, np.nan, x), np.where(held == 1, np.nan, other)
    assert leak_score(gone, labels, gone_too, held, "classification") == 1


def test_distance_of_distributions() -> None:
    one = np.arange(100.0)
    assert ks_statistic(one, one) == 0
    assert ks_statistic(one, one + 1000) == 1
    assert ks_statistic(one, one + 50) == pytest.approx(0.5)


def test_a_shift_between_given_splits_is_a_note(tmp_path: Path) -> None:
    texts(tmp_path / "d" / "train.csv", talk("train", 200))
    texts(
        tmp_path / "d" / "test.csv", [(f"{text} and so on and on", c) for text, c in talk("train", 100)]
    )
    shifts = found(check(tmp_path / "d"), "shift")
    assert [f.level for f in shifts] == ["note"]
    assert "test differs from train" in shifts[0].message


def test_values_at_the_end_of_a_scale() -> None:
    values = np.arange(1, 1001.0)
    assert piled_ends(values) == []
    assert piled_ends(np.minimum(values, 950)) == [(950.0, 51)]
    assert piled_ends(np.maximum(values - 400, 0)) == []  # zero is a natural end


def test_constant_and_duplicate_series(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 12)).round(4)
    rows[3] = 7.0
    rows[5] = rows[6]
    lines = ["\t".join(map(str, [1 + i % 2, *row])) for i, row in enumerate(rows)]
    (tmp_path / "S_TRAIN.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "S_TEST.tsv").write_text("\n".join([*lines[8:12]]) + "\n")
    report = check(tmp_path / "S")
    assert sum("are constant" in f.message for f in found(report, "flat")) == 1
    test_leak = [f for f in found(report, "leak") if " in test " in f.message]
    assert {f.level for f in test_leak} >= {"error"}
    assert report.facts["length"] == "12 steps"


def long_table(path: Path, hours: list[int], flat: slice = slice(0, 0)) -> Path:
    rng = np.random.default_rng(0)
    values = rng.normal(size=len(hours)).round(4)
    values[flat] = 3.25
    from datetime import datetime, timedelta

    start = datetime(2024, 1, 1)
    rows = [f"{start + timedelta(hours=h)},{v}" for h, v in zip(hours, values, strict=True)]
    path.write_text("date,load\n" + "\n".join(rows) + "\n")
    return path


def test_notices_of_readers_are_reported_once(tmp_path: Path) -> None:
    rows = [f"{i**6 if i % 5 else ''},{'café' if i % 3 else 'bar'},{i % 2}" for i in range(60)]
    rows[5] += ",too much"
    (tmp_path / "t.csv").write_bytes("\n".join(["amount,place,label", *rows]).encode("latin-1"))
    report = check(tmp_path / "t.csv")
    for code, expected in {
        "left-out": ["warning"],
        "not-utf-8": ["note"],
        "encoding": ["note"],  # missing numbers
        "reading": ["note", "note"],  # the target's name, and its two whole numbers
    }.items():
        assert levels(report, code) == expected, code


def test_gaps_repeats_and_stuck_values_in_time(tmp_path: Path) -> None:
    hours = [*range(200), *range(230, 300), 299, *range(300, 400)]
    path = long_table(tmp_path / "load.csv", hours, slice(20, 60))
    report = check(path, window=12, horizon=4)
    assert report.task == "forecast"
    assert levels(report, "gapped-time") == ["warning"]
    assert levels(report, "repeated-time") == ["warning"]
    (stuck,) = found(report, "flat-stretch")
    assert stuck.examples == ("load: 40 steps from 2024-01-01 20:00:00",)
    assert report.facts["time"] == "2024-01-01 00:00:00 to 2024-01-17 15:00:00, a step is 1:00:00"


def test_pairs_that_are_not_translated(tmp_path: Path) -> None:
    rows = [
        f"the {w} is here\tel {w}o esta aqui"
        for w in ("cat", "dog", "bird", "cow", "fish", "wolf", "bear", "deer", "frog")
    ]
    rows.append("same words on both\tsame words on both")
    path = tmp_path / "pairs.tsv"
    path.write_text("source\ttarget\n" + "\n".join(rows) + "\n")
    report = check(path)
    assert report.kind == "pairs"
    assert levels(report, "equal-sides")
    assert {table.name for table in report.tables} == {"source-tokens", "target-tokens"}


def test_the_augment_sample_is_what_training_shows(photo_folder: Callable[..., Path]) -> None:
    import torch

    from dlcli.data.kinds import KINDS, ModelNeeds, ReadOptions
    from dlcli.training.augmentation.augment import make_augment
    from dlcli.training.augmentation.sample import EPOCHS, sample_augmented

    said = {"data": {"data": str(photo_folder(per_class=6))}, "augment": {"level": "standard"}}
    config = validate(TrainConfig, merge(said, {"model": {"img_size": 16}}))
    source = open_source(config.data, seed=0)
    shown = sample_augmented(source, config, ModelNeeds())
    assert shown.original[1].tolist()[:3] == [0, 1, 2]  # one of each class first
    assert len(shown.varied) == EPOCHS
    # All of the split, as training would go over it in its third epoch.
    train = source.splits["train"]
    augment = make_augment(
        config.augment, shown.task, samples=len(train), seed=0, device=torch.device("cpu")
    )
    assert augment is not None
    assert isinstance(shown.task.input, ImageInput)
    read = []
    for scale in (None, augment.whole_scale(shown.task.input, train)):
        reader = KINDS.get("image").reader(train, shown.task, ReadOptions(whole_scale=scale))
        read.append(reader.read(np.arange(len(train))))
        reader.close()
    ((pixels,), _), (whole, every) = read
    inputs = tuple(map(torch.from_numpy, whole))
    (trained,), _ = augment(inputs, torch.from_numpy(train.targets), every, 2)
    of_epoch = trained.round().to(torch.uint8).numpy()
    for original, varied in zip(shown.original[0], shown.varied[2][0], strict=True):
        (index,) = np.flatnonzero((pixels == original).all(axis=(1, 2, 3)))
        assert (of_epoch[index] == varied).all()


def test_a_val_out_of_train_counts_as_train_to_the_test_split(tmp_path: Path) -> None:
    rows = talk("train", 60)
    texts(tmp_path / "d" / "train.csv", rows)
    texts(tmp_path / "d" / "test.csv", [*talk("test"), *rows])
    report = check(tmp_path / "d")
    assert report.splits["val"]["given"] is False
    (finding,) = found(report, "leak")
    assert finding.level == "error"
    assert finding.message == "60 texts of the 72 in test are in train too"


def test_a_table_without_a_useful_column_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", {"a": ["x"] * 30, "y": [float(i) + 0.5 for i in range(30)]})
    (finding,) = found(check(path), "cannot-be-encoded")
    assert finding.level == "error"


def test_the_data_is_only_read(photo_folder: Callable[..., Path]) -> None:
    root = photo_folder(per_class=4)
    (root / "red" / "0.jpg").write_bytes(b"damaged")

    def state() -> list[tuple[str, int, int]]:
        return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(root.rglob("*"))]

    before = state()
    os.chmod(root / "red" / "1.jpg", 0o444)
    check(root)
    assert state() == before
