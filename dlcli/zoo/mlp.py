"""A multi-layer perceptron: linear, norm, activation and dropout, per hidden layer.

B samples, F features. Images and series are flattened; a table's categories become vectors first.
First weights: `init_body`, and `init_head` for the last layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn

from dlcli.data.kinds import ModelNeeds
from dlcli.task import Frozen, SeriesInput, TabularInput, TaskSpec
from dlcli.zoo.base import SEARCH_WITH_DROPOUT, SUPERVISED, ModelEntry, register
from dlcli.zoo.layers import ActivationName, NormName, activation, init_body, init_head, mask_of, norm1d
from dlcli.zoo.windows import WindowNorm, WindowNormName

_COSINES, _FREQUENCY_STD = 16, 0.1  # of `NumberEmbedding`


class MlpArgs(Frozen):
    """``widths`` of the hidden layers, ``dropout`` after each.

    ``depth`` is how many there are: more than the widths repeat the last one, fewer take the first
    ones; without it there is one for each width.
    """

    widths: tuple[PositiveInt, ...] = (256, 128)
    depth: int | None = Field(None, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    activation: ActivationName = "relu"
    norm: NormName = "batch"

    @model_validator(mode="before")
    @classmethod
    def _batch_norm(cls, values: Any) -> Any:
        # Cards written by dlcli 0.1 say batch_norm true or false.
        if isinstance(values, dict) and isinstance(values.get("batch_norm"), bool):
            rest = {k: v for k, v in values.items() if k != "batch_norm"}
            return {"norm": "batch" if values["batch_norm"] else "none", **rest}
        return values

    @property
    def layers(self) -> tuple[int, ...]:
        """The widths of the hidden layers that are built."""
        depth = len(self.widths) if self.depth is None else self.depth
        widths = self.widths or (128,)
        return (*widths[:depth], *(widths[-1:] * (depth - len(widths))))


class TabularMlpArgs(MlpArgs):
    """``widths``, ``depth``, ``dropout``, ``activation`` and ``norm`` as for images.

    A category of n codes becomes a vector of 1.6 n^0.56 numbers, ``embedding`` at most; a number, unless
    it is a missing indicator, one of ``number_embedding``: itself, then `NumberEmbedding`'s.
    """

    widths: tuple[PositiveInt, ...] = (256, 256)
    dropout: float = Field(0.05, ge=0, lt=1)
    embedding: int = Field(50, ge=1)
    number_embedding: int = Field(1, ge=1)


class SeriesMlpArgs(MlpArgs):
    """``widths``, ``depth``, ``dropout``, ``activation`` and ``norm`` as for images.

    ``window_norm`` is how a forecast takes the level out of its window; nothing else uses it.
    """

    window_norm: WindowNormName = "last"


class Mlp(nn.Module):
    """(B, F) features, or anything that flattens to them, to (B, outputs)."""

    def __init__(self, features: int, outputs: int, args: MlpArgs) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in args.layers:
            layers.append(nn.Linear(features, width))
            if args.norm != "none":
                layers.append(norm1d(args.norm, width))
            layers += [activation(args.activation), nn.Dropout(args.dropout)]
            features = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(features, outputs)
        init_body(self.body, args.activation)
        init_head(self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, outputs)."""
        output: torch.Tensor = self.head(self.body(x.flatten(1)))
        return output


class NumberEmbedding(nn.Module):
    """Numbers (B, N) to (B, N * D): D linear maps of cosines of each, whose frequencies are learned.

    With the number itself it is the PBLD embedding of Holzmueller et al., arXiv:2407.04491. The first
    frequencies, from N(0, 0.1^2) per unit of a scaled number, hardly repeat over its range, so that
    they bend its axis.
    """

    def __init__(self, numbers: int, size: int) -> None:
        super().__init__()
        std = 2 * math.pi * _FREQUENCY_STD
        self.frequency = nn.Parameter(torch.empty(numbers, _COSINES).normal_(0, std))
        self.phase = nn.Parameter(torch.empty(numbers, _COSINES).uniform_(-math.pi, math.pi))
        self.weight = nn.Parameter(torch.empty(numbers, _COSINES, size).normal_(0, _COSINES**-0.5))
        self.bias = nn.Parameter(torch.zeros(numbers, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N) -> (B, N * D)."""
        waves = torch.cos(x.unsqueeze(2) * self.frequency + self.phase)  # (B, N, 16)
        return (torch.einsum("bnw,nwd->bnd", waves, self.weight) + self.bias).flatten(1)


def category_sizes(spec: TabularInput, most: int) -> list[int]:
    """The length of the vector of each categorical column: 1.6 n^0.56 for n codes, ``most`` at most."""
    return [min(most, max(1, round(1.6 * column.codes**0.56))) for column in spec.categories]


def category_embeddings(spec: TabularInput, sizes: list[int]) -> nn.ModuleList:
    """An embedding of each categorical column.

    Code 0, which training may never meet, is the middle of what it does meet.
    """
    tables = nn.ModuleList()
    for column, size in zip(spec.categories, sizes, strict=True):
        table = nn.Embedding(column.codes, size)
        with torch.no_grad():
            table.weight[0] = 0
        tables.append(table)
    return tables


class TabularMlp(Mlp):
    """Columns (B, F + K) of `TabularInput` to (B, outputs)."""

    def __init__(self, spec: TabularInput, outputs: int, args: TabularMlpArgs) -> None:
        sizes = category_sizes(spec, args.embedding)
        numbers, size = len(spec.numbers), args.number_embedding - 1
        super().__init__(spec.features + numbers * size + sum(sizes), outputs, args)
        self.features, self.numbers = spec.features, numbers
        self.number_embedding = NumberEmbedding(numbers, size) if numbers * size else None
        self.embeddings = category_embeddings(spec, sizes)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """(B, F + K) -> (B, outputs)."""
        codes = columns[:, self.features :].long()
        parts = [table(codes[:, i]) for i, table in enumerate(self.embeddings)]
        if self.number_embedding is not None:
            parts.insert(0, self.number_embedding(columns[:, : self.numbers]))
        return super().forward(torch.cat([columns[:, : self.features], *parts], dim=1))


class SeriesMlp(Mlp):
    """Series (B, T, C) to (B, outputs); shorter ones count as 0 up to the fixed length."""

    def __init__(self, spec: SeriesInput, outputs: int, args: MlpArgs) -> None:
        super().__init__(math.prod(spec.shape), outputs, args)
        self.length = spec.length

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, C) and the true lengths (B,), where they vary -> (B, outputs)."""
        if lengths is not None:
            x = fixed_length(x, lengths, self.length)
        return super().forward(x)


class TensorMlp(Mlp):
    """Any tensors (B, ...), side by side and normalised by batch statistics, to (B, outputs)."""

    variadic = True  # for torch.export

    def __init__(self, features: int, outputs: int, args: MlpArgs) -> None:
        super().__init__(features, outputs, args)
        self.scale = nn.BatchNorm1d(features)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """(B, ...) each -> (B, outputs)."""
        rows = [tensor.reshape(tensor.shape[0], -1).float() for tensor in tensors]
        return super().forward(self.scale(torch.cat(rows, dim=1)))


class MlpForecaster(nn.Module):
    """Windows (B, T, C) to forecasts (B, horizon, targets)."""

    def __init__(self, task: TaskSpec, args: SeriesMlpArgs) -> None:
        super().__init__()
        self.window = WindowNorm(task, args.window_norm)
        self.net = Mlp(math.prod(d for d in task.input.shape), task.num_outputs, args)
        self.output_shape = (task.horizon, len(task.targets))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, horizon, targets)."""
        x, level = self.window(x)
        return self.window.back(self.net(x).unflatten(1, self.output_shape), level)


def fixed_length(x: torch.Tensor, lengths: torch.Tensor, length: int) -> torch.Tensor:
    """(B, T, C) as (B, length, C): 0 after each sample's end."""
    x = torch.where(mask_of(lengths, x.shape[1]).unsqueeze(2), x, 0.0)
    # Adding the whole length and cutting needs no question about T, which an export could not ask.
    return torch.cat([x, x.new_zeros(x.shape[0], length, x.shape[2])], dim=1)[:, :length]


def build_image(task: TaskSpec, args: MlpArgs) -> nn.Module:
    """The model for a task's image size and outputs."""
    return Mlp(math.prod(d for d in task.input.shape), task.num_outputs, args)


def build_tensors(task: TaskSpec, args: MlpArgs) -> nn.Module:
    """The model for all values of a task's tensors."""
    sizes = [math.prod(d for d in t.dims[1:] if isinstance(d, int)) for t in task.input.signature]
    return TensorMlp(sum(sizes), task.num_outputs, args)


def build_tabular(task: TaskSpec, args: TabularMlpArgs) -> nn.Module:
    """The model for a task's columns and outputs."""
    assert isinstance(task.input, TabularInput)
    return TabularMlp(task.input, task.num_outputs, args)


def build_series(task: TaskSpec, args: SeriesMlpArgs) -> nn.Module:
    """The model for a task's series and outputs."""
    assert isinstance(task.input, SeriesInput)
    if task.kind == "forecast":
        return MlpForecaster(task, args)
    return SeriesMlp(task.input, task.num_outputs, args)


register(
    ModelEntry(
        name="mlp",
        build=build_image,
        head=lambda module: "head",
        args=MlpArgs,
        needs=ModelNeeds(photo_size=32),
        search=SEARCH_WITH_DROPOUT,
        summary="hidden layers over flattened pixels",
    )
)
register(
    ModelEntry(
        name="mlp",
        kind="tabular",
        build=build_tabular,
        head=lambda module: "head",
        args=TabularMlpArgs,
        # An argument of the recipe, since models of earlier versions have no embedding of numbers.
        recipe={
            "model": {"args": {"number_embedding": 4}},
            "optim": {"lr": 2e-3},
            "fit": {"epochs": 40, "batch_size": 128},
        },
        search={
            **SEARCH_WITH_DROPOUT,
            "model.args.widths": "[128, 128]|[256, 256]|[512, 512]|[256, 256, 256]",
        },
        summary="hidden layers over embeddings of numbers and categories",
    )
)
register(
    ModelEntry(
        name="mlp",
        kind="series",
        build=build_series,
        head=lambda module: "net.head" if isinstance(module, MlpForecaster) else "head",
        tasks=(*SUPERVISED, "forecast"),
        args=SeriesMlpArgs,
        recipe={"fit": {"epochs": 100, "batch_size": 16, "monitor": "loss"}},
        recipes={"forecast": {"fit": {"epochs": 5, "batch_size": 64, "min_steps": 300}}},
        search=SEARCH_WITH_DROPOUT,
        summary="hidden layers over a flattened series",
    )
)
register(
    ModelEntry(
        name="mlp",
        kind="tensor",
        build=build_tensors,
        head=lambda module: "head",
        args=MlpArgs,
        search=SEARCH_WITH_DROPOUT,
        summary="hidden layers over all values of the tensors",
    )
)
