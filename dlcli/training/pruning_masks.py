"""Pruning masks: zeros of weights that stay zero while the others train."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dlcli.card import TransformRecord
from dlcli.errors import DlcliError
from dlcli.transforms import MASK


class Masks:
    """Masks of the zeros of some weights: ``take`` reads them from the weights, ``hold`` applies them.

    Momentum and gradients move a zero, so masks are applied after every update.
    """

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self._weights = list(weights)
        self._zeros: list[torch.Tensor] = []

    def take(self) -> None:
        """Read the masks from the weights: at the start of a run, or after its state was restored."""
        self._zeros = [weight.detach() == 0 for weight in self._weights]

    @torch.no_grad()
    def hold(self) -> None:
        """Apply the masks."""
        for weight, zeros in zip(self._weights, self._zeros, strict=True):
            weight.masked_fill_(zeros, 0.0)  # a product could be -0.0, which sparse files store


def make_masks(module: nn.Module, transforms: Sequence[TransformRecord]) -> Masks | None:
    """The masks of a model whose card has pruned weights, else None.

    Raises: DlcliError where the model has no such weights: its zeros would not stay.
    """
    names = {name for record in transforms if record.kind == MASK for name in record.args["weights"]}
    if not names:
        return None
    parameters = dict(module.named_parameters())
    if missing := sorted(names - parameters.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DlcliError(
            f"the card names pruned weights that the model does not have: {missing[0]}{more}",
            hint="prune the model that this one was made from again",
        )
    return Masks([weight for name, weight in parameters.items() if name in names])
