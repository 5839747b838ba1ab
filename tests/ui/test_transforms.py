"""What was done to a model, in words, on the screen of `dlcli info`."""

from __future__ import annotations

from typing import Any

import pytest
from fake_tasks import TASKS

from dlcli.card import Card, ModelSpec, TransformRecord
from dlcli.ui.card import print_card
from dlcli.ui.transforms import in_words


@pytest.mark.parametrize(
    ("kind", "args", "said"),
    [
        ("channels", {"amount": 0.5, "importance": "taylor", "shapes": {"a": 1, "b": 2}},
         "pruned by channel: amount 0.5, by taylor"),
        ("mask", {"method": "l1", "weights": ["w"] * 99, "zeros": 90, "of": 100},
         "pruned by mask: the smallest weights of each layer are zero, 90% of 100"),
        ("quantize", {"method": "static", "backend": "onnxruntime"},
         "quantized: int8 weights and activations (static, calibrated)"),
        ("quantize", {"method": "weight-only", "bits": 4, "group_size": 64, "float": ["head"]},
         "quantized: weights only, int4 in groups of 64, 1 layer left in float"),
        ("static", {"batch": 3, "length": 40}, "static shapes: batch 3, length 40"),
        ("aoti", {"device": "cpu", "system": "linux", "machine": "arm64", "vectors": "X", "torch": "2"},
         "compiled for cpu, linux arm64 X by torch 2"),
        ("half", {"dtype": "bfloat16"}, "weights in bfloat16"),
        ("not verified on data", {"reason": "gone"}, "NOT VERIFIED ON DATA: gone"),
        ("unheard of", {"w": list(range(1000)), "x": 1}, "unheard of w=(1,000 entries), x=1"),
        # What another dlcli wrote may lack what this one writes.
        *((kind, {}, "") for kind in ("channels", "mask", "quantize", "groups", "aoti", "fake-quant",
                                      "fold-batchnorm", "simplify", "exported", "torchscript")),
    ],
)  # fmt: skip
def test_a_record_is_a_sentence(kind: str, args: dict[str, Any], said: str) -> None:
    line = in_words(TransformRecord(kind=kind, args=args))
    assert said in line
    assert len(line) < 220


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([("static", {"batch": 4, "length": 9})], ["tokens int64 (4, 9)", "logits float32 (4, 3)"]),
        ([("probabilities", {})], ["probabilities float32 (batch, 3)"]),
        ([], ["tokens int64 (batch, length)", "logits float32 (batch, 3)"]),
    ],
)
def test_the_tensors_are_the_files_own(
    records: list[tuple[str, dict[str, Any]]], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    transforms = tuple(TransformRecord(kind=kind, args=args) for kind, args in records)
    card = Card(model=ModelSpec(name="m"), task=TASKS["classification"], transforms=transforms)
    print_card(card, path="p", format="onnx", size_bytes=1, sha256="0", verified=True)
    out = " ".join(capsys.readouterr().out.split())
    assert all(sentence in out for sentence in said)
    assert "runs no code" in out
