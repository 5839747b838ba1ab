from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dlcli.engine.metrics import ClassificationCounts, EvalResult
from dlcli.ui import text
from dlcli.ui.report import print_json
from dlcli.ui.tables import print_comparison, print_eval, print_key_values, print_predictions


def result(names: list[str], confusion: np.ndarray, bad: dict[str, str] | None = None) -> EvalResult:
    counts = ClassificationCounts(len(names))
    targets, predicted = np.nonzero(confusion)
    for target, guess in zip(targets, predicted, strict=True):
        logits = np.zeros((confusion[target, guess], len(names)), dtype=np.float32)
        logits[:, guess] = 4.0
        counts.update(logits, np.full(len(logits), target))
    return counts.result("test", names, bad)


@pytest.fixture(params=[80, 140])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return int(request.param)


def check_fits(out: str, width: int) -> None:
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= width


def test_eval_shows_every_figure(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    confusion = np.array([[7, 2, 0], [0, 5, 1], [0, 0, 0]])
    bad = {f"a/{i}.jpg": "truncated" for i in range(7)}
    shown = result(["shirt", "[red]x[/]", "never"], confusion, bad)
    print_eval(shown, "runs/x/best.safetensors", "the data has a test split")
    out = capsys.readouterr().out
    check_fits(out, width)
    for name, value in shown.metrics.items():
        assert any(line.split() == [name, f"{value:.4f}"] for line in out.splitlines())
    rows = [line.split() for line in out.splitlines()]
    assert ["shirt", "9", "7", "1.0000", "0.7778", "0.8750"] in rows
    assert ["[red]x[/]", "6", "7", "0.7143", "0.8333", "0.7692"] in rows
    assert ["never", "0", "1", "0.0000", "-", "0.0000"] in rows
    assert "shirt -> [red]x[/]  2 (22.2%)" in out
    assert "[red]x[/] -> never  1 (16.7%)" in out
    assert "7 unreadable samples" in out
    assert "a/4.jpg: truncated" in out
    assert "a/5.jpg" not in out
    assert "and 2 more" in out
    assert "test, 15 samples, 7 left out" in out


def test_long_class_lists_show_the_worst(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    confusion = np.diag(np.full(40, 10))
    for i in range(25):  # class i has i of its ten right
        confusion[i, i] = i % 10
        confusion[i, 39] = 10 - i % 10
    confusion[30, 30] = 0  # does not occur at all
    print_eval(result([f"c{i:02d}" for i in range(40)], confusion), "best.onnx", None)
    out = capsys.readouterr().out
    check_fits(out, width)
    assert "40 classes, the 20 with the lowest F1" in out
    table = out[out.index("lowest F1") : out.index("most frequent")]
    shown = [
        line.split()[0]
        for line in table.splitlines()
        if line.strip().startswith("c") and "f1" not in line
    ]
    assert len(shown) == 20
    assert "c30" not in shown
    assert {"c00", "c10", "c20", "c39"} <= set(shown)
    scores = [
        float(line.split()[-1]) for line in table.splitlines() if line.strip()[:2] in {"c0", "c1", "c2"}
    ]
    assert scores == sorted(scores)


def test_thirty_classes_are_all_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_eval(result([f"c{i:02d}" for i in range(30)], np.eye(30, dtype=int)), "x", None)
    out = capsys.readouterr().out
    assert all(f"c{i:02d}" in out for i in range(30))
    assert "confusions" not in out


def test_long_names_lose_no_figure(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    print_eval(result(["a long name " * 20, "b"], np.array([[3, 1], [0, 4]])), "best.safetensors", None)
    out = capsys.readouterr().out
    check_fits(out, width)
    assert "0.7500  0.8571" in out


def test_names_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_eval(result(["\x1b[2J", "two\nlines"], np.array([[1, 1], [0, 1]])), "x", None)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "two\\nlines" in out


def test_key_values_and_comparison(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    print_key_values("run [b]x[/b]", [("model", "m/" * 100), ("next", "dlcli eval [FILE]")])
    print_comparison(
        "pruned", ["", "before", "after"], [["size", "44.8 MB", "11.3 MB"], ["[red]", "0.9", "0.8"]]
    )
    out = capsys.readouterr().out
    check_fits(out, width)
    assert "run [b]x[/b]" in out
    assert "".join(out.split()).count("m/") == 100
    assert "dlcli eval [FILE]" in out
    assert ["size", "44.8", "MB", "11.3", "MB"] in [line.split() for line in out.splitlines()]
    assert ["[red]", "0.9", "0.8"] in [line.split() for line in out.splitlines()]


def test_predictions_stream_with_one_head(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[int] = []

    def rows():  # type: ignore[no-untyped-def]
        for i in range(450):
            made.append(i)
            top = [{"label": "[b]cat", "probability": 0.75}, {"label": "dog", "probability": 0.25}]
            yield {"file": f"p/{i}.jpg", "label": "[b]cat", "probability": 0.75, "top_k": top}

    print_predictions(rows())
    out = capsys.readouterr().out
    check_fits(out, width)
    lines = out.splitlines()
    assert len(made) == 450
    assert len(lines) == 451
    assert lines[0].split() == ["file", "label", "probability", "then"]
    assert lines[450].split() == ["p/449.jpg", "[b]cat", "0.7500", "dog", "0.2500"]
    assert len({line.index("0.7500") for line in lines[1:]}) == 1


def test_a_narrow_screen_keeps_the_first_answer_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    classes = {"cat": 0.7, "a long name of a class": 0.2, "dog": 0.1}
    top = [{"label": name, "probability": p} for name, p in classes.items()]
    print_predictions([{"file": "photo-1.jpg", "label": "cat", "probability": 0.7, "top_k": top}])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["file", "label", "probability"]
    assert line.split() == ["photo-1.jpg", "cat", "0.7000"]


def test_no_predictions_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_predictions(iter(()))
    assert capsys.readouterr().out == ""


def test_json_is_one_object_with_the_schema_first(capsys: pytest.CaptureFixture[str]) -> None:
    shown = result(["a", "b"], np.array([[1, 0], [1, 1]]), {"odd \udcff": "truncated"})
    broken = {"loss": float("nan"), "rates": [1.5, float("inf")], "path": Path("runs") / "x"}
    print_json({"command": "eval", **shown.to_dict(), **broken})
    out = capsys.readouterr().out
    assert out.isascii()
    assert len(out.splitlines()) == 1
    read = json.loads(out, parse_constant=pytest.fail)
    assert next(iter(read)) == "schema"
    assert read["schema"] == 1
    assert read["confusion"] == [[1, 0], [1, 1]]
    assert read["loss"] is None
    assert read["rates"] == [1.5, None]
    assert read["path"] == os.path.join("runs", "x")
    assert read["bad_samples"] == {"odd \udcff": "truncated"}


def test_json_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TypeError, match="set has no JSON form"):
        print_json({"x": {1, 2}})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.6, "1m00s"), (185, "3m05s"), (3599.7, "1h00m"),
     (7500, "2h05m"), (97_200, "1d03h"), (float("nan"), "?"), (-1, "?")],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize("width", [1, 2, 5, 6, 11])
def test_shortened_names_have_the_width(width: int) -> None:
    assert len(text.shorten("hello world!", width)) == width
    assert text.shorten("hello", 5) == "hello"
