"""The kind "tensor": a user's data set of tensors, or a `.npz` of arrays with ``--kind tensor``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource, Inputs, Reader, Samples, fingerprint
from dlcli.data.kinds import KINDS, DataKind, DataListing, Description, ModelNeeds, ReadOptions
from dlcli.data.notices import Notice, left_out
from dlcli.data.scales import make_task
from dlcli.data.tensors.rows import TensorReader, TensorRows, as_rows, fit_parts, tensor_name
from dlcli.data.tensors.spec import TensorInput, TensorPart
from dlcli.data.user_sets.targets import fit_targets
from dlcli.errors import DlcliError
from dlcli.notation.arrays import load
from dlcli.task import TaskSpec
from dlcli.user_data.samples import TARGET_NAMES

_ARRAYS = "an .npz of arrays with a row for each sample"
_REFERENCE = 8  # values
_BATCH_VALUES = 2**22  # of the tensors of a batch


def recognises(path: Path, config: DataConfig) -> bool:
    """Whether it is a `.npz`, and the user says that it is of tensors."""
    return config.kind == "tensor" and path.suffix.lower() == ".npz" and path.is_file()


def read(path: Path, config: DataConfig, other: bool) -> DataListing:
    """List the rows of a `.npz`: one array is the target, the others are tensors. Raises: DlcliError."""
    arrays = dict(_load(path))
    name = next((name for name in TARGET_NAMES if name in arrays), None)
    if name is None:
        raise DlcliError(f"{path} has no target, only {', '.join(arrays)}", hint="name an array target")
    labels = arrays.pop(name)
    if not arrays:
        raise DlcliError(f"{path} has no array besides the target", hint=f"give {_ARRAYS}")
    values = [str(v) if labels.dtype.kind == "U" else np.asarray(v) for v in labels]
    encoder = fit_targets({"all": values}, None, config, other=other, where=str(path))
    targets, valid = encoder.encode(values, str(path))
    rows = np.flatnonzero(valid)
    notices = list(encoder.inferred.notices)
    if len(rows) < len(valid):
        notices.append(left_out(f"{path}: {len(valid) - len(rows):,} samples without a target left out"))
    task = encoder.inferred.task
    return DataListing(
        splits={"all": Samples(tuple(map(str, rows.tolist())), targets, as_rows(arrays).take(rows))},
        fingerprint=fingerprint([path.read_bytes()]),
        task=task,
        class_names=encoder.inferred.class_names,
        target_names=encoder.inferred.target_names if task == "regression" else (),
        options={"kind": "tensor", "task": task, **encoder.inferred.options},
        notices=tuple(notices),
    )


def fit(source: DataSource, config: TrainConfig, needs: ModelNeeds) -> tuple[TaskSpec, list[Notice]]:
    """Take shapes and types of the tensors from the training split, and scales of numeric targets."""
    rows = source.splits["train"].items
    assert isinstance(rows, TensorRows)
    return make_task(source, TensorInput(tensors=fit_parts(rows)), config.model), []


def make_reader(samples: Samples, task: TaskSpec, options: ReadOptions) -> Reader:
    """Return the reader of the tensors."""
    assert isinstance(task.input, TensorInput)
    return TensorReader(samples, task.input, fail=options.on_bad_sample == "fail")


def inputs(arguments: Sequence[str], task: TaskSpec) -> Samples:
    """Return the rows of `.npz` files; ids are ``file:row``. Raises: DlcliError."""
    assert isinstance(task.input, TensorInput)
    pixels = frozenset(part.name for part in task.input.tensors if part.pixels)
    ids: list[str] = []
    parts = []
    for argument in arguments:
        arrays = _load(Path(argument).expanduser())
        known = {tensor_name(name): array for name, array in arrays.items()}
        missing = [part.name for part in task.input.tensors if part.name not in known]
        if missing:
            raise DlcliError(
                f"{argument} has no array {missing[0]!r}, which the model takes",
                hint=f"it has {', '.join(arrays)}",
            )
        used = {part.name: known[part.name] for part in task.input.tensors}
        parts.append(as_rows(used, pixels))
        ids += [f"{argument}:{row}" for row in range(len(parts[-1]))]
    if not parts:
        raise DlcliError("there is nothing to predict", hint=f"give {_ARRAYS}")
    for part in parts:
        for name, array in part.arrays.items():
            if array.shape[1:] != parts[0].arrays[name].shape[1:]:
                raise DlcliError(f"{name} has different shapes in these files")
    items = TensorRows.gather(parts, np.arange(len(ids)))
    return Samples(tuple(ids), np.zeros(0, dtype=np.int64), items)


def noise(spec: TensorInput, count: int, length: int | None, rng: np.random.Generator) -> Inputs:
    """Random tensors, evenly distributed over the range of the training split."""

    def draw(part: TensorPart) -> npt.NDArray[Any]:
        shape = (count, *part.shape)
        if part.dtype == "int64":
            return rng.integers(int(part.low), int(part.high), shape, endpoint=True)
        low, high = (0.0, 1.0) if part.pixels else (part.low, part.high)
        return rng.uniform(low, high, shape).astype(np.float32)

    return tuple(draw(part) for part in spec.tensors)


def _load(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    """The arrays of a `.npz`, of one number of rows. Raises: DlcliError."""
    if not path.is_file():
        raise DlcliError(f"{path} does not exist", hint=f"give {_ARRAYS}")
    arrays = load(path)
    sizes = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    if len(set(sizes.values())) != 1 or None in sizes.values():
        shown = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise DlcliError(f"{path} has arrays of different numbers of rows: {shown}", hint=_ARRAYS)
    wrong = [n for n, a in arrays.items() if a.dtype.kind not in "fiub" and n not in TARGET_NAMES]
    if wrong:
        raise DlcliError(f"{path}: {wrong[0]} holds {arrays[wrong[0]].dtype}, not numbers")
    return arrays


def _describe(spec: TensorInput) -> Description:
    def words(part: TensorPart) -> str:
        return f"{part.dtype} {part.shape}, {part.low:g} to {part.high:g}"

    return Description(tuple((part.name, words(part)) for part in spec.tensors))


def _reference_input(needs: ModelNeeds) -> TensorInput:
    part = TensorPart(name="input", dtype="float32", shape=(_REFERENCE,), low=-1.0, high=1.0)
    return TensorInput(tensors=(part,))


def _default_batch_size(spec: TensorInput) -> int:
    values = sum(int(np.prod(part.shape)) for part in spec.tensors)
    return max(1, min(256, _BATCH_VALUES // max(1, values)))


KINDS.register("tensor")(
    DataKind(
        name="tensor",
        recognises=recognises,
        read=read,
        fit=fit,
        reader=make_reader,
        inputs=inputs,
        reference_input=_reference_input,
        reference_words=f"one tensor of {_REFERENCE} numbers",
        noise=noise,
        default_batch_size=_default_batch_size,
        describe=_describe,
        size_words="{} (each sample)",
        order=5,
    )
)
