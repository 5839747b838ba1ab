"""TabM: k multi-layer perceptrons for tables that share nearly all of their weights.

Gorishniy, Kotelnikov and Babenko, arXiv:2410.24210. The members of the ensemble differ by rank-1
adapters (BatchEnsemble, arXiv:2002.06715) and by their heads; each is trained on its own loss, and their
probabilities or numbers are averaged. Numbers are embedded piecewise linearly (Gorishniy, Rubachev and
Babenko, arXiv:2203.05556).

B rows, k members, N numbers, F features. In train mode the output is (B, k, outputs), whose losses are
averaged (`dlcli.training.loop.objective`); in eval mode (B, outputs), so that predictions, metrics,
teachers and exported files know nothing of members.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from pydantic import Field, PositiveInt
from torch import nn
from torch.nn import functional as F

from dlcli.data.kinds import ModelNeeds
from dlcli.task import Frozen, NumberColumn, TabularInput, TaskKind, TaskSpec
from dlcli.zoo.base import SEARCH_WITH_DROPOUT, ModelEntry, register
from dlcli.zoo.layers import ActivationName, activation
from dlcli.zoo.mlp import category_embeddings, category_sizes

BINS = 48  # of each number; the default of arXiv:2410.24210


class TabmArgs(Frozen):
    """``k`` members; ``widths`` of the hidden layers, ``dropout`` after each.

    A number becomes a vector of ``number_embedding`` numbers, a category of n codes one of 1.6 n^0.56,
    ``embedding`` at most.
    """

    k: int = Field(16, ge=1)
    widths: tuple[PositiveInt, ...] = Field((128, 128), min_length=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    activation: ActivationName = "relu"
    number_embedding: int = Field(8, ge=1)
    embedding: int = Field(50, ge=1)


class PiecewiseLinearEmbedding(nn.Module):
    """Numbers (B, N) to (B, N * D): a linear function of each, and one that bends at its bins' edges.

    Component t of a number is 0 below bin t, 1 above it and linear within. Its weights start at 0, so
    that the linear function is what training begins with, and beyond the training rows it alone goes on.
    """

    low: torch.Tensor
    scale: torch.Tensor

    def __init__(self, columns: tuple[NumberColumn, ...], size: int) -> None:
        super().__init__()
        bins = max((len(column.bin_edges) - 1 for column in columns), default=0)
        low, scale = torch.zeros(len(columns), max(bins, 1)), torch.zeros(len(columns), max(bins, 1))
        for i, column in enumerate(columns):
            for t, (left, right) in enumerate(pairwise(column.bin_edges)):
                low[i, t], scale[i, t] = left, 1 / (right - left)
        # Part of the card, not of the tensors.
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        std = size**-0.5
        self.weight = nn.Parameter(torch.empty(len(columns), size).uniform_(-std, std))
        self.bias = nn.Parameter(torch.empty(len(columns), size).uniform_(-std, std))
        self.bends = nn.Parameter(torch.zeros(len(columns), max(bins, 1), size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N) -> (B, N * D)."""
        x = x.unsqueeze(2)
        bins = ((x - self.low) * self.scale).clamp(0, 1)  # (B, N, bins)
        bent = torch.einsum("bnt,ntd->bnd", bins, self.bends)
        return (x * self.weight + self.bias + bent).flatten(1)


class EnsembleLinear(nn.Module):
    """A linear layer of k members: s_i * W (r_i * x) + b_i, of which W is shared.

    ``signs``: r is -1 or 1 at random at first, as in the first layer, which makes the members differ;
    otherwise it is 1, as s is everywhere.
    """

    def __init__(self, features: int, width: int, k: int, *, signs: bool) -> None:
        super().__init__()
        self.shared = nn.Linear(features, width, bias=False)
        r = torch.ones(k, features)
        self.r = nn.Parameter(torch.where(torch.rand(k, features) < 0.5, -r, r) if signs else r)
        self.s = nn.Parameter(torch.ones(k, width))
        bound = features**-0.5
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound).repeat(k, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1 or k, features) -> (B, k, width)."""
        return torch.addcmul(self.bias, self.shared(x * self.r), self.s)


class EnsembleHead(nn.Module):
    """The last layer: of each member its own, (B, k, F) to (B, k, outputs)."""

    def __init__(self, features: int, outputs: int, k: int) -> None:
        super().__init__()
        # As `init_head`: the loss starts near that of the mean.
        std = 0.1 * features**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, k, features).normal_(0, std))
        self.bias = nn.Parameter(torch.zeros(outputs, k))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, k, F) -> (B, k, outputs)."""
        return torch.einsum("bkf,okf->bko", x, self.weight) + self.bias.T


class TabM(nn.Module):
    """Columns (B, F + K) of `TabularInput` to (B, outputs), in train mode to (B, k, outputs)."""

    def __init__(self, task: TaskSpec, args: TabmArgs) -> None:
        super().__init__()
        spec = task.input
        assert isinstance(spec, TabularInput)
        self.kind, self.features, self.numbers = task.kind, spec.features, len(spec.numbers)
        sizes = category_sizes(spec, args.embedding)
        self.number_embedding = None
        if spec.numbers:
            self.number_embedding = PiecewiseLinearEmbedding(spec.numbers, args.number_embedding)
        self.embeddings = category_embeddings(spec, sizes)
        indicators = spec.features - self.numbers
        features = self.numbers * args.number_embedding + indicators + sum(sizes)
        layers: list[nn.Module] = []
        for i, width in enumerate(args.widths):
            layers += [
                EnsembleLinear(features, width, args.k, signs=i == 0),
                activation(args.activation),
                nn.Dropout(args.dropout),
            ]
            features = width
        self.body = nn.Sequential(*layers)
        self.head = EnsembleHead(features, task.num_outputs, args.k)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """(B, F + K) -> (B, outputs), in train mode (B, k, outputs)."""
        codes = columns[:, self.features :].long()
        parts = [columns[:, self.numbers : self.features]]
        if self.number_embedding is not None:
            parts.append(self.number_embedding(columns[:, : self.numbers]))
        parts += [table(codes[:, i]) for i, table in enumerate(self.embeddings)]
        members: torch.Tensor = self.head(self.body(torch.cat(parts, dim=1).unsqueeze(1)))
        return members if self.training else mean_of_members(members, self.kind)


def mean_of_members(outputs: torch.Tensor, kind: TaskKind) -> torch.Tensor:
    """(B, k, outputs) to (B, outputs): the mean of numbers, or of probabilities as logits again."""
    if kind == "classification":
        return outputs.log_softmax(2).logsumexp(1) - math.log(outputs.shape[1])
    if kind == "multilabel":
        return F.logsigmoid(outputs).logsumexp(1) - F.logsigmoid(-outputs).logsumexp(1)
    return outputs.mean(1)


register(
    ModelEntry(
        name="tabm",
        kind="tabular",
        build=TabM,
        head=lambda module: "head",
        tasks=("classification", "multilabel", "regression"),
        args=TabmArgs,
        needs=ModelNeeds(bins=BINS),
        recipe={
            "optim": {"lr": 8e-3},
            "fit": {"epochs": 20, "batch_size": 128, "min_steps": 600},
        },
        search={
            **SEARCH_WITH_DROPOUT,
            "model.args.widths": "[64, 64]|[128, 128]|[256, 256]|[128, 128, 128]",
        },
        summary="k hidden-layer models that share their weights, over piecewise linear numbers",
    )
)
