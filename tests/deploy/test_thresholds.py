"""`eval --thresholds`: the card of a run's model changes, and with it labels; nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import train_run

from dlcli.cli import main
from dlcli.evaluation.decisions import decision_scores
from dlcli.formats.base import open_artifact, read_card
from dlcli.formats.checkpoint import read_tensors
from dlcli.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run of two classes, of which the second is rare."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 3)).round(4)
    sick = rng.random(1500) < 1 / (1 + np.exp(3 - x @ [1.5, 1, -0.7]))
    rows = [f"{a},{b},{c},{'yes' if y else 'no'}" for (a, b, c), y in zip(x, sick, strict=True)]
    (tmp_path / "rare.csv").write_text("\n".join(["a,b,c,sick", *rows]))
    settings = {
        "data": {"data": str(tmp_path / "rare.csv"), "target": "sick", "val_fraction": 0.3},
        "model": {"name": "mlp", "args": {"widths": [16]}},
        "fit": {"epochs": 4, "batch_size": 64, "log_every": 0, "device": "cpu"},
    }
    return train_run(tmp_path / "runs", "one", settings)


def evaluated(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> tuple[Any, str]:
    got = main(["eval", *args, "--device", "cpu", "--json"])
    result = capsys.readouterr()
    assert got == code, result.err
    return json.loads(result.out) if result.out else None, result.err


def test_labels_change_in_the_model_and_its_exports_and_no_output_does(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before, (tensors, _) = open_artifact(run.best, device="cpu"), read_tensors(run.best)
    result, _ = evaluated(capsys, "one", "--thresholds", "balanced_accuracy", "--split", "val")
    change = result["thresholds"]
    assert change["changed"]
    assert change["after"]["balanced_accuracy"] > change["before"]["balanced_accuracy"]
    assert change["after"].items() - {("f1", change["after"]["f1"])} <= result["metrics"].items()
    (label,) = change["val"]["labels"]
    assert label["fitted"] == pytest.approx(change["after"]["balanced_accuracy"])

    after, (kept, _) = open_artifact(run.best, device="cpu"), read_tensors(run.best)
    assert all(torch.equal(kept[name], tensors[name]) for name in tensors | kept)
    assert after.card.task.thresholds is not None
    assert after.card.task.thresholds.values == (label["threshold"],)
    inputs = (np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32),)
    assert np.array_equal(before.predict(inputs), after.predict(inputs))

    onnx = run.path / "model.onnx"
    assert main(["export", "one", "--onnx", "--no-latency", "--output", str(onnx)]) == 0
    capsys.readouterr()
    exported, _ = evaluated(capsys, str(onnx), "--split", "val")
    assert "; labels by thresholds: yes 0." in exported["note"]
    assert exported["metrics"]["balanced_accuracy"] == result["metrics"]["balanced_accuracy"]
    again, _ = evaluated(capsys, "one", "--thresholds", "balanced_accuracy", "--split", "val")
    assert not again["thresholds"]["changed"]

    # What is quantized from the graph alone has them too, and says so.
    quantize = ["quantize", str(onnx), "--method", "dynamic", "--no-latency", "--json"]
    assert main([*quantize, "--output", str(run.path / "int8.onnx")]) == 0
    assert json.loads(capsys.readouterr().out)["thresholds"].startswith("yes 0.")
    assert read_card(run.path / "int8.onnx").task.thresholds == after.card.task.thresholds

    # A calibration afterwards keeps every label.
    evaluated(capsys, "one", "--calibrate", "--split", "val")
    last = open_artifact(run.best, device="cpu")
    labels = [decision_scores(m.predict(inputs), m.card.task).argmax(axis=1) for m in (after, last)]
    assert np.array_equal(*labels)


def test_what_can_have_no_thresholds_is_refused(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    content = run.best.read_bytes()
    for args, words in ((["--tta", "flip"], "leave --tta out"), (["one"], "for one model")):
        assert words in evaluated(capsys, "one", *args, "--thresholds", "f1", code=2)[1]
    (tmp_path / "alone.safetensors").write_bytes(content)
    assert "lies in no run" in evaluated(capsys, "alone.safetensors", "--thresholds", "f1", code=2)[1]
    assert run.best.read_bytes() == content
    assert read_card(run.best).task.thresholds is None
