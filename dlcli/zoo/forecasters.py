"""`linear` for series: forecasts straight from the window, and a linear baseline for the other tasks.

B samples, T steps, C channels, R targets.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dlcli.task import Frozen, SeriesInput, TaskSpec
from dlcli.zoo.attention import head
from dlcli.zoo.base import SUPERVISED, ModelEntry, register
from dlcli.zoo.layers import max_steps, mean_steps
from dlcli.zoo.windows import WindowNorm, WindowNormName, own_channels


class LinearSeriesArgs(Frozen):
    """Of a forecast: ``variant``, ``channels`` and ``window_norm``; other tasks use none of them.

    ``channels``: each target from its own past, with "shared" weights or its "own"; or all of them
    from all channels, "mixed". ``window_norm`` by default: last for nlinear, none for dlinear.
    ``kernel`` steps are in dlinear's moving average.
    """

    variant: Literal["nlinear", "dlinear"] = "nlinear"
    channels: Literal["shared", "own", "mixed"] = "shared"
    window_norm: WindowNormName | None = None
    kernel: int = Field(25, ge=1)


class LinearForecast(nn.Module):
    """A window (B, T, C) to a forecast (B, horizon, targets), each step ahead a weighted sum.

    Zeng et al., "Are Transformers Effective for Time Series Forecasting?", arXiv:2205.13504. NLinear
    works on the difference to the last value; DLinear has one map for the moving average and one for
    what is left of it. Weights start near 0: the first forecast repeats the last value, or is 0.
    """

    def __init__(self, task: TaskSpec, args: LinearSeriesArgs) -> None:
        super().__init__()
        assert isinstance(task.input, SeriesInput)
        spec, targets = task.input, len(task.targets)
        norm = args.window_norm or ("last" if args.variant == "nlinear" else "none")
        self.window = WindowNorm(task, norm)
        self.mixed, self.targets, self.horizon = args.channels == "mixed", targets, task.horizon
        self.own = [] if self.mixed else own_channels(task)
        steps = spec.length * (len(spec.channels) if self.mixed else 1)
        self.trend = Trend(min(args.kernel, spec.length)) if args.variant == "dlinear" else None
        maps = 1 if self.trend is None else 2
        self.head = nn.ModuleList(_map(args.channels, steps, task.horizon, targets) for _ in range(maps))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, horizon, targets)."""
        x, window = self.window(values)
        x = x.transpose(1, 2)
        if not self.mixed:
            x = x[:, self.own]  # (B, R, T)
        parts = [x]
        if self.trend is not None:
            trend = self.trend(x)
            parts = [x - trend, trend]
        if self.mixed:
            parts = [part.flatten(1) for part in parts]
        y = torch.stack([layer(part) for layer, part in zip(self.head, parts, strict=True)]).sum(0)
        y = y.view(-1, self.targets, self.horizon)  # the axes of mixed maps are still one
        return self.window.back(y.transpose(1, 2), window)


class Trend(nn.Module):
    """The moving average over ``kernel`` steps of (B, R, T), with replicate padding."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, R, T) -> (B, R, T)."""
        before = (self.kernel - 1) // 2
        padded = nn.functional.pad(x, (before, self.kernel - 1 - before), mode="replicate")
        return nn.functional.avg_pool1d(padded, self.kernel, stride=1)


class OwnLinear(nn.Module):
    """A linear map for each target: (B, R, T) to (B, R, horizon)."""

    def __init__(self, steps: int, horizon: int, targets: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(targets, steps, horizon))
        self.bias = nn.Parameter(torch.zeros(targets, horizon))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, R, T) -> (B, R, horizon)."""
        return torch.einsum("brt,rth->brh", x, self.weight) + self.bias


class LinearSeries(nn.Module):
    """Series (B, T, C) to (B, outputs): one linear layer over every value.

    Where lengths (B,) vary, over the mean and the largest value of each channel instead.
    """

    def __init__(self, spec: SeriesInput, outputs: int) -> None:
        super().__init__()
        channels = len(spec.channels)
        self.head = head(2 * channels if spec.varies else spec.length * channels, outputs)

    def forward(self, values: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, C) and (B,) -> (B, outputs)."""
        if lengths is None:
            x = values.flatten(1)
        else:
            x = torch.cat([mean_steps(values, lengths), max_steps(values, lengths)], dim=1)
        y: torch.Tensor = self.head(x)
        return y


def _map(channels: str, steps: int, horizon: int, targets: int) -> nn.Module:
    if channels == "own":
        return OwnLinear(steps, horizon, targets)
    return head(steps, horizon * targets if channels == "mixed" else horizon)


def build(task: TaskSpec, args: LinearSeriesArgs) -> nn.Module:
    """The linear model of a task."""
    assert isinstance(task.input, SeriesInput)
    return (
        LinearForecast(task, args)
        if task.kind == "forecast"
        else LinearSeries(task.input, task.num_outputs)
    )


register(
    ModelEntry(
        name="linear",
        kind="series",
        build=build,
        head=lambda module: "head",
        tasks=(*SUPERVISED, "forecast"),
        args=LinearSeriesArgs,
        recipe={"optim": {"lr": 1e-2}, "fit": {"epochs": 60, "batch_size": 16}},
        recipes={
            "forecast": {
                "optim": {"lr": 1e-3},
                "fit": {"epochs": 10, "batch_size": 64, "min_steps": 1000},
            }
        },
        summary="forecasts as NLinear and DLinear do; a linear baseline for other tasks",
    )
)
