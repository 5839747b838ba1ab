"""Convolutional models for images: ``cnn``, small, and ``cnn-vgg``, double blocks in the manner of VGG.

B images, C channels. ``cnn``: three conv-norm-activation-pool blocks, pooled to 3x3, and a two-layer
head; at (1, 28, 28) with 10 classes it has 98,666 parameters. ``cnn-vgg``: two 3x3 convolutions a
block (Simonyan and Zisserman, arXiv:1409.1556, with batch norm and global pooling), 1,148,618
parameters at (1, 28, 28). Both take any size and 1 or 3 channels. First weights: torch's own, which
learn Fashion-MNIST in 5 epochs to 91.6 % where N(0, 2 / fan_in) gave 90.8, and `init_head` for the last
layer.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt, field_validator
from pydantic_core import PydanticCustomError
from torch import nn

from dlcli.data.kinds import ModelNeeds
from dlcli.task import Frozen, ImageInput, TaskSpec
from dlcli.zoo.base import SEARCH_WITH_DROPOUT, ModelEntry, register
from dlcli.zoo.layers import (
    ActivationName,
    NormName,
    PoolName,
    activation,
    init_head,
    norm2d,
    pool2d,
)


class ConvArgs(Frozen):
    """What the blocks of both models share.

    ``kernel_size`` (odd), ``stride``, ``dilation`` and ``groups`` are `nn.Conv2d`'s; a convolution whose
    channels ``groups`` does not divide, as the first, has one group. ``dropout2d`` leaves whole channels
    out after each convolution (Tompson et al., arXiv:1411.4280).
    """

    dropout: float = Field(0.0, ge=0, lt=1)
    dropout2d: float = Field(0.0, ge=0, lt=1)
    activation: ActivationName = "relu"
    norm: NormName = "batch"
    pooling: PoolName = "max"
    kernel_size: int = Field(3, ge=1, le=15)
    stride: int = Field(1, ge=1, le=4)
    dilation: int = Field(1, ge=1, le=8)
    groups: int = Field(1, ge=1)

    @field_validator("kernel_size")
    @classmethod
    def _check_odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise PydanticCustomError("odd", "kernels have an odd size, such as 3 or 5")
        return size


class CnnArgs(ConvArgs):
    """``widths`` of the blocks, ``hidden`` units of the head, ``dropout`` before its last layer.

    ``pooling`` halves the image after each block.
    """

    widths: tuple[PositiveInt, ...] = Field((16, 32, 64), min_length=1)
    hidden: int = Field(128, ge=1)


class VggArgs(ConvArgs):
    """``widths`` of the double blocks; ``dropout`` before the last layer.

    ``pooling`` halves the image after each block but the last, ``global_pooling`` takes all pixels
    together after that.
    """

    widths: tuple[PositiveInt, ...] = Field((64, 128, 256), min_length=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    global_pooling: Literal["avg", "max"] = "avg"


class Cnn(nn.Module):
    """(B, C, H, W) float32 to (B, outputs)."""

    def __init__(self, spec: ImageInput, outputs: int, args: CnnArgs) -> None:
        super().__init__()
        channels: int = spec.channels
        size = (spec.height, spec.width)
        blocks: list[nn.Module] = []
        for width in args.widths:
            blocks += _conv(channels, width, args)
            size = _halve(blocks, _strided(size, args.stride), args.pooling)
            channels = width
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(3)
        last = nn.Linear(args.hidden, outputs)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * 9, args.hidden),
            activation(args.activation),
            nn.Dropout(args.dropout),
            last,
        )
        init_head(last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, outputs)."""
        output: torch.Tensor = self.head(self.pool(self.features(x)))
        return output


class Vgg(nn.Module):
    """(B, C, H, W) float32 to (B, outputs)."""

    def __init__(self, spec: ImageInput, outputs: int, args: VggArgs) -> None:
        super().__init__()
        channels: int = spec.channels
        size = (spec.height, spec.width)
        blocks: list[nn.Module] = []
        for i, width in enumerate(args.widths):
            blocks += _conv(channels, width, args) + _conv(width, width, args)
            size = _strided(size, args.stride**2)
            if i + 1 < len(args.widths):
                size = _halve(blocks, size, args.pooling)
            channels = width
        self.features = nn.Sequential(*blocks)
        self.global_pooling = args.global_pooling
        self.dropout = nn.Dropout(args.dropout)
        self.head = nn.Linear(channels, outputs)
        init_head(self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, outputs)."""
        x = self.features(x)
        x = x.mean((2, 3)) if self.global_pooling == "avg" else x.amax((2, 3))  # (B, C)
        output: torch.Tensor = self.head(self.dropout(x))
        return output


def _conv(channels: int, width: int, args: ConvArgs) -> list[nn.Module]:
    divides = channels % args.groups == 0 and width % args.groups == 0
    conv = nn.Conv2d(
        channels,
        width,
        args.kernel_size,
        stride=args.stride,
        padding=args.dilation * (args.kernel_size // 2),
        dilation=args.dilation,
        groups=args.groups if divides else 1,
    )
    norm = [] if args.norm == "none" else [norm2d(args.norm, width)]
    dropout = [nn.Dropout2d(args.dropout2d)] if args.dropout2d else []
    return [conv, *norm, activation(args.activation), *dropout]


def _strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """The size of a padded map after a stride: each side divided, rounded up."""
    return (-(-size[0] // stride), -(-size[1] // stride))


def _halve(blocks: list[nn.Module], size: tuple[int, int], pooling: PoolName) -> tuple[int, int]:
    """Append a pooling layer, unless nothing would be left, as of an 8x8 digit in a deep model."""
    if min(size) < 2:
        return size
    blocks.append(pool2d(pooling, size))
    up = 1 if pooling == "adaptive" else 0
    return ((size[0] + up) // 2, (size[1] + up) // 2)


def build_cnn(task: TaskSpec, args: CnnArgs) -> nn.Module:
    """The small model for a task's image size and outputs."""
    assert isinstance(task.input, ImageInput)
    return Cnn(task.input, task.num_outputs, args)


def build_vgg(task: TaskSpec, args: VggArgs) -> nn.Module:
    """The double blocks for a task's image size and outputs."""
    assert isinstance(task.input, ImageInput)
    return Vgg(task.input, task.num_outputs, args)


register(
    ModelEntry(
        name="cnn",
        build=build_cnn,
        head=lambda module: "head",
        args=CnnArgs,
        needs=ModelNeeds(photo_size=96),
        recipe={"fit": {"min_steps": 300}},
        search=SEARCH_WITH_DROPOUT,
        summary="three conv blocks and a two-layer head, about 100 K parameters",
    )
)
register(
    ModelEntry(
        name="cnn-vgg",
        build=build_vgg,
        head=lambda module: "head",
        args=VggArgs,
        needs=ModelNeeds(photo_size=64),
        recipe={
            "optim": {"lr": 2e-3, "weight_decay": 0.05},
            "fit": {"epochs": 20, "batch_size": 128},
        },
        recipes={
            "classification": {"loss": {"label_smoothing": 0.1}},
            "multilabel": {"loss": {"label_smoothing": 0.1}},
        },
        search=SEARCH_WITH_DROPOUT,
        summary="double conv blocks 64-128-256 and global pooling, 1.15 M parameters",
    )
)
