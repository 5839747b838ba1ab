"""Small models of many kinds, with batch norms as after training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlcli.card import ModelSpec
from dlcli.data.prepare import random_inputs
from dlcli.task import SPECIAL_TOKENS, ImageInput, SeriesInput, TaskSpec, TextInput
from dlcli.zoo.base import build_model
from dlcli.zoo.forward import model_inputs

IMAGE = ImageInput(channels=3, height=32, width=32, resize_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
SERIES = SeriesInput(channels=("a", "b"), length=20, varies=True, mean=(0.0, 0.0), std=(1.0, 1.0))
TEXT = TextInput(max_length=20, vocabulary=(*SPECIAL_TOKENS, *"abcdefgh"))
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cnn": (IMAGE, {}),
    "mlp": (IMAGE, {}),
    "resnet18": (IMAGE, {}),
    "mobilenet_v2": (IMAGE, {}),
    "series cnn": (SERIES, {"widths": (8, 8), "norm": "batch"}),
    "text cnn": (TEXT, {"dim": 8, "filters": 6, "norm": "batch"}),
    "text transformer": (TEXT, {"layers": 1, "heads": 2, "dim": 8, "ff": 16}),
}


def make(name: str) -> tuple[TaskSpec, ModelSpec, nn.Module]:
    """A task, the model's spec and the model, in eval mode."""
    spec, args = MODELS[name]
    task = TaskSpec(kind="classification", input=spec, class_names=("x", "y", "z"))
    model = ModelSpec(name=name.rpartition(" ")[2], args=args)
    torch.manual_seed(0)
    module = build_model(model, task).eval()
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
    return task, model, module


def batch(task: TaskSpec, count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Noise as the module takes it."""
    return model_inputs([torch.from_numpy(a) for a in random_inputs(task, count, seed=seed)], task)
