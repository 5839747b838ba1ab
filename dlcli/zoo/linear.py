"""Logistic or linear regression: the baseline that a deeper model must beat.

B samples, F features. One linear layer over flattened pixels, or over the numbers of a row with each
category one-hot; for text, over the mean of the words' vectors (a bag of words of low rank, as in
Joulin et al., arXiv:1607.01759). First weights: `init_head`. The linear models of series, forecasts
above all, are in `forecasters`.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import nn

from dlcli.data.kinds import ModelNeeds
from dlcli.task import Frozen, TabularInput, TaskSpec, TextInput
from dlcli.zoo.base import ModelEntry, register
from dlcli.zoo.layers import StepPoolName, init_head, pool_steps
from dlcli.zoo.token_embedding import TokenEmbedding


class LinearArgs(Frozen):
    """``dropout`` of the features."""

    dropout: float = Field(0.0, ge=0, lt=1)


class BagArgs(Frozen):
    """``dim`` of a word's vector, ``dropout`` of the vectors, ``pooling`` of a text's vectors.

    ``token_dropout`` is the share of words that count as unknown while training.
    """

    dim: int = Field(128, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    token_dropout: float = Field(0.05, ge=0, lt=1)
    pooling: StepPoolName = "mean"


class Linear(nn.Module):
    """Anything that flattens to (B, F), to (B, outputs)."""

    def __init__(self, features: int, outputs: int, args: LinearArgs) -> None:
        super().__init__()
        self.dropout = nn.Dropout(args.dropout)
        self.head = nn.Linear(features, outputs)
        init_head(self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, outputs)."""
        output: torch.Tensor = self.head(self.dropout(x.flatten(1)))
        return output


class TabularLinear(Linear):
    """Columns (B, F + K) of `TabularInput` to (B, outputs)."""

    def __init__(self, spec: TabularInput, outputs: int, args: LinearArgs) -> None:
        self.features = spec.features
        self.codes = tuple(column.codes for column in spec.categories)
        super().__init__(spec.features + sum(self.codes), outputs, args)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """(B, F + K) -> (B, outputs)."""
        parts = [columns[:, : self.features]]
        for i, count in enumerate(self.codes, self.features):
            every = torch.arange(count, device=columns.device, dtype=columns.dtype)
            parts.append((columns[:, i : i + 1] == every).to(columns.dtype))  # (B, codes)
        return super().forward(torch.cat(parts, dim=1))


class Bag(nn.Module):
    """Token ids (B, T) and lengths (B,) to (B, outputs)."""

    def __init__(self, spec: TextInput, outputs: int, args: BagArgs) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(
            spec.vocab_size, args.dim, dropout=args.dropout, token_dropout=args.token_dropout
        )
        self.pooling = args.pooling
        self.head = nn.Linear(args.dim, outputs)
        init_head(self.head)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, outputs)."""
        output: torch.Tensor = self.head(pool_steps(self.embedding(tokens), lengths, self.pooling))
        return output


def build_image(task: TaskSpec, args: LinearArgs) -> nn.Module:
    """The layer for a task's image size and outputs."""
    return Linear(math.prod(d for d in task.input.shape), task.num_outputs, args)


def build_tabular(task: TaskSpec, args: LinearArgs) -> nn.Module:
    """The layer for a task's columns and outputs."""
    assert isinstance(task.input, TabularInput)
    return TabularLinear(task.input, task.num_outputs, args)


def build_text(task: TaskSpec, args: BagArgs) -> nn.Module:
    """The bag of words for a task's vocabulary and outputs."""
    assert isinstance(task.input, TextInput)
    return Bag(task.input, task.num_outputs, args)


register(
    ModelEntry(
        name="linear",
        build=build_image,
        head=lambda module: "head",
        args=LinearArgs,
        needs=ModelNeeds(photo_size=32),
        summary="logistic or linear regression on flattened pixels",
    )
)
register(
    ModelEntry(
        name="linear",
        kind="tabular",
        build=build_tabular,
        head=lambda module: "head",
        args=LinearArgs,
        recipe={
            "optim": {"lr": 1e-2},
            "fit": {"epochs": 20, "batch_size": 64, "min_steps": 300},
        },
        summary="logistic or linear regression on numbers and one-hot categories",
    )
)
register(
    ModelEntry(
        name="linear",
        kind="text",
        build=build_text,
        head=lambda module: "head",
        args=BagArgs,
        word_vectors="dim",
        recipe={"optim": {"lr": 1e-2}, "fit": {"epochs": 20, "batch_size": 64}},
        summary="a linear layer on the mean of the words' vectors",
    )
)
