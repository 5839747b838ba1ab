"""Slices: every sample is in one group, and a group's metric is that of its samples alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny

from dlcli.cli import main
from dlcli.data.base import Samples
from dlcli.data.tables.rows import TableRows
from dlcli.data.tables.slices import MISSING, MOST_VALUES, OTHERS, groups_of
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
    rows = slice_rows(SAMPLES, ["few"], whole, order, metric, task)
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
    rows = slice_rows(SAMPLES, ["word"], counts, np.arange(N), "accuracy", task)
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
