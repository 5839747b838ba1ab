"""A float ONNX graph before quantization: its layers, named as their modules, and its family.

A layer is a node with weights of its own. It is renamed to the module that it was exported from
("layer1.0.conv1"), so that patterns, tables and the quantized file all use module names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dlcli.formats.onnx.postprocess import simplify

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Family = Literal["conv", "recurrent", "attention", "dense"]

# Index of the input that holds the weights, by operator.
_WEIGHT_INPUT = {
    "Conv": 1,
    "ConvTranspose": 1,
    "MatMul": 1,
    "Gemm": 1,
    "LSTM": 1,
    "GRU": 1,
    "RNN": 1,
    "Gather": 0,
}
_RECURRENT = ("LSTM", "GRU", "RNN")
PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class OnnxLayer:
    """A node with weights; ``weights`` is how many."""

    name: str
    op: str
    weights: int


@dataclass(frozen=True)
class FloatGraph:
    """A graph with constants folded and unique node names; it is never changed."""

    model: ModelProto
    layers: tuple[OnnxLayer, ...]
    family: Family

    def of(self, *ops: str) -> list[OnnxLayer]:
        """Return the layers of these operators, in order."""
        return [layer for layer in self.layers if layer.op in ops]

    def copy(self) -> ModelProto:
        """Return a copy that may be changed, without the shapes that the exporter recorded.

        ONNX's shape inference disagrees with them on transformers.
        """
        model = type(self.model)()
        model.CopyFrom(self.model)
        del model.graph.value_info[:]
        return model


def read_graph(path: Path, state: Mapping[str, npt.NDArray[Any]]) -> FloatGraph:
    """Read the graph of a float file whose module has the state dict ``state``."""
    import onnx

    model = simplify(onnx.load(str(path)))
    del model.metadata_props[:]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    names = _NodeNames(state)
    layers = []
    for node in model.graph.node:
        layer = _layer(node, tensors, names)
        node.name = names.unique(node.name or node.op_type) if layer is None else layer.name
        if layer is not None:
            layers.append(layer)
    return FloatGraph(model, tuple(layers), _family(model, layers))


def _layer(node: NodeProto, tensors: Mapping[str, TensorProto], names: _NodeNames) -> OnnxLayer | None:
    from onnx import TensorProto

    index = _WEIGHT_INPUT.get(node.op_type)
    if index is None or len(node.input) <= index:
        return None
    weight = tensors.get(node.input[index])
    if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2:
        return None
    count = math.prod(weight.dims)
    if node.op_type in _RECURRENT:
        count += math.prod(tensors[node.input[2]].dims) if node.input[2] in tensors else 0
    name = names.unique(names.module_of(weight) or node.name or node.op_type)
    return OnnxLayer(name, node.op_type, count)


def _family(model: ModelProto, layers: list[OnnxLayer]) -> Family:
    ops = [layer.op for layer in layers]
    if any(op in _RECURRENT for op in ops):
        return "recurrent"
    convs = sum(op in ("Conv", "ConvTranspose") for op in ops)
    # A vision transformer begins with one convolution, its patch embedding.
    if convs and convs >= sum(op in PRODUCTS for op in ops):
        return "conv"
    return "attention" if any(node.op_type == "Softmax" for node in model.graph.node) else "dense"


class _NodeNames:
    """Unique names for nodes; those of layers are the modules that hold their weights."""

    def __init__(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        self._used: set[str] = set()
        self._by_content: dict[str, str] = {}
        for name, array in state.items():
            if array.ndim == 2:
                self._by_content.setdefault(_digest(array), name)
                self._by_content.setdefault(_digest(array.T), name)

    def module_of(self, weight: TensorProto) -> str:
        """Return the module of a weight, by content where the exporter transposed and renamed it."""
        from onnx import numpy_helper

        name = weight.name
        if "." not in name and len(weight.dims) == 2:
            name = self._by_content.get(_digest(numpy_helper.to_array(weight)), "")
        return name.rpartition(".")[0]

    def unique(self, name: str) -> str:
        """Return the name, with a number appended when it is taken."""
        candidate, number = name, 1
        while candidate in self._used:
            number += 1
            candidate = f"{name}#{number}"
        self._used.add(candidate)
        return candidate


def _digest(array: npt.NDArray[Any]) -> str:
    contiguous = np.ascontiguousarray(array)
    return f"{contiguous.shape}{hashlib.sha256(contiguous.tobytes()).hexdigest()}"
