"""`dlcli train --folds`: every sample is predicted by a model that has not seen it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from html_pages import check_page
from sklearn.metrics import accuracy_score, r2_score

from dlcli.cli import main
from dlcli.formats.base import read_card
from dlcli.formats.checkpoint import read_tensors
from dlcli.task import TabularInput, TextInput
from dlcli.ui.text import figure

HOUSES = "--model mlp --data houses.csv --target price --epochs 2 --folds 3 --device cpu"
TEXTS = "--model cnn --data texts --epochs 1 --folds 3 --device cpu"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of numbers, and texts of which each has a word of its own, with a test split.

    H and T are their cross-validations; H.json is what that of the numbers printed.
    """
    tmp_path = tmp_path_factory.mktemp("folds")
    rng = np.random.default_rng(0)
    rooms, area = rng.integers(1, 9, 90), rng.normal(100, 20, 90)
    prices = 1000 * (30 * rooms + area + rng.normal(0, 5, 90))
    rows = [f"{r},{a:.3f},{p:.2f}" for r, a, p in zip(rooms, area, prices, strict=True)]
    (tmp_path / "houses.csv").write_text("rooms,area,price\n" + "\n".join(rows) + "\n")
    (tmp_path / "texts").mkdir()
    for split, count in (("train", 60), ("test", 12)):
        lines = [
            f"{('sun', 'rain')[i % 2]} only{split}{i},{('dry', 'wet')[i % 2]}" for i in range(count)
        ]
        (tmp_path / "texts" / f"{split}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(tmp_path)
        assert main(["train", *HOUSES.split(), "--name", "H", "--json"]) == 0
        (tmp_path / "H.json").write_text(out.getvalue())
        assert main(["train", *TEXTS.split(), "--name", "T", "--quiet"]) == 0
    return tmp_path


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_out_of_fold_predictions_give_the_metrics(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *HOUSES.split(), "--name", "H", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rows = rows_of(here / "runs/H/out-of-fold.csv")
    assert len({row["input"] for row in rows}) == len(rows) == result["samples"] == 90
    # The file has float32 numbers as their shortest text: equal to about 1e-7 of their size.
    true = np.array([float(row["true"]) for row in rows])
    predicted = np.array([float(list(row.values())[-1]) for row in rows])
    assert abs(r2_score(true, predicted) - result["pooled"]["r2"]) < 1e-6
    for fold in result["folds"]:
        own = np.array([int(row["fold"]) == fold["fold"] for row in rows])
        assert abs(r2_score(true[own], predicted[own]) - fold["metrics"]["r2"]) < 1e-6
    values = [fold["metrics"]["rmse"] for fold in result["folds"]]
    mean = result["mean"]
    assert np.isclose(mean["value"], np.mean(values))
    assert np.isclose(mean["std"], np.std(values, ddof=1))
    assert mean["low"] < mean["value"] < mean["high"]
    assert [row["name"] for row in result["baselines"]] == ["mean"]


def test_their_page_has_the_held_out_folds_and_the_runs(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = check_page(here / "runs/H/report.html")
    printed = json.loads((here / "H.json").read_text())
    assert printed["report"] == str(Path("runs/H/report.html"))
    for text in ("Held-out folds", "fold-3", figure(printed["mean"]["value"])):
        assert text in page.html
    target = tmp_path / "page.html"
    assert main(["report", "H", "-o", str(target)]) == 0
    assert figure(printed["pooled"][printed["metric"]]) in check_page(target).html

    shutil.copytree(here / "runs/H", tmp_path / "running")
    record = tmp_path / "running/folds.json"
    kept = {key: value for key, value in json.loads(record.read_text()).items() if key != "result"}
    record.write_text(json.dumps(kept))
    shutil.rmtree(tmp_path / "running/fold-3")
    assert main(["report", str(tmp_path / "running")]) == 0
    assert "2 of 3 folds have begun" in check_page(tmp_path / "running/report.html").html
    record.write_text(json.dumps({**kept, "result": {"task": "regression"}}))
    capsys.readouterr()
    assert main(["report", str(tmp_path / "running")]) == 1
    assert "folds.json is damaged" in capsys.readouterr().err


def test_runs_lists_them_with_their_mean_and_shows_their_figures(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mean = json.loads((here / "runs/H/folds.json").read_text())["result"]["mean"]
    for name, content in (("damaged", "{}"), ("begun", None)):
        (tmp_path / name).mkdir()
        record = json.loads((here / "runs/H/folds.json").read_text()) | {"result": None}
        (tmp_path / name / "folds.json").write_text(content or json.dumps(record))
    shutil.copytree(here / "runs/H", tmp_path / "H")
    assert main(["runs", "--runs-dir", str(tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())  # long paths are wrapped
    line = f"H held-out {mean['name']} {figure(mean['value'])}, std {figure(mean['std'])} over 3 folds"
    assert line in out
    assert "damaged: " in out
    assert "0 of 3 folds ended; go on with: dlcli train --resume begun" in out
    assert main(["runs", "--runs-dir", str(tmp_path), "--json"]) == 0
    listed = {Path(g["path"]).name: g for g in json.loads(capsys.readouterr().out)["cross_validations"]}
    assert (listed["H"]["folds"], listed["H"]["ended"]) == (3, 3)
    assert listed["H"]["mean"]["std"] == mean["std"]
    assert listed["begun"]["mean"] is None
    assert main(["runs", "H", "--runs-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"mean {mean['name']}" in shown
    assert re.search(r"data.fold +1 +2 +3\n", shown)
    assert main(["runs", "begun", "--runs-dir", str(tmp_path)]) == 1
    assert "no fold of" in capsys.readouterr().err


def test_no_fold_sees_what_it_holds_out(here: Path) -> None:
    held: list[str] = []
    for fold in (1, 2, 3):
        run = here / f"runs/T/fold-{fold}"
        splits = json.loads((run / "splits.json").read_text())["splits"]
        encoder = read_card(run / "best.safetensors").task.input
        assert isinstance(encoder, TextInput)
        own_words = {word for word in encoder.vocabulary if word.startswith("only")}
        # Row i of train.csv is the sample train/i, whose word is "onlytraini".
        assert own_words == {f"onlytrain{id_.rpartition('/')[2]}" for id_ in splits["train"]}
        held += splits["test"]
    assert len(set(held)) == len(held) == 60
    rows = rows_of(here / "runs/T/out-of-fold.csv")
    assert sorted(row["input"] for row in rows) == sorted(held)
    result = json.loads((here / "runs/T/folds.json").read_text())["result"]
    accuracy = accuracy_score([row["true"] for row in rows], [row["label"] for row in rows])
    assert np.isclose(result["pooled"]["accuracy"], accuracy)


def test_labels_that_the_models_contradict_are_listed(here: Path) -> None:
    rows = rows_of(here / "runs/T/out-of-fold.csv")
    issues = rows_of(here / "runs/T/label-issues.csv")
    contradicted = {row["input"] for row in rows if row["true"] != row["label"]}
    assert {issue["input"] for issue in issues} == contradicted
    probabilities = [float(issue["label_probability"]) for issue in issues]
    assert probabilities == sorted(probabilities)
    by_input = {row["input"]: row for row in rows}
    for issue in issues:
        row = by_input[issue["input"]]
        assert (issue["label"], issue["prediction"]) == (row["true"], row["label"])
        assert np.isclose(
            float(issue["label_probability"]), float(row[f"probability_{row['true']}"]), atol=1e-6
        )
    assert not (here / "runs/H/label-issues.csv").exists()  # of numbers


def test_the_scales_of_a_fold_are_of_its_training_rows(here: Path) -> None:
    area = np.loadtxt(here / "houses.csv", delimiter=",", skiprows=1)[:, 1]
    for fold in (1, 2, 3):
        run = here / f"runs/H/fold-{fold}"
        splits = json.loads((run / "splits.json").read_text())["splits"]
        encoder = read_card(run / "best.safetensors").task.input
        assert isinstance(encoder, TabularInput)
        column = next(column for column in encoder.numbers if column.name == "area")
        rows = [int(re.split("[:/]", id_)[-1]) for id_ in splits["train"]]
        assert np.isclose(column.mean, area[rows].mean(), rtol=1e-5)


def test_the_folds_are_an_ensemble(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "T", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], len(result["members"])) == (12, 3)  # the test split, that none has seen
    assert main(["predict", "T", "texts/test.csv", "--json", "--quiet"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 12
    assert main(["runs", "--json"]) == 0
    names = [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]]
    assert [name for name in names if name.startswith("T/")] == ["T/fold-1", "T/fold-2", "T/fold-3"]


@pytest.mark.parametrize(("name", "data"), [("T", "texts/test.csv"), ("H", "houses.csv")])
def test_their_one_file_gives_the_mean_of_the_models(
    name: str, data: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of models whose words and scales differ, also as ONNX."""
    assert main(["export", name, "--onnx", "--no-verify", "--quiet"]) == 0
    rows = {}
    for file in (name, f"runs/{name}/ensemble.safetensors", f"runs/{name}/ensemble.onnx"):
        capsys.readouterr()
        assert main(["predict", "-a", file, data, "--json", "--quiet"]) == 0
        rows[file] = json.loads(capsys.readouterr().out)["predictions"]
    expected, *others = ([list(_numbers(row)) for row in table] for table in rows.values())
    assert len(expected[0]) >= 1
    for numbers in others:
        np.testing.assert_allclose(numbers, expected, rtol=1e-4)
    assert main(["eval", f"runs/{name}/ensemble.safetensors", "--quiet"]) == (0 if name == "T" else 2)
    assert main(["prune", f"runs/{name}/ensemble.safetensors", "--amount", "0.5"]) == 2
    assert "is the mean of 3 models" in capsys.readouterr().err


def _numbers(value: object) -> Iterator[float]:
    """The numbers in JSON, in their order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, float):
        yield value


def test_killed_folds_go_on_to_the_same_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "dlcli", "train", *HOUSES.split(), "--name", "killed", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    second = here / "runs/killed/fold-2"
    deadline = time.monotonic() + 120
    while not second.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert second.exists()
    assert not (here / "runs/killed/out-of-fold.csv").exists()
    assert main(["train", "--resume", "killed", "--quiet"]) == 0
    for fold in (1, 2, 3):
        tensors = [
            read_tensors(here / f"runs/{name}/fold-{fold}/best.safetensors")[0]
            for name in ("H", "killed")
        ]
        assert tensors[0].keys() == tensors[1].keys()
        assert all(tensors[0][key].equal(tensors[1][key]) for key in tensors[0])
    texts = [(here / f"runs/{name}/out-of-fold.csv").read_text() for name in ("H", "killed")]
    assert texts[0] == texts[1]
    capsys.readouterr()
    assert main(["train", *HOUSES.split(), "--name", "killed", "--json"]) == 0  # nothing is left
    assert json.loads(capsys.readouterr().out)["status"] == "finished"


def test_what_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ("train --resume H --epochs 3", "takes no other settings"),
        (f"train {HOUSES} --lr 0.1 --name H", "has folds of other settings"),
        ("eval H", "was seen in training by some of the models"),
        ("train --config runs/H --name x", "is a cross-validation"),
        (f"train {HOUSES} --name houses.csv --runs-dir .", "is something else"),
    ):
        assert main(arguments.split()) == 2, arguments
        assert message in capsys.readouterr().err
    predictions = here / "runs/H/out-of-fold.csv"
    content = predictions.read_bytes()
    predictions.unlink()  # as before all folds are trained
    assert main(["eval", "H"]) == 2
    assert "once all folds are trained: dlcli train --resume H" in " ".join(
        capsys.readouterr().err.split()
    )
    predictions.write_bytes(content)


def test_what_is_in_the_place_of_a_fold_is_named_and_stays(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(here / "runs/H", here / "runs/mixed")
    fold = here / "runs/mixed/fold-2"
    shutil.rmtree(fold)
    for make in (lambda: fold.write_text("mine"), lambda: fold.mkdir()):
        make()
        own = fold / "mine.txt" if fold.is_dir() else fold
        own.write_text("mine")
        assert main(["train", "--resume", "mixed", "--quiet"]) == 1
        assert "is in the place of a run of the cross-validation mixed" in capsys.readouterr().err
        assert own.read_text() == "mine"
        own.unlink()
    assert main(["train", "--resume", "mixed", "--quiet"]) == 0  # an empty folder is one just begun
    assert (here / "runs/mixed/out-of-fold.csv").read_text() == (
        here / "runs/H/out-of-fold.csv"
    ).read_text()


def test_a_dry_run_says_that_it_is_of_one_fold(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *HOUSES.split(), "--dry-run"]) == 0
    assert "this is fold 1 of 3" in capsys.readouterr().out
