"""Snapshots after an epoch, for sinks: histograms of weights and gradients, and predicted images."""

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


def make_snapshot(
    plan: Plan, module: nn.Module, reader: Reader, device: torch.device, emit: Emit, world: World
) -> Callable[[Progress], None]:
    """Return the function to call after an epoch; it emits on the main process, for TensorBoard."""
    config = plan.config.fit
    images = _images(reader) if config.tensorboard and world.main and _has_names(plan) else None

    def snapshot(progress: Progress) -> None:
        if not (config.tensorboard and world.main):
            return
        if config.histograms:
            named = list(module.named_parameters())
            weights = {name: _histogram(p) for name, p in named}
            gradients = {name: _histogram(p.grad) for name, p in named if p.grad is not None}
            emit(Histograms(progress.step, weights, gradients))
        if images is not None:
            pixels, targets = images
            predicted = predict(module, (pixels,), plan.task, device).argmax(axis=1)
            names = plan.task.class_names
            true, labels = (
                tuple(names[i] for i in indices.tolist()) for indices in (targets, predicted)
            )
            emit(Examples(progress.step, pixels, true, labels))

    return snapshot


def _has_names(plan: Plan) -> bool:
    return isinstance(plan.task.input, ImageInput) and plan.task.kind == "classification"


def _images(reader: Reader) -> tuple[Any, Any] | None:
    """Validation images at equal distances, with their classes."""
    indices = np.unique(np.linspace(0, len(reader) - 1, _IMAGES).round().astype(np.int64))
    (pixels,), readable = reader.read(indices)
    return (pixels, reader.targets(readable)) if len(readable) else None


def _histogram(tensor: torch.Tensor) -> tuple[Any, Any]:
    """Counts (bins,) and edges (bins + 1,) of the finite values."""
    values = tensor.detach().float().cpu().numpy().ravel()
    counts, edges = np.histogram(values[np.isfinite(values)], bins=_BINS)
    return counts, edges
