"""Coupled channels: which must be removed together, found by probing the model.

Every layer is replaced by one with constant outputs, so that a perturbation of a layer's output reaches
exactly the layers that read it: through activations, pooling, flattening, concatenation, sums and flips,
but through no other weights. A first run perturbs all channels of an output alike, a second one each by
an amount of its own: the ratio says which channel a reader's input comes from. Where several are mixed,
the ratio belongs to none of them, and all of them stay. In double precision the tiny perturbations stay
apart.

The groups are those of the dependency graph of Fang et al., "DepGraph" (arXiv:2301.12900), but measured
instead of read from the graph of operators: a new operator needs no rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dlcli.compress.channels.probe import PERTURBATION, ProbedModel, ProbeResult
from dlcli.compress.channels.sites import MIXING_NORMS, Site, Sites, is_attention
from dlcli.zoo.structures.channels import CONVS

_NOISE = 1e-4 * PERTURBATION  # of a sum: a smaller change is rounding
_RATIO_TOLERANCE = 1e-3  # of the distance between the amounts of two channels


@dataclass
class Coupling:
    """Which nodes (see `sites`) are coupled: ``pairs`` (2, n) of them, and those that must stay."""

    sites: Sites
    pairs: torch.Tensor
    fixed: torch.Tensor  # bool (nodes,)


def find_coupling(module: nn.Module, inputs: Sequence[torch.Tensor]) -> Coupling:
    """Return what is coupled in a module that takes ``inputs`` (two samples); it is not changed."""
    model = ProbedModel(module, inputs)
    sites = model.sites
    fixed = torch.zeros(sites.nodes, dtype=torch.bool)
    pairs: list[torch.Tensor] = [_conv_groups(sites)]
    base = model.run()
    for nodes in _changed_nodes(model.run(perturb_sources=True), base):
        fixed[nodes] = True
    own: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for site in sites.all:
        if site.kind not in ("out", "own"):
            continue
        coupled, mixed, escapes = _trace(model, site, base)
        pairs.append(coupled)
        if site.kind == "own":
            own.setdefault(site.path, []).append((coupled[1], mixed))
        else:
            fixed[mixed] = True
        if escapes or (site.kind == "out" and len(mixed)):
            fixed[site.nodes] = True
    for dims in own.values():
        # A dimension over positions mixes channels; another dimension has to tell them apart.
        known = torch.cat([coupled for coupled, _ in dims])
        unknown = torch.cat([mixed for _, mixed in dims])
        fixed[unknown[~torch.isin(unknown, known)]] = True
    for site in _fixed_sites(model.module, sites):
        fixed[site.nodes] = True
    return Coupling(sites, torch.cat(pairs, dim=1), fixed)


def _trace(model: ProbedModel, site: Site, base: ProbeResult) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Trace where the channels of a site are read.

    Returns pairs of nodes (2, n), the nodes that mix several channels, and whether channels leave the
    model or reach an opaque module.
    """
    generator = torch.Generator().manual_seed(site.start)
    jitter = torch.rand(site.size, generator=generator, dtype=torch.float64)
    # An amount for each channel, half a channel apart or more.
    amounts = (torch.arange(site.size) + 0.25 + jitter / 2) / site.size
    equal = model.run({site.start: torch.ones(site.size, dtype=torch.float64)})
    distinct = model.run({site.start: amounts})
    coupled, mixed = [torch.empty(2, 0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    for start, calls in base.channel_sums.items():
        for call, before in enumerate(calls):
            change = equal.channel_sums[start][call] - before
            changed = change.abs() > _NOISE * before.abs().clamp(min=1e-3)
            if not changed.any():
                continue
            column = changed.nonzero().flatten()
            ratio = (distinct.channel_sums[start][call] - before)[column] / change[column]
            channel = torch.bucketize(ratio, amounts).clamp(max=site.size - 1)
            lower = (channel - 1).clamp(min=0)
            nearer = (amounts[lower] - ratio).abs() < (amounts[channel] - ratio).abs()
            channel = torch.where(nearer, lower, channel)
            matches = (amounts[channel] - ratio).abs() < _RATIO_TOLERANCE / site.size
            coupled.append(torch.stack([site.start + channel[matches], start + column[matches]]))
            mixed.append(start + column[~matches])
    escapes = any(not torch.equal(a, b) for a, b in zip(base.sinks, equal.sinks, strict=True))
    return torch.cat(coupled, dim=1), torch.cat(mixed), escapes


def _changed_nodes(result: ProbeResult, base: ProbeResult) -> Iterator[torch.Tensor]:
    """Yield the nodes whose sums differ from the base run."""
    for start, calls in base.channel_sums.items():
        for before, after in zip(calls, result.channel_sums[start], strict=True):
            changed = (after - before).abs() > _NOISE * before.abs().clamp(min=1e-3)
            yield start + changed.nonzero().flatten()


def _conv_groups(sites: Sites) -> torch.Tensor:
    """Return pairs of the inputs and outputs within each group of grouped convolutions."""
    pairs = [torch.empty(2, 0, dtype=torch.int64)]
    for path, module in sites.modules.items():
        if isinstance(module, CONVS) and module.groups > 1:
            (inputs,), (outputs,) = sites.of(path, "in"), sites.of(path, "out")
            first = outputs.start + torch.arange(module.groups) * (outputs.size // module.groups)
            for site in (inputs, outputs):
                group_of_node = first.repeat_interleave(site.size // module.groups)
                pairs.append(torch.stack([group_of_node, site.nodes]))
    return torch.cat(pairs, dim=1)


def _fixed_sites(module: nn.Module, sites: Sites) -> Iterator[Site]:
    """Yield sites that stay in any case: of shared weights, and of the norms of Transformers."""
    uses: dict[int, int] = {}
    for _, tensor in module.named_parameters(remove_duplicate=False):
        uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    has_attention = any(is_attention(child) for child in module.modules())
    for site in sites.all:
        owner = sites.modules.get(site.path)
        if owner is None:
            continue
        shared = any(uses[id(tensor)] > 1 for tensor in owner.parameters(recurse=False))
        # The width of a Transformer runs through positions, tokens and every norm.
        if shared or (has_attention and site.kind == "norm" and isinstance(owner, MIXING_NORMS)):
            yield site
