"""Every kind of data through train, eval, predict and export; and runs that are stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_pages import check_page
from safetensors.numpy import load_file
from tiny_data import DATA, TinyData

from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.data.kinds import KINDS
from dlcli.events import Event, StepDone, ignore
from dlcli.formats.base import open_artifact
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.settings import flat, merge, validate
from dlcli.task import TaskKind
from dlcli.training import run as training
from dlcli.training.loop.state import load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run
from dlcli.ui.text import figure

FIT = {"fit": {"epochs": 2, "batch_size": 8, "device": "cpu", "log_every": 0}}
# A metric of each task, and the key of a prediction.
RESULTS: dict[TaskKind, tuple[str, str]] = {
    "classification": ("accuracy", "label"),
    "multilabel": ("f1_macro", "labels"),
    "regression": ("rmse", "value"),
    "forecast": ("mse", "value"),
    "seq2seq": ("bleu", "text"),
}


def flags(data: TinyData, path: Path) -> list[str]:
    """The settings as the command line takes them."""
    values = validate(TrainConfig, merge(data.settings, FIT, {"data": {"data": str(path)}}))
    options = []
    for key, value in flat(values).items():
        if value != flat(TrainConfig())[key]:
            options += ["--set", f"{key}={json.dumps(value)}"]
    return options


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def call(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    exit_code = main([*args, "--json"])
    out = capsys.readouterr()
    assert exit_code == code, out.err
    return json.loads(out.out)


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_train_eval_predict_export(
    data: TinyData, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data.write(here)
    arguments = data.arguments(path)
    before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
    trained = call(capsys, "train", *flags(data, path))
    worst = [] if data.task == "embedding" else ["--worst", "2"]
    evaluated = call(capsys, "eval", *worst)
    losses = [row["loss"] for row in evaluated["worst"]]
    assert losses == sorted(losses, reverse=True)
    assert not worst or (losses and all(row["target"] for row in evaluated["worst"]))
    compared = call(capsys, "eval", trained["run"], trained["run"])
    assert [row["difference"] for row in compared["models"]] == [0.0, 0.0]
    assert compared["models"][0]["metrics"] == evaluated["metrics"]
    metric, key = RESULTS[data.task]
    assert evaluated["task"] == data.task
    assert metric in evaluated["metrics"]
    assert all(np.isfinite(value) for value in evaluated["metrics"].values())
    predicted = call(capsys, "predict", *arguments)
    card = open_artifact(Path(trained["artifact"]), device="cpu").card
    samples = len(KINDS.get(data.kind).inputs(arguments, card.task))
    assert len(predicted["predictions"]) == samples * (card.task.horizon or 1)
    assert all(key in row for row in predicted["predictions"])
    exported = call(capsys, "export", "--onnx", "--no-latency")
    page = check_page(RunFolder(Path(trained["run"])).report)
    for name, value in evaluated["metrics"].items():
        assert [name, figure(value)] in [
            [row[0], row[1].partition(" ")[0]] for row in page.rows() if len(row) > 1
        ]
    assert "export: " in page.text
    assert exported["parity"]["ok"]
    assert exported["parity"]["data"] == "val"
    again = call(capsys, "eval", exported["output"], "--split", "val")
    same = call(capsys, "eval", trained["artifact"], "--split", "val")
    # The baselines that the end of a run names are those of `eval`, also in its record.
    record = RunFolder(Path(trained["run"])).read_record()
    assert trained["baselines"] == same["baselines"] == record["baselines"]
    assert bool(trained["baselines"]) == (data.task != "seq2seq")
    assert {row["metric"] for row in same["baselines"]} <= {card.monitor}
    for name, value in same["metrics"].items():
        assert again["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert call(capsys, "predict", exported["output"], *arguments)["failed"] == []
    assert {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} == before


def stop_after(steps: int) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    return emit


@pytest.mark.parametrize("name", ["text", "table", "forecast", "labelled images"])
def test_a_stopped_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = DATA[name].write(tmp_path / "data")
    settings = merge(DATA[name].settings, FIT, {"data": {"data": str(path)}})
    if name == "labelled images":
        settings = merge(settings, {"data": {"balance": "weights"}})
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, settings)))
    whole = training.new_run(prepare_run(plan), tmp_path, "whole")
    training.train(prepare_run(plan), whole, ignore, state=None)
    for steps in (2, 5):
        run = training.new_run(prepare_run(plan), tmp_path, f"stopped-{steps}")
        training.train(prepare_run(plan), run, stop_after(steps), state=None)
        state, _ = load_newest(run.state)
        training.train(
            prepare_run(read_plan(read_run(run), fresh=state is None)), run, ignore, state=state
        )
        one, other = load_file(whole.best), load_file(run.best)
        assert one.keys() == other.keys()
        for key in one:
            assert np.array_equal(one[key], other[key]), key
