"""A multi-layer perceptron over flattened pixels: linear, batch norm, ReLU, dropout, per layer."""

from __future__ import annotations

import math

import torch
from pydantic import Field, PositiveInt
from torch import nn

from dlcli.card import Frozen, TaskSpec
from dlcli.zoo.base import MODELS, ModelEntry


class MlpArgs(Frozen):
    """``widths`` of the hidden layers, ``dropout`` after each, ``batch_norm`` in each."""

    widths: tuple[PositiveInt, ...] = (256, 128)
    dropout: float = Field(0.1, ge=0, lt=1)
    batch_norm: bool = True


class Mlp(nn.Module):
    """(N, C, H, W) float32 to (N, num_classes) logits."""

    def __init__(self, features: int, num_classes: int, args: MlpArgs) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in args.widths:
            layers.append(nn.Linear(features, width))
            if args.batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers += [nn.ReLU(), nn.Dropout(args.dropout)]
            features = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, num_classes)."""
        logits: torch.Tensor = self.head(self.body(x.flatten(1)))
        return logits


def build(task: TaskSpec, args: MlpArgs) -> nn.Module:
    """The net for a task's input shape and classes."""
    return Mlp(math.prod(task.input.shape), task.num_classes, args)


MODELS.register("mlp")(
    ModelEntry(name="mlp", build=build, head=lambda module: "head", args=MlpArgs, photo_size=32)
)
