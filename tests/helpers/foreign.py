"""Tiny ONNX files as other programs write them: no card, names, layouts and outputs of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)  # channels, classes
CLASSES = ("a", "b", "c", "d")


def save(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    weights: dict[str, Any] | None = None,
) -> Path:
    """Write a graph of these parts."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="other", ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def value(name: str, *dims: int | str, kind: int = TensorProto.FLOAT) -> Any:
    """An input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, list(dims))


def image_file(
    path: Path,
    *,
    side: int | str = 8,
    batch: int | str = "N",
    layout: Literal["NCHW", "NHWC"] = "NCHW",
    softmax: bool = False,
    kind: int = TensorProto.FLOAT,
    name: str = "logits",
    classes: int = len(CLASSES),
) -> Path:
    """The mean of each channel times `WEIGHT`; its tensors are named as dlcli names others.

    With a ``batch`` of a number its Reshape holds that number too, as torch.onnx.export writes it.
    """
    dims = (batch, 3, side, side) if layout == "NCHW" else (batch, side, side, 3)
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    keep = batch if isinstance(batch, int) else -1
    means = "input" if name != "input" else "logits"
    nodes = [
        helper.make_node("Cast", [name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], [means]),
        helper.make_node("Reshape", [means, "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["scores"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["out"], axis=-1))
    weights = {"axes": np.array(axes), "flat": np.array([keep, 3]), "weight": WEIGHT[:, :classes]}
    out = "out" if softmax else "scores"
    return save(path, nodes, [value(name, *dims, kind=kind)], [value(out, batch, classes)], weights)


def regressor_file(path: Path) -> Path:
    """The sum of two columns."""
    nodes = [helper.make_node("ReduceSum", ["X", "axes"], ["sum"], keepdims=1)]
    return save(path, nodes, [value("X", "N", 2)], [value("sum", "N", 1)], {"axes": np.array([1])})


def classifier_file(path: Path, *, columns: tuple[str, ...] = ()) -> Path:
    """A linear classifier as skl2onnx writes one: labels, and a ZipMap of each row's probabilities."""
    rng = np.random.default_rng(1)
    one = [value("X", "N", 2)] if not columns else [value(name, "N", 1) for name in columns]
    source = "X"
    nodes = []
    if columns:
        nodes.append(helper.make_node("Concat", list(columns), ["X"], axis=1))
    nodes += [
        helper.make_node(
            "LinearClassifier",
            [source],
            ["label", "scores"],
            domain="ai.onnx.ml",
            coefficients=rng.normal(size=6).tolist(),
            intercepts=[0.1, 0.0, -0.1],
            classlabels_strings=["low", "mid", "high"],
            post_transform="SOFTMAX",
        ),
        helper.make_node(
            "ZipMap",
            ["scores"],
            ["probability"],
            domain="ai.onnx.ml",
            classlabels_strings=["low", "mid", "high"],
        ),
    ]
    mapping = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    outputs = [
        value("label", "N", kind=TensorProto.STRING),
        helper.make_value_info("probability", helper.make_sequence_type_proto(mapping)),
    ]
    return save(path, nodes, one, outputs)
