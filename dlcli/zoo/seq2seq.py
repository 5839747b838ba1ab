"""`seq2seq`: an encoder-decoder Transformer that translates one text into another.

B samples, S source tokens, T target tokens, D the width, V the target vocabulary.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import nn

from dlcli.task import PAD, PairsInput, TaskSpec
from dlcli.zoo.attention import (
    Attention,
    Encoder,
    EncoderArgs,
    PositionName,
    Positions,
    StepNorm,
    feed_forward,
    pad_mask,
)
from dlcli.zoo.base import ModelEntry, register
from dlcli.zoo.layers import mask_of

# START and END around a target's own tokens.
_MARKS = 2


class Seq2seqArgs(EncoderArgs):
    """An encoder of ``layers`` blocks and a decoder of as many (or ``decoder_layers``).

    ``tie``: the target's embeddings are also the weights of the output layer.
    """

    decoder_layers: int | None = Field(None, ge=1)
    positions: PositionName = "sinusoidal"
    tie: bool = True


class DecoderBlock(nn.Module):
    """A decoder block: causal self-attention, cross-attention to the encoder, and a perceptron."""

    def __init__(self, args: EncoderArgs, *, rotary: bool) -> None:
        super().__init__()
        self.norm_first = args.norm_first
        self.attention = Attention(args.dim, args.heads, dropout=args.dropout, rotary=rotary)
        # Distances between two texts mean nothing, so nothing is rotated here.
        self.reading = Attention(args.dim, args.heads, dropout=args.dropout)
        self.feed = feed_forward(args)
        self.norms = nn.ModuleList(StepNorm(args.norm, args.dim) for _ in range(3))
        self.drop = nn.Dropout(args.dropout)

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        """Decoder steps (B, T, D), encoder outputs (B, S, D), and their mask (B, 1, T, S).

        ``valid`` (B, T) are the written steps that are no padding.
        """
        first, second, third = self.norms
        if self.norm_first:
            x = x + self.drop(self.attention(first(x, valid), causal=True))
            x = x + self.drop(self.reading(second(x, valid), memory, mask=mask))
            x = x + self.drop(self.feed(third(x, valid)))
            return x
        x = first(x + self.drop(self.attention(x, causal=True)), valid)
        x = second(x + self.drop(self.reading(x, memory, mask=mask)), valid)
        y: torch.Tensor = third(x + self.drop(self.feed(x)), valid)
        return y


class Output(nn.Module):
    """Steps (B, T, D) to logits (B, T, V), with its own weights or those of an embedding."""

    def __init__(self, dim: int, vocab_size: int, *, tie: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.weight = None if tie else nn.Parameter(torch.randn(vocab_size, dim) * 0.02)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """``embedding`` (V, D) is what a tied layer uses; it is no parameter of this one."""
        return nn.functional.linear(x, embedding if self.weight is None else self.weight, self.bias)


class Seq2seq(nn.Module):
    """Source ids (B, S), lengths (B,) and a prefix (B, T) that begins with START, to (B, T, V).

    Vaswani et al., arXiv:1706.03762; weights of the output tied as in Press and Wolf,
    arXiv:1608.05859. Output t predicts the token after prefix t, and sees nothing later: so the
    padded end of a prefix needs no mask, and training asks about all steps at once.
    """

    def __init__(self, spec: PairsInput, args: Seq2seqArgs) -> None:
        super().__init__()
        dim, rotary = args.dim, args.positions == "rotary"
        self.scale = math.sqrt(dim)
        self.source = nn.Embedding(spec.source.vocab_size, dim, padding_idx=PAD)
        self.target = nn.Embedding(spec.target.vocab_size, dim, padding_idx=PAD)
        for table in (self.source, self.target):
            # Small for the output layer, and of the positions' size once it is scaled up.
            nn.init.normal_(table.weight, std=0.5 / self.scale)
        self.source_positions = Positions(args.positions, dim, spec.source.max_length + _MARKS)
        self.target_positions = Positions(args.positions, dim, spec.target.max_length + _MARKS)
        self.drop = nn.Dropout(args.dropout)
        self.encoder = Encoder(args, rotary=rotary)
        self.decoder = nn.ModuleList(
            DecoderBlock(args, rotary=rotary) for _ in range(args.decoder_layers or args.layers)
        )
        self.norm = StepNorm(args.norm if args.norm_first else "none", dim)
        self.head = Output(dim, spec.target.vocab_size, tie=args.tie)

    def forward(self, source: torch.Tensor, lengths: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        """(B, S), (B,), (B, T) -> (B, T, V)."""
        valid = mask_of(lengths, source.shape[1])
        memory = self.drop(self.source_positions(self.source(source) * self.scale))
        memory = self.encoder(memory, valid)
        x = self.drop(self.target_positions(self.target(prefix) * self.scale))
        mask, written = pad_mask(valid, x), prefix != PAD
        for block in self.decoder:
            x = block(x, memory, mask, written)
        logits: torch.Tensor = self.head(self.norm(x, written), self.target.weight)
        return logits


def build(task: TaskSpec, args: Seq2seqArgs) -> nn.Module:
    """The model for two vocabularies."""
    assert isinstance(task.input, PairsInput)
    return Seq2seq(task.input, args)


register(
    ModelEntry(
        name="seq2seq",
        kind="pairs",
        build=build,
        head=lambda module: "head",
        tasks=("seq2seq",),
        args=Seq2seqArgs,
        recipe={
            "optim": {"lr": 1e-3, "clip_grad_norm": 1.0},
            "loss": {"label_smoothing": 0.1},
            "fit": {"epochs": 20, "batch_size": 64},
        },
        summary="encoder-decoder Transformer for pairs of texts",
    )
)
