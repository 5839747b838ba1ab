"""Removal of channels: a smaller copy of a module, its size, and a check that nothing else changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dlcli.compress.channels.groups import Group
from dlcli.compress.channels.sites import MIXING_NORMS, Sites
from dlcli.zoo.attention import Attention
from dlcli.zoo.forward import load_tensors
from dlcli.zoo.structures.channels import CONVS, resize

# The entries to remove (int64, sorted), by tensor and dimension.
Removal = dict[str, dict[int, torch.Tensor]]
# Relative tolerances in double precision: of the std of outputs over samples, and of the outputs.
_TOLERANCE, _ROUNDING = 1e-6, 1e-8


def removal_of(
    groups: Sequence[Group], keep_masks: Sequence[torch.Tensor], *, readers_only: bool = False
) -> Removal:
    """Return the entries of the units that do not stay.

    With ``readers_only``, only those of weights that multiply their channels.
    """
    entries: dict[str, dict[int, list[torch.Tensor]]] = {}
    for group, keep in zip(groups, keep_masks, strict=True):
        for site, (owner, nodes) in group.members:
            removed = nodes[~keep[owner]]
            for part in site.slices:
                if len(removed) and (part.reads or not readers_only):
                    by_dim = entries.setdefault(part.tensor, {})
                    by_dim.setdefault(part.dim, []).append(part.index[removed].flatten())
    return {
        name: {dim: torch.unique(torch.cat(parts)) for dim, parts in by_dim.items()}
        for name, by_dim in entries.items()
    }


def shape_after(shape: Sequence[int], by_dim: Mapping[int, torch.Tensor]) -> list[int]:
    """Return the shape of a tensor without the entries to remove."""
    return [size - len(by_dim.get(dim, ())) for dim, size in enumerate(shape)]


def remove_channels(
    module: nn.Module, sites: Sites, removal: Removal
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a smaller copy of a module, and the arguments of `resize` that give its structure.

    ``sites`` are those of a module of the same structure.
    """
    state = module.state_dict()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    args = _resize_args(state, sites, removal)
    # Tensors that are replaced anyway need no copy.
    smaller = copy.deepcopy(module, {id(tensors[name]): tensors[name] for name in removal})
    resize(smaller, args)
    smaller_state = dict(state)
    for name, by_dim in removal.items():
        tensor = state[name].detach()
        for dim, entries in by_dim.items():
            keep = torch.ones(tensor.shape[dim], dtype=torch.bool)
            keep[entries] = False
            tensor = tensor.index_select(dim, keep.nonzero().flatten().to(tensor.device))
        smaller_state[name] = tensor
    load_tensors(smaller, smaller_state)
    for child in smaller.modules():
        if isinstance(child, nn.RNNBase):
            child.flatten_parameters()
    return smaller, args


def _resize_args(state: Mapping[str, torch.Tensor], sites: Sites, removal: Removal) -> dict[str, Any]:
    shapes = {name: shape_after(state[name].shape, by_dim) for name, by_dim in removal.items()}
    groups, heads = {}, {}
    for path, module in sites.modules.items():
        weight, query = f"{path}.weight" if path else "weight", f"{path}.query.weight"
        if isinstance(module, CONVS) and module.groups > 1 and weight in removal:
            groups[path] = shapes[weight][0] // (module.out_channels // module.groups)
        elif isinstance(module, Attention) and query in removal:
            heads[path] = shapes[query][0] // (module.query.out_features // module.heads)
    args = {"shapes": shapes, "groups": groups, "heads": heads}
    return {key: value for key, value in args.items() if value}


def params_after(module: nn.Module, removal: Removal) -> int:
    """Return the number of parameters that are left."""
    return sum(
        math.prod(shape_after(p.shape, removal.get(name, {}))) for name, p in module.named_parameters()
    )


def macs_after(module: nn.Module, macs: Mapping[str, int], removal: Removal) -> dict[str, int]:
    """Return the MACs that are left, by layer: they shrink with the weights, at as many positions."""
    left: dict[str, int] = {}
    modules = dict(module.named_modules())
    for path, number in macs.items():
        layer = modules.get(path)
        if isinstance(layer, Attention):  # the products of queries, keys and values: by heads
            weights = [(f"{path}.query.weight", layer.query.weight)]
        else:
            own = () if layer is None else layer.named_parameters(recurse=False)
            weights = [(f"{path}.{name}" if path else name, p) for name, p in own if p.ndim > 1]
        before = sum(weight.numel() for _, weight in weights)
        after = sum(math.prod(shape_after(w.shape, removal.get(name, {}))) for name, w in weights)
        left[path] = number if before == 0 else number * after // before
    return left


class RemovalCheck:
    """Checks that a removal changes nothing else: the smaller model has the outputs of the original
    whose weights that read the removed channels are zero.

    Norms that mix channels are turned off here, since they always depend on all channels. Double
    precision.
    """

    def __init__(self, module: nn.Module, sites: Sites, inputs: Sequence[torch.Tensor]) -> None:
        self._module = copy.deepcopy(module).cpu().double().eval()
        self._sites = sites
        self._inputs = [x.cpu().double() if x.is_floating_point() else x.cpu() for x in inputs]
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self._module.parameters():
                if not p.any():  # layers that are initialized to 0 would hide what precedes them
                    p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.1)

    def passes(self, groups: Sequence[Group], keep_masks: Sequence[torch.Tensor]) -> bool:
        """Whether the units can be removed, as far as one batch shows."""
        norms = {site.path for group in groups for site, _ in group.members if site.kind == "norm"}
        try:
            smaller, _ = remove_channels(self._module, self._sites, removal_of(groups, keep_masks))
            with _affine_only(smaller, norms), torch.no_grad():
                after = smaller(*self._inputs)
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError):
            return False  # sizes that the model's own code does not expect
        readers = removal_of(groups, keep_masks, readers_only=True)
        with _affine_only(self._module, norms), _zeroed(self._module, readers):
            before = self._module(*self._inputs)
        if after.shape != before.shape:
            return False
        # What the two samples have in common may be far larger than what differs between them.
        scale = torch.maximum(before.std(0).max(), _ROUNDING * before.abs().max())
        return bool((after - before).abs().max() <= _TOLERANCE * scale)

    def removable(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups of which either half can be removed, together with those before them."""
        generator = torch.Generator().manual_seed(1)
        orders = [torch.randperm(group.size, generator=generator).float() for group in groups]
        halves = [
            [group.keep_mask(sign * order, 0.5, 1) for group, order in zip(groups, orders, strict=True)]
            for sign in (1, -1)
        ]

        def together(numbers: Sequence[int]) -> bool:
            some = [groups[i] for i in numbers]
            return all(self.passes(some, [masks[i] for i in numbers]) for masks in halves)

        good: list[int] = []
        if together(range(len(groups))):
            return list(groups)
        for number in range(len(groups)):
            if together([*good, number]):
                good.append(number)
        return [groups[i] for i in good]


@contextmanager
def _zeroed(module: nn.Module, removal: Removal) -> Iterator[None]:
    """Set entries of tensors to zero for a while, without gradients."""
    tensors = dict(module.named_parameters())
    with torch.no_grad():
        before = []
        try:
            for name, by_dim in removal.items():
                for dim, entries in by_dim.items():
                    before.append((name, dim, entries, tensors[name].index_select(dim, entries)))
                    tensors[name].index_fill_(dim, entries, 0.0)
            yield
        finally:
            for name, dim, entries, values in reversed(before):
                tensors[name].index_copy_(dim, entries, values)


@contextmanager
def _affine_only(module: nn.Module, paths: set[str]) -> Iterator[None]:
    """Reduce norms that mix channels to their scale and shift for a while."""
    norms = [module.get_submodule(path) for path in paths]
    mixing = [norm for norm in norms if isinstance(norm, MIXING_NORMS)]
    for norm in mixing:
        norm.forward = _scale_and_shift(norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in mixing:
            del norm.forward


def _scale_and_shift(norm: nn.Module) -> Callable[..., torch.Tensor]:
    last = isinstance(norm, nn.LayerNorm) and not type(norm).__name__.endswith("2d")
    weight, bias = (getattr(norm, name, None) for name in ("weight", "bias"))

    def forward(x: torch.Tensor, *rest: object) -> torch.Tensor:
        shape = [-1] if last else [-1, *[1] * (x.ndim - 2)]
        y = x if weight is None else x * weight.view(shape)
        return y if bias is None else y + bias.view(shape)

    return forward
