"""Low-rank adaptation of linear layers and convolutions: kind "lora".

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685. A layer of weight W
(K, F) gets the factors A (rank, F) and B (K, rank) and computes W x + alpha / rank * B A x; B is 0 at
first. The kernel (K, C / groups, ...) of a convolution counts as such a matrix: A is ``rank`` kernels of
the same size, which all groups share, B a convolution of size 1 in each group. So W + alpha / rank * B A
computes the same, which `merged` makes of both.

args: ``rank``, ``alpha``, ``layers``, the paths of the layers, and ``weights``, what was frozen: a file,
folder or name of a hub, None for the weights that the model's library publishes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dlcli import transforms
from dlcli.card import Card, TransformRecord
from dlcli.zoo.replay import STRUCTURES

# By the number of dimensions of their weight.
_CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FACTORS = ("lora_A", "lora_B")


def can_adapt(layer: nn.Module) -> bool:
    """Whether a layer computes with its weight as it is: subclasses may do so in other ways."""
    return type(layer) in _LAYERS and isinstance(layer.weight, nn.Parameter)


def matrix_size(layer: nn.Module) -> tuple[int, int]:
    """The sides K and F of a layer's weight as a matrix."""
    assert isinstance(layer.weight, nn.Parameter)
    return layer.weight.shape[0], math.prod(layer.weight.shape[1:])


def is_factor(name: str) -> bool:
    """Whether a tensor of a state dict is one of the factors."""
    return name.rpartition(".")[2] in _FACTORS


@STRUCTURES.register(transforms.LORA)
def insert(module: nn.Module, args: dict[str, Any]) -> None:
    """Give layers their factors: A at random as torch's linear layers (Kaiming), B 0.

    The factors are parameters of the layer itself, so all tensors keep their names. They act in a hook:
    the layer stays of its class, and modules with a fused path (nn.TransformerEncoderLayer) that reads
    its weight do not take it. Raises: ValueError where the model has no such layers.
    """
    rank, scale = args["rank"], args["alpha"] / args["rank"]
    for path in args["layers"]:
        try:
            layer = module.get_submodule(path)
        except AttributeError as exc:
            raise ValueError(f"the model has no layer {path}") from exc
        if not can_adapt(layer) or rank > min(matrix_size(layer)):
            raise ValueError(f"{path} is no linear layer or convolution with a side of {rank} or more")
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        layer.lora_A = nn.Parameter(weight.detach().new_empty(rank, *weight.shape[1:]))
        layer.lora_B = nn.Parameter(weight.detach().new_zeros(len(weight), rank))
        layer.lora_scale = scale
        nn.init.kaiming_uniform_(layer.lora_A, a=math.sqrt(5))
        layer.register_forward_hook(_add_low_rank)


def _add_low_rank(layer: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """The output of a layer with that of its factors added."""
    x, a, b = args[0], layer.lora_A, layer.lora_B
    low: torch.Tensor
    if type(layer) is nn.Linear:
        low = functional.linear(functional.linear(x, a), b)
    else:
        ones = (1,) * (layer.weight.ndim - 2)
        kernels = a.repeat(layer.groups, 1, *ones)
        hidden = layer._conv_forward(x, kernels, None)  # (B, groups * rank, ...)
        convolution = _CONVOLUTIONS[layer.weight.ndim]
        low = convolution(hidden, b.unflatten(1, (-1, *ones)), groups=layer.groups)
    changed: torch.Tensor = output + layer.lora_scale * low
    return changed


def weight_change(a: torch.Tensor, b: torch.Tensor, scale: float, weight: torch.Tensor) -> torch.Tensor:
    """What the factors A and B add to a weight, in its shape and in float64."""
    return scale * (b.double() @ a.double().flatten(1)).reshape(weight.shape)


def merged(card: Card, state: Mapping[str, torch.Tensor]) -> tuple[Card, dict[str, torch.Tensor]]:
    """The card and state dict of the same model without factors: each is added to its weight.

    The record becomes the annotation "merged-lora"; a model without factors stays as it is. Raises:
    ValueError where tensors are missing.
    """
    record = transforms.find_record(card.transforms, transforms.LORA)
    tensors = dict(state)
    if record is None:
        return card, tensors
    size = 0
    for path in record.args["layers"]:
        try:
            a, b = (tensors.pop(f"{path}.{name}") for name in _FACTORS)
            weight = tensors[f"{path}.weight"]
        except KeyError as exc:
            raise ValueError(f"it has no tensor {exc}") from exc
        change = weight_change(a, b, record.args["alpha"] / record.args["rank"], weight)
        tensors[f"{path}.weight"] = (weight.double() + change).to(weight.dtype)
        size += a.numel() + b.numel()
    shown = {key: record.args[key] for key in ("rank", "alpha")}
    annotation = TransformRecord(kind=transforms.MERGED_LORA, args=shown)
    records = tuple(annotation if other is record else other for other in card.transforms)
    return card.model_copy(update={"transforms": records, "params": card.params - size}), tensors
