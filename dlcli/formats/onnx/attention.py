"""Fusion of attention into the one operator that ONNX Runtime has for it.

The exporter writes some 25 nodes for an attention, and each call of a node costs time: at batch 1 that
was more than int8 saves on the products. B samples, H heads, T query steps, S key steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli.formats.onnx.postprocess import drop_unused

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_DOMAIN = "com.microsoft"
_HEADS_SECOND = [0, 2, 1, 3]  # (B, T, H, width) to (B, H, T, width) and back


def fuse_attention(model: ModelProto) -> int:
    """Replace each attention of ``model`` by MultiHeadAttention; return their number.

    One that is not written as torch's exporter writes it stays unchanged. Rows of a mask must
    leave at least one step, as everywhere in dlcli's models.
    """
    from onnx import helper, numpy_helper

    if all(node.op_type != "Softmax" for node in model.graph.node):
        return 0
    graph, count, ranks = _Graph(model), 0, _ranks(model)
    for node in list(model.graph.node):
        attention = graph.attention(node) if node.op_type == "Softmax" else None
        if attention is None:
            continue
        inputs, attributes, last = attention
        mask = inputs[-1]
        rank = ranks.get(mask, 0) if len(inputs) > 3 else 4
        if rank not in (2, 4):
            continue
        if rank == 2:  # (T, S) is (1, 1, T, S) to the operator
            inputs[-1] = f"{mask}_of_all"
            if inputs[-1] not in graph.makers:
                axes = numpy_helper.from_array(np.array([0, 1]), f"{inputs[-1]}_axes")
                wider = helper.make_node("Unsqueeze", [mask, axes.name], [inputs[-1]])
                model.graph.initializer.append(axes)
                model.graph.node.insert(_index_after(model, mask), wider)
                graph.makers[inputs[-1]] = wider
        fused = helper.make_node(
            "MultiHeadAttention",
            inputs,
            list(last.output),
            name=f"attention_{count}",
            domain=_DOMAIN,
            **attributes,
        )
        last.CopyFrom(fused)
        count += 1
    if count:
        drop_unused(model)
        if all(entry.domain != _DOMAIN for entry in model.opset_import):
            model.opset_import.add(domain=_DOMAIN, version=1)
    return count


class _Graph:
    """Which node writes each tensor, and which nodes read it."""

    def __init__(self, model: ModelProto) -> None:
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.users: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def attention(self, softmax: NodeProto) -> tuple[list[str], dict[str, Any], NodeProto] | None:
        """The inputs and attributes of the operator, and the node whose output is its own."""
        last = self._output_of(softmax)
        if last is None:
            return None
        product, end = last
        scores, mask = self.makers.get(softmax.input[0]), ""
        if scores is not None and scores.op_type == "Add":
            mask = scores.input[1]
            scores = self.makers.get(scores.input[0])
        if scores is None or scores.op_type != "MatMul":
            return None
        queries, keys = self._scaled(scores.input[0]), self._scaled(scores.input[1])
        query, value = self._heads(queries[0]), self._heads(product.input[1])
        key = self._heads(self._untransposed(keys[0]))
        if query is None or key is None or value is None or len({query[1], key[1], value[1]}) != 1:
            return None
        inputs = [query[0], key[0], value[0]]
        if mask:
            inputs += ["", "", mask]
        return inputs, {"num_heads": query[1], "scale": float(queries[1] * keys[1])}, end

    def _output_of(self, softmax: NodeProto) -> tuple[NodeProto, NodeProto] | None:
        """The product with the values, and the last node on the path from there to (B, T, H * width)."""
        name = softmax.output[0]
        users = self.users.get(name, [])
        guard = next((node for node in users if node.op_type == "IsNaN"), None)
        if guard is not None:  # a row without any step would be 0
            chosen = self.users.get(guard.output[0], [])
            if len(users) != 2 or len(chosen) != 1 or chosen[0].op_type != "Where":
                return None
            name = chosen[0].output[0]
        product = self._only(name, "MatMul")
        turned = None if product is None else self._only(product.output[0], "Transpose")
        if product is None or turned is None or product.input[0] != name or not _swaps(turned):
            return None
        end = self._only(turned.output[0], "Reshape")
        return None if end is None else (product, end)

    def _only(self, name: str, op: str) -> NodeProto | None:
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and users[0].op_type == op else None

    def _scaled(self, name: str) -> tuple[str, float]:
        """The tensor that a constant multiplies, and the factor."""
        from onnx import numpy_helper

        node = self.makers.get(name)
        if node is not None and node.op_type == "Mul" and node.input[1] in self.constants:
            factor = numpy_helper.to_array(self.constants[node.input[1]])
            if factor.size == 1:
                return node.input[0], float(factor.reshape(-1)[0])
        return name, 1.0

    def _untransposed(self, name: str) -> str:
        """The keys (B, H, S, width) whose transpose this is, (B, H, width, S); "" for others."""
        node = self.makers.get(name)
        if node is not None and node.op_type == "Transpose" and _perm(node) == [0, 1, 3, 2]:
            return str(node.input[0])
        # The exporter reshapes to three dimensions, transposes, and reshapes back to four.
        ops: list[tuple[str, list[int]]] = []
        while node is not None and len(ops) < 3:
            ops.append((node.op_type, _perm(node)))
            name = node.input[0]
            node = self.makers.get(name)
        fits = ops == [("Reshape", []), ("Transpose", [0, 2, 1]), ("Reshape", [])]
        return name if fits else ""

    def _heads(self, name: str) -> tuple[str, int] | None:
        """The tensor (B, T, H * width) that was reshaped to (B, H, T, width), and H."""
        turned = self.makers.get(name)
        if turned is None or turned.op_type != "Transpose" or not _swaps(turned):
            return None
        reshape = self.makers.get(turned.input[0])
        if reshape is None or reshape.op_type != "Reshape":
            return None
        sizes = self._sizes(reshape.input[1])
        return None if len(sizes) != 4 or sizes[2] < 1 else (reshape.input[0], sizes[2])

    def _sizes(self, name: str) -> list[int]:
        """The sizes of a shape, -1 for those that vary."""
        from onnx import numpy_helper

        if name in self.constants:
            return [int(n) for n in np.atleast_1d(numpy_helper.to_array(self.constants[name]))]
        node = self.makers.get(name)
        if node is None or node.op_type != "Concat":
            return [-1]
        return [size for part in node.input for size in self._sizes(part)]


def _ranks(model: ModelProto) -> dict[str, int]:
    """The number of dimensions of each tensor, where ONNX can tell."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values}
    return ranks | {tensor.name: len(tensor.dims) for tensor in inferred.initializer}


def _index_after(model: ModelProto, name: str) -> int:
    """The first index at which a node may read a tensor."""
    return next((i + 1 for i, node in enumerate(model.graph.node) if name in node.output), 0)


def _perm(node: NodeProto) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), [])


def _swaps(node: NodeProto) -> bool:
    return _perm(node) == _HEADS_SECOND
