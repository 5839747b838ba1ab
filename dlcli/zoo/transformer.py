"""Transformer encoders for texts, series and tables.

B samples, T steps (tokens, time steps or columns), N patches, D the width, C channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dlcli.task import SeriesInput, TabularInput, TaskSpec, TextInput
from dlcli.zoo.attention import Encoder, EncoderArgs, PositionName, Positions, head
from dlcli.zoo.base import SEARCH_WITH_DROPOUT, SUPERVISED, ModelEntry, register
from dlcli.zoo.layers import mask_of, pool_steps
from dlcli.zoo.token_embedding import TokenEmbedding
from dlcli.zoo.windows import WindowNorm, WindowNormName, own_channels

PoolingName = Literal["mean", "max", "cls"]

# A patch of 16 steps that moves by 8 is what PatchTST uses; shorter series get about six patches' worth.
_LONGEST_PATCH = 16
_PATCHES = 6


class TextArgs(EncoderArgs):
    """``pooling`` over the valid tokens, or "cls": the output of a class token, put first.

    ``token_dropout`` is the share of tokens that training replaces by the unknown one,
    ``vector_dim`` the length of word vectors that are projected to ``dim`` (default: ``dim``).
    """

    positions: PositionName = "sinusoidal"
    pooling: PoolingName = "mean"
    token_dropout: float = Field(0.1, ge=0, lt=1)
    vector_dim: int | None = Field(None, ge=1)


class SeriesArgs(EncoderArgs):
    """``patch`` steps make a token, every ``stride`` steps (default: by the length of the series).

    A forecast: ``window_norm`` of `WindowNorm`; ``channels`` "independent" (each target from its own
    past, with the same weights) or "mixed". Other tasks always see all channels.
    """

    patch: int | None = Field(None, ge=1)
    stride: int | None = Field(None, ge=1)
    positions: PositionName = "learned"
    pooling: PoolingName = "mean"
    window_norm: WindowNormName = "last"
    channels: Literal["independent", "mixed"] = "independent"


class TableArgs(EncoderArgs):
    """``pooling`` over the columns, or "cls": the output of a class token, put first."""

    layers: int = Field(3, ge=1)
    dim: int = Field(64, ge=2)
    ff: int = Field(128, ge=1)
    pooling: PoolingName = "cls"


class Pooled(nn.Module):
    """Positions, the encoder and pooling: tokens (B, T, D) to one vector (B, D).

    With "cls" a learned token is put first, and its output is the vector.
    """

    def __init__(
        self, args: EncoderArgs, positions: PositionName, pooling: PoolingName, longest: int
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.cls = nn.Parameter(torch.randn(args.dim) * 0.02) if pooling == "cls" else None
        self.positions = Positions(positions, args.dim, longest + (pooling == "cls"))
        self.drop = nn.Dropout(args.dropout)
        self.encoder = Encoder(args, rotary=positions == "rotary")

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Tokens (B, T, D), of which the first ``lengths`` (B,) are valid, or all."""
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], 1, -1), x], dim=1)
            lengths = None if lengths is None else lengths + 1
        valid = None if lengths is None else mask_of(lengths, x.shape[1])
        x = self.encoder(self.drop(self.positions(x)), valid)
        if self.pooling == "cls":
            return x[:, 0]
        return pool_steps(x, lengths, self.pooling)


class TextTransformer(nn.Module):
    """Token ids (B, T) and lengths (B,) to (B, outputs)."""

    def __init__(self, spec: TextInput, outputs: int, args: TextArgs) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(
            spec.vocab_size,
            args.dim,
            dropout=0.0,
            token_dropout=args.token_dropout,
            vector_dim=args.vector_dim,
        )
        self.body = Pooled(args, args.positions, args.pooling, spec.max_length)
        self.drop = nn.Dropout(args.dropout)
        self.head = head(args.dim, outputs)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T) and (B,) -> (B, outputs)."""
        y: torch.Tensor = self.head(self.drop(self.body(self.embedding(tokens), lengths)))
        return y


class Patches(nn.Module):
    """Overlapping patches of a series as tokens: (B, T, C) to (B, N, D), N = ceil(T / stride).

    A patch starts at every ``stride``-th step; after the series' end there are zeros.
    """

    def __init__(self, channels: int, args: EncoderArgs, patch: int, stride: int) -> None:
        super().__init__()
        self.patch, self.stride = patch, stride
        self.embed = nn.Conv1d(channels, args.dim, patch, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, N, D)."""
        y: torch.Tensor = self.embed(nn.functional.pad(x.transpose(1, 2), (0, self.patch - 1)))
        return y.transpose(1, 2)

    def count(self, lengths: torch.Tensor) -> torch.Tensor:
        """The number of patches that start inside each series."""
        return (lengths + self.stride - 1) // self.stride


class SeriesTransformer(nn.Module):
    """Series (B, T, C), and lengths (B,) where they vary, to (B, outputs)."""

    def __init__(self, spec: SeriesInput, outputs: int, args: SeriesArgs) -> None:
        super().__init__()
        patch, stride = _patch_size(spec.length, args)
        self.patches = Patches(len(spec.channels), args, patch, stride)
        self.body = Pooled(args, args.positions, args.pooling, -(-spec.length // stride))
        self.drop = nn.Dropout(args.dropout)
        self.head = head(args.dim, outputs)

    def forward(self, values: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, C) and (B,) -> (B, outputs)."""
        count = None
        if lengths is not None:
            # Steps after the end are zeros by contract; a patch across the end relies on it.
            values = values * mask_of(lengths, values.shape[1])[:, :, None]
            count = self.patches.count(lengths)
        y: torch.Tensor = self.head(self.drop(self.body(self.patches(values), count)))
        return y


class PatchForecast(nn.Module):
    """A window (B, T, C) to a forecast (B, horizon, targets), from patches of normalised windows.

    Nie et al., "A Time Series is Worth 64 Words", arXiv:2211.14730: each target is forecast from its
    own past by the same weights, unless the channels are mixed. Only the targets' channels are read,
    and the window's last value takes the place of their learned normalisation by default.
    """

    def __init__(self, task: TaskSpec, args: SeriesArgs) -> None:
        super().__init__()
        assert isinstance(task.input, SeriesInput)
        spec = task.input
        self.horizon, self.targets = task.horizon, len(task.targets)
        self.mixed = args.channels == "mixed"
        self.window = WindowNorm(task, args.window_norm)
        patch, stride = _patch_size(spec.length, args)
        self.own = [] if self.mixed else own_channels(task)
        # The last value is repeated over `stride` steps after the window, as the paper does.
        self.end_padding = stride
        count = (spec.length + stride - patch) // stride + 1
        self.embed = nn.Conv1d(len(spec.channels) if self.mixed else 1, args.dim, patch, stride)
        self.positions = Positions(args.positions, args.dim, count)
        self.drop = nn.Dropout(args.dropout)
        self.encoder = Encoder(args, rotary=args.positions == "rotary")
        self.head = head(count * args.dim, task.horizon * (self.targets if self.mixed else 1))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, horizon, targets)."""
        x, window = self.window(values)
        x = x.transpose(1, 2)  # (B, C, T)
        if not self.mixed:
            x = x[:, self.own].flatten(0, 1)[:, None]  # (B * R, 1, T)
        x = self.embed(nn.functional.pad(x, (0, self.end_padding), mode="replicate")).transpose(1, 2)
        x = self.encoder(self.drop(self.positions(x)))
        y = self.head(self.drop(x.flatten(1))).view(-1, self.targets, self.horizon)
        return self.window.back(y.transpose(1, 2), window)


class TableTransformer(nn.Module):
    """Columns (B, F + K) to (B, outputs): each column is a token.

    Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", arXiv:2106.11959 (the
    FT-Transformer). A number is a direction times its value; a category has a vector for each code.
    Here the blocks' perceptrons are plain instead of gated.
    """

    offsets: torch.Tensor

    def __init__(self, spec: TabularInput, outputs: int, args: TableArgs) -> None:
        super().__init__()
        self.numbers, dim = spec.features, args.dim
        codes = [column.codes for column in spec.categories]
        bound = dim**-0.5
        self.direction = (
            nn.Parameter(torch.empty(spec.features, dim).uniform_(-bound, bound))
            if spec.features
            else None
        )
        self.bias = nn.Parameter(torch.empty(spec.features + len(codes), dim).uniform_(-bound, bound))
        self.embedding = nn.Embedding(sum(codes), dim) if codes else None
        if self.embedding is not None:
            nn.init.uniform_(self.embedding.weight, -bound, bound)
        # All categories share one table: the codes of column k begin after those of the columns before.
        begin = torch.tensor([sum(codes[:k]) for k in range(len(codes))], dtype=torch.int64)
        self.register_buffer("offsets", begin, persistent=False)
        self.body = Pooled(args, "none", args.pooling, spec.shape[0])
        self.drop = nn.Dropout(args.dropout)
        self.head = head(dim, outputs)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """(B, F + K) -> (B, outputs)."""
        parts: list[torch.Tensor] = []
        if self.direction is not None:
            parts.append(columns[:, : self.numbers, None] * self.direction)  # (B, F, D)
        if self.embedding is not None:
            parts.append(self.embedding(columns[:, self.numbers :].long() + self.offsets))
        tokens = torch.cat(parts, dim=1) + self.bias
        y: torch.Tensor = self.head(self.drop(self.body(tokens, None)))
        return y


def _patch_size(length: int, args: SeriesArgs) -> tuple[int, int]:
    patch = min(args.patch or max(1, min(_LONGEST_PATCH, length // _PATCHES)), length)
    return patch, min(args.stride or max(1, patch // 2), patch)


def build_text(task: TaskSpec, args: TextArgs) -> nn.Module:
    """The encoder of texts."""
    assert isinstance(task.input, TextInput)
    return TextTransformer(task.input, task.num_outputs, args)


def build_series(task: TaskSpec, args: SeriesArgs) -> nn.Module:
    """The encoder of series, or the forecaster."""
    assert isinstance(task.input, SeriesInput)
    if task.kind == "forecast":
        return PatchForecast(task, args)
    return SeriesTransformer(task.input, task.num_outputs, args)


def build_table(task: TaskSpec, args: TableArgs) -> nn.Module:
    """The encoder of table rows."""
    assert isinstance(task.input, TabularInput)
    return TableTransformer(task.input, task.num_outputs, args)


register(
    ModelEntry(
        name="transformer",
        kind="text",
        build=build_text,
        head=lambda module: "head",
        tasks=SUPERVISED,
        args=TextArgs,
        word_vectors="vector_dim",
        recipe={
            "optim": {"lr": 1e-3, "clip_grad_norm": 1.0},
            "fit": {"epochs": 10, "batch_size": 64, "min_steps": 600},  # see `cnn_text`
        },
        search=SEARCH_WITH_DROPOUT,
        summary="encoder of tokens, mean or class-token pooling",
    )
)
register(
    ModelEntry(
        name="transformer",
        kind="series",
        build=build_series,
        head=lambda module: "head",
        tasks=(*SUPERVISED, "forecast"),
        args=SeriesArgs,
        recipe={"optim": {"lr": 1e-3, "clip_grad_norm": 1.0}, "fit": {"epochs": 60, "batch_size": 16}},
        # Windows overlap, so few are independent: a small model is as good, and far faster on a CPU.
        recipes={
            "forecast": {
                "model": {"args": {"dim": 32, "ff": 64, "dropout": 0.2}},
                "fit": {"epochs": 5, "batch_size": 64, "min_steps": 300},
            }
        },
        search=SEARCH_WITH_DROPOUT,
        summary="encoder of patches of a series; forecasts each channel from its own past",
    )
)
register(
    ModelEntry(
        name="transformer",
        kind="tabular",
        build=build_table,
        head=lambda module: "head",
        tasks=SUPERVISED,
        args=TableArgs,
        recipe={"optim": {"lr": 1e-3, "clip_grad_norm": 1.0}, "fit": {"epochs": 30, "batch_size": 128}},
        search=SEARCH_WITH_DROPOUT,
        summary="encoder of columns, one token each (FT-Transformer)",
    )
)
