"""Tiny inputs, tasks and models of every kind of data, and their files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dlcli.card import Card, ModelSpec
from dlcli.data.prepare import prepare, random_inputs
from dlcli.data.tensors.spec import TensorInput, TensorPart
from dlcli.formats.base import Artifact, open_artifact
from dlcli.formats.checkpoint import save_model
from dlcli.formats.readable_outputs import has_readable_outputs
from dlcli.task import (
    SPECIAL_TOKENS,
    CategoryColumn,
    ImageInput,
    InputSpec,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskKind,
    TaskSpec,
    TextInput,
)
from dlcli.zoo.base import build_model


def image(
    side: int = 8, channels: int = 3, *, mean: float = 0.5, std: float = 0.25, **fields: Any
) -> ImageInput:
    """Square images, resized and not cropped."""
    sizes = {"height": side, "width": side, "resize_size": side}
    scales = {"mean": (mean,) * channels, "std": (std,) * channels}
    return ImageInput(**{"channels": channels, **sizes, **scales, **fields})


def text(words: Iterable[object] = range(20), max_length: int = 10, **fields: Any) -> TextInput:
    """Texts of these words."""
    vocabulary = (*SPECIAL_TOKENS, *map(str, words))
    return TextInput(vocabulary=vocabulary, max_length=max_length, **fields)


def table(
    numbers: Iterable[str] = ("a", "b"),
    categories: Mapping[str, Iterable[object]] | None = None,
    *,
    indicators: Collection[str] = (),
    bin_edges: tuple[float, ...] = (),
) -> TabularInput:
    """Columns of numbers, and of categories with their values (default: one, "c" of x, y and z).

    The numbers in ``indicators`` have an indicator of missing values, all of them ``bin_edges``.
    """
    values = {"c": "xyz"} if categories is None else categories
    return TabularInput(
        numbers=tuple(
            NumberColumn(name=name, indicator=name in indicators, bin_edges=bin_edges)
            for name in numbers
        ),
        categories=tuple(
            CategoryColumn(name=name, values=tuple(map(str, each))) for name, each in values.items()
        ),
    )


def series(
    channels: Iterable[str] = ("u", "v"), length: int = 12, *, varies: bool = False, **fields: Any
) -> SeriesInput:
    """Series of one length, or of up to it; mean 0 and std 1."""
    names = tuple(channels)
    scales = {"mean": (0.0,) * len(names), "std": (1.0,) * len(names)}
    return SeriesInput(**{"channels": names, "length": length, "varies": varies, **scales, **fields})


def pairs(source: TextInput | None = None, target: TextInput | None = None) -> PairsInput:
    """Two texts."""
    source = source or text()
    return PairsInput(source=source, target=target or source)


def tensors(**shapes: tuple[int, ...]) -> TensorInput:
    """Tensors of floats from -1 to 1 by name; by default (3, 4) and (5,)."""
    parts = shapes or {"plane": (3, 4), "line": (5,)}
    return TensorInput(
        tensors=tuple(
            TensorPart(name=name, dtype="float32", shape=shape, low=-1, high=1)
            for name, shape in parts.items()
        )
    )


INPUTS: dict[str, InputSpec] = {
    "tensor": tensors(),
    "image": image(),
    "tabular": table(),
    "text": text(),
    "series": series(varies=True),
    "pairs": pairs(),
}


def make_task(
    spec: InputSpec,
    kind: TaskKind | None = None,
    *,
    classes: Iterable[str] = "abc",
    targets: Iterable[str | TargetNumber] = ("y",),
    horizon: int = 4,
    embedding_size: int = 4,
) -> TaskSpec:
    """A task on an input, by default a classification, of pairs seq2seq.

    A target that is given by name has mean 3 and std 2.
    """
    kind = kind or ("seq2seq" if spec.kind == "pairs" else "classification")
    numbers = [
        TargetNumber(name=each, mean=3.0, std=2.0) if isinstance(each, str) else each for each in targets
    ]
    return TaskSpec(
        kind=kind,
        input=spec,
        class_names=tuple(classes) if kind in ("classification", "multilabel", "embedding") else (),
        targets=tuple(numbers) if kind in ("regression", "forecast") else (),
        horizon=horizon if kind == "forecast" else 0,
        embedding_size=embedding_size if kind == "embedding" else 0,
    )


_ENCODER = {"layers": 1, "heads": 2, "dim": 8, "ff": 8}
# One channel: its strides are contiguous in two ways, of which compiled code knows one.
_GREY = image(9, 1, mean=0.4, std=0.3)
MODELS: dict[str, tuple[ModelSpec, TaskSpec]] = {
    "cnn": (ModelSpec(name="cnn", args={"widths": [4, 8], "hidden": 8}), make_task(_GREY)),
    "embedding": (ModelSpec(name="mlp"), make_task(_GREY, "embedding")),
    "lstm": (ModelSpec(name="lstm", args={"hidden": 8, "dim": 8}), make_task(text())),
    "gru": (ModelSpec(name="gru", args={"hidden": 8, "dim": 8}), make_task(text())),
    "rnn": (ModelSpec(name="rnn", args={"hidden": 8}), make_task(INPUTS["series"], "regression")),
    "transformer": (ModelSpec(name="transformer", args=_ENCODER), make_task(text())),
    "series": (ModelSpec(name="transformer", args=_ENCODER), make_task(INPUTS["series"], "regression")),
    "forecast": (ModelSpec(name="linear"), make_task(series(), "forecast", targets=("u",))),
    "table": (ModelSpec(name="mlp"), make_task(table(("n",), {"c": "xy"}), "multilabel")),
    "seq2seq": (ModelSpec(name="seq2seq", args=_ENCODER), make_task(pairs())),
    "tensors": (ModelSpec(name="mlp", args={"widths": [8]}), make_task(tensors())),
}
# Batch and longest length, neither of them those that anything is traced with.
SHAPES = ((1, 1), (1, 5), (7, 10), (32, 3))


def model_inputs(
    task: TaskSpec, count: int, length: int | None = None, *, seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """Random samples as the module takes them, the longest of ``length`` steps."""
    arrays = prepare(random_inputs(task, count, length=length, seed=seed), task)
    return tuple(torch.from_numpy(array) for array in arrays.values())


def randomize_batchnorm(module: nn.Module) -> None:
    """Statistics and weights as after training: fresh ones would hide a norm that is left out."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)


def build(name: str) -> nn.Module:
    """A model of `MODELS`, in eval mode, the same each time."""
    spec, task = MODELS[name]
    torch.manual_seed(0)
    module = build_model(spec, task).eval()
    randomize_batchnorm(module)
    return module


def save(folder: Path, name: str) -> Path:
    """A model of `MODELS` as ``name.safetensors`` in the folder."""
    spec, task = MODELS[name]
    path = folder / f"{name}.safetensors"
    save_model(path, build(name), Card(model=spec, task=task))
    return path


def artifact(folder: Path, name: str) -> Artifact:
    """A model of `MODELS`, saved and opened on the CPU."""
    return open_artifact(save(folder, name), device="cpu")


def largest_difference(
    reference: Artifact, other: Artifact, *, shapes: Iterable[tuple[int, int]] = SHAPES
) -> float:
    """The largest difference of two artifacts' outputs over several batches and lengths.

    Logits of a file that gives probabilities are those of the model up to a constant a row.
    """
    largest = 0.0
    free = has_readable_outputs(other.card) and other.card.task.kind == "classification"
    for count, length in shapes:
        inputs = random_inputs(reference.card.task, count, length=length, seed=count)
        expected, outputs = reference.predict(inputs), other.predict(inputs)
        assert outputs.dtype == np.float32
        assert outputs.shape == expected.shape
        if free:
            expected, outputs = (one - one.mean(-1, keepdims=True) for one in (expected, outputs))
        largest = max(largest, float(np.abs(outputs - expected).max()))
    return largest
