"""Static int8: ranges of activations are found once, on training samples, and kept in the file.

The file is a float graph with QuantizeLinear and DequantizeLinear in it, which ONNX Runtime turns into
int8 kernels. Which operators lie between them decides the speed: a layer in int8 whose neighbour is not
costs a change of form at each end.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dlcli.compress.quantize.onnx_graph import PRODUCTS, FloatGraph, Layer
from dlcli.errors import DlcliError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Target = Literal["x86", "arm"]
Calibration = Literal["minmax", "entropy", "percentile"]
Feed = Mapping[str, npt.NDArray[Any]]

# Ranges of fewer samples are those of these samples alone.
FEWEST_SAMPLES = 8
# Operators without weights that stay in int8 between layers that are.
_ONE_INPUT, _JOINS = ("Relu", "Clip", "MaxPool"), ("Add", "Concat")
# A convolution gathers its inputs for an int8 kernel, which takes longer than few products do: 3x3 on
# one channel, 16 answers, was 8 times slower than in float, on three channels twice as slow.
_LEAST_WEIGHTS = 1024


def static_layers(graph: FloatGraph) -> list[Layer]:
    """The layers that static int8 is for and makes faster. Raises: DlcliError where there is none.

    Of transformers and the like these are matrix products and embeddings: with sums, norms and
    softmax in int8 too, half of the answers were others.
    """
    if graph.family == "conv":
        found = [x for x in graph.of("Conv", *PRODUCTS) if x.op != "Conv" or _gains(x, graph)]
    else:
        found = graph.of(*PRODUCTS, "Gather")
    if not any(layer.op != "Gather" for layer in found):
        raise DlcliError(
            "the model has no convolution and no matrix product, which is what static int8 is for",
            hint="--method dynamic runs LSTM layers in int8; --method weight-only --backend torch "
            "takes any model",
        )
    return found


def calibrate(graph: FloatGraph, feeds: Iterable[Feed], how: Calibration, target: Target) -> Any:
    """The range of every activation that may be quantized, over small batches, one in memory at a time.

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
    symmetric = {"symmetric": target == "arm"}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        source = Path(folder, "float.onnx")
        onnx.save_model(
            _with_shapes(graph), str(source), save_as_external_data=True, location="float.data"
        )
        calibrator = create_calibrator(
            source,
            _op_types(graph),
            augmented_model_path=str(Path(folder, "watched.onnx")),
            calibrate_method=methods[how],
            extra_options=symmetric,
        )
        for feed in feeds:
            # A call a batch: the library keeps all that it collects in one call, which took all memory.
            calibrator.collect_data(_Once(feed))
        ranges = calibrator.compute_data()
    wrong = [name for name, data in ranges.items() if not np.isfinite(data.range_value).all()]
    if wrong:
        raise DlcliError(
            f"calibration: {wrong[0]} took values that are no finite numbers", hint="--method dynamic"
        )
    return ranges


def quantize_static(
    graph: FloatGraph, ranges: Any, layers: Collection[str], target: Target
) -> ModelProto:
    """The graph with the layers of these names in int8, and what lies between them.

    x86: u8 activations, which its kernels are made for; arm: s8, symmetric. Weights are s8, symmetric,
    with a scale for each channel.
    """
    from onnxruntime.quantization import QDQQuantizer, QuantType

    model = _with_shapes(graph)
    chosen = [node.name for node in _chosen(model.graph.node, set(layers))]
    quantizer = QDQQuantizer(
        model,
        True,  # a scale for each channel
        False,  # all 8 bits
        QuantType.QInt8,
        QuantType.QUInt8 if target == "x86" else QuantType.QInt8,
        ranges,
        chosen,
        [],
        _op_types(graph),
        {"ActivationSymmetric": target == "arm", "WeightSymmetric": True},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    found: ModelProto = quantizer.model.model
    del found.metadata_props[:]
    return found


class _Once:
    """A reader of one batch, as the library asks for it."""

    def __init__(self, feed: Feed) -> None:
        self._feeds = iter([dict(feed)])

    def get_next(self) -> dict[str, Any] | None:
        """The batch, then None."""
        return next(self._feeds, None)


def conv_gains(weights: int, kernel: Iterable[int], groups: int) -> bool:
    """Whether a convolution of so many weights is faster in int8.

    Those of each channel alone (depthwise) and of single pixels are: their kernels gather nothing.
    """
    return groups > 1 or set(kernel) == {1} or weights >= _LEAST_WEIGHTS


def _gains(layer: Layer, graph: FloatGraph) -> bool:
    node = next(node for node in graph.model.graph.node if node.name == layer.name)
    said = {a.name: a for a in node.attribute}
    groups = said["group"].i if "group" in said else 1
    return conv_gains(layer.weights, said["kernel_shape"].ints if "kernel_shape" in said else (), groups)


def _with_shapes(graph: FloatGraph) -> ModelProto:
    import onnx

    return onnx.shape_inference.infer_shapes(graph.copy())


def _op_types(graph: FloatGraph) -> list[str]:
    between = (*_ONE_INPUT, *_JOINS) if graph.family == "conv" else ()
    return ["Conv", *PRODUCTS, "Gather", *between]


def _chosen(nodes: Iterable[NodeProto], layers: set[str]) -> list[NodeProto]:
    """The layers, and what follows them: it stays in int8 where all that it reads was made in int8.

    A pooling of float answers in int8 has no fast kernel: it was 40 times slower than in float.
    """
    made: set[str] = set()
    found = []
    for node in nodes:
        inputs = [name for name in node.input if name]
        follows = (node.op_type in _ONE_INPUT and inputs[0] in made) or (
            node.op_type in _JOINS and all(name in made for name in inputs)
        )
        if node.name in layers or follows:
            found.append(node)
            made |= set(node.output)
    return found
