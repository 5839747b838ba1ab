"""Integer weights in groups: smaller, and faster only where reading the weights is most of the work.

ONNX Runtime multiplies by such weights (MatMulNBits) and looks rows up in them (GatherBlockQuantized).
K numbers in, N out; a group is ``size`` numbers along K with one scale, symmetric around 0.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli.compress.quantize.onnx_graph import PRODUCTS, FloatGraph, Layer
from dlcli.errors import DlcliError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

GROUP_SIZES = (16, 32, 64, 128, 256)  # what ONNX Runtime's kernels take
_DOMAIN = "com.microsoft"
# Inputs are rounded to 8 bits on the way, in the same groups. In float one sample took 30 times longer.
_ACCURACY_LEVEL = 4


def weight_only_layers(graph: FloatGraph, group_size: int) -> list[Layer]:
    """The layers whose weights ONNX Runtime takes in groups. Raises: DlcliError where there is none.

    UsageError for a size of groups that it does not take.
    """
    if group_size not in GROUP_SIZES:
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise UsageError(
            f"--group-size {group_size}: ONNX Runtime takes {sizes}", hint="or --backend torch"
        )
    nodes = {node.name: node for node in graph.model.graph.node}
    found = [layer for layer in graph.of(*PRODUCTS, "Gather") if _fits(nodes[layer.name])]
    if not found:
        raise DlcliError(
            "the model has no matrix product, and ONNX Runtime takes weights in groups for nothing else",
            hint="--backend torch stores any model so",
        )
    return found


def quantize_weights(
    graph: FloatGraph, layers: Collection[str], bits: int, group_size: int
) -> ModelProto:
    """The graph with the weights of the layers of these names in 4 or 8 bits."""
    model = graph.copy()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    made: list[TensorProto] = []
    for node in model.graph.node:
        if node.name in layers:
            change = _gather if node.op_type == "Gather" else _product
            new_nodes, new_tensors = change(node, tensors, bits, group_size)
            nodes += new_nodes
            made += [tensor for tensor in new_tensors if tensor.name not in {t.name for t in made}]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in (*model.graph.initializer, *made) if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if all(entry.domain != _DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=_DOMAIN, version=1)
    return model


def _fits(node: NodeProto) -> bool:
    """Whether a product is a plain one, and a look-up one of whole rows."""
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "axis": 0}
    return all(plain.get(a.name, a.i) == (a.f if a.type == a.FLOAT else a.i) for a in node.attribute)


_Made = tuple[list[Any], list[Any]]


def _product(node: NodeProto, tensors: dict[str, TensorProto], bits: int, size: int) -> _Made:
    from onnx import helper, numpy_helper

    weight = numpy_helper.to_array(tensors[node.input[1]])
    if not any(a.name == "transB" and a.i for a in node.attribute):
        weight = weight.T  # (N, K)
    codes, scales = _groups(weight, bits, size)
    name = node.input[1]
    parts = [
        numpy_helper.from_array(_packed(codes, bits), f"{name}:codes"),
        numpy_helper.from_array(scales.reshape(-1), f"{name}:scales"),
    ]
    added = len(node.input) > 2 and bool(node.input[2])
    answer = f"{node.output[0]}:product" if added else node.output[0]
    found = [
        helper.make_node(
            "MatMulNBits",
            [node.input[0], *(part.name for part in parts)],
            [answer],
            name=node.name,
            domain=_DOMAIN,
            K=weight.shape[1],
            N=weight.shape[0],
            bits=bits,
            block_size=size,
            accuracy_level=_ACCURACY_LEVEL,
        )
    ]
    if added:
        found.append(helper.make_node("Add", [answer, node.input[2]], list(node.output)))
    return found, parts


def _gather(node: NodeProto, tensors: dict[str, TensorProto], bits: int, size: int) -> _Made:
    from onnx import helper, numpy_helper

    table = numpy_helper.to_array(tensors[node.input[0]])
    codes, scales = _groups(table, bits, size)
    rows = codes.reshape(len(table), -1)[:, : table.shape[1]]  # its groups may end short
    if bits == 4:
        even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)), constant_values=8)
        rows = _pairs(even)
    name = node.input[0]
    parts = [
        numpy_helper.from_array(np.ascontiguousarray(rows), f"{name}:codes"),
        numpy_helper.from_array(scales, f"{name}:scales"),
    ]
    found = helper.make_node(
        "GatherBlockQuantized",
        [parts[0].name, node.input[1], parts[1].name],
        list(node.output),
        name=node.name,
        domain=_DOMAIN,
        gather_axis=0,
        quantize_axis=1,
        block_size=size,
        bits=bits,
    )
    return [found], parts


def _groups(
    weight: npt.NDArray[Any], bits: int, size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Codes (N, groups, size), the zero being in their middle, and scales (N, groups)."""
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
    """Two codes of 4 bits a byte along the last axis, the first in the lower half."""
    found: npt.NDArray[np.uint8] = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return found
