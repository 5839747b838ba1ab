"""A small convolutional net: three conv-bn-relu-pool blocks, pooled to 3x3, and a two-layer head.

At (1, 28, 28) with 10 classes it has 98,666 parameters. It takes any size and 1 or 3 channels.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import nn

from dlcli.card import Frozen, TaskSpec
from dlcli.zoo.base import MODELS, ModelEntry


class CnnArgs(Frozen):
    """``widths`` of the blocks, ``hidden`` units of the head, ``dropout`` before its last layer."""

    widths: tuple[PositiveInt, ...] = Field((16, 32, 64), min_length=1)
    hidden: int = Field(128, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)


class Cnn(nn.Module):
    """(N, C, H, W) float32 to (N, num_classes) logits."""

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, args: CnnArgs) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        side = min(size)
        for width in args.widths:
            blocks += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            if side >= 2:  # an 8x8 digit would vanish in a deeper net
                blocks.append(nn.MaxPool2d(2))
                side //= 2
            channels = width
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * 9, args.hidden),
            nn.ReLU(),
            nn.Dropout(args.dropout),
            nn.Linear(args.hidden, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, num_classes)."""
        logits: torch.Tensor = self.head(self.pool(self.features(x)))
        return logits


def build(task: TaskSpec, args: CnnArgs) -> nn.Module:
    """The net for a task's input shape and classes."""
    channels, height, width = task.input.shape
    return Cnn(channels, (height, width), task.num_classes, args)


MODELS.register("cnn")(
    ModelEntry(name="cnn", build=build, head=lambda module: "head", args=CnnArgs, photo_size=96)
)
