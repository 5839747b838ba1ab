"""Predictions on a screen and in files, for every task."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fake_tasks import PRICE, TABLE, TASKS

from dlcli.task import TargetNumber, TaskSpec
from dlcli.ui.predict import print_predictions
from dlcli.ui.predict_writers import WRITERS, Head, destination

Row = dict[str, Any]

ROWS: dict[str, list[Row]] = {
    "classification": [
        {"input": "q:1", "label": "who", "probability": 0.75,
         "top_k": [{"label": "who", "probability": 0.75}, {"label": "where", "probability": 0.2}]},
    ],
    "multilabel": [
        {"input": "a.jpg", "labels": ["cat", "[b]dog"],
         "probabilities": {"cat": 0.75, "[b]dog": 0.875, "sky": 0.25}},
        {"input": "b.jpg", "labels": [], "probabilities": {"cat": 0.1, "[b]dog": 0.2, "sky": 0.25}},
    ],
    "regression": [{"input": "row 1", "value": 206_855.816}, {"input": "row 2", "value": -0.5}],
    "regressions": [{"input": "row 1", "values": {"price": 206_855.816, "age": 31.25}}],
    "forecast": [
        {"input": "ETT", "step": step, "values": {"HUFL": 1.5 * step, "OT": -2.0 * step}}
        for step in (1, 2, 3)
    ],
    "seq2seq": [{"input": "pairs.tsv:1", "text": "the cat sat . " * 15}],
    "embedding": [{"input": "a.jpg", "embedding": [0.25, -0.125] * 20}],
}  # fmt: skip


@pytest.fixture(params=[80, 140])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return int(request.param)


def lines_of(capsys: pytest.CaptureFixture[str], width: int) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines), default=0) <= width
    return lines


def inputs_of(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["input"] for row in rows))


def show(task: str, rows: list[Row] | None = None) -> None:
    rows = ROWS[task] if rows is None else rows
    print_predictions(rows, TASKS[task], inputs_of(rows))


@pytest.mark.parametrize(
    ("task", "head", "first"),
    [
        ("classification", "input label probability next classes", "q:1 who 0.7500 where 0.2000"),
        ("multilabel", "input labels, each with its probability", "a.jpg [b]dog 0.8750, cat 0.7500"),
        ("regression", "input price", "row 1 206856"),
        ("regressions", "input price age", "row 1 206856 31.25"),
        ("forecast", "input step HUFL OT", "ETT 1 1.5 -2"),
        ("seq2seq", "input text", None),
    ],
)
def test_every_task_has_its_columns(
    width: int, capsys: pytest.CaptureFixture[str], task: str, head: str, first: str | None
) -> None:
    show(task)
    lines = lines_of(capsys, width)
    assert " ".join(lines[0].split()) == head
    if first is not None:
        assert len(lines) == 1 + len(ROWS[task])
        assert " ".join(lines[1].split()) == first


def test_no_label_above_a_half_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    show("multilabel")
    assert capsys.readouterr().out.splitlines()[-1].split() == ["b.jpg", "-"]


def test_long_texts_are_wrapped_next_to_their_input(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    show("seq2seq")
    lines = lines_of(capsys, width)
    assert len(lines) > 2
    at = lines[1].index("the cat")
    assert lines[1].startswith("pairs.tsv:1 ")
    assert all(line[:at].isspace() and not line[at].isspace() for line in lines[2:])
    assert " ".join(line[at:] for line in lines[1:]).split() == ROWS["seq2seq"][0]["text"].split()


def test_many_targets_are_cut_to_the_screen_and_counted(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = tuple(TargetNumber(name=f"a long target's name {i}") for i in range(40))
    task = TaskSpec(kind="regression", input=TABLE, targets=targets)
    print_predictions([{"input": "r", "values": {t.name: 1.5 for t in targets}}], task, ["r"])
    head, line = lines_of(capsys, width)
    shown = len(line.split()) - 1
    assert 1 <= shown < 40
    assert head.endswith(f"and {40 - shown} more")


def test_an_embedding_shows_the_numbers_there_is_room_for(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    show("embedding")
    head, line = lines_of(capsys, width)
    shown = line.split()[1:-1]
    assert shown == (["0.2500", "-0.1250"] * 20)[: len(shown)]
    assert line.endswith(" ...")
    assert len(line) > width - 12
    assert head.split() == ["input", "embedding,", str(len(shown)), "of", "40", "dimensions"]


def test_nothing_waits_for_a_later_row(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    printed: list[str] = []

    def rows() -> Iterator[Row]:
        for i in range(450):
            printed.append(capsys.readouterr().out)
            top = [{"label": "who", "probability": 0.75}, {"label": "what", "probability": 0.25}]
            yield {"input": f"p/{i}.jpg", "label": "who", "probability": 0.75, "top_k": top}

    print_predictions(rows(), TASKS["classification"], [f"p/{i}.jpg" for i in range(450)])
    assert len(printed[1].splitlines()) == 2  # the head and the first row, before the second was made
    lines = "".join([*printed, capsys.readouterr().out]).splitlines()
    assert len(lines) == 451
    assert lines[450].split() == ["p/449.jpg", "who", "0.7500", "what", "0.2500"]
    assert len({line.index("0.7500") for line in lines[1:]}) == 1


def test_a_narrow_screen_keeps_the_first_prediction_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    classes = {"who": 0.7, "a long name of a class": 0.2, "where": 0.1}
    top = [{"label": name, "probability": p} for name, p in classes.items()]
    show("classification", [{"input": "photo-1.jpg", "label": "who", "probability": 0.7, "top_k": top}])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["input", "label", "probability"]
    assert line.split() == ["photo-1.jpg", "who", "0.7000"]


def test_names_and_texts_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    show("seq2seq", [{"input": "\x1b[2J", "text": "one\ntwo \x1b[31m"}])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "one\\ntwo" in out


@pytest.mark.parametrize("task", list(TASKS))
def test_no_predictions_print_nothing(capsys: pytest.CaptureFixture[str], task: str) -> None:
    print_predictions(iter(()), TASKS[task], [])
    assert capsys.readouterr().out == ""


def written(form: str, task: str) -> str:
    rows = ROWS[task]
    head = Head({"command": "predict"}, TASKS[task], inputs_of(rows), top_k=2, failed=[])
    file = io.StringIO()
    WRITERS[form](iter(rows), file, head)
    return file.getvalue()


@pytest.mark.parametrize("task", list(ROWS))
def test_json_and_lines_hold_the_rows(task: str) -> None:
    assert [json.loads(line) for line in written("jsonl", task).splitlines()] == ROWS[task]
    whole = json.loads(written("json", task))
    assert list(whole) == ["schema", "command", "predictions", "failed"]
    assert whole["predictions"] == ROWS[task]


@pytest.mark.parametrize(
    ("task", "first"),
    [
        ("classification", {"input": "q:1", "label": "who", "probability": "0.750000",
                            "label_2": "where", "probability_2": "0.200000"}),
        ("multilabel", {"input": "a.jpg", "labels": "cat|[b]dog", "probability_cat": "0.750000",
                        "probability_[b]dog": "0.875000", "probability_sky": "0.250000"}),
        ("regression", {"input": "row 1", "value_price": "206855.816"}),
        ("regressions", {"input": "row 1", "value_price": "206855.816", "value_age": "31.25"}),
        ("forecast", {"input": "ETT", "step": "1", "value_HUFL": "1.5", "value_OT": "-2"}),
        ("seq2seq", {"input": "pairs.tsv:1", "text": "the cat sat . " * 15}),
        ("embedding", {"input": "a.jpg", **{f"e{i}": ("0.25", "-0.125")[i % 2] for i in range(40)}}),
    ],
)  # fmt: skip
def test_csv_has_a_column_for_each_value(task: str, first: Row) -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv", task))))
    assert rows[0] == first
    assert len(rows) == len(ROWS[task])
    assert None not in rows[0]  # no cell without a column


def test_csv_of_one_target_names_it() -> None:
    head = Head({}, TASKS["regression"], [], top_k=0, failed=[])
    file = io.StringIO()
    WRITERS["csv"](iter(()), file, head)
    assert file.getvalue() == "input,value_price\n"
    assert TASKS["regression"].targets == (PRICE,)


def test_a_table_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    head = Head({}, TASKS["regression"], ["row 1", "row 2"], top_k=0, failed=[])
    WRITERS["table"](iter(ROWS["regression"]), sys.stdout, head)
    assert capsys.readouterr().out.splitlines()[1].split() == ["row", "1", "206856"]


def test_rows_on_an_ascii_stream_are_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with destination(None) as file:
        file.write("café")
    assert raw.getvalue().decode() == "café"


def test_names_of_classes_are_shortened_on_the_screen_and_whole_in_files(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    long, other = "a" * 300 + "z", "b" * 300
    task = TASKS["classification"].model_copy(update={"class_names": (long, other)})
    top_k = [{"label": long, "probability": 0.75}, {"label": other, "probability": 0.25}]
    row = {"input": "q:1", "label": long, "probability": 0.75, "top_k": top_k}
    print_predictions([row], task, ["q:1"])
    (_, line) = lines_of(capsys, width)
    assert "…" in line
    assert "az  " in line
