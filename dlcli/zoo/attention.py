"""Layers of the Transformers: multi-head attention, positions, the encoder block.

B samples, T query steps, S key steps (S = T in self-attention), D the width,
H heads of D / H each. A mask is True where a step may be looked at.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import nn
from torch.nn import functional

from dlcli.task import Frozen
from dlcli.zoo.layers import (
    ActivationName,
    NormName,
    activation,
    init_head,
    norm_steps,
    normalise,
)

PositionName = Literal["sinusoidal", "learned", "rotary", "none"]

_LONGEST_WAVE = 10_000.0  # Vaswani et al.: wavelengths from 2 pi steps to this many times as much


class EncoderArgs(Frozen):
    """``layers`` blocks of ``heads`` heads, ``dim`` wide, with ``ff`` units inside.

    ``dropout`` is in the attention, inside the perceptrons, and after both.

    ``norm_first``: pre-norm blocks, which need no warm-up, else post-norm as in the paper.
    """

    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    dim: int = Field(128, ge=2)
    ff: int = Field(256, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    norm_first: bool = True
    activation: ActivationName = "gelu"
    norm: NormName = "layer"

    @field_validator("dim")
    @classmethod
    def _divisible(cls, dim: int, info: ValidationInfo) -> int:
        heads = info.data.get("heads", 1)
        if dim % (2 * heads):
            raise ValueError(f"must be a multiple of twice the heads, {2 * heads}")
        return dim


def pad_mask(valid: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Which of (B, S) steps are valid, as a mask (B, 1, T, S) for the T steps of ``queries`` (B, T, D).

    It is expanded: ONNX Runtime's Attention (opset 23) does not broadcast a mask (B, 1, 1, S).
    """
    return valid[:, None, None, :].expand(-1, 1, queries.shape[1], -1)


class Attention(nn.Module):
    """Multi-head attention of queries (B, T, D) to keys (B, S, D), to (B, T, D).

    Vaswani et al., "Attention Is All You Need", arXiv:1706.03762. Weights are drawn as
    `nn.MultiheadAttention` draws its own (Xavier over the three input maps together), and with the
    same weights it gives the same outputs. ``rotary`` turns queries and keys by their positions.
    """

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.0, rotary: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.rotary = Rotary(dim // heads) if rotary else None
        for part in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(part.weight, gain=math.sqrt(0.5))
        for part in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(part.bias)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor | None = None,
        *,
        mask: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """Attention of ``x`` (B, T, D) to ``memory`` (B, S, D), or to itself.

        ``mask`` (B, 1, T, S) or (B, H, T, S) bool; each step must be allowed at least one other. With
        ``causal`` step t sees steps 0 to t.
        """
        source = x if memory is None else memory
        query, key, value = (
            part(y).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, T or S, D / H)
            for part, y in ((self.query, x), (self.key, source), (self.value, source))
        )
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)
        if causal and mask is not None:
            ones = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=x.device)
            mask, causal = mask & ones.tril(), False
        y = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        out: torch.Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class Rotary(nn.Module):
    """Rotary embedding: rotates pairs of features (B, H, T, K) by angles that grow with the position.

    The product of a turned query and key depends on how far apart they are, not on where.
    Su et al., "RoFormer", arXiv:2104.09864; features are paired as first half with second half.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (B, H, T, K), positions being 0 to T - 1."""
        angle = _angles(x.shape[2], self.width, x.device)  # (T, K / 2)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Positions(nn.Module):
    """Adds a position embedding to (B, T, D); nothing for "none" and "rotary".

    "sinusoidal" (arXiv:1706.03762, section 3.5; sines in one half of the features, cosines in the
    other) goes on for ever; "learned" has ``longest`` positions.
    """

    def __init__(self, how: PositionName, dim: int, longest: int) -> None:
        super().__init__()
        self.how, self.dim = how, dim
        self.table = nn.Embedding(longest, dim) if how == "learned" else None
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Steps (B, T, D), position 0 first."""
        if self.table is not None:
            added: torch.Tensor = self.table(torch.arange(x.shape[1], device=x.device))
            return x + added
        if self.how == "sinusoidal":
            angle = _angles(x.shape[1], self.dim, x.device)
            return x + torch.cat([angle.sin(), angle.cos()], dim=1).to(x.dtype)
        return x


class EncoderBlock(nn.Module):
    """Attention and a two-layer perceptron, each with a residual connection: (B, T, D) to (B, T, D).

    Pre-norm (Xiong et al., arXiv:2002.04745) or post-norm (arXiv:1706.03762).
    """

    def __init__(
        self,
        args: EncoderArgs,
        *,
        rotary: bool = False,
        norm_eps: float = 1e-5,
        feed_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.norm_first = args.norm_first
        self.attention = Attention(args.dim, args.heads, dropout=args.dropout, rotary=rotary)
        self.feed = feed_forward(args, dropout=feed_dropout)
        self.norm1 = StepNorm(args.norm, args.dim, norm_eps)
        self.norm2 = StepNorm(args.norm, args.dim, norm_eps)
        self.drop = nn.Dropout(args.dropout)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Steps (B, T, D); mask (B, 1, T, T); ``valid`` (B, T), the steps that are no padding."""
        if self.norm_first:
            x = x + self.drop(self.attention(self.norm1(x, valid), mask=mask))
            x = x + self.drop(self.feed(self.norm2(x, valid)))
            return x
        x = self.norm1(x + self.drop(self.attention(x, mask=mask)), valid)
        y: torch.Tensor = self.norm2(x + self.drop(self.feed(x)), valid)
        return y


class Encoder(nn.Module):
    """A stack of blocks; after pre-norm blocks one more norm, since their sum has none.

    ``norm_eps`` is that of layer norms, ``feed_dropout`` whether the perceptrons have dropout inside.
    """

    def __init__(
        self,
        args: EncoderArgs,
        *,
        rotary: bool = False,
        norm_eps: float = 1e-5,
        feed_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            EncoderBlock(args, rotary=rotary, norm_eps=norm_eps, feed_dropout=feed_dropout)
            for _ in range(args.layers)
        )
        self.norm = StepNorm(args.norm if args.norm_first else "none", args.dim)

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Steps (B, T, D), ``valid`` (B, T) being True where they are no padding."""
        mask = None if valid is None else pad_mask(valid, x)
        for block in self.blocks:
            x = block(x, mask, valid)
        y: torch.Tensor = self.norm(x, valid)
        return y


class StepNorm(nn.Module):
    """Normalises the features of each step (B, T, D), so that padding changes no output.

    "layer" and "group" look at one step alone, "batch" takes its statistics over the real ones.
    """

    def __init__(self, name: NormName, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        # The same as norm_steps has, without turning the axes around: it is what most models use.
        self.norm = nn.LayerNorm(dim, eps) if name == "layer" else norm_steps(name, dim)
        self.turn = name in ("batch", "group")

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, D) to the same; ``valid`` (B, T) are the valid steps."""
        if not self.turn:
            y: torch.Tensor = self.norm(x)
            return y
        return normalise(
            self.norm, x.transpose(1, 2), None if valid is None else valid[:, None]
        ).transpose(1, 2)


def feed_forward(args: EncoderArgs, *, dropout: bool = True) -> nn.Sequential:
    """The perceptron of a block, applied to each step alone, with dropout after its activation."""
    return nn.Sequential(
        nn.Linear(args.dim, args.ff),
        activation(args.activation),
        nn.Dropout(args.dropout if dropout else 0.0),
        nn.Linear(args.ff, args.dim),
    )


def head(width: int, outputs: int) -> nn.Linear:
    """A last layer with the initial weights of `init_head`."""
    layer = nn.Linear(width, outputs)
    init_head(layer)
    return layer


def _angles(steps: int, width: int, device: torch.device) -> torch.Tensor:
    """Angles (T, K / 2) in float32: also under mixed precision, where bf16 cannot count to 1,000."""
    rate = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    step = torch.arange(steps, device=device, dtype=torch.float32)
    return step[:, None] * torch.exp(-math.log(_LONGEST_WAVE) * rate)
