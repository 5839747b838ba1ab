"""Which channels belong together, found by asking the model itself.

Every layer is replaced by one that gives constants, so that what is changed in one layer's output
reaches exactly the layers that read it: through activations, pooling, flattening, concatenation, sums
and flips, but through no other weights. A first run changes all channels of an output alike, a second
one each by an amount of its own: the ratio says which channel a reader's input comes from. Where several
are mixed, the ratio belongs to none of them, and all of them stay. Double precision keeps the tiny
changes apart.

The groups are those of the dependency graph of Fang et al., "DepGraph" (arXiv:2301.12900), but measured
and not read from the graph of operators: a new operator needs no rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dlcli.compress.channels.probe import STEP, Probe, Seen
from dlcli.compress.channels.sites import MIXING_NORMS, Place, Places, is_attention
from dlcli.zoo.structures.channels import CONVS

_NOISE = 1e-4 * STEP  # of a sum: below, nothing has changed
_NEAR = 1e-3  # of the distance between two channels' amounts


@dataclass
class Coupling:
    """Nodes (see `places`) that are one: ``pairs`` (2, n) of them, and those that must stay."""

    places: Places
    pairs: torch.Tensor
    frozen: torch.Tensor  # bool (nodes,)


def find_coupling(module: nn.Module, inputs: Sequence[torch.Tensor]) -> Coupling:
    """What is coupled in a module that takes ``inputs`` (two samples); the module is not changed."""
    probe = Probe(module, inputs)
    places = probe.places
    frozen = torch.zeros(places.nodes, dtype=torch.bool)
    pairs: list[torch.Tensor] = [_grouped(probe.module, places)]
    base = probe.run()
    for nodes in _changed(probe.run(sources=True), base):
        frozen[nodes] = True
    own: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for place in places.all:
        if place.side not in ("out", "own"):
            continue
        clear, mixed, leaves = _follow(probe, place, base)
        pairs.append(clear)
        if place.side == "own":
            own.setdefault(place.path, []).append((clear[1], mixed))
        else:
            frozen[mixed] = True
        if leaves or (place.side == "out" and len(mixed)):
            frozen[place.nodes] = True
    for followed in own.values():
        # A dimension over positions mixes; one of them must tell the channels.
        known = torch.cat([clear for clear, _ in followed])
        unknown = torch.cat([mixed for _, mixed in followed])
        frozen[unknown[~torch.isin(unknown, known)]] = True
    for place in _held(probe.module, places):
        frozen[place.nodes] = True
    return Coupling(places, torch.cat(pairs, dim=1), frozen)


def _follow(probe: Probe, place: Place, base: Seen) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Where a place's channels are read: pairs of nodes (2, n), nodes that mix several of them, and
    whether they leave the model or reach what cannot be followed."""
    generator = torch.Generator().manual_seed(place.start)
    own = torch.rand(place.size, generator=generator, dtype=torch.float64)
    labels = (torch.arange(place.size) + 0.25 + own / 2) / place.size  # apart by half a channel or more
    ones = probe.run({place.start: torch.ones(place.size, dtype=torch.float64)})
    each = probe.run({place.start: labels})
    clear, mixed = [torch.empty(2, 0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    for start, calls in base.columns.items():
        for call, before in enumerate(calls):
            alike = ones.columns[start][call] - before
            moved = alike.abs() > _NOISE * before.abs().clamp(min=1e-3)
            if not moved.any():
                continue
            column = moved.nonzero().flatten()
            ratio = (each.columns[start][call] - before)[column] / alike[column]
            unit = torch.bucketize(ratio, labels).clamp(max=place.size - 1)
            lower = (unit - 1).clamp(min=0)
            unit = torch.where((labels[lower] - ratio).abs() < (labels[unit] - ratio).abs(), lower, unit)
            hit = (labels[unit] - ratio).abs() < _NEAR / place.size
            clear.append(torch.stack([place.start + unit[hit], start + column[hit]]))
            mixed.append(start + column[~hit])
    leaves = any(not torch.equal(a, b) for a, b in zip(base.sinks, ones.sinks, strict=True))
    return torch.cat(clear, dim=1), torch.cat(mixed), leaves


def _changed(seen: Seen, base: Seen) -> Iterator[torch.Tensor]:
    """The input channels, as nodes, that are not as they were."""
    for start, calls in base.columns.items():
        for before, after in zip(calls, seen.columns[start], strict=True):
            yield (
                start
                + ((after - before).abs() > _NOISE * before.abs().clamp(min=1e-3)).nonzero().flatten()
            )


def _grouped(module: nn.Module, places: Places) -> torch.Tensor:
    """Inputs and outputs of one group of a convolution go together."""
    pairs = [torch.empty(2, 0, dtype=torch.int64)]
    for path, part in places.parts.items():
        if isinstance(part, CONVS) and part.groups > 1:
            (into,), (out,) = places.of(path, "in"), places.of(path, "out")
            first = out.start + torch.arange(part.groups) * (out.size // part.groups)
            for place in (into, out):
                each = first.repeat_interleave(place.size // part.groups)
                pairs.append(torch.stack([each, place.nodes]))
    return torch.cat(pairs, dim=1)


def _held(module: nn.Module, places: Places) -> Iterator[Place]:
    """Places that stay whatever was found: of shared weights, and around the norms of Transformers."""
    names: dict[int, int] = {}
    for _, tensor in module.named_parameters(remove_duplicate=False):
        names[id(tensor)] = names.get(id(tensor), 0) + 1
    attends = any(is_attention(part) for part in module.modules())
    for place in places.all:
        part = places.parts.get(place.path)
        if part is None:
            continue
        shared = any(names[id(tensor)] > 1 for tensor in part.parameters(recurse=False))
        # The width of a Transformer runs through positions, tokens and every norm: it stays.
        if shared or (attends and place.side == "norm" and isinstance(part, MIXING_NORMS)):
            yield place
