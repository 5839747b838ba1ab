"""Tasks of each kind, and what must hold for every model on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from torch import nn
from torch.nn import functional

from dlcli.card import Card, ModelSpec
from dlcli.config import ExportConfig
from dlcli.data.base import Inputs
from dlcli.data.prepare import prepare, random_inputs
from dlcli.formats.base import Runtime, recognize
from dlcli.formats.checkpoint import open_checkpoint, save_model
from dlcli.formats.onnx.format import open_onnx, write_onnx
from dlcli.task import (
    SPECIAL_TOKENS,
    ImageInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)
from dlcli.zoo.base import build_model, find_model


def text(vocabulary: int = 20, longest: int = 24) -> TextInput:
    return tiny.text([f"w{i}" for i in range(vocabulary - len(SPECIAL_TOKENS))], longest)


def series(length: int = 20, channels: int = 3, varies: bool = False) -> SeriesInput:
    """The channels have scales of their own."""
    scales = {"mean": tuple(map(float, range(channels))), "std": tuple(i + 1.0 for i in range(channels))}
    return tiny.series([f"c{i}" for i in range(channels)], length, varies=varies, **scales)


def table(numbers: int = 3, categories: int = 2) -> TabularInput:
    values = {f"k{i}": "xyz" for i in range(categories)}
    return tiny.table([f"n{i}" for i in range(numbers)], values, indicators=("n0",))


def image(side: int = 16, channels: int = 3) -> ImageInput:
    return tiny.image(side, channels)


def forecast(targets: tuple[str, ...] = ("c0", "c2"), horizon: int = 6, **spec: Any) -> TaskSpec:
    """The targets have scales of their own, other than their channels'."""
    numbers = [TargetNumber(name=name, mean=0.5, std=2.0) for name in targets]
    return tiny.make_task(series(**spec), "forecast", targets=numbers, horizon=horizon)


def classes(spec: Any) -> TaskSpec:
    return tiny.make_task(spec, classes="abcde")


def pairs(vocabulary: int = 20) -> TaskSpec:
    return tiny.make_task(tiny.pairs(text(vocabulary), text(vocabulary - 5)))


def make(name: str, task: TaskSpec, **args: Any) -> nn.Module:
    """The module in eval mode, with reproducible weights."""
    torch.manual_seed(0)
    return build_model(ModelSpec(name=name, args=args), task).eval()


def tensors(task: TaskSpec, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in prepare(inputs, task).values())


def check_learns(module: nn.Module, task: TaskSpec, *, steps: int = 30, lr: float = 3e-3) -> None:
    """One batch can be learned, and every parameter takes part."""
    inputs = tensors(task, random_inputs(task, 8, length=10))
    answer = module(*inputs)
    torch.manual_seed(1)
    goal = torch.randn(answer.shape) if task.targets else torch.randint(5, answer.shape[:-1])

    def loss() -> torch.Tensor:
        out = module(*inputs)
        return (
            functional.mse_loss(out, goal)
            if task.targets
            else functional.cross_entropy(out.flatten(0, -2), goal.flatten())
        )

    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr)
    first = float(loss().detach())
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        assert all(p.grad is not None for p in module.parameters())
        optimizer.step()
    module.eval()
    assert float(loss().detach()) < 0.7 * first


def check_onnx(name: str, task: TaskSpec, folder: Path, *, opset: int = 20, **args: Any) -> None:
    """The exported graph agrees at other batch sizes and lengths than it was traced with."""
    module = make(name, task, **args)
    entry = find_model(name, task.input.kind)
    spec = ModelSpec(name=name, args=entry.arguments(args).model_dump(mode="json"))
    save_model(folder / "m.safetensors", module, Card(model=spec, task=task))
    source = open_checkpoint(recognize(folder / "m.safetensors"), Runtime("cpu"))
    write_onnx(source, folder / "m.onnx", ExportConfig(opset=opset))
    written = open_onnx(recognize(folder / "m.onnx"), Runtime("cpu"))
    for count, length in ((1, 5), (3, 17)):
        inputs = random_inputs(task, count, length=length, seed=count)
        np.testing.assert_allclose(written.predict(inputs), source.predict(inputs), atol=2e-5, rtol=1e-4)
