"""Metrics of the user's own file: in training, for every file of the model, and as bounds."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from dlcli.cli import main
from dlcli.errors import DlcliError
from dlcli.evaluation.metrics import direction, make_counts, metric_names
from dlcli.evaluation.metrics.user_metrics import check_metrics
from dlcli.task import ImageInput, NumberColumn, TabularInput, TargetNumber, TaskSpec
from dlcli.trust import allowing

CODE = """
import torch
from sklearn.metrics import cohen_kappa_score

def kappa(outputs, targets):
    return cohen_kappa_score(targets, outputs.argmax(1))

kappa.higher_is_better = True

def both(outputs, targets):
    outputs.clamp_(min=0)  # changes nobody else's outputs
    predicted = outputs.argmax(1)
    return {"sure": torch.softmax(outputs, 1).amax(1).mean(), "wrong": (predicted != targets).sum()}

both.higher_is_better = {"sure": True, "wrong": False}

def worst(outputs, targets):
    return (outputs - targets).abs().max()

worst.higher_is_better = False

def one_class(outputs, targets):
    if len(targets.unique()) == 1:
        raise ValueError("only one class")
    return 1

one_class.higher_is_better = True

def text(outputs, targets):
    return "high"

text.higher_is_better = True

def undirected(outputs, targets):
    return 1.0

def accuracy(outputs, targets):
    return 1.0

accuracy.higher_is_better = True
"""
IMAGE = ImageInput(channels=1, height=2, width=2, resize_size=2, mean=(0.5,), std=(0.5,))
TASK = TaskSpec(input=IMAGE, class_names=("a", "b", "c"))


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DLCLI_STATE", str(tmp_path / "state"))
    path = tmp_path / "metrics.py"
    path.write_text(CODE)
    with allowing(*(f"{path}:{name}" for name in ("kappa", "both", "worst", "one_class", "text"))):
        yield path


def batch(rng: np.random.Generator, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(count, 3)).astype(np.float32), rng.integers(0, 3, count)


def test_a_metric_is_of_the_whole_split_in_any_batches_and_processes(code: Path) -> None:
    task = TASK.model_copy(update={"metrics": (f"{code}:kappa", f"{code}:both")})
    outputs, targets = batch(np.random.default_rng(0))
    before = outputs.copy()
    parts = [make_counts(task), make_counts(task)]
    for i, part in enumerate((slice(0, 9), slice(9, 40))):
        parts[i].update(outputs[part], targets[part])
    whole, part = pickle.loads(pickle.dumps(parts))  # as ranks send theirs
    whole.merge(part)
    metrics = whole.metrics()
    assert metrics["kappa"] == cohen_kappa_score(targets, outputs.argmax(1))
    assert metrics["wrong"] == (np.maximum(outputs, 0).argmax(1) != targets).sum()
    assert np.array_equal(outputs, before)
    assert {"kappa", "sure", "wrong"} <= set(metric_names(task))
    assert [direction(name) for name in ("kappa", "sure", "wrong")] == [1, 1, -1]
    some = np.arange(0, 40, 3)
    assert whole.value("kappa", some) == cohen_kappa_score(targets[some], outputs[some].argmax(1))


def test_numbers_are_in_the_units_of_the_data(code: Path) -> None:
    task = TaskSpec(
        kind="regression",
        input=TabularInput(numbers=(NumberColumn(name="x"),)),
        targets=(TargetNumber(name="y", mean=100.0, std=10.0),),
        metrics=(f"{code}:worst",),
    )
    counts = make_counts(task)
    counts.update(np.array([[0.0], [1.0]], np.float32), np.array([[101.0], [103.0]]))
    assert counts.metrics()["worst"] == 7.0


@pytest.mark.parametrize(
    ("name", "targets", "reason"),
    [
        ("one_class", [1, 1], r"ValueError: only one class, in metrics.py line \d+: raise"),
        ("text", [0, 1], "text failed: TypeError: returns a str, not a number"),
        ("undirected", [0, 1], "has not run this code before"),  # not allowed: not typed
        ("missing", [0, 1], "has not run this code before"),
    ],
)
def test_a_metric_without_a_value_is_undefined_with_the_reason(
    code: Path, name: str, targets: list[int], reason: str
) -> None:
    counts = make_counts(TASK.model_copy(update={"metrics": (f"{code}:{name}",)}))
    counts.update(np.zeros((2, 3), np.float32), np.array(targets))
    assert name not in counts.metrics()
    assert re.search(reason, counts.undefined()[name])
    assert counts.metrics()["accuracy"] >= 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("undirected", "does not say whether higher is better"),
        ("accuracy", "accuracy is a metric of dlcli's own"),
        ("kapa", "has no function 'kapa'"),
    ],
)
def test_what_is_no_metric_is_refused_before_training(code: Path, name: str, message: str) -> None:
    full = f"{code}:{name}"
    with allowing(full), pytest.raises(DlcliError, match=message):
        check_metrics(TASK.model_copy(update={"metrics": (full,)}))


TRAIN = ["train", "-m", "linear", "-d", "digits", "-e", "1", "-b", "500", "--device", "cpu", "-q"]
MISTAKES = """
def broken(outputs, targets):
    return outputs.argmax(1) @ nothing

broken.higher_is_better = True

def other(outputs, targets):
    return {"b": 1.0}

other.higher_is_better = {"a": True}

def large(outputs, targets):
    if len(targets) < 100:
        raise ValueError("too few")
    return float("nan") if outputs.argmax(1).unique().numel() < 11 else 1.0

large.higher_is_better = True
"""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken", "of val: broken failed: NameError: name 'nothing' is not defined, in own.py line 3"),
        ("other", "other returns 'b', where its higher_is_better has 'a'"),
    ],
)
def test_a_mistake_in_a_metric_leaves_no_run(
    code: Path, name: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(code.parent)
    Path("own.py").write_text(MISTAKES)
    assert main([*TRAIN, "--metric", f"own.py:{name}"]) == 1
    assert reason in " ".join(capsys.readouterr().err.split())
    assert not Path("runs").exists()


def test_a_metric_is_tried_on_all_samples_where_some_do_not_define_it(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number is no mistake: it is undefined, as after each epoch."""
    monkeypatch.chdir(code.parent)
    monkeypatch.setattr("dlcli.training.autotune.first_step._METRIC_SAMPLES", 8)
    Path("own.py").write_text(MISTAKES)
    assert main([*TRAIN, "--metric", "own.py:large", "--name", "r"]) == 0


def test_a_run_and_its_exports_are_measured_by_it(
    code: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(code.parent)
    assert main([*TRAIN, "--metric", "metrics.py:kappa", "--monitor", "kappa", "--name", "r"]) == 0
    assert main(["export", "r", "--onnx", "-q", "--no-latency"]) == 0
    capsys.readouterr()
    values = []
    for artifact in ("runs/r/best.safetensors", "runs/r/best.onnx"):
        assert main(["eval", artifact, "--json", "--device", "cpu"]) == 0
        values.append(json.loads(capsys.readouterr().out)["metrics"]["kappa"])
    assert values[0] == pytest.approx(values[1], abs=1e-3)
    assert main(["eval", "r", "--device", "cpu", "-q", "--min", "kappa=2"]) == 3
    assert "kappa is" in capsys.readouterr().err
    both = [
        "eval",
        "r",
        "--device",
        "cpu",
        "--json",
        "--metric",
        "metrics.py:both",
        "--min",
        "wrong=999",
    ]
    assert main(both) == 0
    assert "sure" in json.loads(capsys.readouterr().out)["metrics"]
    code.unlink()
    assert main(["eval", "runs/r/best.onnx", "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "metrics.py does not exist" in result["undefined"]["kappa"]
    assert result["metrics"]["accuracy"] > 0
