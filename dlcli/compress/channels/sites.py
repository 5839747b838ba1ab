"""Sites of a model: where it has channels, that is inputs and outputs of layers, norms, attention heads.

A node is one channel at one site; removing it removes the slices of the tensors that belong to it.
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

SiteKind = Literal["in", "out", "norm", "own", "heads"]  # "own": a parameter of no known layer
NORMS = (
    *BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.LayerNorm, nn.GroupNorm, ChannelNorm,
)  # fmt: skip
_LIBRARIES = ("torchvision.", "timm.")
# Norms whose output in one channel depends on the others.
MIXING_NORMS = (nn.LayerNorm, nn.GroupNorm, ChannelNorm)


@dataclass(frozen=True)
class TensorSlice:
    """Entries along one dimension of a tensor of the state dict: row i of ``index`` belongs to node i.

    ``reads``: these weights multiply the channel; otherwise they produce it.
    """

    tensor: str
    dim: int
    index: torch.Tensor  # int64 (size, entries)
    reads: bool = False


@dataclass(frozen=True)
class Site:
    """``size`` channels of a layer's input or output, a norm, a parameter of its own, or heads.

    ``start`` is the number of its first node. Sites with the same ``balance`` must lose equally many
    nodes. ``internal``: its nodes are read within the layer itself.
    """

    path: str
    kind: SiteKind
    size: int
    start: int
    slices: tuple[TensorSlice, ...] = ()
    balance: str = ""
    internal: bool = False

    @property
    def nodes(self) -> torch.Tensor:
        """The numbers of its nodes."""
        return torch.arange(self.start, self.start + self.size)


def is_layer(module: nn.Module) -> bool:
    """Whether a module multiplies channels by weights that can be sliced."""
    if isinstance(module, nn.RNNBase):
        return module.proj_size == 0
    return isinstance(module, (*CONVS, nn.Linear))


def is_opaque(module: nn.Module) -> bool:
    """Whether channels cannot be followed through a module: attention, embeddings, unknown layers."""
    if isinstance(module, (Attention, nn.MultiheadAttention)):
        return True
    if type(module).__module__.startswith(_LIBRARIES) and is_attention(module):
        # Following channels through it would only show that all of them are mixed.
        return any(isinstance(child, nn.Linear) for child in module.children())
    if is_layer(module) or isinstance(module, (*NORMS, nn.PReLU)):
        return False
    return type(module).__module__.startswith("torch.nn.") and has_own_parameters(module)


def has_own_parameters(module: nn.Module) -> bool:
    """Whether a module has parameters that belong to none of its children."""
    return next(module.parameters(recurse=False), None) is not None


def is_attention(module: nn.Module) -> bool:
    """Whether a module is attention, by the name of its class: each library has its own."""
    return "attention" in type(module).__name__.lower()


class Sites:
    """All sites of a model. ``modules`` are its modules by path, without those inside opaque ones."""

    def __init__(self, model: nn.Module) -> None:
        self.all: list[Site] = []
        self.by_key: dict[tuple[str, SiteKind], list[Site]] = {}
        self.nodes = 0
        self.modules = dict(_transparent_modules(model))
        for path, module in self.modules.items():
            for kind, size, slices, balance, internal in _sites_of(path, module):
                self._add(path, kind, size, slices, balance, internal)

    def add_own(self, name: str, dim: int, size: int) -> Site:
        """Add a dimension of a parameter that belongs to no known layer."""
        return self._add(name, "own", size, (TensorSlice(name, dim, _one_each(size)),), "", False)

    def _add(
        self,
        path: str,
        kind: SiteKind,
        size: int,
        slices: tuple[TensorSlice, ...],
        balance: str,
        internal: bool,
    ) -> Site:
        site = Site(path, kind, size, self.nodes, slices, balance, internal)
        self.nodes += size
        self.all.append(site)
        self.by_key.setdefault((path, kind), []).append(site)
        return site

    def of(self, path: str, kind: SiteKind) -> list[Site]:
        """Return the sites of a module; several for the layers and directions of a recurrent one."""
        return self.by_key.get((path, kind), [])


def _transparent_modules(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield modules with their paths, without those inside opaque ones."""
    yield path, module
    if not is_opaque(module):
        for name, child in module.named_children():
            yield from _transparent_modules(child, _join(path, name))


_SiteFields = tuple[SiteKind, int, tuple[TensorSlice, ...], str, bool]


def _one_each(size: int) -> torch.Tensor:
    return torch.arange(size)[:, None]


def _sites_of(path: str, module: nn.Module) -> Iterator[_SiteFields]:
    if isinstance(module, Attention):
        yield _heads(path, module)
    elif isinstance(module, nn.RNNBase):
        if is_layer(module):
            yield from _recurrent(path, module)
    elif isinstance(module, nn.Linear):
        columns = _slice(path, "weight", 1, module.in_features, reads=True)
        yield "in", module.in_features, (columns,), "", False
        yield "out", module.out_features, _rows(path, module, module.out_features), "", False
    elif isinstance(module, CONVS):
        columns = _slice(path, "weight", 1, module.in_channels, reads=True)
        yield "in", module.in_channels, (columns,) if module.groups == 1 else (), "", False
        yield "out", module.out_channels, _rows(path, module, module.out_channels), "", False
    elif isinstance(module, NORMS):
        size = _norm_size(module)
        if size:
            names = [name for name, tensor in module.state_dict().items() if tensor.ndim == 1]
            yield "norm", size, tuple(_slice(path, name, 0, size) for name in names), "", False
    elif isinstance(module, nn.PReLU) and module.num_parameters > 1:
        size = module.num_parameters
        yield "norm", size, (_slice(path, "weight", 0, size),), "", False


def _norm_size(module: nn.Module) -> int:
    """Return the channels of a norm; 0 for one over several dimensions or without tensors."""
    sizes = {len(tensor) for tensor in module.state_dict().values() if tensor.ndim == 1}
    several_dims = isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1
    return 0 if several_dims or len(sizes) != 1 else sizes.pop()


def _slice(path: str, name: str, dim: int, size: int, *, reads: bool = False) -> TensorSlice:
    return TensorSlice(_join(path, name), dim, _one_each(size), reads)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _rows(path: str, module: nn.Module, size: int) -> tuple[TensorSlice, ...]:
    """Return the rows of all parameters of a layer, one an output channel."""
    return tuple(_slice(path, name, 0, size) for name, _ in module.named_parameters(recurse=False))


def _heads(path: str, attention: Attention) -> _SiteFields:
    width = attention.query.out_features // attention.heads
    index = torch.arange(attention.query.out_features).view(attention.heads, width)
    slices = [
        TensorSlice(_join(path, f"{projection}.{tensor}"), 0, index)
        for projection in ("query", "key", "value")
        for tensor in ("weight", "bias")
    ]
    slices.append(TensorSlice(_join(path, "out.weight"), 1, index, reads=True))
    return "heads", attention.heads, tuple(slices), "", True


def _recurrent(path: str, rnn: nn.RNNBase) -> Iterator[_SiteFields]:
    """Yield the inputs, and the hidden units of each layer and direction: a unit has a row a gate."""
    hidden, directions = rnn.hidden_size, 2 if rnn.bidirectional else 1
    suffixes = ("", "_reverse")[:directions]
    inputs = tuple(
        _slice(path, f"weight_ih_l0{suffix}", 1, rnn.input_size, reads=True) for suffix in suffixes
    )
    yield "in", rnn.input_size, inputs, "", False
    parameters = dict(rnn.named_parameters())
    gates = parameters["weight_hh_l0"].shape[0] // hidden
    units = torch.arange(hidden)
    rows = units[:, None] + torch.arange(gates) * hidden
    for layer in range(rnn.num_layers):
        for direction, suffix in enumerate(suffixes):
            end = f"_l{layer}{suffix}"
            slices = [TensorSlice(_join(path, n), 0, rows) for n in parameters if _is_of(n, end)]
            slices.append(_slice(path, f"weight_hh{end}", 1, hidden, reads=True))
            last = layer + 1 == rnn.num_layers
            if not last:
                columns = (units + direction * hidden)[:, None]
                next_layer = [_join(path, f"weight_ih_l{layer + 1}{other}") for other in suffixes]
                slices += [TensorSlice(name, 1, columns, reads=True) for name in next_layer]
            yield "out", hidden, tuple(slices), path or "rnn", not last


def _is_of(name: str, end: str) -> bool:
    """Whether a parameter is of one layer and direction of a recurrent module."""
    return name.endswith(end) and name[: -len(end)] in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
