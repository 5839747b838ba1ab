"""Convert a batch of a reader to the inputs of a model file by name; draw random inputs.

NumPy only: the torch counterpart of `prepare` is `dlcli.zoo.forward.model_inputs`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs
from dlcli.data.kinds import kind_of
from dlcli.task import TaskSpec


def prepare(inputs: Inputs, task: TaskSpec) -> dict[str, npt.NDArray[Any]]:
    """Convert the arrays of a reader to the tensors of ``task.input.signature``, by name."""
    arrays = kind_of(task).to_model(inputs, task.input)
    return {
        tensor.name: np.asarray(array, dtype=tensor.dtype)
        for tensor, array in zip(task.input.signature, arrays, strict=True)
    }


def random_inputs(task: TaskSpec, count: int, *, length: int | None = None, seed: int = 0) -> Inputs:
    """Draw ``count`` random samples of the form of the task's reader.

    ``length`` is that of the longest sequence where lengths vary (default: up to 32 steps).
    """
    return kind_of(task).noise(task.input, count, length, np.random.default_rng(seed))


def trim(inputs: Inputs, task: TaskSpec) -> Inputs:
    """Remove the padding after the longest sequence of a batch."""
    names = [tensor.name for tensor in task.input.signature]
    if "lengths" not in names:
        return inputs
    longest = int(inputs[names.index("lengths")].max())
    steps = have_steps(task)
    return tuple(x[:, :longest] if own else x for x, own in zip(inputs, steps, strict=True))


def have_steps(task: TaskSpec) -> tuple[bool, ...]:
    """Return which inputs have the steps of the first one as their second axis."""
    signature = task.input.signature
    return tuple(tensor.dims[1:2] == signature[0].dims[1:2] for tensor in signature)
