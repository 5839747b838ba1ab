"""Groups of coupled channels that can be removed, and how many of each group are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from dlcli.compress.channels.coupling import Coupling
from dlcli.compress.channels.sites import Site, Sites
from dlcli.zoo.layers import ChannelNorm

_PRODUCERS = ("out", "heads")


@dataclass(frozen=True)
class Group:
    """Units of one sort: each is one channel, or a few coupled ones, at each of the group's sites.

    ``members`` are the group's sites with a tensor (2, m) of units and their nodes at the site, both
    counted from 0. Equally many units of each bin in ``bins`` (n,) must stay: bins are the directions
    of a recurrent layer, or the groups of a norm (``norm_groups`` of them). ``width`` is how many
    channels a unit has in the layer that names the group. Heads are not rounded.
    """

    members: tuple[tuple[Site, torch.Tensor], ...]
    bins: torch.Tensor
    width: int
    norm_groups: int
    rounds: bool

    @property
    def name(self) -> str:
        """The first layer whose outputs these are."""
        return next(site.path for site, _ in self.members if site.kind in _PRODUCERS)

    @property
    def layers(self) -> list[str]:
        """Every layer that has these channels as its outputs."""
        return [site.path for site, _ in self.members if site.kind in _PRODUCERS]

    @property
    def size(self) -> int:
        """The number of units."""
        return len(self.bins)

    @property
    def step(self) -> int:
        """The number of channels of the layer that names the group which go together, at least."""
        return self.width * self.norm_groups

    @property
    def channels(self) -> int:
        """The number of channels or heads of the layer that names the group."""
        return self._bin_size * self.step

    @property
    def _bin_size(self) -> int:
        return self.size // int(self.bins.max() + 1)

    def num_remaining(self, amount: float, round_to: int) -> int:
        """Return how many units of a bin stay when ``amount`` is removed.

        As in `torch.nn.utils.prune`, a float is a share and an int a number, here of channels of the
        layer that names the group.
        """
        size = self._bin_size
        if isinstance(amount, int):
            amount /= self.channels
        step = round_to // math.gcd(round_to, self.width * self.norm_groups) if self.rounds else 1
        steps = math.floor(size * (1 - amount) / step + 0.5)
        return min(size, max(1, steps) * step)

    def keep_mask(self, scores: torch.Tensor, amount: float, round_to: int) -> torch.Tensor:
        """Return which units stay (bool): of each bin those of the highest score, first of equals."""
        remaining = self.num_remaining(amount, round_to)
        keep = torch.zeros(self.size, dtype=torch.bool)
        for number in range(int(self.bins.max()) + 1):
            units = (self.bins == number).nonzero().flatten()
            keep[units[torch.argsort(scores[units], descending=True, stable=True)[:remaining]]] = True
        return keep


def find_groups(coupling: Coupling) -> list[Group]:
    """Return the groups whose units can be removed, in the order of the model."""
    sites = coupling.sites
    unit = _units(coupling)
    fixed = torch.zeros(int(unit.max()) + 1 if len(unit) else 0, dtype=torch.bool)
    fixed[unit[coupling.fixed]] = True
    produced, read = torch.zeros_like(fixed), torch.zeros_like(fixed)
    sites_of_unit: dict[int, list[tuple[int, int]]] = {}  # site number, nodes there
    for number, site in enumerate(sites.all):
        units = unit[site.nodes]
        if site.kind in _PRODUCERS:
            produced[units] = True
        if site.internal or (any(s.reads for s in site.slices) and site.kind == "in"):
            read[units] = True
        for index, count in zip(*torch.unique(units, return_counts=True), strict=True):
            sites_of_unit.setdefault(int(index), []).append((number, int(count)))
    # Units at the same sites are of one sort, and so are all units of a recurrent module.
    sorts: dict[object, list[int]] = {}
    for index, where in sites_of_unit.items():
        if produced[index] and read[index] and not fixed[index]:
            balances = {sites.all[number].balance for number, _ in where if sites.all[number].balance}
            if len(balances) > 1:
                continue
            sorts.setdefault(_recurrent_module(sites, balances) or tuple(where), []).append(index)
    groups = [_group(sites, unit, indices, sort) for sort, indices in sorts.items()]
    removable = [group for group in groups if group is not None]
    return sorted(removable, key=lambda group: min(site.start for site, _ in group.members))


def _units(coupling: Coupling) -> torch.Tensor:
    """Return the number of each node's unit."""
    first, second = coupling.pairs.numpy()
    nodes = coupling.sites.nodes
    graph = coo_array(([True] * len(first), (first, second)), shape=(nodes, nodes))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long()


def _recurrent_module(sites: Sites, balances: set[str]) -> str:
    """Return the recurrent module with several layers or directions that a unit is of, or ""."""
    name = next(iter(balances), "")
    return name if sum(site.balance == name for site in sites.all) > 1 else ""


def _group(sites: Sites, unit: torch.Tensor, indices: list[int], sort: object) -> Group | None:
    """Return the group of these units; None where its bins could not stay equal."""
    row_of_unit = torch.full((int(unit.max()) + 1,), -1)
    row_of_unit[torch.tensor(indices)] = torch.arange(len(indices))
    members: list[tuple[Site, torch.Tensor]] = []
    bins = torch.zeros(len(indices), dtype=torch.int64)
    norm_groups, next_bin = 1, 0
    for site in sites.all:
        rows = row_of_unit[unit[site.nodes]]
        here = (rows >= 0).nonzero().flatten()
        if not len(here):
            continue
        order = torch.argsort(rows[here], stable=True)
        nodes, owner = here[order], rows[here][order]
        if isinstance(sort, str) and site.balance:  # each of its sites has some of the units
            if len(here) != site.size:
                return None
            bins[owner], next_bin = next_bin, next_bin + 1
        count = _norm_groups(sites.modules.get(site.path)) if site.kind == "norm" else 1
        if count > 1:
            if len(here) != site.size or len(here) != len(indices) or bool(bins.any()):
                return None
            bins = torch.empty_like(bins).scatter_(0, owner, nodes // (site.size // count))
            norm_groups = count
        members.append((site, torch.stack([owner, nodes])))
    sizes = torch.bincount(bins)
    if int(sizes.min()) != int(sizes.max()):
        return None
    producer = next(site for site, _ in members if site.kind in _PRODUCERS)
    width = 1 if isinstance(sort, str) else max(1, _width(members, producer, len(indices)))
    return Group(tuple(members), bins, width, norm_groups, rounds=producer.kind != "heads")


def _width(members: Sequence[tuple[Site, torch.Tensor]], site: Site, units: int) -> int:
    return sum(pairs.shape[1] for other, pairs in members if other is site) // units


def _norm_groups(module: nn.Module | None) -> int:
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    return module.groups if isinstance(module, ChannelNorm) else 1
