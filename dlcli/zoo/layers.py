"""Layers that models share: activations, norms and poolings by name, masks, initial weights.

B samples, C channels or features, T steps, (H, W) pixels. ``lengths`` (B,) int64 are the true numbers
of steps, at least 1, or None where all T are true; what is after a sample's end never affects an
output. Everything here exports to ONNX with a dynamic batch and length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import nn
from torch.nn import functional

from dlcli.errors import UsageError

PoolName = Literal["max", "avg", "adaptive"]  # halves an image
StepPoolName = Literal["last", "mean", "max"]  # takes the steps together


class LearnableSwish(nn.Module):
    """x sigmoid(beta x) with a trained beta, 1 at first (Ramachandran et al., arXiv:1710.05941)."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, to the same."""
        return x * torch.sigmoid(self.beta * x)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "learnable_swish": LearnableSwish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
ACTIVATIONS = tuple(_ACTIVATIONS)
NORMS = ("batch", "layer", "group", "none")
_SATURATING = ("tanh", "sigmoid")
_GROUPS = 8


def _check_activation(name: str) -> str:
    """Raises: PydanticCustomError, which is a ValueError, for a name that `activation` does not know."""
    kind, _, slope = name.partition(":")
    if name not in ACTIVATIONS and not (kind == "leaky_relu" and _number(slope, float) is not None):
        raise PydanticCustomError(
            "activation", f"one of {', '.join(ACTIVATIONS)}; leaky_relu:0.2 has that negative slope"
        )
    return name


def _check_norm(name: str) -> str:
    """Raises: PydanticCustomError for a name that the norms below do not know."""
    kind, _, groups = name.partition(":")
    if name not in NORMS and not (kind == "group" and (_number(groups, int) or 0) > 0):
        raise PydanticCustomError("norm", f"one of {', '.join(NORMS)}; group:4 has 4 groups")
    return name


def _number(text: str, kind: Callable[[str], float]) -> float | None:
    try:
        return kind(text)
    except ValueError:
        return None


# A name, or leaky_relu:0.2 with its slope; swish is silu. A name, or group:4 with the number of groups.
ActivationName = Annotated[str, AfterValidator(_check_activation)]
NormName = Annotated[str, AfterValidator(_check_norm)]


def activation(name: ActivationName) -> nn.Module:
    """A fresh activation module."""
    kind, _, slope = name.partition(":")
    return nn.LeakyReLU(float(slope)) if slope else _ACTIVATIONS[kind]()


def norm1d(name: NormName, channels: int) -> nn.Module:
    """A norm of features (B, C), or of (B, C, T) where all steps are valid."""
    if name == "batch":
        return nn.BatchNorm1d(channels)
    return _channel_norm(name, channels)


def norm2d(name: NormName, channels: int) -> nn.Module:
    """A norm of feature maps (B, C, H, W); "layer" is over the channels of each pixel."""
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name.startswith("group"):
        return nn.GroupNorm(_num_groups(name, channels), channels)
    return _channel_norm(name, channels)


def norm_steps(name: NormName, channels: int) -> nn.Module:
    """A norm of padded steps (B, C, T), called through `normalise`.

    "layer" and "group" look at one step alone: over all steps, as nn.GroupNorm does it, the padding
    would count.
    """
    if name == "batch":
        return StepBatchNorm(channels)
    return _channel_norm(name, channels)


def normalise(norm: nn.Module, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Apply a norm of `norm_steps` to (B, C, T); ``mask`` (B, 1, T) is True at valid steps."""
    out: torch.Tensor = norm(x, mask) if isinstance(norm, StepBatchNorm) else norm(x)
    return out


def _channel_norm(name: NormName, channels: int) -> nn.Module:
    if name == "none":
        return nn.Identity()
    return ChannelNorm(channels, _num_groups(name, channels) if name.startswith("group") else 1)


def _num_groups(name: NormName, channels: int) -> int:
    """The groups of a group norm: as given, else 8 or what divides the channels. Raises: UsageError."""
    groups = name.partition(":")[2]
    if not groups:
        return math.gcd(channels, _GROUPS)
    if channels % int(groups):
        raise UsageError(
            f"model.args.norm = {name}: {channels} channels cannot be divided into {groups} groups",
            hint="give a number that divides all widths of the model",
        )
    return int(groups)


class ChannelNorm(nn.Module):
    """Layer norm (arXiv:1607.06450) over groups of the channels (B, C, ...), position by position."""

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, to the same."""
        x = x.movedim(1, -1)
        parts = x.reshape(*x.shape[:-1], self.groups, -1)  # (B, ..., G, C/G)
        normed = functional.layer_norm(parts, parts.shape[-1:]).flatten(-2)
        return (normed * self.weight + self.bias).movedim(-1, 1)


class StepBatchNorm(nn.BatchNorm1d):
    """Batch norm (arXiv:1502.03167) of steps (B, C, T) whose statistics leave the padding out."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """``mask`` (B, 1, T) is True at valid steps; it matters while training."""
        if not self.training or mask is None:
            return super().forward(x)
        true = mask.to(x.dtype)
        count = true.sum()
        mean = (x * true).sum((0, 2)) / count
        centred = x - mean[:, None]
        var = (centred.square() * true).sum((0, 2)) / count
        if self.track_running_stats:
            self._remember(mean.detach(), var.detach() * count / (count - 1).clamp(min=1))
        scale = self.weight * (var + self.eps).rsqrt()
        return centred * scale[:, None] + self.bias[:, None]

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # Without a momentum it is the mean over all batches, as in torch's own layers.
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(var.to(self.running_var.dtype), share)


def pool2d(name: PoolName, size: tuple[int, int]) -> nn.Module:
    """The pooling layer that halves a map of ``size`` (H, W), 2 at least.

    "adaptive" averages to half the side rounded up, so that an odd map loses no border.
    """
    if name == "max":
        return nn.MaxPool2d(2)
    if name == "avg":
        return nn.AvgPool2d(2)
    return nn.AdaptiveAvgPool2d(((size[0] + 1) // 2, (size[1] + 1) // 2))


def mask_of(lengths: torch.Tensor, steps: int) -> torch.Tensor:
    """Bool (B, T): true where a step is a sample's own."""
    return torch.arange(steps, device=lengths.device)[None, :] < lengths[:, None]


def last_step(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """(B, T, C) to (B, C) of each sample's last valid step."""
    if lengths is None:
        return x[:, -1]
    where = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, x.shape[2])
    return x.gather(1, where).squeeze(1)


def mean_steps(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """(B, T, C) to the mean (B, C) of the valid steps."""
    if lengths is None:
        return x.mean(1)
    mask = mask_of(lengths, x.shape[1]).unsqueeze(2)
    return torch.where(mask, x, 0.0).sum(1) / lengths.clamp(min=1).unsqueeze(1).to(x.dtype)


def max_steps(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """(B, T, C) to the largest (B, C) of the valid steps."""
    if lengths is None:
        return x.amax(1)
    # The first step is always true; a huge negative filler would spoil the ranges of quantization.
    mask = mask_of(lengths, x.shape[1]).unsqueeze(2)
    return torch.where(mask, x, x[:, :1]).amax(1)


def pool_steps(x: torch.Tensor, lengths: torch.Tensor | None, how: StepPoolName) -> torch.Tensor:
    """(B, T, C) to (B, C) by name."""
    if how == "last":
        return last_step(x, lengths)
    return mean_steps(x, lengths) if how == "mean" else max_steps(x, lengths)


def flip_steps(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """(B, T, C) with each sample's valid steps in the reverse order; its padding stays in place.

    Doing it twice gives ``x`` again.
    """
    if lengths is None:
        return x.flip(1)
    steps = torch.arange(x.shape[1], device=x.device)[None, :]
    back = lengths[:, None] - 1 - steps
    where = torch.where(back >= 0, back, steps.expand_as(back))
    return x.gather(1, where.unsqueeze(2).expand(-1, -1, x.shape[2]))


class StepConv(nn.Module):
    """Convolution over steps, norm, activation, dropout; steps after a sample's end come out 0.

    ``wide`` pads by kernel - 1 on both sides, so T becomes T + kernel - 1 and the shortest sample
    still meets the whole kernel; otherwise T stays, which needs an odd kernel.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        *,
        activation_name: ActivationName,
        norm: NormName,
        dropout: float,
        wide: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, width, kernel, padding=kernel - 1 if wide else kernel // 2)
        self.norm = norm_steps(norm, width)
        self.activation = activation(activation_name)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, C, T), which is 0 after each end, to (B, width, T'); ``mask`` is (B, 1, T') or None."""
        x = normalise(self.norm, self.conv(x), mask)
        x = self.dropout(self.activation(x))
        return x if mask is None else torch.where(mask, x, 0.0)


def init_body(module: nn.Module, name: ActivationName) -> None:
    """Initialise every convolution and linear layer in ``module``; biases 0.

    N(0, gain^2 / fan_in), which keeps the size of activations from layer to layer: gain sqrt 2 for
    the relu-like ones (He et al., arXiv:1502.01852), 1 for tanh and sigmoid.
    """
    gain = 1.0 if name in _SATURATING else math.sqrt(2.0)
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.normal_(part.weight, std=gain / math.sqrt(part.weight[0].numel()))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def init_head(head: nn.Linear) -> None:
    """Initialise a last layer: N(0, 0.01 / fan_in) and 0.

    Outputs for features of size 1 are then about 0.1: a classifier's loss starts near ln(classes), a
    regression starts at the training mean.
    """
    nn.init.normal_(head.weight, std=0.1 / math.sqrt(head.in_features))
    if head.bias is not None:
        nn.init.zeros_(head.bias)
