"""Files of one size: inputs of any batch and length are fed in batches and lengths of exactly that size.

n samples go to a file that takes batches of B in ceil(n / B) calls, the last one padded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli import transforms
from dlcli.card import Card
from dlcli.data.base import Inputs
from dlcli.errors import DlcliError
from dlcli.task import PairsInput, TaskSpec

if TYPE_CHECKING:
    from dlcli.config import ExportConfig
    from dlcli.formats.base import Outputs

# By dimension name: "batch", "length", ...; what the record of a card holds.
Sizes = dict[str, int]


def sizes_of(card: Card) -> Sizes | None:
    """The sizes that a file of one size takes, by the names of its dimensions; None where all vary."""
    record = transforms.find_record(card.transforms, transforms.STATIC_SHAPE)
    return None if record is None else {str(name): int(size) for name, size in record.args.items()}


def requested_sizes(config: ExportConfig, task: TaskSpec) -> Sizes | None:
    """The sizes that ``--static --batch-size --length`` set; None for a file of any size."""
    if config.dynamic:
        return None
    named = {d: _longest(d, task) for t in task.input.signature for d in t.dims if isinstance(d, str)}
    sizes = {
        name: longest if config.length is None else min(config.length, longest)
        for name, longest in named.items()
    }
    return {**sizes, "batch": config.batch_size or 1}


def with_sizes(card: Card, sizes: Sizes | None) -> Card:
    """The card of a file of these sizes."""
    return card if sizes is None else card.with_record(transforms.STATIC_SHAPE, **sizes)


def run_static(
    run: Callable[[Inputs], Outputs], inputs: Inputs, task: TaskSpec, sizes: Sizes
) -> Outputs:
    """The outputs of ``run``, which takes ``sizes`` alone, for a batch of any size.

    Longer texts and series are cropped at the end. Raises: DlcliError for a prefix that is too long.
    """
    names = [tensor.name for tensor in task.input.signature]
    chunks, batch = [], sizes["batch"]
    for start in range(0, len(inputs[0]), batch):
        chunk = [array[start : start + batch] for array in inputs]
        rows, prefix = len(chunk[0]), 0
        for i, tensor in enumerate(task.input.signature):
            fixed = {axis: sizes[d] for axis, d in enumerate(tensor.dims) if isinstance(d, str)}
            if tensor.name == "prefix":
                prefix = chunk[i].shape[1]
                if prefix > fixed[1]:
                    raise DlcliError(
                        f"the file writes at most {fixed[1]} tokens, and {prefix} were given",
                        hint="export it again with a larger --length, or --dynamic",
                    )
            chunk[i] = _crop_and_pad(chunk[i], fixed)
        if "lengths" in names:
            at = names.index("lengths")
            chunk[at] = np.clip(chunk[at], 1, chunk[0].shape[1])  # padding rows have a length too
        outputs = run(tuple(chunk))[:rows]
        chunks.append(outputs[:, :prefix] if isinstance(task.input, PairsInput) else outputs)
    return np.concatenate(chunks)


def batches_of_its_size(inputs: Inputs, card: Card) -> list[Inputs]:
    """The batch as it is, or where a file is of one size, in batches of that size."""
    sizes = sizes_of(card)
    if sizes is None:
        return [inputs]
    batches: list[Inputs] = []

    def record(batch: Inputs) -> Outputs:
        batches.append(batch)
        return np.zeros((len(batch[0]), 1, 1), np.float32)

    run_static(record, inputs, card.task, sizes)
    return batches


def _crop_and_pad(array: npt.NDArray[Any], fixed: dict[int, int]) -> npt.NDArray[Any]:
    """The array cropped and padded with zeros to fixed sizes, by axis."""
    for axis, size in fixed.items():
        array = array[(slice(None),) * axis + (slice(size),)]
    padding = [(0, fixed.get(axis, size) - size) for axis, size in enumerate(array.shape)]
    return np.pad(array, padding) if any(after for _, after in padding) else array


def _longest(dim: str, task: TaskSpec) -> int:
    spec = task.input
    if dim == "batch":
        return 1
    if isinstance(spec, PairsInput):
        return spec.target.max_length if dim == "target_length" else spec.source.max_length
    return spec.shape[0]
