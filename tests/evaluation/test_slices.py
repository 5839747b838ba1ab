"""Slices: every sample is in one group, and a group's metric is that of its samples alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tiny
from PIL import Image
from tiny_data import write_csv

from dlcli.cli import main
from dlcli.data.base import Samples
from dlcli.data.slices import MISSING, MOST_VALUES, OTHERS, groups_of
from dlcli.data.tables.rows import TableRows
from dlcli.errors import UsageError
from dlcli.evaluation.metrics import make_counts
from dlcli.evaluation.slices import slice_rows, worst_slice

N = 200
RNG = np.random.default_rng(0)
FRAME = pl.DataFrame(
    {
        "word": ["a", "b", None, ""] * (N // 4),
        "many": [f"w{i % 50}" for i in range(N)],
        "number": [None, *RNG.normal(size=N - 1).tolist()],
        "few": [i % 3 for i in range(N)],
        "german": [f"{i},5" for i in range(N)],
        "day": pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 7, 18), eager=True),
        "empty": [None] * N,
        "same": [1.5] * N,
    }
)
SAMPLES = Samples(
    tuple(map(str, range(N))), np.zeros(N, np.int64), TableRows(FRAME, {"german": "1.234,5"})
)


@pytest.mark.parametrize("column", FRAME.columns)
def test_every_sample_is_in_one_group(column: str) -> None:
    groups = groups_of(SAMPLES, column)
    assert sorted(np.concatenate(list(groups.values())).tolist()) == list(range(N))


def test_groups_are_values_or_quartiles() -> None:
    assert set(groups_of(SAMPLES, "word")) == {"a", "b", MISSING}
    assert list(groups_of(SAMPLES, "few")) == ["0", "1", "2"]
    assert list(groups_of(SAMPLES, "many"))[-1] == OTHERS
    assert len(groups_of(SAMPLES, "many")) == MOST_VALUES
    numbers = groups_of(SAMPLES, "number")
    assert [len(where) for where in numbers.values()] == [50, 50, 49, 50, 1]
    assert next(iter(groups_of(SAMPLES, "day"))).startswith("2024-01-01")
    assert next(iter(groups_of(SAMPLES, "german"))) == "0.5 to 49.5"
    with pytest.raises(UsageError, match="no such column"):
        groups_of(SAMPLES, "nothing")


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("classification", "accuracy"),
        ("classification", "f1_macro"),
        ("multilabel", "f1_macro"),
        ("regression", "rmse"),
    ],
)
def test_a_group_has_the_metric_of_its_samples_alone(kind: str, metric: str) -> None:
    task = tiny.make_task(tiny.table(), kind)  # type: ignore[arg-type]
    outputs = RNG.normal(size=(N, task.num_outputs)).astype(np.float32)
    targets = {
        "classification": RNG.integers(0, 3, N),
        "multilabel": RNG.integers(0, 2, (N, 3)),
        "regression": RNG.normal(size=(N, 1)),
    }[kind]
    order = RNG.permutation(N)  # of a reader that sorts by length
    whole = make_counts(task)
    whole.update(outputs[order], targets[order])
    rows = slice_rows(N, {"few": groups_of(SAMPLES, "few")}, whole, order, metric, task)
    for row, where in zip(rows, groups_of(SAMPLES, "few").values(), strict=True):
        alone = make_counts(task)
        alone.update(outputs[where], targets[where])
        assert row.value == pytest.approx(alone.metrics()[metric])
        assert row.low <= row.value <= row.high
        assert row.samples == len(where)


def test_the_worst_slice_is_named_and_too_few_samples_are_not_it() -> None:
    task = tiny.make_task(tiny.table())
    logits, targets = np.zeros((N, 3), np.float32), np.zeros(N, np.int64)
    logits[:, 0] = 1
    logits[FRAME["word"].eq_missing("b").to_numpy(), 1] = 2
    counts = make_counts(task)
    counts.update(logits, targets)
    groups = {"word": groups_of(SAMPLES, "word")}
    rows = slice_rows(N, groups, counts, np.arange(N), "accuracy", task)
    worst = worst_slice(rows)
    assert worst is not None
    assert (worst.name, worst.value, worst.worse) == ("b", 0.0, True)
    assert [row.worse for row in rows if row.name != "b"] == [False, False]


def test_the_command_reports_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 7},{'uv'[i % 2]},{'yes' if i % 7 > 3 else 'no'}" for i in range(120)]
    Path("t.csv").write_text("x,where,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    train = ["train", "-m", "linear", "-d", "t.csv", "--target", "label", "--epochs", "1", "--quiet"]
    assert main([*train, "--name", "t"]) == 0
    capsys.readouterr()
    assert main(["eval", "t", "--split", "val", "--slice", "where", "--slice", "x", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    for column in ("where", "x"):
        own = [row for row in result["slices"] if row["column"] == column]
        total = sum(row["samples"] * row["value"] for row in own)
        assert total / result["samples"] == pytest.approx(result["metrics"][own[0]["metric"]])
    assert "By where" in Path("runs/t/report.html").read_text(encoding="utf-8")
    assert main(["eval", "t", "--slice", "wher"]) == 2
    assert "'where'" in capsys.readouterr().err


def sliced(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, list[dict[str, Any]]]:
    """The slices that `eval` prints, by column; those of a column add up to the metric of all."""
    capsys.readouterr()
    assert main(["eval", *args, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    columns: dict[str, list[dict[str, Any]]] = {}
    for row in result["slices"]:
        columns.setdefault(row["column"], []).append(row)
    for own in columns.values():
        assert sum(row["samples"] for row in own) == result["samples"]
        total = sum(row["samples"] * row["value"] for row in own)
        assert total / result["samples"] == pytest.approx(result["metrics"][own[0]["metric"]])
    return columns


@pytest.mark.parametrize("shape", ["one table", "a table a split", "a split column"])
def test_texts_are_sliced_by_other_columns_of_their_table_and_by_length(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Every seventh row has no target and is left out, so that a sample is another row than it is number.
    cells = [
        (
            f"{word} number {i} of all{chr(33) * (i % 5)}",
            f"{'ab'[i % 2]}{i % 3}",
            "" if i % 7 == 0 else word,
        )
        for i, word in enumerate(["card", "cash"] * 60)
    ]
    parts = {"train": cells[:80], "val": cells[80:100], "test": cells[100:]}
    columns = ("text", "where", "label")
    (tmp_path / "texts").mkdir()
    if shape == "a table a split":
        for split, rows in parts.items():
            write_csv(tmp_path / "texts" / f"{split}.csv", columns, rows)
        data = ["texts"]
    elif shape == "a split column":
        rows = [(*row, split) for split, part in parts.items() for row in part]
        write_csv(tmp_path / "texts.csv", (*columns, "split"), rows)
        data = ["texts.csv", "--split-column", "split"]
    else:
        write_csv(tmp_path / "texts.csv", columns, cells)
        data = ["texts.csv"]
    train = ["train", "-m", "linear", "--target", "label", "--epochs", "1", "--quiet", "--name", "t"]
    assert main([*train, "-d", *data]) == 0
    by = sliced(capsys, "t", "--slice", "where", "--slice", "length", "--split", "test")
    if shape != "one table":
        expected = Counter(where for _, where, label in parts["test"] if label)
        assert {row["name"]: row["samples"] for row in by["where"]} == expected
    assert len(by["length"]) > 1
    assert main(["eval", "t", "--slice", "lengt"]) == 2
    assert "'length'" in capsys.readouterr().err


def test_images_are_sliced_by_columns_of_their_table_and_by_their_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = []
    for i in range(40):
        width, height = ((20, 30), (40, 30))[i % 4 // 2]
        Image.new("RGB", (width, height), ("red", "blue")[i % 2]).save(f"{i}.png")
        rows.append((f"{i}.png", ("red", "blue")[i % 2], f"camera {i % 4}", ("train", "val")[i > 19]))
    write_csv(tmp_path / "photos.csv", ("path", "label", "camera", "split"), rows)
    train = ["train", "-m", "linear", "-d", "photos.csv", "--split-column", "split", "--img-size", "8"]
    assert main([*train, "--epochs", "1", "--set", "fit.min_steps=0", "--quiet", "--name", "p"]) == 0
    asked = ("--slice", "camera", "--slice", "aspect", "--slice", "pixels")
    by = sliced(capsys, "p", "--split", "val", *asked)
    assert {row["name"]: row["samples"] for row in by["camera"]} == {f"camera {i}": 5 for i in range(4)}
    assert [row["samples"] for row in by["aspect"]] == [10, 10]
    assert {row["name"] for row in by["pixels"]} == {"600", "1200"}
