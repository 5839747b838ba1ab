"""Cutting chosen units out of a module, what that leaves, and the proof that nothing else changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dlcli.compress.channels.groups import Group
from dlcli.compress.channels.sites import MIXING_NORMS, Places
from dlcli.zoo.attention import Attention
from dlcli.zoo.forward import load_tensors
from dlcli.zoo.structures.channels import CONVS, resize

# What goes: entries (int64, sorted) by tensor and dimension.
Cuts = dict[str, dict[int, torch.Tensor]]
_CLOSE = 1e-6  # of how much answers differ between samples, in double precision
_ROUNDING = 1e-8  # of an answer


def cuts_of(groups: Sequence[Group], stays: Sequence[torch.Tensor], *, reads: bool = False) -> Cuts:
    """What goes with the units that do not stay; with ``reads`` only what multiplies their channels."""
    found: dict[str, dict[int, list[torch.Tensor]]] = {}
    for group, kept in zip(groups, stays, strict=True):
        for place, (owner, nodes) in group.members:
            lost = nodes[~kept[owner]]
            for cut in place.slices:
                if len(lost) and (cut.reads or not reads):
                    by_dim = found.setdefault(cut.tensor, {})
                    by_dim.setdefault(cut.dim, []).append(cut.index[lost].flatten())
    return {
        name: {dim: torch.unique(torch.cat(parts)) for dim, parts in by_dim.items()}
        for name, by_dim in found.items()
    }


def shape_after(shape: Sequence[int], by_dim: Mapping[int, torch.Tensor]) -> list[int]:
    """The shape of a tensor without its cuts."""
    return [size - len(by_dim.get(dim, ())) for dim, size in enumerate(shape)]


def shrink(module: nn.Module, places: Places, gone: Cuts) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of the module without what goes, and the arguments of `resize` that give its structure.

    ``places`` are those of a module of the same structure.
    """
    state = module.state_dict()
    state_of = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    args: dict[str, Any] = {
        "shapes": {name: shape_after(state[name].shape, by_dim) for name, by_dim in gone.items()},
        "groups": {},
        "heads": {},
    }
    for path, part in places.parts.items():
        name = f"{path}.weight" if path else "weight"
        if isinstance(part, CONVS) and part.groups > 1 and name in gone:
            each = part.out_channels // part.groups
            args["groups"][path] = args["shapes"][name][0] // each
        elif isinstance(part, Attention) and f"{path}.query.weight" in gone:
            width = part.query.out_features // part.heads
            args["heads"][path] = args["shapes"][f"{path}.query.weight"][0] // width
    args = {key: value for key, value in args.items() if value}
    # Tensors that are replaced anyway need no copy.
    smaller = copy.deepcopy(module, {id(state_of[name]): state_of[name] for name in gone})
    resize(smaller, args)
    tensors = dict(state)
    for name, by_dim in gone.items():
        tensor = state[name].detach()
        for dim, entries in by_dim.items():
            keep = torch.ones(tensor.shape[dim], dtype=torch.bool)
            keep[entries] = False
            tensor = tensor.index_select(dim, keep.nonzero().flatten().to(tensor.device))
        tensors[name] = tensor
    load_tensors(smaller, tensors)
    for part in smaller.modules():
        if isinstance(part, nn.RNNBase):
            part.flatten_parameters()
    return smaller, args


def params_after(module: nn.Module, gone: Cuts) -> int:
    """Parameters that are left."""
    return sum(
        math.prod(shape_after(p.shape, gone.get(name, {}))) for name, p in module.named_parameters()
    )


def macs_after(module: nn.Module, macs: Mapping[str, int], gone: Cuts) -> dict[str, int]:
    """Multiply-adds that are left, by layer: a layer's positions stay, so they go with its weights."""
    left: dict[str, int] = {}
    parts = dict(module.named_modules())
    for path, number in macs.items():
        part = parts.get(path)
        if isinstance(part, Attention):  # the products of queries, keys and values: by heads
            weights = [(f"{path}.query.weight", part.query.weight)]
        else:
            own = () if part is None else part.named_parameters(recurse=False)
            weights = [(f"{path}.{name}" if path else name, p) for name, p in own if p.ndim > 1]
        before = sum(weight.numel() for _, weight in weights)
        after = sum(math.prod(shape_after(w.shape, gone.get(name, {}))) for name, w in weights)
        left[path] = number if before == 0 else number * after // before
    return left


class Proof:
    """Whether a removal changes nothing else: the smaller model answers as the whole one does whose
    weights that read the removed channels are zero.

    Norms that mix channels pass them through here, since they cannot help noticing. Double precision.
    """

    def __init__(self, module: nn.Module, places: Places, inputs: Sequence[torch.Tensor]) -> None:
        self._module = copy.deepcopy(module).cpu().double().eval()
        self._places = places
        self._inputs = [x.cpu().double() if x.is_floating_point() else x.cpu() for x in inputs]
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self._module.parameters():
                if not p.any():  # layers that begin at 0 would hide what happens in front of them
                    p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.1)

    def holds(self, groups: Sequence[Group], stays: Sequence[torch.Tensor]) -> bool:
        """Whether the units can go, as far as one batch tells."""
        norms = {place.path for group in groups for place, _ in group.members if place.side == "norm"}
        gone = cuts_of(groups, stays)
        try:
            smaller, _ = shrink(self._module, self._places, gone)
            with _plain_norms(smaller, norms), torch.no_grad():
                after = smaller(*self._inputs)
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError):
            return False  # sizes that the model's own code does not expect
        with _plain_norms(self._module, norms), _zeros(self._module, cuts_of(groups, stays, reads=True)):
            before = self._module(*self._inputs)
        if after.shape != before.shape:
            return False
        # What the two samples have in common may be far more than what depends on them.
        scale = torch.maximum(before.std(0).max(), _ROUNDING * before.abs().max())
        return bool((after - before).abs().max() <= _CLOSE * scale)

    def usable(self, groups: Sequence[Group]) -> list[Group]:
        """The groups of which either half can go: all of them, or those that can one after another."""
        generator = torch.Generator().manual_seed(1)
        orders = [torch.randperm(group.size, generator=generator).float() for group in groups]
        halves = [
            [group.choose(sign * order, 0.5, 1) for group, order in zip(groups, orders, strict=True)]
            for sign in (1, -1)
        ]

        def together(numbers: Sequence[int]) -> bool:
            some = [groups[i] for i in numbers]
            return all(self.holds(some, [stays[i] for i in numbers]) for stays in halves)

        good: list[int] = []
        if together(range(len(groups))):
            return list(groups)
        for number in range(len(groups)):
            if together([*good, number]):
                good.append(number)
        return [groups[i] for i in good]


@contextmanager
def _zeros(module: nn.Module, gone: Cuts) -> Iterator[None]:
    """Entries of tensors are zero for a while, and no gradients are kept."""
    tensors = dict(module.named_parameters())
    with torch.no_grad():
        before = []
        try:
            for name, by_dim in gone.items():
                for dim, entries in by_dim.items():
                    before.append((name, dim, entries, tensors[name].index_select(dim, entries)))
                    tensors[name].index_fill_(dim, entries, 0.0)
            yield
        finally:
            for name, dim, entries, values in reversed(before):
                tensors[name].index_copy_(dim, entries, values)


@contextmanager
def _plain_norms(module: nn.Module, paths: set[str]) -> Iterator[None]:
    """Norms that mix channels only scale and shift for a while."""
    parts = [module.get_submodule(path) for path in paths]
    mixing = [part for part in parts if isinstance(part, MIXING_NORMS)]
    for part in mixing:
        part.forward = _scale_and_shift(part)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for part in mixing:
            del part.forward


def _scale_and_shift(part: nn.Module) -> Callable[..., torch.Tensor]:
    last = isinstance(part, nn.LayerNorm) and not type(part).__name__.endswith("2d")
    weight, bias = (getattr(part, name, None) for name in ("weight", "bias"))

    def forward(x: torch.Tensor, *rest: object) -> torch.Tensor:
        shape = [-1] if last else [-1, *[1] * (x.ndim - 2)]
        y = x if weight is None else x * weight.view(shape)
        return y if bias is None else y + bias.view(shape)

    return forward
