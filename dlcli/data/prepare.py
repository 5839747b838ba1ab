"""From a batch of host arrays to what a model file takes, by name; and noise of the same form.

NumPy only: the torch twin of `prepare` is `dlcli.zoo.forward.model_inputs`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs
from dlcli.data.images.decode import normalize
from dlcli.task import (
    SPECIAL_TOKENS,
    START,
    ImageInput,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TaskSpec,
    TextInput,
)


def prepare(inputs: Inputs, task: TaskSpec) -> dict[str, npt.NDArray[Any]]:
    """The tensors of ``task.input.signature`` by name: pixels are normalised, the rest is as it is."""
    if isinstance(task.input, ImageInput):
        inputs = (normalize(inputs[0], task.input),)
    return {
        tensor.name: np.asarray(array, dtype=tensor.dtype)
        for tensor, array in zip(task.input.signature, inputs, strict=True)
    }


def random_inputs(task: TaskSpec, count: int, *, length: int | None = None, seed: int = 0) -> Inputs:
    """Noise that the task's reader could have given for ``count`` samples.

    ``length`` is the longest sequence of the batch where lengths vary (default: up to 32 steps).
    """
    rng, spec = np.random.default_rng(seed), task.input
    if isinstance(spec, ImageInput):
        shape = (count, spec.height, spec.width, spec.channels)
        return (rng.integers(0, 256, shape, dtype=np.uint8),)
    if isinstance(spec, TabularInput):
        codes = [rng.integers(0, column.codes, count) for column in spec.categories]
        numbers = rng.normal(size=(count, len(spec.numbers)))
        missing = rng.random((count, len(spec.numbers))) < 0.1
        marked = [i for i, column in enumerate(spec.numbers) if column.indicator]
        for i in marked:
            numbers[missing[:, i], i] = _filled(spec.numbers[i])
        return (np.column_stack([numbers, missing[:, marked], *codes]).astype(np.float32),)
    if isinstance(spec, SeriesInput) and not spec.varies:
        return (rng.normal(size=(count, *spec.shape)).astype(np.float32),)
    if isinstance(spec, SeriesInput):
        lengths = _lengths(rng, count, min(length or 32, spec.length))
        values = rng.normal(size=(count, int(lengths.max()), len(spec.channels))).astype(np.float32)
        values[np.arange(values.shape[1]) >= lengths[:, None]] = 0
        return (values, lengths)
    if isinstance(spec, TextInput):
        return _tokens(rng, spec, count, length)
    assert isinstance(spec, PairsInput)
    prefix, _ = _tokens(rng, spec.target, count, length)
    prefix[:, 0] = START
    return (*_tokens(rng, spec.source, count, length), prefix)


def _filled(column: NumberColumn) -> float:
    """What a missing cell is encoded as."""
    value = column.fill
    if column.log:
        value = float(np.sign(value) * np.log1p(abs(value)))
    return (value - column.mean) / column.std


def _tokens(
    rng: np.random.Generator, spec: TextInput, count: int, length: int | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    lengths = _lengths(rng, count, min(length or 32, spec.max_length))
    low = min(len(SPECIAL_TOKENS), spec.vocab_size - 1)
    tokens = rng.integers(low, spec.vocab_size, (count, int(lengths.max())))
    tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] = 0
    return tokens, lengths


def _lengths(rng: np.random.Generator, count: int, longest: int) -> npt.NDArray[np.int64]:
    lengths = rng.integers(1, longest + 1, count)
    lengths[0] = longest
    return lengths


def trim(inputs: Inputs, task: TaskSpec) -> Inputs:
    """A batch without the padding after its longest sequence."""
    names = [tensor.name for tensor in task.input.signature]
    if "lengths" not in names:
        return inputs
    longest = int(inputs[names.index("lengths")].max())
    return (inputs[0][:, :longest], *inputs[1:])
