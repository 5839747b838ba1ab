"""Summary of a model: its layers, their output shapes, parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dlcli.data.prepare import random_inputs
from dlcli.task import TaskSpec
from dlcli.zoo.forward import model_inputs
from dlcli.zoo.macs import count_macs


@dataclass(frozen=True)
class LayerSummary:
    """One layer as it ran: its path, class, output shape without the batch, and own parameters."""

    path: str
    type: str
    output_shape: tuple[int, ...]
    params: int


@dataclass(frozen=True)
class Summary:
    """A model on one sample. ``macs`` are multiply-adds of its matrix products and convolutions.

    A layer that runs several times is listed once, as it ran first.
    """

    layers: tuple[LayerSummary, ...]
    params: int
    macs: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def summarize(module: nn.Module, task: TaskSpec) -> Summary:
    """Run a module in eval mode on one sample of noise, the longest where lengths vary."""
    module.eval()
    longest = task.input.shape[0]
    arrays = random_inputs(task, 1, length=longest)
    inputs = model_inputs([torch.from_numpy(array) for array in arrays], task)
    layers: dict[str, LayerSummary] = {}

    def note(path: str) -> Any:
        def hook(sub: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if path not in layers and isinstance(first, torch.Tensor):
                own = sum(p.numel() for p in sub.parameters())
                layers[path] = LayerSummary(path, type(sub).__name__, tuple(first.shape[1:]), own)

        return hook

    leaves = [(path, sub) for path, sub in module.named_modules() if not list(sub.children()) and path]
    handles = [sub.register_forward_hook(note(path)) for path, sub in leaves]
    try:
        macs = count_macs(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Summary(
        layers=tuple(layers.values()),
        params=sum(p.numel() for p in module.parameters()),
        macs=sum(macs.values()),
    )
