"""LoRA runs: what trains, what stays, how they resume, and what every command makes of their models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import torch
from training_runs import resume_run, train_run

from dlcli import transforms, trust
from dlcli.cli import main
from dlcli.config import ModelConfig, TrainConfig
from dlcli.errors import UsageError
from dlcli.events import Event, RunStarted, StepDone
from dlcli.formats.base import open_artifact
from dlcli.formats.checkpoint import read_tensors
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training.loop.state import load_newest
from dlcli.training.lora import lora_record
from dlcli.training.planning import make_plan
from dlcli.training.prepare import prepare_run
from dlcli.zoo.structures import lora

CNN: dict[str, Any] = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [4, 8], "hidden": 16}, "lora": 2},
    "fit": {"epochs": 1, "batch_size": 300, "log_every": 0, "device": "cpu"},
}
USER_MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, task):
        super().__init__()
        self.used, self.read, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x):
        x = torch.tanh(self.used(x.flatten(1)))
        return self.head(x @ self.read.weight.T)
"""


@pytest.fixture
def bert(tmp_path: Path) -> dict[str, Any]:
    """Settings of a run from a tiny published encoder."""
    return {
        "data": {"data": str(tiny_bert.write_questions(tmp_path / "q.csv"))},
        "model": {
            "name": "bert",
            "weights": str(tiny_bert.write_snapshot(tmp_path / "tiny")),
            "lora": 2,
        },
        "fit": {"epochs": 2, "batch_size": 8, "log_every": 0, "device": "cpu"},
    }


def tensors_of(run: RunFolder) -> dict[str, torch.Tensor]:
    return read_tensors(run.best)[0]


def test_only_factors_and_head_train(bert: dict[str, Any], tmp_path: Path) -> None:
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, RunStarted):
            notes.extend(event.notes)

    start = train_run(tmp_path, "start", bert, {"optim": {"lr": 1e-30}})
    run = train_run(tmp_path, "a", bert, {"optim": {"lr": 0.01}}, emit=emit)
    before, after = tensors_of(start), tensors_of(run)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {n for n in after if lora.is_factor(n) or n.startswith("head.")}
    sizes = {name: tensor.numel() for name, tensor in after.items()}
    train, whole = sum(sizes[name] for name in changed), sum(sizes.values())
    note, skipped = (note for note in notes if note.startswith("LoRA"))
    tables = "body.tokens, body.types, body.positions.table"
    assert skipped == (
        f"LoRA leaves frozen 3 layers ({tables}): Embedding is no linear layer or convolution"
    )
    assert f"{train:,} of {whole:,} parameters train ({train / whole:.2%})" in note
    assert "on 12 layers" in note  # four maps of attention and two of the feed-forward, twice


def test_layers_without_factors_are_named_with_the_reason(tmp_path: Path) -> None:
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, RunStarted):
            notes.extend(note for note in event.notes if note.startswith("LoRA leaves"))

    train_run(tmp_path, "a", CNN, {"model": {"lora_targets": "features.4"}}, emit=emit)
    assert notes == ["LoRA leaves frozen 1 layer (features.0): not named by --lora-targets"]
    notes.clear()
    train_run(tmp_path, "b", CNN, {"model": {"lora": 4}}, emit=emit)
    (note,) = notes
    assert "features.0): factors of rank 4 are no smaller than their weights" in note


def test_the_rate_is_that_of_lora_unless_given(bert: dict[str, Any]) -> None:
    def rate(*changes: dict[str, Any]) -> object:
        return make_plan(
            lambda recipe: validate(TrainConfig, merge(recipe, bert, *changes))
        ).config.optim

    full = validate(TrainConfig, {"optim": rate({"model": {"lora": None}}).model_dump()}).optim.peak_lr
    assert rate().peak_lr > 5 * full
    assert rate({"optim": {"lr": 0.125}}).peak_lr == 0.125


EVERYTHING = {
    "augment": {"mixup": 0.4, "translate": 0.1},
    "optim": {"lr": 0.02, "layer_decay": 0.8},
    "fit": {
        "epochs": 2,
        "grad_accum_steps": 2,
        "ema": 0.9,
        "swa": 0.5,
        "checkpoint_every": "2",
        "grad_checkpointing": "2",
        "amp": "bf16",
    },
}


class Killed(BaseException):
    pass


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """With averages, micro-batches, mixed precision, checkpointing and a teacher."""
    teacher = train_run(tmp_path, "teacher", CNN, {"model": {"lora": None}})
    changes = merge(EVERYTHING, {"loss": {"teacher": str(teacher.path)}})
    weights = {"model": {"weights": str(teacher.best)}}

    def kill(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            raise Killed

    whole = train_run(tmp_path, "whole", CNN, changes, weights)
    with pytest.raises(Killed):
        train_run(tmp_path, "part", CNN, changes, weights, {"fit": {"log_every": 1}}, emit=kill)
    part = RunFolder(tmp_path / "part")
    resume_run(part)
    states = [load_newest(run.state)[0] for run in (whole, part)]
    assert states[0] is not None
    assert states[1] is not None
    for one, other in (
        (states[0].tensors, states[1].tensors),
        (tensors_of(whole), tensors_of(part)),
        (read_tensors(whole.adapter)[0], read_tensors(part.adapter)[0]),
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    frozen = tensors_of(teacher)
    for name, tensor in tensors_of(whole).items():
        if name.startswith("features") and not lora.is_factor(name):
            assert torch.equal(tensor, frozen[name]), name


def test_freezing_holds_factors_at_nothing(tmp_path: Path) -> None:
    run = train_run(tmp_path, "a", CNN, {"model": {"freeze": "features.0"}, "optim": {"lr": 0.02}})
    second = {name: t for name, t in tensors_of(run).items() if name.endswith("lora_B")}
    frozen = {name for name in second if name.startswith("features.0")}
    assert frozen
    assert {name for name, tensor in second.items() if not tensor.any()} == frozen


def test_every_command_takes_its_model_merged(
    tmp_path: Path,
    bert: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train_run(Path("runs"), "a", bert, {"optim": {"lr": 0.01}})
    artifact = open_artifact(run.best, device="cpu")
    assert not any(map(lora.is_factor, artifact.module().state_dict()))
    assert [r.kind for r in artifact.card.transforms] == [transforms.MERGED_LORA]
    apart = open_artifact(run.best, device="cpu", merge=False)
    assert any(map(lora.is_factor, apart.module().state_dict()))
    quick = ["--no-latency", "-q"]
    assert main(["eval", "a", "-q"]) == 0
    assert main(["export", "a", "--format", "state-dict", "--no-verify", "-q"]) == 0
    assert main(["quantize", "a", "--method", "bf16", *quick]) == 0
    assert main(["prune", "a", "--amount", "0.3", "--epochs", "1", "--name", "p", *quick]) == 0
    capsys.readouterr()
    assert main(["info", "runs/p/best.safetensors"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "LoRA of rank 2, merged into the weights" in text
    # Fine-tuning changes all weights, so its rate is a share of that of the model without LoRA.
    pruned = read_run(RunFolder(Path("runs/p"))).config
    assert pruned.model.lora is None
    assert pruned.optim.peak_lr <= 5e-5
    assert main(["train", "-m", "bert", "-d", "q.csv", "--weights", str(run.best), "-e", "1", "-q"]) == 0


def test_the_gate_of_exports_proves_the_merging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run(tmp_path, "a", CNN, {"optim": {"lr": 0.02}, "fit": {"epochs": 2}})
    merged = lora.merged

    def wrong(card: Any, state: Any) -> Any:
        card, tensors = merged(card, state)
        return card, {n: t * 1.1 if n.endswith("0.weight") else t for n, t in tensors.items()}

    monkeypatch.setattr(lora, "merged", wrong)
    assert main(["export", str(run.best), "--onnx", "-q"]) == 3
    assert "does not give the model's outputs" in capsys.readouterr().err
    assert run.best.with_name("best.onnx.failed").is_file()


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"lora": None, "lora_targets": "query"}, "lora_targets is for LoRA", "--lora RANK"),
        (
            {"lora_targets": "attn.*"},
            "'attn.*' matches no linear layer",
            "there are features.0, features.4",
        ),
        ({"lora_targets": "features.0", "lora": 9}, "is more than the smaller side of", "--lora 4"),
        ({"lora": 500}, "is large enough", "a lower rank"),
        ({"freeze": "backbone"}, "leaves no factor of LoRA to train", "--freeze out"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        prepare_run(
            make_plan(lambda recipe: validate(TrainConfig, merge(recipe, CNN, {"model": settings})))
        )
    assert hint in (caught.value.hint or "")


def test_another_optimizer_s_state_is_refused() -> None:
    spec, task = tiny.MODELS["cnn"]
    with pytest.raises(UsageError, match="exclude each other"):
        lora_record(ModelConfig(lora=2, optimizer_state=True), spec, task)


def test_layers_whose_factors_would_have_no_effect_are_named(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(USER_MODEL)
    own = {**CNN, "model": {"name": f"{tmp_path / 'net.py'}:Net", "lora": 2}}
    with trust.allowing(own["model"]["name"]):
        with pytest.raises(UsageError, match=r"would have no effect: read$"):
            train_run(tmp_path, "a", own)
        train_run(tmp_path, "b", own, {"model": {"lora_targets": "used"}})
