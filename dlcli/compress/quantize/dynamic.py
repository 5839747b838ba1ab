"""Dynamic int8: weights are integers, ranges of activations are found anew at each call.

ONNX Runtime runs matrix products, LSTM layers and embeddings so. It has convolutions too, but they
take several times as long as in float, so conv nets are refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.compress.quantize.onnx_graph import PRODUCTS, FloatGraph, Layer
from dlcli.errors import DlcliError

if TYPE_CHECKING:
    from onnx import ModelProto

_OPS = ("MatMul", "LSTM", "Gather")  # Gemm becomes MatMul on the way
# Finding the range of its input takes longer than a small product: a head of 128 x 10 was slower so.
# They stay in float where they are few of the weights.
_LEAST_WEIGHTS, _FEW = 4096, 0.1
# What ONNX Runtime's own preparation leaves; without it the quantizer complains on the root logger.
_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")


def dynamic_layers(graph: FloatGraph) -> list[Layer]:
    """The layers that dynamic int8 is for. Raises: DlcliError for conv nets, and where there is none."""
    if graph.family == "conv":
        convs = len(graph.of("Conv", "ConvTranspose"))
        raise DlcliError(
            f"dynamic int8 is not for conv nets: this one has {convs} convolutions, which ONNX Runtime "
            "runs several times slower that way than in float",
            hint="--method static is the way: it is calibrated on training samples",
        )
    every = graph.of(*PRODUCTS, "LSTM", "Gather")
    small = [layer for layer in every if layer.weights < _LEAST_WEIGHTS]
    few = _weights(small) <= _FEW * _weights(every)
    found = [layer for layer in every if layer not in small] if few else every
    if not any(layer.op != "Gather" for layer in found):
        raise DlcliError(
            "the model has no matrix product and no LSTM, which is what dynamic int8 is for",
            hint="--method weight-only --backend torch takes any model",
        )
    return found


def _weights(layers: Iterable[Layer]) -> int:
    return sum(layer.weights for layer in layers)


def quantize_dynamic(graph: FloatGraph, layers: Collection[str]) -> ModelProto:
    """The graph with the layers of these names in int8: s8 weights, a scale for each channel."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as library

    model = graph.copy()
    model.metadata_props.add(key=_PREPARED[0], value=_PREPARED[1])
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save_model(model, str(source), save_as_external_data=True, location="float.data")
        library(
            source,
            out,
            op_types_to_quantize=list(_OPS),
            nodes_to_quantize=[*layers, *(f"{name}_MatMul" for name in layers)],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        found = onnx.load(str(out))
    del found.metadata_props[:]
    return found
