"""A float ONNX graph before it is quantized: its layers by the names of their modules, and its kind.

A layer is a node with weights of its own. It is renamed to the module that it was exported from
("layer1.0.conv1"), so patterns, tables and the quantized file all speak of modules.
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

# Which input of a node holds its weights.
_WEIGHT = {
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
class Layer:
    """A node with ``weights`` numbers of its own."""

    name: str
    op: str
    weights: int


@dataclass(frozen=True)
class FloatGraph:
    """A graph with its constants folded. Its nodes have names, each its own; it is never changed."""

    model: ModelProto
    layers: tuple[Layer, ...]
    family: Family

    def of(self, *ops: str) -> list[Layer]:
        """The layers of these operators, in order."""
        return [layer for layer in self.layers if layer.op in ops]

    def copy(self) -> ModelProto:
        """The graph, to be changed. Shapes that the exporter noted are gone.

        ONNX's own inference disagrees with them on transformers.
        """
        model = type(self.model)()
        model.CopyFrom(self.model)
        del model.graph.value_info[:]
        return model


def read_graph(path: Path, state: Mapping[str, npt.NDArray[Any]]) -> FloatGraph:
    """The graph of a float file whose module has the tensors ``state``."""
    import onnx

    model = simplify(onnx.load(str(path)))
    del model.metadata_props[:]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    named = _Names(state)
    layers = []
    for node in model.graph.node:
        layer = _layer(node, tensors, named)
        node.name = named.own(node.name or node.op_type) if layer is None else layer.name
        if layer is not None:
            layers.append(layer)
    return FloatGraph(model, tuple(layers), _family(model, layers))


def _layer(node: NodeProto, tensors: Mapping[str, TensorProto], named: _Names) -> Layer | None:
    from onnx import TensorProto

    at = _WEIGHT.get(node.op_type)
    if at is None or len(node.input) <= at:
        return None
    weight = tensors.get(node.input[at])
    if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2:
        return None
    count = math.prod(weight.dims)
    if node.op_type in _RECURRENT:
        count += math.prod(tensors[node.input[2]].dims) if node.input[2] in tensors else 0
    name = named.own(named.module(weight) or node.name or node.op_type)
    return Layer(name, node.op_type, count)


def _family(model: ModelProto, layers: list[Layer]) -> Family:
    ops = [layer.op for layer in layers]
    if any(op in _RECURRENT for op in ops):
        return "recurrent"
    convs = sum(op in ("Conv", "ConvTranspose") for op in ops)
    # A transformer may begin with a convolution that makes its patches: it is none for that.
    if convs and convs >= sum(op in PRODUCTS for op in ops):
        return "conv"
    return "attention" if any(node.op_type == "Softmax" for node in model.graph.node) else "dense"


class _Names:
    """Names for nodes, each given once; those of layers are the modules that hold their weights."""

    def __init__(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        self._given: set[str] = set()
        self._by_content: dict[str, str] = {}
        for name, array in state.items():
            if array.ndim == 2:
                self._by_content.setdefault(_digest(array), name)
                self._by_content.setdefault(_digest(array.T), name)

    def module(self, weight: TensorProto) -> str:
        """The module of a weight; of one that the exporter turned and gave a number, by its content."""
        from onnx import numpy_helper

        name = weight.name
        if "." not in name and len(weight.dims) == 2:
            name = self._by_content.get(_digest(numpy_helper.to_array(weight)), "")
        return name.rpartition(".")[0]

    def own(self, name: str) -> str:
        """The name, with a number behind it when it is taken."""
        found, number = name, 1
        while found in self._given:
            number += 1
            found = f"{name}#{number}"
        self._given.add(found)
        return found


def _digest(array: npt.NDArray[Any]) -> str:
    plain = np.ascontiguousarray(array)
    return f"{plain.shape}{hashlib.sha256(plain.tobytes()).hexdigest()}"
