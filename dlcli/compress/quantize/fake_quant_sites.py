"""Where a model's int8 simulation rounds: layers and activations, found on one forward pass.

The places are those between which ONNX Runtime computes in int8: what enters a convolution or linear
layer, and what leaves a convolution, behind the ReLU if one follows it, since the two become one kernel.
A tensor is rounded where it is made, so that all that read it, the way around a residual block too, read
the same.
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
from dlcli.compress.quantize.forward_trace import Call, Op, Watched, watch
from dlcli.compress.quantize.static import conv_gains
from dlcli.errors import DlcliError
from dlcli.zoo.structures.fake_quant import FakeQuantizer, can_quantize, replay

# A u8 range that begins at 0 and ends at the largest value does what these do.
_CUTS = ("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_")
# They only move values or leave some out, so what is on a grid of steps stays on it.
_MOVES = (
    *("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d"),
    *("flatten", "reshape", "view", "permute", "transpose", "unsqueeze", "squeeze", "unflatten"),
)


def quantizable_layers(module: nn.Module) -> list[str]:
    """The paths of the layers that int8 is for. Raises: DlcliError where that means nothing here."""
    for path, part in module.named_modules():
        if isinstance(part, nn.RNNBase):
            raise DlcliError(
                f"quantization-aware training is not for {type(part).__name__} ({path or 'the model'}): "
                "no int8 kernel runs it with fixed ranges",
                hint="--method dynamic is the way for LSTM and GRU",
            )
    found = [path for path, part in module.named_modules() if can_quantize(part) and _gains(part)]
    if not found:
        raise DlcliError(
            "the model has no convolution and no linear layer that quantization-aware training knows",
            hint="--method weight-only needs none",
        )
    return found


def _gains(layer: nn.Module) -> bool:
    """Whether an int8 kernel is faster, as static int8 decides it too."""
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
    """Change ``module`` in place so that ``layers`` compute as in int8; the record of it.

    ``inputs`` are what one forward pass takes, ``activations`` how the file will store them. Ranges are
    0 until `calibrate`.
    """
    places = _Places(watch(module, inputs), set(layers), module)
    args = {"activations": activations, "layers": places.layers, "sites": places.sites}
    replay(module, args)
    return TransformRecord(kind=transforms.FAKE_QUANT, args=args)


class _Places:
    """The sites of a model, one a value; see `dlcli.zoo.structures.fake_quant`."""

    def __init__(self, seen: Watched, layers: set[str], module: nn.Module) -> None:
        self._seen = seen
        self._times = Counter(call.path for call in seen.calls)
        self._held: dict[int, str] = {}  # the quantizer of a value
        self.sites: list[list[object]] = []
        calls = [call for call in seen.calls if call.path in layers]
        for call in calls:
            if not isinstance(module.get_submodule(call.path), nn.Linear):
                self._behind(call)
        for call in calls:
            self._before(call)
        taken: dict[str, set[str]] = {}
        for call in calls:
            taken.setdefault(call.path, set()).add(self._held.get(call.input, f"{call.path}.quant_in"))
        # A layer that is called on values of several ranges takes from no one quantizer.
        self.layers = [[path, min(names) if len(names) == 1 else None] for path, names in taken.items()]

    def _behind(self, call: Call) -> None:
        """What a convolution gives; a linear layer's answer may stay in float."""
        users = self._seen.users(call.output)
        value = call.output
        if len(users) == 1 and users[0].name in _CUTS:
            value = users[0].output
            if self._seen.giver(value) is None:  # the next layer rounds it
                return
        self._hold(value, f"{call.path}.quant_out")

    def _before(self, call: Call) -> None:
        """What a layer takes."""
        if call.input in self._held:
            return
        origin = self._origin(call.input)
        self._hold(call.input, self._held.get(origin, f"{call.path}.quant_in"))

    def _origin(self, value: int) -> int:
        """The value that ``value`` consists of, followed back through what only moves."""
        maker: Op | None = self._seen.maker(value)
        while maker is not None and maker.name in _MOVES and maker.inputs:
            value = maker.inputs[0]
            maker = self._seen.maker(value)
        return value

    def _hold(self, value: int, name: str) -> None:
        """Round a value where a module gives it, else where one takes it: the layer itself does."""
        giver = self._seen.giver(value)
        call, side = (giver, "out") if giver is not None else (self._seen.taker(value), "in")
        assert call is not None  # the layer takes it
        self.sites.append([name, call.path, side, call.number, self._times[call.path]])
        self._held[value] = name


@contextmanager
def _observing(module: nn.Module) -> Iterator[None]:
    quantizers = [part for part in module.modules() if isinstance(part, FakeQuantizer)]
    for quantizer in quantizers:
        quantizer.observing = True
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.observing = False


@torch.no_grad()
def calibrate(module: nn.Module, batches: Iterable[Sequence[torch.Tensor]]) -> None:
    """Give the quantizers the ranges that their values have in ``batches``, in eval mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with _observing(module):
            for inputs in batches:
                module(*inputs)
    finally:
        for part, mode in modes:
            part.training = mode
