"""A small Vision Transformer: patches of an image as tokens.

B images, C channels of height x width pixels, N patches, D the width.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dlcli.data.kinds import ModelNeeds
from dlcli.errors import UsageError
from dlcli.task import ImageInput, TaskSpec
from dlcli.zoo.attention import EncoderArgs, PositionName, head
from dlcli.zoo.base import SEARCH_WITH_DROPOUT, ModelEntry, register
from dlcli.zoo.transformer import Pooled

_PATCHES = (4, 8, 16)
_FEW = 100  # the smallest patch that makes at most so many tokens: attention is slow on a CPU


class VitArgs(EncoderArgs):
    """``patch`` pixels a side (default: 4, 8 or 16, by the image's size), then a pre-norm encoder."""

    layers: int = Field(6, ge=1)
    heads: int = Field(3, ge=1)
    dim: int = Field(192, ge=2)
    ff: int = Field(384, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    patch: int | None = Field(None, ge=1)
    positions: PositionName = "learned"
    pooling: Literal["mean", "max", "cls"] = "mean"


class Vit(nn.Module):
    """Images (B, C, H, W) to (B, outputs).

    Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929, with the width of DeiT-tiny
    (arXiv:2012.12877), half its depth, and the mean of the patches instead of a class token (Beyer et
    al., arXiv:2205.01580).
    """

    def __init__(self, spec: ImageInput, outputs: int, args: VitArgs) -> None:
        super().__init__()
        patch = args.patch or default_patch(spec.height, spec.width)
        if spec.height % patch or spec.width % patch:
            near = max(1, round(spec.height / patch)) * patch
            raise UsageError(
                f"model.args.patch = {patch} does not divide images of {spec.height}x{spec.width}",
                hint=f"--img-size {near}, or another patch",
            )
        self.embed = nn.Conv2d(spec.channels, args.dim, patch, patch)
        tokens = (spec.height // patch) * (spec.width // patch)
        self.body = Pooled(args, args.positions, args.pooling, tokens)
        self.drop = nn.Dropout(args.dropout)
        self.head = head(args.dim, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, outputs)."""
        tokens = self.embed(x).flatten(2).transpose(1, 2)  # (B, N, D)
        y: torch.Tensor = self.head(self.drop(self.body(tokens, None)))
        return y


def default_patch(height: int, width: int) -> int:
    """The smallest patch that divides the image into few tokens, else the largest that divides it."""
    fits = [p for p in _PATCHES if height % p == 0 and width % p == 0] or [_PATCHES[0]]
    return next((p for p in fits if height * width // p**2 <= _FEW), fits[-1])


def build(task: TaskSpec, args: VitArgs) -> nn.Module:
    """The model for a task's input shape and outputs."""
    assert isinstance(task.input, ImageInput)
    return Vit(task.input, task.num_outputs, args)


register(
    ModelEntry(
        name="vit-tiny",
        kind="image",
        build=build,
        head=lambda module: "head",
        args=VitArgs,
        recipe={
            "optim": {"lr": 1e-3, "weight_decay": 0.05, "clip_grad_norm": 1.0},
            "fit": {"epochs": 20, "batch_size": 64},
        },
        recipes={
            "classification": {"loss": {"label_smoothing": 0.1}},
            "multilabel": {"loss": {"label_smoothing": 0.1}},
        },
        needs=ModelNeeds(photo_size=96, min_size=8, size_multiple=4),
        search=SEARCH_WITH_DROPOUT,
        summary="patch transformer for images, any size that is a multiple of 4",
    )
)
