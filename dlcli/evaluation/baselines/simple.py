"""Simple baselines, in NumPy: majority, mean, raw inputs; `forecasts` has those of forecasts.

Everything is fitted on the training split and nothing else.
"""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Indices, Reader
from dlcli.evaluation.baselines.base import Baseline, constant
from dlcli.evaluation.baselines.forecasts import naive_forecasts
from dlcli.evaluation.metrics.base import Outputs
from dlcli.task import ImageInput, SeriesInput, TabularInput, TaskSpec

# Maximum size of a raw input as an embedding; larger images are downsampled by averaging.
RAW_NUMBERS = 1024


def simple_baselines(task: TaskSpec, train: Reader, test: Reader) -> list[Baseline]:
    """The baselines of a task; none for seq2seq."""
    if task.kind == "forecast":
        return naive_forecasts(task, train, test)
    if task.kind == "seq2seq":
        return []
    if task.kind == "embedding":
        return [_as_embedding(task, test)]
    targets = train.targets(np.arange(len(train), dtype=np.int64))
    if task.kind == "regression":
        stats = [(target.mean, target.std) for target in task.targets]
        mean, std = np.array(stats).T
        return [constant("mean", (targets.mean(axis=0) - mean) / std)]
    # The frequencies of training as probabilities, with one more sample of each class: none is 0.
    if task.kind == "multilabel":
        present = targets.sum(axis=0)
        odds = np.log(present + 1.0) - np.log(len(targets) - present + 1.0)
        every = Baseline("every label", lambda indices: np.ones((len(indices), len(odds))))
        return [constant("majority", odds), every]
    return [constant("majority", np.log(np.bincount(targets, minlength=task.num_classes) + 1.0))]


def _as_embedding(task: TaskSpec, test: Reader) -> Baseline:
    """The raw inputs as embeddings; random vectors where the inputs have no fixed size."""
    spec = task.input
    if isinstance(spec, ImageInput):
        return Baseline(
            "nearest pixels", lambda indices: few_pixels(spec, test, indices)[0], pixel_note(spec)
        )
    fixed = isinstance(spec, SeriesInput) and not spec.varies
    if fixed or (isinstance(spec, TabularInput) and not spec.categories):
        return Baseline(
            "nearest values", lambda indices: test.read(indices)[0][0].reshape(len(indices), -1)
        )
    draws = np.random.default_rng(0).standard_normal((len(test), 64))
    return Baseline("chance", lambda indices: draws[indices], "embeddings drawn at random")


def few_pixels(spec: ImageInput, reader: Reader, indices: Indices) -> tuple[Outputs, Indices]:
    """The normalised pixels of the readable samples, at most `RAW_NUMBERS` of each, and their indices.

    Larger images are averaged over squares. (n, numbers), (n,).
    """
    inputs, readable = reader.read(indices)
    factor = _square(spec)
    values = inputs[0] / np.float32(255)  # (n, H, W, C)
    values = ((values - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
    for axis, size in ((1, spec.height), (2, spec.width)):
        starts = np.arange(0, size, factor)
        sizes = np.diff(np.append(starts, size)).astype(np.float32)
        values = np.add.reduceat(values, starts, axis=axis)
        values /= np.expand_dims(sizes, [i for i in range(4) if i != axis])
    return values.reshape(len(values), -1), readable


def pixel_note(spec: ImageInput) -> str:
    """How `few_pixels` makes images smaller, if it does."""
    factor = _square(spec)
    return f"averaged over squares of {factor} x {factor} pixels" if factor > 1 else ""


def _square(spec: ImageInput) -> int:
    factor = 1
    while -(-spec.height // factor) * -(-spec.width // factor) * spec.channels > RAW_NUMBERS:
        factor += 1
    return factor
