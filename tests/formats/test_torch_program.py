"""pt2 and TorchScript: the model's answers at any size, a card that is read as bytes, nothing else."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import artifact, largest_difference
from torch import nn

from dlcli.card import Card, ModelSpec
from dlcli.config import ExportConfig
from dlcli.data.prepare import random_inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.formats import torch_export
from dlcli.formats.base import FORMATS, Artifact, ModelFile, open_artifact, read_card, sniff_format
from dlcli.formats.readable_outputs import to_probabilities
from dlcli.formats.torchscript import write_torchscript
from dlcli.task import ImageInput, TaskSpec

FORMS = ("torchscript", "pt2")
STATIC = [
    ("torchscript", "cnn"), ("torchscript", "series"), ("torchscript", "seq2seq"), ("pt2", "lstm"),
    pytest.param("pt2", "cnn", marks=pytest.mark.slow),
    pytest.param("pt2", "series", marks=pytest.mark.slow),
    pytest.param("pt2", "seq2seq", marks=pytest.mark.slow),
]  # fmt: skip


def export(before: Artifact, form: str, folder: Path, **options: object) -> Artifact:
    """The source in another format, opened again."""
    entry = FORMATS.get(form)
    assert entry.write is not None
    path = folder / f"x{entry.suffix}"
    entry.write(before, path, ExportConfig.model_validate(options))
    assert sniff_format(path).name == form
    return open_artifact(path, device="cpu")


Made = Callable[[str, str], tuple[Artifact, Artifact]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model and its export to a format, made once."""

    @cache
    def make(form: str, name: str) -> tuple[Artifact, Artifact]:
        folder = tmp_path_factory.mktemp(form)
        before = artifact(folder, name)
        return before, export(before, form, folder)

    return make


@pytest.mark.parametrize(("form", "name"), STATIC)
def test_a_static_file_accepts_any_batch(form: str, name: str, tmp_path: Path) -> None:
    before = artifact(tmp_path, name)
    after = export(before, form, tmp_path, dynamic=False, batch_size=3)
    assert largest_difference(before, after) <= 1e-6
    (record,) = (r for r in after.card.transforms if r.kind == "static")
    assert record.args["batch"] == 3


@pytest.mark.parametrize("form", FORMS)
def test_probabilities_come_back_as_logits(form: str, tmp_path: Path) -> None:
    before = artifact(tmp_path, "cnn")
    after = export(before, form, tmp_path, softmax=True)
    inputs = random_inputs(before.card.task, 5)
    expected = to_probabilities(before.predict(inputs), before.card.task)
    raw = after.prepare_call(inputs)()
    assert isinstance(raw, torch.Tensor)
    assert np.allclose(raw.numpy(), expected, atol=1e-6)
    assert np.allclose(to_probabilities(after.predict(inputs), before.card.task), expected, atol=1e-6)


def test_numbers_have_no_probabilities(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--softmax"):
        export(artifact(tmp_path, "series"), "torchscript", tmp_path, softmax=True)


@pytest.mark.parametrize("form", ["torchscript", pytest.param("pt2", marks=pytest.mark.slow)])
def test_half_is_half_as_large_and_nearly_equal(form: str, tmp_path: Path) -> None:
    before = artifact(tmp_path, "transformer")
    after = export(before, form, tmp_path, half=True)
    assert 0 < largest_difference(before, after) < 5e-3
    assert any(record.kind == "half" for record in after.card.transforms)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_this_machine_is_in_the_file(form: str, made: Made) -> None:
    with zipfile.ZipFile(made(form, "lstm")[1].path) as archive:
        texts = [archive.read(name) for name in archive.namelist()]
    for folder in (Path(torch_export.__file__).parent.parent, Path(torch.__file__).parent):
        assert not any(str(folder).encode() in text for text in texts)


def test_capturing_leaves_torch_as_it_was() -> None:
    ops = [torch.ops.aten.lstm.input, torch.ops.aten.gru.input]
    before = [dict(op.py_kernels) for op in ops]
    with torch_export.keep_rnn_operators():
        assert [dict(op.py_kernels) for op in ops] != before
    assert [dict(op.py_kernels) for op in ops] == before


class Forked(nn.Module):
    """The sign of its input's sum decides the way; a trace knows one of the two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(81, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x.flatten(1))
        if bool(x.sum() > 0):
            return y
        return -y


class Odd(nn.Module):
    """Of two samples always, and nothing that can be compiled."""

    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x[0].tolist()), 3)


class Held(Artifact):
    """A module that is in no file."""

    def __init__(self, module: nn.Module) -> None:
        image = ImageInput(channels=1, height=9, width=9, resize_size=9, mean=(0.5,), std=(0.3,))
        task = TaskSpec(input=image, class_names=("a", "b", "c"))
        card = Card(model=ModelSpec(name="own"), task=task)
        super().__init__(ModelFile(Path("x"), FORMATS.get("safetensors")), card)
        self._module = module.eval()

    def predict(self, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
        raise NotImplementedError

    def module(self) -> nn.Module:
        return self._module


def test_code_that_branches_is_scripted(tmp_path: Path) -> None:
    held = Held(Forked())
    write_torchscript(held, tmp_path / "x.torchscript", ExportConfig())
    after = open_artifact(tmp_path / "x.torchscript", device="cpu")
    assert ("torchscript", {"by": "script"}) in [(r.kind, r.args) for r in after.card.transforms]
    for fill in (0, 255):
        pixels = np.full((2, 9, 9, 1), fill, np.uint8)
        x = torch.full((2, 1, 9, 9), (fill / 255 - 0.5) / 0.3)
        with torch.no_grad():
            assert np.allclose(after.predict((pixels,)), held.module()(x).numpy(), atol=1e-5)


def test_what_neither_way_can_write_is_refused_with_both_reasons(tmp_path: Path) -> None:
    path = tmp_path / "x.torchscript"
    with pytest.raises(DlcliError, match=r"trace: its outputs are \(2, 3\) at batch 1.*; script: "):
        write_torchscript(Held(Odd()), path, ExportConfig())
    assert not path.exists()


def test_a_model_that_export_refuses_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        DlcliError, match=r"torch\.export cannot export own: it branches on values"
    ) as caught:
        export(Held(Forked()), "pt2", tmp_path)
    assert caught.value.hint is not None
    assert "torch.where" in caught.value.hint


@pytest.mark.parametrize("form", ["torchscript", "pt2", "pth"])
def test_a_flipped_byte_is_damage(form: str, made: Made, tmp_path: Path) -> None:
    good = made(form, "cnn")[1].path
    data = good.read_bytes()
    with zipfile.ZipFile(good) as archive:
        largest = max(archive.infolist(), key=lambda info: info.compress_size)
    at = data.index(largest.filename.encode()) + len(largest.filename) + largest.compress_size // 2
    flipped = tmp_path / "flipped.bin"
    flipped.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
    with pytest.raises(DlcliError, match="damaged"):
        open_artifact(flipped, device="cpu", trust=True)


def test_a_member_that_says_it_is_encrypted_or_packed_is_damage(made: Made, tmp_path: Path) -> None:
    data = made("torchscript", "lstm")[1].path.read_bytes()
    for offset, bit in ((8, 1), (10, 8)):  # flags and method of the directory's entries
        changed = bytearray(data)
        at = changed.find(b"PK\x01\x02")
        while at >= 0:
            changed[at + offset] ^= bit
            at = changed.find(b"PK\x01\x02", at + 1)
        (tmp_path / "x").write_bytes(changed)
        with pytest.raises(DlcliError, match="damaged"):
            open_artifact(tmp_path / "x", device="cpu", trust=True)


def test_foreign_zips_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DlcliError, match="is not a model file"):
        sniff_format(tmp_path / "a.zip")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.pth")
    assert sniff_format(tmp_path / "a.pth").name == "pth"
    with pytest.raises(DlcliError, match="without a dlcli card") as caught:
        read_card(tmp_path / "a.pth")
    assert caught.value.hint is not None
    assert "--weights" in caught.value.hint


def test_the_source_is_left_as_it_was(tmp_path: Path) -> None:
    before = artifact(tmp_path, "cnn")
    module = before.module()
    was = [(p.stride(), p.dtype, p.requires_grad) for p in module.parameters()]
    export(before, "torchscript", tmp_path, half=True)
    assert [(p.stride(), p.dtype, p.requires_grad) for p in module.parameters()] == was
