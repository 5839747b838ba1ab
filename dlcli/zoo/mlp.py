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
from dlcli.zoo.base import SUPERVISED, ModelEntry, register
from dlcli.zoo.layers import ActivationName, NormName, activation, init_body, init_head, mask_of, norm1d
from dlcli.zoo.windows import WindowNorm, WindowNormName


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

    A category of n codes becomes a vector of 1.6 n^0.56 numbers, ``embedding`` at most.
    """

    widths: tuple[PositiveInt, ...] = (256, 256)
    dropout: float = Field(0.05, ge=0, lt=1)
    embedding: int = Field(50, ge=1)


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


class TabularMlp(Mlp):
    """Columns (B, F + K) of `TabularInput` to (B, outputs)."""

    def __init__(self, spec: TabularInput, outputs: int, args: TabularMlpArgs) -> None:
        codes = [column.codes for column in spec.categories]
        sizes = [min(args.embedding, max(1, round(1.6 * n**0.56))) for n in codes]
        super().__init__(spec.features + sum(sizes), outputs, args)
        self.features = spec.features
        self.embeddings = nn.ModuleList(
            nn.Embedding(n, size) for n, size in zip(codes, sizes, strict=True)
        )
        with torch.no_grad():
            for table in self.embeddings:
                assert isinstance(table, nn.Embedding)
                # Code 0, which training may never meet, is the middle of what it does meet.
                table.weight[0] = 0

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """(B, F + K) -> (B, outputs)."""
        codes = columns[:, self.features :].long()
        parts = [table(codes[:, i]) for i, table in enumerate(self.embeddings)]
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
        recipe={"optim": {"lr": 2e-3}, "fit": {"epochs": 40, "batch_size": 128}},
        summary="hidden layers over numbers and category embeddings",
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
        summary="hidden layers over a flattened series",
    )
)
