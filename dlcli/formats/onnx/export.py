"""Export a module to ONNX: torch's dynamo exporter, then the steps that the options select."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import transforms
from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.config.onnx_versions import target_opset
from dlcli.data.prepare import prepare, random_inputs
from dlcli.formats.base import Artifact
from dlcli.formats.encodings.base import without_encodings
from dlcli.formats.onnx import embed as onnx_embed
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx import postprocess as onnx_steps
from dlcli.formats.onnx.optimize_int8 import optimize_int8
from dlcli.formats.onnx.versions import MIN_TRACED_OPSET, with_versions
from dlcli.formats.readable_outputs import check_softmax, with_readable_outputs
from dlcli.formats.static_shape import Sizes, requested_sizes, with_sizes
from dlcli.formats.torch_export import export_error, silence_torch

if TYPE_CHECKING:
    from onnx import ModelProto

_TRACE_LENGTH = 12  # of sequences; the length stays dynamic
# From opset 23 on the exporter writes attention as one operator, whose masks ONNX Runtime 1.31 refuses.
_MAX_TRACED_OPSET = 22


def write_onnx(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Export the source's module to ``path``.

    Raises: DlcliError when the source has no module or torch cannot export it, UsageError for options
    that do not fit the task.
    """
    card = without_encodings(source.card)
    if config.softmax:
        check_softmax(card.task)
    if config.embed_preprocessing:
        onnx_embed.check(card.task)
    sizes = requested_sizes(config, card.task)
    module = source.module()  # raises before the slow part
    model = export_graph(module, card, max(target_opset(config), MIN_TRACED_OPSET), sizes)
    card = with_sizes(card, sizes)
    if config.simplify:
        before = onnx_steps.count_nodes(model)
        model = onnx_steps.simplify(model)
        counted = {"nodes_before": before, "nodes_after": onnx_steps.count_nodes(model)}
        card = card.with_record(transforms.SIMPLIFY, **counted)
    if config.half:
        model = onnx_steps.to_float16(model)
        card = card.with_record(transforms.HALF, dtype="float16")
    if config.embed_preprocessing:
        onnx_embed.embed_preprocessing(model, card.task)
        card = onnx_embed.with_raw_inputs(card)
    if config.softmax or config.embed_preprocessing:
        onnx_steps.add_readable_outputs(model, card.task)
        card = with_readable_outputs(card)
    model, card = with_versions(model, card, config)
    onnx_file.write(model, path, card, metadata_notes(card))


def metadata_notes(card: Card) -> dict[str, Any]:
    """The card's main facts under their own metadata keys, for programs that read no cards."""
    task = card.task
    if task.input.kind in ("text", "pairs"):  # the card alone holds a vocabulary: it may be large
        return {"task": task.kind, "classes": list(task.class_names)}
    named = {"classes": list(task.class_names), "targets": [t.model_dump() for t in task.targets]}
    return {
        "task": task.kind,
        **{key: value for key, value in named.items() if value},
        "preprocessing": task.input.model_dump(),
    }


def export_graph(module: Any, card: Card, opset: int, sizes: Sizes | None) -> ModelProto:
    """The graph of a module with dynamic batch and lengths, or of ``sizes``. Raises: DlcliError."""
    import onnx
    import torch

    from dlcli.formats.onnx.int8_graph import int8_graph
    from dlcli.formats.onnx.recurrent import with_onnx_rnns

    task = card.task
    module = with_onnx_rnns(int8_graph(module.cpu().eval()))
    # Two samples: with one, the exporter may take the batch size for a constant.
    arrays = prepare(random_inputs(task, 2, length=_TRACE_LENGTH), task)
    example = tuple(torch.from_numpy(array) for array in arrays.values())
    dynamic = tuple(
        {axis: name for axis, name in enumerate(tensor.dims) if isinstance(name, str)}
        for tensor in task.input.signature
    )
    shapes = (dynamic,) if getattr(module, "variadic", False) else dynamic  # ``*inputs`` are one
    if sizes is not None:
        example = tuple(
            _of_sizes(t, [sizes.get(str(dim), dim) for dim in tensor.dims], tensor.name)
            for t, tensor in zip(example, task.input.signature, strict=True)
        )
    try:
        with silence_torch():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=min(opset, _MAX_TRACED_OPSET),
                input_names=list(arrays),
                output_names=[task.output.name],
                dynamic_shapes=shapes if sizes is None else None,
                verbose=False,
            )
            assert program is not None  # None only without the dynamo exporter
            _drop_stack_traces(program.model)
            model = program.model_proto
            if opset > _MAX_TRACED_OPSET:
                model = onnx.version_converter.convert_version(model, opset)
            if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
                optimize_int8(model)
    except (
        torch.onnx.errors.OnnxExporterError,
        onnx.version_converter.ConvertError,
        RuntimeError,
    ) as exc:
        raise export_error("torch.onnx", card, exc, static=sizes is not None) from exc
    return model


def _of_sizes(tensor: Any, sizes: list[Any], name: str) -> Any:
    """An example input of exactly these sizes: zeros, or lengths of 1."""
    import torch

    if name == "lengths":
        return torch.ones(sizes, dtype=tensor.dtype)
    return torch.zeros(sizes, dtype=tensor.dtype)


def _drop_stack_traces(model: Any) -> None:
    """Drop the metadata of each node: stack traces with the paths of this machine."""
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
