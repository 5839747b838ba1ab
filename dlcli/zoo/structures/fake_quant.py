"""Int8 inference simulated in float while a model trains (fake quantization): kind "fake-quant".

Weights of convolutions and linear layers are rounded to s8, symmetric, with a scale for each output
channel; activations to 8 bits with one scale and zero point a tensor, whose range follows what training
shows (Jacob et al., arXiv:1712.05877). Gradients pass straight through the rounding, except where a
value is clipped. `dlcli.formats.onnx.int8_graph` exports what is simulated.

args: ``activations``, "u8" or "s8": how a file stores them, which changes no value; ``layers``, [path,
quantizer of its input] of each layer with rounded weights; ``sites``, where activations are rounded:
[quantizer, module, side, call, calls], the quantizer "LAYER.quant_in" or "LAYER.quant_out", side "in" or
"out" of the call number ``call`` of that module, which is called ``calls`` times in a forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dlcli import transforms
from dlcli.zoo.replay import STRUCTURES

LOWEST, HIGHEST = 0, 255  # of an activation; s8 stores 128 less
WEIGHT_MAX = 127  # of an s8 weight; -128 is left out, so that 0 is in the middle
_MOMENTUM = 0.01  # of the running ranges, in each forward pass of training
_MIN_SCALE = 1e-7
_STORED = {"u8": torch.uint8, "s8": torch.int8}


class FakeQuantizer(nn.Module):
    """Rounds a tensor to 8 bits and back; ``low`` and ``high`` (float32 scalars) are its range.

    The range includes 0. It is a running average of the extremes in train mode; in ``observing`` mode,
    for calibration, it only widens.
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
        scale = ((self.high - self.low) / (HIGHEST - LOWEST)).clamp(min=_MIN_SCALE)
        zero = LOWEST - (self.low / scale).round().clamp(LOWEST - HIGHEST, 0)
        return scale, zero.to(torch.int32)

    @torch.no_grad()
    def _observe(self, x: torch.Tensor) -> None:
        low, high = x.aminmax()
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        if self.observing:
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
            self.low.copy_(low)
            self.high.copy_(high)
        else:
            self.low.lerp_(low, _MOMENTUM)
            self.high.lerp_(high, _MOMENTUM)


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


FAKE_QUANT_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: FakeQuantConv1d,
    nn.Conv2d: FakeQuantConv2d,
    nn.Linear: FakeQuantLinear,
}


def can_quantize(layer: nn.Module) -> bool:
    """Whether a layer's weight can be rounded: subclasses may compute in other ways."""
    return type(layer) in FAKE_QUANT_LAYERS


def weight_scale(weight: torch.Tensor) -> torch.Tensor:
    """The scale (K,) of each output channel of a weight (K, ...)."""
    return (weight.detach().flatten(1).abs().amax(1) / WEIGHT_MAX).clamp(min=_MIN_SCALE)


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """A weight (K, ...) as it will be after s8, in float32; differentiable."""
    scale = weight_scale(weight)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    if torch.compiler.is_exporting():
        wide = scale.view(-1, *(1,) * (weight.ndim - 1))
        return _rounded(weight, wide, 0, -WEIGHT_MAX, WEIGHT_MAX)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -WEIGHT_MAX, WEIGHT_MAX)


def _rounded(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | int, low: int, high: int
) -> torch.Tensor:
    """Fake quantization without a gradient, for torch.export, which lacks it with a tensor as scale."""
    return (((x * (1 / scale)).round() + zero).clamp(low, high) - zero) * scale


class _Site:
    """Hooks that apply quantizers to the calls of one module, by their number in a forward pass."""

    def __init__(self, calls: int) -> None:
        self.calls, self.count = calls, 0
        self.quantizers: dict[int, FakeQuantizer] = {}

    def _next(self) -> FakeQuantizer | None:
        quantizer = self.quantizers.get(self.count)
        self.count = (self.count + 1) % self.calls
        return quantizer

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        quantizer = self._next()
        return None if quantizer is None else (quantizer(args[0]), *args[1:])

    def after(self, module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor | None:
        quantizer = self._next()
        return None if quantizer is None else quantizer(output)


class _Sites:
    """Resets the call counts of all sites before a forward pass: the last one may have failed midway."""

    def __init__(self) -> None:
        self.sites: list[_Site] = []

    def begin(self, module: nn.Module, args: object) -> None:
        for site in self.sites:
            site.count = 0


@STRUCTURES.register(transforms.FAKE_QUANT)
def replay(module: nn.Module, args: dict[str, Any]) -> None:
    """Insert the fake quantizers of a record. Raises: ValueError where the model has no such layers."""
    try:
        for path, quantizer in args["layers"]:
            layer = module.get_submodule(path)
            if not can_quantize(layer):
                raise ValueError(f"{path} has no weight that can be fake-quantized")
            layer.__class__ = FAKE_QUANT_LAYERS[
                type(layer)
            ]  # the object stays, with its parameters and hooks
            layer.input_quantizer = quantizer
        _insert(module, args["sites"], _STORED[args["activations"]])
    except AttributeError as exc:
        raise ValueError(f"the model has no layer for fake-quant: {exc}") from exc


def _insert(module: nn.Module, sites: list[list[Any]], stored: torch.dtype) -> None:
    all_sites = _Sites()
    by_side: dict[tuple[str, str], _Site] = {}
    for name, path, side, call, calls in sites:
        owner, _, quantizer_name = name.rpartition(".")
        layer = module.get_submodule(owner)
        if not hasattr(layer, quantizer_name):
            weight = layer.weight
            assert isinstance(weight, torch.Tensor)
            layer.add_module(quantizer_name, FakeQuantizer().to(weight.device).train(layer.training))
        if (path, side) not in by_side:
            site = by_side[path, side] = _Site(calls)
            all_sites.sites.append(site)
            submodule = module.get_submodule(path)
            if side == "in":
                submodule.register_forward_pre_hook(site.before)
            else:
                submodule.register_forward_hook(site.after)
        quantizer = layer.get_submodule(quantizer_name)
        assert isinstance(quantizer, FakeQuantizer)
        quantizer.stored = stored
        by_side[path, side].quantizers[call] = quantizer
    module.register_forward_pre_hook(all_sites.begin, prepend=True)
