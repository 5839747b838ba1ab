"""A convolutional model for texts (Kim, arXiv:1408.5882): filters of several widths, max over time.

B texts, T tokens, D numbers a token. Vectors start at random and are trained. First weights:
`TokenEmbedding`, `init_body`, and `init_head` for the last layer.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import nn

from dlcli.task import Frozen, TaskSpec, TextInput
from dlcli.zoo.base import SEARCH_WITH_DROPOUT, ModelEntry, register
from dlcli.zoo.layers import (
    ActivationName,
    NormName,
    StepConv,
    StepPoolName,
    init_body,
    init_head,
    mask_of,
    pool_steps,
)
from dlcli.zoo.token_embedding import TokenEmbedding


class TextCnnArgs(Frozen):
    """``kernels`` are the widths in tokens, with ``filters`` each; ``dim`` is a token's vector.

    ``dropout`` is that of the pooled features, and half of it that of the vectors; ``token_dropout``
    the share of tokens that count as unknown while training.
    """

    dim: int = Field(128, ge=1)
    kernels: tuple[PositiveInt, ...] = Field((3, 4, 5), min_length=1)
    filters: int = Field(100, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    token_dropout: float = Field(0.05, ge=0, lt=1)
    activation: ActivationName = "relu"
    norm: NormName = "none"
    pooling: StepPoolName = "max"


class TextCnn(nn.Module):
    """Token ids (B, T) and lengths (B,) to (B, outputs)."""

    def __init__(self, spec: TextInput, outputs: int, args: TextCnnArgs) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(
            spec.vocab_size, args.dim, dropout=args.dropout / 2, token_dropout=args.token_dropout
        )
        self.kernels, self.pooling = args.kernels, args.pooling
        self.convs = nn.ModuleList(
            StepConv(
                args.dim,
                args.filters,
                kernel,
                activation_name=args.activation,
                norm=args.norm,
                dropout=0.0,
                wide=True,
            )
            for kernel in args.kernels
        )
        self.dropout = nn.Dropout(args.dropout)
        self.head = nn.Linear(args.filters * len(args.kernels), outputs)
        init_body(self.convs, args.activation)
        init_head(self.head)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, outputs)."""
        steps = tokens.shape[1]
        true = mask_of(lengths, steps).unsqueeze(2)
        x = torch.where(true, self.embedding(tokens), 0.0).transpose(1, 2)  # (B, D, T)
        pooled = []
        for kernel, conv in zip(self.kernels, self.convs, strict=True):
            # A wide convolution has an output wherever its kernel meets a true token.
            reach = lengths + (kernel - 1)
            mask = mask_of(reach, steps + kernel - 1).unsqueeze(1)
            pooled.append(pool_steps(conv(x, mask).transpose(1, 2), reach, self.pooling))
        output: torch.Tensor = self.head(self.dropout(torch.cat(pooled, dim=1)))
        return output


def build(task: TaskSpec, args: TextCnnArgs) -> nn.Module:
    """The model for a task's vocabulary and outputs."""
    assert isinstance(task.input, TextInput)
    return TextCnn(task.input, task.num_outputs, args)


register(
    ModelEntry(
        name="cnn",
        kind="text",
        build=build,
        head=lambda module: "head",
        args=TextCnnArgs,
        word_vectors="dim",
        # Some hundred texts need hundreds of steps. The rate is high early: at half of it, and with
        # onecycle's own warm-up of 0.3, the first four to eight of twenty epochs changed nothing.
        recipe={
            "optim": {"lr": 2e-3, "warmup": 0.1},
            "fit": {"epochs": 15, "batch_size": 64, "min_steps": 400},
        },
        search=SEARCH_WITH_DROPOUT,
        summary="filters of 3, 4 and 5 tokens and the most of each over the text",
    )
)
