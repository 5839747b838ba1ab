"""Fake quantization: which layers and activations are quantized, found by tracing one forward pass.

The sites are those between which ONNX Runtime computes in int8: the inputs of convolutions and linear
layers, and the outputs of convolutions, after the ReLU if one follows, since the two become one kernel.
A tensor is quantized where it is made, so that all that read it, a residual connection too, read the
same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.quantize.forward_trace import ForwardTrace, ModuleCall, TracedOp, trace_forward
from dlcli.compress.quantize.static import conv_gains
from dlcli.errors import DlcliError
from dlcli.zoo.structures.fake_quant import FakeQuantizer, can_quantize, replay

# A u8 range that begins at 0 and ends at the largest value clips as these do.
_CLIPPING_OPS = ("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_")
# They only move or select values, so quantized values stay quantized.
_DATA_MOVEMENT_OPS = (
    *("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d"),
    *("flatten", "reshape", "view", "permute", "transpose", "unsqueeze", "squeeze", "unflatten"),
)


def quantizable_layers(module: nn.Module) -> list[str]:
    """Return the paths of the layers to quantize. Raises: DlcliError for an unsupported model."""
    for path, child in module.named_modules():
        if isinstance(child, nn.RNNBase):
            raise DlcliError(
                f"quantization-aware training does not support {type(child).__name__} "
                f"({path or 'the model'}): no int8 kernel runs it with fixed ranges",
                hint="use --method dynamic for LSTM and GRU",
            )
    paths = [path for path, child in module.named_modules() if can_quantize(child) and _gains(child)]
    if not paths:
        raise DlcliError(
            "the model has no convolution and no linear layer that quantization-aware training supports",
            hint="--method weight-only needs none",
        )
    return paths


def _gains(layer: nn.Module) -> bool:
    """Whether an int8 kernel is faster; static int8 decides it alike."""
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return True
    return conv_gains(layer.weight.numel(), layer.kernel_size, layer.groups)


def insert_fake_quantizers(
    module: nn.Module,
    inputs: Sequence[torch.Tensor],
    layers: Collection[str],
    *,
    activations: Literal["u8", "s8"] = "u8",
) -> TransformRecord:
    """Insert fake quantizers for ``layers`` into ``module``, in place, and return the record.

    ``inputs`` are those of one forward pass, ``activations`` their type in the exported file. Ranges are
    0 until `calibrate`.
    """
    planner = _SitePlanner(trace_forward(module, inputs), set(layers), module)
    args = {"activations": activations, "layers": planner.layers, "sites": planner.sites}
    replay(module, args)
    return TransformRecord(kind=transforms.FAKE_QUANT, args=args)


class _SitePlanner:
    """Places one fake quantizer a value; see `dlcli.zoo.structures.fake_quant` for ``sites``."""

    def __init__(self, trace: ForwardTrace, layers: set[str], module: nn.Module) -> None:
        self._trace = trace
        self._call_counts = Counter(call.path for call in trace.calls)
        self._quantizers: dict[int, str] = {}  # by value
        self.sites: list[list[object]] = []
        calls = [call for call in trace.calls if call.path in layers]
        for call in calls:
            if not isinstance(module.get_submodule(call.path), nn.Linear):
                self._quantize_output(call)
        for call in calls:
            self._quantize_input(call)
        by_layer: dict[str, set[str]] = {}
        for call in calls:
            name = self._quantizers.get(call.input, f"{call.path}.quant_in")
            by_layer.setdefault(call.path, set()).add(name)
        # A layer that is called on values of several ranges has no single input quantizer.
        self.layers = [
            [path, min(names) if len(names) == 1 else None] for path, names in by_layer.items()
        ]

    def _quantize_output(self, call: ModuleCall) -> None:
        """Quantize the output of a convolution; that of a linear layer may stay in float."""
        consumers = self._trace.consumers(call.output)
        value = call.output
        if len(consumers) == 1 and consumers[0].name in _CLIPPING_OPS:
            value = consumers[0].output
            if self._trace.producing_call(value) is None:  # the next layer quantizes it
                return
        self._quantize(value, f"{call.path}.quant_out")

    def _quantize_input(self, call: ModuleCall) -> None:
        if call.input in self._quantizers:
            return
        source = self._source(call.input)
        self._quantize(call.input, self._quantizers.get(source, f"{call.path}.quant_in"))

    def _source(self, value: int) -> int:
        """Return the value that ``value`` was made from by operations that only move data."""
        producer: TracedOp | None = self._trace.producer(value)
        while producer is not None and producer.name in _DATA_MOVEMENT_OPS and producer.inputs:
            value = producer.inputs[0]
            producer = self._trace.producer(value)
        return value

    def _quantize(self, value: int, name: str) -> None:
        """Quantize a value where a module returns it, else where one takes it."""
        producing = self._trace.producing_call(value)
        call = self._trace.consuming_call(value) if producing is None else producing
        assert call is not None  # a layer takes it
        side = "in" if producing is None else "out"
        self.sites.append([name, call.path, side, call.number, self._call_counts[call.path]])
        self._quantizers[value] = name


@contextmanager
def _observing(module: nn.Module) -> Iterator[None]:
    """Let the fake quantizers record ranges for a while."""
    quantizers = [child for child in module.modules() if isinstance(child, FakeQuantizer)]
    for quantizer in quantizers:
        quantizer.observing = True
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.observing = False


@torch.no_grad()
def calibrate(module: nn.Module, batches: Iterable[Sequence[torch.Tensor]]) -> None:
    """Set the ranges of fake quantizers to those of their values over ``batches``, in eval mode."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with _observing(module):
            for inputs in batches:
                module(*inputs)
    finally:
        for child, mode in modes:
            child.training = mode
