"""The model file: whole or refused, readable without torch, never unpickled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dlcli.card import Card, ModelSpec
from dlcli.errors import DlcliError
from dlcli.formats.base import open_artifact, read_card, sniff_format
from dlcli.formats.checkpoint import read_tensors, save_model, verify, write_tensors
from dlcli.task import ImageInput, TaskSpec
from dlcli.zoo.base import build_model

TASK = TaskSpec(
    input=ImageInput(channels=1, height=8, width=8, resize_size=8, mean=(0.5,), std=(0.5,)),
    class_names=("a", "b", "c"),
)
CARD = Card(model=ModelSpec(name="cnn", args={"widths": [4]}), task=TASK, params=1)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "best.safetensors"
    save_model(path, build_model(CARD.model, TASK), CARD)
    return path


def test_card_and_outputs_survive(model_file: Path) -> None:
    assert read_card(model_file) == CARD
    artifact = open_artifact(model_file, device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    whole = artifact.predict((pixels,))
    assert whole.shape == (5, 3)
    assert whole.dtype == np.float32
    alone = np.concatenate([artifact.predict((pixels[i : i + 1],)) for i in range(5)])
    assert np.allclose(whole, alone, atol=1e-5)


def test_the_format_is_recognized_by_content_not_by_name(model_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "model.onnx"
    other.write_bytes(model_file.read_bytes())
    assert sniff_format(other).name == "safetensors"


def test_every_flipped_bit_is_noticed(model_file: Path) -> None:
    good = model_file.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    rng = np.random.default_rng(0)
    # Anywhere in the tensors, and in the card itself.
    card_at = good.index(b"widths")
    for place in [card_at, *rng.integers(header, len(good), 20).tolist()]:
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(0, 7))
        model_file.write_bytes(bad)
        with pytest.raises(DlcliError, match=r"damaged|cannot be read|no argument"):
            open_artifact(model_file, device="cpu")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}q\x00.",  # a pickle
        b"PK\x03\x04" + b"\0" * 60,  # a zip, such as torch.save writes
        b"\xff" * 64,
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (30).to_bytes(8, "little") + b'{"a": {"data_offsets": null}} ',
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(DlcliError):
        read_card(path)


def test_a_card_from_elsewhere_is_refused_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, {})
    with pytest.raises(DlcliError, match="without a dlcli card"):
        read_card(path)
    newer = json.loads(CARD.to_json()) | {"schema_version": 99, "wings": 2}
    write_tensors(path, {"a": torch.zeros(1)}, {"dlcli.card": json.dumps(newer)})
    with pytest.raises(DlcliError, match="wings") as caught:
        read_card(path)
    assert "newer dlcli" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3),
        torch.zeros(0, 4),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(4, 6).t(),
        torch.randn(3).to(torch.bfloat16),
        torch.tensor([True, False]),
        torch.arange(5, dtype=torch.uint8),
    ],
    ids=lambda t: f"{t.dtype}{tuple(t.shape)}",
)
def test_tensors_of_all_kinds_survive(tmp_path: Path, tensor: torch.Tensor) -> None:
    shared = {"a": tensor, "b": tensor}
    write_tensors(tmp_path / "t", shared, {"k": "v"})
    tensors, metadata = read_tensors(tmp_path / "t")
    assert torch.equal(tensors["a"], tensor)
    assert torch.equal(tensors["b"], tensor)
    assert tensors["a"].dtype == tensor.dtype
    assert metadata == {"k": "v"}


def test_a_transform_of_an_unknown_kind_is_an_error(model_file: Path, tmp_path: Path) -> None:
    before = open_artifact(model_file, device="cpu")
    card = before.card.with_record("from-the-future")
    save_model(tmp_path / "new.safetensors", before.module(), card)
    with pytest.raises(DlcliError, match="'from-the-future'"):
        open_artifact(tmp_path / "new.safetensors", device="cpu")


def test_the_digest_of_every_dtype_is_checked_without_torch(tmp_path: Path) -> None:
    names = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32")
    more = ("float64", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "complex64")
    tensors = {name: torch.ones(2, 3).to(getattr(torch, name)) for name in (*names, *more)}
    path = tmp_path / "t.safetensors"
    write_tensors(path, {**tensors, "scalar": torch.tensor(1.5)}, {"k": "v"})
    assert verify(path)


def test_a_card_without_a_digest_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file({"w": torch.zeros(2)}, path, {"dlcli.card": "{}"})
    with pytest.raises(DlcliError, match="is damaged"):
        verify(path)
    save_file({"w": torch.zeros(2)}, path, {"k": "v"})
    assert not verify(path)
