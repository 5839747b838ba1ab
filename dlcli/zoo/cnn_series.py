"""A convolutional model for series: three convolutions over time, each with norm and activation.

B samples, T steps, C channels. Classes and numbers come from features pooled over the true steps (the
fully convolutional network of Wang et al., arXiv:1611.06455, with residual paths); a forecast, where the
place in the window matters, from a few features of every step. First weights: `init_body`, and
`init_head` for the last layer.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import nn

from dlcli.task import Frozen, SeriesInput, TaskSpec
from dlcli.zoo.base import SEARCH_WITH_DROPOUT, SUPERVISED, ModelEntry, register
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
from dlcli.zoo.windows import WindowNorm, WindowNormName

_FORECAST_FEATURES = 8  # features of a step that a forecast keeps


class SeriesCnnArgs(Frozen):
    """``widths`` of the convolutions and their odd ``kernels``, ``dropout`` after each.

    ``pooling`` takes the steps together for a class or a number; ``window_norm`` is how a forecast
    takes the level out of its window.
    """

    widths: tuple[PositiveInt, ...] = Field((64, 128, 64), min_length=1)
    kernels: tuple[PositiveInt, ...] = Field((9, 7, 5), min_length=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    activation: ActivationName = "relu"
    norm: NormName = "batch"
    pooling: StepPoolName = "mean"
    window_norm: WindowNormName = "last"

    @field_validator("kernels")
    @classmethod
    def _odd(cls, kernels: tuple[int, ...]) -> tuple[int, ...]:
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError("kernels must be odd, so that the length stays")
        return kernels


class Trunk(nn.Module):
    """Series (B, T, C) to features (B, T, widths[-1])."""

    def __init__(self, channels: int, args: SeriesCnnArgs) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for i, width in enumerate(args.widths):
            blocks.append(
                StepConv(
                    channels,
                    width,
                    args.kernels[min(i, len(args.kernels) - 1)],
                    activation_name=args.activation,
                    norm=args.norm,
                    dropout=args.dropout,
                )
            )
            channels = width
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """(B, T, C) -> (B, T, widths[-1])."""
        mask = None
        if lengths is not None:
            mask = mask_of(lengths, x.shape[1]).unsqueeze(1)
        x = x.transpose(1, 2)  # (B, C, T)
        if mask is not None:
            x = torch.where(mask, x, 0.0)
        for block in self.blocks:
            x = block(x, mask)
        return x.transpose(1, 2)


class SeriesCnn(nn.Module):
    """Series (B, T, C) to (B, outputs)."""

    def __init__(self, spec: SeriesInput, outputs: int, args: SeriesCnnArgs) -> None:
        super().__init__()
        self.features = Trunk(len(spec.channels), args)
        self.pooling = args.pooling
        self.head = nn.Linear(args.widths[-1], outputs)
        init_body(self.features, args.activation)
        init_head(self.head)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, C) and the true lengths (B,), where they vary -> (B, outputs)."""
        output: torch.Tensor = self.head(pool_steps(self.features(x, lengths), lengths, self.pooling))
        return output


class CnnForecaster(nn.Module):
    """Windows (B, T, C) to forecasts (B, horizon, targets)."""

    def __init__(self, task: TaskSpec, args: SeriesCnnArgs) -> None:
        super().__init__()
        assert isinstance(task.input, SeriesInput)
        self.window = WindowNorm(task, args.window_norm)
        self.features = Trunk(len(task.input.channels), args)
        self.keep = nn.Linear(args.widths[-1], _FORECAST_FEATURES)
        self.head = nn.Linear(_FORECAST_FEATURES * task.input.length, task.num_outputs)
        self.output_shape = (task.horizon, len(task.targets))
        init_body(self.features, args.activation)
        init_body(self.keep, args.activation)
        init_head(self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, horizon, targets)."""
        x, level = self.window(x)
        flat = self.keep(self.features(x, None)).flatten(1)  # (B, T * features)
        return self.window.back(self.head(flat).unflatten(1, self.output_shape), level)


def build(task: TaskSpec, args: SeriesCnnArgs) -> nn.Module:
    """The model for a task's channels and outputs."""
    assert isinstance(task.input, SeriesInput)
    if task.kind == "forecast":
        return CnnForecaster(task, args)
    return SeriesCnn(task.input, task.num_outputs, args)


register(
    ModelEntry(
        name="cnn",
        kind="series",
        build=build,
        head=lambda module: "head",
        tasks=(*SUPERVISED, "forecast"),
        args=SeriesCnnArgs,
        # A few dozen series have a validation split of a handful: its accuracy is 1 long before the
        # model is good, and only its loss goes on improving.
        recipe={
            "optim": {"lr": 2e-3},
            "fit": {"epochs": 200, "batch_size": 16, "monitor": "loss"},
        },
        recipes={
            "forecast": {"optim": {"lr": 1e-3}, "fit": {"epochs": 5, "batch_size": 64, "min_steps": 300}}
        },
        search=SEARCH_WITH_DROPOUT,
        summary="three convolutions over time, pooled over the true steps",
    )
)
