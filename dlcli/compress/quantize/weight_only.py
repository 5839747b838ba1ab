"""Weight-only quantization in groups: smaller; faster only where memory bandwidth is the limit.

ONNX Runtime has MatMulNBits and GatherBlockQuantized for such weights. K inputs, N outputs; a group is
``size`` weights along K with one scale, symmetric around 0.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.quantize.base import register_quantize_method
from dlcli.compress.quantize.onnx_graph import PRODUCTS, FloatGraph, OnnxLayer
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.onnx.optimize_int8 import optimize_int8

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

GROUP_SIZES = (16, 32, 64, 128, 256)  # supported by ONNX Runtime's kernels
_DOMAIN = "com.microsoft"
# Activations are rounded to 8 bits in the same groups. In float one sample took 30 times as long.
_ACCURACY_LEVEL = 4


def weight_only_layers(graph: FloatGraph, *, group_size: int) -> list[OnnxLayer]:
    """Return the layers whose weights ONNX Runtime supports in groups.

    Raises: DlcliError where there is none, UsageError for an unsupported group size.
    """
    if group_size not in GROUP_SIZES:
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise UsageError(
            f"--group-size {group_size}: ONNX Runtime takes {sizes}", hint="or --backend torch"
        )
    nodes = {node.name: node for node in graph.model.graph.node}
    layers = [layer for layer in graph.of(*PRODUCTS, "Gather") if _is_plain(nodes[layer.name])]
    if not layers:
        raise DlcliError(
            "the model has no matrix product, all that ONNX Runtime supports grouped weights for",
            hint="--backend torch supports any model",
        )
    return layers


@register_quantize_method(
    "weight-only",
    "onnxruntime",
    layers=weight_only_layers,
    tag="int{bits}-weight",
    sensitive_in_float=True,
    matmul_only=True,
    auto_order=3,
    auto_except=("conv",),
)
def quantize_weights(
    graph: FloatGraph, layers: Collection[str], *, bits: int, group_size: int
) -> ModelProto:
    """Return the graph with the weights of the named layers in 4 or 8 bits."""
    model = graph.copy()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    new_initializers: list[TensorProto] = []
    for node in model.graph.node:
        if node.name in layers:
            quantize_node = _gather if node.op_type == "Gather" else _product
            new_nodes, new_tensors = quantize_node(node, tensors, bits, group_size)
            nodes += new_nodes
            known = {tensor.name for tensor in new_initializers}
            new_initializers += [tensor for tensor in new_tensors if tensor.name not in known]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    initializers = (*model.graph.initializer, *new_initializers)
    initializers_used = [tensor for tensor in initializers if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(initializers_used)
    if all(entry.domain != _DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=_DOMAIN, version=1)
    optimize_int8(model)
    return model


@register_quantize_method(
    "weight-only", "torch", tag="int{bits}-weight", sensitive_in_float=True, auto_order=3
)
def integer_groups(skip: list[str], *, bits: int, group_size: int) -> TransformRecord:
    """Return the record of weights that are stored as integers and computed in float32."""
    args = {"bits": bits, "group_size": group_size, "skip": skip}
    return TransformRecord(kind=transforms.GROUPS, args=args)


def _is_plain(node: NodeProto) -> bool:
    """Whether a product has no scaling or transposed input, and a look-up is of whole rows."""
    defaults = {"alpha": 1.0, "beta": 1.0, "transA": 0, "axis": 0}
    return all(defaults.get(a.name, a.i) == (a.f if a.type == a.FLOAT else a.i) for a in node.attribute)


_NodesAndTensors = tuple[list[Any], list[Any]]


def _product(node: NodeProto, tensors: dict[str, TensorProto], bits: int, size: int) -> _NodesAndTensors:
    from onnx import helper, numpy_helper

    weight = numpy_helper.to_array(tensors[node.input[1]])
    if not any(a.name == "transB" and a.i for a in node.attribute):
        weight = weight.T  # (N, K)
    codes, scales = _groups(weight, bits, size)
    name = node.input[1]
    tensors_out = [
        numpy_helper.from_array(_packed(codes, bits), f"{name}:codes"),
        numpy_helper.from_array(scales.reshape(-1), f"{name}:scales"),
    ]
    biased = len(node.input) > 2 and bool(node.input[2])
    product = f"{node.output[0]}:product" if biased else node.output[0]
    nodes = [
        helper.make_node(
            "MatMulNBits",
            [node.input[0], *(tensor.name for tensor in tensors_out)],
            [product],
            name=node.name,
            domain=_DOMAIN,
            K=weight.shape[1],
            N=weight.shape[0],
            bits=bits,
            block_size=size,
            accuracy_level=_ACCURACY_LEVEL,
        )
    ]
    if biased:
        nodes.append(helper.make_node("Add", [product, node.input[2]], list(node.output)))
    return nodes, tensors_out


def _gather(node: NodeProto, tensors: dict[str, TensorProto], bits: int, size: int) -> _NodesAndTensors:
    from onnx import helper, numpy_helper

    table = numpy_helper.to_array(tensors[node.input[0]])
    codes, scales = _groups(table, bits, size)
    rows = codes.reshape(len(table), -1)[:, : table.shape[1]]  # the last group may be padded
    if bits == 4:
        even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)), constant_values=8)
        rows = _pairs(even)
    name = node.input[0]
    tensors_out = [
        numpy_helper.from_array(np.ascontiguousarray(rows), f"{name}:codes"),
        numpy_helper.from_array(scales, f"{name}:scales"),
    ]
    lookup = helper.make_node(
        "GatherBlockQuantized",
        [tensors_out[0].name, node.input[1], tensors_out[1].name],
        list(node.output),
        name=node.name,
        domain=_DOMAIN,
        gather_axis=0,
        quantize_axis=1,
        block_size=size,
        bits=bits,
    )
    return [lookup], tensors_out


def _groups(
    weight: npt.NDArray[Any], bits: int, size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return codes (N, groups, size), with zero at their middle, and scales (N, groups)."""
    middle = 1 << (bits - 1)
    rows, length = weight.shape
    groups = -(-length // size)
    padded = np.pad(weight, ((0, 0), (0, groups * size - length))).reshape(rows, groups, size)
    scales = (np.abs(padded).max(axis=2) / (middle - 1)).astype(np.float32)
    steps = padded / np.where(scales == 0, 1, scales)[..., None]
    codes = np.clip(np.rint(steps), 1 - middle, middle - 1) + middle
    return codes.astype(np.uint8), scales


def _packed(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    return codes if bits == 8 else _pairs(codes)


def _pairs(codes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Pack two codes of 4 bits into a byte along the last axis, the first in the lower half."""
    packed: npt.NDArray[np.uint8] = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed
