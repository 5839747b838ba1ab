"""Prepare a module for quantization-aware training: fold batch norms, insert fake quantizers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import nn

from dlcli.card import TransformRecord
from dlcli.compress.quantize.base import NO_INT8_IN_TORCH, register_quantize_method
from dlcli.compress.quantize.fake_quant_sites import calibrate, insert_fake_quantizers
from dlcli.compress.quantize.fold_batchnorm import fold_batch_norms
from dlcli.compress.quantize.static import Target, static_layers


@register_quantize_method(
    "qat",
    "onnxruntime",
    layers=static_layers,
    trains_for="static",
    tag="int8-qat",
    auto_order=8,
    why_only=NO_INT8_IN_TORCH,
)
def simulate_int8(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    layers: Collection[str],
    batches: Iterable[Sequence[torch.Tensor]],
    *,
    target: Target,
) -> tuple[TransformRecord, ...]:
    """Let ``module``, in eval mode, simulate int8 in the named layers, in place; return its new records.

    ``example`` are the inputs of one forward pass, ``batches`` the calibration data.
    """
    folded = fold_batch_norms(module, example)
    activations = "u8" if target == "x86" else "s8"
    fake_quant = insert_fake_quantizers(module, example, set(layers), activations=activations)  # type: ignore[arg-type]
    calibrate(module, batches)
    return (fake_quant,) if folded is None else (folded, fake_quant)
