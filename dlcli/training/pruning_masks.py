"""Pruning masks: weights of 0 that stay 0 while the others train."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dlcli.card import TransformRecord
from dlcli.errors import DlcliError
from dlcli.transforms import MASK


class Masks:
    """Pruning masks of some weights: ``capture`` computes them from the zeros, ``apply`` applies them.

    Momentum and gradients change pruned weights, so the masks are applied after every update.
    """

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self._weights = list(weights)
        self._zeros: list[torch.Tensor] = []

    def capture(self) -> None:
        """Compute the masks from the weights: at the start of a run, or after loading its state."""
        self._zeros = [weight.detach() == 0 for weight in self._weights]

    @torch.no_grad()
    def apply(self) -> None:
        """Set the pruned weights to 0."""
        for weight, zeros in zip(self._weights, self._zeros, strict=True):
            weight.masked_fill_(zeros, 0.0)  # a product could be -0.0, which sparse files store


def make_masks(module: nn.Module, transforms: Sequence[TransformRecord]) -> Masks | None:
    """The masks of a model whose card lists pruned weights, else None.

    Raises: DlcliError when the model does not have these weights, so they could not be masked.
    """
    names = {name for record in transforms if record.kind == MASK for name in record.args["weights"]}
    if not names:
        return None
    parameters = dict(module.named_parameters())
    if missing := sorted(names - parameters.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DlcliError(
            f"the card lists pruned weights that the model does not have: {missing[0]}{more}",
            hint="prune the original model again",
        )
    return Masks([weight for name, weight in parameters.items() if name in names])
