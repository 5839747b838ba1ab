"""ONNX files that are written node by node, in milliseconds: nothing is trained or traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dlcli.card import Card
from dlcli.formats.onnx.file import write
from dlcli.formats.static_shape import sizes_of
from dlcli.task import TaskSpec


def write_graph(path: Path, card: Card) -> None:
    """Write an ONNX model of any task whose outputs depend on each input value and on its place."""
    write(_graph(card.task, sizes_of(card) or {}), path, card)


def _graph(task: TaskSpec, sizes: Mapping[str, int]) -> onnx.ModelProto:
    rng, nodes, constants, sums = np.random.default_rng(0), [], {}, []

    def node(op: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"{op}{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    def constant(value: Any, kind: Any = np.float32) -> str:
        constants[f"c{len(constants)}"] = np.asarray(value, dtype=kind)
        return f"c{len(constants) - 1}"

    for tensor in task.input.signature:
        x = node("Cast", tensor.name, to=TensorProto.FLOAT)
        if len(tensor.dims) > 1:
            last = tensor.dims[-1]
            if isinstance(last, int):
                x = node("Mul", x, constant(rng.uniform(0.5, 1, last)))
            x = node("Sin", x)  # 0 stays 0, so padding has no effect
            places = node("CumSum", node("Exp", node("Sub", x, x)), constant(1, np.int64))
            axes = constant(range(1, len(tensor.dims)), np.int64)
            x = node("ReduceSum", node("Div", x, places), axes, keepdims=0)
        sums.append(node("Unsqueeze", x, constant([1], np.int64)))
    width = int(np.prod(task.output_shape))
    total = node("Sin", node("Sum", *sums))
    out = node(
        "Add", node("Mul", total, constant(rng.normal(size=width))), constant(rng.normal(size=width))
    )
    shape = constant([-1, *task.output_shape], np.int64)
    nodes.append(helper.make_node("Reshape", [out, shape], [task.output.name]))

    def value(name: str, kind: int, dims: Sequence[int | str]) -> Any:
        return helper.make_tensor_value_info(name, kind, [sizes.get(str(d), d) for d in dims])

    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [value(t.name, kinds[t.dtype], t.dims) for t in task.input.signature],
            [value(task.output.name, TensorProto.FLOAT, task.output.dims)],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
