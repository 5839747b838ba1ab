"""Batch norms that became part of the layer before them: kind "fold-batchnorm".

args: ``pairs``, a list of [layer, norm] by module path. Replaying gives the layer a bias and puts
nothing in the norm's place; the folded weights come from the file.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from dlcli import transforms
from dlcli.zoo.layers import StepBatchNorm
from dlcli.zoo.replay import STRUCTURES

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, StepBatchNorm)


def can_fold(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether these kinds of layers fold: their formulas are known, and the norm keeps statistics."""
    known = type(norm) in _NORMS or _activates(norm)
    return type(layer) in _LAYERS and known and getattr(norm, "running_mean", None) is not None


@STRUCTURES.register(transforms.FOLD_BATCHNORM)
def replay(module: nn.Module, args: dict[str, Any]) -> None:
    """Change the structure. Raises: ValueError where the model has no such layers."""
    for path, norm_path in args["pairs"]:
        try:
            layer, norm = module.get_submodule(path), module.get_submodule(norm_path)
        except AttributeError as exc:
            raise ValueError(f"the model has no {path} or no {norm_path}") from exc
        if not can_fold(layer, norm):
            raise ValueError(f"{norm_path} is no batch norm that {path} could take in")
        if layer.bias is None:
            assert isinstance(layer.weight, nn.Parameter)
            width = layer.weight.shape[0]
            layer.bias = nn.Parameter(layer.weight.new_zeros(width))
        module.set_submodule(norm_path, _rest(norm))


def _activates(norm: nn.Module) -> bool:
    """timm's norm with an activation in it."""
    return type(norm).__module__.startswith("timm.") and type(norm).__name__ == "BatchNormAct2d"


def _rest(norm: nn.Module) -> nn.Module:
    """What is left where a norm was: nothing, or the activation, under its old name."""
    if not _activates(norm):
        return nn.Identity()
    parts = OrderedDict((name, norm.get_submodule(name)) for name in ("drop", "act"))
    return nn.Sequential(parts)


def statistics_of(norm: nn.Module) -> tuple[Any, Any, float, Any, Any]:
    """Mean, variance, epsilon, scale and shift of a norm, as torch.nn.utils.fusion takes them."""
    mean, var = norm.running_mean, norm.running_var
    assert isinstance(mean, torch.Tensor)
    assert isinstance(norm.eps, float)
    return mean, var, norm.eps, norm.weight, norm.bias
