"""Window normalisation for forecasts: each window is normalised, its forecast denormalised.

B windows, T steps, C channels, H steps ahead, R targets. A level that drifts between the training
split and the test split is the main thing a forecast gets wrong: a raw LSTM loses to repeating the
last value.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from dlcli.errors import UsageError
from dlcli.task import SeriesInput, TaskSpec

WindowNormName = Literal["last", "standard", "none"]
Window = tuple[torch.Tensor, torch.Tensor]  # what was subtracted and divided by, (B, 1, C) each

# Below this variance (in units of the training split) a window counts as constant.
_EPSILON = 1e-5


class WindowNorm(nn.Module):
    """Normalises a window and denormalises its forecast.

    ``how`` "last" subtracts each channel's last value (Zeng et al., arXiv:2205.13504); "standard"
    subtracts its mean and divides by its std (as in Liu et al., arXiv:2205.14415, without
    learned factors); "none" does nothing. It has no weights. A target that is no input channel has
    no level of its own in the window, so the model's output for it stays unchanged.
    """

    centre_of: torch.Tensor
    factor: torch.Tensor
    offset: torch.Tensor
    known: torch.Tensor

    def __init__(self, task: TaskSpec, how: WindowNormName) -> None:
        super().__init__()
        assert isinstance(task.input, SeriesInput)
        self.how = how
        spec, targets = task.input, task.targets
        # The window is in the scaled units of the inputs, the output in those of the targets.
        where = [spec.channels.index(t.name) if t.name in spec.channels else -1 for t in targets]
        factor = [spec.std[c] / t.std if c >= 0 else 1.0 for c, t in zip(where, targets, strict=True)]
        offset = [
            (spec.mean[c] - t.mean) / t.std if c >= 0 else 0.0
            for c, t in zip(where, targets, strict=True)
        ]
        known = [float(c >= 0) for c in where]
        self.register_buffer("centre_of", torch.tensor([max(c, 0) for c in where]), persistent=False)
        self.register_buffer("factor", torch.tensor(factor), persistent=False)
        self.register_buffer("offset", torch.tensor(offset), persistent=False)
        self.register_buffer("known", torch.tensor(known), persistent=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Window]:
        """Values (B, T, C) to their normalised form and what `back` needs."""
        if self.how == "last":
            centre, scale = x[:, -1:], torch.ones_like(x[:, -1:])
        elif self.how == "standard":
            centre = x.mean(1, keepdim=True)
            scale = (((x - centre) ** 2).mean(1, keepdim=True) + _EPSILON).sqrt()
        else:
            return x, (torch.zeros_like(x[:, -1:]), torch.ones_like(x[:, -1:]))
        return (x - centre) / scale, (centre, scale)

    def back(self, y: torch.Tensor, window: Window) -> torch.Tensor:
        """Outputs (B, H, R) for a normalised window to scaled numbers of the targets."""
        if self.how == "none":
            return y
        centre, scale = (part[:, :, self.centre_of] for part in window)  # (B, 1, R)
        level = centre * self.factor + self.offset
        # Where a target is no channel: y * 1 + 0.
        std = 1 + self.known * (scale * self.factor - 1)
        return y * std + self.known * level


def own_channels(task: TaskSpec) -> list[int]:
    """The index of each target among the channels. Raises: UsageError for one that is none of them."""
    assert isinstance(task.input, SeriesInput)
    channels = task.input.channels
    for target in task.targets:
        if target.name not in channels:
            raise UsageError(
                f"{target.name!r} is no channel of the input, so it has no past to be forecast from",
                hint="--set model.args.channels=mixed forecasts it from the other channels",
            )
    return [channels.index(target.name) for target in task.targets]
