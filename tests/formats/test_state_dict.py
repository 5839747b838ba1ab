"""State dicts for others: plain names and tensors, a snippet that loads them, and artifacts as any."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import MODELS, artifact, largest_difference, save

from dlcli.card import Card, ModelSpec, TransformRecord
from dlcli.config import ExportConfig
from dlcli.deploy.export import installed_writers
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import (
    FORMATS,
    Artifact,
    open_artifact,
    read_card,
    sniff_format,
)
from dlcli.formats.checkpoint import save_model
from dlcli.formats.export_options import check_options, formats_named
from dlcli.task import ImageInput, TaskSpec
from dlcli.zoo.base import build_model

NAMES = ("pth", "plain-safetensors")


def export(before: Artifact, form: str, folder: Path, **options: object) -> Path:
    entry = FORMATS.get(form)
    assert entry.write is not None
    path = folder / f"x{entry.suffix}"
    entry.write(before, path, ExportConfig.model_validate(options))
    return path


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """As somebody without dlcli reads them."""
    if path.suffix == ".pth":
        return dict(torch.load(path, weights_only=True))
    return load_file(path)


@pytest.mark.parametrize("form", NAMES)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_modules_state_dict(form: str, name: str, tmp_path: Path) -> None:
    before = artifact(tmp_path, name)
    path = export(before, form, tmp_path)
    stored, state = tensors(path), before.module().state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[key], state[key]) for key in state)
    assert read_card(path) == before.card


def test_a_fresh_module_loads_what_torch_loads(tmp_path: Path) -> None:
    before = artifact(tmp_path, "cnn")
    path = export(before, "pth", tmp_path)
    module = build_model(before.card.model, before.card.task)
    module.load_state_dict(torch.load(path))
    state = before.module().state_dict()
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_a_pth_of_an_older_dlcli_is_read(tmp_path: Path) -> None:
    before = artifact(tmp_path, "cnn")
    old = {"dlcli.card": before.card.to_json(), "state_dict": before.module().state_dict()}
    torch.save(old, tmp_path / "old.pth")
    assert read_card(tmp_path / "old.pth") == before.card
    assert largest_difference(before, open_artifact(tmp_path / "old.pth", device="cpu")) == 0


@pytest.mark.parametrize("form", NAMES)
def test_half_stores_16_bits_and_computes_in_32(form: str, tmp_path: Path) -> None:
    before = artifact(tmp_path, "cnn")
    path = export(before, form, tmp_path, half=True)
    assert {t.dtype for t in tensors(path).values() if t.is_floating_point()} == {torch.float16}
    after = open_artifact(path, device="cpu")
    assert next(after.module().parameters()).dtype == torch.float32
    assert 0 < largest_difference(before, after) < 1e-2


def test_what_a_file_stored_packed_is_plain(tmp_path: Path) -> None:
    spec, task = MODELS["cnn"]
    module = build_model(spec, task)
    with torch.no_grad():
        for weight in module.parameters():
            weight[torch.rand_like(weight) < 0.9] = 0
    card = Card(model=spec, task=task, transforms=(TransformRecord(kind="sparse"),))
    save_model(tmp_path / "s.safetensors", module, card)
    before = open_artifact(tmp_path / "s.safetensors", device="cpu")
    for form in NAMES:
        path = export(before, form, tmp_path)
        assert set(tensors(path)) == set(module.state_dict())
        assert read_card(path).transforms == ()
        assert largest_difference(before, open_artifact(path, device="cpu")) == 0


@pytest.mark.parametrize(
    ("form", "name"),
    [
        pytest.param("pth", "resnet18", marks=pytest.mark.slow),
        ("plain-safetensors", "lstm"),
        pytest.param("pth", "lstm", marks=pytest.mark.slow),
        pytest.param("plain-safetensors", "resnet18", marks=pytest.mark.slow),
    ],
)
def test_the_snippet_runs(form: str, name: str, tmp_path: Path) -> None:
    if name == "lstm":
        before = artifact(tmp_path, "lstm")
    else:
        image = ImageInput(
            channels=3, height=32, width=32, resize_size=32, mean=(0.5,) * 3, std=(0.2,) * 3
        )
        card = Card(
            model=ModelSpec(name=name), task=TaskSpec(input=image, class_names=("cat", "it's a dog"))
        )
        save_model(tmp_path / "r.safetensors", build_model(card.model, card.task), card)
        before = open_artifact(tmp_path / "r.safetensors", device="cpu")
    path = export(before, form, tmp_path)
    text = FORMATS.get(form).examples["python"].write(path, before.card)
    assert ("dlcli." in text) == (name == "lstm")  # torchvision's models need no dlcli
    assert len(text.splitlines()) <= 30
    (tmp_path / "load.py").write_text(text)
    done = subprocess.run([sys.executable, tmp_path / "load.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        if name == "resnet18":
            expected = before.module()(torch.zeros(1, 3, 32, 32))
        else:
            expected = before.module()(torch.zeros(1, 8, dtype=torch.int64), torch.tensor([8]))
    first = float(done.stdout.split("[[")[1].split(",")[0])
    assert np.isclose(first, float(expected[0, 0]), atol=1e-3)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('it ran')",)


def test_a_hostile_pickle_does_nothing(tmp_path: Path) -> None:
    card = read_card(save(tmp_path, "cnn"))
    torch.save({"dlcli.card": card.to_json(), "state_dict": Bomb()}, tmp_path / "x.pth")
    assert read_card(tmp_path / "x.pth") == card
    with pytest.raises(DlcliError, match="damaged"):
        open_artifact(tmp_path / "x.pth", device="cpu", trust=True)
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"dlcli.card": "x"}, protocol=2))
    with pytest.raises(DlcliError, match="is not a model file"):
        sniff_format(tmp_path / "old.pth")


def test_one_name_means_both(tmp_path: Path) -> None:
    assert [entry.name for entry in formats_named(["state-dict"])] == list(NAMES)
    assert [entry.name for entry in formats_named(["pth", "state-dict"])] == list(NAMES)
    with pytest.raises(UsageError, match="safetensors is not an export format"):
        formats_named(["safetensors"])


@pytest.mark.parametrize(
    ("form", "options", "said"),
    [
        ("pth", {"softmax": True}, "--softmax has no effect on pth"),
        ("pt2", {"opset": 19}, "--opset has no effect on pt2"),
        ("pt2", {"batch_size": 4}, "--batch-size is the size of a static"),
        ("pth", {"dynamic": False}, "--static has no effect on pth"),
        ("torchscript", {"simplify": True}, "--simplify"),
        ("torchscript", {"embed_preprocessing": True}, "--embed-preprocessing"),
    ],
)
def test_what_a_format_cannot_do_is_refused(form: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_options(FORMATS.get(form), ExportConfig.model_validate(options))


def test_all_formats_are_those_that_the_options_fit() -> None:
    spec, task = MODELS["cnn"]
    card = Card(model=spec, task=task)

    def names(**options: object) -> set[str]:
        config = ExportConfig.model_validate(options)
        return {entry.name for entry in installed_writers(config, card)}

    assert {"onnx", "pt2", "torchscript", "pth", "plain-safetensors"} <= names()
    weights = {"pth", "plain-safetensors"}
    assert names(softmax=True) == names() - weights  # a page has probabilities anyway
    assert names(dynamic=False) == names() - {*weights, "web"}
    assert names(embed_preprocessing=True) == {"onnx", "triton", "web"}
    assert names(batch_size=4) == names()  # without --static it is refused: there is a way out


def test_what_a_format_can_do_is_not(tmp_path: Path) -> None:
    for form, options in (
        ("pt2", {"dynamic": False, "batch_size": 4, "half": True, "softmax": True}),
        ("executorch", {"batch_size": 4}),
        ("onnx", {"opset": 19, "simplify": True, "tolerance": 0.1}),
    ):
        check_options(FORMATS.get(form), ExportConfig.model_validate(json.loads(json.dumps(options))))
