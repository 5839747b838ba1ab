"""The module of a run: how a step calls it, which layers train, averages and masks of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from dlcli.training.optim.freezing import Freezing
from dlcli.training.pruning_masks import Masks
from dlcli.training.sync_batchnorm import RunningStatistics
from dlcli.training.weight_averaging import WeightAverage

Forward = Callable[..., torch.Tensor]


@dataclass
class TrainableModel:
    """A module on the training device, with everything but the optimizer that changes it.

    A training step calls ``forward``, which is ``wrap(module)``: distributed, compiled. The module is
    wrapped again when layers are unfrozen. ``averages`` are "ema" and "swa", where enabled; ``masks``
    those of pruned weights. With ``sync_batch_norm`` batch norms see the samples of all processes.
    """

    module: nn.Module
    wrap: Callable[[nn.Module], Forward]
    freezing: Freezing
    averages: Mapping[str, WeightAverage]
    masks: Masks | None
    sync_batch_norm: bool
    forward: Forward = field(init=False, repr=False)
    running_statistics: RunningStatistics = field(init=False, repr=False)
    _unfreezing: list[tuple[nn.Parameter, float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.forward = self.wrap(self.module)
        self.running_statistics = RunningStatistics(self.module)
        starts = self.freezing.starts
        self._unfreezing = [
            (parameter, starts[name])
            for name, parameter in self.module.named_parameters()
            if math.isfinite(starts.get(name, math.inf))
        ]

    def unfreeze(self, share: float) -> bool:
        """Unfreeze the layers that train from ``share`` (0 to 1) of the run on; True if any changed."""
        if not any(p.requires_grad != (share >= start) for p, start in self._unfreezing):
            return False
        self.freezing.apply(self.module, share)
        self.forward = self.wrap(self.module)
        return True

    def after_update(self) -> None:
        """Mask the pruned weights and update the moving average, after each step of the optimizer."""
        if self.masks is not None:
            self.masks.apply()
        if "ema" in self.averages:
            self.averages["ema"].update(self.module)

    def with_average(self, name: str) -> AbstractContextManager[object]:
        """Context in which the module has averaged weights, if there are any."""
        average = self.averages.get(name)
        return nullcontext() if average is None or not average.n else average.applied(self.module)


def set_train_mode(module: nn.Module) -> None:
    """Train mode, except batch norms whose weights are frozen: their statistics stay frozen too."""
    module.train()
    for part in module.modules():
        parameters = list(part.parameters(recurse=False))
        frozen = parameters and not any(p.requires_grad for p in parameters)
        if hasattr(part, "running_mean") and frozen:
            part.eval()
