from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tasks import TASKS

from dlcli import wording
from dlcli.evaluation.metrics import (
    BaselineRow,
    ClassificationCounts,
    ClassRow,
    EvalResult,
    TargetRow,
    make_counts,
)
from dlcli.ui import text
from dlcli.ui.differences import baseline_sentence, baselines_sentence
from dlcli.ui.json_output import print_json
from dlcli.ui.tables import print_comparison, print_eval, print_key_values


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


def test_a_screen_of_40_columns_has_every_name_and_every_digit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    measured = result(["shirt", "ankle boot"], np.array([[7, 2], [1, 5]]))
    print_eval(measured, "best", None)
    cells = ["throughput", "12,345/s", "123,456/s", "10.0 x as fast (9 to 11)"]
    print_comparison("models", ["", "before", "after", "change"], [cells])
    out = capsys.readouterr().out
    check_fits(out, 40)
    assert "…" not in out
    for row in measured.per_class:
        assert f"  {row.name}\n" in out
        assert f"recall {row.recall:.4f}" in out
    assert (
        "  throughput\n    before 12,345/s, after 123,456/s\n    change 10.0 x as fast (9 to 11)\n"
    ) in out


def test_eval_shows_every_figure(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    confusion = np.array([[7, 2, 0], [0, 5, 1], [0, 0, 0]])
    bad = {f"a/{i}.jpg": "truncated" for i in range(7)}
    shown = result(["shirt", "[red]x[/]", "never"], confusion, bad)
    print_eval(shown, "runs/x/best.safetensors", "the data has a test split")
    out = capsys.readouterr().out
    check_fits(out, width)
    for name, value in shown.metrics.items():
        line_of = [line for line in out.splitlines() if line.split() == [name, f"{value:.4f}"]]
        assert bool(line_of) == (name != "log_loss")
    assert "more in --json: log_loss" in out
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


def test_labels_have_a_row_each_and_no_confusions(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = make_counts(TASKS["multilabel"])
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]], dtype=np.uint8)
    outputs = np.where(targets == 1, 3.0, -3.0).astype(np.float32)
    outputs[0, 1] = 3.0  # a dog that is not there
    counts.update(outputs, targets)
    print_eval(counts.result("val"), "x", None)
    out = capsys.readouterr().out
    check_fits(out, width)
    assert "3 labels" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["label", "samples", "predicted", "precision", "recall", "f1"] in rows
    assert ["cat", "3", "3", "1.0000", "1.0000", "1.0000"] in rows
    assert ["[b]dog", "2", "3", "0.6667", "1.0000", "0.8000"] in rows
    assert ["sky", "0", "0", "-", "-", "-"] in rows
    assert ["accuracy", "0.7500"] in rows
    assert "subset accuracy" in out
    assert "confusions" not in out


def test_regression_shows_errors_in_the_datas_units(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = make_counts(TASKS["regressions"])
    true = np.array([[100_000.0, 20.0], [300_000.0, 50.0]])
    counts.update(np.array([[-1.5, 0.0], [1.5, 0.0]], dtype=np.float32), true)
    print_eval(counts.result("test"), "x", None)
    out = capsys.readouterr().out
    check_fits(out, width)
    rows = [line.split() for line in out.splitlines()]
    # 50,000 off in each of the two rows; age is guessed as 30, 10 and 20 off.
    assert ["price", "50000", "50000", "0.7500"] in rows
    assert ["age", "15.00", "15.81", "-0.1111"] in rows
    names = [row[0] for row in rows if row and row[0] in ("r2", "mae", "rmse", "mse", "loss")]
    assert names == ["r2", "mae", "rmse", "mse", "loss"]
    assert "in the data's own units" in out
    assert "loss is on scaled values" in " ".join(out.split())


def test_a_forecast_says_that_its_metrics_are_scaled(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    task = TASKS["forecast"]
    counts = make_counts(task)
    outputs = np.zeros((4, 3, 2), dtype=np.float32)
    mean, std = np.array([[t.mean, t.std] for t in task.targets]).T
    counts.update(outputs, np.array([-1.0, 1.0, -1.0, 1.0])[:, None, None] * std + mean + 0 * outputs)
    shown = counts.result("test")
    print_eval(replace(shown, non_finite=1), "x", None)
    out = capsys.readouterr().out
    check_fits(out, width)
    rows = [line.split() for line in out.splitlines()]
    assert ["mse", "1.0000"] in rows
    assert "on scaled values" in out
    assert ["HUFL", "5.6000", "5.6000", "0.0000"] in rows
    assert ["OT", "8.1000", "8.1000", "0.0000"] in rows
    assert "1 output with NaN or infinity" in out


def test_many_targets_show_the_worst(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tuple(TargetRow(f"t{i:02d}", 1.0, 2.0, i / 100) for i in range(40))
    nothing = TargetRow("none", 1.0, 2.0, float("nan"))
    print_eval(
        EvalResult("test", 9, {"loss": 1.0}, task="regression", per_target=(nothing, *rows)), "x", None
    )
    out = capsys.readouterr().out
    check_fits(out, width)
    shown = [
        line.split()[0] for line in out.splitlines() if line.startswith("  t") and "mae" not in line
    ]
    assert shown == [f"t{i:02d}" for i in range(20)]
    assert "41 targets" in out
    assert "the 20 with the lowest r2" in out


def test_seq2seq_shows_its_scores_alone(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"bleu": 23.4, "accuracy": 0.61, "loss": 2.1}
    print_eval(EvalResult("test", 200, scores, task="seq2seq"), "x", None)
    out = capsys.readouterr().out
    check_fits(out, width)
    rows = [line.split() for line in out.splitlines()]
    assert rows.index(["loss", "2.1000"]) < rows.index(["accuracy", "0.6100"])
    assert rows.index(["accuracy", "0.6100"]) < rows.index(["bleu", "23.40"])
    assert "target" not in out


def test_an_embedding_shows_its_neighbours(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    print_eval(EvalResult("val", 200, {"loss": 0.3, "recall_at_1": 0.875}, task="embedding"), "x", None)
    out = capsys.readouterr().out
    check_fits(out, width)
    rows = [line.split() for line in out.splitlines()]
    assert rows.index(["recall_at_1", "0.8750"]) < rows.index(["loss", "0.3000"])
    assert "nearest neighbour in the split" in " ".join(out.split())


def test_baselines_say_in_words_who_wins(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    inf = float("inf")
    baselines = (
        BaselineRow("majority", "accuracy", 0.1, 0.815, 0.804, 0.826, better=True),
        BaselineRow("[i]TF-IDF", "accuracy", 0.892, 0.003, -0.02, 0.026, better=None, note="of 5 rows"),
        BaselineRow("boosting", "accuracy", 0.99, -0.2, -0.3, -0.1, better=False),
        BaselineRow("few", "rmse", 12_000.0, -0.2, -inf, inf, better=None),
    )
    shown = result(["a", "b"], np.eye(2, dtype=int))
    print_eval(replace(shown, baselines=baselines), "x", None)
    out = capsys.readouterr().out
    check_fits(out, width)
    flat = [" ".join(line.split()) for line in out.splitlines()]
    assert "baselines by accuracy (difference: the model's 1.0000 minus theirs)" in flat
    assert "majority 0.1000 +0.8150 +0.8040 to +0.8260 better" in flat
    assert "boosting 0.9900 -0.2000 -0.3000 to -0.1000 worse" in flat
    assert any(
        line.startswith("[i]TF-IDF 0.8920 +0.0030 -0.0200 to +0.0260 not significant") for line in flat
    )
    assert "[i]TF-IDF of 5 rows" in flat
    assert any(line.startswith("few 12000 -0.2000 unknown too few samples") for line in flat)
    if width == 140:
        assert "not significant" in out
    assert flat.index("majority 0.1000 +0.8150 +0.8040 to +0.8260 better") < next(
        i for i, line in enumerate(flat) if line.startswith("baselines by rmse")
    )


def test_no_baselines_no_section(capsys: pytest.CaptureFixture[str]) -> None:
    print_eval(result(["a", "b"], np.eye(2, dtype=int)), "x", None)
    assert "baseline" not in capsys.readouterr().out


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
    assert len(wording.shorten("hello world!", width)) == width
    assert wording.shorten("hello", 5) == "hello"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.12344, "0.1234"), (96.9091, "96.91"), (99.999, "100.0"), (104.0, "104.0"), (9.99991, "10.00"),
     (1234.4, "1234"), (51_234.4, "51234"),
     (3.1e9, "3.100e+09"), (0.0, "0.0000"), (-2e-16, "0.0000"),
     (0.0005, "0.0005"), (3.14e-5, "3.1e-05"), (-3.14e-5, "-3.1e-05"),
     (float("nan"), "nan"), (float("-inf"), "-inf")],
)  # fmt: skip
def test_figures_of_any_size(value: float, shown: str) -> None:
    assert text.figure(value) == shown


def test_values_and_names_as_they_are_read() -> None:
    assert [wording.number(v) for v in (206_855.8, -1.25, 1.0, 2.5e-7)] == [
        "206856",
        "-1.25",
        "1",
        "2.5e-07",
    ]
    assert [text.signed(v) for v in (0.5, -0.5, 0.0)] == ["+0.5000", "-0.5000", "+0.0000"]
    assert wording.plural(2, "category") == "2 categories"
    assert wording.plural(1, "category") == "1 category"
    assert wording.listed(["a", "b\n", "c", "d"], 2) == "a, b\\n, and 2 more"
    assert wording.listed(["a", "b"], 2) == "a, b"
    assert len(text.key("x" * 99)) == 24


def binary(metrics: dict[str, float], **values: Any) -> EvalResult:
    rows = tuple(ClassRow(name, 5, 5, 1.0, 1.0, 1.0) for name in ("ham", "spam"))
    return EvalResult("test", 10, {"loss": 0.1, "accuracy": 1.0, **metrics}, per_class=rows, **values)


def test_curves_are_shown_of_two_classes_with_the_positive_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_eval(binary({"roc_auc": 0.75, "log_loss": 0.1}), "x", None)
    out = capsys.readouterr().out
    assert ["roc_auc", "0.7500"] in [line.split() for line in out.splitlines()]
    assert "roc_auc and average_precision: spam against ham" in out


def test_curves_of_many_classes_are_shown_where_they_chose_the_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = tuple(ClassRow(name, 5, 5, 1.0, 1.0, 1.0) for name in "abc")
    many = EvalResult("test", 15, {"loss": 0.1, "roc_auc": 0.75}, per_class=rows)
    print_eval(many, "x", None)
    out = capsys.readouterr().out
    assert "0.7500" not in out
    assert "more in --json: roc_auc" in out
    row = BaselineRow("majority", "roc_auc", 0.5, 0.25, 0.2, 0.3, True)
    print_eval(replace(many, baselines=(row,)), "x", None)
    assert "roc_auc  0.7500" in capsys.readouterr().out


def test_an_undefined_metric_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    print_eval(binary({}, undefined={"roc_auc": "all samples are of one class"}), "x", None)
    assert "roc_auc   undefined: all samples are of one class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            ("acc", 0.1, 0.8, 0.7, 0.9, True),
            "the model is better by 0.8000 (95 % interval 0.7000 to 0.9000)",
        ),
        (("mse", 0.1, -0.8, -0.9, -0.7, True), "better by 0.8000 (95 % interval 0.7000 to 0.9000)"),
        (("mse", 0.1, 0.8, 0.7, 0.9, False), "the model is worse by 0.8000 (95 % interval 0.7000 to"),
        (
            ("acc", 0.1, 0.1, -0.1, 0.3, None),
            "not significantly better: +0.1000 (95 % interval -0.1000 to",
        ),
        (("mse", 0.1, 0.1, -0.1, 0.3, None), "the model is not significantly worse: +0.1000"),
        (("mse", 0.1, 0.8, -math.inf, math.inf, None), "worse by 0.8000 (too few samples for an"),
        (("mse", 0.1, 0.0, 0.0, 0.0, None), "naive 0.1000; the model is equal to it"),
        (("mse", 0.1, math.nan, math.nan, math.nan, None), "the model's mse is not finite"),
    ],
)
def test_a_sentence_says_whether_the_model_is_better(row: tuple[Any, ...], sentence: str) -> None:
    metric = {"acc": "accuracy"}.get(row[0], row[0])
    assert sentence in baseline_sentence(BaselineRow("naive", metric, *row[1:]))


def test_the_sentence_of_a_run_names_each_baseline_that_the_model_is_worse_than() -> None:
    last, naive, ridge = (
        BaselineRow(name, "mse", value, 0.7 - value, -math.inf, math.inf, None)
        for name, value in (("last value", 0.9), ("naive", 0.3), ("ridge", 0.1))
    )
    assert baselines_sentence(ridge, (last, naive, ridge)) == (
        "ridge 0.1000; the model is worse by 0.6000 (too few samples for an interval); "
        "it is worse than naive 0.3000 too"
    )
    assert "too" not in baselines_sentence(last, (last,)).replace("too few", "")


def test_paths_below_the_working_folder_are_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert text.from_here(f"{tmp_path}/imgs/a.png") == "imgs/a.png"
    assert text.from_here(f"{tmp_path}/own.py:Net") == "own.py:Net"
    for other in (str(tmp_path), f"{tmp_path}2/x", "digits", "/elsewhere", ""):
        assert text.from_here(other) == other


def test_long_names_of_classes_are_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    rows = tuple(ClassRow(letter * 200 + "z", 5, 5, 1.0, 1.0, 1.0) for letter in "abc")
    print_eval(EvalResult("test", 15, {"loss": 0.1}, per_class=rows), "m", None)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "a…" in out
    assert "z  " in out
