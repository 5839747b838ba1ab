"""Graphs with integer weights in the form that ONNX Runtime has fast kernels for; equal answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlcli.formats.onnx.attention import fuse_attention

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_MASKED = -60.0
_LEAST = -1e30  # what an exporter writes for minus infinity is below
_BIAS = 5  # the input of MultiHeadAttention that is added to the scores


def optimize_int8(model: ModelProto) -> None:
    """Change ``model`` in place, behind everything else that is done to it."""
    del model.graph.value_info[:]  # noted shapes of tensors that change places
    _drop_pools_of_one(model.graph)
    _pool_before_relu(model.graph)
    _ask_shapes_of_float(model.graph)
    fuse_attention(model)
    _soften_masks(model.graph)
    _keep_norms_apart(model.graph)


def _drop_pools_of_one(graph: GraphProto) -> None:
    """Take out averages of single values: an adaptive pooling of an image that has its size already."""
    for node in [node for node in graph.node if node.op_type == "AveragePool"]:
        said = {a.name: list(a.ints) for a in node.attribute if a.name != "auto_pad"}
        moved = any(number != 1 for key in ("kernel_shape", "strides") for number in said.get(key, []))
        if moved or any(said.get("pads", [])) or node.output[0] in {out.name for out in graph.output}:
            continue
        for other in graph.node:
            for i, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[i] = node.input[0]
        graph.node.remove(node)


def _pool_before_relu(graph: GraphProto) -> None:
    """Behind a convolution in float, let MaxPool come before Relu, which gives the same.

    ONNX Runtime moves the rounding to int8 forward through a MaxPool, up to whatever lies before it, and
    then runs that pooling with a slow kernel: 20 times as long as in float. It does not pass a Relu.
    """
    users = _users(graph)
    tensors = {tensor.name for tensor in graph.initializer}
    for conv in graph.node:
        # The weight of one in int8 comes from a node.
        is_float = conv.op_type == "Conv" and conv.input[1] in tensors
        behind = users.get(conv.output[0], []) if is_float else []
        if len(behind) != 1 or behind[0].op_type != "Relu":
            continue
        last = users.get(behind[0].output[0], [])
        if len(last) == 1 and last[0].op_type == "MaxPool" and len(last[0].output) == 1:
            pool, relu = _copy(last[0]), _copy(behind[0])
            pool.input[0], pool.output[0] = relu.input[0], relu.output[0]
            relu.input[0], relu.output[0] = pool.output[0], last[0].output[0]
            behind[0].CopyFrom(pool)
            last[0].CopyFrom(relu)


def _copy(node: NodeProto) -> NodeProto:
    found = type(node)()
    found.CopyFrom(node)
    return found


def _ask_shapes_of_float(graph: GraphProto) -> None:
    """Let a Shape read a tensor itself, not what became of it: that alone would make it float again."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        back = makers.get(node.input[0]) if node.op_type == "Shape" else None
        if back is not None and back.op_type == "DequantizeLinear":
            node.input[0] = makers[back.input[0]].input[0] if back.input[0] in makers else node.input[0]


def _keep_norms_apart(graph: GraphProto) -> None:
    """Write sums in front of a norm so that ONNX Runtime does not make one kernel of the two.

    That kernel (SkipLayerNormalization, as of 1.31 on a CPU) takes five times as long as both alone.
    """
    users = _users(graph)
    for node in graph.node:
        after = [user.op_type for user in users.get(node.output[0], [])] if node.output else []
        if node.op_type == "Add" and after == ["LayerNormalization"]:
            node.op_type = "Sum"


def _soften_masks(graph: GraphProto) -> None:
    """Add -60 to scores of steps that may not be looked at, where the exporter adds the least number.

    Their weights were too small for a normal float, which made each of them some 100 times slower to
    compute; e^-60 is normal, and vanishes beside the others all the same.
    """
    from onnx import numpy_helper

    users, softened = _users(graph), "softened_mask"
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer if not t.dims}
    low = {name for name, value in values.items() if value.dtype.kind == "f" and value < _LEAST}
    changed = False
    for node in graph.node:
        readers = [_reader(node.output[0], user, users) for user in users.get(node.output[0], [])]
        if node.op_type == "Where" and readers and all(readers):
            for i in (1, 2):
                if node.input[i] in low:
                    node.input[i], changed = softened, True
    if changed:
        graph.initializer.append(numpy_helper.from_array(np.array(_MASKED, np.float32), softened))


def _reader(name: str, user: NodeProto, users: dict[str, list[NodeProto]]) -> bool:
    """Whether a node adds what it reads to the scores of an attention, and does nothing else with it."""
    if user.op_type == "MultiHeadAttention":
        return list(user.input).index(name) == _BIAS
    behind = users.get(user.output[0], [])
    if user.op_type == "Unsqueeze":
        return bool(behind) and all(_reader(user.output[0], node, users) for node in behind)
    return user.op_type == "Add" and [node.op_type for node in behind] == ["Softmax"]


def _users(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Who reads a tensor."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found
