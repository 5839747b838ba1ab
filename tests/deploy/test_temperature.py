"""`eval --calibrate`: the model's file, and every export of it, gives calibrated probabilities."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from training_runs import train_run

from dlcli import transforms
from dlcli.card import Card
from dlcli.cli import main
from dlcli.config import ExportConfig
from dlcli.data.prepare import random_inputs
from dlcli.errors import DlcliError
from dlcli.evaluation.run_summaries import evaluation_name
from dlcli.formats.base import FORMATS, open_artifact, read_card
from dlcli.formats.checkpoint import read_tensors, save_model
from dlcli.runs.folder import RunFolder
from dlcli.runs.measurements import read_measurement
from dlcli.zoo.base import build_model

CERTAIN = 8.0  # what the trained logits are multiplied by
SETTINGS = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [4, 8], "hidden": 16}},
    "optim": {"lr": 0.01},
    "fit": {"epochs": 2, "batch_size": 100, "log_every": 0, "device": "cpu"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model is far too certain."""
    run = train_run(tmp_path_factory.mktemp("here") / "runs", "one", SETTINGS)
    model = open_artifact(run.best, device="cpu")
    module = model.module()
    with torch.no_grad():
        head = list(module.parameters())[-2:]
        for parameter in head:
            parameter.mul_(CERTAIN)
    save_model(run.best, module, model.card)
    return run.path.parents[1]


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return RunFolder(tmp_path / "runs" / "one")


def evaluated(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> tuple[Any, str]:
    got = main(["eval", *args, "--device", "cpu", "--json"])
    result = capsys.readouterr()
    assert got == code, result.err
    return json.loads(result.out) if result.out else None, result.err


def test_the_model_keeps_its_weights_and_classes_and_gets_calibrated_probabilities(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_artifact(run.best, device="cpu")
    tensors, _ = read_tensors(run.best)
    result, _ = evaluated(capsys, "one", "--calibrate", "--split", "val")
    change = result["calibration"]
    assert change["changed"]
    assert change["temperature"] > 1.5
    assert change["after"]["log_loss"] < change["before"]["log_loss"]
    assert change["after"]["ece"] < 0.75 * change["before"]["ece"]
    assert change["after"].items() <= result["metrics"].items()
    # On val itself, of which the fit says the same.
    assert change["val"]["log_loss"] == pytest.approx(change["before"]["log_loss"], rel=1e-6)
    assert change["val"]["log_loss_calibrated"] == pytest.approx(change["after"]["log_loss"], rel=1e-5)

    after = open_artifact(run.best, device="cpu")
    kept, _ = read_tensors(run.best)
    assert kept.keys() == tensors.keys()
    assert all(torch.equal(kept[name], tensors[name]) for name in tensors)
    assert after.card.model_copy(update={"transforms": ()}) == before.card
    inputs = random_inputs(before.card.task, 50)
    expected = before.predict(inputs) / change["temperature"]
    np.testing.assert_allclose(after.predict(inputs), expected, rtol=1e-5, atol=1e-5)
    assert not list(run.path.glob(".*"))  # nothing is left of the writing


def test_a_second_calibration_finds_nothing_to_do(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = evaluated(capsys, "one", "--calibrate")
    content = run.best.read_bytes()
    second, _ = evaluated(capsys, "one", "--calibrate")
    assert not second["calibration"]["changed"]
    assert second["calibration"]["temperature"] == first["calibration"]["temperature"]
    assert second["calibration"]["val"]["temperature"] == pytest.approx(1, abs=1e-3)
    assert run.best.read_bytes() == content
    assert main(["eval", "one", "--calibrate", "--device", "cpu"]) == 0
    assert "the model was not changed" in " ".join(capsys.readouterr().out.split())


def test_exports_and_predictions_are_calibrated_too(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plain = run.path / "plain.onnx"
    assert main(["export", "one", "--onnx", "--output", str(plain), "--no-verify"]) == 0
    capsys.readouterr()
    result, _ = evaluated(capsys, "one", "--calibrate")
    log_loss = result["metrics"]["log_loss"]
    _, err = evaluated(capsys, str(plain))
    assert "was made from an older best.safetensors" in err
    for name, options in {"soft": ["--softmax"], "raw": ["--embed-preprocessing"], "logits": []}.items():
        path = run.path / f"{name}.onnx"
        assert main(["export", "one", "--onnx", "--no-latency", "--output", str(path), *options]) == 0
        capsys.readouterr()
        exported, _ = evaluated(capsys, str(path))
        assert exported["metrics"]["log_loss"] == pytest.approx(log_loss, rel=1e-4)
        assert exported["metrics"]["accuracy"] == result["metrics"]["accuracy"]


def test_the_run_knows_its_test_metrics_after_it(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = evaluated(capsys, "one", "--calibrate")
    assert result["split"] == "test"
    assert main(["runs", "--json"]) == 0
    (summary,) = json.loads(capsys.readouterr().out)["runs"]
    assert summary["test"]["log_loss"] == result["metrics"]["log_loss"]
    recorded = read_measurement(run, evaluation_name("val"))
    assert recorded is not None
    assert recorded.result["metrics"]["log_loss"] == pytest.approx(
        result["calibration"]["val"]["log_loss_calibrated"], rel=1e-5
    )


@pytest.mark.slow
def test_a_smaller_model_of_a_calibrated_one_is_calibrated(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = evaluated(capsys, "one", "--calibrate", "--split", "val")
    temperature = result["calibration"]["temperature"]
    assert main(["quantize", "one", "--method", "static", "--no-latency"]) == 0
    assert re.search(r"^ +ece +0\.\d+ +0\.\d+ +[+-]", capsys.readouterr().out, re.MULTILINE)
    assert (
        main(["prune", "one", "--amount", "0.3", "--epochs", "1", "--name", "small", "--no-latency"])
        == 0
    )
    capsys.readouterr()
    for path in (run.path / "best.int8-static.onnx", run.path.parent / "small" / "best.safetensors"):
        record = transforms.find_record(read_card(path).transforms, transforms.TEMPERATURE)
        assert record is not None
        assert record.args["temperature"] == temperature
        smaller, _ = evaluated(capsys, str(path), "--split", "val")
        # Uncalibrated, it is a multiple of this.
        assert (
            smaller["metrics"]["log_loss"]
            < (result["calibration"]["before"]["log_loss"] + result["metrics"]["log_loss"]) / 2
        )


def test_what_cannot_be_calibrated_is_refused(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(*args: str, code: int = 2) -> str:
        return evaluated(capsys, *args, "--calibrate", code=code)[1]

    content = run.best.read_bytes()
    assert "leave --tta out" in refused("one", "--tta", "flip")
    assert "for one model" in refused("one", "one")
    shutil.copy(run.best, run.path / "copy.safetensors")
    assert "is not the run's own model" in refused("runs/one/copy.safetensors")
    shutil.copy(run.best, tmp_path / "alone.safetensors")
    assert "lies in no run" in refused("alone.safetensors")
    spec, task = tiny.MODELS["rnn"]
    save_model(tmp_path / "number.safetensors", tiny.build("rnn"), Card(model=spec, task=task))
    assert run.best.read_bytes() == content


@pytest.mark.parametrize("name", ["cnn", "lstm", "table", "tensors"])
@pytest.mark.parametrize("format_name", ["pth", "plain-safetensors", "torchscript", "pt2", "onnx"])
def test_every_format_divides_by_the_temperature(name: str, format_name: str, tmp_path: Path) -> None:
    spec, task = tiny.MODELS[name]
    plain = tiny.artifact(tmp_path, name)
    card = plain.card.with_record(transforms.TEMPERATURE, temperature=2.5, samples=100)
    module = build_model(spec, task, card.transforms)
    module.load_state_dict(plain.module().state_dict())
    source = tmp_path / "calibrated.safetensors"
    save_model(source, module.eval(), card)
    entry = FORMATS.get(format_name)
    target = tmp_path / f"exported{entry.suffix}"
    assert entry.write is not None
    entry.write(open_artifact(source, device="cpu"), target, ExportConfig())
    exported = open_artifact(target, device="cpu")
    inputs = random_inputs(task, 5, seed=3)
    np.testing.assert_allclose(
        exported.predict(inputs), plain.predict(inputs) / 2.5, rtol=1e-4, atol=1e-5
    )


def test_a_temperature_that_is_no_number_above_zero_does_not_open(tmp_path: Path) -> None:
    spec, task = tiny.MODELS["cnn"]
    for value in (0, -1.0, float("inf"), None):
        path = tmp_path / "damaged.safetensors"
        card = Card(model=spec, task=task).with_record(transforms.TEMPERATURE, temperature=value)
        save_model(path, tiny.build("cnn"), card)
        with pytest.raises(DlcliError, match="not a finite number above 0"):
            open_artifact(path, device="cpu")
