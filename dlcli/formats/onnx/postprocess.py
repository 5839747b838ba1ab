"""Steps on an exported ONNX graph: fewer nodes, 16 bits, readable outputs."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli.errors import DlcliError
from dlcli.files import temporary_folder
from dlcli.task import TaskSpec
from dlcli.wording import first_line

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PROBABILITIES, VALUES = "probabilities", "values"


def count_nodes(model: ModelProto) -> int:
    """The number of nodes of the main graph."""
    return len(model.graph.node)


def simplify(model: ModelProto) -> ModelProto:
    """The graph after ONNX Runtime's basic optimisations: standard operators alone, on any machine.

    It folds constants and batch norms, and removes what has no effect. Raises: DlcliError when ONNX
    Runtime cannot load the graph.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with temporary_folder() as folder:
        raw, out = folder / "in.onnx", folder / "out.onnx"
        onnx.save_model(model, str(raw), save_as_external_data=True, location="in.data")
        options.optimized_model_filepath = str(out)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "out.data"
        )
        try:
            onnxruntime.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # its errors share no base class but this
            raise DlcliError(f"ONNX Runtime cannot simplify the graph: {first_line(exc)}") from exc
        simplified = onnx.load(str(out))
    del simplified.metadata_props[:]
    simplified.metadata_props.extend(model.metadata_props)
    return simplified


def drop_unused(model: ModelProto) -> None:
    """Remove the nodes and tensors that no output needs."""
    wanted = {value.name for value in model.graph.output}
    used = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(_reads(node))
            used.append(node)
    used.reverse()
    del model.graph.node[:]
    model.graph.node.extend(used)
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)


def _reads(node: NodeProto) -> Iterator[str]:
    """The names that a node reads, its subgraphs' too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _reads(inner)


def to_float16(model: ModelProto, in_float32: Collection[str] = ()) -> ModelProto:
    """The graph with weights and arithmetic in float16; its inputs and outputs stay float32.

    Operators that ONNX Runtime has in float32 alone keep it, with casts around them, and so do the nodes
    named in ``in_float32``.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    # The shapes that the exporter recorded are of float32 tensors.
    del model.graph.value_info[:]
    with warnings.catch_warnings():
        # It warns of each weight that it clips to float16's range; the parity check measures the cost.
        warnings.simplefilter("ignore")
        half: ModelProto = convert_float_to_float16(
            model, keep_io_types=True, node_block_list=list(in_float32)
        )
    # Where two nodes that stay in float32 read one tensor, it writes the same cast twice.
    nodes = {tuple(node.output): node for node in half.graph.node}
    del half.graph.value_info[:]
    del half.graph.node[:]
    half.graph.node.extend(nodes.values())
    OnnxModel.graph_topological_sort(half.graph)  # it puts its casts at the end
    return half


def add_readable_outputs(model: ModelProto, task: TaskSpec) -> None:
    """Make the graph output probabilities, or numbers in the data's units; vectors are unchanged."""
    from onnx import TensorProto, helper

    if task.kind == "embedding":
        return
    graph, before = model.graph, task.output.name
    dims = graph.output[0].type.tensor_type.shape
    if task.targets:
        name = VALUES
        scales = {"std": [t.std for t in task.targets], "mean": [t.mean for t in task.targets]}
        for key, values in scales.items():
            graph.initializer.append(constant(f"{name}/{key}", np.array(values, dtype=np.float32)))
        nodes = [
            helper.make_node("Mul", [before, f"{name}/std"], [f"{name}/scaled"]),
            helper.make_node("Add", [f"{name}/scaled", f"{name}/mean"], [name]),
        ]
    elif task.kind == "multilabel":
        name = PROBABILITIES
        nodes = [helper.make_node("Sigmoid", [before], [name])]
    else:
        name = PROBABILITIES
        nodes = [helper.make_node("Softmax", [before], [name], axis=-1)]
    graph.node.extend(nodes)
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    output.type.tensor_type.shape.CopyFrom(dims)
    del graph.output[:]
    graph.output.append(output)


def output_name(task: TaskSpec, *, readable: bool) -> str:
    """The name of a file's output."""
    if not readable or task.kind == "embedding":
        return task.output.name
    return VALUES if task.targets else PROBABILITIES


def constant(name: str, value: Any) -> Any:
    """An array as an initializer."""
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(value), name)
