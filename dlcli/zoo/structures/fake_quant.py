"""Int8 as it will be, simulated in float while a model trains: kind "fake-quant".

Weights of convolutions and linear layers are rounded to s8, symmetric, with a scale for each output
channel; activations to 8 bits with one scale and zero point a tensor, whose range follows what training
shows (Jacob et al., arXiv:1712.05877). Gradients pass the rounding as if it were not there, except
where a value is cut off. `int8_graph` gives the module that exports to ONNX as what was simulated.

args: ``activations``, "u8" or "s8": how a file stores them, which changes no value; ``layers``, [path,
quantizer of what it takes] of each layer with rounded weights; ``sites``, where activations are rounded:
[quantizer, module, side, call, calls], the quantizer "LAYER.quant_in" or "LAYER.quant_out", side "in" or
"out" of the call number ``call`` of that module, which is called ``calls`` times in a forward pass.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dlcli import transforms
from dlcli.zoo.structure import STRUCTURES

LOWEST, HIGHEST = 0, 255  # of an activation; s8 stores 128 less
WEIGHT_MAX = 127  # of an s8 weight; -128 is left out, so that 0 is in the middle
_MOMENTUM = 0.01  # of the running ranges, in each forward pass of training
_TINY = 1e-7  # a scale is at least this
_INT32_MAX = 2**31 - 1
_STORED = {"u8": torch.uint8, "s8": torch.int8}


class FakeQuantizer(nn.Module):
    """Rounds a tensor to 8 bits and back; ``low`` and ``high`` (float32 scalars) are its range.

    The range holds 0. It follows the extremes of what is seen in train mode, and in ``observing`` mode,
    which calibrates, it only widens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.observing = False
        self.stored = torch.uint8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, to the same in float32."""
        x = x.float()
        if (self.training or self.observing) and x.numel():
            self._observe(x.detach())
        if self.observing:
            return x
        scale, zero = self.quantization()
        if torch.compiler.is_exporting():
            return _rounded(x, scale, zero, LOWEST, HIGHEST)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, LOWEST, HIGHEST)

    def quantization(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale (float32) and zero point (int32), both scalars."""
        scale = ((self.high - self.low) / (HIGHEST - LOWEST)).clamp(min=_TINY)
        zero = LOWEST - (self.low / scale).round().clamp(LOWEST - HIGHEST, 0)
        return scale, zero.to(torch.int32)

    @torch.no_grad()
    def _observe(self, x: torch.Tensor) -> None:
        low, high = (found.clamp(*side) for found, side in zip(x.aminmax(), _SIDES, strict=True))
        if self.observing:
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
            self.low.copy_(low)
            self.high.copy_(high)
        else:
            self.low.lerp_(low, _MOMENTUM)
            self.high.lerp_(high, _MOMENTUM)


_SIDES = ((None, 0.0), (0.0, None))  # low is at most 0, high at least


class FakeQuantConv1d(nn.Conv1d):
    """A convolution whose weight is rounded when it is used."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) to (B, K, T')."""
        y: torch.Tensor = self._conv_forward(x, rounded_weight(self.weight), self.bias)
        return y


class FakeQuantConv2d(nn.Conv2d):
    """A convolution whose weight is rounded when it is used."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, K, H', W')."""
        y: torch.Tensor = self._conv_forward(x, rounded_weight(self.weight), self.bias)
        return y


class FakeQuantLinear(nn.Linear):
    """A linear layer whose weight is rounded when it is used."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., F) to (..., K)."""
        return functional.linear(x, rounded_weight(self.weight), self.bias)


_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: FakeQuantConv1d,
    nn.Conv2d: FakeQuantConv2d,
    nn.Linear: FakeQuantLinear,
}


def can_quantize(layer: nn.Module) -> bool:
    """Whether a layer's weight can be rounded: not where a subclass computes in its own way."""
    return type(layer) in _LAYERS


def weight_scale(weight: torch.Tensor) -> torch.Tensor:
    """The scale (K,) of each output channel of a weight (K, ...)."""
    return (weight.detach().flatten(1).abs().amax(1) / WEIGHT_MAX).clamp(min=_TINY)


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """A weight (K, ...) as it will be after s8, in float32; differentiable."""
    scale = weight_scale(weight)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    if torch.compiler.is_exporting():
        wide = scale.view(-1, *(1,) * (weight.ndim - 1))
        return _rounded(weight, wide, 0, -WEIGHT_MAX, WEIGHT_MAX)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -WEIGHT_MAX, WEIGHT_MAX)


def _rounded(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | int, least: int, most: int
) -> torch.Tensor:
    """The same numbers without a gradient: torch.export knows no fake quantization by tensors."""
    return (((x * (1 / scale)).round() + zero).clamp(least, most) - zero) * scale


class _Site:
    """Puts quantizers into the calls of one module, by their number in a forward pass; a hook."""

    def __init__(self, calls: int) -> None:
        self.calls, self.count = calls, 0
        self.quantizers: dict[int, FakeQuantizer] = {}

    def _next(self) -> FakeQuantizer | None:
        found = self.quantizers.get(self.count)
        self.count = (self.count + 1) % self.calls
        return found

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        quantizer = self._next()
        return None if quantizer is None else (quantizer(args[0]), *args[1:])

    def after(self, module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor | None:
        quantizer = self._next()
        return None if quantizer is None else quantizer(output)


class _Sites:
    """Counts the calls of all sites anew with each forward pass: the last one may have failed midway."""

    def __init__(self) -> None:
        self.sites: list[_Site] = []

    def begin(self, module: nn.Module, args: object) -> None:
        for site in self.sites:
            site.count = 0


@STRUCTURES.register(transforms.FAKE_QUANT)
def replay(module: nn.Module, args: dict[str, Any]) -> None:
    """Round from now on. Raises: ValueError where the model has no such layers."""
    try:
        for path, quantizer in args["layers"]:
            layer = module.get_submodule(path)
            if not can_quantize(layer):
                raise ValueError(f"{path} is no layer whose weight could be rounded")
            layer.__class__ = _LAYERS[type(layer)]  # the object stays, with its parameters and hooks
            layer.taken_from = quantizer
        _place(module, args["sites"], _STORED[args["activations"]])
    except AttributeError as exc:
        raise ValueError(f"the model has no layer for fake-quant: {exc}") from exc


def _place(module: nn.Module, sites: list[list[Any]], stored: torch.dtype) -> None:
    all_sites = _Sites()
    found: dict[tuple[str, str], _Site] = {}
    for name, path, side, call, calls in sites:
        owner, _, quantizer_name = name.rpartition(".")
        layer = module.get_submodule(owner)
        if not hasattr(layer, quantizer_name):
            weight = layer.weight
            assert isinstance(weight, torch.Tensor)
            layer.add_module(quantizer_name, FakeQuantizer().to(weight.device).train(layer.training))
        if (path, side) not in found:
            site = found[path, side] = _Site(calls)
            all_sites.sites.append(site)
            part = module.get_submodule(path)
            if side == "in":
                part.register_forward_pre_hook(site.before)
            else:
                part.register_forward_hook(site.after)
        quantizer = layer.get_submodule(quantizer_name)
        assert isinstance(quantizer, FakeQuantizer)
        quantizer.stored = stored
        found[path, side].quantizers[call] = quantizer
    module.register_forward_pre_hook(all_sites.begin, prepend=True)


class _Quantizer(FakeQuantizer):
    """The pair of ONNX operators that a fake quantizer stands for; it exports, and computes nothing."""

    scale: torch.Tensor
    zero: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = _onnx("QuantizeLinear", (x, self.scale, self.zero), self.stored, x)
        return _onnx("DequantizeLinear", (small, self.scale, self.zero), torch.float32, x)


class _Int8Layer:
    """A layer whose stored weight is s8, and its bias s32: what is mixed into a layer's class."""

    def wide(self, name: str) -> torch.Tensor | None:
        """The operator that gives the weight or the bias in float32."""
        stored: torch.Tensor | None = getattr(self, name)
        if stored is None or stored.is_floating_point():
            return stored
        given = (stored, getattr(self, f"{name}_scale"), getattr(self, f"{name}_zero"))
        return _onnx("DequantizeLinear", given, torch.float32, stored, axis=0)


class _Int8Conv1d(_Int8Layer, nn.Conv1d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.wide("weight")
        assert weight is not None
        y: torch.Tensor = self._conv_forward(x, weight, self.wide("bias"))
        return y


class _Int8Conv2d(_Int8Layer, nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.wide("weight")
        assert weight is not None
        y: torch.Tensor = self._conv_forward(x, weight, self.wide("bias"))
        return y


class _Int8Linear(_Int8Layer, nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.wide("weight")
        assert weight is not None
        return functional.linear(x, weight, self.wide("bias"))


_INT8: dict[type[nn.Module], type[nn.Module]] = {
    FakeQuantConv1d: _Int8Conv1d,
    FakeQuantConv2d: _Int8Conv2d,
    FakeQuantLinear: _Int8Linear,
}


@torch.no_grad()
def int8_graph(module: nn.Module) -> nn.Module:
    """A copy that exports to ONNX as the int8 model which ``module`` simulates; any other as it is.

    Its weights are s8 tensors, and QuantizeLinear and DequantizeLinear stand where activations are
    rounded, so a runtime computes between them in int8. It cannot be run by torch.
    """
    if not any(type(part) in _INT8 for part in module.modules()):
        return module
    made = copy.deepcopy(module)
    for part in made.modules():
        if type(part) in _INT8:
            name = part.taken_from
            given = made.get_submodule(name) if isinstance(name, str) else None
            assert given is None or isinstance(given, FakeQuantizer)
            _store_int8(part, None if given is None else given.quantization()[0])
    for part in made.modules():
        if isinstance(part, FakeQuantizer):
            scale, zero = part.quantization()
            part.register_buffer("scale", scale)
            shift = 128 if part.stored is torch.int8 else 0
            part.register_buffer("zero", (zero - shift).to(part.stored))
            part.__class__ = _Quantizer
    return made


def _store_int8(layer: nn.Module, taken: torch.Tensor | None) -> None:
    """Turn a layer's tensors into whole numbers; ``taken`` is the scale of what it takes, if it has one.

    A bias is kept on the grid of the sums, which kernels ask for; in float where it does not fit.
    """
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor)
    scale = weight_scale(weight)
    steps = weight / scale.view(-1, *(1,) * (weight.ndim - 1))
    del layer.weight
    stored = steps.round().clamp(-WEIGHT_MAX, WEIGHT_MAX).to(torch.int8)
    _set_stored(layer, "weight", stored, scale)
    if taken is not None and isinstance(bias, torch.Tensor):
        counts = (bias.double() / (scale * taken)).round()
        if counts.abs().max() < _INT32_MAX:
            del layer.bias
            _set_stored(layer, "bias", counts.to(torch.int32), scale * taken)
    layer.__class__ = _INT8[type(layer)]


def _set_stored(layer: nn.Module, name: str, stored: torch.Tensor, scale: torch.Tensor) -> None:
    layer.register_buffer(name, stored)
    layer.register_buffer(f"{name}_scale", scale)
    layer.register_buffer(f"{name}_zero", torch.zeros(len(scale), dtype=stored.dtype))


def _onnx(
    name: str, inputs: tuple[torch.Tensor, ...], dtype: torch.dtype, like: torch.Tensor, **attrs: Any
) -> torch.Tensor:
    """An ONNX operator that the exporter puts into the graph as it is."""
    made: torch.Tensor = torch.onnx.ops.symbolic(name, inputs, attrs, dtype=dtype, shape=like.shape)
    return made
