"""From coupled nodes to groups of channels that can be taken out, and how many of each are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from dlcli.compress.channels.coupling import Coupling
from dlcli.compress.channels.sites import Place, Places
from dlcli.zoo.layers import ChannelNorm

_PRODUCERS = ("out", "heads")


@dataclass(frozen=True)
class Group:
    """Units that are alike: each is one channel, or a few coupled ones, at each of the places.

    ``members`` are units and their nodes at each place, both counted from 0, as a tensor (2, m). Of
    units with the same number in ``bins`` (n,), equally many must stay as of any other: directions of a
    recurrent net, groups of a norm. ``width`` is how many channels a unit has in the layer that names
    the group, ``spread`` how many bins make that layer's channels together; whole heads are not rounded.
    """

    members: tuple[tuple[Place, torch.Tensor], ...]
    bins: torch.Tensor
    width: int
    spread: int
    rounds: bool

    @property
    def name(self) -> str:
        """The first layer whose outputs these are."""
        return next(place.path for place, _ in self.members if place.side in _PRODUCERS)

    @property
    def layers(self) -> list[str]:
        """Every layer that has these channels as its outputs."""
        return [place.path for place, _ in self.members if place.side in _PRODUCERS]

    @property
    def size(self) -> int:
        """How many units there are."""
        return len(self.bins)

    def kept(self, amount: float, round_to: int) -> int:
        """How many units of a bin are left when the share ``amount`` goes."""
        size = self.size // int(self.bins.max() + 1)
        step = round_to // math.gcd(round_to, self.width * self.spread) if self.rounds else 1
        steps = math.floor(size * (1 - amount) / step + 0.5)
        return min(size, max(1, steps) * step)

    def choose(self, scores: torch.Tensor, amount: float, round_to: int) -> torch.Tensor:
        """Which units stay (bool): of each bin those of the highest score, the first of equals."""
        kept = self.kept(amount, round_to)
        stays = torch.zeros(self.size, dtype=torch.bool)
        for number in range(int(self.bins.max()) + 1):
            own = (self.bins == number).nonzero().flatten()
            stays[own[torch.argsort(scores[own], descending=True, stable=True)[:kept]]] = True
        return stays


def find_groups(coupling: Coupling) -> list[Group]:
    """The groups whose units can go, in the order of the model."""
    places = coupling.places
    unit = _units(coupling)
    stays = torch.zeros(int(unit.max()) + 1 if len(unit) else 0, dtype=torch.bool)
    stays[unit[coupling.frozen]] = True
    makes, read = torch.zeros_like(stays), torch.zeros_like(stays)
    touched: dict[int, list[tuple[int, int]]] = {}
    for number, place in enumerate(places.all):
        own = unit[place.nodes]
        if place.side in _PRODUCERS:
            makes[own] = True
        if place.whole or (any(cut.reads for cut in place.slices) and place.side == "in"):
            read[own] = True
        for index, count in zip(*torch.unique(own, return_counts=True), strict=True):
            touched.setdefault(int(index), []).append((number, int(count)))
    kinds: dict[object, list[int]] = {}
    for index, where in touched.items():
        if makes[index] and read[index] and not stays[index]:
            alike = {places.all[number].alike for number, _ in where if places.all[number].alike}
            if len(alike) > 1:
                continue
            kinds.setdefault(_several(places, alike) or tuple(where), []).append(index)
    found = [_group(places, unit, indices, kind) for kind, indices in kinds.items()]
    groups = [group for group in found if group is not None]
    return sorted(groups, key=lambda group: min(place.start for place, _ in group.members))


def _units(coupling: Coupling) -> torch.Tensor:
    """The number of each node's unit."""
    first, second = coupling.pairs.numpy()
    nodes = coupling.places.nodes
    graph = coo_array(([True] * len(first), (first, second)), shape=(nodes, nodes))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long()


def _several(places: Places, alike: set[str]) -> str:
    """The recurrent net with several layers or directions that a unit is of, else ""."""
    name = next(iter(alike), "")
    return name if sum(place.alike == name for place in places.all) > 1 else ""


def _group(places: Places, unit: torch.Tensor, indices: list[int], kind: object) -> Group | None:
    """None where bins would not stay alike."""
    row = torch.full((int(unit.max()) + 1,), -1)
    row[torch.tensor(indices)] = torch.arange(len(indices))
    members: list[tuple[Place, torch.Tensor]] = []
    bins = torch.zeros(len(indices), dtype=torch.int64)
    spread, number = 1, 0
    for place in places.all:
        rows = row[unit[place.nodes]]
        here = (rows >= 0).nonzero().flatten()
        if not len(here):
            continue
        order = torch.argsort(rows[here], stable=True)
        nodes, owner = here[order], rows[here][order]
        if isinstance(kind, str) and place.alike:  # its places have some of the units each
            if len(here) != place.size:
                return None
            bins[owner], number = number, number + 1
        parts = _norm_groups(places.parts.get(place.path)) if place.side == "norm" else 1
        if parts > 1:
            if len(here) != place.size or len(here) != len(indices) or bool(bins.any()):
                return None
            bins, spread = (
                torch.empty_like(bins).scatter_(0, owner, nodes // (place.size // parts)),
                parts,
            )
        members.append((place, torch.stack([owner, nodes])))
    counts = torch.bincount(bins)
    if int(counts.min()) != int(counts.max()):
        return None
    name = next(place for place, _ in members if place.side in _PRODUCERS)
    width = 1 if isinstance(kind, str) else max(1, _width(members, name, len(indices)))
    return Group(tuple(members), bins, width, spread, rounds=name.side != "heads")


def _width(members: Sequence[tuple[Place, torch.Tensor]], place: Place, units: int) -> int:
    return sum(pairs.shape[1] for other, pairs in members if other is place) // units


def _norm_groups(part: nn.Module | None) -> int:
    if isinstance(part, nn.GroupNorm):
        return int(part.num_groups)
    return part.groups if isinstance(part, ChannelNorm) else 1
