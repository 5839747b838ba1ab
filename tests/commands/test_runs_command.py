"""The list of runs, from folders that the test makes: also old, unfinished and broken ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlcli.card import Card, ModelSpec
from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.formats.checkpoint import save_model
from dlcli.runs.folder import RunFolder
from dlcli.runs.locks import run_lock
from dlcli.settings import dump_yaml, validate
from dlcli.task import NumberColumn, TabularInput, TaskSpec
from dlcli.zoo.base import build_model


def make(
    root: Path, name: str, scores: list[float], *, at: str = "2026-01-01T12:00:00+00:00",
    status: str = "finished", monitor: str = "accuracy", epochs: int = 3,
    settings: dict[str, Any] | None = None,
) -> RunFolder:  # fmt: skip
    """A run folder as training leaves it; ``scores`` are the monitored metric by epoch."""
    run = RunFolder(root / name)
    run.path.mkdir(parents=True)
    said = {"model": {"name": "cnn"}, "data": {"data": "digits"}, **(settings or {})}
    run.config.write_text(dump_yaml(validate(TrainConfig, said)))
    run.write_record(
        {"started_at": at, "status": status, "fingerprint": "f00d", "versions": {"torch": "2.15.0"},
         "plan": {"model": {"name": "cnn"}, "task": {"kind": "classification"}, "weights_from": "x"}}
    )  # fmt: skip
    events: list[dict[str, Any]] = [
        {"event": "RunStarted", "run": name, "model": "cnn", "data": "digits", "params": 98666,
         "task": "classification", "epochs": epochs}
    ]  # fmt: skip
    best = None
    for epoch, score in enumerate(scores, 1):
        better = best is None or score > best
        best = score if better else best
        events.append(
            {"event": "EpochDone", "epoch": epoch, "epochs": epochs, "monitor": monitor,
             "improved": better, "val": {"loss": 1 - score, monitor: score}, "elapsed_s": 60.0 * epoch}
        )  # fmt: skip
    run.metrics.write_text("".join(json.dumps(event) + "\n" for event in events))
    if scores:
        run.best.write_bytes(b"x" * 74_300)
    return run


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide enough for every column of the list."""
    monkeypatch.setenv("COLUMNS", "200")


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["runs", *args]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def as_json(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    return json.loads(shown(capsys, "--json", *args))


def test_a_line_says_how_a_run_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "late", [0.5, 0.9, 0.8], at="2026-01-02T12:00:00+00:00")
    make(tmp_path, "early", [0.7], status="interrupted")
    lines = shown(capsys, "--runs-dir", str(tmp_path)).splitlines()
    assert lines[0].split() == [
        "run", "status", "best", "best", "epoch", "time", "model", "data", "parameters", "size",
        "started",
    ]  # fmt: skip
    assert lines[1].split()[:9] == [
        "early",
        "interrupted",
        "acc",
        "0.7000",
        "1",
        "of",
        "1/3",
        "1m00s",
        "cnn",
    ]
    assert lines[2].split()[:7] == ["late", "finished", "acc", "0.9000", "2", "of", "3"]
    assert lines[2].split()[9:13] == ["digits", "98,666", "74.3", "kB"]
    assert len(lines) == 3


@pytest.mark.parametrize("width", [30, 80, 140])
@pytest.mark.parametrize("args", [[], ["--sort", "loss"], ["one", "second-run-2", "third"], ["one"]])
def test_lines_fit_the_screen(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    args: list[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    long = {"data": {"data": "/a/very/long/path/" * 5 + "photos", "target": "x" * 90}}
    make(tmp_path, "one", [0.5])
    make(tmp_path, "second-run-2", [0.4, 0.6], settings=long)
    make(tmp_path, "third", [], status="running")
    make(tmp_path, "fourth-and-quite-long-a-name", [0.4], monitor="top5_accuracy")
    out = shown(capsys, "--runs-dir", str(tmp_path), *args)
    assert max(map(len, out.splitlines())) <= (width if args[:1] != ["one"] else max(width, 40))
    assert all(line == line.rstrip() for line in out.splitlines())
    if width >= 80 and not args:
        for name in ("one", "second-run-2", "third", "fourth-and-quite-long-a-name", "top5 0.4000"):
            assert name in out  # names are what commands take: they go last


def test_sorting_knows_the_direction_and_puts_runs_without_it_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "a", [0.5])
    make(tmp_path, "b", [], status="running")
    make(tmp_path, "c", [0.9])
    make(tmp_path, "d", [float("nan")])

    def order(metric: str) -> list[str]:
        args = ("--runs-dir", str(tmp_path), "--sort", metric)
        names = [run["name"] for run in as_json(capsys, *args)["runs"]]
        lines = shown(capsys, *args).splitlines()[1:]
        assert [line.split()[0] for line in lines] == names
        return names

    assert order("accuracy") == ["c", "a", "b", "d"]
    assert order("loss") == ["c", "a", "b", "d"]
    make(tmp_path, "e", [0.95], monitor="f1_macro")
    assert "f1_macro" not in shown(capsys, "--runs-dir", str(tmp_path))
    assert order("f1_macro")[0] == "e"


def test_an_unknown_metric_is_refused_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "a", [0.5])
    assert main(["runs", "--runs-dir", str(tmp_path), "--sort", "acuracy"]) == 2
    assert "did you mean 'accuracy'" in capsys.readouterr().err
    assert main(["runs", "--runs-dir", str(tmp_path), "--sort", "loss", "a"]) == 2
    assert main(["runs", "--runs-dir", str(tmp_path), "b"]) == 1
    assert "there is no run 'b'" in capsys.readouterr().err


def test_a_file_or_a_path_is_not_taken_for_the_name_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "a", [0.5])
    weights = tmp_path / "w.pt"
    weights.touch()
    for text, words in {
        "x.pt": "x.pt does not exist",
        str(tmp_path / "x"): "x does not exist",
        str(weights): "w.pt is a file, and this needs a run",
    }.items():
        assert main(["runs", "--runs-dir", str(tmp_path), text]) == 1
        assert words in capsys.readouterr().err


def test_damaged_runs_are_named_and_counted_next_to_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "good", [0.5])
    make(tmp_path, "torn", [0.6]).record.write_text('{"started_at": "2026')
    make(tmp_path, "lost", [0.7]).record.unlink()
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "run.json").write_text("[]")
    (tmp_path / "notes").mkdir()  # no run
    (tmp_path / "file.txt").write_text("x")
    out = shown(capsys, "--runs-dir", str(tmp_path))
    assert out.splitlines()[1].startswith("good  finished  acc 0.5000")
    assert "damaged: 3 runs" in out
    for name in ("torn", "lost", "list"):
        assert f"\n  {name}  " in out
    assert "notes" not in out
    problems = {
        run["name"]: run["problems"] for run in as_json(capsys, "--runs-dir", str(tmp_path))["runs"]
    }
    assert problems["good"] == []
    assert "run.json does not exist" in problems["lost"][0]


def test_odd_content_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines torn by a power cut, NaN as null, fields of other types, a record with nothing in it."""
    run = make(tmp_path, "a", [0.5])
    with run.metrics.open("a") as file:
        file.write('{"event": "EpochDone", "epoch": 2, "improved": true, "monitor": "accuracy", '
                   '"val": {"accuracy": null, "loss": 0.1}, "elapsed_s": null}\n'
                   '{"event": "RunStarted", "epochs": "many", "params": null}\n'
                   '{"event": "RunFinished", "best": null}\n[1, 2]\n{"event": "EpochD')  # fmt: skip
    run.write_record({"plan": [], "status": 3, "started_at": None, "versions": "x"})
    lines = shown(capsys, "--runs-dir", str(tmp_path)).splitlines()
    assert lines[1].split()[:7] == ["a", "unknown", "acc", "nan", "2", "of", "2"]
    empty = make(tmp_path, "b", [])
    empty.metrics.unlink()
    empty.write_record({})
    assert any(line.split()[:4] == ["b", "unknown", "-", "-"]
               for line in shown(capsys, "--runs-dir", str(tmp_path)).splitlines())  # fmt: skip
    shown(capsys, "--runs-dir", str(tmp_path), "a", "b")


def test_names_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "a\x1b[31m[red]x", [0.5])
    out = shown(capsys, "--runs-dir", str(tmp_path))
    assert "\x1b" not in out
    assert "[red]x" in out
    assert "\x1b" not in shown(capsys, "--runs-dir", str(tmp_path), "last")


@pytest.mark.parametrize("there", [True, False])
def test_an_empty_folder_says_how_to_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    root = tmp_path / "runs"
    if there:
        root.mkdir()
    out = shown(capsys, "--runs-dir", str(root))
    assert "no runs in" in out
    assert "dlcli train --model cnn --data digits" in out
    assert as_json(capsys, "--runs-dir", str(root), "--sort", "loss")["runs"] == []


def test_a_file_is_no_folder_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("")
    assert main(["runs", "--runs-dir", str(tmp_path / "runs")]) == 1
    assert "is a file, not a folder of runs" in capsys.readouterr().err


def test_two_runs_show_what_differs_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "a", [0.5])
    changed = {"optim": {"lr": 0.01}, "model": {"name": "cnn", "args": {"dropout": 0.2}}}
    b = make(tmp_path, "b", [0.9], monitor="f1_macro", settings=changed)
    b.write_record({**b.read_record(), "fingerprint": "beef"})
    found = as_json(capsys, "--runs-dir", str(tmp_path), "a", "b", "b")
    values = {key: list(row.values()) for key, row in found["differences"].items()}
    assert values == {
        "optim.lr": [0.001, 0.01], "model.args.dropout": [None, 0.2],
        "data fingerprint": ["f00d", "beef"],
    }  # fmt: skip
    lines = [line.split() for line in shown(capsys, "--runs-dir", str(tmp_path), "a", "b").splitlines()]
    rows = [
        ["a", "b"], ["optim.lr", "0.001", "0.01"], ["model.args.dropout", "-", "0.2"],
        ["accuracy", "0.5000", "-"], ["f1_macro", "-", "0.9000"], ["loss", "0.5000", "0.1000"],
    ]  # fmt: skip
    for row in rows:
        assert row in lines


def test_alike_runs_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "a", [0.5])
    make(tmp_path, "b", [0.5])
    assert "the same in all of them" in shown(capsys, "--runs-dir", str(tmp_path), "a", "b")


def test_one_run_is_held_against_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "a", [0.5], settings={"fit": {"epochs": 7}})
    found = as_json(capsys, "--runs-dir", str(tmp_path), "a")["differences"]
    assert set(found) == {"data.data", "model.name", "fit.epochs"}
    assert found["fit.epochs"] == {str(tmp_path / "a"): 7, "default": 10}
    assert "settings that are not the default" in shown(capsys, "--runs-dir", str(tmp_path), "a")


def test_a_run_of_an_older_version_was_trained_as_the_new_defaults_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = make(tmp_path, "old", [0.5])
    settings = yaml.safe_load(old.config.read_text())
    del settings["launch"], settings["fit"]["ema"]
    settings["optim"]["gone"] = 3
    old.config.write_text(yaml.safe_dump(settings))
    make(tmp_path, "new", [0.5])
    found = as_json(capsys, "--runs-dir", str(tmp_path), "old", "new")["differences"]
    assert [list(row.values()) for row in found.values()] == [[3, None]]
    assert set(found) == {"optim.gone"}


def test_a_comparison_outlives_a_damaged_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "a", [0.5])
    make(tmp_path, "b", [0.6]).config.write_text("x: [")
    out = shown(capsys, "--runs-dir", str(tmp_path), "a", "b")
    assert "damaged: 1 run\n" in out
    assert "config.yaml is not YAML" in out
    assert "0.6000" in out


def test_runs_of_one_name_in_two_folders_are_distinguished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(make(tmp_path / root, "a", [0.5]).path) for root in ("x", "y")]
    found = as_json(capsys, "--runs-dir", str(tmp_path), *paths)
    assert [run["path"] for run in found["runs"]] == paths


def test_a_run_that_nobody_writes_any_more_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(tmp_path, "a", [0.5], status="running")
    (run.path / "lock").touch()
    before = {path: path.stat().st_mtime_ns for path in (run.path, *run.path.iterdir())}
    assert as_json(capsys, "--runs-dir", str(tmp_path))["runs"][0]["status"] == "stopped"
    assert {path: path.stat().st_mtime_ns for path in (run.path, *run.path.iterdir())} == before
    with run_lock(run.path):
        assert as_json(capsys, "--runs-dir", str(tmp_path))["runs"][0]["status"] == "running"


def test_a_run_that_was_pruned_and_not_trained_says_what_its_card_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = TaskSpec(input=TabularInput(numbers=(NumberColumn(name="a"),)), class_names=("x", "y"))
    model = ModelSpec(name="linear")
    run = make(tmp_path, "cut", [])
    run.metrics.unlink()
    card = Card(model=model, task=task, params=4, metrics={"val": {"accuracy": 0.75, "loss": 0.5}})
    save_model(run.best, build_model(model, task), card)
    (found,) = as_json(capsys, "--runs-dir", str(tmp_path))["runs"]
    assert (found["monitor"], found["best"], found["params"]) == ("accuracy", 0.75, 4)
    assert "acc 0.7500" in shown(capsys, "--runs-dir", str(tmp_path))


def test_notes_are_shown_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "one", [0.5])
    make(tmp_path, "two", [0.7])
    record = (tmp_path / "one/run.json").read_bytes()
    root = ("--runs-dir", str(tmp_path))
    assert "note" not in shown(capsys, *root).splitlines()[0]
    assert "from \\x1b[31m old photos" in shown(
        capsys, "one", "--note", "from \x1b[31m\n old photos", *root
    )
    assert (tmp_path / "one/run.json").read_bytes() == record  # which a process may be writing
    assert shown(capsys, *root).splitlines()[1].rstrip().endswith("old photos")
    assert as_json(capsys, *root)["runs"][1]["note"] == ""
    assert "old photos" not in shown(capsys, "one", "--note", "", *root)
    assert not (tmp_path / "one/note.txt").exists()
    assert main(["runs", "--note", "x", *root]) == 2


def test_a_csv_has_a_line_a_run_in_the_order_of_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "r", "=cmd()", [0.5])
    make(tmp_path / "r", "two", [0.7, 0.8])
    make(tmp_path / "r", "none", [])
    target = tmp_path / "runs.csv"
    shown(capsys, "--sort", "accuracy", "--csv", str(target), "--runs-dir", str(tmp_path / "r"))
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["two", "'=cmd()", "none"]
    assert [row["val_accuracy"] for row in rows] == ["0.8", "0.5", ""]
    assert float(rows[0]["best"]) == 0.8


@pytest.mark.parametrize("width", [40, 80])
def test_no_line_of_the_list_is_wider_than_the_screen(
    width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("short", "a-run-with-a-name-of-forty-characters-xx"):
        make(tmp_path, name, [0.5])
        assert main(["runs", name, "--note", "words " * 20, "--runs-dir", str(tmp_path)]) == 0
    capsys.readouterr()
    lines = shown(capsys, "--runs-dir", str(tmp_path)).splitlines()
    assert max(map(len, lines)) <= width
    assert "0.5" in lines[1]
