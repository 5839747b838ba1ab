"""Small models of many kinds, with batch norms as after training."""

from __future__ import annotations

import platform
from typing import Any

import tiny
import torch
from torch import nn

from dlcli.card import ModelSpec
from dlcli.data.prepare import random_inputs
from dlcli.machine.hardware import cpu
from dlcli.task import TaskSpec
from dlcli.zoo.base import build_model
from dlcli.zoo.forward import model_inputs

IMAGE = tiny.image(32)
SERIES = tiny.series("ab", 20, varies=True)
TEXT = tiny.text("abcdefgh", 20)
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
    task = tiny.make_task(spec, classes="xyz")
    model = ModelSpec(name=name.rpartition(" ")[2], args=args)
    torch.manual_seed(0)
    module = build_model(model, task).eval()
    tiny.randomize_batchnorm(module)
    return task, model, module


def batch(task: TaskSpec, count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Noise as the module takes it."""
    return model_inputs([torch.from_numpy(a) for a in random_inputs(task, count, seed=seed)], task)


def int8_saturates() -> bool:
    """Whether this CPU has no VNNI: ONNX Runtime then adds pairs of u8 x s8 products in 16 bits."""
    known = {"AVX-VNNI", "AVX512-VNNI"} & set(cpu()["instruction_sets"])
    return platform.machine() in ("x86_64", "AMD64") and not known
