"""Files of one size: whatever is asked, they are fed batches and lengths of exactly that size.

n samples are asked of a file that takes batches of B: they go in ceil(n / B) calls, the last one padded.
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

# A remark: args {"batch": B, "length": T, ...}, a size for each dimension that has a name in the task.

Sizes = dict[str, int]


def sizes_of(card: Card) -> Sizes | None:
    """The sizes that a file of one size takes, by the names of its dimensions; None where all vary."""
    record = transforms.find_record(card.transforms, transforms.STATIC_SHAPE)
    return None if record is None else {str(name): int(size) for name, size in record.args.items()}


def asked_sizes(config: ExportConfig, task: TaskSpec) -> Sizes | None:
    """The sizes that ``--static --batch-size --length`` ask for; None for a file of any size."""
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


def ask_fixed(ask: Callable[[Inputs], Outputs], inputs: Inputs, task: TaskSpec, sizes: Sizes) -> Outputs:
    """The answers of ``ask``, which takes ``sizes`` alone, for a batch of any size.

    Longer texts and series lose their end. Raises: DlcliError for a prefix longer than the file takes.
    """
    names = [tensor.name for tensor in task.input.signature]
    parts, batch = [], sizes["batch"]
    for start in range(0, len(inputs[0]), batch):
        part = [array[start : start + batch] for array in inputs]
        rows, written = len(part[0]), 0
        for i, tensor in enumerate(task.input.signature):
            wanted = {axis: sizes[d] for axis, d in enumerate(tensor.dims) if isinstance(d, str)}
            if tensor.name == "prefix":
                written = part[i].shape[1]
                if written > wanted[1]:
                    raise DlcliError(
                        f"the file writes at most {wanted[1]} tokens, and {written} were given",
                        hint="export it again with a larger --length, or --dynamic",
                    )
            part[i] = _sized(part[i], wanted)
        if "lengths" in names:
            at = names.index("lengths")
            longest = part[0].shape[1]
            part[at] = np.clip(part[at], 1, longest)  # the rows of the padding too
        answers = ask(tuple(part))[:rows]
        parts.append(answers[:, :written] if isinstance(task.input, PairsInput) else answers)
    return np.concatenate(parts)


def _sized(array: npt.NDArray[Any], wanted: dict[int, int]) -> npt.NDArray[Any]:
    """The array cut and padded with zeros to the sizes wanted, by axis."""
    for axis, size in wanted.items():
        array = array[(slice(None),) * axis + (slice(size),)]
    padding = [(0, wanted.get(axis, have) - have) for axis, have in enumerate(array.shape)]
    return np.pad(array, padding) if any(after for _, after in padding) else array


def _longest(dim: str, task: TaskSpec) -> int:
    spec = task.input
    if dim == "batch":
        return 1
    if isinstance(spec, PairsInput):
        return spec.target.max_length if dim == "target_length" else spec.source.max_length
    return spec.shape[0]
