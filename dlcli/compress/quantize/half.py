"""Weights in 16 bits: float16, and bfloat16 in torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.quantize.base import register_quantize_method
from dlcli.compress.quantize.onnx_graph import FloatGraph
from dlcli.formats.onnx.postprocess import to_float16

if TYPE_CHECKING:
    from onnx import ModelProto


@register_quantize_method("fp16", "onnxruntime", auto_order=9)
def float16_graph(graph: FloatGraph, layers: Collection[str]) -> ModelProto:
    """Return the graph with the named layers, and what is between them, in float16."""
    in_float = {layer.name for layer in graph.layers} - set(layers)
    return to_float16(graph.copy(), in_float)


@register_quantize_method("fp16", "torch", auto_order=9)
def float16(skip: list[str]) -> TransformRecord:
    """Return the record of weights that are stored in float16 and computed in float32."""
    return TransformRecord(kind=transforms.HALF, args={"dtype": "float16", "skip": skip})


@register_quantize_method(
    "bf16", "torch", auto_order=10, why_only="ONNX Runtime's CPU provider refuses bfloat16"
)
def bfloat16(skip: list[str]) -> TransformRecord:
    """Return the record of weights that are stored in bfloat16 and computed in float32."""
    return TransformRecord(kind=transforms.HALF, args={"dtype": "bfloat16", "skip": skip})
