"""A tiny model for each kind of input, saved, and noise to ask it with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dlcli.card import Card, ModelSpec
from dlcli.data.prepare import random_inputs
from dlcli.formats.base import Artifact, open_artifact
from dlcli.formats.checkpoint import save_model
from dlcli.task import (
    SPECIAL_TOKENS,
    CategoryColumn,
    ImageInput,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)
from dlcli.zoo.base import build_model

CLASSES = ("a", "b", "c")
IMAGE = TaskSpec(
    # One channel: its strides are contiguous in two ways, of which compiled code knows one.
    input=ImageInput(channels=1, height=9, width=9, resize_size=9, mean=(0.4,), std=(0.3,)),
    class_names=CLASSES,
)
TEXT_INPUT = TextInput(vocabulary=(*SPECIAL_TOKENS, *map(str, range(20))), max_length=10)
TEXT = TaskSpec(input=TEXT_INPUT, class_names=CLASSES)
SERIES = TaskSpec(
    kind="regression",
    input=SeriesInput(channels=("u", "v"), mean=(0.0,) * 2, std=(1.0,) * 2, length=12, varies=True),
    targets=(TargetNumber(name="y", mean=3.0, std=2.0),),
)
TABLE = TaskSpec(
    kind="multilabel",
    input=TabularInput(
        numbers=(NumberColumn(name="n"),), categories=(CategoryColumn(name="c", values=("x", "y")),)
    ),
    class_names=CLASSES,
)
PAIRS = TaskSpec(kind="seq2seq", input=PairsInput(source=TEXT_INPUT, target=TEXT_INPUT))
ENCODER = {"layers": 1, "heads": 2, "dim": 8, "ff": 8}

MODELS: dict[str, tuple[ModelSpec, TaskSpec]] = {
    "cnn": (ModelSpec(name="cnn", args={"widths": [4, 8], "hidden": 8}), IMAGE),
    "embedding": (
        ModelSpec(name="mlp"),
        IMAGE.model_copy(update={"kind": "embedding", "embedding_size": 4}),
    ),
    "lstm": (ModelSpec(name="lstm", args={"hidden": 8, "dim": 8}), TEXT),
    "gru": (ModelSpec(name="gru", args={"hidden": 8, "dim": 8}), TEXT),
    "rnn": (ModelSpec(name="rnn", args={"hidden": 8}), SERIES),
    "transformer": (ModelSpec(name="transformer", args=ENCODER), TEXT),
    "series": (ModelSpec(name="transformer", args=ENCODER), SERIES),
    "table": (ModelSpec(name="mlp"), TABLE),
    "seq2seq": (ModelSpec(name="seq2seq", args=ENCODER), PAIRS),
}
# Batch and longest length, neither of them those that anything is traced with.
SHAPES = ((1, 1), (1, 5), (7, 10), (32, 3))


def save(folder: Path, name: str) -> Path:
    """The model as ``name.safetensors`` in the folder."""
    spec, task = MODELS[name]
    torch.manual_seed(0)
    module = build_model(spec, task)
    for part in module.modules():  # fresh statistics would hide a norm that is left out
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.1)
    path = folder / f"{name}.safetensors"
    save_model(path, module, Card(model=spec, task=task, data=None))
    return path


def source(folder: Path, name: str) -> Artifact:
    """The model, saved and opened on the CPU."""
    return open_artifact(save(folder, name), device="cpu")


def worst(before: Artifact, after: Artifact, *, shapes: tuple[tuple[int, int], ...] = SHAPES) -> float:
    """The largest difference of two artifacts' answers over several batches and lengths."""
    found = 0.0
    for count, length in shapes:
        inputs = random_inputs(before.card.task, count, length=length, seed=count)
        expected, answer = before.predict(inputs), after.predict(inputs)
        assert answer.dtype == np.float32
        assert answer.shape == expected.shape
        found = max(found, float(np.abs(answer - expected).max()))
    return found
