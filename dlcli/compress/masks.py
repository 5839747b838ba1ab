"""Unstructured pruning: masks that set weights to zero, by torch.nn.utils.prune.

Shapes stay as they are, so a mask makes no model faster; stored sparse (`formats/encodings/sparse.py`)
the file is smaller. Weights are the parameters of two or more dimensions: those of linear, convolution,
recurrent, attention and embedding layers; never biases and norms.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import prune

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.layer_names import match_layers
from dlcli.errors import DlcliError, UsageError

MaskMethod = Literal["l1", "random", "global-l1", "global-random", "ln", "semi-structured"]
METHODS: tuple[MaskMethod, ...] = (
    "l1", "random", "global-l1", "global-random", "ln", "semi-structured",
)  # fmt: skip
GROUP = 4  # of 2:4 sparsity: two of four neighbours along the input are kept
_NORM_ORDERS = {"1": 1.0, "2": 2.0, "inf": float("inf")}


@dataclass(frozen=True)
class MaskedWeight:
    """A weight after pruning: the parameter's name, its nonzero values (``kept``) and all of them."""

    name: str
    kept: int
    of: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class MaskedModel:
    """A masked copy of a model, its record and a row for each weight; ``left_out`` cannot be grouped."""

    module: nn.Module
    record: TransformRecord
    layers: tuple[MaskedWeight, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weight:
    """A parameter that masks may prune, and the module it belongs to."""

    owner: nn.Module
    attribute: str
    name: str  # in the model

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


def mask_weights(
    module: nn.Module,
    method: MaskMethod,
    amount: float,
    *,
    norm: Literal["1", "2", "inf"] = "2",
    dim: int = 0,
    skip: Sequence[str] = (),
    earlier: Sequence[str] = (),
    head: str = "",
    seed: int = 0,
) -> MaskedModel:
    """Return a copy of ``module`` (any device) with ``amount`` (0 to 1) of its weights zero; eval mode.

    "l1" and "random" prune each weight tensor, "global-..." all of them together; "ln" prunes slices
    along ``dim``, those of the lowest ``norm`` (Li et al., arXiv:1608.08710), but no outputs of the last
    layer in ``head``; "semi-structured" keeps the two largest of four neighbours along the input (Mishra
    et al., arXiv:2104.08378), whatever ``amount``. Existing zeros count and stay. ``earlier`` are the
    weights pruned before, which the record still names. Deterministic for a seed. Raises: UsageError for
    a pattern of ``skip`` that matches nothing or a ``dim`` that no weight has; DlcliError when there are
    no weights to prune.
    """
    pruned = copy.deepcopy(module).eval()
    weights, left_out = _select(list(weights_of(pruned)), method, dim=dim, skip=skip, head=head)
    with torch.no_grad():
        if method == "ln":
            masks = [_slices(weight, amount, _NORM_ORDERS[norm], dim) for weight in weights]
        elif method == "semi-structured":
            masks = [_two_of_four(weight) for weight in weights]
        else:
            masks = _elements(weights, method, amount, torch.Generator().manual_seed(seed))
        for weight, mask in zip(weights, masks, strict=True):
            prune.custom_from_mask(weight.owner, weight.attribute, mask)  # type: ignore[no-untyped-call]
            prune.remove(weight.owner, weight.attribute)  # type: ignore[no-untyped-call]
            weight.tensor.masked_fill_(weight.tensor == 0, 0.0)  # a mask times a negative is -0.0
    names = {weight.name for weight in weights} | set(earlier)
    rows = tuple(
        MaskedWeight(weight.name, int(torch.count_nonzero(weight.tensor)), weight.tensor.numel())
        for weight in weights_of(pruned)
        if weight.name in names
    )
    ln_args = {"norm": norm, "dim": dim} if method == "ln" else {}
    record = mask_record(rows, method=method, amount=amount, **ln_args)
    return MaskedModel(pruned, record, rows, left_out)


def mask_record(rows: Sequence[MaskedWeight], **args: Any) -> TransformRecord:
    """Return the record of masks: the weights by name, their zeros and their number of values."""
    total = sum(row.of for row in rows)
    zeros = total - sum(row.kept for row in rows)
    names = [row.name for row in rows]
    return TransformRecord(
        kind=transforms.MASK, args={**args, "weights": names, "zeros": zeros, "of": total}
    )


def count_zeros(module: nn.Module, names: Sequence[str]) -> tuple[MaskedWeight, ...]:
    """Return the rows of named weights as they are now."""
    parameters = dict(module.named_parameters())
    return tuple(
        MaskedWeight(name, int(torch.count_nonzero(parameters[name].detach())), parameters[name].numel())
        for name in names
        if name in parameters
    )


def weights_of(module: nn.Module) -> Iterator[Weight]:
    """Yield the weights that masks may prune, each once, also when several layers share it."""
    seen: set[int] = set()
    for path, owner in module.named_modules():
        if isinstance(owner, nn.LayerNorm | nn.RMSNorm):
            continue
        for attribute, parameter in owner.named_parameters(recurse=False):
            if parameter.ndim < 2 or "weight" not in attribute or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            yield Weight(owner, attribute, f"{path}.{attribute}" if path else attribute)


def _select(
    weights: list[Weight], method: MaskMethod, *, dim: int, skip: Sequence[str], head: str
) -> tuple[list[Weight], tuple[str, ...]]:
    """Return the weights that a method prunes, and the names of those whose size does not divide."""
    skipped = match_layers(dict.fromkeys(weight.layer for weight in weights), skip)
    weights = [weight for weight in weights if weight.layer not in skipped]
    left_out: tuple[str, ...] = ()
    if method in ("ln", "semi-structured"):  # a row of an embedding is a token, no channel
        weights = [w for w in weights if not isinstance(w.owner, nn.Embedding | nn.EmbeddingBag)]
    if method == "ln":
        outputs = [w for w in weights if dim == 0 and f"{w.name}.".startswith(f"{head}.")]
        weights = [w for w in weights if w not in outputs[-1:]]  # a row of the last layer is a class
        with_dim = [w for w in weights if w.tensor.ndim > dim]
        if weights and not with_dim:
            ndim = max(w.tensor.ndim for w in weights)
            raise UsageError(f"--dim {dim}: the weights have {ndim} dimensions, 0 to {ndim - 1}")
        weights = with_dim
    elif method == "semi-structured":
        left_out = tuple(w.name for w in weights if w.tensor.shape[_input_dim(w)] % GROUP)
        weights = [w for w in weights if w.name not in left_out]
    if not weights:
        reason = (
            f": the inputs of {', '.join(left_out[:3])} do not divide by {GROUP}"
            if left_out
            else " by this method"
        )
        raise DlcliError(
            f"the model has no weights to prune{reason}", hint="try another --method or --skip"
        )
    return weights, left_out


def _input_dim(weight: Weight) -> int:
    return 0 if isinstance(weight.owner, _ConvTransposeNd) else 1


def _elements(
    weights: Sequence[Weight], method: MaskMethod, amount: float, generator: torch.Generator
) -> list[torch.Tensor]:
    """Return a mask for each weight, without its smallest or random values, or the smallest of all."""
    sizes = [weight.tensor.numel() for weight in weights]
    if method.endswith("random"):
        # Existing zeros have the lowest score: they stay zero, and count.
        scores = [torch.rand(n, generator=generator) + 1 for n in sizes]
        scores = [
            s.to(w.tensor.device) * w.tensor.ne(0).flatten()
            for s, w in zip(scores, weights, strict=True)
        ]
    else:
        scores = [weight.tensor.abs().flatten() for weight in weights]
    if method.startswith("global"):
        masks = list(_without_lowest(torch.cat(scores), amount).split(sizes))  # type: ignore[no-untyped-call]
    else:
        masks = [_without_lowest(score, amount) for score in scores]
    return [mask.view_as(weight.tensor) for mask, weight in zip(masks, weights, strict=True)]


def _without_lowest(scores: torch.Tensor, amount: float) -> torch.Tensor:
    """Return 0 for the lowest scores (n,), ``amount`` of them but never all, and 1 for the others."""
    total = len(scores)
    pruned = min(round(amount * total), total - 1)
    k = min(pruned, total - pruned)  # the time of topk grows with k
    indices = scores.topk(k, largest=k != pruned).indices
    mask = torch.full_like(scores, 1.0 if k == pruned else 0.0)
    return mask.index_fill_(0, indices, 0.0 if k == pruned else 1.0)


def _slices(weight: Weight, amount: float, order: float, dim: int) -> torch.Tensor:
    """Return a mask without the slices of the lowest norm; one always stays."""
    tensor = weight.tensor
    others = [d for d in range(tensor.ndim) if d != dim]
    norms = torch.linalg.vector_norm(tensor, ord=order, dim=others)
    mask = _without_lowest(norms, amount)
    return mask.view([-1 if d == dim else 1 for d in range(tensor.ndim)]).expand_as(tensor)


def _two_of_four(weight: Weight) -> torch.Tensor:
    """Return a mask of the two largest of each four neighbours along the input."""
    magnitudes = weight.tensor.abs().movedim(_input_dim(weight), -1)  # (..., inputs)
    groups = magnitudes.reshape(*magnitudes.shape[:-1], -1, GROUP)
    mask = torch.zeros_like(groups).scatter_(-1, groups.topk(GROUP // 2, dim=-1).indices, 1)
    return mask.reshape(magnitudes.shape).movedim(-1, _input_dim(weight))
