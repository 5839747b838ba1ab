"""Preprocessing inside an ONNX graph: raw pixels, or raw columns of a table, as its inputs.

Images: ``image`` uint8 (batch, height, width, C), upright, RGB or grey, of any size, one size a batch.
Where the training files have more than 8 bits it is float32: their values, which the graph scales by
the range in the card. It is resampled as Pillow does (`dlcli.pixels.decode`), axis by axis with
rounding in between, each axis a product with a matrix of the filter's weights, which the graph computes
from the sizes. B samples, h and w the model's height and width, H and W the image's. (Pillow 13 takes
the axes of very tall images the other way round, which moves some pixels by a level or two.)

Tables: ``numeric`` float64 (batch, columns), NaN where missing, and ``words`` string (batch, columns),
"" where missing; each is there if the model reads such columns, in the order of the card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli import transforms
from dlcli.card import Card
from dlcli.data.base import Inputs
from dlcli.data.tables.cells import MAX_FINITE
from dlcli.errors import UsageError
from dlcli.formats.onnx.postprocess import constant
from dlcli.pixels.decode import keeps_size
from dlcli.pixels.deep_values import scale_factors, unscale
from dlcli.task import ImageInput, Interpolation, TabularInput, TaskSpec

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGE, NUMBERS, WORDS = "image", "numeric", "words"
# An input that need not be given. 0 takes the whole image instead of its centre: pixels that have the
# model's size already stay as they are.
CROP = "crop"

_ML_DOMAIN, _ML_VERSION = "ai.onnx.ml", 2
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}  # of a filter, in source pixels
_BICUBIC = -0.5  # Pillow's


def check(task: TaskSpec) -> None:
    """Raises: UsageError where preprocessing is more than a graph can do."""
    if isinstance(task.input, ImageInput | TabularInput):
        return
    why = {
        "text": "ONNX has no operator that splits texts as this model's tokenizer does",
        "pairs": "ONNX has no operator that splits texts as this model's tokenizer does",
        "series": "the series' values are scaled by (x - mean) / std alone, which the card holds",
    }
    reason = why.get(task.input.kind, f"it is not written for {task.input.kind} data")
    raise UsageError(
        f"--embed-preprocessing is for images and tables: {reason}",
        hint="--sidecar writes the preprocessing as JSON next to the file",
    )


def takes_raw_inputs(card: Card) -> bool:
    """Whether a file with this card takes raw inputs."""
    return transforms.find_record(card.transforms, transforms.EMBED_PREPROCESSING) is not None


def with_raw_inputs(card: Card) -> Card:
    """The card of a file that takes raw inputs."""
    names = [name for name, _, _ in raw_inputs(card.task)]
    return card.with_record(transforms.EMBED_PREPROCESSING, inputs=names)


def raw_inputs(task: TaskSpec) -> list[tuple[str, str, tuple[int | str, ...]]]:
    """Name, type and dimensions of what such a file takes; a dimension that varies has a name."""
    spec = task.input
    if isinstance(spec, ImageInput):
        kind = "uint8" if spec.value_range is None else "float32"
        return [(IMAGE, kind, ("batch", "height", "width", spec.channels))]
    assert isinstance(spec, TabularInput)
    inputs: list[tuple[str, str, tuple[int | str, ...]]] = []
    if spec.numbers:
        inputs.append((NUMBERS, "float64", ("batch", len(spec.numbers))))
    if spec.categories:
        inputs.append((WORDS, "string", ("batch", len(spec.categories))))
    return inputs


def to_raw_inputs(inputs: Inputs, task: TaskSpec) -> dict[str, npt.NDArray[Any]]:
    """Raw inputs that the graph turns into ``inputs``, a reader's: the inverse of the preprocessing.

    Numbers come back from their scaled form, words from their codes, where what was unknown is "".
    """
    spec = task.input
    if isinstance(spec, ImageInput):
        deep = spec.value_range
        feeds: dict[str, npt.NDArray[Any]] = {
            IMAGE: inputs[0] if deep is None else unscale(inputs[0], deep)
        }
        return feeds if keeps_size(spec) else {**feeds, CROP: np.array(0.0)}
    assert isinstance(spec, TabularInput)
    columns = inputs[0].astype(np.float64)
    arrays: dict[str, npt.NDArray[Any]] = {}
    if spec.numbers:
        values = columns[:, : len(spec.numbers)].copy()
        indicator = len(spec.numbers)
        for i, column in enumerate(spec.numbers):
            raw = values[:, i] * column.std + column.mean
            values[:, i] = np.sign(raw) * np.expm1(np.abs(raw)) if column.log else raw
            if column.period:  # a time of that phase
                turns = np.arcsin(np.clip(raw, -1, 1)) / (2 * np.pi)
                values[:, i] = (turns - column.phase) * column.period
            if column.indicator:
                values[columns[:, indicator] > 0.5, i] = np.nan
                indicator += 1
        arrays[NUMBERS] = values
    if spec.categories:
        codes = columns[:, spec.features :].astype(np.int64)
        words = [
            np.array(["", *c.values], dtype=object)[codes[:, j]] for j, c in enumerate(spec.categories)
        ]
        arrays[WORDS] = np.stack(words, axis=1)
    return arrays


def embed_preprocessing(model: ModelProto, task: TaskSpec) -> None:
    """Put the card's preprocessing in front of the graph, in place."""
    from onnx import TensorProto, helper

    spec, inner = task.input, model.graph.input[0]
    batch = inner.type.tensor_type.shape.dim[0]
    nodes = _Nodes()
    if isinstance(spec, ImageInput):
        _image(nodes, spec, inner.name)
    else:
        assert isinstance(spec, TabularInput)
        _table(nodes, spec, inner.name)
    types = {
        **{"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT},
        **{"float64": TensorProto.DOUBLE, "string": TensorProto.STRING},
    }
    graph_inputs = []
    for name, kind, dims in raw_inputs(task):
        value = helper.make_tensor_value_info(name, types[kind], list(dims))
        value.type.tensor_type.shape.dim[0].CopyFrom(batch)
        graph_inputs.append(value)
    if CROP in nodes.constants:  # an initializer that is an input too need not be given
        graph_inputs.append(helper.make_tensor_value_info(CROP, TensorProto.DOUBLE, []))
    del model.graph.input[:]
    model.graph.input.extend(graph_inputs)
    model.graph.initializer.extend(constant(name, value) for name, value in nodes.constants.items())
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes.nodes, *rest])
    if isinstance(spec, TabularInput) and spec.categories:
        model.opset_import.append(helper.make_opsetid(_ML_DOMAIN, _ML_VERSION))


class _Nodes:
    """Nodes in their order, each with a name of its own below "raw/"."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, npt.NDArray[Any]] = {}

    def __call__(
        self, op: str, *inputs: str, into: str | None = None, domain: str = "", **attrs: Any
    ) -> str:
        from onnx import helper

        name = into or f"raw/{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], domain=domain, **attrs))
        return name

    def value(self, value: Any, kind: type[Any] = np.float64) -> str:
        """A constant."""
        name = f"raw/constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype=kind)
        return name


def _image(nodes: _Nodes, spec: ImageInput, into: str) -> None:
    """``image`` to normalised pixels (B, C, h, w)."""
    x = nodes("Cast", nodes("Transpose", IMAGE, perm=[0, 3, 1, 2]), to=_float())
    if spec.value_range is not None:
        low, factor = scale_factors(spec.value_range)
        x = nodes("Mul", nodes("Sub", x, nodes.value(low, np.float32)), nodes.value(factor, np.float32))
        x = _rounded(nodes, x)
    shape = nodes("Cast", nodes("Shape", IMAGE), to=_double())
    height, width = (nodes("Gather", shape, nodes.value(axis, np.int64)) for axis in (1, 2))
    cut = {}
    if spec.resize == "crop":
        if not keeps_size(spec) or spec.height != spec.width:
            nodes.constants[CROP] = np.asarray(1.0)
        side = nodes("Min", height, width)
        pixel = nodes("Div", side, nodes.value(spec.resize_size))  # source pixels to one of the result
        for name, size, whole in (("h", spec.height, height), ("w", spec.width, width)):
            part = nodes("Min", nodes("Mul", pixel, nodes.value(size)), whole)
            cut[name] = nodes("Sub", whole, nodes("Mul", _crop(nodes), nodes("Sub", whole, part)))
    else:
        cut = {"h": height, "w": width}
    across = _weights(nodes, spec.width, width, cut["w"], spec.interpolation)  # (w, W)
    x = _rounded(nodes, nodes("MatMul", x, nodes("Transpose", across, perm=[1, 0])))
    down = _weights(nodes, spec.height, height, cut["h"], spec.interpolation)  # (h, H)
    x = _rounded(nodes, nodes("MatMul", down, x))
    # Step by step as `normalize` does it.
    x = nodes("Div", x, nodes.value(255, np.float32))
    x = nodes("Sub", x, nodes.value(np.reshape(spec.mean, (-1, 1, 1)), np.float32))
    nodes("Div", x, nodes.value(np.reshape(spec.std, (-1, 1, 1)), np.float32), into=into)


def _crop(nodes: _Nodes) -> str:
    return CROP if CROP in nodes.constants else nodes.value(1.0)


def _weights(nodes: _Nodes, size: int, whole: str, cut: str, how: Interpolation) -> str:
    """Float32 (size, whole): what each source pixel gives to each pixel of the result."""
    half = nodes.value(0.5)
    start = nodes("Div", nodes("Sub", whole, cut), nodes.value(2.0))
    scale = nodes("Div", cut, nodes.value(size))
    steps = nodes.value(np.arange(size)[:, None] + 0.5)
    centre = nodes("Add", start, nodes("Mul", steps, scale))  # (size, 1)
    pixels = nodes("Range", nodes.value(0.0), whole, nodes.value(1.0))
    if how == "nearest":
        same = nodes("Equal", nodes("Floor", centre), pixels)
        return nodes("Cast", same, to=_float())
    stretch = nodes("Max", scale, nodes.value(1.0))  # antialiasing: the filter covers what it replaces
    away = nodes("Sub", nodes("Add", pixels, half), centre)
    raw = _filter(nodes, nodes("Abs", nodes("Div", away, stretch)), how)
    total = nodes("ReduceSum", raw, nodes.value([1], np.int64), keepdims=1)
    return nodes("Cast", nodes("Div", raw, total), to=_float())


def _filter(nodes: _Nodes, x: str, how: Interpolation) -> str:
    """A resampling filter of distances x >= 0, in float64."""
    one, zero = nodes.value(1.0), nodes.value(0.0)
    if how == "bilinear":
        return nodes("Max", nodes("Sub", one, x), zero)
    inside = nodes("Less", x, nodes.value(_SUPPORT[how]))
    if how == "bicubic":
        a = _BICUBIC
        near = _polynomial(nodes, x, (a + 2, -(a + 3), 0.0, 1.0))
        far = _polynomial(nodes, x, (a, -5 * a, 8 * a, -4 * a))
        weight = nodes("Where", nodes("Less", x, one), near, far)
    else:
        wave = nodes("Mul", x, nodes.value(np.pi))
        slow = nodes("Div", wave, nodes.value(_SUPPORT[how]))
        weight = nodes("Mul", _sinc(nodes, wave), _sinc(nodes, slow))
    return nodes("Where", inside, weight, zero)


def _polynomial(nodes: _Nodes, x: str, factors: tuple[float, ...]) -> str:
    value = nodes.value(factors[0])
    for factor in factors[1:]:
        value = nodes("Add", nodes("Mul", value, x), nodes.value(factor))
    return value


def _sinc(nodes: _Nodes, x: str) -> str:
    """sin(x)/x, and 1 at 0."""
    least = nodes("Max", x, nodes.value(1e-12))
    return nodes("Div", nodes("Sin", least), least)


def _rounded(nodes: _Nodes, x: str) -> str:
    """Round to integers from 0 to 255, halves upwards, as Pillow does between the two axes."""
    whole = nodes("Floor", nodes("Add", x, nodes.value(0.5, np.float32)))
    return nodes("Clip", whole, nodes.value(0.0, np.float32), nodes.value(255.0, np.float32))


def _table(nodes: _Nodes, spec: TabularInput, into: str) -> None:
    """``numeric`` and ``words`` to numeric features, missing indicators and category codes."""
    parts = []
    if spec.numbers:
        parts += _numbers(nodes, spec)
    for j, column in enumerate(spec.categories):
        words = nodes("Gather", WORDS, nodes.value(j, np.int64), axis=1)  # (B,)
        codes = nodes(
            "LabelEncoder",
            words,
            domain=_ML_DOMAIN,
            keys_strings=list(column.values),
            values_floats=[float(i + 1) for i in range(len(column.values))],
            default_float=0.0,
        )
        parts.append(nodes("Unsqueeze", codes, nodes.value([1], np.int64)))
    nodes("Concat", *parts, into=into, axis=1)


def _numbers(nodes: _Nodes, spec: TabularInput) -> list[str]:
    columns = spec.numbers
    sound = nodes("Less", nodes("Abs", NUMBERS), nodes.value(MAX_FINITE))  # neither infinite nor NaN
    missing = nodes("Not", sound)
    x = nodes("Where", missing, nodes.value([column.fill for column in columns]), NUMBERS)
    if any(column.log for column in columns):
        size = nodes("Log", nodes("Add", nodes("Abs", x), nodes.value(1.0)))
        logged = nodes("Mul", nodes("Sign", x), size)
        x = nodes("Where", nodes.value([column.log for column in columns], np.bool_), logged, x)
    if any(column.period for column in columns):
        turns = nodes("Div", x, nodes.value([column.period or 1.0 for column in columns]))
        turns = nodes("Add", turns, nodes.value([column.phase for column in columns]))
        # The fraction of a turn, since float32 kernels lose those of many.
        turns = nodes("Sub", turns, nodes("Floor", turns))
        sine = nodes("Sin", nodes("Mul", turns, nodes.value(2 * np.pi)))
        x = nodes("Where", nodes.value([column.period > 0 for column in columns], np.bool_), sine, x)
    x = nodes("Sub", x, nodes.value([column.mean for column in columns]))
    x = nodes("Div", x, nodes.value([column.std for column in columns]))
    parts = [nodes("Cast", x, to=_float())]
    marked = [i for i, column in enumerate(columns) if column.indicator]
    if marked:
        chosen = nodes("Gather", missing, nodes.value(marked, np.int64), axis=1)
        parts.append(nodes("Cast", chosen, to=_float()))
    return parts


def _float() -> int:
    from onnx import TensorProto

    return int(TensorProto.FLOAT)


def _double() -> int:
    from onnx import TensorProto

    return int(TensorProto.DOUBLE)
