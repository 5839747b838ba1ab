"""Encoders of texts with published weights: the BERT, RoBERTa and DistilBERT families.

Devlin et al., arXiv:1810.04805; Liu et al., arXiv:1907.11692; Sanh et al., arXiv:1910.01108. One module
serves all three, as the zoo's own `Encoder` with post-norm blocks: `dlcli.zoo.snapshots` maps their
configurations to its arguments and their tensors to its names. B texts, T tokens, D the width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from dlcli.task import TaskSpec, TextInput
from dlcli.zoo.attention import Encoder, EncoderArgs, Positions, head
from dlcli.zoo.base import ModelEntry, register
from dlcli.zoo.heads import HeadArgs, replace_head
from dlcli.zoo.layers import ActivationName, mask_of, mean_steps
from dlcli.zoo.snapshots import read_snapshot

# Devlin et al., appendix A.3, with one epoch more: GLUE has larger sets than most here.
RECIPE: dict[str, Any] = {
    "optim": {
        "lr": 5e-5,
        "weight_decay": 0.01,
        "scheduler": "linear",
        "warmup": 0.1,
        "clip_grad_norm": 1.0,
    },
    "fit": {"epochs": 5, "batch_size": 32},
}


class BertArgs(HeadArgs):
    """The structure, which the weights' own configuration gives; by default that of BERT base.

    ``vocab`` rows of the token embedding, ``positions`` the most tokens, ``types`` the rows of the
    segment embedding (0: none), ``norm_eps`` that of the layer norms.

    ``pooling``: the mean over all tokens, or "cls", the output of the first one. Published encoders
    without a task have no trained first token (MiniLM was tuned by the mean), hence the mean.
    ``head`` linear or mlp (hidden layers of ``hidden`` units, ``dropout`` after each).
    """

    vocab: int = Field(30_522, ge=1)
    layers: int = Field(12, ge=1)
    heads: int = Field(12, ge=1)
    dim: int = Field(768, ge=2)
    ff: int = Field(3_072, ge=1)
    positions: int = Field(512, ge=1)
    types: int = Field(2, ge=0)
    norm_eps: float = Field(1e-12, gt=0)
    activation: ActivationName = "gelu"
    dropout: float = Field(0.1, ge=0, lt=1)
    pooling: Literal["mean", "cls"] = "mean"


class BertBody(nn.Module):
    """Token ids (B, T), lengths (B,) and perhaps token types (B, T) to the pooled output (B, D)."""

    def __init__(self, args: BertArgs) -> None:
        super().__init__()
        self.pooling = args.pooling
        self.tokens = nn.Embedding(args.vocab, args.dim)
        self.types = nn.Embedding(args.types, args.dim) if args.types else None
        self.positions = Positions("learned", args.dim, args.positions)
        self.norm = nn.LayerNorm(args.dim, args.norm_eps)
        self.drop = nn.Dropout(args.dropout)
        blocks = EncoderArgs(
            layers=args.layers,
            heads=args.heads,
            dim=args.dim,
            ff=args.ff,
            dropout=args.dropout,
            activation=args.activation,
            norm_first=False,
        )
        self.encoder = Encoder(blocks, norm_eps=args.norm_eps, feed_dropout=False)
        for table in (self.tokens, self.types):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def forward(
        self, tokens: torch.Tensor, lengths: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, T), (B,) and (B, T) -> (B, D)."""
        x = self.tokens(tokens)
        if self.types is not None:
            # A text alone is all of the first segment.
            x = x + (self.types.weight[0] if types is None else self.types(types))
        x = self.encoder(self.drop(self.norm(self.positions(x))), mask_of(lengths, x.shape[1]))
        return x[:, 0] if self.pooling == "cls" else mean_steps(x, lengths)


class Bert(nn.Module):
    """Token ids (B, T), lengths (B,) and perhaps token types (B, T) to (B, outputs)."""

    def __init__(self, outputs: int, args: BertArgs) -> None:
        super().__init__()
        self.body = BertBody(args)
        self.drop = nn.Dropout(args.dropout)
        self.head = head(args.dim, outputs)

    def forward(
        self, tokens: torch.Tensor, lengths: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, T), (B,) and (B, T) -> (B, outputs)."""
        y: torch.Tensor = self.head(self.drop(self.body(tokens, lengths, types)))
        return y


def build(task: TaskSpec, args: BertArgs) -> nn.Module:
    """The encoder with a linear head.

    An embedding of the encoder's own width begins as the pooled output itself: with the weights of a
    sentence encoder, that is its embedding.
    """
    assert isinstance(task.input, TextInput)
    module = Bert(task.num_outputs, args)
    replace_head(module, "head", args, name="bert", dropout=args.dropout)
    if args.head == "linear" and task.kind == "embedding" and task.num_outputs == args.dim:
        nn.init.eye_(module.head.weight)
    return module


register(
    ModelEntry(
        name="bert",
        kind="text",
        build=build,
        head=lambda module: "head",
        args=BertArgs,
        recipe=RECIPE,
        snapshot=read_snapshot,
        summary="pretrained encoder, --weights FOLDER or a hub name: BERT, RoBERTa, DistilBERT",
    )
)
