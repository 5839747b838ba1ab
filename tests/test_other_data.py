"""Settings and data that meet oddly: sets known by name, columns that other data lack, two rows."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlcli.card import Card, DataRecord, ModelSpec
from dlcli.cli import main
from dlcli.config import DataConfig, EvalConfig, TrainConfig
from dlcli.data.base import Listed, Samples
from dlcli.data.notices import messages
from dlcli.data.sources import open_other, open_source
from dlcli.data.splits import hold_out, write_splits
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.eval_data import eval_data
from dlcli.evaluation.evaluate import default_batch_size, samples_within
from dlcli.settings import merge, validate
from dlcli.task import ImageInput, NumberColumn, PairsInput, TabularInput, TaskSpec, TextInput
from dlcli.training.planning import make_plan

IMAGE = ImageInput(channels=3, height=8, width=8, resize_size=8, mean=(0, 0, 0), std=(1, 1, 1))


def write(path: Path, head: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def photos(folder: Path, count: int) -> list[str]:
    for i in range(count):
        Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8)).save(folder / f"{i}.png")
    return [f"{i}.png" for i in range(count)]


def table_task(names: str) -> TaskSpec:
    return TaskSpec(input=TabularInput(numbers=(NumberColumn(name="a"),)), class_names=tuple(names))


@pytest.mark.parametrize("targets", [np.ones((2, 3), dtype=np.uint8), np.array([[1.0, 2], [3, 4]])])
def test_of_two_samples_without_classes_one_is_held_out(targets: np.ndarray) -> None:
    samples = Samples(("0", "1"), targets, Listed(("x", "y")))
    splits = hold_out(samples, {"val": 0.1, "test": 0.1}, seed=0)
    assert {name: len(part) for name, part in splits.items()} == {"train": 1, "val": 1}


def test_one_sample_cannot_be_divided() -> None:
    samples = Samples(("0",), np.array([[1.0]]), Listed(("x",)))
    with pytest.raises(DlcliError, match="one sample is too few"):
        hold_out(samples, {"val": 0.1}, seed=0)


def test_a_named_set_of_another_kind_is_refused() -> None:
    with pytest.raises(DlcliError, match="digits is image data, but the model takes tabular"):
        open_other(DataConfig(data="digits"), table_task("0123456789"))


@pytest.mark.parametrize(
    "said",
    [
        {"target": "sepal_length"},
        {"group_column": "g"},
        {"split_column": "s"},
        {"kind": "text"},
        {"task": "regression"},
        {"drop": ("a",)},
    ],
)
def test_settings_that_a_named_set_cannot_take_are_refused(said: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(said)).replace('_', '.')}.*data set iris"):
        open_source(DataConfig.model_validate({"data": "iris", **said}), seed=0)


def test_settings_that_say_what_a_named_set_is_are_taken() -> None:
    source = open_source(DataConfig(data="iris", kind="tabular", task="classification"), seed=0)
    assert source.kind == "tabular"


def test_the_target_of_a_manifest_may_hold_a_comma(tmp_path: Path) -> None:
    rows: list[list[object]] = [[name, i + 0.5] for i, name in enumerate(photos(tmp_path, 8))]
    path = write(tmp_path / "m.csv", ["path", "weight, kg"], rows)
    source = open_source(DataConfig(data=str(path)), seed=0)
    again = open_source(DataConfig(data=str(path), **source.options), seed=0)
    assert again.target_names == ("weight, kg",)


def test_other_images_need_no_split_and_no_group_column(tmp_path: Path) -> None:
    rows: list[list[object]] = [[name, "ab"[i % 2]] for i, name in enumerate(photos(tmp_path, 4))]
    path = write(tmp_path / "m.csv", ["path", "label"], rows)
    config = DataConfig(data=str(path), split_column="split", group_column="who")
    other = open_other(config, TaskSpec(input=IMAGE, class_names=("a", "b")))
    assert len(other.splits["all"]) == 4
    assert any("no split column 'split'" in said for said in messages(other.notices))


def test_images_and_texts_without_a_group_are_groups_of_their_own(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        [name, "" if i > 1 else "p", "ab"[i % 2]] for i, name in enumerate(photos(tmp_path, 20))
    ]
    text = [[f"so many words here {i}", row[1], row[2]] for i, row in enumerate(rows)]
    for kind, head, body in [("image", "path", rows), ("text", "text", text)]:
        path = write(tmp_path / f"{kind}.csv", [head, "who", "label"], body)
        config = DataConfig.model_validate({"data": str(path), "kind": kind, "group_column": "who"})
        source = open_source(config, seed=0)
        groups = [group for part in source.splits.values() for group in part.groups or ()]
        assert len(set(groups)) == 19, kind


def test_eval_says_nothing_of_splits_that_are_not_the_runs(tmp_path: Path) -> None:
    rows: list[list[object]] = [[i * 0.37 % 1, f"g{i % 9}", "xyz"[i % 9 // 3]] for i in range(90)]
    path = write(tmp_path / "t.csv", ["a", "g", "label"], rows)
    config = DataConfig(data=str(path), group_column="g", val_fraction=0.3)
    assert open_source(config, seed=0).notices != open_source(config, seed=1).notices
    source = open_source(config, seed=1)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    write_splits(run / "splits.json", source)
    options = {**source.options, **config.meaning()}
    card = Card(
        model=ModelSpec(name="linear"),
        task=table_task("xyz"),
        data=DataRecord(data=str(path), fingerprint=source.fingerprint, options=options),
    )
    artifact = run / "best.safetensors"
    artifact.touch()
    data = eval_data(card, artifact, EvalConfig(split="val"))
    assert not any("too few samples" in said for said in data.warnings)
    assert data.reader.samples.ids == source.splits["val"].ids

    # The same rows in another place, given by --data, are divided as they were; other rows are not.
    elsewhere = shutil.copy(path, tmp_path / "elsewhere.csv")
    for split in ("train", "val"):
        moved = eval_data(card, artifact, EvalConfig(data=str(elsewhere), split=split))
        assert moved.reader.samples.ids == source.splits[split].ids
    assert (
        "no estimate" in eval_data(card, artifact, EvalConfig(data=str(elsewhere), split="train")).note
    )
    other = write(tmp_path / "other.csv", ["a", "g", "label"], rows[:-1])
    assert eval_data(card, artifact, EvalConfig(data=str(other))).split == "all"

    # A model that has left its run may have seen any of the rows.
    shutil.move(artifact, tmp_path / "moved.safetensors")
    data = eval_data(card, tmp_path / "moved.safetensors", EvalConfig())
    assert data.split == "all"
    assert "no estimate" in data.note


def test_batches_of_texts_to_write_are_bounded_by_their_logits() -> None:
    words = TextInput(vocabulary=tuple(map(str, range(20_000))), max_length=100)
    task = TaskSpec(kind="seq2seq", input=PairsInput(source=words, target=words))
    assert default_batch_size(task) == samples_within(2**28, task) == 2**28 // (4 * 100 * 20_000)
    assert default_batch_size(table_task("ab")) == 256


@pytest.mark.parametrize(
    ("said", "flag"),
    [
        ({"data": {"tokenizer": "bpe"}}, "--tokenizer"),
        ({"data": {"min_count": 2}}, "data.min_count"),
        ({"data": {"max_length": 9}}, "--max-length"),
        ({"model": {"img_size": 8}}, "--img-size"),
        ({"model": {"pretrained": True}}, "--pretrained"),
    ],
)
def test_settings_of_another_kind_are_refused(said: dict[str, dict[str, object]], flag: str) -> None:
    base = {"model": {"name": "mlp"}, "data": {"data": "iris"}}
    with pytest.raises(UsageError, match=f"^{flag} is for "):
        make_plan(lambda recipe: validate(TrainConfig, merge(recipe, base, said)))
    fine = {"model": {"pretrained": False}}
    make_plan(lambda recipe: validate(TrainConfig, merge(recipe, base, fine)))


def test_beams_are_for_translation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows: list[list[object]] = [[i, i % 7, "even" if i % 2 else "odd"] for i in range(30)]
    data = write(tmp_path / "t.csv", ["a", "b", "label"], rows)
    runs = ["--runs-dir", str(tmp_path / "runs")]
    assert main(["train", "-m", "linear", "-d", str(data), "-e", "1", "-q", *runs]) == 0
    for command in (["eval"], ["predict", str(data)]):
        capsys.readouterr()
        assert main([*command, *runs]) == 0
        assert main([*command, "--beams", "3", *runs]) == 2
        assert "--beams 3 is for translation" in capsys.readouterr().err
