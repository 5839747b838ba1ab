"""Fold batch norms into the convolutions and linear layers before them; outputs stay the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.quantize.forward_trace import trace_forward
from dlcli.zoo.structures.folded import can_fold, replay, statistics_of


@torch.no_grad()
def fold_batch_norms(module: nn.Module, inputs: Sequence[torch.Tensor]) -> TransformRecord | None:
    """Fold batch norms in place and return the record, None where there is nothing to fold.

    One forward pass on ``inputs`` is traced to find which norm follows which layer. A norm is folded
    when it alone reads the output of its layer, and both run once.
    """
    trace = trace_forward(module, inputs)
    call_counts = Counter(call.path for call in trace.calls)
    pairs = []
    for norm_call in trace.calls:
        producer = trace.producer(norm_call.input)
        if producer is None or call_counts[producer.path] != 1 or call_counts[norm_call.path] != 1:
            continue
        layer, norm = module.get_submodule(producer.path), module.get_submodule(norm_call.path)
        readers = [op.path for op in trace.consumers(norm_call.input)]
        fits = not isinstance(layer, nn.Linear) or trace.ndims[norm_call.input] == 2
        if readers == [norm_call.path] and fits and can_fold(layer, norm):
            pairs.append([producer.path, norm_call.path])
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
    """Return weight and bias of the layer with the norm folded in."""
    mean, var, eps, scale, shift = statistics_of(norm)
    scale = torch.ones_like(mean) if scale is None else scale
    shift = torch.zeros_like(mean) if shift is None else shift
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    return fuse(layer.weight, bias, mean, var, eps, scale, shift)  # type: ignore[arg-type]
