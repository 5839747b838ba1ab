"""Where a model has channels: the inputs and outputs of its layers, its norms, the heads of attention.

A node is one channel at one place; taking it out cuts the slices of the tensors that belong to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from dlcli.zoo.attention import Attention
from dlcli.zoo.layers import ChannelNorm
from dlcli.zoo.structures.channels import BATCH_NORMS, CONVS

Side = Literal["in", "out", "norm", "own", "heads"]
NORMS = (
    *BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.LayerNorm, nn.GroupNorm, ChannelNorm,
)  # fmt: skip
_LIBRARIES = ("torchvision.", "timm.")
# Norms whose answer for one channel depends on the others.
MIXING_NORMS = (nn.LayerNorm, nn.GroupNorm, ChannelNorm)


@dataclass(frozen=True)
class Slice:
    """Entries along one dimension of a tensor of the state dict: row i of ``index`` is node i's.

    ``reads``: these weights multiply the channel; otherwise they make it.
    """

    tensor: str
    dim: int
    index: torch.Tensor  # int64 (size, entries)
    reads: bool = False


@dataclass(frozen=True)
class Place:
    """``size`` channels of a layer's input or output, a norm, a parameter of its own, or heads.

    ``start`` is the number of its first node. Places with the same ``alike`` must lose equally many.
    ``whole``: its nodes are read inside the layer itself.
    """

    path: str
    side: Side
    size: int
    start: int
    slices: tuple[Slice, ...] = ()
    alike: str = ""
    whole: bool = False

    @property
    def nodes(self) -> torch.Tensor:
        """The numbers of its nodes."""
        return torch.arange(self.start, self.start + self.size)


def is_layer(part: nn.Module) -> bool:
    """Whether a module multiplies channels by weights that can be cut."""
    if isinstance(part, nn.RNNBase):
        return part.proj_size == 0
    return isinstance(part, (*CONVS, nn.Linear))


def is_opaque(part: nn.Module) -> bool:
    """Whether no channel is followed through a module: attention, embeddings, layers not known here."""
    if isinstance(part, (Attention, nn.MultiheadAttention)):
        return True
    if type(part).__module__.startswith(_LIBRARIES) and is_attention(part):
        # Following channels through it would only show that all of them are mixed.
        return any(isinstance(child, nn.Linear) for child in part.children())
    if is_layer(part) or isinstance(part, (*NORMS, nn.PReLU)):
        return False
    return type(part).__module__.startswith("torch.nn.") and has_own(part)


def has_own(part: nn.Module) -> bool:
    """Whether a module has parameters that belong to none of its children."""
    return next(part.parameters(recurse=False), None) is not None


def is_attention(part: nn.Module) -> bool:
    """Whether a module attends, by the name of its class: each library has its own."""
    return "attention" in type(part).__name__.lower()


class Places:
    """All places of a module, by path and side; ``parts`` are its modules, not those in opaque ones."""

    def __init__(self, module: nn.Module) -> None:
        self.all: list[Place] = []
        self.by_key: dict[tuple[str, Side], list[Place]] = {}
        self.nodes = 0
        self.parts = dict(_outer(module))
        for path, part in self.parts.items():
            for side, size, slices, alike, whole in _places(path, part):
                self._add(path, side, size, slices, alike, whole)

    def add_own(self, name: str, dim: int, size: int) -> Place:
        """A dimension of a parameter that belongs to no known layer."""
        return self._add(name, "own", size, (Slice(name, dim, _each(size)),), "", False)

    def _add(
        self, path: str, side: Side, size: int, slices: tuple[Slice, ...], alike: str, whole: bool
    ) -> Place:
        place = Place(path, side, size, self.nodes, slices, alike, whole)
        self.nodes += size
        self.all.append(place)
        self.by_key.setdefault((path, side), []).append(place)
        return place

    def of(self, path: str, side: Side) -> list[Place]:
        """The places of a layer's side; several for the layers and directions of a recurrent net."""
        return self.by_key.get((path, side), [])


def _outer(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules by path, without those below one that nothing is followed through."""
    yield path, module
    if not is_opaque(module):
        for name, child in module.named_children():
            yield from _outer(child, _name(path, name))


_Found = tuple[Side, int, tuple[Slice, ...], str, bool]


def _each(size: int) -> torch.Tensor:
    return torch.arange(size)[:, None]


def _places(path: str, part: nn.Module) -> Iterator[_Found]:
    if isinstance(part, Attention):
        yield _heads(path, part)
    elif isinstance(part, nn.RNNBase):
        if is_layer(part):
            yield from _recurrent(path, part)
    elif isinstance(part, nn.Linear):
        yield "in", part.in_features, (_cut(path, "weight", 1, part.in_features, reads=True),), "", False
        yield "out", part.out_features, _rows(path, part, part.out_features), "", False
    elif isinstance(part, CONVS):
        cut = (_cut(path, "weight", 1, part.in_channels, reads=True),) if part.groups == 1 else ()
        yield "in", part.in_channels, cut, "", False
        yield "out", part.out_channels, _rows(path, part, part.out_channels), "", False
    elif isinstance(part, NORMS):
        size = _norm_size(part)
        if size:
            names = [name for name, tensor in part.state_dict().items() if tensor.ndim == 1]
            yield "norm", size, tuple(_cut(path, name, 0, size) for name in names), "", False
    elif isinstance(part, nn.PReLU) and part.num_parameters > 1:
        yield "norm", part.num_parameters, (_cut(path, "weight", 0, part.num_parameters),), "", False


def _norm_size(part: nn.Module) -> int:
    """The channels of a norm; 0 for one over several dimensions or without tensors."""
    found = {len(tensor) for tensor in part.state_dict().values() if tensor.ndim == 1}
    whole = isinstance(part, nn.LayerNorm) and len(part.normalized_shape) > 1
    return 0 if whole or len(found) != 1 else found.pop()


def _cut(path: str, own: str, dim: int, size: int, *, reads: bool = False) -> Slice:
    return Slice(_name(path, own), dim, _each(size), reads)


def _name(path: str, own: str) -> str:
    return f"{path}.{own}" if path else own


def _rows(path: str, part: nn.Module, size: int) -> tuple[Slice, ...]:
    return tuple(_cut(path, own, 0, size) for own, _ in part.named_parameters(recurse=False))


def _heads(path: str, part: Attention) -> _Found:
    width = part.query.out_features // part.heads
    index = torch.arange(part.query.out_features).view(part.heads, width)
    cuts = [
        Slice(_name(path, f"{own}.{tensor}"), 0, index)
        for own in ("query", "key", "value")
        for tensor in ("weight", "bias")
    ]
    cuts.append(Slice(_name(path, "out.weight"), 1, index, reads=True))
    return "heads", part.heads, tuple(cuts), "", True


def _recurrent(path: str, part: nn.RNNBase) -> Iterator[_Found]:
    """The hidden units of each layer and direction, whose rows are those of all gates."""
    hidden, directions = part.hidden_size, 2 if part.bidirectional else 1
    suffixes = ("", "_reverse")[:directions]
    inputs = tuple(
        _cut(path, f"weight_ih_l0{suffix}", 1, part.input_size, reads=True) for suffix in suffixes
    )
    yield "in", part.input_size, inputs, "", False
    own = dict(part.named_parameters())
    gates = own["weight_hh_l0"].shape[0] // hidden
    units = torch.arange(hidden)
    rows = units[:, None] + torch.arange(gates) * hidden
    for layer in range(part.num_layers):
        for direction, suffix in enumerate(suffixes):
            end = f"_l{layer}{suffix}"
            cuts = [Slice(_name(path, name), 0, rows) for name in own if _ends(name, end)]
            cuts.append(_cut(path, f"weight_hh{end}", 1, hidden, reads=True))
            last = layer + 1 == part.num_layers
            if not last:
                columns = (units + direction * hidden)[:, None]
                above = [_name(path, f"weight_ih_l{layer + 1}{other}") for other in suffixes]
                cuts += [Slice(name, 1, columns, reads=True) for name in above]
            yield "out", hidden, tuple(cuts), path or "rnn", not last


def _ends(name: str, end: str) -> bool:
    return name.endswith(end) and name[: -len(end)] in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
