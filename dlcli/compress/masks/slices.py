"""Methods that prune slices of weights, such as the filters of a convolution, without removing them."""

from __future__ import annotations

from typing import Literal

import torch

from dlcli.compress.masks.base import (
    SLICE_AMOUNTS,
    Weight,
    register_mask_method,
    without_embeddings,
)
from dlcli.errors import UsageError

_NORM_ORDERS = {"1": 1.0, "2": 2.0, "inf": float("inf")}


def _with_dim(weights: list[Weight], *, dim: int = 0) -> list[Weight]:
    """Return the weights with slices along ``dim``, but no outputs of the model.

    Raises: UsageError for a ``dim`` that no weight has.
    """
    weights = [w for w in without_embeddings(weights) if not (w.is_output and dim == 0)]
    with_dim = [w for w in weights if w.tensor.ndim > dim]
    if weights and not with_dim:
        ndim = max(w.tensor.ndim for w in weights)
        raise UsageError(f"--dim {dim}: the weights have {ndim} dimensions, 0 to {ndim - 1}")
    return with_dim


@register_mask_method("ln", ranking="layer", select=_with_dim, search_amounts=SLICE_AMOUNTS)
def ln(
    weight: Weight, generator: torch.Generator, *, norm: Literal["1", "2", "inf"] = "2", dim: int = 0
) -> torch.Tensor:
    """Return the norm of each slice along ``dim`` (Li et al., arXiv:1608.08710)."""
    others = [d for d in range(weight.tensor.ndim) if d != dim]
    tensor, order = weight.tensor, _NORM_ORDERS[norm]
    norms: torch.Tensor = torch.linalg.vector_norm(tensor, ord=order, dim=others, keepdim=True)
    return norms
