"""What sinks may draw after an epoch: histograms of weights and gradients, and predicted images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from dlcli.data.base import Reader
from dlcli.events import Emit, Examples, Histograms
from dlcli.task import ImageInput
from dlcli.training.distributed.world import World
from dlcli.training.loop.state import Progress
from dlcli.training.plan import Plan
from dlcli.zoo.forward import predict

_BINS = 64
_IMAGES = 16


def make_watch(
    plan: Plan, module: nn.Module, reader: Reader, device: torch.device, emit: Emit, world: World
) -> Callable[[Progress], None]:
    """What to do after an epoch, on the main process; nothing where no sink asks for it."""
    config = plan.config.fit
    shown = _images(reader) if config.tensorboard and world.main and _has_names(plan) else None

    def watch(progress: Progress) -> None:
        if not (config.tensorboard and world.main):
            return
        if config.histograms:
            named = list(module.named_parameters())
            weights = {name: _histogram(p) for name, p in named}
            gradients = {name: _histogram(p.grad) for name, p in named if p.grad is not None}
            emit(Histograms(progress.step, weights, gradients))
        if shown is not None:
            pixels, targets = shown
            answers = predict(module, (pixels,), plan.task, device).argmax(axis=1)
            names = plan.task.class_names
            true, said = ([names[i] for i in found.tolist()] for found in (targets, answers))
            emit(Examples(progress.step, pixels, tuple(true), tuple(said)))

    return watch


def _has_names(plan: Plan) -> bool:
    return isinstance(plan.task.input, ImageInput) and plan.task.kind == "classification"


def _images(reader: Reader) -> tuple[Any, Any] | None:
    """Evenly spread validation images and their classes."""
    where = np.unique(np.linspace(0, len(reader) - 1, _IMAGES).round().astype(np.int64))
    (pixels,), kept = reader.read(where)
    return (pixels, reader.targets(kept)) if len(kept) else None


def _histogram(tensor: torch.Tensor) -> tuple[Any, Any]:
    """Counts (bins,) and edges (bins + 1,) of the finite values."""
    values = tensor.detach().float().cpu().numpy().ravel()
    counts, edges = np.histogram(values[np.isfinite(values)], bins=_BINS)
    return counts, edges
