"""What an importance of channels is, how it registers, and sums over a group's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from dlcli.compress.channels.groups import Group
from dlcli.compress.channels.sites import Sites
from dlcli.registry import Registry

Batches = Callable[[], Iterable[tuple[Sequence[torch.Tensor], torch.Tensor]]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ImportanceContext:
    """The model whose channels are ranked, and data for gradients, where it can be reached.

    ``batches`` yields inputs as the module takes them, and targets; ``loss`` is a mean over a batch.
    """

    module: nn.Module
    sites: Sites
    batches: Batches | None = None
    loss: Loss | None = None


# (groups, context, *, settings) -> scores (units,) of each group, the least important the lowest; None
# for a group that it has no scores for, which is ranked by magnitude.
ImportanceFunction = Callable[..., Sequence[torch.Tensor | None]]
FunctionT = TypeVar("FunctionT", bound=ImportanceFunction)


@dataclass(frozen=True)
class Importance:
    """An importance of channels; see `register_importance`."""

    function: ImportanceFunction
    needs_gradients: bool


IMPORTANCES: Registry[Importance] = Registry("importance", "dlcli.compress.channels.importance")


def register_importance(name: str, *, needs_gradients: bool = False) -> Callable[[FunctionT], FunctionT]:
    """Decorator: make a function the measure that ``prune --importance NAME`` means.

    The function takes groups of channels that are removed together, an `ImportanceContext` and
    keyword-only settings (``--set prune.args.SETTING=value``), and returns scores (units,) on the CPU,
    one tensor a group, the least important units the lowest; None for a group that it has no scores for.
    ``needs_gradients``: the context has ``batches`` and ``loss``. ``name`` must be a string literal.
    """

    def add(function: FunctionT) -> FunctionT:
        IMPORTANCES.register(name)(Importance(function, needs_gradients))
        return function

    return add


def unit_sums(
    group: Group, values: Mapping[str, torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, for each slice of the group, its units and the sum of ``values`` that belongs to each.

    ``values`` are tensors on the CPU by the name of the parameter whose shape they have.
    """
    for site, (owner, nodes) in group.members:
        for entry in site.slices:
            tensor = values.get(entry.tensor)
            if tensor is not None:
                sums = tensor.movedim(entry.dim, 0).flatten(1).sum(1) if tensor.ndim > 1 else tensor
                yield owner, sums[entry.index[nodes]].sum(1)
