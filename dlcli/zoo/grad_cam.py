"""Grad-CAM: where in an image a convolutional model finds a class, from one layer's gradients.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
arXiv:1610.02391: the layer's channels, weighted by the mean gradient of the class's logit over
positions, summed, and negative sums set to 0. C channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dlcli.errors import UsageError, nearest

# More layers with weights than these after the last feature map: what follows it is no head, and the map
# is of edges and colours, as a patch embedding's is.
MOST_HEAD_LAYERS = 4
# A map of fewer positions points at no part of an image.
FEWEST_POSITIONS = 4
_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class _Call:
    """A call of a submodule: its name, the shape of its output, whether it has weights of its own."""

    name: str
    shape: tuple[int, ...]
    weighted: bool


def feature_layer(module: nn.Module, inputs: Sequence[torch.Tensor]) -> str | None:
    """The name of the last layer whose output is a map over the image, before the head; None for none.

    ``inputs`` are those of one image (1, C, H, W). A model that looks at patches as tokens, or at
    pixels as numbers, has no such layer.
    """
    height, width = inputs[0].shape[-2:]
    calls = _calls(module, inputs)
    maps = [i for i, call in enumerate(calls) if _is_map(call.shape, height, width)]
    if not maps:
        return None
    last = maps[-1]
    after = sum(call.weighted for call in calls[last + 1 :])
    return calls[last].name if after <= MOST_HEAD_LAYERS else None


def grad_cam(
    module: nn.Module, inputs: Sequence[torch.Tensor], layer: str, target: int
) -> npt.NDArray[np.float32]:
    """The map (H, W) of a layer, at least 0, for the output with the index ``target`` of one image.

    All are 0 where nothing in the layer speaks for the target. Raises: UsageError for a layer that the
    model does not have or does not call, or whose output is no map.
    """
    layers = dict(module.named_modules())
    layers.pop("", None)
    if layer not in layers:
        raise UsageError(f"--layer {layer}: the model has no such layer", hint=nearest(layer, layers))
    outputs: list[torch.Tensor] = []

    def cut(_: nn.Module, args: object, output: object) -> object:
        """Begin the graph at the layer's output: what comes before needs no gradient."""
        if not isinstance(output, torch.Tensor) or output.ndim != 4:
            raise UsageError(
                f"--layer {layer}: its output is no map over the image (channels, height, width)",
                hint="name a convolution, or the block that ends with one",
            )
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()  # a layer after it may work in place

    handle = layers[layer].register_forward_hook(cut)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            score = module(*(tensor.clone() for tensor in inputs))[0, target]
            if not outputs:
                raise UsageError(f"--layer {layer}: the model does not call it")
            (gradient,) = torch.autograd.grad(score, outputs[-1], allow_unused=True)
    finally:
        handle.remove()
    features = outputs[-1].detach()
    if gradient is None:
        raise UsageError(f"--layer {layer}: the model's output does not depend on it")
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    total = torch.relu((weights * features).sum(1))[0]
    heat: npt.NDArray[np.float32] = total.float().cpu().numpy()
    return heat


def _calls(module: nn.Module, inputs: Sequence[torch.Tensor]) -> list[_Call]:
    """The calls of all submodules, in the order in which they end."""
    calls: list[_Call] = []
    handles = []

    def record(name: str, layer: nn.Module) -> None:
        weighted = any(p.ndim > 1 for p in layer.parameters(recurse=False))

        def hook(_: nn.Module, args: object, output: object) -> None:
            # Of an adaptive pooling the map is that before it, in fewer positions.
            tensor = output if isinstance(output, torch.Tensor) else None
            shape = () if tensor is None or isinstance(layer, _POOLS) else tuple(tensor.shape)
            calls.append(_Call(name, shape, weighted))

        handles.append(layer.register_forward_hook(hook))

    for name, layer in module.named_modules():
        if name:
            record(name, layer)
    try:
        with torch.inference_mode():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _is_map(shape: tuple[int, ...], height: int, width: int) -> bool:
    """Whether (1, C, H, W) is a map with the image's proportions, up to a position of rounding."""
    if len(shape) != 4 or shape[2] * shape[3] < FEWEST_POSITIONS:
        return False
    return abs(shape[2] - height * shape[3] / width) <= 1
