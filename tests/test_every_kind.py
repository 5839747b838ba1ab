"""Every kind of data through every command: train, eval, predict, export; stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.events import Event, StepDone, ignore
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop.state import load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """Data that ``make`` writes; what to train on it; what to predict; what the answers are called."""

    make: Callable[[Path], Path]
    settings: dict[str, Any]
    ask: Callable[[Path], str]
    says: str
    metric: str
    task: str = "classification"
    rows: int = field(default=1)


def itself(path: Path) -> str:
    return str(path)


def texts(root: Path) -> Path:
    words = {"cold": ["ice", "snow", "frost"], "warm": ["sun", "fire", "summer"]}
    lines = ["text,label"]
    for i in range(60):
        label = ("cold", "warm")[i % 2]
        said = " ".join(RNG.choice([*words[label], "the", "a", "of"], size=3 + i % 7))
        lines.append(f'"{said}, {i}",{label}')
    (root / "texts.csv").write_text("\n".join(lines) + "\n")
    return root / "texts.csv"


def houses(root: Path) -> Path:
    lines = ["rooms,age,place,price"]
    for i in range(80):
        rooms, place = RNG.integers(1, 9), ("sea", "hill")[i % 2]
        age = "" if i % 9 == 0 else str(RNG.integers(1, 60))
        lines.append(f"{rooms},{age},{place},{rooms * 10_000 + 5_000 * (i % 2) + RNG.normal(0, 99):.2f}")
    (root / "houses.csv").write_text("\n".join(lines) + "\n")
    return root / "houses.csv"


def waves(root: Path) -> Path:
    for split, n in (("TRAIN", 40), ("TEST", 12)):
        head = "@problemName waves\n@timestamps false\n@univariate true\n@equalLength false\n"
        rows = []
        for i in range(n):
            steps = np.arange(8 + i % 5)
            values = np.sin(steps * (0.5 if i % 2 else 2.0)) + RNG.normal(0, 0.05, len(steps))
            rows.append(",".join(f"{v:.4f}" for v in values) + f":{('slow', 'fast')[i % 2 == 0]}")
        labels = "@classLabel true slow fast\n@data\n"
        (root / f"Waves_{split}.ts").write_text(head + labels + "\n".join(rows) + "\n")
    return root / "Waves"


def heat(root: Path) -> Path:
    lines = ["date,heat,load"]
    for hour in range(400):
        day = f"2024-01-{1 + hour // 24:02d} {hour % 24:02d}:00:00"
        lines.append(f"{day},{10 + 5 * np.sin(hour / 24 * 2 * np.pi):.4f},{RNG.normal():.4f}")
    (root / "heat.csv").write_text("\n".join(lines) + "\n")
    return root / "heat.csv"


def pairs(root: Path) -> Path:
    lines = ["source,target"]
    for _ in range(60):
        said = RNG.choice(list("abcdefg"), size=RNG.integers(3, 6))
        lines.append(f"{' '.join(said)},{' '.join(said[::-1]).upper()}")
    (root / "pairs.csv").write_text("\n".join(lines) + "\n")
    return root / "pairs.csv"


def spots(root: Path) -> Path:
    """Images that a table names, each with the labels of its channels."""
    lines = ["path,labels"]
    (root / "imgs").mkdir()
    for i in range(40):
        on = [i % 2 == 0, i % 3 == 0, True]
        pixels = np.stack([np.full((12, 12), 200 if bright else 20) for bright in on], axis=-1)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "imgs" / f"{i}.png")
        labels = [name for name, bright in zip(("red", "green", "blue"), on, strict=True) if bright]
        lines.append(f"imgs/{i}.png,{'|'.join(labels)}")
    (root / "spots.csv").write_text("\n".join(lines) + "\n")
    return root / "spots.csv"


def shades(root: Path) -> Path:
    """Images that a table names, each with how bright it is."""
    lines = ["file,shade"]
    for i in range(40):
        Image.fromarray(np.full((12, 12), 5 * i + 20, np.uint8)).save(root / f"{i}.png")
        lines.append(f"{i}.png,{5 * i + 20.5}")
    (root / "shades.csv").write_text("\n".join(lines) + "\n")
    return root / "shades.csv"


SMALL_RNN = {"hidden": 8, "dim": 8}
CASES = {
    "text": Case(
        texts,
        {"model": {"name": "lstm", "args": SMALL_RNN}},
        lambda path: "snow, ice and frost",
        "label",
        "accuracy",
    ),
    "table": Case(
        houses,
        {"model": {"name": "mlp", "args": {"widths": [16], "dropout": 0.1}}},
        itself,
        "value",
        "rmse",
        "regression",
        80,
    ),
    "series": Case(
        waves,
        {"model": {"name": "gru", "args": {"hidden": 8}}},
        lambda path: f"{path}_TEST.ts",
        "label",
        "accuracy",
        rows=12,
    ),
    "forecast": Case(
        heat,
        {
            "model": {"name": "linear"},
            "data": {"target": "heat", "window": 24, "horizon": 6},
        },
        itself,
        "value",
        "mse",
        "forecast",
        6,
    ),
    "pairs": Case(
        pairs,
        {"model": {"name": "seq2seq", "args": {"dim": 16, "heads": 2, "ff": 16}}},
        lambda path: "a b c",
        "text",
        "bleu",
        "seq2seq",
    ),
    "labels": Case(
        spots,
        {
            "model": {"name": "cnn", "img_size": 12, "args": {"widths": [4]}},
            "augment": {"level": "strong"},
        },
        lambda path: str(path.parent / "imgs" / "0.png"),
        "labels",
        "f1_macro",
        "multilabel",
    ),
    "numbers of images": Case(
        shades,
        {"model": {"name": "mlp", "img_size": 12, "args": {"widths": [8]}}},
        lambda path: str(path.parent / "3.png"),
        "value",
        "rmse",
        "regression",
    ),
}
FIT = {"fit": {"epochs": 2, "batch_size": 8, "device": "cpu", "log_every": 0}}


def flags(case: Case, data: Path) -> list[str]:
    """The settings as the command line says them."""
    said = ["--data", str(data)]
    for group, values in merge(case.settings, FIT).items():
        for name, value in values.items():
            pairs_ = value.items() if isinstance(value, dict) else [(None, value)]
            for sub, inner in pairs_:
                key = f"{group}.{name}" + (f".{sub}" if sub else "")
                said += ["--set", f"{key}={json.dumps(inner)}"]
    return said


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def call(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    got = main([*args, "--json"])
    out = capsys.readouterr()
    assert got == code, out.err
    return json.loads(out.out)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_train_eval_predict_export(case: Case, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = case.make(here)
    before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
    trained = call(capsys, "train", *flags(case, data))
    measured = call(capsys, "eval")
    assert measured["task"] == case.task
    assert case.metric in measured["metrics"]
    assert all(np.isfinite(value) for value in measured["metrics"].values())
    answers = call(capsys, "predict", case.ask(data))["predictions"]
    assert len(answers) == case.rows
    assert all(case.says in row for row in answers)
    exported = call(capsys, "export", "--onnx", "--no-latency")
    assert exported["parity"]["ok"]
    assert exported["parity"]["data"] == "val"
    again = call(capsys, "eval", exported["output"], "--split", "val")
    same = call(capsys, "eval", trained["artifact"], "--split", "val")
    for name, value in same["metrics"].items():
        assert again["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert call(capsys, "predict", exported["output"], case.ask(data))["failed"] == []
    assert {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} == before


def stop_after(steps: int) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    return emit


@pytest.mark.parametrize("name", ["text", "table", "forecast", "labels"])
def test_a_stopped_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    case = CASES[name]
    said = merge(case.settings, FIT, {"data": {"data": str(case.make(tmp_path / "data"))}})
    if name == "labels":
        said = merge(said, {"augment": {"level": "strong"}, "data": {"balance": "weights"}})
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, said)))
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
