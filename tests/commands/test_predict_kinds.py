"""`predict` from a file on disk to an answer, for every kind of data."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlcli.card import Card, ModelSpec
from dlcli.cli import main
from dlcli.formats.checkpoint import save_model
from dlcli.task import (
    SPECIAL_TOKENS,
    CategoryColumn,
    ImageInput,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)
from dlcli.zoo.base import build_model

TABLE = TabularInput(
    numbers=(NumberColumn(name="x", mean=1.0, std=2.0), NumberColumn(name="y")),
    categories=(CategoryColumn(name="c", values=("red", "green")),),
)
WORDS = TextInput(vocabulary=(*SPECIAL_TOKENS, "who", "where", "is", "it"), max_length=8)
TASKS = {
    "tabular": TaskSpec(
        kind="regression", input=TABLE, targets=(TargetNumber(name="price", mean=1e6, std=10.0),)
    ),
    "text": TaskSpec(input=WORDS, class_names=("person", "place")),
    "pairs": TaskSpec(kind="seq2seq", input=PairsInput(source=WORDS, target=WORDS)),
    "image": TaskSpec(
        kind="multilabel",
        input=ImageInput(channels=3, height=8, width=8, resize_size=8, mean=(0.5,) * 3, std=(0.5,) * 3),
        class_names=("cat", "sky"),
    ),
    "series": TaskSpec(
        kind="forecast",
        input=SeriesInput(channels=("a", "b"), mean=(0.0, 100.0), std=(1.0, 10.0), length=6),
        targets=(TargetNumber(name="b", mean=100.0, std=10.0),),
        horizon=3,
    ),
}
MODELS = {
    "tabular": "linear",
    "text": "linear",
    "pairs": "seq2seq",
    "image": "linear",
    "series": "linear",
}


@pytest.fixture
def model_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Make an untrained model for a kind of data in the current folder; gives the file's name."""
    monkeypatch.chdir(tmp_path)

    def make(kind: str) -> str:
        task = TASKS[kind]
        card = Card(model=ModelSpec(name=MODELS[kind]), task=task)
        torch.manual_seed(0)
        save_model(tmp_path / f"{kind}.safetensors", build_model(card.model, task), card)
        return f"{kind}.safetensors"

    return make


def predicted(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, Any]]:
    code = main(["predict", *args, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    rows: list[dict[str, Any]] = json.loads(out)["predictions"]
    return rows


def test_a_table_needs_no_target_column(
    model_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of("tabular")
    Path("new.csv").write_text("c,x,y\nred,1,0.5\nblue,,2\n")
    rows = predicted(capsys, model, "new.csv")
    assert [set(row) for row in rows] == [{"input", "row", "value"}] * 2
    assert all("new.csv" in row["input"] for row in rows)
    assert all(abs(row["value"] - 1e6) < 1000 for row in rows)  # in the target's units
    Path("more.csv").write_text("y,price,x,c\n0.5,7,1,red\n2,7,,blue\n")  # other columns, other order
    again = predicted(capsys, model, "more.csv")
    assert [row["value"] for row in again] == [row["value"] for row in rows]
    assert main(["predict", model, "new.csv"]) == 0
    head, first, _ = capsys.readouterr().out.splitlines()
    assert head.split() == ["input", "price"]
    assert first.split()[-1] == f"{rows[0]['value']:.0f}"


def test_texts_come_from_arguments_files_and_stdin(
    model_of: Callable[[str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("text")
    Path("q.txt").write_text("who is it\nwhere is it\n")
    from_file = predicted(capsys, model, "q.txt")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"who is it\nwhere is it\n")))
    from_stdin = predicted(capsys, model, "-")
    given = predicted(capsys, model, "who is it", "where is it")
    long = predicted(capsys, "-a", model, "where is it? " * 100)  # no name of a file is that long
    assert len(long) == 1
    assert {len(part) for part in (from_file, from_stdin, given)} == {2}
    for row in range(2):
        answers = [{k: v for k, v in part[row].items() if k != "input"} for part in
                   (from_file, from_stdin, given)]  # fmt: skip
        assert answers[0] == answers[1] == answers[2]
        assert set(answers[0]) == {"label", "probability", "top_k"}


@pytest.mark.parametrize("beams", ["1", "3"])
def test_translations_take_beams(
    model_of: Callable[[str], str], capsys: pytest.CaptureFixture[str], beams: str
) -> None:
    rows = predicted(capsys, model_of("pairs"), "who is it", "where", "--beams", beams)
    assert [row["input"] for row in rows] == ["who is it", "where"]
    assert all(set(row) == {"input", "text"} for row in rows)
    known = {"who", "where", "is", "it", "<unk>"}
    assert all(word in known for row in rows for word in row["text"].split())


def test_photos_may_have_several_labels(
    model_of: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
    photo_folder: Callable[..., Path],
) -> None:
    photo_folder(per_class=2)
    model = model_of("image")
    rows = predicted(capsys, model, "photos")
    assert len(rows) == 6
    for row in rows:
        assert row["labels"] == [name for name, p in row["probabilities"].items() if p > 0.5]
        assert set(row["probabilities"]) == {"cat", "sky"}
    assert main(["predict", model, "photos", "-f", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(table[0]) == ["input", "labels", "probability_cat", "probability_sky"]


def test_a_forecast_is_in_the_datas_units(
    model_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of("series")
    rng = np.random.default_rng(0)
    lines = [f"2024-01-01 {h:02d}:00:00,{rng.normal():.3f},{100 + rng.normal():.3f}" for h in range(12)]
    Path("long.csv").write_text("date,a,b\n" + "\n".join(lines) + "\n")
    rows = predicted(capsys, model, "long.csv")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert len({row["input"] for row in rows}) == 1
    assert all(50 < row["value"] < 150 for row in rows)


def test_nothing_to_predict_is_an_error(
    model_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of("tabular")
    Path("empty.csv").write_text("c,x,y\n")
    assert main(["predict", model, "empty.csv"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: " in err
    assert "empty.csv" in err
