"""Channel removal: layers of the sizes that pruning left them.

The record of kind "channels" holds ``shapes`` (the new shape of every tensor of the state dict that
changed) and what shapes do not tell: ``groups`` of grouped convolutions and norms, ``heads`` of
attention, by the layer's path. So a plain state dict fits the module that is built from the card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dlcli import transforms
from dlcli.zoo.attention import Attention
from dlcli.zoo.layers import ChannelNorm
from dlcli.zoo.replay import STRUCTURES

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_FEATURE_NORMS = (*BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@STRUCTURES.register(transforms.CHANNELS)
def resize(module: nn.Module, args: dict[str, Any]) -> None:
    """Give the layers of ``module`` the sizes of a record, in place; their tensors hold no values yet.

    Raises: ValueError for tensors or layers that the model lacks, and for sizes that do not fit them.
    """
    shapes, groups, heads = (_mapping(args, key) for key in ("shapes", "groups", "heads"))
    parts = dict(module.named_modules())
    owners: dict[str, dict[str, tuple[int, ...]]] = {}
    state = module.state_dict()
    for name, shape in shapes.items():
        if name not in state:
            raise ValueError(f"the model has no tensor {name}")
        owner, _, own = name.rpartition(".")
        owners.setdefault(owner, {})[own] = _shape(name, shape, state[name])
    for path, number in groups.items():
        part = parts.get(path)
        if not isinstance(part, (*CONVS, nn.GroupNorm, ChannelNorm)):
            raise ValueError(f"the model has no layer {path} with groups")
        _regroup(part, _count(path, number))
        owners.setdefault(path, {})
    for path, own_shapes in owners.items():
        _replace(parts[path], own_shapes)
        _resize(path, parts[path])
    for path, number in heads.items():
        part = parts.get(path)
        if not isinstance(part, Attention):
            raise ValueError(f"the model has no attention {path}")
        part.heads = _count(path, number)
        if part.query.out_features % part.heads:
            raise ValueError(f"{path} cannot share {part.query.out_features} features among its heads")


def _mapping(args: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = args.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} of removed channels must be a mapping")
    return value


def _count(path: str, number: object) -> int:
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"{path} cannot have {number!r} groups or heads")
    return number


def _shape(name: str, shape: object, old: torch.Tensor) -> tuple[int, ...]:
    """The new shape, no side of which may be 0 or longer than before."""
    if not isinstance(shape, Sequence) or len(shape) != old.ndim:
        raise ValueError(f"{name} of shape {tuple(old.shape)} cannot become {shape!r}")
    for now, before in zip(shape, old.shape, strict=True):
        if not isinstance(now, int) or not 1 <= now <= before:
            raise ValueError(f"{name} of shape {tuple(old.shape)} cannot become {tuple(shape)}")
    return tuple(shape)


def _regroup(part: nn.Module, number: int) -> None:
    if isinstance(part, nn.GroupNorm):
        part.num_groups = number
    elif isinstance(part, ChannelNorm):
        part.groups = number
    else:
        part.groups = number  # type: ignore[assignment]


def _replace(part: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for own, shape in shapes.items():
        old = getattr(part, own)
        fresh = old.detach().new_empty(shape)
        if isinstance(old, nn.Parameter):
            fresh = nn.Parameter(fresh, requires_grad=old.requires_grad)
        setattr(part, own, fresh)


def _resize(path: str, part: nn.Module) -> None:
    """Set the numbers that a layer keeps about its tensors. Raises: ValueError where they disagree."""
    if isinstance(part, CONVS):
        _resize_conv(path, part)
    elif isinstance(part, nn.Linear):
        part.out_features, part.in_features = part.weight.shape
        _same(path, part, part.out_features)
    elif isinstance(part, _FEATURE_NORMS):
        part.num_features = _length(path, part)
    elif isinstance(part, nn.GroupNorm):
        part.num_channels = _length(path, part)
        _divides(path, part.num_groups, part.num_channels)
    elif isinstance(part, ChannelNorm):
        _divides(path, part.groups, _length(path, part))
    elif isinstance(part, nn.LayerNorm):
        part.normalized_shape = (_length(path, part),)
    elif isinstance(part, nn.PReLU):
        part.num_parameters = _length(path, part)
    elif isinstance(part, nn.RNNBase):
        _resize_recurrent(path, part)
    elif not _is_plain(part):
        raise ValueError(f"{path} is a {type(part).__name__}, whose size cannot change")


def _is_plain(part: nn.Module) -> bool:
    """Whether a module knows nothing of its parameters' sizes: one of no library layer's class."""
    return not type(part).__module__.startswith("torch.nn.")


def _resize_conv(path: str, part: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
    if part.weight.shape[2:] != torch.Size(part.kernel_size):
        raise ValueError(
            f"{path} has a kernel of {part.kernel_size}, not {tuple(part.weight.shape[2:])}"
        )
    part.out_channels = part.weight.shape[0]
    part.in_channels = part.weight.shape[1] * part.groups
    _divides(path, part.groups, part.out_channels)
    _same(path, part, part.out_channels)


def _resize_recurrent(path: str, part: nn.RNNBase) -> None:
    tensors = dict(part.named_parameters())
    part.hidden_size = tensors["weight_hh_l0"].shape[1]
    part.input_size = tensors["weight_ih_l0"].shape[1]
    gates = {"LSTM": 4, "GRU": 3}.get(part.mode, 1)
    directions = 2 if part.bidirectional else 1
    rows = gates * part.hidden_size
    for own, tensor in tensors.items():
        columns = part.hidden_size
        if own.startswith("weight_ih"):
            first = own.startswith("weight_ih_l0")
            columns = part.input_size if first else part.hidden_size * directions
        expected = (rows, columns) if own.startswith("weight") else (rows,)
        if tuple(tensor.shape) != expected:
            raise ValueError(f"{path}.{own} has the shape {tuple(tensor.shape)}, not {expected}")
    part.flatten_parameters()


def _length(path: str, part: nn.Module) -> int:
    """The one length of a norm's tensors."""
    lengths = {len(tensor) for tensor in part.state_dict().values() if tensor.ndim == 1}
    if len(lengths) != 1:
        raise ValueError(f"the tensors of {path} have different lengths: {sorted(lengths)}")
    return lengths.pop()


def _same(path: str, part: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, size: int) -> None:
    if part.bias is not None and len(part.bias) != size:
        raise ValueError(f"{path} has {size} outputs but {len(part.bias)} biases")


def _divides(path: str, groups: int, channels: int) -> None:
    if channels % groups:
        raise ValueError(f"{path} cannot have {groups} groups of {channels} channels")
