"""Adapters: what a LoRA run trained, in a small file that finds the weights it belongs to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_bert
import torch
from training_runs import train_run

from dlcli import transforms
from dlcli.cli import main
from dlcli.config import ExportConfig
from dlcli.data.prepare import random_inputs
from dlcli.deploy.export import installed_writers
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import FORMATS, open_artifact, read_card, recognize
from dlcli.formats.checkpoint import read_tensors
from dlcli.runs.folder import RunFolder
from dlcli.zoo.structures.lora import is_factor


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny encoder, its data and a LoRA run of it."""
    root = tmp_path_factory.mktemp("lora")
    weights = tiny_bert.write_snapshot(root / "tiny")
    settings = {
        "data": {"data": str(tiny_bert.write_questions(root / "q.csv"))},
        "model": {"name": "bert", "weights": str(weights), "lora": 2, "lora_targets": "query,value"},
        "optim": {"lr": 0.02},
        "fit": {"epochs": 2, "batch_size": 8, "log_every": 0, "device": "cpu"},
    }
    train_run(root / "runs", "a", settings)
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunFolder:
    """A copy of the run; its weights are where they were."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return RunFolder(tmp_path / "runs" / "a")


def outputs(path: Path) -> np.ndarray:
    artifact = open_artifact(path, device="cpu")
    return artifact.predict(random_inputs(artifact.card.task, 5))


def test_an_adapter_and_its_weights_are_the_model(run: RunFolder) -> None:
    tensors, _ = read_tensors(run.adapter)
    assert {name for name in tensors if not is_factor(name)} == {"head.weight", "head.bias"}
    assert sum(map(is_factor, tensors)) == 2 * 2 * tiny_bert.LAYERS
    assert run.adapter.stat().st_size < run.best.stat().st_size
    assert np.array_equal(outputs(run.adapter), outputs(run.best))
    assert recognize(run.adapter).format.name == "adapter"
    assert read_card(run.adapter) == read_card(run.best)
    card = open_artifact(run.adapter, device="cpu").card
    assert [record.kind for record in card.transforms] == [transforms.MERGED_LORA]


def test_its_weights_may_lie_next_to_it(run: RunFolder, trained: Path) -> None:
    expected = outputs(run.best)
    moved = trained / "elsewhere"
    (trained / "tiny").rename(moved)
    try:
        with pytest.raises(DlcliError, match="which are not there") as caught:
            open_artifact(run.adapter, device="cpu")
        assert str(trained / "tiny") in caught.value.message
        assert "next to a copy of the adapter as tiny" in (caught.value.hint or "")
        assert np.array_equal(outputs(run.best), expected)  # the whole model needs none
        shutil.copytree(moved, run.path / "tiny")
        assert np.array_equal(outputs(run.adapter), expected)
        # Weights of the same shapes are refused by their digest.
        other = tiny_bert.tensors("bert", seed=1)
        state = {f"bert.{name}": tensor for name, tensor in other.items()}
        tiny_bert.save_file(state, run.path / "tiny" / "model.safetensors")
        with pytest.raises(DlcliError, match=r"for other weights than .*SHA-256 differs") as caught:
            open_artifact(run.adapter, device="cpu")
        assert str(trained / "tiny") in (caught.value.hint or "")
    finally:
        moved.rename(trained / "tiny")


def test_a_damaged_adapter_is_refused(run: RunFolder) -> None:
    data = bytearray(run.adapter.read_bytes())
    data[-1] ^= 1
    run.adapter.write_bytes(data)
    with pytest.raises(DlcliError, match="is damaged"):
        open_artifact(run.adapter, device="cpu")


def test_commands_take_it(
    run: RunFolder,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run.path.parent.parent)
    own = str(run.adapter)
    assert main(["eval", own, "-q"]) == 0
    assert main(["info", own]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "LoRA of rank 2, alpha 4, on 4 layers" in text
    assert "needs the weights" in text
    assert main(["export", own, "--format", "pth", "-q", "--no-verify"]) == 0
    state = torch.load(run.path / "adapter.pth", weights_only=True)
    assert not any(map(is_factor, state))
    assert main(["export", "a", "--format", "adapter", "-q"]) == 0
    written = run.path / "best.adapter.safetensors"
    assert np.array_equal(outputs(written), outputs(run.best))
    data = str(trained / "q.csv")
    assert main(["train", "-m", "bert", "-d", data, "--weights", own, "--name", "b", "-q"]) == 1
    assert "is an adapter" in capsys.readouterr().err
    whole = str(run.best)
    assert main(["train", "-m", "bert", "-d", data, "--weights", whole, "-e", "1", "-q"]) == 0


def test_only_models_of_lora_with_weights_of_others_have_one(run: RunFolder, tmp_path: Path) -> None:
    adapter = FORMATS.get("adapter")
    assert adapter in installed_writers(ExportConfig(), read_card(run.best))
    scratch = train_run(
        tmp_path / "runs",
        "b",
        {
            "data": {"data": "digits"},
            "model": {"name": "mlp", "lora": 2},
            "fit": {"epochs": 1, "batch_size": 500, "log_every": 0, "device": "cpu"},
        },
    )
    assert not scratch.adapter.exists()
    source = open_artifact(scratch.best, device="cpu")
    assert adapter not in installed_writers(ExportConfig(), recognize(scratch.best).card)
    assert adapter.write is not None
    with pytest.raises(UsageError, match="has no adapter: only models trained"):
        adapter.write(source, tmp_path / "x.safetensors", ExportConfig())
