"""Quantization-aware training: a run like any other, whose file computes what the run measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlcli.card import Card, ModelSpec
from dlcli.compress.quantize.base import method_of
from dlcli.config import EvalConfig, QuantizeSettings, TrainConfig
from dlcli.deploy.quantize.qat import QatResult, prepare, qat
from dlcli.deploy.quantize.quantize import quantize
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.eval_data import eval_data
from dlcli.evaluation.evaluate import evaluate
from dlcli.events import Event, StepDone, ignore
from dlcli.formats.base import FORMATS, Artifact, ModelFile, open_artifact
from dlcli.formats.checkpoint import Checkpoint, read_tensors
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.task import SPECIAL_TOKENS, TaskSpec, TextInput
from dlcli.training import run as training
from dlcli.training.loop.state import load_newest
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run
from dlcli.training.sync_batchnorm import RunningStatistics
from dlcli.zoo.base import build_model
from dlcli.zoo.precision import Precision
from dlcli.zoo.structures.fake_quant import FakeQuantizer

METHOD = method_of("qat", "onnxruntime")
FLOAT = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [8, 32], "hidden": 128, "dropout": 0.2}},
    "fit": {"epochs": 4, "batch_size": 100, "device": "cpu", "log_every": 0},
}


def settings(**changes: Any) -> QuantizeSettings:
    defaults = {
        "quantize": {"calibration_samples": 64, "target": "x86"},
        "finetune": {"device": "cpu", "epochs": 1, "batch_size": 300},
    }
    return validate(QuantizeSettings, merge(defaults, changes))


def finetuner(root: Path, emit: Callable[[Event], None] = ignore) -> Callable[[Plan, str], RunFolder]:
    def finetune(plan: Plan, name: str) -> RunFolder:
        run = training.new_run(prepare_run(plan), root, name)
        return training.train(prepare_run(plan), run, emit, state=None).run

    return finetune


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, FLOAT)))
    run = training.new_run(prepare_run(plan), tmp_path_factory.mktemp("runs"), "digits")
    training.train(prepare_run(plan), run, ignore, state=None)
    return open_artifact(run.best, device="cpu")


@pytest.fixture(scope="module")
def tuned(source: Artifact, tmp_path_factory: pytest.TempPathFactory) -> QatResult:
    folder = tmp_path_factory.mktemp("qat")
    return qat(source, METHOD, settings(), finetuner(folder), folder / "q.onnx")


def test_the_file_computes_what_the_run_simulates(source: Artifact, tuned: QatResult) -> None:
    simulated, file = (open_artifact(p, device="cpu") for p in (tuned.run.best, tuned.path))
    reader = eval_data(source.card, source.path, EvalConfig(split="test")).reader
    inputs, _ = reader.read(np.arange(len(reader)))
    plain, before, after = (artifact.predict(inputs) for artifact in (source, simulated, file))
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.99
    assert np.abs(after - before).mean() < 0.2 * np.abs(plain - before).mean()
    assert (plain.argmax(1) == after.argmax(1)).mean() > 0.95
    assert tuned.path.stat().st_size < 0.5 * source.path.stat().st_size
    measured = evaluate(file.predict, reader, file.card.task, split="test").metrics
    same = evaluate(simulated.predict, reader, source.card.task, split="test").metrics
    assert measured["loss"] == pytest.approx(same["loss"], rel=0.05)


def test_a_finished_run_becomes_the_file_that_was_never_written(
    source: Artifact, tuned: QatResult, tmp_path: Path
) -> None:
    def never(plan: Plan, name: str) -> RunFolder:
        raise AssertionError("it is trained already")

    given = settings(measure={"latency": False})
    result = quantize(tuned.run.best, given, output=tmp_path / "again.onnx", finetuner=never)
    before, after = (open_artifact(p, device="cpu") for p in (tuned.path, result.output))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), dtype=np.uint8)
    assert np.array_equal(before.predict((pixels,)), after.predict((pixels,)))
    assert result.source == source.path
    with pytest.raises(UsageError, match="trained for int8 already"):
        quantize(tuned.run.best, settings(quantize={"method": "static"}), finetuner=never)


def test_the_cards_say_what_was_done(source: Artifact, tuned: QatResult) -> None:
    card = open_artifact(tuned.run.best, device="cpu").card
    assert tuned.run.name == "digits-qat"
    assert [record.kind for record in card.transforms] == ["fold-batchnorm", "fake-quant"]
    assert card.parent == str(source.path)
    file = open_artifact(tuned.path, device="cpu").card
    assert "quantize" in [record.kind for record in file.transforms]
    assert file.metrics == card.metrics


def test_the_source_is_not_changed(source: Artifact) -> None:
    state = {name: tensor.clone() for name, tensor in source.module().state_dict().items()}
    prepare(source, METHOD, settings())
    after = source.module().state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[name], after[name]) for name in state)


class Killed(BaseException):
    """What a SIGKILL is to the code: nothing after it runs."""


def outcome(run: RunFolder) -> dict[str, torch.Tensor]:
    state, _ = load_newest(run.state)
    assert state is not None
    return {**state.tensors, **{f"best/{k}": v for k, v in read_tensors(run.best)[0].items()}}


@pytest.mark.parametrize("step", [1, 3])
def test_a_killed_run_goes_on_with_the_same_bits(
    source: Artifact, tuned: QatResult, tmp_path: Path, step: int
) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            raise Killed

    with pytest.raises(Killed):
        qat(source, METHOD, settings(), finetuner(tmp_path, kill), tmp_path / "q.onnx")
    run = RunFolder(tmp_path / "digits-qat")
    state, _ = load_newest(run.state)
    plan = read_plan(read_run(run), fresh=state is None)
    training.train(prepare_run(plan), run, ignore, state=state)
    one, other = outcome(tuned.run), outcome(run)
    assert one.keys() == other.keys()
    assert any(name.endswith("quant_in.high") for name in one)  # the ranges are in the state
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_layers_can_be_left_in_float(source: Artifact) -> None:
    _, records = prepare(source, METHOD, settings(quantize={"skip": "head"}))
    assert [path for path, _ in records[-1].args["layers"]] == ["features.4"]
    with pytest.raises(UsageError, match="leaves no layer"):
        prepare(source, METHOD, settings(quantize={"skip": "*"}))
    with pytest.raises(UsageError, match="no layer has that name"):
        prepare(source, METHOD, settings(quantize={"skip": "fc"}))


def test_recurrent_models_are_refused(tmp_path: Path) -> None:
    text = TextInput(vocabulary=(*SPECIAL_TOKENS, "a"), max_length=5)
    task = TaskSpec(kind="classification", input=text, class_names=("x", "y"))
    spec = ModelSpec(name="lstm", args={"hidden": 4, "dim": 4})
    lstm = Checkpoint(
        ModelFile(tmp_path / "m", FORMATS.get("safetensors")),
        Card(model=spec, task=task),
        build_model(spec, task),
        Precision("none", torch.device("cpu")),
    )
    with pytest.raises(DlcliError, match="not support LSTM"):
        qat(lstm, METHOD, settings(), finetuner(tmp_path), tmp_path / "q.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_is_left_out_leaves_ranges_as_they_were() -> None:
    net = nn.Sequential(FakeQuantizer())
    net(torch.tensor([-1.0, 2.0]))
    statistics, before = RunningStatistics(net), net[0].high.clone()
    statistics.save()
    net(torch.tensor([float("nan"), 5.0]))
    assert not torch.equal(net[0].high, before)
    statistics.restore()
    assert torch.equal(net[0].high, before)
