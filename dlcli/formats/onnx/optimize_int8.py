"""Rewrite int8 graphs to the form that ONNX Runtime has fast kernels for; the outputs stay equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlcli.formats.onnx.attention import fuse_attention

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_MASKED_SCORE = -60.0
_MINUS_INFINITY = -1e30  # the value that an exporter writes for it is below this
_BIAS_INPUT = 5  # of MultiHeadAttention: it is added to the scores


def optimize_int8(model: ModelProto) -> None:
    """Rewrite ``model`` in place, after all other steps."""
    del model.graph.value_info[:]  # shapes of tensors that are about to move
    _drop_pools_of_one(model.graph)
    _pool_before_relu(model.graph)
    _take_shapes_before_quantization(model.graph)
    fuse_attention(model)
    _soften_masks(model.graph)
    _prevent_skip_norm_fusion(model.graph)


def _drop_pools_of_one(graph: GraphProto) -> None:
    """Remove averages of single values: an adaptive pooling to the size that the image has already."""
    for node in [node for node in graph.node if node.op_type == "AveragePool"]:
        attributes = {a.name: list(a.ints) for a in node.attribute if a.name != "auto_pad"}
        sizes = [n for key in ("kernel_shape", "strides") for n in attributes.get(key, [])]
        pools = any(n != 1 for n in sizes) or any(attributes.get("pads", []))
        if pools or node.output[0] in {out.name for out in graph.output}:
            continue
        for other in graph.node:
            for i, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[i] = node.input[0]
        graph.node.remove(node)


def _pool_before_relu(graph: GraphProto) -> None:
    """After a float convolution, put MaxPool before Relu, which gives the same outputs.

    ONNX Runtime moves the rounding to int8 forward through a MaxPool, up to the operator before it, and
    then runs that pooling with a slow kernel: 20 times as long as in float. It does not pass a Relu.
    """
    users = _users(graph)
    tensors = {tensor.name for tensor in graph.initializer}
    for conv in graph.node:
        # The weight of one in int8 comes from a node.
        is_float = conv.op_type == "Conv" and conv.input[1] in tensors
        after = users.get(conv.output[0], []) if is_float else []
        if len(after) != 1 or after[0].op_type != "Relu":
            continue
        last = users.get(after[0].output[0], [])
        if len(last) == 1 and last[0].op_type == "MaxPool" and len(last[0].output) == 1:
            pool, relu = _copy(last[0]), _copy(after[0])
            pool.input[0], pool.output[0] = relu.input[0], relu.output[0]
            relu.input[0], relu.output[0] = pool.output[0], last[0].output[0]
            after[0].CopyFrom(pool)
            last[0].CopyFrom(relu)


def _copy(node: NodeProto) -> NodeProto:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


def _take_shapes_before_quantization(graph: GraphProto) -> None:
    """Let Shape read a tensor before it is quantized: dequantizing it would serve Shape alone."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        back = makers.get(node.input[0]) if node.op_type == "Shape" else None
        if back is not None and back.op_type == "DequantizeLinear":
            node.input[0] = makers[back.input[0]].input[0] if back.input[0] in makers else node.input[0]


def _prevent_skip_norm_fusion(graph: GraphProto) -> None:
    """Write the Add before a LayerNormalization as Sum, so that ONNX Runtime does not fuse the two.

    That kernel (SkipLayerNormalization, as of 1.31 on a CPU) takes five times as long as both alone.
    """
    users = _users(graph)
    for node in graph.node:
        after = [user.op_type for user in users.get(node.output[0], [])] if node.output else []
        if node.op_type == "Add" and after == ["LayerNormalization"]:
            node.op_type = "Sum"


def _soften_masks(graph: GraphProto) -> None:
    """Mask attention scores with -60 instead of the smallest float.

    The softmax of the latter has denormal weights, each some 100 times slower to compute; e^-60 is a
    normal float, and still vanishes next to the others.
    """
    from onnx import numpy_helper

    users, softened = _users(graph), "softened_mask"
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer if not t.dims}
    low = {name for name, value in values.items() if value.dtype.kind == "f" and value < _MINUS_INFINITY}
    changed = False
    for node in graph.node:
        readers = [
            _adds_to_scores(node.output[0], user, users) for user in users.get(node.output[0], [])
        ]
        if node.op_type == "Where" and readers and all(readers):
            for i in (1, 2):
                if node.input[i] in low:
                    node.input[i], changed = softened, True
    if changed:
        graph.initializer.append(numpy_helper.from_array(np.array(_MASKED_SCORE, np.float32), softened))


def _adds_to_scores(name: str, user: NodeProto, users: dict[str, list[NodeProto]]) -> bool:
    """Whether a node only adds the tensor to the scores of an attention."""
    if user.op_type == "MultiHeadAttention":
        return list(user.input).index(name) == _BIAS_INPUT
    after = users.get(user.output[0], [])
    if user.op_type == "Unsqueeze":
        return bool(after) and all(_adds_to_scores(user.output[0], node, users) for node in after)
    return user.op_type == "Add" and [node.op_type for node in after] == ["Softmax"]


def _users(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each tensor."""
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users
