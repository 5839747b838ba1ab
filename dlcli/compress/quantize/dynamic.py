"""Dynamic int8 quantization: int8 weights, ranges of activations computed at each call.

ONNX Runtime supports matrix products, LSTM layers and embeddings. Its dynamic int8 convolutions take
several times as long as in float, so convolutional networks are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from dlcli.compress.quantize.base import NO_INT8_IN_TORCH, register_quantize_method
from dlcli.compress.quantize.onnx_graph import PRODUCTS, FloatGraph, OnnxLayer
from dlcli.errors import DlcliError
from dlcli.files import temporary_folder
from dlcli.formats.onnx.optimize_int8 import optimize_int8

if TYPE_CHECKING:
    from onnx import ModelProto

_OPS = ("MatMul", "LSTM", "Gather")  # a Gemm is split into MatMul and Add first
# Computing the range of its input takes longer than a small product: a head of 128 x 10 was slower in
# int8. Small layers stay in float where they have a small share of the weights.
_MIN_WEIGHTS, _SMALL_SHARE = 4096, 0.1
# Metadata of ONNX Runtime's preprocessing; without it the quantizer warns on the root logger.
_PREPROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")


def dynamic_layers(graph: FloatGraph) -> list[OnnxLayer]:
    """Return the layers to quantize. Raises: DlcliError for convolutional networks, and for none."""
    if graph.family == "conv":
        convs = len(graph.of("Conv", "ConvTranspose"))
        raise DlcliError(
            f"dynamic int8 does not suit convolutional models: this one has {convs} convolutions, which "
            "ONNX Runtime runs several times slower than in float",
            hint="use --method static, which is calibrated on training samples",
        )
    layers = graph.of(*PRODUCTS, "LSTM", "Gather")
    small = [layer for layer in layers if layer.weights < _MIN_WEIGHTS]
    if _weights(small) <= _SMALL_SHARE * _weights(layers):
        layers = [layer for layer in layers if layer not in small]
    if not any(layer.op != "Gather" for layer in layers):
        raise DlcliError(
            "the model has no matrix product and no LSTM to quantize dynamically",
            hint="--method weight-only --backend torch supports any model",
        )
    return layers


def _weights(layers: Iterable[OnnxLayer]) -> int:
    return sum(layer.weights for layer in layers)


@register_quantize_method(
    "dynamic",
    "onnxruntime",
    layers=dynamic_layers,
    tag="int8-dynamic",
    sensitive_in_float=True,
    auto_order=1,
    auto_except=("conv",),
    why_only=NO_INT8_IN_TORCH,
)
def quantize_dynamic(graph: FloatGraph, layers: Collection[str]) -> ModelProto:
    """Return the graph with the named layers in int8: s8 weights, a scale for each channel."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as ort_quantize_dynamic

    model = graph.copy()
    _split_gemms(model)
    model.metadata_props.add(key=_PREPROCESSED[0], value=_PREPROCESSED[1])
    with temporary_folder() as folder:
        source, out = folder / "float.onnx", folder / "int8.onnx"
        onnx.save_model(model, str(source), save_as_external_data=True, location="float.data")
        ort_quantize_dynamic(
            source,
            out,
            op_types_to_quantize=list(_OPS),
            nodes_to_quantize=list(layers),
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        quantized = onnx.load(str(out))
    del quantized.metadata_props[:]
    optimize_int8(quantized)
    return quantized


def _split_gemms(model: ModelProto) -> None:
    """Replace each Gemm by MatMul, which keeps its name, and Add, in place.

    The quantizer does the same, but under names of its own, which change with its version.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        scales = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
        plain = scales == (1.0, 1.0) and not attributes.get("transA")
        if node.op_type != "Gemm" or not plain or node.input[1] not in tensors:
            nodes.append(node)
            continue
        weight = node.input[1]
        if attributes.get("transB"):
            weight = f"{node.input[1]}:transposed"
            if weight not in tensors:
                array = numpy_helper.to_array(tensors[node.input[1]]).T.copy()
                tensors[weight] = numpy_helper.from_array(array, weight)
        biased = len(node.input) > 2 and bool(node.input[2])
        product = f"{node.output[0]}:product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        if biased:
            add = [product, node.input[2]]
            nodes.append(helper.make_node("Add", add, [node.output[0]], name=f"{node.name}:bias"))
    used = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for name, tensor in tensors.items() if name in used)
