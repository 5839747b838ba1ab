"""Operator set and IR version of a finished graph: lowered to what an older runtime reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli import transforms
from dlcli.card import Card
from dlcli.config.onnx_versions import (
    OnnxVersions,
    check_runtime,
    oldest_runtime,
    parse_runtime,
    target_opset,
)
from dlcli.errors import DlcliError
from dlcli.formats.onnx.postprocess import constant
from dlcli.wording import first_line, listed

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# torch's exporter writes this one at least; a lower one is converted from it.
MIN_TRACED_OPSET = 18
# onnx has no adapters below. Operator sets 14 and 15 gave operators more types and attributes
# (ONNX's Changelog.md): without those a graph is the same one in 13.
_LOWEST_CONVERTED = 15
_SHAPE_ENDS = 15  # Shape has start and end from here on
_PAST_THE_END = 2**31 - 1
_CONTRIB = "com.microsoft"
# The first ONNX Runtime with each operator of its own that dlcli writes, from its ContribOperators.md.
_CONTRIB_SINCE = {"MultiHeadAttention": (1, 20), "MatMulNBits": (1, 17), "GatherBlockQuantized": (1, 23)}


def with_versions(model: ModelProto, card: Card, config: OnnxVersions) -> tuple[ModelProto, Card]:
    """The graph in the operator set and IR version that the settings ask for, and the card that says so.

    A graph stays in its operator set where neither ``--opset`` nor ``--for`` asks for a lower one.
    Raises: DlcliError where an operator of the graph does not exist there, UsageError where ``--for``
    contradicts the other two.
    """
    from onnx import helper

    check_runtime(config)
    _drop_unused_sets(model)
    runtime = None if config.runtime is None else parse_runtime(config.runtime)
    if runtime is not None:
        _check_contrib(model, str(config.runtime), runtime.version)
    if (config.opset is not None or runtime is not None) and target_opset(config) < opset_of(model):
        model = _lowered(model, target_opset(config))
    least = helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    if runtime is not None:
        least = min(least, runtime.ir_version)
    model.ir_version = config.ir_version or least
    if config.requested_versions:
        written = {"opset": opset_of(model), "ir_version": model.ir_version}
        named = {} if runtime is None else {"runtime": config.runtime}
        card = card.with_record(transforms.ONNX_VERSIONS, **written, **named)
    return model, card


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operator set in a graph."""
    own = (int(e.version) for e in model.opset_import if e.domain in ("", "ai.onnx"))
    return next(own, 1)


def facts(model: ModelProto) -> dict[str, str]:
    """What `info` says of a file: its operator sets and its IR version."""
    sets = {entry.domain: entry.version for entry in model.opset_import}
    others = ", ".join(f"{domain} {version}" for domain, version in sets.items() if domain)
    opset = opset_of(model)
    return {
        "opset": f"{opset}{', ' * bool(others)}{others} ({oldest_runtime(opset)} or newer)",
        "IR version": str(model.ir_version),
    }


def _lowered(model: ModelProto, opset: int) -> ModelProto:
    from onnx import version_converter

    _fit_schemas(model, opset)
    try:
        lowered: ModelProto = version_converter.convert_version(model, max(opset, _LOWEST_CONVERTED))
    except (version_converter.ConvertError, RuntimeError) as exc:
        raise DlcliError(
            f"onnx cannot convert the graph from opset {opset_of(model)} to {opset}: {first_line(exc)}",
            hint="try a higher --opset",
        ) from exc
    for entry in lowered.opset_import:
        if not entry.domain:
            entry.version = opset
    return lowered


def _fit_schemas(model: ModelProto, opset: int) -> None:
    """Drop attributes that an operator set lacks where they have their default.

    Raises: DlcliError for an operator that it lacks altogether.
    """
    import onnx

    newer = opset_of(model)
    if opset < _SHAPE_ENDS:
        _slice_shapes(model.graph)
    missing: dict[str, int] = {}
    for node in all_nodes(model.graph.node):
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            known = onnx.defs.get_schema(node.op_type, opset).attributes
        except onnx.defs.SchemaError:
            missing[node.op_type] = _first_opset(node.op_type)
            continue
        schema = onnx.defs.get_schema(node.op_type, newer)
        attributes = [
            attribute
            for attribute in node.attribute
            if attribute.name in known or not _has_no_effect(attribute, schema)
        ]
        if len(attributes) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(attributes)
    if missing:
        needed = max(missing.values())
        raise DlcliError(
            f"opset {opset} has no {listed(sorted(missing), 5)}, which this model needs",
            hint=f"--opset {needed}, which {oldest_runtime(needed)} and newer read",
        )


def _slice_shapes(graph: GraphProto) -> None:
    """Write a part of a shape, which Shape gives by its own attributes since opset 15, as Slice."""
    from onnx import helper

    nodes: list[NodeProto] = []
    for node in graph.node:
        ends = {a.name: a.i for a in node.attribute if node.op_type == "Shape"}
        nodes.append(node)
        if not ends:
            continue
        whole, part = f"{node.output[0]}/whole", node.output[0]
        starts, stops = f"{part}/start", f"{part}/end"
        graph.initializer.extend(
            constant(name, np.array([value], np.int64))
            for name, value in ((starts, ends.get("start", 0)), (stops, ends.get("end", _PAST_THE_END)))
        )
        del node.attribute[:]
        node.output[0] = whole
        nodes.append(helper.make_node("Slice", [whole, starts, stops], [part]))
    del graph.node[:]
    graph.node.extend(nodes)


def _has_no_effect(attribute: Any, schema: Any) -> bool:
    """Whether an attribute has its default, or says how sizes of 0 are read: no batch is empty."""
    import onnx

    if (schema.name, attribute.name) == ("Reshape", "allowzero"):
        return True
    known = schema.attributes.get(attribute.name)
    if known is None or not known.default_value.name:
        return False
    value, default = (onnx.helper.get_attribute_value(a) for a in (attribute, known.default_value))
    return bool(value == default)


def _first_opset(op: str) -> int:
    import onnx

    return min(
        s.since_version
        for s in onnx.defs.get_all_schemas_with_history()
        if s.name == op and not s.domain
    )


def _drop_unused_sets(model: ModelProto) -> None:
    """Drop operator sets without a node: ONNX Runtime adds them, and an older one refuses them."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    used = {"", *(node.domain for node in all_nodes(nodes))}
    entries = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(entries)


def _check_contrib(model: ModelProto, runtime: str, version: tuple[int, int]) -> None:
    """Raises: DlcliError where the version lacks an operator of ONNX Runtime's own."""
    for node in all_nodes(model.graph.node):
        since = _CONTRIB_SINCE.get(node.op_type, (0, 0)) if node.domain == _CONTRIB else (0, 0)
        if since > version:
            raise DlcliError(
                f"{runtime} has no {node.op_type}, which this file needs",
                hint=f"--for onnxruntime=={since[0]}.{since[1]}, or another --method",
            )


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Every node, those of subgraphs too."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from all_nodes(graph.node)
