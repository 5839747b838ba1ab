"""Static int8 quantization: ranges of activations are computed on calibration data and stored.

The file is a float graph with QuantizeLinear and DequantizeLinear nodes, which ONNX Runtime turns into
int8 kernels. Which operators are between them decides the speed: an int8 layer next to a float one costs
a conversion.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dlcli.compress.quantize.base import NO_INT8_IN_TORCH, register_quantize_method
from dlcli.compress.quantize.onnx_graph import PRODUCTS, FloatGraph, OnnxLayer
from dlcli.errors import DlcliError
from dlcli.files import temporary_folder
from dlcli.formats.onnx.optimize_int8 import optimize_int8

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Target = Literal["x86", "arm", "tensorrt"]
Calibration = Literal["minmax", "entropy", "percentile"]
Feed = Mapping[str, npt.NDArray[Any]]

# Ranges computed on fewer samples do not hold for others.
FEWEST_SAMPLES = 8
# Operators without weights that stay in int8 between int8 layers.
_ONE_INPUT, _JOINS = ("Relu", "Clip", "MaxPool"), ("Add", "Concat")
# An int8 convolution gathers its inputs first (im2col), which outweighs few products: 3x3 from one to
# 16 channels was 8 times slower than in float, from three channels twice as slow.
_MIN_WEIGHTS = 1024


def static_layers(graph: FloatGraph) -> list[OnnxLayer]:
    """Return the layers that static int8 makes faster. Raises: DlcliError where there is none.

    Of transformers and the like these are matrix products and embeddings: with sums, norms and
    softmax in int8 too, half of the predictions changed.
    """
    if graph.family == "conv":
        layers = [x for x in graph.of("Conv", *PRODUCTS) if x.op != "Conv" or _gains(x, graph)]
    else:
        layers = graph.of(*PRODUCTS, "Gather")
    if not any(layer.op != "Gather" for layer in layers):
        raise DlcliError(
            "the model has no convolution and no matrix product to quantize statically",
            hint="--method dynamic runs LSTM layers in int8; --method weight-only --backend torch "
            "supports any model",
        )
    return layers


def calibrate(
    graph: FloatGraph, feeds: Iterable[Feed], *, target: Target, calibration: Calibration
) -> Any:
    """Return the range of every activation that may be quantized, over small batches, one at a time.

    Raises: DlcliError where a range is not finite.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    symmetric = {"symmetric": target != "x86"}
    with temporary_folder() as folder, contextlib.redirect_stdout(io.StringIO()):
        source = folder / "float.onnx"
        onnx.save_model(
            _with_shapes(graph), str(source), save_as_external_data=True, location="float.data"
        )
        calibrator = create_calibrator(
            source,
            _op_types(graph),
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=methods[calibration],
            extra_options=symmetric,
        )
        for feed in feeds:
            # A call for each batch: all outputs of one call are kept in memory.
            calibrator.collect_data(_SingleBatch(feed))
        ranges = calibrator.compute_data()
    not_finite = [name for name, data in ranges.items() if not np.isfinite(data.range_value).all()]
    if not_finite:
        raise DlcliError(
            f"calibration: {not_finite[0]} has values that are not finite", hint="--method dynamic"
        )
    return ranges


@register_quantize_method(
    "static",
    "onnxruntime",
    layers=static_layers,
    calibrate=calibrate,
    tag="int8-static",
    sensitive_in_float=True,
    auto_order=2,
    why_only=NO_INT8_IN_TORCH,
)
def quantize_static(
    graph: FloatGraph, layers: Collection[str], ranges: Any, *, target: Target, reduce_range: bool | None
) -> ModelProto:
    """Return the graph with the named layers, and the operators between them, in int8.

    x86: u8 activations, as its kernels need; arm: s8, symmetric. tensorrt: as arm, with biases in float
    and the operators as they are: it takes no int32 and none of ONNX Runtime's own. Weights are s8,
    symmetric, with a scale for each channel, with ``reduce_range`` in 7 bits: without VNNI, x86 adds two
    products in 16 bits, which those of 8 bits overflow.
    """
    from onnxruntime.quantization import QDQQuantizer, QuantType

    model = _with_shapes(graph)
    nodes = [node.name for node in _int8_nodes(model.graph.node, set(layers))]
    quantizer = QDQQuantizer(
        model,
        True,  # a scale for each channel
        bool(reduce_range),
        QuantType.QInt8,
        QuantType.QUInt8 if target == "x86" else QuantType.QInt8,
        ranges,
        nodes,
        [],
        _op_types(graph),
        {
            "ActivationSymmetric": target != "x86",
            "WeightSymmetric": True,
            "QuantizeBias": target != "tensorrt",
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: ModelProto = quantizer.model.model
    del quantized.metadata_props[:]
    if target != "tensorrt":
        optimize_int8(quantized)
    return quantized


class _SingleBatch:
    """A CalibrationDataReader of one batch."""

    def __init__(self, feed: Feed) -> None:
        self._feeds = iter([dict(feed)])

    def get_next(self) -> dict[str, Any] | None:
        """Return the batch, then None."""
        return next(self._feeds, None)


def conv_gains(weights: int, kernel: Iterable[int], groups: int) -> bool:
    """Whether a convolution of so many weights is faster in int8.

    Depthwise and pointwise (1x1) ones are: their kernels gather nothing.
    """
    return groups > 1 or set(kernel) == {1} or weights >= _MIN_WEIGHTS


def _gains(layer: OnnxLayer, graph: FloatGraph) -> bool:
    node = next(node for node in graph.model.graph.node if node.name == layer.name)
    attributes = {a.name: a for a in node.attribute}
    groups = attributes["group"].i if "group" in attributes else 1
    kernel = attributes["kernel_shape"].ints if "kernel_shape" in attributes else ()
    return conv_gains(layer.weights, kernel, groups)


def _with_shapes(graph: FloatGraph) -> ModelProto:
    import onnx

    return onnx.shape_inference.infer_shapes(graph.copy())


def _op_types(graph: FloatGraph) -> list[str]:
    between = (*_ONE_INPUT, *_JOINS) if graph.family == "conv" else ()
    return ["Conv", *PRODUCTS, "Gather", *between]


def _int8_nodes(nodes: Iterable[NodeProto], layers: set[str]) -> list[NodeProto]:
    """Return the layers and the operators after them whose inputs are all int8.

    An int8 pooling of float inputs has no fast kernel: it was 40 times slower than in float.
    """
    int8_tensors: set[str] = set()
    int8_nodes = []
    for node in nodes:
        inputs = [name for name in node.input if name]
        follows = (node.op_type in _ONE_INPUT and inputs[0] in int8_tensors) or (
            node.op_type in _JOINS and all(name in int8_tensors for name in inputs)
        )
        if node.name in layers or follows:
            int8_nodes.append(node)
            int8_tensors |= set(node.output)
    return int8_nodes
