"""What a method of unstructured pruning is, and how it registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from dlcli.registry import Registry

# (weight, generator, *, settings) -> scores that broadcast to the weight; the lowest become zero.
Score = Callable[..., torch.Tensor]
# (weights, *, settings) -> those that the method prunes
Select = Callable[..., "list[Weight]"]
Ranking = Literal["layer", "global", "2:4"]

GROUP = 4  # neighbours of 2:4 sparsity, of which two are kept
# What a search for the largest amount within a bound tries: single weights, and whole slices.
WEIGHT_AMOUNTS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
SLICE_AMOUNTS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)


@dataclass(frozen=True)
class Weight:
    """A parameter that masks may prune, and the module it belongs to.

    ``is_output``: it is the last weight of the model's head, whose rows are the outputs.
    """

    owner: nn.Module
    attribute: str
    name: str  # in the model
    is_output: bool = False

    @property
    def layer(self) -> str:
        """The path of the layer that it belongs to."""
        return self.name.rpartition(".")[0]

    @property
    def tensor(self) -> torch.Tensor:
        """The values, without gradients."""
        tensor = getattr(self.owner, self.attribute)
        assert isinstance(tensor, torch.Tensor)
        return tensor.detach()

    @property
    def input_dim(self) -> int:
        """The dimension of the inputs (of a convolution: its input channels)."""
        return 0 if isinstance(self.owner, _ConvTransposeNd) else 1


@dataclass(frozen=True)
class MaskMethod:
    """A method of unstructured pruning; see `register_mask_method`."""

    score: Score
    ranking: Ranking
    select: Select | None = None
    search_amounts: tuple[float, ...] = WEIGHT_AMOUNTS

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """The functions whose keyword-only parameters are the settings of the method."""
        return (self.score,) if self.select is None else (self.score, self.select)

    @property
    def fixed_amount(self) -> float | None:
        """The share of zeros, where the method has no choice."""
        return 0.5 if self.ranking == "2:4" else None


MASK_METHODS: Registry[MaskMethod] = Registry("pruning method", "dlcli.compress.masks")


def register_mask_method(
    name: str,
    *,
    ranking: Ranking,
    select: Select | None = None,
    search_amounts: tuple[float, ...] = WEIGHT_AMOUNTS,
) -> Callable[[Score], Score]:
    """Decorator: make a score of weights the pruning method that ``prune --method NAME`` means.

    The function takes a `Weight`, a seeded generator and keyword-only settings, and returns scores that
    broadcast to the weight: one a value, or one a slice, such as (N, 1, 1, 1). The lowest become zero:
    ``--amount`` of each weight (``ranking="layer"``) or of all weights together ("global"), or two of
    four neighbours along the input ("2:4"). Zeros stay zero and count, whatever their scores. A setting
    with the name of a field of `dlcli.config.PruneConfig` gets its value; any other is set by ``--set
    prune.args.SETTING=value``. ``name`` must be a string literal.

    Args:
        select: returns those of the weights that the method is for (default: all).
        search_amounts: the amounts that a search for ``--max-drop`` tries, ascending.
    """

    def add(score: Score) -> Score:
        MASK_METHODS.register(name)(MaskMethod(score, ranking, select, search_amounts))
        return score

    return add


def is_mask(method: str) -> bool:
    """Whether a method of `prune` sets weights to zero and leaves all shapes as they are."""
    return MASK_METHODS.find(method) is not None


def without_embeddings(weights: list[Weight]) -> list[Weight]:
    """Return the weights of layers with input channels: a row of an embedding is a token."""
    return [w for w in weights if not isinstance(w.owner, nn.Embedding | nn.EmbeddingBag)]
