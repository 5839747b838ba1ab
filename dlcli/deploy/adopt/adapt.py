"""A graph of another program with dlcli's input and output.

dlcli's image is float32 (batch, C, H, W), its row float32 (batch, columns), its output float32
(batch, outputs). A graph of another form gets the nodes in between; its own stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlcli.deploy.adopt.graph import ForeignGraph, type_of
from dlcli.deploy.adopt.head import Single
from dlcli.errors import DlcliError
from dlcli.formats.onnx.postprocess import constant, drop_unused
from dlcli.formats.onnx.raw import shape_of
from dlcli.formats.onnx.versions import opset_of
from dlcli.wording import first_line

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_OWN = "adopted"  # the prefix of names that are given here
_LEAST_IR = 4  # below, each weight is an input of the graph too
_LEAST_OPSET = 7  # of ONNX Runtime; the nodes that are added here need no higher one


def adapt(
    foreign: ForeignGraph,
    source: tuple[str, tuple[int, ...]],
    target: tuple[str, int],
    batch: int | None,
    single: Single | None = None,
) -> ModelProto:
    """The graph with an input ``source`` (name, sample's shape) and an output ``target`` (name, size).

    ``single``: what its one number for two classes is, which become two outputs. ``batch`` is the only
    batch size that it takes; None: any. A graph of one batch size is made to take any by its shapes
    alone, so whether it does must be tried.
    """
    from onnx import TensorProto, helper

    model = _in_readable_versions(foreign.model)
    graph, (input_name, shape), (output_name, outputs) = model.graph, source, target
    if batch is None and foreign.form.batch is not None:
        _free_batch(graph, foreign.form.batch)
    del graph.value_info[:]  # of another batch size, perhaps
    value = next(v for v in graph.output if v.name == foreign.output)
    inner = [f"{_OWN}/input/{i}" for i in range(len(foreign.inputs))]
    for name, new in zip([v.name for v in foreign.inputs], inner, strict=True):
        _rename(graph, name, new)
    _rename(graph, foreign.output, f"{_OWN}/output")
    for name in (input_name, output_name):  # of tensors inside
        _rename(graph, name, f"{_OWN}/inner/{name}")
    before = _in_front(foreign, input_name, inner, opset_of(model))
    if not before:
        _rename(graph, inner[0], input_name)
    after: list[NodeProto] = []
    if type_of(value) == TensorProto.FLOAT and len(shape_of(value)) == 2 and single is None:
        _rename(graph, f"{_OWN}/output", output_name)
    else:
        columns = 1 if single else outputs
        graph.initializer.append(constant(f"{_OWN}/shape", np.array([-1, columns], np.int64)))
        rows = f"{_OWN}/rows" if single else output_name
        after = [
            helper.make_node("Cast", [f"{_OWN}/output"], [f"{_OWN}/float"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", [f"{_OWN}/float", f"{_OWN}/shape"], [rows]),
        ]
    if single == "logit":
        graph.initializer.append(constant(f"{_OWN}/pads", np.array([0, 1, 0, 0], np.int64)))
        after.append(_zeros_in_front(rows, output_name, opset_of(model)))
    elif single == "probability":
        graph.initializer.append(constant(f"{_OWN}/one", np.float32(1)))
        after.append(helper.make_node("Sub", [f"{_OWN}/one", rows], [f"{_OWN}/first"]))
        after.append(helper.make_node("Concat", [f"{_OWN}/first", rows], [output_name], axis=1))
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    size: int | str = "batch" if batch is None else batch
    graph.input.append(helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [size, *shape]))
    graph.output.append(helper.make_tensor_value_info(output_name, TensorProto.FLOAT, [size, outputs]))
    drop_unused(model)  # what only its other outputs read
    return model


def _in_readable_versions(original: ModelProto) -> ModelProto:
    """A copy in an IR version whose weights are no inputs, and an operator set of ONNX Runtime's.

    Raises: DlcliError where onnx cannot convert an older operator set.
    """
    from onnx import version_converter

    model = type(original)()
    model.CopyFrom(original)
    model.ir_version = max(model.ir_version, _LEAST_IR)
    if opset_of(model) >= _LEAST_OPSET:
        return model
    try:
        converted: ModelProto = version_converter.convert_version(model, _LEAST_OPSET)
    except (version_converter.ConvertError, RuntimeError) as exc:
        raise DlcliError(
            f"onnx cannot convert it from opset {opset_of(model)} to {_LEAST_OPSET}: {first_line(exc)}"
        ) from exc
    return converted


def _zeros_in_front(rows: str, output: str, opset: int) -> NodeProto:
    """The node that puts a column of zeros before a tensor (n, 1): the logit of the first class."""
    from onnx import helper

    if opset < 11:
        return helper.make_node("Pad", [rows], [output], pads=[0, 1, 0, 0])
    return helper.make_node("Pad", [rows, f"{_OWN}/pads"], [output])


def _in_front(foreign: ForeignGraph, name: str, inner: list[str], opset: int) -> list[NodeProto]:
    """The nodes from dlcli's input ``name`` to the graph's own, ``inner``; none where they are alike."""
    from onnx import TensorProto, helper

    nodes: list[NodeProto] = []
    types = [type_of(value) for value in foreign.inputs]
    parts = [name]
    if len(inner) > 1:
        parts = [f"{part}/float" for part in inner]
        if opset < 13:
            nodes.append(helper.make_node("Split", [name], parts, axis=1, split=[1] * len(parts)))
        else:
            sizes = f"{_OWN}/sizes"
            ones = constant(sizes, np.ones(len(parts), np.int64))
            nodes.append(helper.make_node("Constant", [], [sizes], value=ones))
            nodes.append(helper.make_node("Split", [name, sizes], parts, axis=1))
    elif foreign.form.layout == "NHWC":
        parts = [f"{_OWN}/NHWC"]
        nodes.append(helper.make_node("Transpose", [name], parts, perm=[0, 2, 3, 1]))
    for part, own, kind in zip(parts, inner, types, strict=True):
        last = part
        if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            last = f"{own}/rounded"  # a cast truncates
            nodes += _round(part, last, opset)
        if kind != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", [last], [own], to=kind))
        elif nodes:
            nodes.append(helper.make_node("Identity", [part], [own]))
    return nodes


def _round(source: str, output: str, opset: int) -> list[NodeProto]:
    """The nodes that give the nearest whole numbers."""
    from onnx import helper

    if opset >= 11:
        return [helper.make_node("Round", [source], [output])]
    half, sum_ = f"{output}/half", f"{output}/sum"
    return [
        helper.make_node("Constant", [], [half], value=constant(half, np.float32(0.5))),
        helper.make_node("Add", [source, half], [sum_]),
        helper.make_node("Floor", [sum_], [output]),
    ]


def _rename(graph: GraphProto, old: str, new: str) -> None:
    """Rename a tensor everywhere, in subgraphs too."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                if subgraph.node or subgraph.output:
                    _rename(subgraph, old, new)
    for value in (*graph.initializer, *graph.input, *graph.output):
        if value.name == old:
            value.name = new


def _free_batch(graph: GraphProto, batch: int) -> None:
    """Let each Reshape to a constant shape of this batch keep the first size of what it is given."""
    from onnx import numpy_helper

    shapes = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = node.attribute[0].t
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.input[1] not in shapes:
            continue
        shape = numpy_helper.to_array(shapes[node.input[1]]).copy()
        literal = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
        if shape.size > 1 and shape[0] == batch and not (literal and -1 in shape):
            shape[0] = -1 if literal else 0
            graph.initializer.append(constant(f"{_OWN}/reshape/{number}", shape))
            node.input[1] = f"{_OWN}/reshape/{number}"
