"""ONNX graphs as they are, without a card: their inputs, random ones of the declared shapes, a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli.errors import DlcliError
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx.providers import CPU, open_session
from dlcli.wording import first_line

_SIDE, _LENGTH = 224, 32  # of an image, and of all else that varies besides the batch
_MOST_NUMBERS = 2**28  # of an input, as far as its sizes are declared: random ones are made

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto


def graph_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """The inputs that must be given: files of earlier versions list their weights among them."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def declared_inputs(graph: GraphProto, path: Path) -> list[ValueInfoProto]:
    """The inputs that must be given. Raises: DlcliError for none, and for sizes that no batch has."""
    inputs = graph_inputs(graph)
    if not inputs:
        raise DlcliError(
            f"{path} takes no input",
            hint="export it with what it computes from as an input of the graph",
        )
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        shown = ", ".join(
            str(d.dim_value if d.HasField("dim_value") else d.dim_param or "?") for d in dims
        )
        numbers = math.prod(size for size in shape_of(value) if isinstance(size, int))
        if any(d.HasField("dim_value") and not d.dim_value for d in dims):
            raise DlcliError(
                f"{path} takes {value.name} ({shown}): a dimension of 0 holds no numbers",
                hint="export it with the size that it takes, or one that varies",
            )
        if numbers > _MOST_NUMBERS:
            raise DlcliError(
                f"{path} takes {value.name} ({shown}): {numbers:,} numbers at once, and at most "
                f"{_MOST_NUMBERS:,} are made",
                hint="export it with smaller sizes, or with ones that vary",
            )
    return inputs


def type_name(value: ValueInfoProto) -> str:
    """``float32``, ``bool``, ``string``; ``sequence``, ``optional`` or ``map`` of what is no tensor."""
    from onnx import TensorProto

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return str(kind).removesuffix("_type")
    name = str(TensorProto.DataType.Name(value.type.tensor_type.elem_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def shape_of(value: ValueInfoProto) -> tuple[int | str | None, ...]:
    """The sizes of a tensor; a name or None for one that varies."""
    dims = value.type.tensor_type.shape.dim
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or None for d in dims
    )


@dataclass(frozen=True)
class RawInput:
    """An input of a graph: a batch has ``batch`` samples, or any number (None), of ``shape`` each.

    ``assumed``: whether a size that varies got a value here.
    """

    name: str
    dtype: str
    batch: int | None
    shape: tuple[int, ...]
    assumed: bool

    def __str__(self) -> str:
        """``x float32 (batch, 3, 224, 224)``."""
        sizes = ("batch" if self.batch is None else self.batch, *self.shape)
        return f"{self.name} {self.dtype} ({', '.join(map(str, sizes))})"


def read_raw(path: Path) -> tuple[list[RawInput], int]:
    """The inputs of a graph, and how many parameters it has. Raises: DlcliError for others."""
    import onnx

    content = onnx_file.read(path)
    content.check()
    graph = content.model.graph
    inputs = []
    for value in declared_inputs(graph, path):
        dims, kind = shape_of(value), value.type.tensor_type.elem_type
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        except KeyError:
            dtype = np.dtype(object)
        if dtype.kind not in "fiub":
            raise DlcliError(
                f"{path}: its input {value.name} is of the type {type_name(value)}, and random ones are "
                "drawn of numbers only",
                hint="export it with an input of float32",
            )
        usual = _SIDE if len(dims) == 4 else _LENGTH
        shape = tuple(size if isinstance(size, int) else usual for size in dims[1:])
        batch = dims[0] if dims and isinstance(dims[0], int) else None
        varies = any(not isinstance(size, int) for size in dims[1:])
        inputs.append(RawInput(value.name, dtype.name, batch, shape, varies))
    return inputs, sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)


def random_feeds(inputs: Sequence[RawInput], count: int) -> dict[str, npt.NDArray[Any]]:
    """Random values by name: normal where they are float, else 0 or 1, which any vocabulary has."""
    rng = np.random.default_rng(0)
    feeds: dict[str, npt.NDArray[Any]] = {}
    for entry in inputs:
        shape = (count if entry.batch is None else entry.batch, *entry.shape)
        floats = np.dtype(entry.dtype).kind == "f"
        try:
            values = rng.normal(size=shape) if floats else rng.integers(0, 2, shape)
            feeds[entry.name] = values.astype(entry.dtype)
        except MemoryError as exc:
            raise DlcliError(
                f"memory has no room for {entry.name} {shape}", hint="smaller --batch-sizes"
            ) from exc
    return feeds


def run_model(
    model: ModelProto, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], path: Path
) -> list[npt.NDArray[Any]]:
    """Some outputs of a file's model on the CPU. Raises: DlcliError where ONNX Runtime refuses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    try:
        session = open_session(model.SerializeToString(), options, [CPU])
        results: list[npt.NDArray[Any]] = session.run(list(outputs), dict(feeds))
    except Exception as exc:  # its errors share no base class but this
        onnx_file.check_valid(path)
        raise DlcliError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run {path}: {first_line(exc)}",
            hint="dlcli benchmark times a file as it is, and says the same where that fails too",
        ) from exc
    return results
