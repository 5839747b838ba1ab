"""From a model in torch to an ONNX file: torch's dynamo exporter, then what the options ask for."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import transforms
from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.data.prepare import prepare, random_inputs
from dlcli.errors import DlcliError
from dlcli.formats.base import Artifact
from dlcli.formats.encodings.base import without_encodings
from dlcli.formats.onnx import embed as onnx_embed
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx import postprocess as onnx_steps
from dlcli.formats.onnx.optimize_int8 import hasten
from dlcli.formats.readable_outputs import refuse_softmax, with_probabilities
from dlcli.formats.static_shape import Sizes, asked_sizes, with_sizes
from dlcli.wording import first_line

if TYPE_CHECKING:
    from onnx import ModelProto

_EXAMPLE_LENGTH = 12  # of the sequences that a graph is traced with; any other must do as well
# From the next on the exporter writes attention as one operator, whose masks ONNX Runtime 1.31 refuses.
_TRACED_AT_MOST = 22


def write_onnx(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Export the source's module to ``path``.

    Raises: DlcliError when the source has no module or torch cannot export it, UsageError for options
    that do not fit the task.
    """
    card = without_encodings(source.card)
    if config.softmax:
        refuse_softmax(card.task)
    if config.embed_preprocessing:
        onnx_embed.check(card.task)
    sizes = asked_sizes(config, card.task)
    module = source.module()  # refuses what has none before the slow part
    model = _exported(module, card, config.opset, sizes)
    card = with_sizes(card, sizes)
    if config.simplify:
        before = onnx_steps.count_nodes(model)
        model = onnx_steps.simplified(model)
        counted = {"nodes_before": before, "nodes_after": onnx_steps.count_nodes(model)}
        card = card.with_record(transforms.SIMPLIFY, **counted)
    if config.half:
        model = onnx_steps.halved(model)
        card = card.with_record("half", dtype="float16")
    if config.embed_preprocessing:
        onnx_embed.embed_preprocessing(model, card.task)
        card = onnx_embed.noted(card)
    if config.softmax or config.embed_preprocessing:
        onnx_steps.add_readable_answers(model, card.task)
        card = with_probabilities(card)
    onnx_file.write(model, path, card, notes_for_others(card))


def notes_for_others(card: Card) -> dict[str, Any]:
    """The card's main facts under names of their own, for programs that know nothing of cards."""
    task = card.task
    if task.input.kind in ("text", "pairs"):  # the card alone holds a vocabulary: it may be large
        return {"task": task.kind, "classes": list(task.class_names)}
    named = {"classes": list(task.class_names), "targets": [t.model_dump() for t in task.targets]}
    return {
        "task": task.kind,
        **{key: value for key, value in named.items() if value},
        "preprocessing": task.input.model_dump(),
    }


def _exported(module: Any, card: Card, opset: int, sizes: Sizes | None) -> ModelProto:
    """The graph of a module with free batch and lengths, or of ``sizes``."""
    import onnx
    import torch

    from dlcli.formats.onnx.recurrent import with_operators
    from dlcli.zoo.structures.fake_quant import int8_graph

    task = card.task
    module = with_operators(int8_graph(module.cpu().eval()))
    # Two samples: with one, the exporter may take the batch for a constant.
    arrays = prepare(random_inputs(task, 2, length=_EXAMPLE_LENGTH), task)
    example = tuple(torch.from_numpy(array) for array in arrays.values())
    free = tuple(
        {axis: name for axis, name in enumerate(tensor.dims) if isinstance(name, str)}
        for tensor in task.input.signature
    )
    if sizes is not None:
        example = tuple(
            _of_sizes(t, [sizes.get(str(dim), dim) for dim in tensor.dims], tensor.name)
            for t, tensor in zip(example, task.input.signature, strict=True)
        )
    try:
        with _quietly():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=min(opset, _TRACED_AT_MOST),
                input_names=list(arrays),
                output_names=[task.output.name],
                dynamic_shapes=free if sizes is None else None,
                verbose=False,
            )
            assert program is not None  # None only without the dynamo exporter
            _forget_origins(program.model)
            model = program.model_proto
            if opset > _TRACED_AT_MOST:
                model = onnx.version_converter.convert_version(model, opset)
            if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
                hasten(model)
    except (
        torch.onnx.errors.OnnxExporterError,
        onnx.version_converter.ConvertError,
        RuntimeError,
    ) as exc:
        first = first_line(exc)
        raise DlcliError(
            f"torch cannot export {card.model.name} to ONNX opset {opset}: {first}",
            hint="try another --opset; --debug shows the exporter's whole report",
        ) from exc
    return model


def _of_sizes(tensor: Any, sizes: list[Any], name: str) -> Any:
    """An example input of exactly these sizes: zeros are true tokens and values as good as any."""
    import torch

    if name == "lengths":
        return torch.ones(sizes, dtype=tensor.dtype)
    return torch.zeros(sizes, dtype=tensor.dtype)


def _forget_origins(model: Any) -> None:
    """Drop the exporter's notes on each node: stack traces with the paths of this machine."""
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()


@contextlib.contextmanager
def _quietly() -> Any:
    """Keep the exporter's progress lines, notes on its own internals and loggers off the screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
