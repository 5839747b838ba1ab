"""Fake-quantized models as the int8 ONNX graphs that they simulate."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dlcli.zoo.structures.fake_quant import (
    WEIGHT_MAX,
    FakeQuantConv1d,
    FakeQuantConv2d,
    FakeQuantizer,
    FakeQuantLinear,
    weight_scale,
)

_INT32_MAX = 2**31 - 1


class _Quantizer(FakeQuantizer):
    """The pair of ONNX operators that a fake quantizer simulates; it can be exported, not run."""

    scale: torch.Tensor
    zero: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quantized = _onnx("QuantizeLinear", (x, self.scale, self.zero), self.stored, x)
        return _onnx("DequantizeLinear", (quantized, self.scale, self.zero), torch.float32, x)


class _Int8Layer:
    """Mixin of layers whose weight is stored as s8, and bias as s32."""

    def dequantized(self, name: str) -> torch.Tensor | None:
        """The operator that gives the weight or the bias in float32."""
        stored: torch.Tensor | None = getattr(self, name)
        if stored is None or stored.is_floating_point():
            return stored
        inputs = (stored, getattr(self, f"{name}_scale"), getattr(self, f"{name}_zero"))
        return _onnx("DequantizeLinear", inputs, torch.float32, stored, axis=0)


class _Int8Conv1d(_Int8Layer, nn.Conv1d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.dequantized("weight")
        assert weight is not None
        y: torch.Tensor = self._conv_forward(x, weight, self.dequantized("bias"))
        return y


class _Int8Conv2d(_Int8Layer, nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.dequantized("weight")
        assert weight is not None
        y: torch.Tensor = self._conv_forward(x, weight, self.dequantized("bias"))
        return y


class _Int8Linear(_Int8Layer, nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.dequantized("weight")
        assert weight is not None
        return functional.linear(x, weight, self.dequantized("bias"))


_INT8: dict[type[nn.Module], type[nn.Module]] = {
    FakeQuantConv1d: _Int8Conv1d,
    FakeQuantConv2d: _Int8Conv2d,
    FakeQuantLinear: _Int8Linear,
}


@torch.no_grad()
def int8_graph(module: nn.Module) -> nn.Module:
    """A copy of ``module`` that exports to ONNX as the int8 model it simulates; other modules unchanged.

    Its weights are s8 tensors, and QuantizeLinear and DequantizeLinear stand where activations are
    rounded, so a runtime computes between them in int8. It cannot be run by torch.
    """
    if not any(type(part) in _INT8 for part in module.modules()):
        return module
    int8 = copy.deepcopy(module)
    for part in int8.modules():
        if type(part) in _INT8:
            name = part.input_quantizer
            quantizer = int8.get_submodule(name) if isinstance(name, str) else None
            assert quantizer is None or isinstance(quantizer, FakeQuantizer)
            _store_int8(part, None if quantizer is None else quantizer.quantization()[0])
    for part in int8.modules():
        if isinstance(part, FakeQuantizer):
            scale, zero = part.quantization()
            part.register_buffer("scale", scale)
            shift = 128 if part.stored is torch.int8 else 0
            part.register_buffer("zero", (zero - shift).to(part.stored))
            part.__class__ = _Quantizer
    return int8


def _store_int8(layer: nn.Module, input_scale: torch.Tensor | None) -> None:
    """Turn a layer's tensors into integers; ``input_scale`` is that of its input, where it is quantized.

    A bias gets the scale of the sums, as kernels require; it stays in float where it does not fit.
    """
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor)
    scale = weight_scale(weight)
    steps = weight / scale.view(-1, *(1,) * (weight.ndim - 1))
    del layer.weight
    stored = steps.round().clamp(-WEIGHT_MAX, WEIGHT_MAX).to(torch.int8)
    _set_stored(layer, "weight", stored, scale)
    if input_scale is not None and isinstance(bias, torch.Tensor):
        counts = (bias.double() / (scale * input_scale)).round()
        if counts.abs().max() < _INT32_MAX:
            del layer.bias
            _set_stored(layer, "bias", counts.to(torch.int32), scale * input_scale)
    layer.__class__ = _INT8[type(layer)]


def _set_stored(layer: nn.Module, name: str, stored: torch.Tensor, scale: torch.Tensor) -> None:
    layer.register_buffer(name, stored)
    layer.register_buffer(f"{name}_scale", scale)
    layer.register_buffer(f"{name}_zero", torch.zeros(len(scale), dtype=stored.dtype))


def _onnx(
    name: str, inputs: tuple[torch.Tensor, ...], dtype: torch.dtype, like: torch.Tensor, **attrs: Any
) -> torch.Tensor:
    """An ONNX operator, which the exporter writes unchanged."""
    output: torch.Tensor = torch.onnx.ops.symbolic(name, inputs, attrs, dtype=dtype, shape=like.shape)
    return output
