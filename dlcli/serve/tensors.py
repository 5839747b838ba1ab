"""Tensors of the Open Inference Protocol v2, in JSON and binary, as arrays of a reader and back.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and the binary tensor
data extension. The inputs of a model are the arrays of its reader: uint8 pixels (n, H, W, C) of images,
which are normalised as in `predict`, and the tensors of ``task.input.signature`` of all others.
B is the number of samples.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlcli.data.tensors.spec import TensorInput
from dlcli.serve.errors import RequestError
from dlcli.task import PairsInput, SeriesInput, TabularInput, TextInput

if TYPE_CHECKING:
    import numpy.typing as npt

    from dlcli.data.base import Inputs
    from dlcli.formats.base import Outputs
    from dlcli.task import TaskSpec

    Array = npt.NDArray[Any]

_DTYPES = {
    **{"UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "BOOL": "?"},
    **{"INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8"},
    **{"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"},
}
DATATYPES = (*_DTYPES, "BYTES")
_NAMES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32", "float64": "FP64"}
_MAX_SIZE = 2**62


@dataclass(frozen=True)
class Declared:
    """A tensor of a model as its metadata has it; -1 is a size that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The entry of the metadata."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


def declared_inputs(task: TaskSpec) -> tuple[Declared, ...]:
    """The tensors that a request brings, in the order of the reader's arrays."""
    from dlcli.data.prepare import random_inputs

    declared = []
    for array, tensor in zip(random_inputs(task, 1), task.input.signature, strict=True):
        dims = tuple(-1 if at == 0 else size for at, size in enumerate(array.shape))
        if len(tensor.dims) == len(dims):
            sizes = zip(dims, tensor.dims, strict=True)
            dims = tuple(-1 if isinstance(dim, str) else size for size, dim in sizes)
        name = "pixels" if array.dtype == "uint8" and task.input.kind == "image" else tensor.name
        declared.append(Declared(name, _NAMES[array.dtype.name], dims))
    return tuple(declared)


def declared_outputs(task: TaskSpec) -> tuple[Declared, ...]:
    """The tensors that a reply can hold; the first is the output of the model itself."""
    own = tuple(-1 if isinstance(dim, str) else dim for dim in task.output.dims)
    outputs = [Declared(task.output.name, "FP32", own)]
    if task.kind in ("classification", "multilabel"):
        outputs.append(Declared("probabilities", "FP64", own))
    if task.kind == "classification":
        outputs.append(Declared("label", "BYTES", (-1,)))
    if task.targets and not _scaled_by_series(task):
        outputs.append(Declared("values", "FP64", own))
    return tuple(outputs)


def output_array(name: str, outputs: Outputs, task: TaskSpec) -> Array:
    """An output of `declared_outputs` by its name."""
    import numpy as np

    from dlcli.evaluation.decisions import decision_scores
    from dlcli.evaluation.predict import unscale
    from dlcli.evaluation.probabilities import sigmoid, softmax

    if name == "probabilities" and task.kind == "classification":
        return softmax(outputs)
    if name == "probabilities":
        return sigmoid(outputs)
    if name == "label":
        predicted = decision_scores(outputs, task).argmax(axis=1)
        labels: Array = np.asarray(task.class_names, dtype=object)[predicted]
        return labels
    if name == "values":
        return unscale(outputs, task)
    return outputs


def _scaled_by_series(task: TaskSpec) -> bool:
    return isinstance(task.input, SeriesInput) and task.input.scaled_by_series


def read_inputs(request: Any, tail: memoryview, task: TaskSpec, declared: Sequence[Declared]) -> Inputs:
    """The arrays of a request's JSON object and the binary data after it.

    Raises: RequestError (400) naming what is wrong: no such input, another type, shape or size.
    """
    import numpy as np

    tensors = request.get("inputs") if isinstance(request, dict) else None
    if not isinstance(tensors, list):
        raise RequestError(400, "the request has no list of inputs", hint=_example(declared))
    by_name: dict[str, Array] = {}
    at = 0
    for tensor in tensors:
        expected = _expected(tensor, declared)
        if expected.name in by_name:
            raise RequestError(400, f"the input {expected.name} is given twice")
        shape = _shape(tensor, expected)
        size = _binary_size(tensor, expected.name)
        if size is None:
            by_name[expected.name] = _from_json(tensor.get("data"), expected, shape)
        else:
            by_name[expected.name] = _from_bytes(tail[at : at + size], size, expected, shape)
            at += size
    if at != len(tail):
        raise RequestError(
            400, f"the request has {len(tail)} bytes of binary data and its inputs claim {at}"
        )
    missing = [each.name for each in declared if each.name not in by_name]
    if missing:
        raise RequestError(400, f"the input {missing[0]} is missing", hint=_example(declared))
    arrays = tuple(np.ascontiguousarray(by_name[each.name]) for each in declared)
    if len({len(array) for array in arrays}) > 1:
        sizes = ", ".join(f"{d.name} {len(a)}" for d, a in zip(declared, arrays, strict=True))
        raise RequestError(400, f"the inputs have different numbers of samples: {sizes}")
    if not len(arrays[0]):
        raise RequestError(400, "the inputs have no samples")
    _check_values(arrays, task)
    return arrays


def _expected(tensor: Any, declared: Sequence[Declared]) -> Declared:
    """The input that a tensor is for. Raises: RequestError."""
    name = tensor.get("name") if isinstance(tensor, dict) else None
    expected = next((each for each in declared if each.name == name), None)
    if expected is None:
        known = ", ".join(each.name for each in declared)
        raise RequestError(400, f"no input is called {str(name)[:80]!r}: there is {known}")
    datatype = tensor.get("datatype")
    if datatype != expected.datatype:
        raise RequestError(
            400, f"the input {expected.name} is {expected.datatype}, not {str(datatype)[:40]!r}"
        )
    return expected


def _shape(tensor: Mapping[str, Any], expected: Declared) -> tuple[int, ...]:
    """The shape of a tensor. Raises: RequestError where it does not fit."""
    shape = tensor.get("shape")
    sizes = shape if isinstance(shape, list) else []
    fits = len(sizes) == len(expected.shape) and all(
        type(size) is int and 0 <= size < _MAX_SIZE and declared in (-1, size)
        for size, declared in zip(sizes, expected.shape, strict=False)
    )
    if not fits:
        raise RequestError(
            400, f"the input {expected.name} has the shape {list(expected.shape)}, not {str(shape)[:80]}"
        )
    return tuple(sizes)


def _binary_size(tensor: Mapping[str, Any], name: str) -> int | None:
    """The bytes of a tensor after the JSON; None where its data is in it. Raises: RequestError."""
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or not 0 <= size < _MAX_SIZE):
        raise RequestError(400, f"binary_data_size of {name} is {str(size)[:40]!r}, no number of bytes")
    return size


def _from_json(data: Any, expected: Declared, shape: tuple[int, ...]) -> Array:
    """Numbers in lists, nested or flat. Raises: RequestError."""
    import numpy as np

    name, dtype = expected.name, np.dtype(_DTYPES[expected.datatype])
    if not isinstance(data, list):
        raise RequestError(400, f"the input {name} has no data: a list of numbers, nested or flat")
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError, TypeError) as exc:
        raise RequestError(400, f"the data of {name} is no array: {exc}") from exc
    kinds = "iuf" if dtype.kind == "f" else "iu"
    if array.size and array.dtype.kind not in kinds:
        raise RequestError(400, f"the data of {name} is not all {expected.datatype}")
    if array.size != math.prod(shape):
        raise RequestError(
            400, f"{name} has {array.size} values, and its shape {list(shape)} {math.prod(shape)}"
        )
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise RequestError(400, f"the data of {name} is outside {limits.min} to {limits.max}")
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite
        return array.astype(dtype).reshape(shape)


def _from_bytes(raw: memoryview, size: int, expected: Declared, shape: tuple[int, ...]) -> Array:
    """Little-endian numbers in row-major order. Raises: RequestError."""
    import numpy as np

    dtype = np.dtype(_DTYPES[expected.datatype])
    needed = math.prod(shape) * dtype.itemsize
    if size != needed:
        raise RequestError(
            400,
            f"{expected.name} of shape {list(shape)} has {needed} bytes in {expected.datatype}, and its "
            f"binary_data_size is {size}",
        )
    if len(raw) < size:
        raise RequestError(400, f"the binary data of {expected.name} ends after {len(raw)} bytes")
    return np.frombuffer(raw, dtype=dtype).reshape(shape).copy()  # torch takes no read-only arrays


def _check_values(arrays: Inputs, task: TaskSpec) -> None:
    """Refuse codes and lengths that no reader gives: an embedding has no row for them.

    Raises: RequestError.
    """
    spec = task.input
    named = dict(zip((tensor.name for tensor in spec.signature), arrays, strict=True))
    longest: dict[str, int] = {}  # steps by name
    if isinstance(spec, TextInput):
        longest = {"tokens": spec.max_length}
        _within("tokens", named["tokens"], 0, spec.vocab_size - 1)
        _check_types(named)
    elif isinstance(spec, PairsInput):
        longest = {"source": spec.source.max_length, "prefix": spec.target.max_length}
        _within("source", named["source"], 0, spec.source.vocab_size - 1)
        _within("prefix", named["prefix"], 0, spec.target.vocab_size - 1)
    elif isinstance(spec, SeriesInput):
        longest = {"values": spec.length}
    elif isinstance(spec, TensorInput):
        for part in spec.tensors:
            if part.dtype == "int64":
                _within(part.name, named[part.name], int(part.low), int(part.high))
    elif isinstance(spec, TabularInput):
        _check_codes(arrays[0], spec)
    for name, most in longest.items():
        _within(f"the number of steps of {name}", named[name].shape[1:2], 1, most)
    if "lengths" in named:
        _within("lengths", named["lengths"], 1, arrays[0].shape[1])


def _check_types(named: Mapping[str, Any]) -> None:
    types = named.get("types")
    if types is None:
        return
    _within("types", types, 0, 1)
    if types.shape != named["tokens"].shape:
        raise RequestError(400, "types and tokens have different shapes")


def _within(name: str, values: Any, low: int, high: int) -> None:
    import numpy as np

    array = np.asarray(values)
    if array.size and (int(array.min()) < low or int(array.max()) > high):
        raise RequestError(400, f"{name} is from {low} to {high}")


def _check_codes(rows: Array, spec: TabularInput) -> None:
    """Raises: RequestError where a row (B, F + K) has no codes of categories in its last columns."""
    import numpy as np

    if not spec.categories:
        return
    codes = rows[:, -len(spec.categories) :]
    limits = np.array([column.codes for column in spec.categories])
    # Comparisons with NaN are false.
    if not ((codes >= 0) & (codes < limits) & (codes == np.floor(codes))).all():
        raise RequestError(400, "the codes of categories are whole numbers from 0, below their count")


def write_outputs(
    request: Mapping[str, Any],
    outputs: Outputs,
    task: TaskSpec,
    declared: Sequence[Declared],
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The ``outputs`` of a reply, and the binary data after it.

    By default all outputs in JSON; a request names those that it wants, and which of them in binary.
    Raises: RequestError for one that there is not.
    """
    entries: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for tensor, binary in requested_outputs(request, declared):
        array = output_array(tensor.name, outputs, task)
        entry: dict[str, Any] = {**tensor.to_json(), "shape": list(array.shape)}
        if binary:
            parts.append(_to_bytes(array, tensor.datatype))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = array.reshape(-1).tolist()
        entries.append(entry)
    return entries, parts


def requested_outputs(
    request: Mapping[str, Any], declared: Sequence[Declared]
) -> list[tuple[Declared, bool]]:
    """The outputs that a request wants, and whether in binary. Raises: RequestError."""
    binary = _flag(request, "binary_data_output", default=False)
    names = request.get("outputs")
    if names is None:
        return [(tensor, binary) for tensor in declared]
    wanted = []
    for each in names if isinstance(names, list) else [names]:
        name = each.get("name") if isinstance(each, dict) else None
        tensor = next((tensor for tensor in declared if tensor.name == name), None)
        if tensor is None:
            known = ", ".join(tensor.name for tensor in declared)
            raise RequestError(400, f"no output is called {str(name)[:80]!r}: there is {known}")
        wanted.append((tensor, _flag(each, "binary_data", default=binary)))
    return wanted


def _flag(holder: Mapping[str, Any], name: str, *, default: bool) -> bool:
    parameters = holder.get("parameters")
    value = parameters.get(name, default) if isinstance(parameters, dict) else default
    if not isinstance(value, bool):
        raise RequestError(400, f"the parameter {name} is true or false")
    return value


def _to_bytes(array: Array, datatype: str) -> bytes:
    """An array in row-major order; strings each after their length in 4 bytes."""
    if datatype == "BYTES":
        strings = [str(value).encode() for value in array.reshape(-1)]
        return b"".join(struct.pack("<I", len(each)) + each for each in strings)
    return array.astype(_DTYPES[datatype]).tobytes()


def _example(declared: Sequence[Declared]) -> str:
    """The form of a request, in words."""
    first = declared[0]
    return (
        f'{{"inputs": [{{"name": "{first.name}", "datatype": "{first.datatype}", '
        f'"shape": {list(first.shape)}, "data": [...]}}]}}'
    )
