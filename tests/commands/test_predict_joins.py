"""Predictions joined to their inputs: ids and columns of the input, rows, every class in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
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
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)
from dlcli.zoo.base import build_model

CLASSES = ("7", "2", "=b")  # with --probabilities no column of rank 2 may hide that of class 2
TABLE = TabularInput(
    numbers=(NumberColumn(name="x", mean=1.0, std=2.0), NumberColumn(name="y")),
    categories=(CategoryColumn(name="c", values=("red", "green")),),
)
IMAGE = ImageInput(channels=3, height=8, width=8, resize_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
WORDS = TextInput(vocabulary=(*SPECIAL_TOKENS, *"abcdefgh"), max_length=8, column="text")
TASKS = {
    "table": TaskSpec(input=TABLE, class_names=CLASSES),
    "text": TaskSpec(input=WORDS, class_names=CLASSES),
    "image": TaskSpec(input=IMAGE, class_names=CLASSES),
    "price": TaskSpec(kind="regression", input=TABLE, targets=(TargetNumber(name="price"),)),
}
PROBABILITIES = [f"probability_{name}" for name in CLASSES]


@pytest.fixture
def model_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Make an untrained model in the current folder; gives the file's name."""
    monkeypatch.chdir(tmp_path)

    def make(name: str) -> str:
        card = Card(model=ModelSpec(name="linear"), task=TASKS[name])
        torch.manual_seed(0)
        save_model(tmp_path / f"{name}.safetensors", build_model(card.model, TASKS[name]), card)
        return f"{name}.safetensors"

    return make


def predicted(*args: str, code: int = 0) -> pl.DataFrame:
    assert main(["predict", *args, "--output", "out.csv", "--quiet"]) == code
    return pl.read_csv("out.csv", infer_schema_length=None)


def check_join(model: str, table: pl.DataFrame, name: str, *, bad: int = 0) -> None:
    """Predict a table with ids, shuffled, and again as it was: a join by id gives the same numbers.

    ``name`` is a column of distinct cells that the id does not follow from; ``bad`` rows cannot be read.
    """
    table = table.with_columns(pl.Series("id", [f"{i:03d}" for i in range(table.height)]))
    table.write_csv("plain.csv")
    table.sample(fraction=1, shuffle=True, seed=3).write_csv("shuffled.csv")
    options = ("--id-column", "id", "--keep-columns", name, "--probabilities")
    code = 1 if bad else 0
    first = predicted(model, "plain.csv", *options, code=code)
    other = predicted(model, "shuffled.csv", *options, code=code)
    assert first.columns == ["input", "row", "id", name, "label", "probability", *PROBABILITIES]
    assert first["id"].to_list() != other["id"].to_list()
    texts = pl.read_csv("plain.csv", infer_schema=False)
    for file, out in (("plain.csv", first), ("shuffled.csv", other)):
        raw = pl.read_csv(file, infer_schema=False).with_row_index("row")
        joined = out.cast({"row": pl.UInt32, "id": pl.String, name: pl.String}).join(
            raw.select("row", pl.col("id").alias("own_id"), pl.col(name).alias("own")), on="row"
        )
        assert joined.height == out.height == table.height - bad
        assert (joined["id"].cast(int) == joined["own_id"].cast(int)).all()
        assert joined[name].equals(joined["own"])
    both = first.join(other, on="id", suffix="_other").join(
        texts.with_columns(pl.col("id").cast(int)), on="id"
    )
    assert both.height == table.height - bad
    for column in PROBABILITIES:
        np.testing.assert_allclose(both[column], both[f"{column}_other"], atol=2e-6)
    np.testing.assert_allclose(first.select(PROBABILITIES).sum_horizontal(), 1, atol=1e-5)
    labels = [CLASSES[i] for i in first.select(PROBABILITIES).to_numpy().argmax(1)]
    assert first["label"].to_list() == ["'=b" if n == "=b" else n for n in labels] or (
        first["label"].cast(pl.String).to_list() == labels
    )
    assert first.select(PROBABILITIES).n_unique() > table.height / 2  # else nothing was told apart


def test_rows_of_a_table(model_of: Callable[[str], str]) -> None:
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {"x": rng.normal(size=40).round(3), "c": ["red", "green"] * 20, "y": rng.normal(size=40)}
    )
    check_join(model_of("table"), table, "x")


def test_texts_of_a_table(model_of: Callable[[str], str]) -> None:
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(list("abcdefgh"), 6)) for _ in range(40)]
    check_join(model_of("text"), pl.DataFrame({"text": texts, "n": range(40)}), "text")


def test_images_of_a_table_where_some_cannot_be_read(
    model_of: Callable[[str], str], photo_folder: Callable[..., Path]
) -> None:
    photo_folder(per_class=4)
    model = model_of("image")
    names = [f"photos/{c}/{i}.jpg" for c in ("red", "green", "blue") for i in range(4)]
    Path("photos/red/1.jpg").write_bytes(b"no image")
    names[6] = "photos/gone.jpg"
    check_join(model, pl.DataFrame({"path": names, "label": list("abc") * 4}), "path", bad=2)


def test_images_of_a_table_are_those_of_their_files(
    model_of: Callable[[str], str],
    photo_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo_folder(per_class=2)
    model = model_of("image")
    names = ["photos/red/0.jpg", "photos/blue/1.jpg", "photos/red/0.jpg"]
    Path("t.csv").write_text("path,label\n" + "".join(f"{name},1\n" for name in names))
    assert main(["predict", model, "t.csv", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert main(["predict", model, *names, "--json"]) == 0
    direct = json.loads(capsys.readouterr().out)["predictions"]
    assert [row.pop("row") for row in rows] == [0, 1, 2]
    assert rows == direct


def failed_of(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[dict[str, Any], str]:
    assert main(["predict", *args, "--json"]) == 1
    result = capsys.readouterr()
    return json.loads(result.out), result.err


def test_skipped_rows_keep_their_id(
    model_of: Callable[[str], str],
    photo_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo_folder(per_class=1)
    Path("t.csv").write_text("id,path\n07,photos/red/0.jpg\n08,gone.jpg\n09,\n10,photos/blue/0.jpg\n")
    out, _ = failed_of(capsys, model_of("image"), "t.csv", "--id-column", "id")
    assert [(row["row"], row["id"]) for row in out["predictions"]] == [(0, "07"), (3, "10")]
    assert [(row["row"], row["id"]) for row in out["failed"]] == [(1, "08"), (2, "09")]


def test_ids_that_repeat_or_are_missing_are_named_and_rows_tell_them_apart(
    model_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.csv").write_text("id,c,x,y\na,red,1,2\na,red,3,4\n,green,5,6\nb,red,1,2\n")
    assert main(["predict", model_of("table"), "t.csv", "--id-column", "id", "-o", "o.csv"]) == 0
    err = capsys.readouterr().err
    assert "--id-column 'id': rows with the id of an earlier one: 1, rows without an id: 1" in err
    out = pl.read_csv("o.csv")
    assert out["id"].to_list() == ["a", "a", None, "b"]
    assert out["row"].to_list() == [0, 1, 2, 3]


def test_columns_with_the_names_of_predictions_get_a_prefix(
    model_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.csv").write_text("row,label,c,x,y,input_label\n5,yes,red,1,2,q\n6,=no,green,,4,r\n")
    model = model_of("table")
    assert main(["predict", model, "t.csv", "--keep-columns", "all", "-f", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kept = ["input_row", "input_label", "c", "x", "y", "input_input_label"]
    assert list(rows[0]) == ["input", "row", *kept, "label", "probability", "top_k"]
    assert [rows[1][name] for name in kept] == ["6", "=no", "green", None, "4", "r"]
    out = predicted(model, "t.csv", "--keep-columns", "all")
    assert out.columns[: len(kept) + 2] == ["input", "row", *kept]
    assert out["input_label"].to_list() == ["yes", "'=no"]


def test_typed_tables_and_several_of_them(model_of: Callable[[str], str]) -> None:
    frame = pl.DataFrame(
        {"id": [3, 4], "c": ["red", "green"], "x": [1.0, 2.0], "y": [1.0, 2.0], "l": [[1], [2]]}
    ).with_columns(day=pl.date(2026, 1, pl.col("id")))
    frame.write_parquet("a.parquet")
    frame.write_parquet("b.parquet")
    out = predicted(model_of("table"), "a.parquet", "b.parquet", "--keep-columns", "id,day")
    assert out["table"].to_list() == ["a.parquet"] * 2 + ["b.parquet"] * 2
    assert out["row"].to_list() == [0, 1, 0, 1]
    assert out["id"].to_list() == [3, 4, 3, 4]
    assert out["day"].to_list() == ["2026-01-03", "2026-01-04"] * 2


def test_the_screen_names_rows_by_id(
    model_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.csv").write_text("id,c,x,y\nfirst-one,red,1,2\n02,green,3,4\n")
    assert main(["predict", model_of("price"), "t.csv", "--id-column", "id"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["input", "first-one", "02"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["t.csv", "--id-column", "idd"], 1, "has no column 'idd' (--id-column)"),
        (["t.csv", "--keep-columns", "x,z", "--json"], 1, "has no column 'z' (--keep-columns)"),
        (["t.csv", "--keep-columns", "x"], 2, "not for a table on the screen"),
        (["t.csv", "--probabilities", "-f", "csv"], 2, "this model does regression"),
        (["t.csv", "--probabilities", "-f", "csv", "-k", "2"], 2, "--top-k 2 some of them"),
    ],
)
def test_refusals(
    model_of: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    code: int,
    message: str,
) -> None:
    Path("t.csv").write_text("id,c,x,y\na,red,1,2\n")
    assert main(["predict", model_of("price"), *args]) == code
    result = capsys.readouterr()
    assert message in result.err
    assert result.out == ""


def test_texts_that_are_no_table_have_no_ids(
    model_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of("text")
    assert main(["predict", model, "a b c", "--id-column", "id"]) == 2
    assert "--id-column id: no input is a table" in capsys.readouterr().err
    Path("t.csv").write_text("text,id\na b,1\n")
    assert main(["predict", model, "t.csv", "a b", "--id-column", "id", "-f", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["row"], row["id"]) for row in rows] == [(0, "1"), (None, None)]
    assert rows[0]["label"] == rows[1]["label"]
