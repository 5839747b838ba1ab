"""Fold batch norms into the convolutions and linear layers before them, which changes no answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.quantize.forward_trace import watch
from dlcli.zoo.structures.folded import can_fold, replay, statistics_of


@torch.no_grad()
def fold_batch_norms(module: nn.Module, inputs: Sequence[torch.Tensor]) -> TransformRecord | None:
    """Fold in place what can be folded, with the weights; the record of it, None where there is nothing.

    ``inputs`` are what one forward pass takes; they tell which layer is followed by which norm. A norm
    is folded when it alone reads what its layer gives, and both run once.
    """
    seen = watch(module, inputs)
    times = Counter(call.path for call in seen.calls)
    pairs = []
    for norm_call in seen.calls:
        maker = seen.maker(norm_call.input)
        if maker is None or times[maker.path] != 1 or times[norm_call.path] != 1:
            continue
        layer, norm = module.get_submodule(maker.path), module.get_submodule(norm_call.path)
        alone = [user.path for user in seen.users(norm_call.input)] == [norm_call.path]
        fits = not isinstance(layer, nn.Linear) or seen.ndims[norm_call.input] == 2
        if alone and fits and can_fold(layer, norm):
            pairs.append([maker.path, norm_call.path])
    if not pairs:
        return None
    record = TransformRecord(kind=transforms.FOLD_BATCHNORM, args={"pairs": pairs})
    folded = [_folded(module.get_submodule(a), module.get_submodule(b)) for a, b in pairs]
    replay(module, record.args)
    for (path, _), (weight, bias) in zip(pairs, folded, strict=True):
        layer = module.get_submodule(path)
        assert isinstance(layer.weight, torch.Tensor)
        assert isinstance(layer.bias, torch.Tensor)
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return record


def _folded(layer: nn.Module, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the layer with the norm in it."""
    mean, var, eps, scale, shift = statistics_of(norm)
    scale = torch.ones_like(mean) if scale is None else scale
    shift = torch.zeros_like(mean) if shift is None else shift
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    return fuse(layer.weight, bias, mean, var, eps, scale, shift)  # type: ignore[arg-type]
